//! Whether a flood of random sources harms those who keep to their limit, and whether those who do not get more than
//! it: counted packet by packet, by the verdict of each.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde_json::json;

use super::frame::{Family, udp};
use super::lane::{Expected, Lane, Traffic, XDP_PASS};
use super::lists::List;
use super::subject::{Limit, Subject};
use super::{Bench, size};
use crate::model::Model;
use crate::report::Bound;
use crate::sources::resident_v4;
use crate::{bpf, machine};

/// Sources that keep to their limit.
const INNOCENTS: u32 = 10_000;
/// Sources that send as much as they can get through, and more.
const GREEDY: u32 = 20;
/// Numbers of the first of each among the residents.
const FIRST_INNOCENT: u32 = 1 << 20;
const FIRST_GREEDY: u32 = 1 << 21;
/// Packets of the flood in one system call; many, since each call waits for other CPUs at its start.
const FLOOD: u32 = 1_000_000;
/// Where the source address is in the frame.
const SOURCE: std::ops::Range<usize> = 26..30;

/// How the innocents send: so many at once, and again after a period. Half their rate, and half their burst.
struct Pace {
    at_once: u32,
    period: Duration,
    /// How long to look.
    seconds: u64,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    sent: u64,
    passed: u64,
    greedy_sent: u64,
    /// The most that any of the greedy got at once, over what it had gained by waiting.
    peak: f64,
    flood: u64,
    seconds: f64,
}

/// When a packet was judged: after the first moment, and before the second.
type Judged = (Instant, Instant);

/// What one source got through, over what its rate allowed meanwhile: the most over any stretch of time.
#[derive(Debug, Clone, Copy, Default)]
struct Excess {
    passed: f64,
    /// Of all packets that a stretch could start with, the best: the rate's packets until then, less those that passed.
    best: f64,
}

impl Excess {
    /// One more packet passed, `start` being before all of them. Returns the excess of the worst stretch that ends with
    /// it. Stretches are taken as long as they can have been, so it is never more than it was.
    fn add(&mut self, rate: f64, start: Instant, (after, before): Judged) -> f64 {
        let allowed = |moment: Instant| rate * moment.saturating_duration_since(start).as_secs_f64();
        self.best = self.best.max(allowed(after) - self.passed);
        self.passed += 1.0;
        self.passed - allowed(before) + self.best
    }
}

/// A token bucket seen from outside: how full it is, should all that was sent have been for it.
#[derive(Debug, Clone, Copy)]
struct Level {
    level: f64,
    at: Instant,
}

impl Level {
    /// One more packet.
    fn add(&mut self, rate: f64, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level - since * rate).max(0.0) + 1.0;
        self.at = now;
    }

    /// Whether one more packet would keep it within `burst`.
    fn has_room(&self, rate: f64, burst: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level - since * rate).max(0.0) + 1.0 <= burst
    }
}

/// Runs both at the same time, and adds to the report.
pub(super) fn measure(bench: &mut Bench<'_>, limit: Limit) -> anyhow::Result<()> {
    let Limit { rate, burst } = limit;
    let each_second = size(rate);
    // What one thread can send by single system calls, besides the greedy ones.
    let at_once = (burst / 2).min(20);
    let period = Duration::from_secs_f64(f64::from(at_once) * 2.0 / f64::from(rate).min(20.0));
    let seconds = if bench.quick { 4 } else { 12 };
    let pace = Pace { at_once, period, seconds };

    let subject = Rc::new(Subject::limiter(&List::sources(Family::V4, 0), Some(limit))?);
    let lane = Lane::new(&subject, Traffic::new(Family::V4, Model::Any, 1), Expected::Anything)?;
    let seen = run(&lane, subject.program(), limit, &pace, &bench.cpus)?;
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^53")]
    let (share, flood) =
        (seen.passed as f64 / seen.sent.max(1) as f64, seen.flood as f64 / seen.seconds / 1e6);
    let excess = seen.peak / f64::from(burst);
    println!(
        "IPv4, {INNOCENTS} innocents beside a flood of {flood:.1} million packets a second of any source; {limit} \
         for each\n    {} of {} packets of innocents passed; {GREEDY} greedy sources sent {}, and got at \
         most {:.2} packets at once ({:.2} % of the burst)",
        seen.passed,
        seen.sent,
        seen.greedy_sent,
        seen.peak,
        excess * 100.0
    );
    bench.report.part(
        &format!("innocents at {each_second}/s"),
        json!({
            "sent": seen.sent, "passed": seen.passed, "flood_mpps": flood, "greedy_sent": seen.greedy_sent,
            "peak": seen.peak, "burst": burst, "seconds": seen.seconds,
        }),
    );
    // Under a slow limit the state of a packet lives long, so how full the slots get depends on how fast the machine can
    // flood: what is exact on one may not be on another.
    let (share_slack, excess_slack) = if rate >= 1_000 { (1.001, 1.02) } else { (1.3, 2.0) };
    let what = format!("innocents' share of conforming packets that pass, {each_second}/s");
    bench.counted("R8", what, share, Bound::AtLeast(0.9999), share_slack);
    let what = format!("over-admission: packets at once / burst, {each_second}/s");
    bench.counted("R8", what, excess, Bound::AtMost(1.01), excess_slack);
    Ok(())
}

