//! The real `limiter`, run as a user would.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::Namespace;

/// `limiter`, talking to one daemon.
#[derive(Debug)]
pub struct Cli {
    program: PathBuf,
    socket: PathBuf,
    namespace: Namespace,
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// −1 if it was killed.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The standard output as JSON.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {:?}", self.stdout))
    }
}

impl Cli {
    /// # Errors
    ///
    /// If it was not built.
    pub fn new(lab: &Lab, socket: PathBuf) -> Result<Self> {
        Ok(Self { program: lab.binary("limiter")?, socket, namespace: lab.host.try_clone()? })
    }

    /// The command with these arguments, to be run by the caller.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = self.namespace.command(&self.program);
        command.arg("--socket").arg(&self.socket).args(arguments);
        // From where whoever runs the tests is logged in must not matter.
        command.env("SSH_CONNECTION", "").env_remove("SSH_CLIENT").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it, whatever comes of it.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Answer> {
        answer(self.command(arguments))
    }

    /// Runs it with the words of `line`, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn ok(&self, line: &str) -> Result<String> {
        let answer = self.run(&words(line))?;
        if answer.code != 0 {
            bail!("limiter {line}: exit code {}: {}{}", answer.code, answer.stderr, answer.stdout);
        }
        Ok(answer.stdout)
    }

    /// Runs it with the words of `line` and `--json`.
    ///
    /// # Errors
    ///
    /// If it fails or prints something else.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.ok(&format!("{line} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("limiter {line} --json printed {text:?}"))
    }

    /// Packets counted for `reason` on `interface`.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or knows no such reason.
    pub fn counter(&self, interface: &str, reason: &str) -> Result<u64> {
        Ok(self.counters(interface)?.packets(reason))
    }

    /// All counters of `interface`.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or does not know it.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        let all = self.json("counters")?;
        let interfaces = all["interfaces"].as_array().context("counters without interfaces")?;
        let found = interfaces.iter().find(|found| found["interface"] == interface);
        let reasons = found
            .and_then(|found| found["reasons"].as_array())
            .with_context(|| format!("no counters of {interface} in {all}"))?;
        let count = |reason: &Value| -> Option<Count> {
            Some(Count {
                reason: reason["reason"].as_str()?.to_owned(),
                drops: reason["action"] == "drop",
                packets: reason["packets"].as_u64()?,
                bytes: reason["bytes"].as_u64()?,
            })
        };
        Ok(Counters(reasons.iter().map(count).collect::<Option<_>>().context("a counter lacks a field")?))
    }
}

/// One reason's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub reason: String,
    pub drops: bool,
    pub packets: u64,
    pub bytes: u64,
}

/// One interface's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters(pub Vec<Count>);

impl Counters {
    /// Packets for `reason`; 0 if there is no such reason.
    pub fn packets(&self, reason: &str) -> u64 {
        self.0.iter().filter(|count| count.reason == reason).map(|count| count.packets).sum()
    }

    /// Packets for all reasons.
    pub fn all_packets(&self) -> u64 {
        self.0.iter().map(|count| count.packets).sum()
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |reason: &str| earlier.0.iter().find(|count| count.reason == reason);
        Self(
            self.0
                .iter()
                .map(|count| {
                    let (packets, bytes) =
                        before(&count.reason).map_or((0, 0), |count| (count.packets, count.bytes));
                    Count {
                        packets: count.packets.saturating_sub(packets),
                        bytes: count.bytes.saturating_sub(bytes),
                        ..count.clone()
                    }
                })
                .collect(),
        )
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted = self.0.iter().filter(|count| count.packets > 0);
        let words: Vec<_> = counted.map(|count| format!("{} {}", count.reason, count.packets)).collect();
        f.write_str(&words.join(", "))
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// If it cannot be started.
pub fn answer(mut command: Command) -> Result<Answer> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("failed to start {program}"))?;
    Ok(Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The words of a command line that needs no quotes.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
