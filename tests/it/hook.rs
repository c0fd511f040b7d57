//! Reports of real servers by their logs: nginx and HAProxy, configured as the documents say, have the kernel drop those who
//! run into their limits.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::cli::answer;
use limiter_tests::docs::examples;
use limiter_tests::lab::{HOST, OUTSIDE};
use limiter_tests::tcp::get;
use limiter_tests::{Config, Daemon, Lab, in_lab, skip, wait};

const PAGE: &str = include_str!("../../docs/reporting.md");
const PORT: u16 = 8081;
/// Who is too fast; there is another client at the address of the lab.
const OFFENDER: &str = "10.77.0.9";
/// Requests until they are blocked: those within the limit, those that are reported, and some in between.
const ENOUGH: usize = 250;
const SOON: Duration = Duration::from_secs(10);

/// A server that is gone when dropped.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::create(lab.scratch.path(&format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Self(command.spawn().with_context(|| format!("failed to start {name}"))?);
        wait::until_true(&format!("{name} serves"), SOON, || {
            if let Some(status) = server.0.try_wait()? {
                bail!("{name} ended with {status}");
            }
            Ok(get(&lab.outside, (HOST.v4, PORT).into(), "/").is_ok())
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked to end, it takes its workers along.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

fn is_here(program: &str) -> bool {
    Command::new(program).arg("-v").output().is_ok()
}

/// A daemon with the policy of the page, and its example of a hook at `socket`.
fn started(lab: &Lab, heading: &str, former: &str, socket: &Path) -> Result<Daemon> {
    let hook = examples(PAGE, heading, "toml").concat();
    ensure!(hook.contains(former), "no {former} under {heading}");
    let hook = hook.replace(former, &socket.display().to_string());
    let hook = ["www-data", "haproxy"]
        .iter()
        .fold(hook, |hook, group| hook.replace(&format!("group  = \"{group}\""), "group  = \"nogroup\""));
    let policy =
        "[[policy]]\ncategory = \"rate_limit\"\nthreshold = 10\nwithin = \"1m\"\nblock = \"escalate\"\n";
    let tables = if hook.contains("[[policy]]") { hook } else { hook + policy };
    let daemon =
        Daemon::start(lab, &Config { tables, metrics: Some("127.0.0.1:9742"), ..Config::default() })?;
    daemon.wait_logged("takes reports at")?;
    Ok(daemon)
}

/// Asks for a page as the offender, and says whether there was an answer.
fn request(lab: &Lab, path: &str) -> Result<Option<u16>> {
    let mut curl = lab.outside.command("curl");
    curl.args(["--silent", "--globoff", "--interface", OFFENDER, "--max-time", "2", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}"]).arg(format!("http://{}:{PORT}{path}", HOST.v4));
    let said = answer(curl)?;
    Ok(said.stdout.parse().ok().filter(|status| *status != 0))
}

/// The offender asks and asks, until nothing comes back any more: dropped in the kernel, and nobody else is.
fn ensure_blocked(lab: &Lab, daemon: &Daemon, owner: &str, path: &str, refusal: u16) -> Result<()> {
    lab.outside.ip(&format!("address add {OFFENDER}/24 dev {}", OUTSIDE.interface))?;
    lab.witness.watch("offender", &format!("ip saddr {OFFENDER}"))?;
    let mut statuses = Vec::new();
    while statuses.len() < ENOUGH {
        let Some(status) = request(lab, path)? else { break };
        statuses.push(status);
    }
    let refused = statuses.iter().filter(|status| **status == refusal).count();
    println!("{owner}: blocked after {} answers, {refused} of them {refusal}", statuses.len());
    ensure!(statuses.len() < ENOUGH, "never blocked: {statuses:?}");
    ensure!(statuses.len() > 10 && refused >= 9, "not what limits look like: {statuses:?}");

    // Retransmissions of what was under way are dropped too, but come whenever they like.
    wait::until_true("it is in the list", SOON, || {
        Ok(daemon.cli.run(&["block", "test", OFFENDER])?.code == 0)
    })?;
    let (passed, dropped) = (lab.witness.count("offender")?, daemon.cli.counter(HOST.interface, "blocked")?);
    ensure!(request(lab, "/")?.is_none(), "the offender is answered");
    ensure!(lab.witness.count("offender")? == passed, "packets of the offender got through");
    ensure!(daemon.cli.counter(HOST.interface, "blocked")? > dropped, "nothing was dropped");
    let (status, _) = get(&lab.outside, (HOST.v4, PORT).into(), "/")?;
    ensure!(status.contains(" 200 "), "somebody else is answered with {status}");

    let claims = daemon.cli.ok(&format!("block list --owner app:{owner}"))?;
    ensure!(claims.contains(OFFENDER) && claims.contains("rate_limit: 10 within 1m"), "{claims}");
    let (_, metrics) = get(&lab.host, "127.0.0.1:9742".parse()?, "/metrics")?;
    let frames = |outcome: &str| {
        let sample = format!("limiter_hook_frames_total{{hook=\"{owner}\",outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&sample)?.parse::<u64>().ok())
    };
    ensure!(frames("counted") >= Some(10), "counted: {:?}", frames("counted"));
    ensure!(frames("invalid") == Some(0), "invalid: {:?}\n{}", frames("invalid"), daemon.log());
    Ok(())
}

#[test]
fn rejections_of_nginx_become_blocks() {
    if !is_here("nginx") {
        return skip("rejections_of_nginx_become_blocks", "there is no nginx");
    }
    in_lab("nginx", |lab| {
        let socket = lab.scratch.path("run/nginx.sock");
        let daemon = started(lab, "Logs of servers", "/run/limiter/nginx.sock", &socket)?;
        let example = examples(PAGE, "nginx", "nginx").concat();
        let (http, server) = example.split_once("# In a server or location:").context("two parts")?;
        let here = lab.scratch.path("nginx");
        fs::create_dir(&here)?;
        fs::write(here.join("index.html"), "a page\n")?;
        let shown = here.display();
        let server = server
            .replace("/var/log/nginx", &shown.to_string())
            .replace("/run/limiter/nginx.sock", &socket.display().to_string());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {shown}/{kind};"))
            .concat();
        let text = format!(
            "user nobody nogroup;\ndaemon off;\npid {shown}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\n{temporary}\n{http}\nserver {{\nlisten {}:{PORT};\nroot {shown};\n{server}\n}}\n}}\n",
            HOST.v4
        );
        let config = lab.scratch.write("nginx.conf", text)?;
        let mut command = lab.host.command("nginx");
        command.arg("-p").arg(&here).arg("-e").arg("stderr").arg("-c").arg(config);
        let server = Server::start(lab, command)?;
        ensure_blocked(lab, &daemon, "nginx", "/", 503)?;
        drop(server);
        ended(daemon, &socket)
    });
}

#[test]
fn rate_violations_of_haproxy_become_blocks() {
    if !is_here("haproxy") {
        return skip("rate_violations_of_haproxy_become_blocks", "there is no haproxy");
    }
    in_lab("haproxy", |lab| {
        // As Debian has it: in a chroot, and as somebody who is nobody.
        let chroot = lab.scratch.path("chroot");
        let socket = chroot.join("dev/limiter.sock");
        let daemon = started(lab, "HAProxy", "/var/lib/haproxy/dev/limiter.sock", &socket)?;
        let frontend = examples(PAGE, "HAProxy", "haproxy")
            .concat()
            .replace("bind :80", &format!("bind {}:{PORT}", HOST.v4))
            .replace("default_backend app", "http-request return status 200");
        let text = format!(
            "global\n    chroot {}\n    user nobody\n    group nogroup\n    log /dev/log local0 info\n\
             defaults\n    mode http\n    timeout client 5s\n    timeout server 5s\n    timeout connect 5s\n{frontend}",
            chroot.display()
        );
        let config = lab.scratch.write("haproxy.cfg", text)?;
        let mut command = lab.host.command("haproxy");
        command.arg("-db").arg("-f").arg(config);
        let server = Server::start(lab, command)?;
        // What a client makes long, or full of quotes, does not break the object.
        let path = format!("/{}", "\"\\%22".repeat(1_000));
        ensure_blocked(lab, &daemon, "haproxy", &path, 429)?;
        drop(server);
        ended(daemon, &socket)
    });
}

/// Nothing is left of the hook.
fn ended(mut daemon: Daemon, socket: &Path) -> Result<()> {
    let status = daemon.terminate()?;
    ensure!(status.success(), "SIGTERM: {status}");
    ensure!(!socket.exists(), "{} is left", socket.display());
    Ok(())
}
