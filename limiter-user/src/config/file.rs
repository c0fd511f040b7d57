//! The keys of the configuration file: what each may be, and what it is when it is absent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use limiter_common::Prefix;
use limiter_common::abi::{Limits, MAX_INTERFACES, SLOTS};
use limiter_common::slots::WAYS;
use toml::de::DeTable;

use super::api;
use super::escalation;
use super::hooks;
use super::policies;
use super::problem::Problems;
use super::reader::{self, Report, Table, Value, nearest};
use super::rules::{self, WrittenRule};
use super::units::size;
use super::{Action, Capacity, Config, Control, Interface, List, Mode};
use crate::audit;
use crate::blocklist;

const SOCKET: &str = "/run/limiter/limiter.sock";
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9742);
const STATE: &str = "/var/lib/limiter";
const PINS: &str = "/sys/fs/bpf/limiter";

/// Entries that a table may have: what fits in the memory of a large machine.
const MAX_ENTRIES: u64 = 1 << 26;
/// Listed IPv4 addresses, if nothing else is said.
const DEFAULT_ADDRESSES_V4: u32 = 1 << 24;
/// IPv6 addresses and prefixes likewise.
const DEFAULT_OTHERS: u32 = 1 << 20;
/// The longest name of an interface: `IFNAMSIZ` less its NUL.
const MAX_INTERFACE_NAME: usize = 15;
/// New blocks of those who are no operators, if nothing else is said: more than an attack has sources that several
/// applications would report in a minute, and few enough that a mistake is noticed before everybody is locked out.
const BLOCKS_PER_MINUTE: u64 = 10_000;
/// Percent of the hosts that were connected of late that they may cut off, if nothing else is said: an attack that takes part
/// in connections has fewer, and a mistake that locks more of them out is a disaster.
const PEERS_SHARE: u8 = 50;
/// Bytes that a file of the audit trail may grow to.
const MIN_AUDIT: u64 = 64 << 10;
const MAX_AUDIT: u64 = 1 << 30;
/// The longest name of a list or rule.
pub(super) const MAX_NAME: usize = 64;
/// The longest path of a Unix socket: `sun_path` less its NUL, and less what its name has more while the socket is made, a dot
/// and the number of the process (`crate::socket_file`).
const MAX_SOCKET_PATH: usize = 107 - 9;

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, Problems> {
    let report = Report::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    // What follows an error of syntax may not be what was meant, so it is not judged.
    reader::syntax(&errors, text, &report);
    let config = errors.is_empty().then(|| config(Table::root(&document, &report)));
    match (report.into_problems(text, file), config) {
        (None, Some(config)) => Ok(config),
        (problems, _) => Err(problems.unwrap_or(Problems { file: file.to_owned(), problems: Vec::new() })),
    }
}

/// What is wrong is reported and left out of the result.
fn config(mut root: Table<'_>) -> Config {
    let protected = root.optional("protected").map(|value| prefixes(&value)).unwrap_or_default();
    let proxies = root.optional("proxies").map(|value| prefixes(&value)).unwrap_or_default();
    let (blocks_per_minute, peers_share) = guards(root.section("guards"));
    let mut interfaces = interfaces(&mut root);
    let lists = lists(&mut root);
    let names: Vec<String> = interfaces.iter().map(|interface| interface.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut taken = Names::default();
    let mut rules: Vec<WrittenRule<'_>> = Vec::new();
    for mut table in root.tables("rule") {
        let name = name(&mut table, &mut taken, "a name for the rule, like \"dns\"");
        rules.extend(rules::read(table, name, &names));
    }
    rules::compile(&rules, &mut interfaces);
    let policies = policies::read(&mut root);
    let escalation = escalation::read(root.section("escalation"));

    let capacity = capacity(root.section("capacity"));
    let control = control(root.section("control"));
    let hooks = hooks::read(&mut root, &control.socket);
    let api = root.optional("api").and_then(|value| api::read(&value));
    let metrics = metrics(root.section("metrics"));
    let state_directory = directory(root.section("state"), STATE);
    let pins_directory = directory(root.section("pins"), PINS);
    let audit = audit(root.section("audit"), &state_directory);
    root.finish();
    Config {
        protected,
        proxies,
        blocks_per_minute,
        peers_share,
        interfaces,
        lists,
        policies,
        escalation,
        hooks,
        capacity,
        control,
        api,
        metrics,
        state_directory,
        pins_directory,
        audit,
    }
}

/// Names that were used already, each with its key.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(String, String)>);

impl Names {
    /// Whether `name` is new; a problem if not.
    fn take(&mut self, name: &str, value: &Value<'_>) -> bool {
        match self.0.iter().find(|(taken, _)| taken == name) {
            Some((_, key)) => {
                value.problem(format!("\"{name}\" is also the name of {}", key.trim_end_matches(".name")));
                false
            }
            None => {
                self.0.push((name.to_owned(), value.key.clone()));
                true
            }
        }
    }
}

pub(super) fn prefixes(value: &Value<'_>) -> Vec<Prefix> {
    let what = "prefixes, like [\"192.0.2.1\", \"10.0.0.0/8\"]";
    let prefix = |value: &Value<'_>| {
        let text = value.string("a prefix, like \"192.0.2.1\" or \"10.0.0.0/8\"")?;
        match text.parse() {
            Ok(prefix) => Some(prefix),
            Err(error) => {
                value.problem(format!("{text:?} is no prefix: {error}"));
                None
            }
        }
    };
    value.array(what).unwrap_or_default().iter().filter_map(prefix).collect()
}

