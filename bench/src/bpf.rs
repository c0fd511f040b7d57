//! bpf(2) as far as aya does not wrap it: batches, single elements by descriptor, and test runs.
//!
//! The structures are the members of `union bpf_attr` in `include/uapi/linux/bpf.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const PROG_TEST_RUN: u32 = 10;
const MAP_UPDATE_BATCH: u32 = 26;
const ENABLE_STATS: u32 = 32;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;

fn call<T>(command: u32, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a structure that the kernel reads, and for some commands writes, within its size; pointers in it
    // are valid for the duration of the call, which the functions below see to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(data: &T) -> u64 {
    std::ptr::from_ref(data).cast::<u8>().addr() as u64
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads the value of `key`. `value` has the size that the kernel writes: for per-CPU maps one value for each possible
/// CPU, each rounded up to 8 bytes.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let (key, value) = (address(key), address(value));
    call(MAP_LOOKUP, &mut ElementAttr { map: number(map), reserved: 0, key, value, flags: 0 })?;
    Ok(())
}

/// Sets the value of `key`.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let (key, value) = (address(key), address(value));
    call(MAP_UPDATE, &mut ElementAttr { map: number(map), reserved: 0, key, value, flags: 0 })?;
    Ok(())
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Sets the values of `count` keys.
pub(crate) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
    let count = u32::try_from(count).map_err(io::Error::other)?;
    let (keys, values, map) = (address(keys), address(values), number(map));
    let mut attr =
        BatchAttr { in_batch: 0, out_batch: 0, keys, values, count, map, element_flags: 0, flags: 0 };
    call(MAP_UPDATE_BATCH, &mut attr)?;
    Ok(())
}

#[derive(Default)]
#[repr(C)]
struct TestRunAttr {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// What a test run said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// What the program returned for the last packet.
    pub(crate) verdict: u32,
    /// What this thread computed meanwhile; others on the same CPU do not count.
    pub(crate) time: Duration,
}

/// Runs an XDP program over `frame`, `repeat` times. The kernel's own figure is in whole nanoseconds a packet, which is
/// too coarse.
pub(crate) fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<Run> {
    let mut attr = TestRunAttr {
        program: number(program),
        data_in: address(frame),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        repeat,
        ..TestRunAttr::default()
    };
    let start = thread_time()?;
    call(PROG_TEST_RUN, &mut attr)?;
    let time = thread_time()?.saturating_sub(start);
    Ok(Run { verdict: attr.result, time })
}

/// Runs an XDP program over `count` copies of `frame`, and does with them what it says: redirected ones are sent.
/// `batch` of them (at most 256) are made before any is sent.
pub(crate) fn send_live_frames(
    program: BorrowedFd<'_>,
    frame: &[u8],
    count: u32,
    batch: u32,
) -> io::Result<()> {
    let mut attr = TestRunAttr {
        program: number(program),
        data_in: address(frame),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        repeat: count,
        flags: LIVE_FRAMES,
        batch_size: batch,
        ..TestRunAttr::default()
    };
    call(PROG_TEST_RUN, &mut attr)?;
    Ok(())
}

/// Has the kernel count the runs of programs and their time, as long as the result is open (`BPF_STATS_RUN_TIME`).
pub(crate) fn enable_statistics() -> io::Result<OwnedFd> {
    let mut run_time = 0_u32;
    let fd = i32::try_from(call(ENABLE_STATS, &mut run_time)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What this thread has computed so far.
fn thread_time() -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let nanos = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(time.tv_sec.unsigned_abs(), nanos))
}
