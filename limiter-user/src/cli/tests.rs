use clap::{CommandFactory, Parser};

use super::args::{Arguments, Source};
use super::failure::{Exit, Failure};
use super::render::{self, Palette};
use crate::config::Action;
use crate::control::client::{ClientError, Place};
use crate::control::protocol::{
    AppliedLimit, Claim, Counters, Explanation, InterfaceCounters, InterfaceStatus, ListStatus, Offence,
    Problem, ProblemKind, ReasonCount, Status, TableStatus, Token, TokenList,
};
use crate::daemon::options::Options;

const PLAIN: Palette = Palette { enabled: false };

fn rendered(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn help_of_every_command() {
    fn collect(command: &mut clap::Command, path: &str, out: &mut String) {
        out.push_str(&format!("===== {path} =====\n{}\n", command.render_long_help()));
        for sub in command.get_subcommands_mut() {
            let path = format!("{path} {}", sub.get_name());
            collect(sub, &path, out);
        }
    }
    let mut out = String::new();
    for mut command in [Arguments::command(), Options::command()] {
        command.build();
        let name = command.get_name().to_owned();
        collect(&mut command, &name, &mut out);
    }
    insta::assert_snapshot!(out);
}

#[test]
fn the_definitions_are_consistent() {
    Arguments::command().debug_assert();
    Options::command().debug_assert();
}

#[test]
fn command_lines() {
    for line in [
        "limiter block add 192.0.2.7 2001:db8::/32 - --for 1h --reason x --force",
        "limiter --socket /tmp/s --json block list",
        "limiter block list --socket /tmp/s --json --color never",
        "limiter block import -",
        "limiter block test ::ffff:192.0.2.1",
        "limiter allow remove 10.0.0.0/8",
        "limiter explain 192.0.2.7",
        "limiter explain 192.0.2.7 udp/53 --interface eth0",
        "limiter detach",
        "limiter detach eth0 eth1 --offline --pins /sys/fs/bpf/x",
        "limiter token create --name a --scope report --scope block:prefix/24 --max-ttl 1h --max-prefix 32 --quota 1000/min --from 10.0.0.0/8 --from ::1 --expires 90d",
        "limiter token list --json",
        "limiter token revoke k3f7a2xq aaaaaaaa",
        "limiter token rotate k3f7a2xq --overlap 1h",
        "limiter completions bash",
    ] {
        if let Err(error) = Arguments::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
    for line in [
        "limiter",
        "limiter block",
        "limiter block add",
        "limiter block add 192.0.2",
        "limiter block add 192.0.2.7 --for 0",
        "limiter block add 192.0.2.7 --for -1h",
        "limiter block add 192.0.2.7/33",
        "limiter block test 192.0.2.0/24",
        "limiter explain 192.0.2.7 icmp/8",
        "limiter token create --name a",
        "limiter token create --name a --scope write",
        "limiter token create --name a --scope read --quota 1000",
        "limiter token create --name a --scope read --max-prefix 33",
        "limiter token revoke",
        "limiter token revoke ../x",
        "limiter frobnicate",
        "limiter status --color sometimes",
    ] {
        let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(Exit::Usage as u8), "{line}");
    }
    for line in ["limiterd --config a --interface b", "limiterd --mode auto", "limiterd x"] {
        Options::try_parse_from(line.split(' ')).expect_err(line);
    }
}

#[test]
fn host_bits_and_mapped_addresses_are_normalised() {
    let Ok(arguments) =
        Arguments::try_parse_from(["limiter", "block", "add", "10.1.2.3/8", "::ffff:192.0.2.1"])
    else {
        panic!("does not parse");
    };
    let super::Command::Block(super::Block::Add(add)) = arguments.command else { panic!("another command") };
    let prefix = |text: &str| Source::Prefix(text.parse().unwrap());
    assert_eq!(add.addresses, [prefix("10.0.0.0/8"), prefix("192.0.2.1")]);
}

fn claim() -> Claim {
    Claim {
        prefix: "192.0.2.7".to_owned(),
        action: Action::Block,
        owner: "operator".to_owned(),
        reason: Some("login flood".to_owned()),
        actor: Some("uid:0".to_owned()),
        created: "2026-01-02T03:04:05Z".to_owned(),
        expires: Some("2026-01-02T06:16:05Z".to_owned()),
        seconds_left: Some(11_520),
        allowed: false,
        packets: Some(1_280),
        last_seen: Some("2026-01-02T03:59:55Z".to_owned()),
    }
}

fn list_claim() -> Claim {
    Claim {
        prefix: "2001:db8:1234:5678:9abc:def0:1234:5678".to_owned(),
        owner: "list:a-list-with-a-long-name".to_owned(),
        reason: None,
        actor: None,
        expires: None,
        seconds_left: None,
        allowed: true,
        packets: None,
        last_seen: None,
        ..claim()
    }
}

#[test]
fn a_list() {
    let nasty = Claim { reason: Some("\x1b[2J\r\nforged row \u{202e}txet".to_owned()), ..claim() };
    let never = Claim { last_seen: Some("\x07never".to_owned()), ..claim() };
    let allow = Claim { action: Action::Allow, packets: None, last_seen: None, ..claim() };
    let now: jiff::Timestamp = "2026-01-02T04:02:00Z".parse().unwrap();
    insta::assert_snapshot!(rendered(|out| {
        render::list_heading(out, PLAIN, Action::Block)?;
        let blocks = [claim(), list_claim(), nasty, never];
        blocks.iter().try_for_each(|claim| render::list_row(out, PLAIN, claim, now))?;
        render::list_heading(out, PLAIN, Action::Allow)?;
        render::list_row(out, PLAIN, &allow, now)
    }));
}

#[test]
fn an_export_can_be_imported() {
    let nasty = Claim { reason: Some("line\n10.0.0.0/8".to_owned()), expires: None, ..claim() };
    let bare = Claim { reason: None, expires: None, ..claim() };
    let text =
        rendered(|out| [claim(), nasty, bare].iter().try_for_each(|claim| render::export_row(out, claim)));
    insta::assert_snapshot!(text);
    for line in text.lines() {
        assert!(line.split('#').next().is_some_and(|prefix| prefix.trim() == "192.0.2.7"), "{line}");
    }
}

#[test]
fn an_explanation() {
    let blocked = Explanation {
        address: "192.0.2.7".to_owned(),
        protocol: Some(17),
        port: Some(53),
        action: "drop".to_owned(),
        reason: "blocked".to_owned(),
        text: "the source is on a block list".to_owned(),
        claims: vec![claim(), list_claim()],
        offences: vec![Offence {
            owner: "fail2ban:sshd".to_owned(),
            offender: "192.0.2.7".to_owned(),
            level: 2,
            ends: "2026-01-02T04:04:05Z".to_owned(),
            forgotten: "2026-03-03T04:04:05Z".to_owned(),
        }],
        limits: vec![AppliedLimit {
            interface: "eth0".to_owned(),
            rule: "dns".to_owned(),
            limit: "200/s burst 400".to_owned(),
        }],
    };
    let passed = Explanation {
        protocol: None,
        port: None,
        action: "pass".to_owned(),
        reason: "passed".to_owned(),
        text: "nothing spoke against it".to_owned(),
        claims: Vec::new(),
        offences: Vec::new(),
        limits: Vec::new(),
        ..blocked.clone()
    };
    insta::assert_snapshot!(rendered(|out| {
        render::explanation(out, PLAIN, &blocked)?;
        render::explanation(out, PLAIN, &passed)
    }));
}

fn status() -> Status {
    Status {
        ready: false,
        version: "1.2.3".to_owned(),
        abi: 1,
        pid: 4711,
        started: "2026-01-02T03:04:05Z".to_owned(),
        interfaces: vec![
            InterfaceStatus {
                name: "eth0".to_owned(),
                protected: true,
                mode: Some("native".to_owned()),
                frags: true,
                problem: None,
            },
            InterfaceStatus {
                name: "eth1".to_owned(),
                protected: false,
                mode: None,
                frags: false,
                problem: Some("interface eth1 does not exist".to_owned()),
            },
        ],
        blocks: 1_000_000,
        allows: 1,
        not_in_force: 12_000,
        tables: vec![
            TableStatus { table: "addresses_v4".to_owned(), entries: 1_000_000, capacity: 1_048_576 },
            TableStatus { table: "prefixes_v6".to_owned(), entries: 0, capacity: 262_144 },
        ],
        lists: vec![
            ListStatus { name: "drop".to_owned(), action: Action::Block, entries: 812, problem: None },
            ListStatus {
                name: "friends".to_owned(),
                action: Action::Allow,
                entries: 0,
                problem: Some("/etc/limiter/friends.txt: no such file".to_owned()),
            },
        ],
        warnings: vec!["the store was damaged; 3 claims were lost".to_owned()],
    }
}

#[test]
fn a_status() {
    insta::assert_snapshot!(rendered(|out| render::status(out, PLAIN, &status())));
}

#[test]
fn a_status_as_json() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&status()).unwrap());
}

