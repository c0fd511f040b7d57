//! `confirm`.

use std::io::Write;

use crate::cli::Session;
use crate::cli::failure::{Exit, Stop};
use crate::cli::render::{counted, printable};
use crate::control::protocol::UnconfirmedChange;
use crate::duration::rough;

/// Keeps the change `id`, or lists those that wait.
pub(super) async fn confirm(session: &mut Session<impl Write>, id: Option<u64>) -> Result<Exit, Stop> {
    let Some(id) = id else {
        let list = session.client.changes().await?;
        if session.json {
            session.json(&list)?;
        } else {
            for UnconfirmedChange { id, what, owner, actor, claims, seconds_left } in &list.changes {
                let (what, owner, actor) = (printable(what), printable(owner), printable(actor));
                let left = rough(*seconds_left);
                // A configuration has none.
                let claims = match claims {
                    0 => String::new(),
                    claims => format!("{}, ", counted(*claims, "claim", "claims")),
                };
                writeln!(
                    session.out,
                    "{} {what} by {owner} ({actor}): {claims}rolled back in {left}",
                    printable(id)
                )?;
            }
        }
        return Ok(Exit::Ok);
    };
    let change = session.client.confirm(id).await?;
    if session.json {
        session.json(&change)?;
    } else {
        let of = match change.claims {
            0 => String::new(),
            claims => format!(" of {}", counted(claims, "claim", "claims")),
        };
        writeln!(session.out, "confirmed: {}{of}", printable(&change.what))?;
    }
    Ok(Exit::Ok)
}
