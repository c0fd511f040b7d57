//! `cargo xtask dist`: what a package needs, in `target/dist`, and all of it as one tarball.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, shell, workspace};

/// Files of the repository that belong beside the binaries, and where they go.
const FILES: [(&str, &str); 8] = [
    ("limiter-user/packaging/limiterd.service", "lib/systemd/system/limiterd.service"),
    ("limiter-user/packaging/limiterd-pins.service", "lib/systemd/system/limiterd-pins.service"),
    ("limiter-user/packaging/limiter.sysusers", "lib/sysusers.d/limiter.conf"),
    ("limiter-user/config.example.toml", "share/doc/limiter/limiter.toml"),
    ("README.md", "share/doc/limiter/README.md"),
    ("CHANGELOG.md", "share/doc/limiter/CHANGELOG.md"),
    ("LICENSE-MIT", "share/doc/limiter/LICENSE-MIT"),
    ("LICENSE-APACHE", "share/doc/limiter/LICENSE-APACHE"),
];

/// Shells, and where their completions go under the names that they look for.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/limiter"),
    ("zsh", "share/zsh/site-functions/_limiter"),
    ("fish", "share/fish/vendor_completions.d/limiter.fish"),
];

/// Builds everything afresh and prints the path of the tarball.
pub(crate) fn dist() -> Result<()> {
    build::binaries()?;
    let binaries = workspace::binaries()?;
    let limiter = binaries.join("limiter");
    let dist = workspace::target()?.join("dist");
    let name = format!("limiter-{}-linux-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let tree = dist.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    }

    copy(&binaries.join("limiterd"), &tree.join("sbin/limiterd"))?;
    copy(&limiter, &tree.join("bin/limiter"))?;
    for (from, to) in FILES {
        copy(&workspace::root().join(from), &tree.join(to))?;
    }
    for (shell, to) in COMPLETIONS {
        let script = shell::output(Command::new(&limiter).args(["completions", shell]))?;
        write(&tree.join(to), &script)?;
    }
    let man = tree.join("share/man/man1");
    fs::create_dir_all(&man).with_context(|| format!("creating {}", man.display()))?;
    shell::output(Command::new(&limiter).arg("man").arg(&man))?;

    let tarball = dist.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--owner=0", "--group=0", "--sort=name", "--file"]).arg(&tarball);
    shell::run(tar.arg("--directory").arg(&dist).arg(&name))?;
    println!("{}", tarball.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().expect("every file goes into a directory");
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

fn write(to: &Path, text: &str) -> Result<()> {
    let directory = to.parent().expect("every file goes into a directory");
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    fs::write(to, text).with_context(|| format!("writing {}", to.display()))
}