/// The brake on ban storms: blocks a minute, and percent of the peers.
fn guards(mut table: Table<'_>) -> (Option<u64>, Option<u8>) {
    let blocks = table.optional("blocks_per_minute");
    let share = table.optional("peers_share");
    table.finish();
    let blocks = match blocks {
        None => Some(BLOCKS_PER_MINUTE),
        Some(value) if value.is_false() => None,
        Some(value) => value.integer(0..=MAX_ENTRIES).filter(|blocks| *blocks > 0),
    };
    let share = match share {
        None => Some(PEERS_SHARE),
        Some(value) if value.is_false() => None,
        Some(value) => value.integer(1..=99).and_then(|percent| u8::try_from(percent).ok()),
    };
    (blocks, share)
}

fn interfaces(root: &mut Table<'_>) -> Vec<Interface> {
    let tables = root.tables("interface");
    if tables.is_empty() && root.optional("interface").is_none() {
        root.problem(
            "interface",
            "missing: nothing would be protected; add [[interface]] with name = \"eth0\"",
        );
    }
    if tables.len() > MAX_INTERFACES as usize {
        root.problem("interface", format!("{} are too many: at most {MAX_INTERFACES}", tables.len()));
    }
    let mut taken = Names::default();
    let mut read = |mut table: Table<'_>| {
        let name = interface_name(&mut table, &mut taken);
        let mode = choice(
            table.optional("mode"),
            &[("native", Mode::Native), ("generic", Mode::Generic), ("auto", Mode::Auto)],
            "how to attach: \"native\", \"generic\" or \"auto\"",
        );
        table.finish();
        let mode = mode.unwrap_or_default();
        Some(Interface { name: name?, mode, limits: Limits::NONE, limited: false, rules: Vec::new() })
    };
    tables.into_iter().filter_map(&mut read).collect()
}

fn interface_name(table: &mut Table<'_>, taken: &mut Names) -> Option<String> {
    let what = "the name of an interface, like \"eth0\"";
    let value = table.required("name", what)?;
    let name = value.string(what)?;
    // The kernel's dev_valid_name().
    let fits = (1..=MAX_INTERFACE_NAME).contains(&name.len()) && name != "." && name != "..";
    if !fits || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        value.problem(format!(
            "{name:?} cannot be an interface: expected 1 to {MAX_INTERFACE_NAME} bytes without space, `/` and `:`"
        ));
        return None;
    }
    taken.take(name, &value).then(|| name.to_owned())
}

/// Whether `text` may be a name that people give: it appears in logs, owners and metrics.
pub(super) fn is_name(text: &str) -> bool {
    blocklist::is_name(text)
}

/// The `name` of a list, rule or hook: it appears in logs, owners and metrics.
pub(super) fn name(table: &mut Table<'_>, taken: &mut Names, what: &str) -> Option<String> {
    let value = table.required("name", what)?;
    let name = value.string(what)?;
    if !is_name(name) {
        value.problem(format!("{name:?} cannot be a name: expected 1 to {MAX_NAME} of A-Z a-z 0-9 - _ ."));
        return None;
    }
    taken.take(name, &value).then(|| name.to_owned())
}

fn lists(root: &mut Table<'_>) -> Vec<List> {
    let mut taken = Names::default();
    let mut read = |mut table: Table<'_>| {
        let name = name(&mut table, &mut taken, "a name for the list, like \"drop\"");
        let what = "what the list does: \"block\" or \"allow\"";
        let action = table.required("action", what);
        let action = choice(action, &[("block", Action::Block), ("allow", Action::Allow)], what);
        let what = "the list's file, like \"/etc/limiter/drop.txt\"";
        let file = table.required("file", what).and_then(|value| path(&value, what));
        table.finish();
        Some(List { name: name?, action: action?, file: file? })
    };
    root.tables("list").into_iter().filter_map(&mut read).collect()
}

