//! `cargo xtask test`: all tests, and one sum of them.
//!
//! Two runs: the crates' own tests, then the package `limiter-tests`, whose tests need root and a kernel and run one
//! after the other, against the optimised binaries. It is told where these are by `LIMITER_BIN_DIR`. A test that finds
//! out only while running that it has to be skipped appends a line `name: reason` to the file `LIMITER_SKIPPED_FILE`
//! and returns; such tests count as skipped here, not as passed.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, setup, shell, workspace};

/// Options of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only tests with this in their names
    filter: Option<String>,
    /// Run only the tests that need neither root nor a kernel with BPF
    #[arg(long, conflicts_with = "kernel")]
    host: bool,
    /// Run only the tests that need root
    #[arg(long)]
    kernel: bool,
    /// Show what passing tests print, such as measured figures
    #[arg(long)]
    show_output: bool,
}

/// What the lines of the test programs add up to.
#[derive(Default)]
struct Sum {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Names of those that failed.
    failures: Vec<String>,
    /// Those that did not run, each with its reason.
    skipped: Vec<String>,
    /// Test programs that crashed, and builds that failed.
    broken: Vec<String>,
    /// Whether the lines to come are names of failed tests.
    in_failures: bool,
}

/// Runs the tests; fails if one did, or if none ran.
pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    if !arguments.host && !workspace::is_root() {
        bail!(
            "the kernel tests need root; run: sudo env PATH=\"$PATH\" HOME=\"$HOME\" cargo xtask test, or only the \
             others: cargo xtask test --host"
        );
    }
    let start = Instant::now();
    let mut sum = Sum::default();
    if !arguments.kernel {
        setup::toolchain()?;
        let mut host = workspace::cargo()?;
        host.args([
            "test",
            "--locked",
            "--no-fail-fast",
            "--workspace",
            "--exclude",
            "limiter-tests",
            "--all-features",
        ]);
        sum.run(host.arg("--").args(options(arguments)))?;
    }
    if !arguments.host {
        build::binaries()?;
        setup::tools(&setup::Tool::OF_TESTS)?;
        let skipped = workspace::target()?.join("skipped-tests");
        fs::write(&skipped, "").with_context(|| format!("creating {}", skipped.display()))?;
        let mut kernel = workspace::cargo()?;
        // Optimised as the binaries are, since the tests also generate traffic and measure rates.
        kernel.args(["test", "--locked", "--release", "--no-fail-fast", "--package", "limiter-tests"]);
        kernel.env("LIMITER_BIN_DIR", workspace::binaries()?).env("LIMITER_SKIPPED_FILE", &skipped);
        let servers = setup::web_servers();
        let libraries = servers.as_ref().and_then(|servers| servers.libraries.clone());
        let programs = setup::prometheus().into_iter().chain(servers.map(|servers| servers.programs));
        kernel.env("PATH", longer("PATH", programs)?);
        if libraries.is_some() {
            kernel.env("LD_LIBRARY_PATH", longer("LD_LIBRARY_PATH", libraries)?);
        }
        sum.run(kernel.args(["--", "--test-threads=1"]).args(options(arguments)))?;
        let late = fs::read_to_string(&skipped).with_context(|| format!("reading {}", skipped.display()))?;
        sum.add_late_skips(&late);
    }
    sum.print(start.elapsed().as_secs());
    sum.verdict()
}

/// The search path in `variable` with more directories behind.
fn longer(variable: &str, more: impl IntoIterator<Item = PathBuf>) -> Result<OsString> {
    let path = std::env::var_os(variable).unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|directory| *directory != Path::new(""));
    std::env::join_paths(directories.chain(more)).with_context(|| format!("{variable} with more directories"))
}

fn options(arguments: &Arguments) -> Vec<String> {
    let show = arguments.show_output.then(|| "--show-output".to_owned());
    show.into_iter().chain(arguments.filter.clone()).collect()
}

