//! Loads every program of an eBPF object and prints a table of what the kernel's verifier says about it.
//!
//! A loader of its own, since aya throws the verifier's log away when a program is accepted. Maps are made with one
//! entry each where the kernel allows it: their size does not interest the verifier. Read-only globals stay open, so
//! no branch is pruned by their values: these are the figures of the worst configuration.

use std::{
    env,
    ffi::CString,
    fs, io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use aya_obj::{
    EbpfSectionKind, Function, Map, Object, Program, ProgramSection,
    btf::BtfFeatures,
    generated::{bpf_attr, bpf_cmd, bpf_prog_type},
};

/// Statistics only, without the steps (`BPF_LOG_STATS`).
const LOG_STATISTICS: u32 = 4;
/// The kernel knows multi-buffer frames, and the program can take them.
const XDP_HAS_FRAGS: u32 = 1 << 5;

fn main() -> ExitCode {
    match report() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn report() -> Result<()> {
    let path = env::args().nth(1).context("usage: verifier-report OBJECT")?;
    let bytes = fs::read(&path).with_context(|| format!("reading {path}"))?;
    let mut object = Object::parse(&bytes).with_context(|| format!("parsing {path}"))?;

    let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
    let btf = match object.fixup_and_sanitize_btf(&features).context("preparing type information")? {
        Some(btf) => Some(load_btf(&btf.to_bytes()).context("loading type information")?),
        None => None,
    };
    let maps: Vec<_> = mem::take(&mut object.maps)
        .into_iter()
        .map(|(name, map)| {
            let fd = create_map(&name, &map).with_context(|| format!("creating map {name}"))?;
            Ok((name, map, fd))
        })
        .collect::<Result<_>>()?;
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(maps.iter().map(|(name, map, fd)| (name.as_str(), fd.as_raw_fd(), map)), &text)?;
    object.relocate_calls(&text)?;

    let mut programs: Vec<_> = object.programs.iter().collect();
    programs.sort_by_key(|(name, _)| name.as_str());
    println!(
        "{:<20} {:>12} {:>12} {:>12} {:>12} {:>8} {:>10}",
        "program", "instructions", "verified", "states", "peak states", "stack", "time"
    );
    for (name, program) in programs {
        let function = &object.functions[&program.function_key()];
        let log = load(program, function, btf.as_ref()).with_context(|| format!("loading program {name}"))?;
        println!(
            "{name:<20} {:>12} {:>12} {:>12} {:>12} {:>8} {:>10}",
            function.instructions.len(),
            word_after(&log, "processed"),
            word_after(&log, "total_states"),
            word_after(&log, "peak_states"),
            word_after(&log, "stack depth"),
            word_after(&log, "verification time") + " µs",
        );
    }
    Ok(())
}

/// The word that follows `label` in the verifier's log; `-` when this kernel does not say.
fn word_after(log: &str, label: &str) -> String {
    let after = log.split_once(label).map(|(_, after)| after.split_whitespace().next().unwrap_or("-"));
    after.unwrap_or("-").to_owned()
}

fn create_map(name: &str, map: &Map) -> Result<OwnedFd> {
    let data =
        matches!(map.section_kind(), EbpfSectionKind::Bss | EbpfSectionKind::Data | EbpfSectionKind::Rodata);
    // SAFETY: every bit pattern is a valid `bpf_attr`, and the kernel wants unused bytes to be zero.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: BPF_MAP_CREATE reads this variant; all of it is zero, which is valid.
    let create = unsafe { &mut attributes.__bindgen_anon_1 };
    create.map_type = map.map_type();
    create.key_size = map.key_size();
    create.value_size = map.value_size();
    create.max_entries = if data { 1 } else { map.max_entries() };
    create.map_flags = map.map_flags();
    for (to, from) in create.map_name.iter_mut().zip(name.bytes().filter(u8::is_ascii_alphanumeric).take(15))
    {
        *to = from.cast_signed();
    }
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attributes).context("BPF_MAP_CREATE")
}

fn load_btf(bytes: &[u8]) -> Result<OwnedFd> {
    // SAFETY: as in `create_map`.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: BPF_BTF_LOAD reads this variant; all of it is zero, which is valid.
    let load = unsafe { &mut attributes.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = u32::try_from(bytes.len()).context("type information of 4 GiB")?;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attributes).context("BPF_BTF_LOAD")
}

/// Loads a program and returns the verifier's log; the program is gone afterwards.
fn load(program: &Program, function: &Function, btf: Option<&OwnedFd>) -> Result<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list of program types is long, and ours are two")]
    let (kind, flags) = match program.section {
        ProgramSection::Xdp { frags, .. } => {
            (bpf_prog_type::BPF_PROG_TYPE_XDP, if frags { XDP_HAS_FRAGS } else { 0 })
        }
        ProgramSection::SchedClassifier => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, 0),
        ref other => bail!("this report knows XDP and tc programs only, not {other:?}"),
    };
    let license: CString = program.license.clone();
    let function_info = function.func_info.func_info_bytes();
    let line_info = function.line_info.line_info_bytes();
    let mut log = vec![0_u8; 1 << 20];

    // SAFETY: as in `create_map`.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: BPF_PROG_LOAD reads this variant; all of it is zero, which is valid.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.prog_flags = flags;
    load.insns = function.instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(function.instructions.len()).context("too many instructions")?;
    load.license = license.as_ptr() as u64;
    load.log_level = LOG_STATISTICS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len()).context("too large a log")?;
    if let Some(btf) = btf {
        load.prog_btf_fd = btf.as_raw_fd().cast_unsigned();
        load.func_info = function_info.as_ptr() as u64;
        load.func_info_cnt = u32::try_from(function.func_info.len()).context("too many functions")?;
        load.func_info_rec_size = u32::try_from(function.func_info_rec_size).context("too large a record")?;
        load.line_info = line_info.as_ptr() as u64;
        load.line_info_cnt = u32::try_from(function.line_info.len()).context("too many lines")?;
        load.line_info_rec_size = u32::try_from(function.line_info_rec_size).context("too large a record")?;
    }
    let loaded = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    match loaded {
        Ok(_program) => Ok(text),
        Err(error) => bail!("{error}; the verifier says:\n{text}"),
    }
}

/// The system call, for commands that return a new file descriptor.
fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a whole `bpf_attr`, and what it points to outlives the call: the callers own it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, attributes, size_of::<bpf_attr>()) };
    let Ok(fd) = i32::try_from(result) else { return Err(io::Error::other("no file descriptor")) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
