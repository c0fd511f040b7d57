//! The sample frames, and what the program knows of their sources.

use std::fmt;

use anyhow::{Result, bail, ensure};
use limiter_common::{
    Action, Address, Nanos, Prefix, Reason,
    abi::{self, Entry, Limits, Settings},
    frame, hits,
    testing::frames::{Bytes, Ipv4, Ipv6, SOURCE_V4, SOURCE_V6, Tcp, Udp, Vlan},
};

use super::kernel::{self, XDP_DROP, XDP_PASS};
use crate::{
    machine::{Machine, Run},
    object,
};

/// What the clock says: some days after boot.
const NOW: u64 = 1_000_000_000_000_000;
const HOUR: u64 = 3_600_000_000_000;

// Calls that no kernel inlines which a verdict on a plain IPv4 frame may make: `cargo xtask ci` fails if one makes more.

const FOR_LISTS: usize = 0;
/// The clock.
const FOR_A_DEADLINE: usize = 1;
/// The clock.
const FOR_A_LIMIT: usize = 1;

/// Linux 5.18 and later run the first.
const PROGRAMS: [&str; 2] = [abi::PROGRAM_FRAGS, abi::PROGRAM_LINEAR];

const SITUATIONS: [Situation; 12] = [
    Situation { calls: Some(FOR_LISTS), ..Situation::new("clean", Reason::Passed) },
    Situation {
        calls: Some(FOR_LISTS),
        list: Some((Span::Neighbour, BLOCKED)),
        ..Situation::new("near", Reason::Passed)
    },
    Situation {
        calls: Some(FOR_LISTS),
        list: Some((Span::Host, BLOCKED)),
        ..Situation::new("blocked", Reason::Blocked)
    },
    Situation {
        calls: Some(FOR_A_DEADLINE),
        list: Some((Span::Host, BLOCKED_FOR_AN_HOUR)),
        ..Situation::new("blocked-until", Reason::Blocked)
    },
    Situation {
        calls: Some(FOR_LISTS),
        list: Some((Span::Network, BLOCKED)),
        ..Situation::new("blocked-network", Reason::Blocked)
    },
    // Prefixes longer than a /24 are looked for one by one, in functions.
    Situation {
        calls: None,
        list: Some((Span::Narrow, BLOCKED)),
        ..Situation::new("blocked-narrow", Reason::Blocked)
    },
    // Rare: recorded by a function.
    Situation {
        calls: None,
        list: Some((Span::Host, BLOCKED)),
        frame: Which::Nth(hits::SAMPLE),
        ..Situation::new("blocked-sampled", Reason::Blocked)
    },
    Situation {
        calls: Some(FOR_LISTS),
        list: Some((Span::Host, ALLOWED)),
        ..Situation::new("allowed", Reason::Allowed)
    },
    // The first packets of a burst need no slot, the last ones do. The one that takes it is rare: a function does that.
    Situation { calls: Some(FOR_A_LIMIT), limited: true, ..Situation::new("limit-first", Reason::Passed) },
    Situation {
        calls: Some(FOR_A_LIMIT),
        limited: true,
        frame: Which::Nth(2),
        ..Situation::new("limit-conforming", Reason::Passed)
    },
    Situation {
        calls: Some(FOR_A_LIMIT),
        limited: true,
        frame: Which::LastPassed,
        ..Situation::new("limit-burst", Reason::Passed)
    },
    Situation {
        calls: Some(FOR_A_LIMIT),
        limited: true,
        frame: Which::FirstDropped,
        ..Situation::new("limit-over", Reason::PacketRate)
    },
];

const BLOCKED: Entry = Entry { block_until: Nanos::NEVER.0, allow_until: 0 };
const BLOCKED_FOR_AN_HOUR: Entry = Entry { block_until: NOW + HOUR, allow_until: 0 };
const ALLOWED: Entry = Entry { block_until: 0, allow_until: Nanos::NEVER.0 };

/// What the program knows of the source, and which of its frames is looked at.
#[derive(Debug, Clone, Copy)]
struct Situation {
    name: &'static str,
    expected: Reason,
    /// How many there may be; `None` if it does not matter.
    calls: Option<usize>,
    list: Option<(Span, Entry)>,
    /// Whether all sources are held to packets.
    limited: bool,
    frame: Which,
}

impl Situation {
    const fn new(name: &'static str, expected: Reason) -> Self {
        Self { name, expected, calls: None, list: None, limited: false, frame: Which::Nth(1) }
    }
}

/// What a list has of the source.
#[derive(Debug, Clone, Copy)]
enum Span {
    Host,
    /// Not the source but the next address.
    Neighbour,
    /// Many of what the first level of the tables tells apart.
    Network,
    /// Less than that.
    Narrow,
}