/// One of a few words.
pub(super) fn choice<T: Copy>(value: Option<Value<'_>>, words: &[(&str, T)], what: &str) -> Option<T> {
    let value = value?;
    let text = value.string(what)?;
    if let Some((_, choice)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*choice);
    }
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    match nearest(text, &words) {
        Some(near) => value.problem(format!("{text:?} is not known; did you mean \"{near}\"?")),
        None => value.problem(format!("{text:?} is not known; expected {what}")),
    }
    None
}

pub(super) fn path(value: &Value<'_>, what: &str) -> Option<PathBuf> {
    let text = value.string(what)?;
    if !text.starts_with('/') || text.contains('\0') {
        value.problem(format!("{text:?} is not an absolute path; expected {what}"));
        return None;
    }
    Some(PathBuf::from(text))
}

fn capacity(mut table: Table<'_>) -> Capacity {
    let mut entries =
        |key, default| match table.optional(key).and_then(|value| value.integer(1..=MAX_ENTRIES)) {
            Some(entries) => u32::try_from(entries).unwrap_or(u32::MAX),
            None => default,
        };
    let ways = u32::try_from(WAYS).unwrap_or(1);
    let capacity = Capacity {
        addresses_v4: entries("addresses_v4", DEFAULT_ADDRESSES_V4),
        addresses_v6: entries("addresses_v6", DEFAULT_OTHERS),
        prefixes_v4: entries("prefixes_v4", DEFAULT_OTHERS),
        prefixes_v6: entries("prefixes_v6", DEFAULT_OTHERS),
        sources: entries("sources", SLOTS.entries * ways),
    };
    table.finish();
    capacity
}

fn control(mut table: Table<'_>) -> Control {
    let what = "a path for the control socket, like \"/run/limiter/limiter.sock\"";
    let socket = table.optional("socket").and_then(|value| socket(&value, what));
    let what = "the name of a group whose members may operate, like \"limiter\"";
    let group = table.optional("group").and_then(|value| choose_group(&value, what));
    let what = "the name of a group whose members may look, like \"monitoring\"";
    let readers = table.optional("readers").and_then(|value| choose_group(&value, what));
    table.finish();
    Control { socket: socket.unwrap_or_else(|| PathBuf::from(SOCKET)), group, readers }
}

/// The path of a Unix socket.
pub(super) fn socket(value: &Value<'_>, what: &str) -> Option<PathBuf> {
    let socket = path(value, what)?;
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        value.problem(format!(
            "longer than {MAX_SOCKET_PATH} bytes, which is what the kernel takes for a socket"
        ));
    }
    Some(socket)
}

/// A group, by name or number.
pub(super) fn choose_group(value: &Value<'_>, what: &str) -> Option<String> {
    let group = value.string(what)?;
    if group.is_empty() || group.contains([':', ',', '\n', '\0']) {
        value.problem(format!("{group:?} cannot be a group; expected {what}, or leave it out"));
    }
    Some(group.to_owned())
}

fn metrics(mut table: Table<'_>) -> Option<SocketAddr> {
    let listen = table.optional("listen");
    table.finish();
    let Some(value) = listen else {
        return Some(METRICS);
    };
    if value.is_false() || value.as_string() == Some("") {
        return None;
    }
    let what = "an address and port, like \"127.0.0.1:9742\", or false for no metrics";
    let text = value.string(what)?;
    let listen = text.parse().ok();
    if listen.is_none() {
        value.problem(format!("{text:?} is not {what}"));
    }
    listen
}

fn directory(mut table: Table<'_>, default: &str) -> PathBuf {
    let what = format!("a directory, like \"{default}\"");
    let found = table.optional("directory").and_then(|value| path(&value, &what));
    table.finish();
    found.unwrap_or_else(|| PathBuf::from(default))
}

/// Beside the state unless said otherwise.
fn audit(mut table: Table<'_>, state: &Path) -> audit::Options {
    let what = "a directory, like \"/var/log/limiter\"";
    let directory = table.optional("directory").and_then(|value| path(&value, what));
    let size = table.optional("size").and_then(|value| {
        let what = "a size, like \"64MiB\"";
        let text = value.string(what)?;
        let size = size(text).filter(|size| (MIN_AUDIT..=MAX_AUDIT).contains(size));
        if size.is_none() {
            value.problem(format!("{text:?} is not {what}, from 64KiB to 1GiB"));
        }
        size
    });
    let keep = table.optional("keep").and_then(|value| value.integer(1..=10_000));
    table.finish();
    audit::Options {
        directory: directory.unwrap_or_else(|| state.join("audit")),
        size: size.unwrap_or(64 << 20),
        keep: keep.and_then(|keep| usize::try_from(keep).ok()).unwrap_or(16),
    }
}
