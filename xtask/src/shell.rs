//! Running other programs: in sight, for their output, or quietly behind one line of progress.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::workspace;

/// Runs to the end, with the terminal as input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", describe(command)))?;
    check(command, status)
}

/// Runs to the end and returns what went to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", describe(command)))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", describe(command), output.status, message.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the program could be started and succeeded; its output goes nowhere.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Runs behind one line on standard error that says what is being done and for how long; the output is kept in a
/// file, whose end is shown when the program fails. A program that takes longer than `limit` is killed.
pub(crate) fn run_behind_progress(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let log = log_file(what)?;
    let (out, err) = {
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        (file.try_clone().context("opening a log file twice")?, file)
    };
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    eprint!("setup: {what} …");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("starting {}", describe(command)))?;
    let mut shown = 0;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for a program")? {
            break status;
        }
        let elapsed = start.elapsed();
        if elapsed > limit {
            // It may have ended in between; either way it is gone.
            let _ = child.kill();
            let _ = child.wait();
            eprintln!(" stopped after {} s", elapsed.as_secs());
            bail!("{} took longer than {} s", describe(command), limit.as_secs());
        }
        if terminal && elapsed.as_secs() > shown {
            shown = elapsed.as_secs();
            eprint!("\rsetup: {what} … {shown} s");
            std::io::stderr().flush().context("writing to the terminal")?;
        }
        thread::sleep(Duration::from_millis(50));
    };
    if terminal {
        eprint!("\rsetup: {what} …");
    }
    eprintln!(" {} after {} s", if status.success() { "done" } else { "failed" }, start.elapsed().as_secs());
    if !status.success() {
        let text =
            fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(12)..].join("\n  ");
        let detail = anyhow!("{} ends with:\n  {end}", log.display());
        return Err(detail.context(format!("{} failed ({status})", describe(command))));
    }
    Ok(())
}

fn log_file(what: &str) -> Result<std::path::PathBuf> {
    let directory = workspace::target()?.join("setup");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(directory.join(format!("{name}.log")))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed ({status})", describe(command));
    }
    Ok(())
}

/// The command as one would type it, without its environment.
pub(crate) fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    command.get_args().fold(name, |text, argument| text + " " + &argument.to_string_lossy())
}
