//! How fast to send: a little more than the receiver takes.
//!
//! A sender that finds the link full gives its frames back to the pool that they came from, under the same lock as the
//! receiver; at full speed receivers of all kinds would spend most of their time waiting for it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::generator::Generator;
use super::link::Link;
use super::rounds::BUSY;

/// What is sent for each frame that is received, to be aimed at.
const SURPLUS: f64 = 1.01;
/// The same as long as the receiver has time to wait, since then nobody knows how much it can take.
const PLENTY: f64 = 1.15;
/// About what a step of the generator takes, in nanoseconds. Only how soon the pace is found depends on it.
const STEP: f64 = 2.0;
/// Looks at what is sent and received, and how far apart.
const LOOKS: u32 = 25;
const LOOK: Duration = Duration::from_millis(4);

/// The pace of one row, kept from round to round.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    /// Steps that the generator wastes before each frame.
    steps: f64,
}

impl Pace {
    /// Finds the pace at which most is received, while the generator sends on `link`.
    pub(super) fn find(&mut self, generator: &Generator, link: &Link) -> Result<()> {
        let mut best = (0.0, self.steps);
        generator.waste(self.steps)?;
        for _ in 0..LOOKS {
            let (start, computed) = (Instant::now(), link.computed()?);
            let (sent, taken) = (generator.sent()?, link.received.count()?);
            thread::sleep(LOOK);
            let (time, computed) = (start.elapsed(), link.computed()? - computed);
            let (sent, taken) = (generator.sent()? - sent, link.received.count()? - taken);
            if sent == 0 || taken == 0 {
                continue;
            }
            let rate = taken as f64 / time.as_secs_f64();
            if rate > best.0 {
                best = (rate, self.steps);
            }
            let surplus = if computed.as_secs_f64() < BUSY * time.as_secs_f64() { PLENTY } else { SURPLUS };
            let nanos = time.as_secs_f64() * 1e9;
            let wanted = nanos / (taken as f64 * surplus);
            let error = wanted - nanos / sent as f64;
            // Half of it, lest it swing: the receiver gets faster when less is sent.
            self.steps = (self.steps + error / STEP / 2.0).clamp(0.0, Generator::MOST_WASTE);
            generator.waste(self.steps)?;
        }
        self.steps = best.1;
        generator.waste(self.steps)
    }
}