#[test]
fn counts() {
    let reason = |reason: &str, action: &str, packets| ReasonCount {
        reason: reason.to_owned(),
        action: action.to_owned(),
        packets,
        bytes: packets * 60,
    };
    let counters = Counters {
        interfaces: vec![InterfaceCounters {
            interface: "eth0".to_owned(),
            reasons: vec![
                reason("passed", "pass", 1_234_567),
                reason("not_ip", "pass", 0),
                reason("impossible_destination", "drop", 18_446_744_073_709_551),
            ],
        }],
    };
    insta::assert_snapshot!(rendered(|out| {
        render::counters(out, PLAIN, &counters, false)?;
        render::counters(out, PLAIN, &counters, true)
    }));
}

#[test]
fn colour_does_not_move_columns() {
    let uncoloured = |text: &str| {
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("\x1b[") {
            plain.push_str(before);
            rest = after.split_once('m').expect("an escape sequence ends").1;
        }
        plain + rest
    };
    let coloured = rendered(|out| render::status(out, Palette { enabled: true }, &status()));
    let plain = rendered(|out| render::status(out, PLAIN, &status()));
    assert_ne!(coloured, plain);
    assert_eq!(uncoloured(&coloured), plain);
}

#[test]
fn numbers_are_grouped() {
    for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_000_000, "1,000,000")] {
        assert_eq!(render::grouped(number), text);
    }
}

