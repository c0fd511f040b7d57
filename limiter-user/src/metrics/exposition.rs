//! A [`Snapshot`] as Prometheus text, format 0.0.4. Pure.
//!
//! The registry is made for each scrape: the numbers live elsewhere, and an interface that is gone must not linger.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::Snapshot;
use crate::control::server::{Connection, Outcome};
use crate::hook;

/// The media type of what [`exposition`] returns.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// # Errors
///
/// If two metrics have one name, which the tests would find.
pub fn exposition(snapshot: &Snapshot) -> prometheus::Result<String> {
    let registry = Registry::new();
    traffic(&registry, snapshot)?;
    tables(&registry, snapshot)?;
    interfaces(&registry, snapshot)?;
    lists(&registry, snapshot)?;
    daemon(&registry, snapshot)?;
    api(&registry, snapshot)?;
    hooks(&registry, snapshot)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn traffic(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let labels = &["interface", "action", "reason"];
    let packets = counters(
        registry,
        "limiter_packets_total",
        "Frames seen in XDP, each counted for one reason",
        labels,
    )?;
    let bytes = counters(
        registry,
        "limiter_bytes_total",
        "Bytes of the frames seen in XDP, link header included",
        labels,
    )?;
    for interface in &snapshot.counts {
        for (reason, count) in &interface.counts {
            let labels = [interface.interface.as_str(), reason.action().label(), reason.label()];
            packets.with_label_values(&labels).inc_by(count.packets);
            bytes.with_label_values(&labels).inc_by(count.bytes);
        }
    }
    Ok(())
}

fn tables(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let entries = gauges(registry, "limiter_map_entries", "Entries in a kernel table", &["map"])?;
    for (table, count) in &snapshot.summary.tables {
        entries.with_label_values(&[table]).set(signed(*count));
    }
    let capacity =
        gauges(registry, "limiter_map_capacity", "Entries that a kernel table can hold", &["map"])?;
    for table in &snapshot.capacities {
        capacity.with_label_values(&[table.table]).set(i64::from(table.capacity));
    }
    Ok(())
}

fn interfaces(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let attached = gauges(
        registry,
        "limiter_xdp_attached",
        "Whether the program runs on the interface in this mode",
        &["interface", "mode"],
    )?;
    let protected = gauges(
        registry,
        "limiter_interface_protected",
        "Whether the program runs on a configured interface",
        &["interface"],
    )?;
    for interface in &snapshot.daemon.interfaces {
        for mode in ["native", "generic"] {
            let here = interface.mode.as_deref() == Some(mode);
            attached.with_label_values(&[interface.name.as_str(), mode]).set(i64::from(here));
        }
        protected.with_label_values(&[&interface.name]).set(i64::from(interface.protected));
    }
    Ok(())
}

fn lists(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let summary = &snapshot.summary;
    gauge(registry, "limiter_blocks", "Prefixes that somebody blocks")?.set(signed(summary.blocks));
    gauge(registry, "limiter_allows", "Prefixes that somebody allows")?.set(signed(summary.allows));
    gauge(
        registry,
        "limiter_entries_not_in_force",
        "Entries that are listed, but which the kernel did not take",
    )?
    .set(signed(summary.missing));
    gauge(registry, "limiter_durable", "Whether changes survive a restart; if not, they are refused")?
        .set(i64::from(summary.durable));
    let entries =
        gauges(registry, "limiter_list_entries", "Prefixes of a list in force", &["list", "action"])?;
    let good = gauges(
        registry,
        "limiter_list_last_load_successful",
        "Whether the list's file could be read the last time",
        &["list"],
    )?;
    for list in &summary.lists {
        entries.with_label_values(&[list.name.as_str(), list.action.label()]).set(signed(list.entries));
        good.with_label_values(&[&list.name]).set(i64::from(list.problem.is_none()));
    }
    gauge(registry, "limiter_warnings", "Warnings that limiter status shows about the lists")?
        .set(i64::try_from(summary.warnings.len()).unwrap_or(i64::MAX));
    Ok(())
}

fn daemon(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let reload = snapshot.daemon.reload;
    gauge(
        registry,
        "limiter_config_last_reload_successful",
        "Whether the configuration in force is the one last tried",
    )?
    .set(i64::from(reload.successful));
    time(
        registry,
        "limiter_config_last_reload_success_timestamp_seconds",
        "When a configuration was last loaded, in seconds since 1970",
        reload.succeeded_at,
    )?;
    time(
        registry,
        "limiter_start_time_seconds",
        "When the daemon started, in seconds since 1970",
        snapshot.daemon.started,
    )?;
    gauges(
        registry,
        "limiter_build_info",
        "The version of limiter and of its map layout",
        &["version", "abi"],
    )?
    .with_label_values(&[snapshot.version, &snapshot.abi.to_string()])
    .set(1);
    Ok(())
}

fn api(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let traffic = &snapshot.traffic;
    gauge(registry, "limiter_api_open_connections", "Connections to the API over TCP")?
        .set(signed(traffic.open()));
    let connections = counters(
        registry,
        "limiter_api_connections_total",
        "Connections to the API over TCP, by what became of them",
        &["outcome"],
    )?;
    for outcome in Connection::ALL {
        connections.with_label_values(&[outcome.label()]).inc_by(traffic.connections(outcome));
    }
    let requests = counters(
        registry,
        "limiter_api_requests_total",
        "Requests to the API over TCP, by how they were answered",
        &["outcome"],
    )?;
    for outcome in Outcome::ALL {
        requests.with_label_values(&[outcome.label()]).inc_by(traffic.requests(outcome));
    }
    Ok(())
}

fn hooks(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    let frames = counters(
        registry,
        "limiter_hook_frames_total",
        "Frames that servers sent to a hook, by what became of them",
        &["hook", "outcome"],
    )?;
    for counts in &snapshot.hooks {
        for outcome in hook::Outcome::ALL {
            let labels = [&*counts.name, outcome.label()];
            frames.with_label_values(&labels).inc_by(counts.frames(outcome));
        }
    }
    Ok(())
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn time(registry: &Registry, name: &str, help: &str, at: SystemTime) -> prometheus::Result<()> {
    let gauge = Gauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    // A clock before 1970 is not set yet.
    gauge.set(at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
    Ok(())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
