//! Packets of many sources, one of each, and whether they get through.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::frames;
use crate::lab::Lab;
use crate::traffic::Sender;
use crate::wait;

/// Nobody else sends to this port. The witness counts what arrives there, and takes it off the host's hands.
const PORT: u16 = 9_009;
/// Of the counter.
const NAME: &str = "sources";
const SOON: Duration = Duration::from_secs(10);

/// A sender for any of them.
#[derive(Debug)]
pub struct Sources<'a> {
    lab: &'a Lab,
    sender: Sender,
}

impl<'a> Sources<'a> {
    /// From now on the witness counts what gets through.
    ///
    /// # Errors
    ///
    /// If it refuses, or there are no packet sockets.
    pub fn watched(lab: &'a Lab) -> Result<Self> {
        lab.witness.watch(NAME, &format!("udp dport {PORT}"))?;
        Ok(Self { lab, sender: Sender::open(lab)? })
    }

    /// Sends a packet of each, and looks whether those of `free` get through and those of `blocked` do not.
    ///
    /// # Errors
    ///
    /// If it is otherwise.
    pub fn ensure_judged(&self, blocked: &[IpAddr], free: &[IpAddr]) -> Result<()> {
        let before = self.passed()?;
        self.send(blocked)?;
        // Frames of one link stay in order: behind the last of these, all of those were judged.
        self.send(free)?;
        let goal = before + free.len() as u64;
        let arrived =
            wait::until_true(
                "packets of who is not blocked get through",
                SOON,
                || Ok(self.passed()? >= goal),
            );
        if arrived.is_ok() && self.passed()? == goal {
            return Ok(());
        }
        for (sources, expected) in [(blocked, 0), (free, 1)] {
            for source in sources {
                let before = self.passed()?;
                self.send(&[*source])?;
                let passed = self.passed()? - before;
                ensure!(passed == expected, "{passed} packets of {source} get through, not {expected}");
            }
        }
        bail!("of {} packets, another number got through for a moment", blocked.len() + free.len());
    }

    fn send(&self, sources: &[IpAddr]) -> Result<()> {
        let frames: Vec<_> = sources.iter().map(|source| frames::udp_to(*source, PORT, 60)).collect();
        ensure!(self.sender.send(&frames)? == frames.len(), "the link is full");
        Ok(())
    }

    fn passed(&self) -> Result<u64> {
        self.lab.witness.count(NAME)
    }
}
