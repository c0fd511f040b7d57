//! The real `limiterd`, in the namespace of the protected host, with configuration, socket, state and pins of its own.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::Cli;
use crate::lab::{HOST, Lab};
use crate::netns::Namespace;
use crate::wait;

/// How long a daemon may take to be ready, or to end when asked to.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is written into the configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Interfaces to protect.
    pub interfaces: Vec<String>,
    /// `native`, `generic` or `auto`.
    pub mode: &'static str,
    pub protected: Vec<String>,
    /// Where metrics are served; nowhere if `None`.
    pub metrics: Option<&'static str>,
    /// Whatever else: `[[rule]]`, `[[list]]`, `[capacity]`.
    pub tables: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: vec![HOST.interface.to_owned()],
            mode: "native",
            protected: Vec::new(),
            metrics: None,
            tables: String::new(),
        }
    }
}

/// Where a daemon keeps its things.
#[derive(Debug, Clone)]
pub struct Places {
    pub config: PathBuf,
    pub socket: PathBuf,
    pub state: PathBuf,
    pub pins: PathBuf,
    pub log: PathBuf,
}

impl Places {
    /// The places of the daemon called `name`, so that several can live side by side.
    pub fn new(lab: &Lab, name: &str) -> Self {
        Self {
            config: lab.scratch.path(&format!("{name}.toml")),
            socket: lab.scratch.path(&format!("{name}.sock")),
            state: lab.scratch.path(&format!("{name}-state")),
            pins: lab.scratch.bpffs().join(name),
            log: lab.scratch.path(&format!("{name}.log")),
        }
    }

    /// The configuration file's text.
    pub fn text(&self, config: &Config) -> String {
        let quoted: Vec<_> = config.protected.iter().map(|prefix| format!("{prefix:?}")).collect();
        let mut text = format!("protected = [{}]\n", quoted.join(", "));
        for interface in &config.interfaces {
            text += &format!("\n[[interface]]\nname = {interface:?}\nmode = {:?}\n", config.mode);
        }
        text += &format!("\n{}\n", config.tables);
        text += &format!("\n[control]\nsocket = {:?}\n", self.socket);
        let metrics = config.metrics.map_or_else(|| "false".to_owned(), |address| format!("{address:?}"));
        text += &format!("\n[metrics]\nlisten = {metrics}\n");
        text += &format!("\n[state]\ndirectory = {:?}\n", self.state);
        text + &format!("\n[pins]\ndirectory = {:?}\n", self.pins)
    }
}

/// A daemon that may be running.
#[derive(Debug)]
pub struct Daemon {
    pub cli: Cli,
    pub places: Places,
    /// Started instead of the daemon, with the daemon's command line behind it.
    pub wrapper: Vec<String>,
    /// Arguments beside `--config`.
    pub arguments: Vec<String>,
    program: PathBuf,
    namespace: Namespace,
    child: Option<Child>,
}

impl Daemon {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it is not ready in time, or ends before.
    pub fn start(lab: &Lab, config: &Config) -> Result<Self> {
        let mut daemon = Self::prepare(lab, "limiter", config)?;
        daemon.launch()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Writes the configuration of a daemon called `name`, and starts nothing yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn prepare(lab: &Lab, name: &str, config: &Config) -> Result<Self> {
        let places = Places::new(lab, name);
        std::fs::write(&places.config, places.text(config))?;
        Ok(Self {
            cli: Cli::new(lab, places.socket.clone())?,
            places,
            wrapper: Vec::new(),
            arguments: Vec::new(),
            program: lab.binary("limiterd")?,
            namespace: lab.host.try_clone()?,
            child: None,
        })
    }

    /// Runs this one instead of what was built.
    pub fn use_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Replaces the configuration file; the daemon does not know yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn configure(&self, config: &Config) -> Result<()> {
        Ok(std::fs::write(&self.places.config, self.places.text(config))?)
    }

    /// The daemon's command line, to be run by the caller.
    pub fn command(&self) -> Command {
        let daemon = &self.program;
        let mut words = self.wrapper.iter();
        let mut command = match words.next() {
            Some(wrapper) => {
                let mut command = self.namespace.command(wrapper);
                command.args(words).arg(daemon);
                command
            }
            None => self.namespace.command(daemon),
        };
        command.arg("--config").arg(&self.places.config).args(&self.arguments);
        command.env("RUST_BACKTRACE", "1").env_remove("NOTIFY_SOCKET");
        // Ctrl-C is for the tests; the daemon goes when they go.
        command.process_group(0).stdin(Stdio::null());
        command
    }

    /// Starts it, and does not wait.
    ///
    /// # Errors
    ///
    /// If it runs already, or cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon runs already");
        let log = OpenOptions::new().create(true).append(true).open(&self.places.log)?;
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("failed to start limiterd")?);
        Ok(())
    }

    /// Waits until `limiter status` says ready, and returns how long that took.
    ///
    /// # Errors
    ///
    /// If it is not in time, or the daemon ended.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        let mut last = String::new();
        let waited = wait::until_true("limiterd is ready", PATIENCE, || {
            if let Some(status) = self.ended()? {
                bail!("limiterd ended with {status} before it was ready:\n{}", self.log());
            }
            let answer = self.cli.run(&["status"])?;
            last = format!("limiter status: exit code {}: {}{}", answer.code, answer.stderr, answer.stdout);
            Ok(answer.code == 0)
        });
        waited.with_context(|| format!("{last}\n{}", self.log()))
    }

    /// Starts it again, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`Self::launch`] and [`Self::wait_ready`].
    pub fn restart(&mut self) -> Result<Duration> {
        self.launch()?;
        self.wait_ready()
    }

    /// Its process.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the daemon does not run")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("failed to send {signal}"))
    }

    /// Kills it the hard way.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_ended().map(drop)
    }

    /// Asks it to end, and waits until it did.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_ended()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn wait_ended(&mut self) -> Result<ExitStatus> {
        let (status, _) = wait::until("limiterd ended", PATIENCE, || self.ended())?;
        self.child = None;
        Ok(status)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().context("the daemon does not run")?.try_wait()?)
    }

    /// What all its runs have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.places.log).unwrap_or_default()
    }

    /// Forgets what was logged, so that [`Self::log`] tells what is new.
    ///
    /// # Errors
    ///
    /// If the file is not writable.
    pub fn clear_log(&self) -> Result<()> {
        File::create(&self.places.log)?;
        Ok(())
    }

    /// Waits until something is logged.
    ///
    /// # Errors
    ///
    /// If it is not in time.
    pub fn wait_logged(&self, text: &str) -> Result<Duration> {
        wait::until_true(&format!("the log says {text:?}"), PATIENCE, || Ok(self.log().contains(text)))
    }

    /// Resident memory of the process, in bytes.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn memory(&self) -> Result<u64> {
        memory(self.pid()?, "VmRSS:")
    }

    /// Takes away everything that is pinned, as a reboot would.
    ///
    /// # Errors
    ///
    /// If there is nothing.
    pub fn remove_pins(&self) -> Result<()> {
        remove_tree(&self.places.pins)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A memory figure from `/proc/PID/status`, in bytes: `VmRSS:` is what is resident now, `VmHWM:` the most it was.
///
/// # Errors
///
/// If there is no such process.
pub fn memory(process: Pid, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Removes a directory of a BPF file system.
///
/// # Errors
///
/// If it is not there.
pub fn remove_tree(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).with_context(|| format!("failed to remove {}", path.display()))
}
