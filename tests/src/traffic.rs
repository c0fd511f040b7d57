//! Raw frames onto the wire: one by one, or as floods at a steady pace.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::{Lab, OUTSIDE};

/// Frames handed over in one system call.
const BATCH: usize = 64;
/// A flood that falls behind by more than this does not try to catch up.
const PATIENCE: Duration = Duration::from_millis(50);
/// Floods that run at the same time share the CPUs evenly.
static NEXT_CPU: AtomicUsize = AtomicUsize::new(0);
/// Below this the pace is kept by looking at the clock, above by a timer.
const SHORT: Duration = Duration::from_micros(200);

const PACKET_FAMILY: libc::sa_family_t = 17;
const _: () = assert!(PACKET_FAMILY as libc::c_int == libc::AF_PACKET);

#[expect(clippy::cast_possible_truncation, reason = "sizes of a few bytes, known at compile time")]
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// A packet socket that sends whole frames out of one interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Sends from the outside of `lab`.
    ///
    /// # Errors
    ///
    /// If the kernel has no packet sockets.
    pub fn open(lab: &Lab) -> Result<Self> {
        lab.outside.enter(|| Self::bind(OUTSIDE.interface).context("failed to open a packet socket"))
    }

    fn bind(interface: &str) -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: `name` ends with a zero and lives until behind the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: all zeros is a valid address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = PACKET_FAMILY;
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the pointer and the length are those of `address`.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), socklen::<libc::sockaddr_ll>()) };
        if index == 0 || bound < 0 {
            return Err(io::Error::last_os_error());
        }
        let bypass: libc::c_int = 1;
        // SAFETY: the pointer and the length are those of `bypass`. Failure only costs speed.
        unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const bypass).cast(),
                socklen::<libc::c_int>(),
            );
        }
        Ok(Self { socket })
    }

    /// Sends the frames, and returns how many the link took; a full queue or a frame that is no frame takes none.
    ///
    /// # Errors
    ///
    /// If the link is down or gone.
    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) -> io::Result<usize> {
        let mut taken = 0;
        for frames in frames.chunks(BATCH) {
            let mut parts: [libc::iovec; BATCH] =
                std::array::from_fn(|_| libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });
            for (part, frame) in parts.iter_mut().zip(frames) {
                let frame = frame.as_ref();
                *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            }
            // SAFETY: all zeros is a valid message: no address, no parts.
            let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
            for (message, part) in messages.iter_mut().zip(&mut parts) {
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
            }
            let mut next = 0;
            while next < frames.len() {
                let rest = &mut messages[next..frames.len()];
                let count = libc::c_uint::try_from(rest.len()).unwrap_or(0);
                // SAFETY: `rest` are messages whose parts point to `frames`; sending only reads them.
                let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
                if sent >= 0 {
                    taken += sent.unsigned_abs() as usize;
                    next += sent.unsigned_abs() as usize;
                    continue;
                }
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::EINVAL | libc::EMSGSIZE | libc::EAGAIN) => next += 1,
                    Some(libc::EINTR) => {}
                    _ => return Err(error),
                }
            }
        }
        Ok(taken)
    }
}

/// Writes the next frame of a flood over the last one.
pub type Generator = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// The same frame again and again.
pub fn same(frame: Vec<u8>) -> Generator {
    Box::new(move |next| {
        next.clear();
        next.extend_from_slice(&frame);
    })
}

/// What a flood sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Frames the link took.
    pub frames: u64,
    /// From before the first to behind the last.
    pub time: Duration,
}

impl Sent {
    /// Frames per second.
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.time.as_secs_f64()
    }
}

/// Frames at a steady rate, from threads of its own, until it is stopped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<(Instant, Instant)>>>,
}

impl Flood {
    /// Sends `rate` frames per second for each of `generators`, each from a CPU of its own if there are so many.
    ///
    /// # Errors
    ///
    /// If no packet socket can be opened.
    pub fn start(lab: &Lab, rate: u32, generators: Vec<Generator>) -> Result<Self> {
        Self::start_for(lab, rate, generators, Duration::MAX)
    }

    fn start_for(lab: &Lab, rate: u32, generators: Vec<Generator>, time: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut threads = Vec::new();
        for generator in generators {
            let cpu = NEXT_CPU.fetch_add(1, Ordering::Relaxed) % cpus;
            let sender = Sender::open(lab)?;
            let stop = Arc::clone(&stop);
            let sent = Arc::clone(&sent);
            threads.push(std::thread::spawn(move || {
                let mut set = CpuSet::new();
                if set.set(cpu).is_ok() {
                    // Only spreads the load; where it is not allowed the flood is the same.
                    let _ = sched_setaffinity(Pid::from_raw(0), &set);
                }
                pace(&sender, rate, generator, time, &stop, &sent)
            }));
        }
        Ok(Self { stop, sent, threads })
    }

    /// Sends for `time`.
    ///
    /// # Errors
    ///
    /// As [`Self::start`] and [`Self::stop`].
    pub fn run(lab: &Lab, rate: u32, generators: Vec<Generator>, time: Duration) -> Result<Sent> {
        Self::start_for(lab, rate, generators, time)?.join()
    }

    /// Frames sent until now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// If sending failed, for example since the link went away.
    pub fn stop(self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(mut self) -> Result<Sent> {
        let mut times = Vec::new();
        for thread in self.threads.drain(..) {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            times.push(outcome.context("the flood broke off")?);
        }
        let start = times.iter().map(|times| times.0).min();
        let end = times.iter().map(|times| times.1).max();
        let time = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
        Ok(Sent { frames: self.sent(), time })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What it has to say was of interest only to `stop`.
            let _ = thread.join();
        }
    }
}

/// Keeps `rate`: every frame has its time, and what is due is sent in one batch.
fn pace(
    sender: &Sender,
    rate: u32,
    mut generator: Generator,
    time: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> io::Result<(Instant, Instant)> {
    let mut frames: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(2048)).collect();
    let start = Instant::now();
    // Moves on when the flood falls behind.
    let mut origin = start;
    let mut made: u64 = 0;
    while !stop.load(Ordering::Relaxed) && start.elapsed() < time {
        let elapsed = origin.elapsed();
        let due = u64::try_from(elapsed.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(0) + 1;
        let missing = due.saturating_sub(made);
        if missing == 0 {
            let next = Duration::from_secs_f64(made as f64 / f64::from(rate));
            let pause = next.saturating_sub(elapsed);
            if pause > SHORT {
                std::thread::sleep(pause.min(Duration::from_millis(50)));
            } else {
                std::hint::spin_loop();
            }
            continue;
        }
        if missing as f64 / f64::from(rate) > PATIENCE.as_secs_f64() && missing > 1 {
            origin = Instant::now();
            made = 0;
            continue;
        }
        let batch = usize::try_from(missing).unwrap_or(BATCH).min(BATCH);
        for frame in &mut frames[..batch] {
            generator(frame);
        }
        let taken = sender.send(&frames[..batch])?;
        made += batch as u64;
        sent.fetch_add(taken as u64, Ordering::Relaxed);
    }
    Ok((start, Instant::now()))
}
