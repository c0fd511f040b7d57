//! Applications that report or block at a steady rate, each over a connection of its own.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use limiter_user::client::{AddRequest, Client, Report};
use limiter_user::config::Action;

use crate::sources::listed_v4;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Blocks,
    /// Each source is reported [`THRESHOLD`] times, with [`APART`] reports of others in between.
    Reports,
}

/// Reports of a source that are enough for a block.
const THRESHOLD: u32 = 5;
/// Sources that are reported in turns. More than what is under way at a time, so that the last report of a source
/// is the last that is counted.
const APART: u32 = 2000;
/// Of the policy.
const CATEGORY: &str = "login_failed";
/// How long blocks last.
const LASTING: u64 = 3600;

/// The configuration that it takes.
pub(crate) fn policy() -> String {
    format!(
        "[guards]\nblocks_per_minute = false\n[[policy]]\ncategory = \"{CATEGORY}\"\nthreshold = {THRESHOLD}\n\
         within = \"1m\"\nblock = \"1h\"\n"
    )
}

/// How fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Reports or blocks in a second.
    pub(crate) rate: u32,
    /// In a request.
    pub(crate) batch: u32,
    /// Requests that are under way at a time.
    pub(crate) connections: u32,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Reports or blocks.
    pub(super) acknowledged: u32,
    /// Blocks that the answers told of.
    pub(super) told: u64,
    /// From the start to the last answer.
    pub(super) time: Duration,
    /// Milliseconds from each request to its answer, sorted.
    latencies: Vec<f64>,
}

impl Done {
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.acknowledged) / self.time.as_secs_f64()
    }

    pub(super) fn latency(&self, share: f64) -> f64 {
        crate::statistics::quantile(&self.latencies, share)
    }
}

impl Pace {
    /// Requests in all: those of reports end with a source's last.
    fn requests(&self, load: Load) -> u32 {
        let items = self.rate * u32::try_from(self.time.as_secs()).unwrap_or(1);
        let items = match load {
            Load::Blocks => items,
            Load::Reports => items.next_multiple_of(APART * THRESHOLD),
        };
        items.div_ceil(self.batch)
    }

    /// Sources that are blocked in the end.
    pub(super) fn sources(&self, load: Load) -> u32 {
        let items = self.requests(load) * self.batch;
        match load {
            Load::Blocks => items,
            Load::Reports => items / THRESHOLD,
        }
    }
}

/// The source of block or report number `item`.
fn source(load: Load, item: u32) -> Ipv4Addr {
    let number = match load {
        Load::Blocks => item,
        Load::Reports => item / (APART * THRESHOLD) * APART + item % APART,
    };
    blocked(number)
}

/// The source that is blocked as number `number`.
pub(super) fn blocked(number: u32) -> Ipv4Addr {
    listed_v4(number).into()
}

/// Sends all of it, each connection by a client of its own. An answer that is no success is an error.
/// Ends early after `stop`.
pub(crate) fn run(
    client: &(dyn Fn() -> Client + Sync),
    load: Load,
    pace: &Pace,
    stop: &AtomicBool,
) -> Result<Done> {
    let start = Instant::now();
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = (0..pace.connections)
            .map(|connection| scope.spawn(move || part(&client(), load, pace, (connection, start), stop)))
            .collect();
        let parts = threads.into_iter().map(|thread| match thread.join() {
            Ok(part) => part,
            Err(_) => bail!("a client gave up"),
        });
        parts.collect::<Result<Vec<Done>>>()
    })?;
    let mut done = Done { time: start.elapsed(), ..Done::default() };
    for part in parts {
        done.acknowledged += part.acknowledged;
        done.told += part.told;
        done.latencies.extend(part.latencies);
    }
    done.latencies.sort_by(f64::total_cmp);
    Ok(done)
}

/// The requests of one connection.
fn part(
    client: &Client,
    load: Load,
    pace: &Pace,
    (first, start): (u32, Instant),
    stop: &AtomicBool,
) -> Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut done = Done::default();
        for number in (first..pace.requests(load)).step_by(pace.connections as usize) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let items = number * pace.batch..(number + 1) * pace.batch;
            let due = Duration::from_secs_f64(f64::from(items.start) / f64::from(pace.rate));
            let request = Request::of(load, items);
            // The timer of the runtime is in milliseconds.
            thread::sleep(due.saturating_sub(start.elapsed()));
            let begun = Instant::now();
            done.told += request.send(client).await?;
            done.latencies.push(begun.elapsed().as_secs_f64() * 1e3);
            done.acknowledged += pace.batch;
        }
        Ok(done)
    })
}

enum Request {
    Blocks(AddRequest),
    Reports(Vec<Report>),
}

impl Request {
    fn of(load: Load, items: std::ops::Range<u32>) -> Self {
        match load {
            Load::Blocks => Self::Blocks(AddRequest {
                prefixes: items.map(|item| source(load, item).to_string()).collect(),
                seconds: Some(LASTING),
                ..AddRequest::default()
            }),
            Load::Reports => {
                Self::Reports(items.map(|item| Report::new(source(load, item).into(), CATEGORY)).collect())
            }
        }
    }

    /// Returns how many blocks there are now by the answer.
    async fn send(&self, client: &Client) -> Result<u64> {
        match self {
            Self::Blocks(request) => {
                let done = client.add(Action::Block, request).await.context("a request for blocks")?;
                ensure!(done.added == request.prefixes.len() as u64, "not all of them were new: {done:?}");
                Ok(done.added)
            }
            Self::Reports(reports) => {
                let done = client.report(reports).await.context("a request with reports")?;
                let all = reports.len() as u64;
                ensure!(done.counted == all && done.refused == 0, "not all were counted: {done:?}");
                Ok(done.blocks)
            }
        }
    }
}