fn run(
    lane: &Lane,
    program: BorrowedFd<'_>,
    limit: Limit,
    pace: &Pace,
    cpus: &[usize],
) -> anyhow::Result<Seen> {
    let (&flood_cpu, &other_cpu) = (cpus.last().context("no CPU")?, cpus.first().context("no CPU")?);
    let stop = AtomicBool::new(false);
    let flooded = AtomicU64::new(0);
    let (flood, frame) = lane.parts();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| -> anyhow::Result<()> {
            machine::pin(flood_cpu)?;
            while !stop.load(Ordering::Relaxed) {
                bpf::test_run(flood, frame, FLOOD).context("the kernel refused to run the flood")?;
                flooded.fetch_add(u64::from(FLOOD), Ordering::Relaxed);
            }
            Ok(())
        });
        let sender = scope.spawn(|| {
            // So that the flood goes on whatever this thread does.
            let seen = machine::pin(other_cpu).and_then(|()| send(program, limit, pace, &flooded));
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let seen = sender.join().map_err(|_panic| anyhow!("the innocents' thread panicked"))?;
        flood.join().map_err(|_panic| anyhow!("the flood's thread panicked"))??;
        seen
    })
}

/// Sends one packet, and returns whether it passed.
fn send_one(program: BorrowedFd<'_>, frame: &mut [u8], source: u32) -> anyhow::Result<(bool, Judged)> {
    frame[SOURCE].copy_from_slice(&source.to_be_bytes());
    let after = Instant::now();
    let run = bpf::test_run(program, frame, 1).context("the kernel refused to run a packet")?;
    Ok((run.verdict == XDP_PASS, (after, Instant::now())))
}

fn send(program: BorrowedFd<'_>, limit: Limit, pace: &Pace, flooded: &AtomicU64) -> anyhow::Result<Seen> {
    let (rate, burst) = (f64::from(limit.rate), f64::from(limit.burst));
    let mut frame = udp(Family::V4);
    let mut seen = Seen::default();
    // The flood first: the tables are as full as they get when the innocents come.
    while flooded.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    let start = Instant::now();
    let flooded_before = flooded.load(Ordering::Relaxed);
    let end = start + Duration::from_secs(pace.seconds);
    // Spread over the first period; in the order of their turns, since all periods are alike.
    let mut turns: VecDeque<(Instant, u32)> = (0..INNOCENTS)
        .map(|innocent| (start + pace.period.mul_f64(f64::from(innocent) / f64::from(INNOCENTS)), innocent))
        .collect();
    let full = Level { level: 0.0, at: start };
    let mut innocents = vec![full; INNOCENTS as usize];
    let mut greedy = vec![Excess::default(); GREEDY as usize];
    let mut turn = 0;
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        while let Some((due, innocent)) = turns.pop_front_if(|(due, _)| *due <= now) {
            let level = &mut innocents[innocent as usize];
            let source = resident_v4(FIRST_INNOCENT + innocent);
            for _ in 0..pace.at_once {
                // Only what conforms, should this thread have been late.
                if !level.has_room(rate * 0.9, burst * 0.9, Instant::now()) {
                    break;
                }
                let (passed, (_, at)) = send_one(program, &mut frame, source)?;
                level.add(rate * 0.9, at);
                seen.sent += 1;
                seen.passed += u64::from(passed);
            }
            turns.push_back((due + pace.period, innocent));
        }
        // One greedy source at a time; every other one is silent for half of each second, and so saves up a burst.
        turn = (turn + 1) % GREEDY;
        let silent = turn % 2 == 1 && now.duration_since(start).subsec_millis() < 500;
        if !silent {
            let (passed, judged) = send_one(program, &mut frame, resident_v4(FIRST_GREEDY + turn))?;
            seen.greedy_sent += 1;
            if passed {
                seen.peak = seen.peak.max(greedy[turn as usize].add(rate, start, judged));
            }
        }
    }
    seen.seconds = start.elapsed().as_secs_f64();
    seen.flood = flooded.load(Ordering::Relaxed) - flooded_before;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excess_is_what_a_bucket_held() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut excess = Excess::default();
        // 10 at once, then at the rate of 10/s, then silence and 12 at once.
        let moments: Vec<u64> =
            [500; 10].into_iter().chain((6..10).map(|tenth| tenth * 100)).chain([5_000; 12]).collect();
        let peaks: Vec<f64> =
            moments.into_iter().map(|millis| excess.add(10.0, start, (at(millis), at(millis)))).collect();
        let is = |peak: f64, expected: f64| assert!((peak - expected).abs() < 1e-6, "{peaks:?}");
        is(peaks[9], 10.0);
        is(peaks[13], 10.0);
        is(peaks[14], 1.0);
        is(peaks[25], 12.0);
    }
}
