//! What this kernel can do, found out by trying.

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, bail};

use super::bpf;

/// The oldest kernel that should do. Compare-and-swap came with 5.12, but verifiers of that time are not tried.
pub const MINIMUM_KERNEL: &str = "5.15";

/// What is optional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// As in `uname -r`.
    pub release: String,
    /// Frames of several buffers (Linux 5.18).
    pub frags: bool,
    /// Type information of the kernel, for tools that show maps; limiter does without.
    pub btf: bool,
}

/// `BPF_MOV64_IMM(register, value)`.
const fn move_constant(register: u64, value: u64) -> u64 {
    0xb7 | register << 8 | value << 32
}

const EXIT: u64 = 0x95;
const XDP_PASS: u64 = 2;

/// Tries what limiter needs.
///
/// # Errors
///
/// Names what is missing, and the kernel version that has it.
pub fn probe() -> anyhow::Result<Features> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    raise_memlock();
    match bpf::map_probe() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!(
                "the kernel refuses bpf(2): run limiterd as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            )
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            bail!("this kernel ({release}) was built without bpf(2) (CONFIG_BPF_SYSCALL)")
        }
        Err(error) => {
            return Err(error)
                .context("the kernel refuses to create a BPF map (is memory or MEMLOCK exhausted?)");
        }
    }
    nothing().with_context(|| format!("this kernel ({release}) refuses XDP programs"))?;
    bpf::load_probe(&compare_and_swap(), false).with_context(|| {
        format!("this kernel ({release}) has no BPF compare-and-swap; limiter needs Linux {MINIMUM_KERNEL} or later")
    })?;
    let frags = bpf::load_probe(&[move_constant(0, XDP_PASS), EXIT], true).is_ok();
    let btf = std::path::Path::new("/sys/kernel/btf/vmlinux").exists();
    Ok(Features { release, frags, btf })
}

/// Before 5.11 BPF memory counts against this limit; containers may not raise it, and need not on newer kernels.
fn raise_memlock() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited);
}

/// A program that passes everything.
pub(super) fn nothing() -> io::Result<OwnedFd> {
    bpf::load_probe(&[move_constant(0, XDP_PASS), EXIT], false)
}

/// A program that swaps a word on its stack.
const fn compare_and_swap() -> [u64; 6] {
    const WORD: u64 = 0xfff8 << 16;
    [
        // *(u64 *)(r10 - 8) = 0
        0x7a | 10 << 8 | WORD,
        move_constant(0, 0),
        move_constant(2, 1),
        // r0 = cmpxchg_64(r10 - 8, r0, r2): BPF_STX | BPF_ATOMIC | BPF_DW, BPF_CMPXCHG
        0xdb | 10 << 8 | 2 << 12 | WORD | 0xf1 << 32,
        move_constant(0, XDP_PASS),
        EXIT,
    ]
}
