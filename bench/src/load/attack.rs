//! A blocked source that floods at a steady rate, and what the program on the interface did with it.
//!
//! It is sent in short bursts, with pauses in which the CPU is free: there are two of them here, and both are needed.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use limiter_tests::lab::HOST;
use limiter_tests::netns::output;
use limiter_tests::traffic::Sender;
use limiter_tests::{Lab, frames};
use serde_json::Value;

use crate::bpf;

/// Who floods.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Frames a second.
const RATE: u64 = 100_000;
/// Frames that are sent in a row.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_micros(600);

/// Under way until it is dropped.
pub(super) struct Attack<'a> {
    lab: &'a Lab,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
    /// As long as it is open, the kernel takes the time of programs.
    _statistics: OwnedFd,
}

/// What the program has done until a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    program: u64,
    runs: u64,
    nanoseconds: u64,
    sent: u64,
}

/// What it did between two.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    time: Duration,
    sent: u64,
    /// Of the program that was there at the end: tables that grow get another one.
    runs: u64,
    nanoseconds: u64,
}

impl<'a> Attack<'a> {
    pub(super) fn begin(lab: &'a Lab) -> Result<Self> {
        let sender = Sender::open(lab)?;
        let frames = vec![frames::udp(SOURCE.into(), 60); BURST];
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let start = Instant::now();
            while !until.load(Ordering::Relaxed) {
                let micros = u64::try_from(start.elapsed().as_micros())?;
                if micros * RATE / 1_000_000 < count.load(Ordering::Relaxed) {
                    thread::sleep(PAUSE);
                    continue;
                }
                let taken = sender.send(&frames).context("cannot send")?;
                count.fetch_add(taken as u64, Ordering::Relaxed);
            }
            Ok(())
        });
        let statistics = bpf::enable_statistics().context("cannot have programs timed")?;
        Ok(Self { lab, stop, sent, thread: Some(thread), _statistics: statistics })
    }

    /// What has happened until now.
    pub(super) fn now(&self) -> Result<Moment> {
        let program = u64::from(program(self.lab)?);
        let mut command = self.lab.host.command("bpftool");
        command.args(["--json", "prog", "show", "id", &program.to_string()]);
        let shown: Value = serde_json::from_str(&output(command, None)?)?;
        let number = |name: &str| shown[name].as_u64().unwrap_or(0);
        Ok(Moment {
            at: Instant::now(),
            program,
            runs: number("run_cnt"),
            nanoseconds: number("run_time_ns"),
            sent: self.sent.load(Ordering::Relaxed),
        })
    }

    /// Ends it, and returns how many frames were sent.
    pub(super) fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Attack<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has to say was of interest only at its end.
            let _ = thread.join();
        }
    }
}

impl Moment {
    /// From this one to a later one.
    pub(super) fn until(self, later: Self) -> Work {
        let same = self.program == later.program;
        Work {
            time: later.at.saturating_duration_since(self.at),
            sent: later.sent - self.sent,
            runs: later.runs - if same { self.runs } else { 0 },
            nanoseconds: later.nanoseconds - if same { self.nanoseconds } else { 0 },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
impl Work {
    /// Frames that were sent, all of which the program has seen: the link calls it from within the sending.
    pub(super) fn per_second(&self) -> f64 {
        self.sent as f64 / self.time.as_secs_f64()
    }

    /// What the program took for a frame, with the kernel's taking of the time.
    pub(super) fn nanoseconds(&self) -> f64 {
        self.nanoseconds as f64 / self.runs as f64
    }
}

/// The number of the program on the interface.
pub(super) fn program(lab: &Lab) -> Result<u32> {
    let links: Value = serde_json::from_str(&lab.host.ip(&format!("-j -d link show {}", HOST.interface))?)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64().context("there is no program on the interface")?;
    Ok(u32::try_from(id)?)
}
