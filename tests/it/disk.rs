//! The disk of the state is full, or turns read-only: enforcement does not notice, whoever asks is told that nothing can be
//! kept, and when there is room again, all goes on by itself.
//!
//! Real file systems, in a mount namespace that ends with the test.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_tests::netns::output;
use limiter_tests::{Config, Control, Daemon, Lab, Sources, in_lab, skip, wait};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

/// A file system that only the daemon sees.
struct Disk<'a> {
    lab: &'a Lab,
    /// Where it is mounted, and what holds it if it is not memory.
    path: PathBuf,
    image: Option<PathBuf>,
    /// The process that keeps the namespace.
    holder: Child,
}

impl<'a> Disk<'a> {
    /// Mounts one at `path`: `tmpfs` or `ext4`.
    fn mount(lab: &'a Lab, kind: &str, path: &Path) -> Result<Self> {
        fs::create_dir(path)?;
        let mut holder = lab.host.command("unshare");
        holder.args(["--mount", "--propagation", "private", "sleep", "infinity"]);
        holder.stdin(Stdio::null()).stdout(Stdio::null());
        let holder = holder.spawn().context("failed to make a mount namespace")?;
        let mut disk = Self { lab, path: path.to_owned(), image: None, holder };
        // Else this would be the machine's own.
        let here = fs::read_link("/proc/self/ns/mnt")?;
        let theirs = format!("/proc/{}/ns/mnt", disk.holder.id());
        wait::until_true("there is a mount namespace", SOON, || Ok(fs::read_link(&theirs)? != here))?;
        if kind == "ext4" {
            let image = lab.scratch.path("disk.img");
            fs::File::create(&image)?.set_len(8 << 20)?;
            disk.sh(&format!("mkfs.ext4 -q -m 0 {}", image.display()))?;
            disk.image = Some(image);
        }
        disk.mount_again()?;
        Ok(disk)
    }

    fn mount_again(&self) -> Result<()> {
        let path = self.path.display();
        self.sh(&match &self.image {
            Some(image) => format!("mount -o loop,errors=remount-ro {} {path}", image.display()),
            None => format!("mount -t tmpfs -o size=4m none {path}"),
        })
    }

    /// Runs this where the file system is.
    fn sh(&self, script: &str) -> Result<()> {
        let mut command = self.lab.host.command("nsenter");
        command.arg(self.entrance()).args(["sh", "-euc", script]);
        output(command, None).map(drop).with_context(|| script.to_owned())
    }

    fn entrance(&self) -> String {
        format!("--mount=/proc/{}/ns/mnt", self.holder.id())
    }

    /// A daemon whose state is there.
    fn daemon(&self, config: &Config) -> Result<Daemon> {
        let mut daemon = Daemon::prepare(self.lab, "limiter", config)?;
        daemon.wrapper = vec!["nsenter".to_owned(), self.entrance()];
        daemon.restart()?;
        Ok(daemon)
    }

    /// Takes all room there is.
    fn fill(&self) -> Result<()> {
        // `cat` ends when there is no room. The second takes what ext4 had set aside for the first, and gives back when
        // that is written.
        let fill =
            format!("cat /dev/zero >> {} 2>/dev/null || true; sync", self.path.join("filler").display());
        self.sh(&format!("{fill}; {fill}"))
    }

    fn make_room(&self) -> Result<()> {
        self.sh(&format!("rm {}", self.path.join("filler").display()))
    }

    /// What the kernel does to a file system with an error, if it is mounted like this.
    fn fail(&self) -> Result<()> {
        let path = self.path.display();
        self.sh(&format!(
            "device=$(findmnt -no SOURCE {path}); echo 1 > /sys/fs/ext4/$(basename $device)/trigger_fs_error
             ! touch {path}/x 2>/dev/null"
        ))
    }

    /// What an operator does then.
    fn repair(&self) -> Result<()> {
        let image = self.image.as_ref().context("memory needs no repair")?.display();
        // 1: something was corrected.
        self.sh(&format!(
            "umount {}; e2fsck -fy {image} >/dev/null 2>&1 || test $? = 1",
            self.path.display()
        ))?;
        self.mount_again()
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // The daemon is gone by now, so the namespace goes, and with it what is mounted in it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn address(number: usize) -> String {
    format!("100.64.{}.{}", number / 250, 1 + number % 250)
}

fn addresses(numbers: impl Iterator<Item = usize>) -> Result<Vec<IpAddr>> {
    numbers.map(|number| Ok(address(number).parse()?)).collect()
}

/// A daemon with some blocks, over a disk that gets in the way.
struct Case<'a> {
    lab: &'a Lab,
    sources: Sources<'a>,
    daemon: Daemon,
    /// The first so many addresses are blocked, but for the very first, once it was removed.
    blocked: usize,
}