/// Which of a source's frames, all sent in the same moment.
#[derive(Debug, Clone, Copy)]
enum Which {
    Nth(u64),
    LastPassed,
    FirstDropped,
}

/// What the frame is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Udp,
    Tcp,
    Vlan,
    V6,
}

impl Framing {
    const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Vlan, Self::V6];

    const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Vlan => "vlan",
            Self::V6 => "ipv6",
        }
    }

    /// Untagged IPv4, which the entry point judges itself.
    const fn is_plain(self) -> bool {
        matches!(self, Self::Udp | Self::Tcp)
    }

    fn bytes(self) -> Vec<u8> {
        let payload = || Bytes::from(vec![0; 64]);
        match self {
            Self::Udp => frame![Ipv4::default(), Udp::default(), payload()],
            Self::Tcp => frame![Ipv4::default(), Tcp::default(), payload()],
            Self::Vlan => frame![Vlan::default(), Ipv4::default(), Udp::default(), payload()],
            Self::V6 => frame![Ipv6::default(), Udp::default(), payload()],
        }
    }

    /// The prefix that a list has.
    fn prefix(self, span: Span) -> Option<Prefix> {
        let v6 = self == Self::V6;
        let [source, neighbour] = if v6 {
            let number = u128::from(SOURCE_V6);
            [number, number + 1].map(|number| Address::V6(number.to_be_bytes()))
        } else {
            let number = u32::from(SOURCE_V4);
            [number, number + 1].map(|number| Address::V4(number.to_be_bytes()))
        };
        match span {
            Span::Host => Some(Prefix::host(source)),
            Span::Neighbour => Some(Prefix::host(neighbour)),
            Span::Network => Prefix::new(source, if v6 { 48 } else { 16 }),
            Span::Narrow => Prefix::new(source, if v6 { 120 } else { 28 }),
        }
    }
}

/// One frame in one situation at one program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    program: &'static str,
    situation: Situation,
    framing: Framing,
}

/// All scenarios.
pub(super) fn all() -> impl Iterator<Item = Scenario> {
    PROGRAMS.into_iter().flat_map(|program| {
        SITUATIONS.into_iter().flat_map(move |situation| {
            Framing::ALL.into_iter().map(move |framing| Scenario { program, situation, framing })
        })
    })
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.program, self.situation.name, self.framing.name())
    }
}

impl Scenario {
    pub(super) const fn expected(&self) -> Reason {
        self.situation.expected
    }

    /// Calls that no kernel inlines; `None` if their number does not matter.
    pub(super) fn calls_allowed(&self) -> Option<usize> {
        self.situation.calls.filter(|_| self.framing.is_plain())
    }

    /// Runs the frame, after those that belong to the situation; returns what it ran through.
    ///
    /// # Errors
    ///
    /// If the program does something else than what the situation is about, or than what can be run.
    pub(super) fn run(&self, object: &[u8]) -> Result<(Run, Machine)> {
        let Situation { expected, list, limited, .. } = self.situation;
        let settings =
            Settings { limited: limited.into(), listed_v4: list.is_some().into(), ..object::settings() };
        let limits = if limited { object::packet_limit() } else { Limits::NONE };
        let entry = list.and_then(|(span, entry)| Some((self.framing.prefix(span)?, entry)));
        let mut machine = kernel::machine(object, self.program, &settings, &limits, entry.as_slice(), NOW)?;
        let frame = self.framing.bytes();
        let run = match self.situation.frame {
            Which::Nth(n) => {
                for _ in 1..n {
                    machine.run(&frame)?;
                }
                machine.run(&frame)?
            }
            Which::LastPassed => around_first_dropped(&mut machine, &frame)?.0,
            Which::FirstDropped => around_first_dropped(&mut machine, &frame)?.1,
        };
        let wanted = match expected.action() {
            Action::Pass => XDP_PASS,
            Action::Drop => XDP_DROP,
        };
        ensure!(run.result == wanted, "the program returned {}, but {wanted} was expected", run.result);
        ensure!(
            kernel::counted(&machine, expected)? > 0,
            "the program counted another reason than {}",
            expected.label()
        );
        Ok((run, machine))
    }
}

/// Sends as many frames as it takes; returns what the last that passes and the first that is dropped run through.
fn around_first_dropped(machine: &mut Machine, frame: &[u8]) -> Result<(Run, Run)> {
    /// More than the burst of the limit.
    const MOST: usize = 10_000;
    let mut last = machine.run(frame)?;
    for _ in 0..MOST {
        let run = machine.run(frame)?;
        if run.result == XDP_DROP {
            return Ok((last, run));
        }
        last = run;
    }
    bail!("{MOST} frames in one moment, and none was over the limit");
}
