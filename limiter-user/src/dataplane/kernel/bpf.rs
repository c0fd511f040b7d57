//! bpf(2) itself, as far as aya does not wrap it: maps, pins, links without its netlink fallback, and test runs.
//!
//! The structures are the members of `union bpf_attr` in `include/uapi/linux/bpf.h`.

use std::ffi::{CString, c_long};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_TEST_RUN: u32 = 10;
const PROG_FD_BY_ID: u32 = 13;
const OBJ_INFO: u32 = 15;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_FD_BY_ID: u32 = 30;
const LINK_NEXT_ID: u32 = 31;
const LINK_DETACH: u32 = 34;

const PROG_TYPE_XDP: u32 = 6;
const MAP_TYPE_ARRAY: u32 = 2;
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_XDP`.
const ATTACH_XDP: u32 = 37;
/// `BPF_F_XDP_HAS_FRAGS`.
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
pub(super) const FLAG_GENERIC: u32 = 1 << 1;
pub(super) const FLAG_NATIVE: u32 = 1 << 2;

fn call<T>(command: u32, attr: &mut T) -> io::Result<c_long> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a structure that the kernel reads, and for some commands writes, within `size`; pointers in it
    // are valid for the duration of the call, which the functions below see to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// For commands that return a file descriptor.
fn open<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(data: &T) -> u64 {
    std::ptr::from_ref(data).cast::<u8>().addr() as u64
}

fn address_mut<T: ?Sized>(data: &mut T) -> u64 {
    std::ptr::from_mut(data).cast::<u8>().addr() as u64
}

/// `path` must not contain dots behind the mount point: bpffs reserves them.
fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map or a link.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    call(OBJ_PIN, &mut PinAttr { path: path.as_ptr().addr() as u64, fd: fd_number(fd), flags: 0 }).map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    open(OBJ_GET, &mut PinAttr { path: path.as_ptr().addr() as u64, fd: 0, flags: 0 })
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// Fills the first bytes of the kernel's description of a map, program or link.
fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    info_with(fd, T::default())
}

/// The same for what tells the kernel where to write more.
fn info_with<T>(fd: BorrowedFd<'_>, mut info: T) -> io::Result<T> {
    let len = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
    call(OBJ_INFO, &mut InfoAttr { fd: fd_number(fd), len, info: address_mut(&mut info) })?;
    Ok(info)
}

/// `struct bpf_map_info`, the part that is of use.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

pub(super) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(fd)
}

/// `struct bpf_link_info`, the part that is of use.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program_id: u32,
    reserved: u32,
    /// 0 if the interface is gone.
    pub(super) ifindex: u32,
    reserved2: [u32; 3],
}

impl LinkInfo {
    pub(super) fn is_xdp(&self) -> bool {
        self.kind == LINK_TYPE_XDP
    }
}

pub(super) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(fd)
}

/// `struct bpf_prog_info`, the part that is of use.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    before_maps: [u64; 5],
    created_by: u32,
    /// How many maps `maps` has room for; the kernel makes it how many there are.
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// What a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    /// The kernel's numbers of the maps that it uses.
    pub(super) maps: Vec<u32>,
}

/// Opens the program with this id, which takes `CAP_SYS_ADMIN`.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    open(PROG_FD_BY_ID, &mut IdAttr { id, next: 0, flags: 0 })
}

/// Looks at the program with this id, which takes `CAP_SYS_ADMIN`.
pub(super) fn program_info(id: u32) -> io::Result<Program> {
    info_of_program(std::os::fd::AsFd::as_fd(&program(id)?))
}

/// Looks at a program that is open.
pub(super) fn info_of_program(program: BorrowedFd<'_>) -> io::Result<Program> {
    const MAPS: usize = 64;
    let mut maps = [0u32; MAPS];
    let map_count = u32::try_from(MAPS).unwrap_or(0);
    let asked = ProgramInfo { map_count, maps: address_mut(&mut maps), ..ProgramInfo::default() };
    let info = info_with(program, asked)?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    let name = String::from_utf8_lossy(&info.name[..end]).into_owned();
    let count = usize::try_from(info.map_count).unwrap_or(MAPS).min(MAPS);
    Ok(Program { name, maps: maps[..count].to_vec() })
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads the value of `key`, or returns `ENOENT`. `value` has the size that the kernel writes: for per-CPU maps one
/// value for each possible CPU, each rounded up to 8 bytes.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let value = address_mut(value);
    call(
        MAP_LOOKUP,
        &mut ElementAttr { map: fd_number(map), reserved: 0, key: address(key), value, flags: 0 },
    )
    .map(drop)
}

pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let (key, value) = (address(key), address(value));
    call(MAP_UPDATE, &mut ElementAttr { map: fd_number(map), reserved: 0, key, value, flags: 0 }).map(drop)
}

#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Puts a program on an interface, in the mode that `flags` ask for.
pub(super) fn link_create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let program = fd_number(program);
    open(LINK_CREATE, &mut LinkCreateAttr { program, ifindex, attach_type: ATTACH_XDP, flags })
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces the program of a link; no packet is seen by neither.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (fd_number(link), fd_number(program));
    call(LINK_UPDATE, &mut LinkUpdateAttr { link, program, flags: 0, old_program: 0 }).map(drop)
}

/// Takes the program off, whoever else holds the link.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    call(LINK_DETACH, &mut fd_number(link)).map(drop)
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// The XDP link of somebody that holds `program` on `ifindex`. Takes `CAP_SYS_ADMIN`.
pub(super) fn find_xdp_link(program: u32, ifindex: u32) -> io::Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        let mut attr = IdAttr { id, next: 0, flags: 0 };
        match call(LINK_NEXT_ID, &mut attr) {
            Ok(_) => id = attr.next,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        // It may be gone since.
        let Ok(link) = open(LINK_FD_BY_ID, &mut IdAttr { id, next: 0, flags: 0 }) else { continue };
        let info = link_info(std::os::fd::AsFd::as_fd(&link))?;
        if info.is_xdp() && info.program_id == program && info.ifindex == ifindex {
            return Ok(Some(link));
        }
    }
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

/// `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Runs an XDP program over `frame`, `repeat` times. Its first `linear` bytes, if given, are the first buffer, and the
/// rest comes in others (Linux 6.18). Returns the program's result and the mean duration in nanoseconds.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    linear: Option<u32>,
    repeat: u32,
) -> io::Result<(u32, u32)> {
    let context = XdpContext { data_end: linear.unwrap_or(0), ..XdpContext::default() };
    let mut attr = TestRunAttr {
        program: fd_number(program),
        data_in: address(frame),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        repeat,
        ..TestRunAttr::default()
    };
    if linear.is_some() {
        attr.ctx_in = address(&context);
        attr.ctx_size_in = u32::try_from(size_of::<XdpContext>()).map_err(io::Error::other)?;
    }
    call(PROG_TEST_RUN, &mut attr)?;
    Ok((attr.result, attr.duration))
}