impl Sum {
    /// Runs one `cargo test`, passing its output on and counting on the way.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        let failed = self.failed;
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", shell::describe(command)))?;
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped"));
        for line in lines.split(b'\n') {
            let line = line.context("reading the output of cargo test")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            self.count(&line);
        }
        let status = child.wait().context("waiting for cargo test")?;
        if !status.success() && self.failed == failed {
            self.broken.push(format!("{} ({status})", shell::describe(command)));
        }
        Ok(())
    }

    /// Takes what one line of libtest's output says.
    fn count(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |label| {
                result.split([';', '.']).find_map(|part| part.trim().strip_suffix(label)?.trim().parse().ok())
            };
            self.passed += number("passed").unwrap_or(0);
            self.failed += number("failed").unwrap_or(0);
            self.ignored += number("ignored").unwrap_or(0);
            self.in_failures = false;
        } else if line == "failures:" {
            self.in_failures = true;
        } else if let Some(name) = line.strip_prefix("    ")
            && self.in_failures
            && !self.failures.iter().any(|known| known == name)
        {
            self.failures.push(name.to_owned());
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
            && let Some(reason) = outcome.strip_prefix("ignored")
        {
            self.skipped.push(format!("{name}: {}", reason.strip_prefix(", ").unwrap_or("no reason given")));
        } else if line.starts_with("---- ") {
            // The first of the two lists called "failures:" is what the tests printed.
            self.in_failures = false;
        }
    }

    /// Takes over the skips that tests found out about while running; libtest counted them as passed.
    fn add_late_skips(&mut self, lines: &str) {
        for line in lines.lines() {
            self.passed = self.passed.saturating_sub(1);
            self.ignored += 1;
            self.skipped.push(line.to_owned());
        }
    }

    fn print(&self, seconds: u64) {
        println!();
        for (what, names) in
            [("failed", &self.failures), ("broken", &self.broken), ("skipped", &self.skipped)]
        {
            for name in names {
                println!("{what}: {name}");
            }
        }
        println!(
            "tests run: {}, passed: {}, failed: {}, skipped: {}, in {seconds} s",
            self.passed + self.failed,
            self.passed,
            self.failed,
            self.ignored,
        );
    }

    fn verdict(&self) -> Result<()> {
        if self.failed > 0 || !self.broken.is_empty() {
            bail!("{} tests failed, {} test runs broke", self.failed, self.broken.len());
        }
        if self.passed == 0 {
            bail!("no test ran; is there one with that in its name?");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test parse::vlan ... ok
test parse::qinq ... FAILED
test slow ... ignored, takes an hour
test odd ... ignored
test src/lib.rs - decide (line 3) ... ok

failures:

---- parse::qinq stdout ----
    an indented line of its output

failures:
    parse::qinq

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; finished in 0.00s
test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";

    #[test]
    fn lines_of_libtest_add_up() {
        let mut sum = Sum::default();
        OUTPUT.lines().for_each(|line| sum.count(line));
        sum.add_late_skips("generic_mode: this kernel has none");
        assert_eq!((sum.passed, sum.failed, sum.ignored), (6, 1, 3));
        assert_eq!(sum.failures, ["parse::qinq"]);
        assert_eq!(
            sum.skipped,
            ["slow: takes an hour", "odd: no reason given", "generic_mode: this kernel has none"]
        );
        assert!(sum.verdict().is_err());
    }

    #[test]
    fn search_paths_grow() {
        let more = || [PathBuf::from("/a/bin"), PathBuf::from("/b")];
        // Without the empty directory, which is the current one.
        assert_eq!(longer("LIMITER_NO_SUCH_VARIABLE", more()).unwrap(), "/a/bin:/b");
        let path = longer("PATH", more()).unwrap().into_string().unwrap();
        assert!(path.ends_with(":/a/bin:/b") && path.len() > ":/a/bin:/b".len(), "{path}");
    }

    #[test]
    fn a_run_without_tests_is_not_a_success() {
        assert!(Sum::default().verdict().is_err());
    }
}
