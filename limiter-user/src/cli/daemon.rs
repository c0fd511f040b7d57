//! `reload` and `detach`.

use std::io::Write;

use crate::cli::Session;
use crate::cli::args::Detach;
use crate::cli::failure::{Exit, Failure, Stop};
use crate::cli::lists::seconds_of;
use crate::cli::render::{self, printable};
use crate::control::client::ClientError;
use crate::control::protocol::{DetachRequest, Detached, ProblemKind, Reloaded};
use crate::dataplane::kernel;
use crate::duration::Lifetime;

pub(super) async fn reload(
    session: &mut Session<impl Write>,
    confirm: Option<Lifetime>,
) -> Result<Exit, Stop> {
    let reloaded = match seconds_of(confirm)? {
        None => session.client.reload().await?,
        Some(seconds) => session.client.reload_to_confirm(seconds).await?,
    };
    if session.json {
        session.json(&reloaded)?;
    } else if reloaded == Reloaded::default() {
        writeln!(session.out, "nothing changed")?;
    } else {
        for change in &reloaded.changes {
            writeln!(session.out, "{}", printable(change))?;
        }
        render::to_confirm(&mut session.out, reloaded.change.as_deref())?;
        for problem in &reloaded.problems {
            writeln!(std::io::stderr(), "limiter: {}", printable(problem))?;
        }
    }
    Ok(if reloaded.problems.is_empty() { Exit::Ok } else { Exit::Failed })
}

pub(super) async fn detach(session: &mut Session<impl Write>, args: Detach) -> Result<Exit, Stop> {
    if !args.offline {
        let request = DetachRequest { interfaces: args.interfaces.clone() };
        match session.client.detach(&request).await {
            Ok(detached) => {
                print(session, &detached)?;
                if !session.json && !detached.interfaces.is_empty() {
                    writeln!(
                        session.out,
                        "limiterd keeps off until it is reloaded or restarted; to keep it off for good, stop it or take \
                         the interface out of its configuration"
                    )?;
                }
                return Ok(Exit::Ok);
            }
            // Its pins are on that machine.
            Err(error) if session.client.is_remote() => return Err(error.into()),
            // Dead, or as good as dead.
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Silent { .. })) => {
                if matches!(error, ClientError::Silent { .. }) {
                    writeln!(std::io::stderr(), "limiter: {error}; detaching without it")?;
                }
            }
            // It starts or stops, or is too busy: there is no waiting for that.
            Err(ClientError::Refused(problem))
                if matches!(problem.kind, ProblemKind::Busy | ProblemKind::Unavailable) =>
            {
                writeln!(std::io::stderr(), "limiter: {}; detaching without it", printable(&problem.detail))?;
            }
            Err(
                error @ (ClientError::Denied { .. }
                | ClientError::Untrusted { .. }
                | ClientError::Refused(_)
                | ClientError::Broken(_)
                | ClientError::Input(_)),
            ) => return Err(error.into()),
        }
    }
    without_daemon(session, &args)
}

/// By the pins alone.
fn without_daemon(session: &mut Session<impl Write>, args: &Detach) -> Result<Exit, Stop> {
    if !rustix::process::geteuid().is_root() {
        let message = "limiterd cannot be asked, and without it only root can detach; try sudo";
        return Err(Failure::new(Exit::NotAuthorised, message).into());
    }
    let done = kernel::detach(&args.pins, &args.interfaces)
        .map_err(|error| Failure::failed(format_args!("cannot detach: {error:#}")))?;
    if let Some(daemon) = done.daemon {
        let pid = daemon.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let warning =
            format_args!("limiterd is running{pid} and may protect the interfaces again; stop it first");
        writeln!(std::io::stderr(), "limiter: {warning}")?;
    }
    let missing: Vec<_> =
        args.interfaces.iter().filter(|name| !done.interfaces.contains(name)).cloned().collect();
    print(session, &Detached { interfaces: done.interfaces })?;
    if !done.problems.is_empty() {
        return Err(Failure::failed(format_args!("cannot detach: {}", done.problems.join("; "))).into());
    }
    if missing.is_empty() {
        return Ok(Exit::Ok);
    }
    let message =
        format_args!("nothing of limiter is on {} according to {}", missing.join(", "), args.pins.display());
    Err(Failure::new(Exit::NotFound, message).into())
}

fn print(session: &mut Session<impl Write>, detached: &Detached) -> Result<(), Stop> {
    if session.json {
        return session.json(detached);
    }
    if detached.interfaces.is_empty() {
        writeln!(session.out, "nothing was attached")?;
    }
    for name in &detached.interfaces {
        writeln!(session.out, "detached from {}", printable(name))?;
    }
    Ok(())
}
