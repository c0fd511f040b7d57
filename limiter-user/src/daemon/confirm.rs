//! A configuration that has to be confirmed: how it comes, is kept, and goes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::reload::{Cause, ReloadReply, Taken};
use super::source::keep_fixed;
use super::unconfirmed::{self, Unconfirmed, WHAT};
use super::{Daemon, service};
use crate::audit;
use crate::control::protocol::{Problem, ProblemKind, UnconfirmedChange};
use crate::control::server::ToConfirm;
use crate::host;

/// Between two attempts to roll back.
const PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Reads the configuration, for so long as nobody confirms it.
    pub(super) fn begin_reload_to_confirm(&mut self, asked: &ToConfirm, reply: ReloadReply) {
        let refusal = if self.under_way {
            Some((ProblemKind::Busy, 503, "a reload is under way; try again in a moment".to_owned()))
        } else {
            let waits = self.unconfirmed.as_ref().filter(|change| !change.is_over);
            waits.map(|change| {
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
            return self.reload_text(config, Taken { text, unconfirmed: None }, vec![Some(reply)], false);
        }
        let refused = if config.state_directory == self.config.state_directory {
            let change = Unconfirmed::new(&asked.actor, asked.seconds, &self.text, &text, host::now());
            match self.keep(&change) {
                Ok(()) => {
                    let taken = Taken { text, unconfirmed: Some(change) };
                    return self.reload_text(config, taken, vec![Some(reply)], false);
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
        self.roll_back_at = Some(Instant::now() + PAUSE);
        let Some(change) = self.unconfirmed.clone().filter(|change| !change.is_over) else {
            self.roll_back_at = None;
            return;
        };
        if self.under_way {
            return;
        }
        tracing::warn!("the configuration was not confirmed in time: the one before comes back");
        match self.source.parse(&change.former) {
            Ok(config) => {
                let text = change.former.clone();
                let mut over = change;
                over.is_over = true;
                // A restart would find its time over, anyway.
                if let Err(error) = self.keep(&over) {
                    tracing::warn!("that the configuration was rolled back is not stored: {error}");
                }
                service::reloading();
                self.reload_text(config, Taken { text, unconfirmed: Some(over) }, Vec::new(), true);
            }
            Err(problems) => self.refuse_reload(Vec::new(), Self::not_understood(problems)),
        }
    }

    /// Keeps the configuration, if it is change `id` that waits.
    pub(super) fn confirm_configuration(&mut self, id: u64) -> Result<Option<UnconfirmedChange>, Problem> {
        let Some(change) = self.unconfirmed.as_ref().filter(|change| change.id == id && !change.is_over)
        else {
            return Ok(None);
        };
        let told = change.told();
        unconfirmed::forget(&self.config.state_directory).map_err(|error| {
            let detail = format!("not confirmed, since that could not be kept: {error}");
            problem(ProblemKind::NotDurable, 507, detail)
        })?;
        self.await_confirmation(None);
        Ok(Some(told))
    }

    /// Reloads with this configuration; then `taken` is in force.
    pub(super) fn reload_text(
        &mut self,
        config: crate::config::Config,
        taken: Taken,
        replies: Vec<Option<ReloadReply>>,
        rolls_back: bool,
    ) {
        let (config, needs_restart) = keep_fixed(&self.config, config);
        let cause = Cause::Configuration { needs_restart, replies, taken, rolls_back };
        self.reload_lists(Arc::new(config), cause);
    }

    /// From here on this is what waits for being confirmed, or was not in time.
    pub(super) fn await_confirmation(&mut self, change: Option<Unconfirmed>) {
        let waits = change.as_ref().filter(|change| !change.is_over);
        self.roll_back_at = waits.map(|change| {
            let left = change.ends.saturating_sub(host::now().boot);
            Instant::now() + Duration::from_nanos(left.0)
        });
        self.awaited.send_replace(waits.map(|change| (change.told(), change.ends)));
        self.unconfirmed = change;
    }

    /// Stores what is not confirmed, or that all is.
    pub(super) fn keep(&self, change: &Unconfirmed) -> std::io::Result<()> {
        let directory = &self.config.state_directory;
        tokio::task::block_in_place(|| change.write(directory, self.boot, host::now()))
    }

    /// Puts on record that it was rolled back.
    pub(super) async fn rolled_back(&self) {
        let Some(change) = &self.unconfirmed else { return };
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
        self.trail.record(event, host::now().wall).await;
        if let Err(error) = self.keep(change) {
            tracing::warn!("that the configuration was rolled back is not stored: {error}");
        }
    }

    /// A sentence for the status, if the configuration is not what the disk says, or may not stay.
    pub(super) fn confirmation(&self) -> Option<String> {
        let change = self.unconfirmed.as_ref()?;
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

fn problem(kind: ProblemKind, status: u16, detail: String) -> Problem {
    Problem { kind, title: "not reloaded".to_owned(), status, detail, items: Vec::new() }
}