impl<'a> Case<'a> {
    fn new(lab: &'a Lab, disk: &Disk<'a>) -> Result<Self> {
        let sources = Sources::watched(lab)?;
        let daemon = disk.daemon(&Config::default())?;
        let mut case = Self { lab, sources, daemon, blocked: 0 };
        ensure!(case.add(100)?, "refused from the beginning");
        Ok(case)
    }

    /// Blocks this many more. False if the daemon says that it cannot keep them.
    fn add(&mut self, number: usize) -> Result<bool> {
        let prefixes: Vec<String> = (self.blocked..self.blocked + number).map(address).collect();
        let mut control = Control::open(&self.daemon.places.socket)?;
        let reply = control.post("/v1/blocks", &json!({ "prefixes": prefixes, "reason": "a test" }))?;
        if reply.is_ok() {
            self.blocked += number;
            return Ok(true);
        }
        ensure!(
            reply.status == 507 && reply.problem() == "not-durable",
            "not what clients wait for: {} {}",
            reply.status,
            reply.body
        );
        Ok(false)
    }

    /// What is blocked is dropped, and nothing else is.
    fn ensure_enforced(&self, removed: usize) -> Result<()> {
        let blocked = addresses((removed..self.blocked).step_by(1 + self.blocked / 200))?;
        let free = addresses((0..removed).chain(self.blocked..self.blocked + 50))?;
        self.sources.ensure_judged(&blocked, &free)
    }

    fn warnings(&self) -> Result<Vec<String>> {
        let status = self.daemon.cli.run(&["status", "--json"])?.json()?;
        let warnings = status["warnings"].as_array().context("no warnings")?;
        Ok(warnings.iter().filter_map(|warning| warning.as_str().map(str::to_owned)).collect())
    }

    /// Nothing can be stored: what is said to whom, and what is in force. Removes the first block.
    fn ensure_told(&mut self, why: &str) -> Result<()> {
        self.ensure_enforced(0)?;
        let cli = &self.daemon.cli;
        let added = cli.run(&["block", "add", "192.0.2.66"])?;
        ensure!(
            added.code == 1 && added.stderr.contains("nothing was changed") && added.stderr.contains(why),
            "block add: {added:?}"
        );
        let allowed = cli.run(&["allow", "add", "192.0.2.67"])?;
        ensure!(allowed.code == 1 && allowed.stderr.contains("restart"), "allow add: {allowed:?}");
        ensure!(cli.run(&["explain", "192.0.2.67", "--json"])?.json()?["reason"] != "blocked");
        let imported = self.lab.scratch.write("list.txt", "192.0.2.68\n192.0.2.69\n")?;
        let imported = cli.run(&["block", "import", imported.to_str().unwrap_or_default()])?;
        ensure!(imported.code == 1 && imported.stderr.contains(why), "block import: {imported:?}");
        for address in ["192.0.2.66", "192.0.2.68"] {
            ensure!(cli.run(&["block", "test", address])?.code == 5, "{address} was refused and is blocked");
        }
        // Nobody stays locked out for want of a disk.
        let removed = cli.run(&["block", "remove", &address(0)])?;
        ensure!(
            removed.code == 1 && removed.stderr.contains("in force") && removed.stderr.contains("restart"),
            "block remove: {removed:?}"
        );
        self.ensure_enforced(1)?;
        let warnings = self.warnings()?;
        println!("{why}: {}; {}; {warnings:?}", added.stderr.trim(), removed.stderr.trim());
        for what in ["the state in", "the audit trail in"] {
            ensure!(
                warnings.iter().any(|warning| {
                    warning.contains(what) && warning.contains("cannot be written") && warning.contains(why)
                }),
                "no word about {what} …: {warnings:?}"
            );
        }
        Ok(())
    }

    /// Asks for a token. False if it is refused, and then it must not be shown.
    fn token(&self, name: &str) -> Result<bool> {
        let token = self.daemon.cli.run(&["token", "create", "--name", name, "--scope", "report"])?;
        ensure!(
            token.code == 0 || token.code == 1 && token.stdout.is_empty(),
            "a token that cannot be kept: {token:?}"
        );
        Ok(token.code == 0)
    }

    /// By itself, with the next request.
    fn ensure_recovered(&mut self) -> Result<()> {
        let begun = self.blocked;
        ensure!(self.add(10)?, "there is room, and nothing is kept");
        ensure!(self.blocked == begun + 10);
        let warnings = self.warnings()?;
        ensure!(!warnings.iter().any(|warning| warning.contains("written")), "{warnings:?}");
        self.ensure_enforced(1)?;
        Ok(())
    }

