//! The files of configured lists: how they become claims, and what is said when they cannot.
//!
//! A file that cannot be read, that has lines that are not understood, or that has no entries at all, does not replace
//! what an earlier version of it put in force. When there is no earlier version, the lines that are understood are
//! enforced, since part of a list protects better than none of it. Both are told. What the guards refuse is left out,
//! and told too. Who wants a list to be empty takes it out of the configuration: a file without entries is rather what a
//! failed download or a full disk leaves.

use std::collections::HashMap;
use std::sync::Arc;

use limiter_common::{Nanos, Prefix};

use crate::admission::{self, Admitted, Guards, Refusals};
use crate::blocklist::{Blocklist, Claim, Edit, Key, Owner, OwnerId, Terms, TooMany, Totals};
use crate::config::lists::Parsed;
use crate::config::{self, Action, Capacity, List};
use crate::control::protocol::ListStatus;
use crate::prefixes::Prefixes;

/// Bytes that a file may have: a hundred million addresses would not fit any table.
const MAX_FILE: u64 = 1 << 30;
/// Lines and refusals that are quoted in a problem.
const QUOTED: usize = 3;

/// A list as its file is now.
#[derive(Debug)]
pub(super) struct ListFile {
    pub(super) list: List,
    /// Or why it cannot be read.
    pub(super) content: Result<Parsed, String>,
}

/// Reads the files of `lists`.
pub(super) fn read(lists: &[List]) -> Vec<ListFile> {
    let read = |list: &List| {
        let content = read_file(&list.file).map(|bytes| config::lists::parse(&bytes));
        ListFile { list: list.clone(), content }
    };
    lists.iter().map(read).collect()
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| {
        format!("cannot read {}: {error}{}", path.display(), crate::privileges::hint(&error))
    };
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    if found.len() > MAX_FILE {
        return Err(format!("{} is larger than 1 GiB", path.display()));
    }
    std::fs::read(path).map_err(failed)
}

/// A list that is in force, as far as it could be read.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) owner: OwnerId,
    pub(super) problem: Option<String>,
    /// Why its content is not known, if it is not: then what the kernel has of it is kept at the start.
    pub(super) unread: Option<String>,
}

impl Listed {
    /// Notes that `entries` that an earlier run put in force stay.
    pub(super) fn keeps(&mut self, entries: usize) {
        if let Some(why) = self.problem.take().or(self.unread.take()) {
            self.problem = Some(format!("{why}; {entries} entries read before stay in force"));
        }
    }

    pub(super) fn status(&self, list: &Blocklist) -> ListStatus {
        ListStatus {
            name: self.name.clone(),
            action: self.action,
            entries: list.count_of(self.owner),
            problem: self.problem.clone(),
        }
    }
}

/// The way from the lists in force to those of a configuration.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    pub(super) lists: Vec<Listed>,
    /// What is different, list by list.
    pub(super) sentences: Vec<String>,
}

/// Plans the way from `former` to `files`.
pub(super) fn plan(
    list: &mut Blocklist,
    guards: &Guards,
    capacity: Capacity,
    former: &[Listed],
    files: Vec<ListFile>,
    created: u64,
) -> Result<Plan, TooMany> {
    let mut present: HashMap<OwnerId, Vec<Key>> = HashMap::new();
    let mut plan = Plan::default();
    for file in &files {
        let owner = list.owner(&Owner::List(Arc::from(file.list.name.as_str())))?;
        present.insert(owner, Vec::new());
    }
    present.extend(former.iter().map(|listed| (listed.owner, Vec::new())));
    if present.keys().any(|owner| list.count_of(*owner) > 0) {
        for key in list.keys() {
            if let Some(keys) = present.get_mut(&key.owner) {
                keys.push(key);
            }
        }
    }
    // First, since it makes room.
    let configured: Vec<Owner> =
        files.iter().map(|file| Owner::List(Arc::from(file.list.name.as_str()))).collect();
    for listed in former {
        if configured.contains(list.owner_of(listed.owner)) {
            continue;
        }
        let keys = present.remove(&listed.owner).unwrap_or_default();
        plan.sentences.push(format!("list {} is gone, with {} entries", listed.name, keys.len()));
        plan.edits.extend(keys.into_iter().map(Edit::Remove));
    }
    for ListFile { list: List { name, action, file }, content } in files {
        let owner = list.owner(&Owner::List(Arc::from(name.as_str())))?;
        let present = present.remove(&owner).unwrap_or_default();
        let before = plan.edits.len();
        // Whatever becomes of the file: what a guard would refuse by now does not stay.
        let (guarded, present): (Vec<Key>, Vec<Key>) =
            present.into_iter().partition(|key| guards.refusal(key.action, key.prefix).is_some());
        plan.edits.extend(guarded.into_iter().map(Edit::Remove));
        let unguarded = plan.edits.len();
        let mut listed = Listed { name, action, owner, problem: None, unread: None };
        match content {
            Err(why) => {
                listed.unread = present.is_empty().then(|| why.clone());
                listed.problem = Some(kept(why, present.len()));
            }
            Ok(parsed) if parsed.bad_lines > 0 && !present.is_empty() => {
                listed.problem = Some(kept(bad_lines(&parsed), present.len()));
            }
            Ok(parsed) if parsed.bad_lines == 0 && parsed.prefixes.is_empty() => {
                let why = format!("{} has no entries", file.display());
                // That is how it may be, unless it had some.
                if present.is_empty() {
                    listed.unread = Some(why);
                } else {
                    listed.problem = Some(kept(why, present.len()));
                }
            }
            Ok(parsed) => {
                let mut problems = Vec::new();
                if parsed.bad_lines > 0 {
                    listed.unread = present.is_empty().then(|| bad_lines(&parsed));
                    problems.push(format!("{}; the other lines are in force", bad_lines(&parsed)));
                }
                let (admitted, refusals) = admission::admit_what_may(guards, action, parsed.prefixes);
                problems.extend(refused(&refusals));
                difference(&present, &admitted, owner, created, &mut plan.edits);
                if let Err(why) = room(list, capacity, &plan.edits) {
                    plan.edits.truncate(unguarded);
                    problems.push(kept(why, present.len()));
                }
                listed.problem = (!problems.is_empty()).then(|| problems.join("; "));
            }
        }
        plan.sentences.extend(sentence(&listed.name, plan.edits.get(before..)));
        if listed.problem.is_some() {
            let problem = listed.problem.as_deref().unwrap_or_default();
            plan.sentences.push(format!("list {}: {problem}", listed.name));
        }
        plan.lists.push(listed);
    }
    Ok(plan)
}

