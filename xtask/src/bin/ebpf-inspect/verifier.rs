//! Loads every program of an eBPF object and prints a table of what the kernel's verifier says about it.
//!
//! A loader of its own, since aya throws the verifier's log away when a program is accepted. What the verifier has to
//! follow depends on the read-only globals, so there is a row for each of a few configurations.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya_obj::{
    EbpfSectionKind, Function, Map, Object, Program, ProgramSection,
    btf::BtfFeatures,
    generated::{bpf_attr, bpf_cmd, bpf_prog_type},
};
use limiter_common::abi::{Limits, MAX_SERVICES, Settings};

use crate::object;

/// Statistics only, without the steps (`BPF_LOG_STATS`).
const LOG_STATISTICS: u32 = 4;
/// The kernel knows multi-buffer frames, and the program can take them.
const XDP_HAS_FRAGS: u32 = 1 << 5;

/// Prints a row for each program in each of a few configurations.
pub(crate) fn report(bytes: &[u8]) -> Result<()> {
    println!(
        "{:<20} {:<14} {:>12} {:>10} {:>8} {:>11} {:<14} {:>10}",
        "program", "configuration", "instructions", "verified", "states", "peak states", "stack", "time"
    );
    let mut refused = 0;
    for (name, settings, limits) in configurations() {
        refused += report_object(object::configured(bytes, &settings, &limits)?, name)?;
    }
    if refused > 0 {
        bail!("this kernel refuses {refused} of these");
    }
    Ok(())
}

/// What an interface may be configured to, from the cheapest to everything at once.
fn configurations() -> [(&'static str, Settings, Box<Limits>); 3] {
    let base = object::settings();
    let limited = Settings { limited: 1, ..base };
    [
        ("lists only", base, Box::new(Limits::NONE)),
        ("limits", limited, Box::new(object::limits(0))),
        (
            "everything",
            Settings { super_frames: 1, log_drops: 1, ..limited },
            Box::new(object::limits(MAX_SERVICES)),
        ),
    ]
}

/// Loads all programs of one object, prints a row for each and returns how many the kernel refused.
fn report_object(mut object: Object, configuration: &str) -> Result<usize> {
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
    object::link(&mut object, maps.iter().map(|(name, map, fd)| (name.as_str(), fd.as_raw_fd(), map)))?;

    let mut programs: Vec<_> = object.programs.iter().collect();
    programs.sort_by_key(|(name, _)| name.as_str());
    let mut refused = 0;
    for (name, program) in programs {
        let function = &object.functions[&program.function_key()];
        let (refusal, log) =
            load(program, function, btf.as_ref()).with_context(|| format!("program {name}"))?;
        println!(
            "{name:<20} {configuration:<14} {:>12} {:>10} {:>8} {:>11} {:<14} {:>10}",
            function.instructions.len(),
            word_after(&log, "processed"),
            word_after(&log, "total_states"),
            word_after(&log, "peak_states"),
            word_after(&log, "stack depth"),
            word_after(&log, "verification time") + " µs",
        );
        if let Some(error) = refusal {
            refused += 1;
            println!("  refused: {error}; {}", last_complaint(&log));
        }
    }
    Ok(refused)
}

/// The word that follows `label` in the verifier's log; `-` when this kernel does not say.
fn word_after(log: &str, label: &str) -> String {
    let after = log.split_once(label).map(|(_, after)| after.split_whitespace().next().unwrap_or("-"));
    after.unwrap_or("-").to_owned()
}

/// The line of the verifier's log that says what it did not like, which stands before the statistics.
fn last_complaint(log: &str) -> &str {
    let statistics = ["verification time", "stack depth", "processed"];
    let mut complaints = log.lines().filter(|line| !statistics.iter().any(|label| line.starts_with(label)));
    complaints.next_back().unwrap_or("the verifier does not say why")
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
    let fd = bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attributes).context("BPF_MAP_CREATE")?;
    if map.section_kind() == EbpfSectionKind::Rodata {
        fill_and_freeze(&fd, map.data())?;
    }
    Ok(fd)
}

/// Gives a map of read-only globals its one value, for good, so that the verifier may rely on it.
fn fill_and_freeze(map: &OwnedFd, value: &[u8]) -> Result<()> {
    let key = 0_u32;
    // SAFETY: as in `create_map`.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: BPF_MAP_UPDATE_ELEM and BPF_MAP_FREEZE read this variant; all of it is zero, which is valid.
    let update = unsafe { &mut attributes.__bindgen_anon_2 };
    update.map_fd = map.as_raw_fd().cast_unsigned();
    let mut freeze = attributes;
    // SAFETY: as above.
    let update = unsafe { &mut attributes.__bindgen_anon_2 };
    update.key = std::ptr::from_ref(&key) as u64;
    update.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).context("BPF_MAP_UPDATE_ELEM")?;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut freeze).context("BPF_MAP_FREEZE")?;
    Ok(())
}

fn load_btf(bytes: &[u8]) -> Result<OwnedFd> {
    // SAFETY: as in `create_map`.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: BPF_BTF_LOAD reads this variant; all of it is zero, which is valid.
    let load = unsafe { &mut attributes.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = u32::try_from(bytes.len()).context("type information of 4 GiB")?;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attributes).context("BPF_BTF_LOAD")
}

/// Loads a program; returns the kernel's error, if any, and the verifier's log. The program is gone afterwards.
fn load(
    program: &Program,
    function: &Function,
    btf: Option<&OwnedFd>,
) -> Result<(Option<io::Error>, String)> {
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
    }
    let loaded = bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attributes);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    Ok((loaded.err(), text))
}

/// The system call, for commands that return a new file descriptor.
fn bpf_fd(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call.
fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attributes` is a whole `bpf_attr`, and what it points to outlives the call: the callers own it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, attributes, size_of::<bpf_attr>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
