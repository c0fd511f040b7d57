//! `block` and `allow`: add, remove, list, export.

use std::io::{self, BufRead, Write};

use limiter_common::Prefix;
use limiter_common::prefix::InvalidPrefix;

use crate::cli::Session;
use crate::cli::args::{Add, Remove, Source};
use crate::cli::failure::{Exit, Failure, Stop};
use crate::cli::render::{self, counted};
use crate::config::Action;
use crate::control::protocol::{AddRequest, AddResponse, RemoveRequest};

/// Owner of what was asked for on the command line.
const OPERATOR: &str = "operator";

pub(super) async fn add(session: &mut Session<impl Write>, action: Action, add: &Add) -> Result<Exit, Stop> {
    let prefixes = prefixes(&add.addresses)?;
    if prefixes.is_empty() {
        // Standard input had none: a feed that is empty today is no mistake.
        if session.json {
            session.json(&AddResponse::default())?;
        } else {
            writeln!(session.out, "nothing to do")?;
        }
        return Ok(Exit::Ok);
    }
    let request = AddRequest {
        prefixes,
        seconds: add.lifetime.seconds(),
        escalate: false,
        reason: add.reason.clone(),
        force: add.force,
        ssh_peer: session.ssh_peer.clone(),
        owner: None,
    };
    let done = session.client.add(action, &request).await?;
    if session.json {
        session.json(&done)?;
        return Ok(Exit::Ok);
    }
    let sentence = [(done.added, "added"), (done.updated, "updated"), (done.unchanged, "unchanged")]
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{} {what}", render::grouped(*number)))
        .collect::<Vec<_>>();
    let sentence = if sentence.is_empty() { "nothing to do".to_owned() } else { sentence.join(", ") };
    writeln!(session.out, "{sentence}")?;
    for prefix in &done.shadowed_by_allow {
        writeln!(io::stderr(), "limiter: {prefix} is also allowed, so it is not dropped")?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn remove(
    session: &mut Session<impl Write>,
    action: Action,
    remove: &Remove,
) -> Result<Exit, Stop> {
    let request = RemoveRequest { prefixes: prefixes(&remove.addresses)?, ..RemoveRequest::default() };
    let done = session.client.remove(action, &request).await?;
    if session.json {
        session.json(&done)?;
    } else {
        writeln!(session.out, "{}", counted(done.removed, "removed", "removed"))?;
        for prefix in &done.still_listed {
            writeln!(io::stderr(), "limiter: still listed: {}", render::printable(prefix))?;
        }
        for prefix in &done.missing {
            writeln!(io::stderr(), "limiter: not there: {}", render::printable(prefix))?;
        }
    }
    Ok(if done.missing.is_empty() { Exit::Ok } else { Exit::NotFound })
}

pub(super) async fn list(session: &mut Session<impl Write>, action: Action) -> Result<Exit, Stop> {
    let mut lines = session.client.list(action).await?;
    if !session.json {
        render::list_heading(&mut session.out, session.palette, action)?;
    }
    while let Some(claims) = lines.next().await? {
        let now = jiff::Timestamp::now();
        for claim in claims {
            if session.json {
                session.json(&claim)?;
            } else {
                render::list_row(&mut session.out, session.palette, &claim, now)?;
            }
        }
        // What has arrived is shown, also if the next piece takes a while.
        session.out.flush()?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn export(session: &mut Session<impl Write>) -> Result<Exit, Stop> {
    if session.json {
        return list(session, Action::Block).await;
    }
    let mut lines = session.client.list(Action::Block).await?;
    while let Some(claims) = lines.next().await? {
        for claim in claims.iter().filter(|claim| claim.owner == OPERATOR) {
            render::export_row(&mut session.out, claim)?;
        }
    }
    Ok(Exit::Ok)
}

/// The prefixes that were written, those on standard input in place of `-`.
fn prefixes(sources: &[Source]) -> Result<Vec<String>, Stop> {
    let mut prefixes = Vec::with_capacity(sources.len());
    let mut bad = Vec::new();
    for source in sources {
        match source {
            Source::Prefix(prefix) => prefixes.push(prefix.to_string()),
            Source::Stdin => {
                for (line, number) in io::stdin().lock().lines().zip(1u64..) {
                    let line = line.map_err(|error| {
                        Failure::failed(format_args!("cannot read standard input: {error}"))
                    })?;
                    match parse_line(&line) {
                        Ok(Some(prefix)) => prefixes.push(prefix.to_string()),
                        Ok(None) => {}
                        Err(error) => bad.push(format!("line {number}: {error}: {line}")),
                    }
                }
            }
        }
    }
    if bad.is_empty() {
        return Ok(prefixes);
    }
    let message = format!("{} on standard input", counted(bad.len() as u64, "bad line", "bad lines"));
    Err(Failure { items: bad, ..Failure::usage(message) }.into())
}

/// As in files of lists: `#` and `;` start comments.
fn parse_line(line: &str) -> Result<Option<Prefix>, InvalidPrefix> {
    let text = line.split(['#', ';']).next().unwrap_or_default().trim();
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}