#[test]
fn failures_say_what_and_how() {
    let problem = |kind, items: usize| {
        ClientError::Refused(Problem {
            kind,
            title: "refused by a guard".to_owned(),
            status: if kind == ProblemKind::Busy { 503 } else { 409 },
            detail: "2 prefixes are protected; --force overrides".to_owned(),
            items: (0..items).map(|n| format!("10.0.0.{n}: own address \x07")).collect(),
        })
    };
    for (kind, exit) in [
        (ProblemKind::Invalid, Exit::Usage),
        (ProblemKind::NotAuthorised, Exit::NotAuthorised),
        (ProblemKind::NotFound, Exit::NotFound),
        (ProblemKind::Guarded, Exit::Guarded),
        (ProblemKind::Full, Exit::Failed),
        (ProblemKind::NotDurable, Exit::Failed),
        (ProblemKind::Busy, Exit::Failed),
        (ProblemKind::Unavailable, Exit::Unreachable),
        (ProblemKind::Failed, Exit::Failed),
    ] {
        assert_eq!(Failure::from(problem(kind, 0)).exit, exit);
    }
    let nobody = ClientError::Unreachable {
        at: Place::Socket("/run/limiter/limiter.sock".into()),
        error: std::io::ErrorKind::ConnectionRefused.into(),
    };
    let denied = ClientError::Denied { at: Place::Socket("/run/limiter/limiter.sock".into()) };
    let failures = [problem(ProblemKind::Guarded, 22).into(), nobody.into(), denied.into()];
    assert_eq!(failures.each_ref().map(|failure: &Failure| failure.exit as u8), [6, 3, 4]);
    insta::assert_snapshot!(rendered(|out| {
        failures.iter().try_for_each(|failure| failure.print(false, out))?;
        failures.iter().try_for_each(|failure| failure.print(true, out))
    }));
}

#[test]
fn completions_and_man_pages_are_made() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        super::completions(shell, &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("explain") && script.contains("import"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    super::man_pages(directory.path()).unwrap();
    for page in ["limiter.1", "limiter-block-add.1", "limiter-explain.1", "limiterd.1"] {
        let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(text.contains("Examples:"), "{page}");
    }
}

#[test]
fn a_list_of_tokens() {
    let now: jiff::Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    let token = |id: &str, name: &str| Token {
        id: id.to_owned(),
        name: name.to_owned(),
        scopes: vec!["report".to_owned(), "block:host".to_owned()],
        max_seconds: None,
        max_prefix: None,
        per_minute: None,
        from: Vec::new(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        created_by: "uid:0".to_owned(),
        expires: None,
        last_used: None,
        revoked: None,
        former_until: None,
    };
    let list = TokenList {
        tokens: vec![
            Token {
                max_seconds: Some(3600),
                max_prefix: Some(32),
                per_minute: Some(1000),
                from: vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()],
                expires: Some("2026-04-01T12:00:00Z".to_owned()),
                last_used: Some("2026-01-01T11:58:00Z".to_owned()),
                ..token("k3f7a2xq", "checkout")
            },
            Token { revoked: Some("2026-01-01T01:00:00Z".to_owned()), ..token("bbbbbbbb", "old") },
            Token { expires: Some("2026-01-01T12:00:00Z".to_owned()), ..token("cccccccc", "older") },
            token("dddddddd", "steer\u{1b}[2J"),
        ],
    };
    let mut out = rendered(|out| render::tokens(out, PLAIN, &list, now));
    out.push_str(&rendered(|out| render::new_token(out, &list.tokens[0])));
    insta::assert_snapshot!(out);
}