#[derive(Default)]
#[repr(C)]
struct ProgramLoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Loads instructions as an XDP program, to see whether the kernel takes them.
pub(super) fn load_probe(instructions: &[u64], frags: bool) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = ProgramLoadAttr {
        kind: PROG_TYPE_XDP,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: address(instructions),
        license: license.as_ptr().addr() as u64,
        flags: if frags { XDP_HAS_FRAGS } else { 0 },
        ..ProgramLoadAttr::default()
    };
    open(PROG_LOAD, &mut attr)
}

#[derive(Default)]
#[repr(C)]
struct MapCreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Creates a map of this kind, key size, value size, number of entries and flags. `name` is for people, and cut to what
/// the kernel takes.
pub(super) fn map_create(
    [kind, key_size, value_size, max_entries, flags]: [u32; 5],
    name: &str,
) -> io::Result<OwnedFd> {
    let mut attr =
        MapCreateAttr { kind, key_size, value_size, max_entries, flags, ..MapCreateAttr::default() };
    // The last byte stays 0.
    for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    open(MAP_CREATE, &mut attr)
}

/// Creates the smallest map there is, to see whether this process may.
pub(super) fn map_probe() -> io::Result<OwnedFd> {
    map_create([MAP_TYPE_ARRAY, 4, 4, 1, 0], "probe")
}
