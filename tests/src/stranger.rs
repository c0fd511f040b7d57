//! Somebody else's XDP program: one that passes everything, attached the way other tools do it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::netns::output;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// What bpf(2) reads for `BPF_PROG_LOAD`, as far as a trivial program needs it.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// What bpf(2) reads for `BPF_OBJ_PIN`.
#[repr(C)]
#[derive(Default)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Attaches a program called `stranger` to `interface` of the host, by netlink and in the driver.
///
/// # Errors
///
/// If there is one already.
pub fn attach(lab: &Lab, interface: &str) -> Result<()> {
    let pin = lab.scratch.bpffs().join("stranger");
    pin_program(&pin).context("failed to load a program that passes everything")?;
    let mut command = lab.host.command("bpftool");
    command.args(["net", "attach", "xdpdrv", "pinned"]).arg(&pin).args(["dev", interface]);
    output(command, None).map(drop)
}

fn pin_program(path: &Path) -> io::Result<()> {
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"GPL";
    let mut name = [0; 16];
    name[..8].copy_from_slice(b"stranger");
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name,
        ..Load::default()
    };
    // SAFETY: `Load` is the beginning of the kernel's `union bpf_attr`, and what it points to lives until behind the
    // call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut load) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made it for us alone.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut pin = Pin { path: path.as_ptr() as u64, fd: program.as_raw_fd().unsigned_abs(), flags: 0 };
    // SAFETY: as above, for `Pin`.
    unsafe { bpf(BPF_OBJ_PIN, &mut pin) }?;
    Ok(())
}

/// # Safety
///
/// `attributes` must be what `command` reads.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the content; the size is that of the type.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