    /// What was acknowledged, and what was in force all the same.
    fn ensure_kept(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.remove_pins()?;
        self.daemon.restart()?;
        self.ensure_enforced(1)?;
        let listed = self.daemon.cli.ok("block list --json")?.lines().count();
        ensure!(listed == self.blocked - 1, "{listed} blocks are listed, of {}", self.blocked - 1);
        let allowed = self.daemon.cli.ok("allow list --json")?;
        ensure!(allowed.contains("192.0.2.67"), "the allow is gone: {allowed}");
        Ok(())
    }
}

fn full(kind: &'static str) {
    in_lab(kind, |lab| {
        let disk = Disk::mount(lab, kind, &lab.scratch.path("limiter-state"))?;
        let mut case = Case::new(lab, &disk)?;
        disk.fill()?;
        // The file of the state has room of its own for a while, and makes some when it is opened again.
        for number in [500, 50, 5, 1] {
            while case.add(number)? || case.add(number)? {
                ensure!(case.blocked < 20_000, "the disk is not full");
                disk.fill()?;
            }
        }
        // And so may have that of the trail.
        wait::until_true("the trail is full", SOON, || {
            case.daemon.cli.run(&["block", "add", "10.77.0.1"])?;
            Ok(case.warnings()?.iter().any(|warning| warning.contains("the audit trail")))
        })?;
        case.ensure_told("No space left on device")?;
        // Tokens are in a file of their own, which has room whenever another file gave some back.
        let mut names = (0..).map(|number: u32| format!("shop-{number}"));
        wait::until_true("no token can be kept", SOON, || {
            disk.fill()?;
            Ok(!case.token(&names.next().context("no end")?)?)
        })?;
        disk.make_room()?;
        case.ensure_recovered()?;
        disk.sh(&verify(lab, &disk)?)?;
        case.ensure_kept()
    });
}

/// Skips the test if not.
fn has_loop_devices(name: &str) -> bool {
    let has = Path::new("/dev/loop-control").exists();
    if !has {
        skip(name, "there are no loop devices");
    }
    has
}

/// The command that looks at the trail.
fn verify(lab: &Lab, disk: &Disk<'_>) -> Result<String> {
    let trail = disk.path.join("audit");
    let limiter = lab.binary("limiter")?;
    Ok(format!(
        "grep -q '\"missed\":' {trail}/audit.jsonl; {limiter} audit verify --directory {trail}",
        trail = trail.display(),
        limiter = limiter.display()
    ))
}

#[test]
fn a_full_tmpfs() {
    full("tmpfs");
}

#[test]
fn a_full_ext4() {
    if !has_loop_devices("a_full_ext4") {
        return;
    }
    full("ext4");
}

/// As the kernel makes it of a disk that has failed.
#[test]
fn a_disk_that_turns_read_only() {
    if !has_loop_devices("a_disk_that_turns_read_only") {
        return;
    }
    in_lab("readonly", |lab| {
        let disk = Disk::mount(lab, "ext4", &lab.scratch.path("limiter-state"))?;
        let mut case = Case::new(lab, &disk)?;
        disk.fail()?;
        ensure!(!case.add(1)?, "kept on a disk that cannot be written");
        case.ensure_told("")?;
        ensure!(!case.token("shop")?, "a token on a disk that cannot be written");
        disk.repair()?;
        case.ensure_recovered()?;
        disk.sh(&verify(lab, &disk)?)?;
        case.ensure_kept()
    });
}

#[test]
fn a_start_on_a_read_only_disk() {
    if !has_loop_devices("a_start_on_a_read_only_disk") {
        return;
    }
    in_lab("start", |lab| {
        let disk = Disk::mount(lab, "ext4", &lab.scratch.path("limiter-state"))?;
        let mut case = Case::new(lab, &disk)?;
        case.daemon.terminate()?;
        disk.sh(&format!("mount -o remount,ro {}", disk.path.display()))?;
        case.daemon.restart()?;
        ensure!(!case.add(1)?, "kept on a disk that cannot be written");
        case.ensure_told("Read-only file system")?;
        ensure!(!case.token("shop")?, "a token on a disk that cannot be written");
        let listed = case.daemon.cli.ok("block list --json")?.lines().count();
        ensure!(listed == case.blocked - 1, "{listed} blocks are listed, of {}", case.blocked - 1);
        disk.sh(&format!("mount -o remount,rw {}", disk.path.display()))?;
        case.ensure_recovered()?;
        disk.sh(&verify(lab, &disk)?)?;
        case.ensure_kept()
    });
}
