//! `block` and `allow`: add, remove, list, export.

use std::io::{self, BufRead, IsTerminal, Write};

use limiter_common::Prefix;
use limiter_common::prefix::InvalidPrefix;

use crate::blocklist::Owner;
use crate::cli::Session;
use crate::cli::args::{Add, Length, Remove, Source};
use crate::cli::failure::{Exit, Failure, Stop};
use crate::cli::render::{self, counted};
use crate::config::Action;
use crate::control::client::ClientError;
use crate::control::protocol::{AddRequest, AddResponse, Escalated, RemoveRequest};
use crate::duration::{Lifetime, rough};

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
    let (seconds, escalate) = match add.length {
        Length::For(lifetime) => (lifetime.seconds(), false),
        Length::Escalate if action == Action::Block => (None, true),
        Length::Escalate => return Err(Failure::usage("--for escalate is for blocks").into()),
    };
    let request = AddRequest {
        prefixes,
        seconds,
        escalate,
        reason: add.reason.clone(),
        force: add.force,
        ssh_peer: session.ssh_peer.clone(),
        owner: add.owner.as_ref().map(ToString::to_string),
        dry_run: add.dry_run,
        confirm_seconds: seconds_of(add.confirm)?,
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
    writeln!(session.out, "{}{sentence}", render::rehearsed(done.dry_run))?;
    render::cuts(&mut session.out, session.palette, done.cuts)?;
    render::to_confirm(&mut session.out, done.change.as_deref())?;
    for Escalated { prefix, level, seconds } in &done.escalated {
        writeln!(session.out, "{} for {}, level {level}", render::printable(prefix), rough(*seconds))?;
    }
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
    let owner = remove.owner.as_ref().map(ToString::to_string);
    let request = if remove.all {
        let claims = count(session, action, remove.owner.as_ref()).await?;
        if !remove.yes && !remove.dry_run {
            confirm(action, claims, owner.as_deref().unwrap_or_default())?;
        }
        let (expected, dry_run) = (Some(claims), remove.dry_run);
        let confirm_seconds = seconds_of(remove.confirm)?;
        RemoveRequest { owner, all: true, expected, dry_run, confirm_seconds, ..RemoveRequest::default() }
    } else {
        let prefixes = prefixes(&remove.addresses)?;
        let Remove { all_owners, dry_run, .. } = *remove;
        let confirm_seconds = seconds_of(remove.confirm)?;
        RemoveRequest { prefixes, owner, all_owners, dry_run, confirm_seconds, ..RemoveRequest::default() }
    };
    let done = session.client.remove(action, &request).await?;
    if session.json {
        session.json(&done)?;
    } else {
        let dry_run = render::rehearsed(done.dry_run);
        writeln!(session.out, "{dry_run}{}", counted(done.removed, "removed", "removed"))?;
        render::cuts(&mut session.out, session.palette, done.cuts)?;
        render::to_confirm(&mut session.out, done.change.as_deref())?;
        for prefix in &done.still_listed {
            writeln!(io::stderr(), "limiter: still listed: {}", render::printable(prefix))?;
        }
        for prefix in &done.missing {
            writeln!(io::stderr(), "limiter: not there: {}", render::printable(prefix))?;
        }
    }
    Ok(if done.missing.is_empty() { Exit::Ok } else { Exit::NotFound })
}

/// The time of `--confirm`.
pub(super) fn seconds_of(confirm: Option<Lifetime>) -> Result<Option<u64>, Stop> {
    match confirm.map(Lifetime::seconds) {
        Some(None) => Err(Failure::usage("--confirm needs a time, like 60s").into()),
        Some(seconds) => Ok(seconds),
        None => Ok(None),
    }
}

/// How many claims `owner` has.
async fn count(
    session: &Session<impl Write>,
    action: Action,
    owner: Option<&Owner>,
) -> Result<u64, ClientError> {
    let mut lines = session.client.list(action, owner).await?;
    let mut count = 0;
    while let Some(claims) = lines.next().await? {
        count += claims.len() as u64;
    }
    Ok(count)
}

/// Asks whoever sits at the terminal.
fn confirm(action: Action, claims: u64, owner: &str) -> Result<(), Stop> {
    let what = match action {
        Action::Block => counted(claims, "block", "blocks"),
        Action::Allow => counted(claims, "allow", "allows"),
    };
    if !io::stdin().is_terminal() {
        let message = format!("this would remove {what} of {owner}; say --yes to do it without being asked");
        return Err(Failure::usage(message).into());
    }
    write!(io::stderr(), "remove {what} of {owner}? [y/N] ")?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::failed(format_args!("cannot read the answer: {error}")))?;
    if line.trim().eq_ignore_ascii_case("y") {
        return Ok(());
    }
    Err(Failure::failed("nothing was changed").into())
}

pub(super) async fn list(
    session: &mut Session<impl Write>,
    action: Action,
    owner: Option<&Owner>,
) -> Result<Exit, Stop> {
    let mut lines = session.client.list(action, owner).await?;
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

pub(super) async fn export(session: &mut Session<impl Write>, owner: &Owner) -> Result<Exit, Stop> {
    if session.json {
        return list(session, Action::Block, None).await;
    }
    let mut lines = session.client.list(Action::Block, Some(owner)).await?;
    while let Some(claims) = lines.next().await? {
        for claim in &claims {
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
