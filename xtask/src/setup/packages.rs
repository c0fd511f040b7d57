//! Programs that come from the system's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{shell, workspace};

/// What apt may take.
const LIMIT: Duration = Duration::from_secs(900);

/// A program of the system that some command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Network namespaces, veth pairs and addresses, for tests and demo.
    Ip,
    /// Offloads of test interfaces.
    Ethtool,
    /// The witness behind XDP: nftables counts what got through.
    Nft,
    /// Looking at programs and maps from outside.
    Bpftool,
    /// What the benchmark compares large lists with, beside nftables.
    Ipset,
    /// What people call the API with.
    Curl,
    /// What applications that report are written in, as in the documents.
    Python,
    Go,
    /// What judges the unit.
    SystemdAnalyze,
}

impl Tool {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Ip,
        Self::Ethtool,
        Self::Nft,
        Self::Bpftool,
        Self::Ipset,
        Self::Curl,
        Self::Python,
        Self::Go,
        Self::SystemdAnalyze,
    ];
    /// Those of the tests.
    pub(crate) const OF_TESTS: [Self; 8] = [
        Self::Ip,
        Self::Ethtool,
        Self::Nft,
        Self::Bpftool,
        Self::Curl,
        Self::Python,
        Self::Go,
        Self::SystemdAnalyze,
    ];
    /// Those of the benchmark.
    pub(crate) const OF_BENCH: [Self; 5] = [Self::Ip, Self::Ethtool, Self::Nft, Self::Bpftool, Self::Ipset];

    fn program(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ethtool => "ethtool",
            Self::Nft => "nft",
            Self::Bpftool => "bpftool",
            Self::Ipset => "ipset",
            Self::Curl => "curl",
            Self::Python => "python3",
            Self::Go => "go",
            Self::SystemdAnalyze => "systemd-analyze",
        }
    }

    /// The Debian package; other distributions use the same names but for `iproute`.
    fn package(self) -> &'static str {
        match self {
            Self::Ip => "iproute2",
            Self::Ethtool => "ethtool",
            Self::Nft => "nftables",
            Self::Bpftool => "bpftool",
            Self::Ipset => "ipset",
            Self::Curl => "curl",
            Self::Python => "python3",
            Self::Go => "golang-go",
            Self::SystemdAnalyze => "systemd",
        }
    }
}

/// Installs those of `tools` that are not there.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| workspace::find_program(tool.program()).is_none())
        .map(|tool| tool.package())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing).with_context(|| format!("{} must be installed", missing.join(", ")))
}

/// Installs packages by apt; refreshes its lists only if it does not know them or cannot download them.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if workspace::find_program("apt-get").is_none() {
        bail!("there is no apt-get here; install {} by this system's package manager", packages.join(", "));
    }
    if !workspace::is_root() {
        bail!(
            "only root can install packages; run: sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    let what = format!("installing {}", packages.join(" "));
    if known(packages) && shell::run_behind_progress(&what, apt("install").args(packages), LIMIT).is_ok() {
        return Ok(());
    }
    shell::run_behind_progress("refreshing the package lists", &mut apt("update"), LIMIT)?;
    shell::run_behind_progress(&what, apt("install").args(packages), LIMIT)
}

/// Where Prometheus' programs are, `promtool` among them: `None` if they are on PATH anyway. They are unpacked beside
/// the build and not installed, since installing them would start a server.
pub(crate) fn prometheus() -> Result<Option<PathBuf>> {
    const PACKAGE: &str = "prometheus";
    if ["prometheus", "promtool"].iter().all(|program| workspace::find_program(program).is_some()) {
        return Ok(None);
    }
    let directory = workspace::target()?.join("setup").join(PACKAGE);
    let programs = directory.join("usr/bin");
    if programs.join("promtool").is_file() {
        return Ok(Some(programs));
    }
    if workspace::find_program("apt-get").is_none() {
        bail!("there is no apt-get here; install {PACKAGE} by this system's package manager");
    }
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let download = || {
        let mut command = Command::new("apt-get");
        // Root could, but its helper user may not be allowed to write here.
        command.args(["download", "-o", "APT::Sandbox::User=root", PACKAGE]).current_dir(&directory);
        shell::run_behind_progress("downloading prometheus", &mut command, LIMIT)
    };
    if !known(&[PACKAGE]) || download().is_err() {
        shell::run_behind_progress("refreshing the package lists", &mut apt("update"), LIMIT)?;
        download()?;
    }
    unpack(&directory, &directory)?;
    Ok(Some(programs))
}

/// Unpacks the packages that lie in `from` to `directory`, and removes them.
fn unpack(from: &Path, directory: &Path) -> Result<()> {
    for file in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let file = file.context("reading a directory")?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            shell::output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(directory))?;
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

/// Programs that are unpacked beside the build.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// For `PATH`.
    pub(crate) programs: PathBuf,
    /// For `LD_LIBRARY_PATH`: libraries that this system lacks.
    pub(crate) libraries: Option<PathBuf>,
}

/// Where nginx and HAProxy are: `None` if they are on PATH anyway. Not installed either, since that would have them serve.
pub(crate) fn web_servers() -> Result<Option<Unpacked>> {
    const PACKAGES: [&str; 2] = ["nginx", "haproxy"];
    if PACKAGES.iter().all(|program| workspace::find_program(program).is_some()) {
        return Ok(None);
    }
    let directory = workspace::target()?.join("setup/web-servers");
    let programs = directory.join("usr/sbin");
    let there = || PACKAGES.iter().all(|program| programs.join(program).is_file());
    if !there() {
        if workspace::find_program("apt-get").is_none() {
            bail!(
                "there is no apt-get here; install {} by this system's package manager",
                PACKAGES.join(" and ")
            );
        }
        let archives = directory.join("archives");
        fs::create_dir_all(archives.join("partial"))
            .with_context(|| format!("creating {}", archives.display()))?;
        let download = || {
            let mut command = apt("install");
            // Nothing of the system is touched, so no lock is needed, and no root.
            command.args(["--download-only", "-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root"]);
            command.arg("-o").arg(format!("Dir::Cache::archives={}", archives.display())).args(PACKAGES);
            shell::run_behind_progress("downloading nginx and haproxy", &mut command, LIMIT)
        };
        if !known(&PACKAGES) || download().is_err() {
            shell::run_behind_progress("refreshing the package lists", &mut apt("update"), LIMIT)?;
            download()?;
        }
        unpack(&archives, &directory)?;
    }
    // Debian has them in a directory for each architecture.
    let libraries = fs::read_dir(directory.join("usr/lib")).ok().and_then(|mut entries| {
        entries.find_map(|entry| {
            let path = entry.ok()?.path();
            path.file_name()?.to_str()?.ends_with("-linux-gnu").then_some(path)
        })
    });
    Ok(Some(Unpacked { programs, libraries }))
}

/// Whether apt's lists on this machine have all of `packages`.
pub(crate) fn known(packages: &[&str]) -> bool {
    shell::succeeds(apt_cache().args(packages))
}

fn apt_cache() -> Command {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--quiet=2"]);
    command
}

fn apt(action: &str) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Another apt may be at work: wait for it.
        .args([action, "--yes", "-o", "DPkg::Lock::Timeout=300"]);
    if action == "install" {
        command.arg("--no-install-recommends");
    }
    command
}
