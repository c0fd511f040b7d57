//! A configuration that has to be confirmed: how it comes, is kept, and goes.

use std::sync::Arc;
use std::time::Duration;

use super::pending::{Confirmation, TooLate};
use super::reload::{Cause, ReloadReply, Taken};
use super::source::keep_fixed;
use super::unconfirmed::{self, Unconfirmed, WHAT};
use super::{Daemon, service};
use crate::audit::{self, Trail};
use crate::control::protocol::{Problem, ProblemKind, UnconfirmedChange};
use crate::control::server::ToConfirm;
use crate::host;

/// What the daemon waits for the audit trail; with a disk that hangs, the record is written when it goes on.
const ON_RECORD: Duration = Duration::from_secs(2);

impl Daemon {
    /// Reads the configuration, for so long as nobody confirms it.
    pub(super) fn begin_reload_to_confirm(&mut self, asked: &ToConfirm, reply: ReloadReply) {
        let refusal = if self.under_way {
            Some((ProblemKind::Busy, 503, "a reload is under way; try again in a moment".to_owned()))
        } else {
            self.pending.waits().map(|change| {
                let detail = format!(
                    "the configuration in force, change {}, has to be confirmed first; nothing was changed",
                    change.id
                );
                (ProblemKind::Invalid, 409, detail)
            })
        };
        if let Some((kind, status, detail)) = refusal {
            let _ = reply.send(Err(problem(kind, status, detail)));
            return;
        }
        service::reloading();
        let (config, text) = match tokio::task::block_in_place(|| self.source.load()) {
            Ok(loaded) => loaded,
            Err(problems) => return self.refuse_reload(vec![Some(reply)], Self::not_understood(problems)),
        };
        if text == self.text {
            // Only the files that it names are read again.
            return self.reload_text(
                config,
                Taken { text, confirmation: Confirmation::NotNeeded },
                vec![Some(reply)],
            );
        }
        let refused = if config.state_directory == self.config.state_directory {
            let change = Unconfirmed::new(&asked.actor, asked.seconds, &self.text, &text, host::now());
            match self.keep(&change) {
                Ok(()) => {
                    let taken = Taken { text, confirmation: Confirmation::Wanted(change) };
                    return self.reload_text(config, taken, vec![Some(reply)]);
                }
                Err(error) => {
                    format!("what is in force now cannot be kept, so it could not come back: {error}")
                }
            }
        } else {
            "[state] directory is another one, and what is in force now is kept in there; reload without --confirm"
                .to_owned()
        };
        self.refuse_reload(vec![Some(reply)], problem(ProblemKind::NotDurable, 507, refused));
    }

    /// The time of a configuration is over. The one before comes back as a reload, with the lists of this moment.
    pub(super) fn roll_configuration_back(&mut self) {
        if self.under_way {
            self.pending.roll_back_later();
            return;
        }
        let Some(change) = self.pending.begin_rollback() else { return };
        match self.source.parse(&change.former) {
            Ok(config) => {
                service::reloading();
                let taken = Taken { text: change.former, confirmation: Confirmation::Missed };
                self.reload_text(config, taken, Vec::new());
            }
            Err(problems) => {
                self.pending.rollback_failed();
                self.refuse_reload(Vec::new(), Self::not_understood(problems));
            }
        }
    }

    /// Keeps the configuration, if it is change `id` that waits.
    pub(super) fn confirm_configuration(&mut self, id: u64) -> Result<Option<UnconfirmedChange>, Problem> {
        let refused = |kind, status, detail| Problem {
            title: "not confirmed".to_owned(),
            ..problem(kind, status, detail)
        };
        let change = self.pending.to_confirm(id).map_err(|TooLate| {
            let detail = "too late: its time is over, and the configuration before it is being put in force; see \
                          limiter status";
            refused(ProblemKind::Busy, 503, detail.to_owned())
        })?;
        let Some(told) = change.map(Unconfirmed::told) else { return Ok(None) };
        unconfirmed::forget(&self.config.state_directory).map_err(|error| {
            let detail = format!("not confirmed, since that could not be kept: {error}");
            refused(ProblemKind::NotDurable, 507, detail)
        })?;
        self.pending.set(None, host::now().boot);
        Ok(Some(told))
    }

    /// Reloads with this configuration; then `taken` is in force.
    pub(super) fn reload_text(
        &mut self,
        config: crate::config::Config,
        taken: Taken,
        replies: Vec<Option<ReloadReply>>,
    ) {
        let (config, needs_restart) = keep_fixed(&self.config, config);
        let cause = Cause::Configuration { needs_restart, replies, taken };
        self.reload_lists(Arc::new(config), cause);
    }

    /// Stores what is not confirmed, or was not in time.
    pub(super) fn keep(&self, change: &Unconfirmed) -> std::io::Result<()> {
        let directory = &self.config.state_directory;
        tokio::task::block_in_place(|| change.write(directory, self.boot, host::now()))
    }

    /// Puts on record that it was rolled back, and then into the state: killed in between, the next start does it again.
    pub(super) async fn rolled_back(&self) {
        let Some(change) = self.pending.change() else { return };
        put_on_record(&self.trail, change).await;
        if let Err(error) = self.keep(change) {
            tracing::warn!("that the configuration was rolled back is not stored: {error}");
        }
    }

    /// A sentence for the status, if the configuration is not what the disk says, or may not stay.
    pub(super) fn confirmation(&self) -> Option<String> {
        let change = self.pending.change()?;
        let left = change.ends.saturating_sub(host::now().boot).0.div_ceil(1_000_000_000);
        Some(match change.is_over {
            false => format!(
                "the configuration is rolled back in {left} s unless somebody keeps it: limiter confirm {}",
                change.id
            ),
            true => self.not_confirmed(),
        })
    }

    pub(super) fn not_confirmed(&self) -> String {
        "the configuration on the disk was not confirmed in time, and is not in force; the one before is. Change it and reload, \
         or try it again: limiter reload --confirm 60s"
            .to_owned()
    }
}

async fn put_on_record(trail: &Trail, change: &Unconfirmed) {
    let what = format!("{WHAT}.rollback");
    let reason = format!("{} did not confirm it in time", change.actor);
    let event = audit::Event {
        actor: audit::DAEMON,
        owner: "operator",
        what: &what,
        subjects: &[change.id.to_string()],
        count: 1,
        reason: Some(&reason),
        ..audit::Event::default()
    };
    // It is queued at once.
    if tokio::time::timeout(ON_RECORD, trail.record(event, host::now().wall)).await.is_err() {
        tracing::warn!("the audit trail takes long to write that the configuration was rolled back");
    }
}

fn problem(kind: ProblemKind, status: u16, detail: String) -> Problem {
    Problem { kind, title: "not reloaded".to_owned(), status, detail, items: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trail_that_hangs_does_not_hold_the_daemon_up() {
        let (trail, _hangs) = Trail::hung();
        let change = Unconfirmed::new("uid:0", 60, "former", "tried", host::now());
        let recording = put_on_record(&trail, &change);
        tokio::time::timeout(2 * ON_RECORD, recording).await.expect("the daemon goes on");
    }
}
