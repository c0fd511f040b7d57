//! A subject under traffic of one kind: the mutator in front of it, and the checks that it did its job.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use super::frame::{Family, udp};
use super::object::{Name, Object};
use super::subject::{Limit, Subject, Verdicts};
use crate::bpf;
use crate::model::{Model, Parameters};

/// `XDP_DROP` and `XDP_PASS`.
const XDP_DROP: u32 = 1;
pub(super) const XDP_PASS: u32 = 2;

/// The traffic of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) family: Family,
    pub(super) model: Model,
    pub(super) parameters: Parameters,
}

/// What becomes of the packets; checked after measuring, since a program that does something else is fast or slow for
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Expected {
    /// This share is dropped, by chance.
    Share(f64),
    /// This share is dropped, give or take `within`.
    About { share: f64, within: f64 },
    /// One source, which is over its limit: no more pass than the limit says.
    Limited(Limit),
    /// It is not known: the program is judged elsewhere.
    Anything,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    subject: Rc<Subject>,
    mutator: Object,
    frame: Vec<u8>,
    model: Model,
    expected: Expected,
    /// When the first packet was sent, what had been counted then, and packets since.
    start: Option<(Instant, Verdicts)>,
    sent: u64,
}

impl Lane {
    pub(super) fn new(subject: &Rc<Subject>, traffic: Traffic, expected: Expected) -> anyhow::Result<Self> {
        let Traffic { family, model, parameters } = traffic;
        let constants =
            [("MODEL", model as u64), ("LISTED", parameters.listed.max(1).into()), ("HOT", parameters.hot)];
        let mutator = Object::load(Name::Mutator, &constants, &[])?;
        let program = std::os::fd::AsRawFd::as_raw_fd(&subject.program()).to_ne_bytes();
        bpf::update(mutator.map("subject")?, &0_u32.to_ne_bytes(), &program)
            .with_context(|| format!("cannot call {} from another program", subject.name()))?;
        let subject = Rc::clone(subject);
        Ok(Self { subject, mutator, frame: udp(family), model, expected, start: None, sent: 0 })
    }

    pub(super) fn name(&self) -> &str {
        self.subject.name()
    }

    pub(super) fn is_of_one_source(&self) -> bool {
        self.model == Model::Hot
    }

    /// The program to run, and the packet to run it with, for other threads.
    pub(super) fn parts(&self) -> (BorrowedFd<'_>, &[u8]) {
        (self.mutator.program(), &self.frame)
    }

    /// Nanoseconds a packet, over `packets` of them.
    pub(super) fn measure(&mut self, packets: u32) -> anyhow::Result<f64> {
        if self.start.is_none() {
            self.start = Some((Instant::now(), self.subject.verdicts()?.unwrap_or_default()));
        }
        let run = bpf::test_run(self.mutator.program(), &self.frame, packets)
            .with_context(|| format!("the kernel refused to run {}", self.name()))?;
        ensure!(matches!(run.verdict, XDP_DROP | XDP_PASS), "{} returned {}", self.name(), run.verdict);
        self.sent += u64::from(packets);
        Ok(run.time.as_secs_f64() * 1e9 / f64::from(packets))
    }

    /// What became of the packets since the first one; an error if it was not what shall become of them.
    pub(super) fn check(&self) -> anyhow::Result<Option<Verdicts>> {
        let Some((start, before)) = self.start else { return Ok(None) };
        let Some(verdicts) = self.subject.verdicts()? else { return Ok(None) };
        let verdicts = verdicts.since(before);
        let name = self.name();
        if verdicts.all() != self.sent {
            bail!(
                "{name} was sent {} packets and counted {}: {}",
                self.sent,
                verdicts.all(),
                self.subject.reasons()
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "far less than 2^53")]
        let (dropped, passed, sent) = (verdicts.dropped as f64, verdicts.passed as f64, self.sent as f64);
        match self.expected {
            Expected::Share(share) => {
                // Six standard deviations, and some for short lists, which are drawn by chance too.
                let within = 6.0 * (share * (1.0 - share) / sent).sqrt() + share * (1.0 - share) / 500.0;
                self.is_about(dropped / sent, share, within)?;
            }
            Expected::About { share, within } => self.is_about(dropped / sent, share, within)?,
            Expected::Limited(Limit { rate, burst }) => {
                let most = (f64::from(burst) + f64::from(rate) * start.elapsed().as_secs_f64()) * 1.05;
                ensure!(
                    passed <= most && passed * 2.0 >= most.min(sent),
                    "{name} passed {passed} packets of a source that may send {most:.0}: {}",
                    self.subject.reasons()
                );
            }
            Expected::Anything => {}
        }
        Ok(Some(verdicts))
    }

    fn is_about(&self, measured: f64, share: f64, within: f64) -> anyhow::Result<()> {
        ensure!(
            (measured - share).abs() <= within,
            "{} dropped {measured:.5} of {} packets instead of {share:.5}, give or take {within:.5}: {}",
            self.name(),
            self.sent,
            self.subject.reasons()
        );
        Ok(())
    }
}