/// The edits from `present`, which is sorted, to `admitted`.
fn difference(present: &[Key], admitted: &Admitted, owner: OwnerId, created: u64, edits: &mut Vec<Edit>) {
    let wanted = |key: &Key| key.action == admitted.action() && admitted.prefixes().contains(key.prefix);
    edits.extend(present.iter().filter(|key| !wanted(key)).map(|key| Edit::Remove(*key)));
    let terms = Terms { until: Nanos::NEVER, created, actor: None, reason: None };
    let key = |prefix: Prefix| Key { prefix, action: admitted.action(), owner };
    let new = admitted.prefixes().iter().map(key).filter(|key| present.binary_search(key).is_err());
    edits.extend(new.map(|key| Edit::Set(Claim { key, terms: terms.clone() })));
}

fn sentence(name: &str, edits: Option<&[Edit]>) -> Option<String> {
    let edits = edits.filter(|edits| !edits.is_empty())?;
    let added = edits.iter().filter(|edit| matches!(edit, Edit::Set(_))).count();
    Some(format!("list {name}: {added} added, {} removed", edits.len() - added))
}

fn kept(why: String, entries: usize) -> String {
    if entries == 0 { why } else { format!("{why}; the {entries} entries read before stay in force") }
}

fn bad_lines(parsed: &Parsed) -> String {
    let quoted: Vec<String> = parsed.problems.iter().take(QUOTED).map(ToString::to_string).collect();
    let more = if parsed.bad_lines > quoted.len() { ", …" } else { "" };
    format!("{} lines are not understood: {}{more}", parsed.bad_lines, quoted.join(", "))
}

fn refused(refusals: &Refusals) -> Option<String> {
    let quoted: Vec<String> = refusals.lines().take(QUOTED).collect();
    let more = if refusals.count > quoted.len() { ", …" } else { "" };
    (refusals.count > 0)
        .then(|| format!("{} entries refused by guards: {}{more}", refusals.count, quoted.join(", ")))
}

/// Whether the kernel's tables have room for `edits`, and in which order.
///
/// # Errors
///
/// Names the table that has not.
pub(super) fn room(list: &Blocklist, capacity: Capacity, edits: &[Edit]) -> Result<Order, String> {
    let now = list.totals();
    let edited = edits.len() as u64;
    if tables(now, capacity).iter().all(|(_, used, capacity)| used + edited <= *capacity) {
        return Ok(Order::RaiseFirst);
    }
    let (most, after) = list.growth(edits);
    match (grown_over(now, most, capacity), grown_over(now, after, capacity)) {
        (Ok(()), _) => Ok(Order::RaiseFirst),
        (Err(_), Ok(())) => Ok(Order::LowerFirst),
        (Err(_), Err(full)) => Err(full),
    }
}

/// Whether the kernel's tables have room for claims on `prefixes`, which are sorted.
///
/// # Errors
///
/// Names the table that has not.
pub(super) fn room_for(list: &Blocklist, capacity: Capacity, prefixes: &Prefixes) -> Result<(), String> {
    let now = list.totals();
    // Counting them as new is enough if that fits, and quick.
    if grown_over(now, now.with(prefixes), capacity).is_ok() {
        return Ok(());
    }
    grown_over(now, list.totals_with(prefixes.iter()), capacity)
}

/// What is used of each table, and what it may hold.
fn tables(totals: Totals, capacity: Capacity) -> [(&'static str, u64, u64); 4] {
    [
        ("addresses_v4", totals.addresses_v4, capacity.addresses_v4.into()),
        ("addresses_v6", totals.addresses_v6, capacity.addresses_v6.into()),
        ("prefixes_v4", totals.prefixes_v4, capacity.prefixes_v4.into()),
        ("prefixes_v6", totals.prefixes_v6, capacity.prefixes_v6.into()),
    ]
}

/// An error if a table would hold more than it may. One that holds too much already is no reason to refuse what does not
/// make it worse.
fn grown_over(now: Totals, then: Totals, capacity: Capacity) -> Result<(), String> {
    let grown = tables(then, capacity).into_iter().zip(tables(now, capacity));
    let mut over = grown.filter(|((_, used, capacity), (_, now, _))| used > capacity && used > now);
    match over.next() {
        None => Ok(()),
        Some(((table, needed, capacity), _)) => Err(format!(
            "the kernel table {table} has room for {capacity} entries and {needed} are needed; raise {table} in \
             [capacity] and restart the daemon"
        )),
    }
}

/// In which order edits are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// No window opens.
    RaiseFirst,
    /// There is no room otherwise. What only moves from one prefix to another is open for a moment.
    LowerFirst,
}
