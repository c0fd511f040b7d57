//! Tables for people, from the types of the protocol. Pure: writes where it is told to.
//!
//! Whatever comes from elsewhere (reasons, names, messages) goes through [`printable`], so that nobody can steer the
//! operator's terminal.

mod tokens;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use crate::cli::packet::PacketKind;
use crate::config::Action;
use crate::control::protocol::{Claim, Counters, Explanation, Offence, ReasonCount, Status};
use crate::duration::rough;
pub(super) use tokens::{new_token, tokens};

/// Text without control characters and without marks that reorder what is shown (Unicode's bidirectional controls):
/// each becomes an escape.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if harmful(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Colours, if there is somebody to see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Palette {
    pub(super) enabled: bool,
}

impl Palette {
    pub(super) fn good<T: fmt::Display>(self, text: T) -> Painted<T> {
        self.paint("32", text)
    }

    pub(super) fn bad<T: fmt::Display>(self, text: T) -> Painted<T> {
        self.paint("31", text)
    }

    pub(super) fn warning<T: fmt::Display>(self, text: T) -> Painted<T> {
        self.paint("33", text)
    }

    pub(super) fn heading<T: fmt::Display>(self, text: T) -> Painted<T> {
        self.paint("1", text)
    }

    fn paint<T: fmt::Display>(self, code: &'static str, text: T) -> Painted<T> {
        Painted { code: self.enabled.then_some(code), text }
    }
}

/// A text in a colour (ECMA-48 SGR). Padding counts the text alone.
pub(super) struct Painted<T> {
    code: Option<&'static str>,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.to_string();
        let missing = f.width().unwrap_or(0).saturating_sub(text.chars().count());
        match self.code {
            Some(code) => write!(f, "\x1b[{code}m{text}\x1b[0m")?,
            None => f.write_str(&text)?,
        }
        write!(f, "{:missing$}", "")
    }
}

/// From here on a table's fill level is worth a colour, in percent.
const ALMOST_FULL: u64 = 85;

/// Columns of a list have fixed widths, since it streams; the free text comes last. Hits are those of blocks.
pub(super) fn list_heading(out: &mut impl Write, palette: Palette, action: Action) -> io::Result<()> {
    let hits = match action {
        Action::Block => format!("{:>12} {:<12} ", "HITS", "SEEN"),
        Action::Allow => String::new(),
    };
    let line = format!("{:<24} {:<18} {:<12} {hits}REASON", "PREFIX", "OWNER", "EXPIRES");
    writeln!(out, "{}", palette.heading(line))
}

pub(super) fn list_row(
    out: &mut impl Write,
    palette: Palette,
    claim: &Claim,
    now: jiff::Timestamp,
) -> io::Result<()> {
    let expires = claim.seconds_left.map_or_else(|| "never".to_owned(), |left| format!("in {}", rough(left)));
    write!(out, "{:<24} {:<18} {expires:<12} ", claim.prefix, printable(&claim.owner))?;
    if claim.action == Action::Block {
        let hits = claim.packets.map_or_else(|| "-".to_owned(), grouped);
        let seen = claim.last_seen.as_deref().map_or(Cow::Borrowed("-"), |seen| ago(seen, now));
        write!(out, "{hits:>12} {seen:<12} ")?;
    }
    let reason = claim.reason.as_deref().map_or(Cow::Borrowed("-"), printable);
    if claim.allowed {
        writeln!(out, "{} {reason}", palette.warning("(allowed, so not dropped)"))
    } else {
        writeln!(out, "{reason}")
    }
}

/// How long before `now` a time of the protocol was; the time itself if it is none.
fn ago(time: &str, now: jiff::Timestamp) -> Cow<'_, str> {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => {
            let seconds = now.as_second().saturating_sub(then.as_second());
            format!("{} ago", rough(u64::try_from(seconds).unwrap_or(0))).into()
        }
        Err(_) => printable(time),
    }
}

