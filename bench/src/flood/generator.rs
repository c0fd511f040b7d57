//! Sends frames at full speed: a program in the kernel makes them out of one another and puts them on a link, without
//! any packet in between that the stack would know of (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use limiter_common::frame;
use limiter_common::testing::frames::{Bytes, Ipv4, Udp, default};
use limiter_tests::Namespace;

use super::program::Program;
use super::thread::{Rank, give_cpu};
use crate::bpf;
use crate::model::{Model, Parameters};

/// Frames that are made before they are sent; the most that the kernel does at once.
const BATCH: u32 = 256;
/// More than any sample needs; it ends by a signal long before.
const ENOUGH: u32 = 1 << 30;
/// Ends the sending. Nobody else in this program uses it.
const SIGNAL: libc::c_int = libc::SIGUSR1;
/// The only key of its maps.
const FIRST: [u8; 4] = [0; 4];
/// How often a sender that has not ended is told so again: it may not have begun at the first time.
const AGAIN: Duration = Duration::from_millis(1);
/// Without its checksum of 4 bytes, the shortest frame that Ethernet takes.
const SHORTEST: usize = 60;
const HEADERS: usize = 14 + 20 + 8;
/// Where the IPv4 header is in the frame, and in that the checksum with the source behind it.
const HEADER: std::ops::Range<usize> = 14..34;
const CHANGING: std::ops::Range<usize> = 10..16;

/// Sends out of one interface, with sources by one model.
#[derive(Debug)]
pub(super) struct Generator {
    program: Program,
    frame: Vec<u8>,
}

impl Generator {
    /// The most steps that can be wasted.
    pub(super) const MOST_WASTE: f64 = 4095.0;

    /// Sends out of the interface with the number `interface`.
    pub(super) fn new(interface: u32, model: Model, parameters: Parameters) -> Result<Self> {
        let frame = datagram();
        let constants = [
            ("MODEL", model as u64),
            ("LISTED", u64::from(parameters.listed)),
            ("HOT", parameters.hot),
            ("INTERFACE", u64::from(interface)),
            ("SUM", header_sum(&frame)),
        ];
        let object = aya::include_bytes_aligned!(env!("BENCH_GENERATOR_OBJECT"));
        Ok(Self { program: Program::load(object, "generator", &constants, &[])?, frame })
    }

    /// Frames that it made so far, whether the link took them or not.
    pub(super) fn sent(&self) -> Result<u64> {
        let mut count = [0; 8];
        bpf::lookup(self.program.map("packets")?, &FIRST, &mut count).context("cannot count frames")?;
        Ok(u64::from_ne_bytes(count))
    }

    /// Makes it waste some steps before each frame from now on.
    pub(super) fn waste(&self, steps: f64) -> Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a conversion that saturates"
        )]
        let steps = steps.min(Self::MOST_WASTE).round() as u64;
        bpf::update(self.program.map("waste")?, &FIRST, &steps.to_ne_bytes()).context("cannot set the pace")
    }

    /// Sends from `cpu` as fast as its pace is until `body` ends; what the link does not take is lost. `namespace` is that of
    /// the interface.
    pub(super) fn while_sending<T>(
        &self,
        namespace: &Namespace,
        cpu: usize,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        listen()?;
        let (thread, ended) = (AtomicI32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let sent = namespace.enter(|| {
                    give_cpu(0, cpu, Rank::Worker)?;
                    // SAFETY: no requirements.
                    thread.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                    self.send()
                });
                ended.store(true, Ordering::Relaxed);
                sent
            });
            let outcome = {
                let _end = Ending { thread: &thread, ended: &ended };
                body()
            };
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // If sending failed, that is why the body did.
            sent.and(outcome)
        })
    }

    fn send(&self) -> Result<()> {
        // One call for all, since its beginning and its end wait for the kernel's readers.
        match bpf::send_live_frames(self.program.fd(), &self.frame, ENOUGH, BATCH) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(error).context("the kernel refused live frames")
            }
            _ => Ok(()),
        }
    }
}

/// Ends the sending when it is dropped.
struct Ending<'a> {
    thread: &'a AtomicI32,
    ended: &'a AtomicBool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        while !self.ended.load(Ordering::Relaxed) {
            let thread = self.thread.load(Ordering::Relaxed);
            if thread != 0 {
                // SAFETY: no pointers. If the thread ended in between, nothing happens.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
            }
            thread::sleep(AGAIN);
        }
    }
}

/// Lets the signal interrupt system calls, and do nothing else.
fn listen() -> Result<()> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: all zeros is a valid action: no flags, so calls are not restarted, and no other signals blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: `action` is valid, and its function may run at any time.
    if unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot handle a signal");
    }
    Ok(())
}

/// To a host in a network for documentation.
fn datagram() -> Vec<u8> {
    let destination = Ipv4Addr::new(192, 0, 2, 1);
    let payload = Bytes::from(vec![0; SHORTEST - HEADERS]);
    // No checksum (RFC 768), since it would change with the source.
    frame![Ipv4 { destination, ..default() }, Udp { checksum: Some(0), ..default() }, payload]
}

/// Sum of the 16-bit words of the IPv4 header without checksum and source.
fn header_sum(frame: &[u8]) -> u64 {
    let header = frame.get(HEADER).unwrap_or_default();
    let fixed = header.chunks_exact(2).enumerate().filter(|(word, _)| !CHANGING.contains(&(word * 2)));
    fixed.map(|(_, word)| u64::from(word[0]) << 8 | u64::from(word[1])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_what_does_not_change() {
        let mut frame = vec![0xff; HEADER.end];
        frame[HEADER].fill(1);
        frame[HEADER.start + CHANGING.start..HEADER.start + CHANGING.end].fill(0xff);
        assert_eq!(header_sum(&frame), 7 * 0x0101);
    }
}
