//! Tokens for people.

use std::borrow::Cow;
use std::io::{self, Write};

use super::{Palette, ago, printable};
use crate::control::protocol::{Token, TokenList};
use crate::duration::rough;

pub(in crate::cli) fn tokens(
    out: &mut impl Write,
    palette: Palette,
    list: &TokenList,
    now: jiff::Timestamp,
) -> io::Result<()> {
    let line = format!("{:<9} {:<18} {:<14} {:<12} SCOPES", "ID", "NAME", "EXPIRES", "USED");
    writeln!(out, "{}", palette.heading(line))?;
    for token in &list.tokens {
        let used = token.last_used.as_deref().map_or(Cow::Borrowed("never"), |used| ago(used, now));
        write!(out, "{:<9} {:<18} ", printable(&token.id), printable(&token.name))?;
        let expires = format!("{:<14}", expires(token, now));
        let over = token.revoked.is_some() || expires.trim_end() == "expired";
        if over {
            write!(out, "{}", palette.warning(expires))?;
        } else {
            out.write_all(expires.as_bytes())?;
        }
        writeln!(out, " {used:<12} {}", printable(&held_to(token)))?;
    }
    Ok(())
}

/// What is said beside a token that was just made.
pub(in crate::cli) fn new_token(out: &mut impl Write, token: &Token) -> io::Result<()> {
    writeln!(
        out,
        "limiter: token {} ({}) for {}; it is shown only this once: keep it in a file that nobody else can read",
        printable(&token.id),
        printable(&token.name),
        printable(&held_to(token))
    )?;
    match &token.former_until {
        Some(until) => writeln!(out, "limiter: the former secret is good until {}", printable(until)),
        None => Ok(()),
    }
}

fn expires(token: &Token, now: jiff::Timestamp) -> String {
    if token.revoked.is_some() {
        return "revoked".to_owned();
    }
    let Some(expires) = &token.expires else { return "never".to_owned() };
    let Ok(time) = expires.parse::<jiff::Timestamp>() else { return printable(expires).into_owned() };
    match u64::try_from(time.as_second().saturating_sub(now.as_second())) {
        Ok(left) if left > 0 => format!("in {}", rough(left)),
        _ => "expired".to_owned(),
    }
}

/// `report block:host, at most 1h 0m, /32, 1000/min, from 10.0.0.0/8`.
fn held_to(token: &Token) -> String {
    let mut said = vec![token.scopes.join(" ")];
    said.extend(token.max_seconds.map(|seconds| format!("at most {}", rough(seconds))));
    said.extend(token.max_prefix.map(|length| format!("/{length} or narrower")));
    said.extend(token.per_minute.map(|number| format!("{number}/min")));
    if !token.from.is_empty() {
        said.push(format!("from {}", token.from.join(" ")));
    }
    said.join(", ")
}
