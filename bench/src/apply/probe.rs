//! When sources are dropped, as packets see it: numbered datagrams of each are sent again and again, and behind the XDP
//! program a packet socket notes which ones come through. The one after the last of those was the first to be dropped.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::traffic::Sender;
use limiter_tests::{Lab, frames};

use crate::machine;

/// The shortest frame that Ethernet takes, and where in it the number is: behind Ethernet, IPv4 and UDP.
const FRAME: usize = 60;
const NUMBER: std::ops::Range<usize> = 42..50;
/// Bytes that the socket may keep until they are noted.
const BUFFER: libc::c_int = 64 << 20;
/// Below this the pace is kept by looking at the clock, above by a timer.
const SHORT: Duration = Duration::from_micros(200);
/// However busy the machine is, something is sent within this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is on its way when the sending ends arrives within this time.
const REST: Duration = Duration::from_millis(2);

/// Sends a datagram of each of `sources` every `every`, from `cpu` if there is one, until `body` ends. `body` gets what notes those that come
/// through, and has to use it at least every second. The result has the moment behind the first drop of each source;
/// `None` if it was not dropped at the end.
pub(super) fn watch<T>(
    lab: &Lab,
    sources: &[Ipv4Addr],
    every: Duration,
    cpu: Option<usize>,
    body: impl FnOnce(&mut Listener<'_>) -> Result<T>,
) -> Result<(T, Vec<Option<Instant>>)> {
    let rounds = AtomicUsize::new(0);
    let mut listener = Listener::open(lab, sources, &rounds)?;
    let sender = Sender::open(lab)?;
    let mut frames: Vec<Vec<u8>> =
        sources.iter().map(|source| frames::udp((*source).into(), FRAME)).collect();
    let stop = AtomicBool::new(false);
    let (outcome, sent) = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            cpu.map_or(Ok(()), machine::pin)?;
            send(&sender, &mut frames, every, &stop, &rounds).context("cannot send")
        });
        let outcome = {
            let _stop = Stop(&stop);
            body(&mut listener)
        };
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (outcome, sent)
    });
    let (outcome, sent) = (outcome?, sent?);
    thread::sleep(REST);
    listener.note()?;
    let drops = listener.last.iter().enumerate().map(|(source, last)| {
        let next = last.map_or(0, |last| last + 1);
        sent.get(next..)?.iter().find_map(|round| round.get(source).copied().flatten())
    });
    Ok((outcome, drops.collect()))
}

/// By round and source, when the sending of a frame was over; `None` if the link did not take it.
type Sent = Vec<Vec<Option<Instant>>>;

fn send(
    sender: &Sender,
    frames: &mut [Vec<u8>],
    every: Duration,
    stop: &AtomicBool,
    rounds: &AtomicUsize,
) -> io::Result<Sent> {
    let mut sent = Sent::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let pause = next.saturating_duration_since(Instant::now());
        if pause > SHORT {
            thread::sleep(pause);
        } else if !pause.is_zero() {
            std::hint::spin_loop();
            continue;
        }
        let number = (sent.len() as u64).to_be_bytes();
        let mut round = Vec::with_capacity(frames.len());
        for frame in &mut *frames {
            if let Some(field) = frame.get_mut(NUMBER) {
                field.copy_from_slice(&number);
            }
            let taken = sender.send(std::slice::from_ref(frame))?;
            round.push((taken == 1).then(Instant::now));
        }
        sent.push(round);
        rounds.store(sent.len(), Ordering::Relaxed);
        // Without catching up, should it fall behind.
        next = (next + every).max(Instant::now());
    }
    Ok(sent)
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Notes what comes through.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    socket: OwnedFd,
    /// Rounds that were sent.
    rounds: &'a AtomicUsize,
    /// The sources, sorted, each with its number.
    by_address: Vec<(Ipv4Addr, usize)>,
    /// The last round that came through, by source.
    last: Vec<Option<usize>>,
}

impl<'a> Listener<'a> {
    fn open(lab: &Lab, sources: &[Ipv4Addr], rounds: &'a AtomicUsize) -> Result<Self> {
        let socket = lab.host.enter(|| bind(HOST.interface).context("cannot listen to packets"))?;
        let mut by_address: Vec<(Ipv4Addr, usize)> =
            sources.iter().enumerate().map(|(number, source)| (*source, number)).collect();
        by_address.sort_unstable();
        Ok(Self { socket, rounds, by_address, last: vec![None; sources.len()] })
    }

    /// Waits until each source was sent `count` times more, and notes.
    pub(super) fn wait_for(&mut self, count: usize) -> Result<()> {
        let (start, wanted) = (Instant::now(), self.rounds.load(Ordering::Relaxed) + count);
        while self.rounds.load(Ordering::Relaxed) < wanted {
            ensure!(start.elapsed() < PATIENCE, "nothing is sent");
            thread::sleep(REST / 10);
        }
        self.note()
    }

    /// Notes what came through until now.
    pub(super) fn note(&mut self) -> Result<()> {
        let mut frame = [0_u8; FRAME];
        loop {
            // SAFETY: the pointer and the length are those of `frame`.
            let len = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if len < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(());
                }
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error).context("cannot receive packets");
            }
            let source = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
            let Ok(found) = self.by_address.binary_search_by_key(&source, |entry| entry.0) else { continue };
            let number = self.by_address.get(found).map_or(0, |entry| entry.1);
            let round = frame.get(NUMBER).and_then(|field| Some(u64::from_be_bytes(field.try_into().ok()?)));
            if let (Some(last), Some(round)) = (self.last.get_mut(number), round) {
                let round = usize::try_from(round).context("a number of a packet")?;
                *last = Some(last.unwrap_or(0).max(round));
            }
        }
    }
}

/// A socket for IPv4 packets that `interface` receives.
fn bind(interface: &str) -> io::Result<OwnedFd> {
    const IPV4: u16 = 0x0800_u16.to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, IPV4.into()) };
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
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = IPV4;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the pointer and the length are those of `address`.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), socklen::<libc::sockaddr_ll>()) };
    if index == 0 || bound < 0 {
        return Err(io::Error::last_os_error());
    }
    let buffer = BUFFER;
    // SAFETY: the pointer and the length are those of `buffer`.
    let set = unsafe {
        let buffer = (&raw const buffer).cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer, socklen::<libc::c_int>())
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of a few bytes, known at compile time")]
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