/// What `import` reads: the end and the reason as a comment.
pub(super) fn export_row(out: &mut impl Write, claim: &Claim) -> io::Result<()> {
    let comment = [
        claim.expires.as_ref().map(|expires| format!("until {expires}")),
        claim.reason.as_deref().map(|reason| printable(reason).into_owned()),
    ];
    let comment: Vec<_> = comment.into_iter().flatten().collect();
    if comment.is_empty() {
        writeln!(out, "{}", claim.prefix)
    } else {
        writeln!(out, "{} # {}", claim.prefix, comment.join(": "))
    }
}

pub(super) fn explanation(out: &mut impl Write, palette: Palette, is: &Explanation) -> io::Result<()> {
    write!(out, "{}", is.address)?;
    if let Some(protocol) = is.protocol {
        write!(out, " {}", PacketKind { protocol, port: is.port })?;
    }
    let verdict = if is.action == "drop" { palette.bad("dropped") } else { palette.good("passed") };
    writeln!(out, ": {verdict} ({}): {}", is.reason, printable(&is.text))?;
    if !is.claims.is_empty() {
        writeln!(out)?;
    }
    for claim in &is.claims {
        claim_sentence(out, palette, claim)?;
    }
    for Offence { owner, offender, level, ends, forgotten } in &is.offences {
        writeln!(
            out,
            "{} is at level {level} for {}: last block until {}, forgotten {}",
            printable(offender),
            printable(owner),
            printable(ends),
            printable(forgotten)
        )?;
    }
    if !is.limits.is_empty() {
        writeln!(out)?;
    }
    for limit in &is.limits {
        writeln!(
            out,
            "limited on {} by rule {}: {}",
            printable(&limit.interface),
            printable(&limit.rule),
            printable(&limit.limit)
        )?;
    }
    Ok(())
}

/// One claim in words: whose, why, until when.
pub(super) fn claim_sentence(out: &mut impl Write, palette: Palette, claim: &Claim) -> io::Result<()> {
    let action = match claim.action {
        Action::Block => palette.bad("blocked"),
        Action::Allow => palette.good("allowed"),
    };
    write!(out, "{action} by {}: {}", printable(&claim.owner), claim.prefix)?;
    match (&claim.expires, claim.seconds_left) {
        (Some(expires), Some(left)) => write!(out, ", for another {} (until {expires})", rough(left))?,
        (Some(expires), None) => write!(out, ", until {expires}")?,
        (None, _) => write!(out, ", for good")?,
    }
    write!(out, ", since {}", claim.created)?;
    if let Some(actor) = &claim.actor {
        write!(out, " by {}", printable(actor))?;
    }
    if let (Some(packets), Some(seen)) = (claim.packets, &claim.last_seen) {
        write!(out, ", about {} dropped of late", counted(packets, "frame", "frames"))?;
        write!(out, ", last seen {}", printable(seen))?;
    }
    if let Some(reason) = &claim.reason {
        write!(out, ": {}", printable(reason))?;
    }
    if claim.allowed {
        write!(out, " {}", palette.warning("(allowed, so not dropped)"))?;
    }
    writeln!(out)
}

