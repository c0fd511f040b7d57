//! What the daemon may do, as the kernel tells it of each of its threads; and that it is enough for everything it does,
//! as root and as a user of its own, which is how the unit starts it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use limiter_common::abi::ABI_VERSION;
use limiter_tests::cli::answer;
use limiter_tests::lab::{HOST, OUTSIDE};
use limiter_tests::tcp::get;
use limiter_tests::traffic::{Flood, same};
use limiter_tests::{Config, Daemon, Lab, frames, in_lab, stranger, veth, wait};

const SOON: Duration = Duration::from_secs(10);
const BLOCKED: &str = "198.51.100.7";
/// Nobody, and a group that the daemon's user is in beside its own.
const USER: u32 = 65_534;
const GROUP: u32 = 64_000;
/// Numbers of include/uapi/linux/capability.h.
const NUMBERS: [(&str, u32); 5] =
    [("NET_BIND_SERVICE", 10), ("NET_ADMIN", 12), ("SYS_ADMIN", 21), ("PERFMON", 38), ("BPF", 39)];
const KEPT: [&str; 3] = ["NET_ADMIN", "PERFMON", "BPF"];

fn mask(names: &[&str]) -> String {
    let number =
        |name: &&str| NUMBERS.iter().find(|(known, _)| known == name).map_or(63, |(_, number)| *number);
    format!("{:016x}", names.iter().map(|name| 1_u64 << number(name)).sum::<u64>())
}

/// Each thread of the daemon has these capabilities and can get no others.
fn ensure_kept(daemon: &Daemon, names: &[&str]) -> Result<()> {
    let process = PathBuf::from(format!("/proc/{}", daemon.pid()?));
    let mut files = vec![process.join("status")];
    for task in fs::read_dir(process.join("task"))? {
        files.push(task?.path().join("status"));
    }
    ensure!(files.len() > 3, "one thread is not all: {files:?}");
    let (kept, none) = (mask(names), mask(&[]));
    let expected = [
        ("CapInh", none.as_str()),
        ("CapPrm", &kept),
        ("CapEff", &kept),
        ("CapBnd", &kept),
        ("CapAmb", &none),
        ("NoNewPrivs", "1"),
    ];
    for file in files {
        // Threads come and go.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (field, value) in &expected {
            let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            ensure!(
                found.map(str::trim) == Some(value),
                "{}: {field} is {found:?}, not {value}",
                file.display()
            );
        }
    }
    Ok(())
}

/// The blocked source sends, and nothing gets through.
fn ensure_enforced(lab: &Lab, what: &str) -> Result<()> {
    let before = lab.witness.blocked()?;
    let attack = vec![same(frames::udp(BLOCKED.parse()?, 80))];
    let sent = Flood::run(lab, 2_000, attack, Duration::from_millis(200))?;
    let passed = lab.witness.blocked()? - before;
    ensure!(sent.frames > 50 && passed == 0, "{what}: {passed} of {} got through", sent.frames);
    Ok(())
}

