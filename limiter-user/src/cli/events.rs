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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Action;
    use crate::control::protocol::Happened;

    #[test]
    fn an_event_is_a_line() {
        let check = |event: Event, expected: &str| {
            let mut out = Vec::new();
            line(&mut out, &event).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("2026-01-01T12:00:00Z {expected}\n"));
        };
        let event = |event| Event {
            at: "2026-01-01T12:00:00Z".to_owned(),
            event,
            action: Action::Block,
            count: 2,
            prefixes: vec!["192.0.2.7".to_owned(), "2001:db8::/32".to_owned()],
            owner: None,
            actor: None,
            reason: None,
            expires: None,
            why: None,
        };
        check(event(Happened::Expired), "block expired 192.0.2.7 2001:db8::/32");
        check(
            Event { count: 22, ..event(Happened::Removed) },
            "block removed 192.0.2.7 2001:db8::/32 and 20 more",
        );
        check(Event { prefixes: Vec::new(), ..event(Happened::Expired) }, "block expired 2 more");
        let added = Event {
            action: Action::Allow,
            owner: Some("app:shop".to_owned()),
            actor: Some("token:k3f7a2xq".to_owned()),
            expires: Some("2026-01-01T13:00:00Z".to_owned()),
            reason: Some("a \"b\"\n\u{1b}[31m".to_owned()),
            ..event(Happened::Added)
        };
        check(
            added,
            r#"allow added 192.0.2.7 2001:db8::/32 owner=app:shop actor=token:k3f7a2xq until=2026-01-01T13:00:00Z reason="a \"b\"\n\u{1b}[31m""#,
        );
        let refused = Event { why: Some("192.0.2.7 is protected".to_owned()), ..event(Happened::Refused) };
        check(refused, r#"block refused 192.0.2.7 2001:db8::/32 why="192.0.2.7 is protected""#);
    }
}
