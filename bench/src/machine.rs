//! The machine that figures are from, and the one CPU of it that they are measured on.

use std::fs;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// What a reader needs to know to judge figures.
pub(crate) fn description() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu_info = read("/proc/cpuinfo");
    let cpu = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let vulnerabilities = ["spectre_v2", "indirect_target_selection", "spec_rstack_overflow"]
        .map(|name| (name, read(&format!("/sys/devices/system/cpu/vulnerabilities/{name}"))));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": cpu.map_or("", |(_, name)| name),
        "cpus": possible_cpus().unwrap_or(1),
        "memory_kib": memory("MemTotal:"),
        "jit": read("/proc/sys/net/core/bpf_jit_enable"),
        "jit_harden": read("/proc/sys/net/core/bpf_jit_harden"),
        "bpf_stats": read("/proc/sys/kernel/bpf_stats_enabled"),
        "mitigations": Value::Object(
            vulnerabilities.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
        ),
    })
}

/// One line of it for people.
pub(crate) fn line() -> String {
    let machine = description();
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    format!("{}, {} CPUs, Linux {}", text("cpu"), machine["cpus"], text("kernel"))
}

/// Kilobytes that programs can still have.
pub(crate) fn available_kib() -> u64 {
    memory("MemAvailable:")
}

fn memory(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The CPUs that this process may use.
pub(crate) fn cpus() -> anyhow::Result<Vec<usize>> {
    // SAFETY: a set of CPUs is plain data, and zeros are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writing, and its size is right.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot ask which CPUs may be used");
    }
    // SAFETY: the numbers are within the set.
    let is_in = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    let cpus: Vec<usize> = (0..usize::try_from(libc::CPU_SETSIZE).unwrap_or(0)).filter(is_in).collect();
    if cpus.is_empty() {
        bail!("there is no CPU to run on");
    }
    Ok(cpus)
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> anyhow::Result<()> {
    // SAFETY: as in `cpus`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` came from a set of the same size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid, and its size is right.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot stay on CPU {cpu}"));
    }
    Ok(())
}

/// Keeps the mounts of this thread, and of those that it starts, to themselves: they are gone with the process, however
/// it ends, and with them what is pinned there.
pub(crate) fn keep_mounts_private() -> anyhow::Result<()> {
    // SAFETY: has no requirements.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot have mounts of its own; run it as root");
    }
    let (nothing, root) = (std::ptr::null(), c"/".as_ptr());
    // SAFETY: the path is a string; the other pointers are not looked at for a change of propagation.
    if unsafe { libc::mount(nothing, root, nothing, libc::MS_REC | libc::MS_PRIVATE, nothing.cast()) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot keep mounts to itself");
    }
    Ok(())
}

/// CPUs that there can ever be: per-CPU maps have a value for each.
pub(crate) fn possible_cpus() -> anyhow::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").context("cannot count the CPUs")?;
    // "0-3" or "0,2-3": the highest number counts.
    let last = text.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<usize>().ok());
    Ok(last.with_context(|| format!("cannot count the CPUs: {text:?}"))? + 1)
}
