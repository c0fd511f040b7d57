//! Log lines of the kernel side.
//!
//! The program logs numbers (`drop REASON SLOT SOURCE`), since it has no room for words; here they become words.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya_log::EbpfLogger;
use limiter_common::{Address, Reason};

use super::counters;
use super::maps::Maps;

/// How often the ring buffers are emptied. Each CPU logs a few lines a second, so they do not fill up meanwhile.
const PERIOD: Duration = Duration::from_millis(250);

/// Carries the log lines of the kernel side over to the log of the process, at their level (debug).
#[derive(Clone)]
pub struct KernelLog {
    maps: Arc<Maps>,
    /// By interface: a new program replaces the old one.
    loggers: Arc<Mutex<BTreeMap<String, EbpfLogger<Words>>>>,
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelLog").finish_non_exhaustive()
    }
}

impl KernelLog {
    pub(super) fn new(maps: Arc<Maps>) -> Self {
        Self { maps, loggers: Arc::default() }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            self.flush();
        }
    }

    /// Carries over what there is.
    pub fn flush(&self) {
        for logger in self.lock().values_mut() {
            logger.flush();
        }
    }

    /// Reads the log of a program that was just put on `interface`.
    pub(super) fn add(&self, interface: &str, mut object: aya::Ebpf) {
        match EbpfLogger::init_with_logger(&mut object, Words { maps: Arc::clone(&self.maps) }) {
            Ok(logger) => {
                if let Some(mut former) = self.lock().insert(interface.to_owned(), logger) {
                    former.flush();
                }
            }
            Err(error) => tracing::warn!("interface {interface}: no log lines of the kernel side: {error}"),
        }
    }

    pub(super) fn remove(&self, interface: &str) {
        self.lock().remove(interface);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, EbpfLogger<Words>>> {
        self.loggers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the records go: turns a drop into an event with fields.
struct Words {
    maps: Arc<Maps>,
}

impl log::Log for Words {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        match parse(&text) {
            Some(Drop { reason, slot, source }) => {
                let interface = counters::interface(&self.maps, slot).unwrap_or_default();
                let source = source.map(|source| source.to_string()).unwrap_or_default();
                tracing::debug!(interface, reason = reason.label(), source, "dropped a packet");
            }
            None => tracing::debug!("kernel: {text}"),
        }
    }

    fn flush(&self) {}
}

#[derive(Debug, PartialEq, Eq)]
struct Drop {
    reason: Reason,
    slot: u32,
    /// `None` if the frame was dropped before its source was read.
    source: Option<Address>,
}

/// `drop REASON SLOT HIGH LOW`: two numbers, and two halves of an IPv6 address in hexadecimal.
fn parse(text: &str) -> Option<Drop> {
    let mut words = text.strip_prefix("drop ")?.split(' ');
    let reason = Reason::from_index(words.next()?.parse().ok()?)?;
    let slot = words.next()?.parse().ok()?;
    let high = u64::from_str_radix(words.next()?, 16).ok()?;
    let low = u64::from_str_radix(words.next()?, 16).ok()?;
    let source = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
    let source = (!source.is_unspecified()).then(|| Address::from(source).canonical());
    Some(Drop { reason, slot, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_put_into_words() {
        let source = |text: &str| Some(text.parse().unwrap());
        for (line, expected) in [
            (
                "drop 4 0 0 ffffc0000201",
                Drop { reason: Reason::Blocked, slot: 0, source: source("192.0.2.1") },
            ),
            (
                "drop 5 1 20010db800000000 1",
                Drop { reason: Reason::PacketRate, slot: 1, source: source("2001:db8::1") },
            ),
            ("drop 7 0 0 0", Drop { reason: Reason::ShortLink, slot: 0, source: None }),
        ] {
            assert_eq!(parse(line), Some(expected), "{line}");
        }
        assert_eq!(parse("drop 250 0 0 0"), None);
        assert_eq!(parse("something else"), None);
    }
}
