//! The unit for systemd: judged by `systemd-analyze`, and started by a real systemd, the first process of namespaces of its
//! own, over a copy of this file system that takes no writes to the real one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use limiter_tests::cli::answer;
use limiter_tests::{Lab, in_lab, skip};

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../limiter-user/packaging");
const KEPT: [&str; 3] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];

/// The values of a directive of the unit, all of its lines together.
fn directive(unit: &str, name: &str) -> BTreeSet<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn the_unit_gives_what_is_kept_and_is_hardened() -> Result<()> {
    let path = Path::new(PACKAGING).join("limiterd.service");
    let unit = fs::read_to_string(&path)?;
    let kept: BTreeSet<String> = KEPT.map(str::to_owned).into();
    assert_eq!(directive(&unit, "AmbientCapabilities"), kept);
    assert_eq!(directive(&unit, "CapabilityBoundingSet"), kept);
    let mut command = Command::new("systemd-analyze");
    // In tenths.
    command.args(["security", "--offline=true", "--no-pager", "--threshold=20"]).arg(&path);
    let Ok(output) = command.output() else {
        skip("the_unit_gives_what_is_kept_and_is_hardened", "there is no systemd-analyze");
        return Ok(());
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(level) = text.lines().find(|line| line.contains("Overall exposure level")) else {
        bail!("no level: {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    println!("{}", level.trim());
    ensure!(output.status.success(), "more than 2.0:\n{text}");
    Ok(())
}

/// Puts another root together and starts systemd there; $1 is a directory, $2 where the binaries are, $3 the packaging.
/// Whatever it makes goes with its namespaces, but for the control groups, which it removes.
const BOOT: &str = r#"
cd "$1"
mount --make-rprivate /
mkdir groups over root
mount -t cgroup2 groups groups
group=groups/limiter-test-$$
mkdir "$group"
trap 'echo $$ > groups/cgroup.procs; find "$group" -depth -type d -exec rmdir {} +' EXIT
trap 'exit 1' TERM
echo $$ > "$group/cgroup.procs"

mount -t tmpfs over over
mkdir over/upper over/work
mount -t overlay -o "lowerdir=/,upperdir=over/upper,workdir=over/work" root root
mount -t sysfs sysfs root/sys
mount -t bpf -o mode=700 bpf root/sys/fs/bpf
mount --rbind /dev root/dev
mount -t tmpfs -o mode=755 run root/run
mount -t tmpfs tmp root/tmp
mkdir root/run/out
mount --bind . root/run/out

# Nothing is started but what is asked for.
units=root/etc/systemd/system
rm -rf "$units"
mkdir -p "$units/limiterd.service.d" "$units/limiterd-pins.service.d" root/etc/limiter root/usr/local/sbin
for target in sysinit basic shutdown; do echo '[Unit]' > "$units/$target.target"; done
cp "$3/limiterd.service" "$3/limiterd-pins.service" probe.service "$units"
cp drop-in "$units/limiterd.service.d/test.conf"
cp drop-in-of-pins "$units/limiterd-pins.service.d/test.conf"
cp "$2/limiterd" "$2/limiter" root/usr/local/sbin
cp limiter.toml root/etc/limiter
cp "$3/limiter.sysusers" root/run/limiter.sysusers
chroot root systemd-sysusers /run/limiter.sysusers
chroot root /usr/local/sbin/limiter api certificate --name localhost --out /etc/limiter
chroot root chown -R limiter: /etc/limiter

ip link set lo up
ip link add eth0 type veth peer name wire0
ip link set eth0 up
touch booting
export container=test
unshare --cgroup --pid --fork --kill-child sh -ec '
  mount -t proc proc root/proc
  mount -t cgroup2 groups root/sys/fs/cgroup
  exec chroot root /lib/systemd/systemd --system --unit=probe.service --log-target=console --show-status=no
'
"#;

/// What root does there, once the daemon has said that it is ready. Each line that is not as it should be ends it.
const PROBE: &str = r#"
set -ex
daemon=$(systemctl show --property MainPID --value limiterd)
grep -E '^(Uid|Groups|Cap|NoNewPrivs|Seccomp:)' "/proc/$daemon/status" > /run/out/status
limiter status
limiter block add 198.51.100.7
seq 1 60000 | awk '{ printf "100.64.%d.%d\n", $1 / 256, $1 % 256 }' | limiter block import -
systemctl reload limiterd
ip link delete eth0
ip link add eth0 type veth peer name wire0
ip link set eth0 up
timeout 10 sh -c 'until limiter status > /dev/null; do sleep 0.1; done'
test "$(stat -c %G /run/limiter/web.sock)" = www-data
test "$(stat -c %U /sys/fs/bpf/limiter/v*/links/eth0)" = limiter
# As the daemon sees it.
seen=/proc/$daemon/root
test "$(ls "$seen/sys/fs/bpf")" = limiter
for file in etc/limiter/limiter.toml usr/local/sbin/limiterd proc/sys/net/core/somaxconn sys/probe; do
  if touch "$seen/$file"; then exit 1; fi
done
touch "$seen/var/lib/limiter/probe"
rm "$seen/var/lib/limiter/probe"
systemctl restart limiterd
limiter block test 198.51.100.7
limiter audit verify
# What a stop and a way out leave, another start finds.
systemctl stop limiterd
limiter detach
test ! -e /sys/fs/bpf/limiter
# Its directory cannot be made for a while: it is tried again, and that is made as soon as it can be.
touch /run/out/broken
sed -i s/Restart=no/Restart=on-failure/ /etc/systemd/system/limiterd.service.d/test.conf
systemctl daemon-reload
if systemctl start limiterd; then exit 1; fi
timeout 20 sh -c 'until test "$(systemctl show --property NRestarts --value limiterd)" -ge 2; do sleep 0.1; done'
grep 'is not on a bpffs' /run/out/limiterd.log
rm /run/out/broken
timeout 20 sh -c 'until limiter status > /dev/null; do sleep 0.1; done'
systemctl show --property NRestarts limiterd
test "$(systemctl show --property ActiveState --value limiterd)" = active
echo through
"#;

const CONFIGURATION: &str = r#"
[[interface]]
name = "eth0"
[control]
group = "limiter"
[api]
listen = ["127.0.0.1:9743"]
certificate = "/etc/limiter/api.pem"
key = "/etc/limiter/api.key"
[[hook]]
name = "web"
socket = "/run/limiter/web.sock"
group = "www-data"
category = "rate_limit"
"#;

fn boot(lab: &Lab) -> Result<Option<String>> {
    let scratch = &lab.scratch;
    let logs = |name: &str| {
        format!("StandardOutput=file:/run/out/{name}.log\nStandardError=file:/run/out/{name}.log\n")
    };
    scratch.write("limiter.toml", CONFIGURATION)?;
    // For one start: else what fails is tried again and again.
    let drop_in = format!("[Service]\nSupplementaryGroups=www-data\nRestart=no\n{}", logs("limiterd"));
    scratch.write("drop-in", drop_in)?;
    scratch.write("drop-in-of-pins", "[Service]\nExecStartPre=/bin/sh -c '! test -e /run/out/broken'\n")?;
    let end = "SuccessAction=exit-force\nFailureAction=exit-force\n";
    let service = "[Service]\nType=oneshot\nExecStart=/bin/bash /run/out/probe.sh\n";
    let probe = format!(
        "[Unit]\nDefaultDependencies=no\nWants=limiterd.service\nAfter=limiterd.service\n{end}{service}{}",
        logs("probe")
    );
    scratch.write("probe.service", probe)?;
    scratch.write("probe.sh", PROBE)?;
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        "60",
        "unshare",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "sh",
        "-ec",
        BOOT,
        "boot",
    ]);
    let binaries = lab.binary("limiterd")?;
    command.arg(scratch.path("")).arg(binaries.parent().unwrap_or(Path::new("/"))).arg(PACKAGING);
    let said = answer(command)?;
    if !scratch.path("booting").exists() {
        skip(
            "a_real_systemd_starts_the_unit",
            &format!("no systemd can be started here: {}", said.stderr.trim()),
        );
        return Ok(None);
    }
    scratch.write("systemd.log", said.stdout + &said.stderr)?;
    Ok(Some(fs::read_to_string(scratch.path("probe.log"))?))
}

#[test]
fn a_real_systemd_starts_the_unit() {
    in_lab("systemd", |lab| {
        let Some(probe) = boot(lab)? else { return Ok(()) };
        ensure!(probe.trim_end().ends_with("through"), "not all is well under systemd:\n{probe}");
        let status = fs::read_to_string(lab.scratch.path("status"))?;
        println!("{status}");
        for field in [
            "CapInh:\t0000000000000000",
            "CapPrm:\t000000c000001000",
            "CapEff:\t000000c000001000",
            "CapBnd:\t000000c000001000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            // Filtered.
            "Seccomp:\t2",
        ] {
            ensure!(status.lines().any(|line| line == field), "{field:?} is not in: {status}");
        }
        ensure!(!status.contains("Uid:\t0"), "it runs as root: {status}");
        Ok(())
    });
}
