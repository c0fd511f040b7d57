//! Callers whose credentials were wrong several times have to wait: a second, then two, up to a minute. What it spares is
//! the work of checking signatures, and the log; secrets cannot be guessed anyway. It only answers later, and blocks nobody.

use std::net::IpAddr;
use std::time::Duration;

use limiter_common::{Address, Nanos, Prefix};

use super::recent::Recent;

/// Failures that cost nothing, since people paste the wrong token.
const FREE: u32 = 5;
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Without another failure for so long, all is forgotten.
const MEMORY: Duration = Duration::from_secs(10 * 60);
/// Hosts that are remembered: 16,384 take about 1 MiB.
const HOSTS: usize = 16_384;

/// Failures of hosts: an IPv4 address or an IPv6 /64.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: Recent<Prefix, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    number: u32,
    /// Before that, nothing is looked at.
    until: Nanos,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { failures: Recent::new(HOSTS) }
    }

    /// How long `peer` has to wait still.
    pub(super) fn wait(&self, peer: IpAddr, now: Nanos) -> Option<Duration> {
        let until = self.failures.get(&host(peer), now)?.until;
        (until > now).then(|| Duration::from_nanos(until.saturating_sub(now).0))
    }

    pub(super) fn failed(&mut self, peer: IpAddr, now: Nanos) {
        let host = host(peer);
        let number = self.failures.get(&host, now).map_or(0, |failures| failures.number).saturating_add(1);
        let until = now.saturating_add(nanos(delay(number)));
        let forget = now.saturating_add(nanos(MEMORY));
        self.failures.put(host, Failures { number, until }, forget, now);
    }

    pub(super) fn succeeded(&mut self, peer: IpAddr) {
        self.failures.forget(&host(peer));
    }
}

/// After this many failures.
fn delay(failures: u32) -> Duration {
    match failures.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn host(peer: IpAddr) -> Prefix {
    let address = Address::from(peer).canonical();
    let network = match address {
        Address::V4(_) => None,
        Address::V6(_) => Prefix::new(address, 64),
    };
    network.unwrap_or(Prefix::host(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_failure_takes_longer() {
        let mut backoff = Backoff::new();
        let (who, mut now) = (peer("2001:db8::1"), Nanos::from_secs(100));
        let mut waits = Vec::new();
        for _ in 0..14 {
            backoff.failed(who, now);
            let wait = backoff.wait(who, now).unwrap_or_default();
            waits.push(wait.as_secs());
            now = now.saturating_add(nanos(wait));
            assert_eq!(backoff.wait(who, now), None);
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.failed(who, now);
        assert!(backoff.wait(peer("2001:db8::ffff"), now).is_some(), "one host");
        assert_eq!(backoff.wait(peer("2001:db8:0:1::1"), now), None, "another host");
        let later = now.saturating_add(nanos(MEMORY));
        backoff.failed(who, later);
        assert_eq!(backoff.wait(who, later), None, "all was forgotten");
    }

    #[test]
    fn who_succeeds_starts_afresh() {
        let mut backoff = Backoff::new();
        let (who, now) = (peer("192.0.2.1"), Nanos::from_secs(1));
        (0..10).for_each(|_| backoff.failed(who, now));
        assert!(backoff.wait(peer("::ffff:192.0.2.1"), now).is_some(), "the same in another form");
        assert_eq!(backoff.wait(peer("192.0.2.2"), now), None);
        backoff.succeeded(who);
        backoff.failed(who, now);
        assert_eq!(backoff.wait(who, now), None);
    }
}