/// The capabilities in the table of `SECURITY.md`, always or under a condition.
fn documented() -> (Vec<&'static str>, Vec<&'static str>) {
    let page = include_str!("../../SECURITY.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split_once("` | "));
    let (sometimes, always): (Vec<_>, Vec<_>) = rows.partition(|(_, what)| what.starts_with("only "));
    let names = |rows: Vec<(&'static str, _)>| rows.into_iter().map(|(name, _)| name).collect();
    (names(always), names(sometimes))
}

#[test]
fn the_daemon_keeps_what_is_documented() {
    let (always, sometimes) = documented();
    assert_eq!(BTreeSet::from_iter(always), BTreeSet::from(KEPT));
    assert_eq!(sometimes, ["NET_BIND_SERVICE", "SYS_ADMIN"]);
    in_lab("kept", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        ensure_kept(&daemon, &KEPT)?;
        ensure!(daemon.log().contains("but for CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF"), "{}", daemon.log());
        daemon.terminate()?;

        daemon.configure(&Config { metrics: Some("127.0.0.1:942"), ..Config::default() })?;
        daemon.restart()?;
        ensure_kept(&daemon, &["NET_BIND_SERVICE", "NET_ADMIN", "PERFMON", "BPF"])?;
        let (head, _) = get(&lab.host, "127.0.0.1:942".parse()?, "/metrics")?;
        ensure!(head.contains("200"), "metrics at a low port: {head}");
        daemon.terminate()?;

        daemon.configure(&Config::default())?;
        daemon.arguments.push("--replace".to_owned());
        daemon.restart()?;
        ensure_kept(&daemon, &["NET_ADMIN", "SYS_ADMIN", "PERFMON", "BPF"])
    });
}

/// What the kept capabilities are for, one after the other; the other tests have each of it in depth, with a daemon that
/// has given up the rest as well.
fn everything_works(lab: &Lab, daemon: &mut Daemon, config: &Config) -> Result<()> {
    lab.witness.block(&[BLOCKED])?;
    daemon.cli.ok(&format!("block add {BLOCKED} --reason attack"))?;
    ensure_enforced(lab, "at first")?;

    // A reload puts a new program in place.
    let rule = "[[rule]]\nname = \"all\"\nlimit = [ { per = \"source\", rate = \"100/s\", burst = 50 } ]\n";
    daemon.configure(&Config { tables: format!("{}\n{rule}", config.tables), ..config.clone() })?;
    let reloaded = daemon.cli.json("reload")?;
    ensure!(reloaded["problems"].is_null() && reloaded["changes"][0].is_string(), "{reloaded}");
    ensure_enforced(lab, "after a reload")?;

    // A table makes room, and programs move to it.
    let many: String =
        (0..50_000_u32).map(|n| format!("100.{}.{}.{}\n", 64 + (n >> 16), n >> 8 & 255, n & 255)).collect();
    let file = lab.scratch.write("many.txt", many)?;
    daemon.cli.ok(&format!("block import {}", file.display()))?;
    ensure!(daemon.log().contains("a table has grown"), "50,000 blocks, and no table has grown");
    ensure_enforced(lab, "after tables grew")?;
    let status = daemon.cli.json("status")?;
    ensure!(status["interfaces"][0]["frags"].is_boolean() && status["ready"] == true, "{status}");

    // An interface goes and comes back.
    lab.host.ip(&format!("link delete {}", HOST.interface))?;
    wait::until_true("the daemon notices", SOON, || Ok(daemon.cli.run(&["status"])?.code == 1))?;
    veth::create(&lab.host, &HOST, &lab.outside, &OUTSIDE)?;
    wait::until_true("it is protected again", SOON, || Ok(daemon.cli.run(&["status"])?.code == 0))?;
    ensure_enforced(lab, "after it came back")?;

    daemon.cli.ok("detach")?;
    daemon.cli.ok("reload")?;
    ensure_enforced(lab, "taken off and put back")?;

    // The trail is put away and begun anew.
    let trail = daemon.places.state.join("audit");
    let away =
        || Ok(fs::read_dir(&trail)?.flatten().any(|file| file.file_name().to_string_lossy().contains("-0")));
    let some: Vec<String> = (0..90).map(|n| format!("203.0.113.{n}")).collect();
    let mut round = 0;
    wait::until_true("the audit trail is rotated", SOON, || {
        round += 1;
        daemon.cli.ok(&format!("block add {} --reason r{round}", some.join(" ")))?;
        away()
    })?;
    ensure_kept(daemon, &KEPT)?;

    // What is there is taken over.
    let pin = daemon.places.pins.join(format!("v{ABI_VERSION}/links/{}", HOST.interface));
    let link = fs::metadata(&pin)?.ino();
    for how in ["asked to stop", "killed"] {
        if how == "killed" {
            daemon.kill()?
        } else {
            daemon.terminate().map(drop)?
        }
        ensure_enforced(lab, how)?;
        daemon.clear_log()?;
        daemon.restart()?;
        ensure!(daemon.log().contains("taking over"), "{how}: {}", daemon.log());
        ensure_enforced(lab, "after a restart")?;
        ensure_kept(daemon, &KEPT)?;
    }
    ensure!(fs::metadata(&pin)?.ino() == link, "the link was made anew");
    let verified = daemon.cli.run(&["audit", "verify", "--directory", &trail.display().to_string()])?;
    ensure!(verified.code == 0, "{verified:?}");
    Ok(())
}

/// With a key and a certificate in `directory`, the API on the loopback, metrics, a hook, and an audit trail that is soon full.
fn configured(lab: &Lab, directory: &Path) -> Result<Config> {
    let mut command = lab.host.command(lab.binary("limiter")?);
    command.args(["api", "certificate", "--name", "localhost", "--out"]).arg(directory);
    let made = answer(command)?;
    ensure!(made.code == 0, "{made:?}");
    let shown = directory.display();
    let tables = format!(
        "[api]\nlisten = [\"127.0.0.1:9743\"]\ncertificate = \"{shown}/api.pem\"\nkey = \"{shown}/api.key\"\n\
         [audit]\nsize = \"64KiB\"\n\
         [[policy]]\ncategory = \"abuse\"\nthreshold = 1\nwithin = \"1m\"\nblock = \"10m\"\n\
         [[hook]]\nname = \"web\"\nsocket = \"{shown}/web.sock\"\ncategory = \"abuse\"\ngroup = \"{GROUP}\"\n"
    );
    Ok(Config { tables, metrics: Some("127.0.0.1:9742"), ..Config::default() })
}

/// The API, metrics and the hook of [`configured`].
fn all_are_served(lab: &Lab, daemon: &Daemon, directory: &Path) -> Result<()> {
    let token = daemon.cli.ok("token create --name it --scope block:host")?;
    let token_file = lab.scratch.write("token", token)?;
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
    let mut command = lab.host.command(lab.binary("limiter")?);
    command.args(["--remote", "https://localhost:9743", "--token-file"]).arg(&token_file);
    command.arg("--ca").arg(directory.join("api.pem")).args(["block", "add", "192.0.2.77"]);
    command.env("SSH_CONNECTION", "").env_remove("SSH_CLIENT");
    let (said, _) = wait::until("the API answers", SOON, || {
        let mut again = lab.host.command(command.get_program());
        again.args(command.get_args()).env("SSH_CONNECTION", "");
        let said = answer(again)?;
        Ok((said.code != 3).then_some(said))
    })?;
    ensure!(said.code == 0, "over TCP: {said:?}");
    let (head, _) = get(&lab.host, "127.0.0.1:9742".parse()?, "/metrics")?;
    ensure!(head.contains("200"), "metrics: {head}");

    let hook = directory.join("web.sock");
    let (gid, mode) = fs::metadata(&hook).map(|found| (found.gid(), found.mode() & 0o777))?;
    ensure!((gid, mode) == (GROUP, 0o660), "the hook's socket has group {gid} and mode {mode:o}");
    let datagram = std::os::unix::net::UnixDatagram::unbound()?;
    datagram.send_to(b"<134>Nov 22 07:00:00 web nginx: {\"address\":\"192.0.2.78\"}", &hook)?;
    wait::until_true("the report has led to a block", SOON, || {
        Ok(daemon.cli.run(&["block", "test", "192.0.2.78"])?.code == 0)
    })?;
    Ok(())
}

#[test]
fn what_is_kept_is_enough() {
    in_lab("enough", |lab| {
        let directory = lab.scratch.path("etc");
        fs::create_dir(&directory)?;
        let config = configured(lab, &directory)?;
        let mut daemon = Daemon::start(lab, &config)?;
        all_are_served(lab, &daemon, &directory)?;
        everything_works(lab, &mut daemon, &config)
    });
}

/// Without root: a user whose are the state and the pins, with three ambient capabilities, a group for the hook, and nothing
/// else to be had.
#[test]
fn a_user_of_its_own_is_enough() {
    in_lab("user", |lab| {
        let theirs = [lab.scratch.path("user"), lab.scratch.bpffs().join("user")];
        for directory in &theirs {
            fs::create_dir(directory)?;
            chown(directory, Some(USER), Some(USER))?;
        }
        let config = configured(lab, &theirs[0])?;
        for name in ["api.key", "api.pem"] {
            chown(theirs[0].join(name), Some(USER), Some(USER))?;
        }
        // Wherever the build is, others need not get there.
        let program = lab.scratch.path("limiterd");
        fs::copy(lab.binary("limiterd")?, &program)?;
        let mut daemon = Daemon::prepare(lab, "user/limiter", &config)?;
        daemon.use_program(program);
        let capabilities = format!("-all,+{}", KEPT.join(",+").to_lowercase());
        daemon.wrapper = [
            "setpriv",
            &format!("--reuid={USER}"),
            &format!("--regid={USER}"),
            &format!("--groups={GROUP}"),
            &format!("--bounding-set={capabilities}"),
            &format!("--inh-caps={capabilities}"),
            &format!("--ambient-caps={capabilities}"),
        ]
        .map(str::to_owned)
        .to_vec();
        daemon.restart()?;
        let owner = fs::metadata(format!("/proc/{}", daemon.pid()?))?.uid();
        ensure!(owner == USER, "the daemon runs as {owner}");
        ensure_kept(&daemon, &KEPT)?;
        all_are_served(lab, &daemon, &theirs[0])?;
        everything_works(lab, &mut daemon, &config)
    });
}

/// Waits until the daemon answers and its status has a text at this place (RFC 6901).
fn told(daemon: &Daemon, place: &str) -> Result<String> {
    let (told, _) = wait::until("the daemon tells", SOON, || {
        let answer = daemon.cli.run(&["status", "--json"])?;
        if answer.code == 3 {
            return Ok(None);
        }
        Ok(answer.json()?.pointer(place).and_then(|text| text.as_str()).map(str::to_owned))
    })?;
    Ok(told)
}

/// Root has no right to files of others any more, and is told so.
#[test]
fn files_of_others_are_not_read() {
    in_lab("others", |lab| {
        let file = lab.scratch.write("theirs.txt", "198.51.100.9\n")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        chown(&file, Some(USER), Some(USER))?;
        let tables = format!("[[list]]\nname = \"theirs\"\naction = \"block\"\nfile = {file:?}\n");
        let mut daemon = Daemon::prepare(lab, "limiter", &Config { tables, ..Config::default() })?;
        daemon.launch()?;
        let problem = told(&daemon, "/lists/0/problem")?;
        ensure!(problem.contains("by owner and mode"), "{problem}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        daemon.cli.ok("reload")?;
        ensure!(daemon.cli.run(&["block", "test", "198.51.100.9"])?.code == 0, "readable, and not read");
        Ok(())
    });
}

/// The one that hangs on a link of somebody else, whose name cannot be asked for.
#[test]
fn what_is_not_known_of_a_stranger_is_said() {
    in_lab("unnamed", |lab| {
        stranger::attach(lab, HOST.interface)?;
        let mut daemon = Daemon::prepare(lab, "limiter", &Config::default())?;
        daemon.launch()?;
        let problem = told(&daemon, "/interfaces/0/problem")?;
        ensure!(problem.contains("bpftool prog show id"), "{problem}");
        ensure_kept(&daemon, &KEPT)
    });
}
