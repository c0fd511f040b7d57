//! Network namespaces without names: a file descriptor keeps one alive, so it cannot outlive this process.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback interface up.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// # Errors
    ///
    /// If this is not root, or the kernel has no network namespaces.
    pub fn new() -> Result<Self> {
        let file = std::thread::scope(|scope| {
            // A thread of its own, since the thread that unshares stays in what it made.
            let made = scope.spawn(|| -> Result<File> {
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
                File::open("/proc/thread-self/ns/net").context("failed to open the new network namespace")
            });
            made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let namespace = Self { file };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The same namespace once more.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// A path by which `ip link … netns PATH` finds the namespace, while `self` lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `body` in the namespace. Sockets that it makes stay there.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).context("failed to enter the namespace")?;
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run in the namespace, and is killed when the thread that started it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.file.as_raw_fd();
        // SAFETY: the closure makes two system calls and allocates nothing. The descriptor is open there: it is
        // closed by exec at the earliest, and `self` outlives every caller that runs the command.
        unsafe {
            command.pre_exec(move || {
                setns(BorrowedFd::borrow_raw(fd), CloneFlags::CLONE_NEWNET)?;
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(())
            });
        }
        command
    }

    /// Runs `ip` with these words, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If `ip` is not there or says no.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut command = self.command("ip");
        command.args(words.split_whitespace());
        output(command, None).with_context(|| format!("failed to run ip {words}"))
    }

    /// Sets a kernel parameter of the namespace's network.
    ///
    /// # Errors
    ///
    /// If there is no such parameter.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
        self.enter(|| {
            std::fs::write(&path, value).with_context(|| format!("failed to write {value} to {path}"))
        })
    }
}

/// Runs `command` to its end, feeding it `input`.
///
/// # Errors
///
/// If it cannot be started or fails; then with what it said.
pub fn output(mut command: Command, input: Option<&str>) -> Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to start {program}: `cargo xtask setup` installs the test tools"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl std::os::fd::AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