pub(super) fn status(out: &mut impl Write, palette: Palette, status: &Status) -> io::Result<()> {
    let ready = if status.ready { palette.good("ready") } else { palette.bad("not ready") };
    writeln!(
        out,
        "{ready}: limiterd {} (ABI {}), pid {}, since {}",
        printable(&status.version),
        status.abi,
        status.pid,
        printable(&status.started)
    )?;
    writeln!(
        out,
        "{}, {}",
        counted(status.blocks, "blocked prefix", "blocked prefixes"),
        counted(status.allows, "allowed prefix", "allowed prefixes")
    )?;
    if status.not_in_force > 0 {
        let text = counted(status.not_in_force, "entry is NOT IN FORCE", "entries are NOT IN FORCE");
        writeln!(out, "{}", palette.bad(text))?;
    }

    if !status.interfaces.is_empty() {
        writeln!(out)?;
        writeln!(
            out,
            "{}",
            palette.heading(format!("{:<16} {:<14} {:<8} FRAGS", "INTERFACE", "PROTECTED", "MODE"))
        )?;
    }
    for interface in &status.interfaces {
        let protected =
            if interface.protected { palette.good("protected") } else { palette.bad("NOT PROTECTED") };
        writeln!(
            out,
            "{:<16} {protected:<14} {:<8} {}",
            printable(&interface.name),
            interface.mode.as_deref().unwrap_or("-"),
            if interface.frags { "yes" } else { "no" },
        )?;
        // The verifier speaks in lines.
        for line in interface.problem.iter().flat_map(|problem| problem.lines()) {
            writeln!(out, "  {}", printable(line))?;
        }
    }

    if !status.tables.is_empty() {
        writeln!(out)?;
        let line = format!("{:<16} {:>12} {:>12} {:>5}", "TABLE", "ENTRIES", "CAPACITY", "FULL");
        writeln!(out, "{}", palette.heading(line))?;
    }
    for table in &status.tables {
        let percent = table.entries.saturating_mul(100).checked_div(table.capacity).unwrap_or(0);
        let full = format!("{percent:>4}%");
        let full = if percent >= ALMOST_FULL { palette.warning(full).to_string() } else { full };
        writeln!(
            out,
            "{:<16} {:>12} {:>12} {full}",
            table.table,
            grouped(table.entries),
            grouped(table.capacity)
        )?;
    }

    if !status.lists.is_empty() {
        writeln!(out)?;
        let line = format!("{:<16} {:<8} {:>12}", "LIST", "ACTION", "ENTRIES");
        writeln!(out, "{}", palette.heading(line))?;
    }
    for list in &status.lists {
        let action = list.action.label();
        writeln!(out, "{:<16} {action:<8} {:>12}", printable(&list.name), grouped(list.entries))?;
        if let Some(problem) = &list.problem {
            writeln!(out, "  {}", palette.warning(printable(problem)))?;
        }
    }

    if !status.warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in &status.warnings {
        writeln!(out, "{} {}", palette.warning("warning:"), printable(warning))?;
    }
    Ok(())
}

/// Rows without packets are left out unless `all`.
pub(super) fn counters(
    out: &mut impl Write,
    palette: Palette,
    counters: &Counters,
    all: bool,
) -> io::Result<()> {
    let line =
        format!("{:<16} {:<6} {:<22} {:>20} {:>24}", "INTERFACE", "ACTION", "REASON", "PACKETS", "BYTES");
    writeln!(out, "{}", palette.heading(line))?;
    let shown = |count: &&ReasonCount| all || count.packets > 0;
    for interface in &counters.interfaces {
        for count in interface.reasons.iter().filter(shown) {
            let action =
                if count.action == "drop" { palette.bad(&count.action) } else { palette.good(&count.action) };
            writeln!(
                out,
                "{:<16} {action:<6} {:<22} {:>20} {:>24}",
                printable(&interface.interface),
                count.reason,
                grouped(count.packets),
                grouped(count.bytes)
            )?;
        }
    }
    Ok(())
}

/// What comes first where nothing was changed.
pub(super) fn rehearsed(dry_run: bool) -> &'static str {
    if dry_run { "nothing was changed, but would be: " } else { "" }
}

/// How to keep a change, if it has to be confirmed.
pub(super) fn to_confirm(out: &mut impl Write, change: Option<&str>) -> io::Result<()> {
    match change {
        None => Ok(()),
        Some(id) => writeln!(out, "rolled back unless you keep it: limiter confirm {}", printable(id)),
    }
}

/// Whom a dry run would cut off, if it says so.
pub(super) fn cuts(out: &mut impl Write, palette: Palette, cuts: Option<u64>) -> io::Result<()> {
    match cuts {
        None => Ok(()),
        Some(0) => writeln!(out, "no host that is connected by TCP would be cut off"),
        Some(cuts) => {
            let hosts = counted(cuts, "host that is", "hosts that are");
            writeln!(out, "{}", palette.warning(format!("{hosts} connected by TCP would be cut off")))
        }
    }
}

/// `1,000,000`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its noun.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}
