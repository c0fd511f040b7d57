//! `events`.

use std::io::{self, Write};

use crate::cli::Session;
use crate::cli::failure::{Exit, Stop};
use crate::control::client::Heard;
use crate::control::protocol::{Event, Lagged};

/// Until the daemon stops, or whoever reads it has gone.
pub(super) async fn events(session: &mut Session<impl Write>) -> Result<Exit, Stop> {
    let mut events = session.client.events().await?;
    while let Some(heard) = events.next().await? {
        match (session.json, &heard) {
            (true, Heard::Event(event)) => session.json(event)?,
            (true, Heard::Lagged(lagged)) => session.json(lagged)?,
            (false, Heard::Event(event)) => line(&mut session.out, event)?,
            (false, Heard::Lagged(Lagged { missed })) => {
                writeln!(session.out, "{missed} events were missed")?
            }
        }
        session.out.flush()?;
    }
    Ok(Exit::Ok)
}

pub(super) fn line(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let Event { at, event: happened, action, count, prefixes, owner, actor, reason, expires, why } = event;
    write!(out, "{at} {} {} {}", action.label(), happened.label(), prefixes.join(" "))?;
    let untold = count.saturating_sub(u64::try_from(prefixes.len()).unwrap_or(u64::MAX));
    if untold > 0 {
        write!(out, "{}{untold} more", if prefixes.is_empty() { "" } else { " and " })?;
    }
    let fields = [("owner", owner), ("actor", actor), ("until", expires)];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        write!(out, " {name}={value}")?;
    }
    // Texts of others: control characters are escaped.
    for (name, value) in [("reason", reason), ("why", why)] {
        if let Some(value) = value {
            write!(out, " {name}={value:?}")?;
        }
    }
    writeln!(out)
}
