//! Ten thousand frames that nobody wrote: every framing of a blocked source, with everything but its address mutated.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::traffic::Sender;
use limiter_tests::{Config, Daemon, Dice, frames, in_lab};

const FRAMES: usize = 10_000;
/// Where the address of the receiver ends and that of the sender begins.
const SENDER_AT: usize = 6;
/// Longest frame that the link takes.
const LONGEST: usize = 1_514;

/// A frame, and where the blocked address stands in it.
#[derive(Clone)]
struct Subject {
    frame: Vec<u8>,
    source_at: usize,
    source_len: usize,
}

impl Subject {
    fn new(frame: Vec<u8>, source: IpAddr) -> Self {
        let address = match source {
            IpAddr::V4(source) => source.octets().to_vec(),
            IpAddr::V6(source) => source.octets().to_vec(),
        };
        let source_at = frame
            .windows(address.len())
            .position(|window| window == address)
            .expect("every framing of a source has its address");
        Self { frame, source_at, source_len: address.len() }
    }

    fn is_v4(&self) -> bool {
        self.source_len == 4
    }

    fn ip_at(&self) -> usize {
        self.source_at - if self.is_v4() { 12 } else { 8 }
    }

    /// A place that is neither the receiver's hardware address, without which the host does not look at the frame,
    /// nor the source.
    fn place(&self, dice: &mut Dice) -> usize {
        loop {
            let at = dice.below(self.frame.len());
            if at >= SENDER_AT && !(self.source_at..self.source_at + self.source_len).contains(&at) {
                return at;
            }
        }
    }

    fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.frame.splice(at..at, bytes.iter().copied());
        if at <= self.source_at {
            self.source_at += bytes.len();
        }
    }

    fn mutate(&mut self, dice: &mut Dice) {
        let ip = self.ip_at();
        let behind = self.source_at + self.source_len;
        match dice.below(12) {
            // A bit, a byte, a run of bytes, anywhere.
            0 => {
                let at = self.place(dice);
                self.frame[at] ^= 1 << dice.below(8);
            }
            1 => {
                let at = self.place(dice);
                self.frame[at] = dice.byte();
            }
            2 => {
                for _ in 0..dice.below(8) {
                    let at = self.place(dice);
                    self.frame[at] = *dice.of(&[0, 1, 0x7f, 0x80, 0xff]);
                }
            }
            // The tail cut off behind the source, or grown.
            3 => self.frame.truncate(behind + dice.below(self.frame.len() - behind + 1)),
            4 => {
                for _ in 0..dice.below(200) {
                    self.frame.push(dice.byte());
                }
            }
            // Tags in front: priority tags are the ones that Linux strips by itself.
            5 => {
                for _ in 0..=dice.below(5) {
                    let kind = *dice.of(&[0x8100_u16, 0x8100, 0x8100, 0x88a8, 0x9100]);
                    let control = u16::from(dice.byte()) << 13 | if dice.one_in(4) { 1 } else { 0 };
                    let tag = [control.to_be_bytes(), [self.frame[12], self.frame[13]]].concat();
                    self.frame[12..14].copy_from_slice(&kind.to_be_bytes());
                    self.insert(14, &tag);
                }
            }
            // What the header says of what follows.
            6 if self.is_v4() => self.frame[ip + 9] = dice.byte(),
            6 => {
                self.frame[ip + 6] =
                    *dice.of(&[0, 43, 44, 50, 51, 58, 59, 60, 135, 139, 140, 253, 6, 17, 132])
            }
            7 if self.is_v4() => self.frame[ip] = 0x40 | (dice.byte() & 0x0f),
            7 => self.frame[ip + 7] = dice.byte(),
            8 if self.is_v4() => {
                let field = dice.word().to_be_bytes();
                self.frame[ip + 6..ip + 8].copy_from_slice(&field[..2]);
            }
            8 => {
                // One more extension header, whatever it says.
                let kind = *dice.of(&[0, 43, 44, 51, 60, 135, 139, 140]);
                let header = [self.frame[ip + 6], *dice.of(&[0, 0, 0, 1, 255]), 1, 4, 0, 0, 0, 0];
                self.frame[ip + 6] = kind;
                // Behind the destination.
                let at = (behind + 16).min(self.frame.len());
                self.insert(at, &header);
            }
            9 if self.is_v4() => {
                let len = self.frame.len() - ip;
                self.announce(ip + 2, len, dice);
            }
            9 => {
                let len = self.frame.len().saturating_sub(ip + 40);
                self.announce(ip + 4, len, dice);
            }
            10 if self.is_v4() => {
                // Options.
                let words = 1 + dice.below(10);
                let options: Vec<u8> =
                    (0..words * 4).map(|_| *dice.of(&[0, 1, 7, 68, 131, 137, 148])).collect();
                let at = (behind + 4).min(self.frame.len());
                self.insert(at, &options);
                self.frame[ip] = 0x45_u8.saturating_add(u8::try_from(words).unwrap_or(0));
            }
            // Type, class, label and lifetime: nobody's business.
            10 => self.frame[ip + 1..ip + 4].copy_from_slice(&dice.word().to_be_bytes()[..3]),
            _ => {
                // Another destination: this host has more than one.
                let at = behind + dice.below(if self.is_v4() { 4 } else { 16 });
                if let Some(byte) = self.frame.get_mut(at) {
                    *byte = dice.byte();
                }
            }
        }
    }

    /// Writes a length, mostly the true one.
    fn announce(&mut self, at: usize, truth: usize, dice: &mut Dice) {
        let len = if dice.one_in(3) { dice.below(2 * truth + 1) } else { truth };
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }

    fn finish(mut self, dice: &mut Dice) -> Vec<u8> {
        let ip = self.ip_at();
        if self.is_v4() && !dice.one_in(8) {
            // Else the host would throw most of them away by itself.
            if !dice.one_in(4) {
                let len = self.frame.len() - ip;
                self.frame[ip + 2..ip + 4].copy_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
            }
            frames::correct(&mut self.frame, ip);
        }
        self.frame.truncate(LONGEST);
        self.frame
    }
}

fn mutants(seed: u64, sources: &[IpAddr]) -> Vec<Vec<u8>> {
    let mut dice = Dice::new(seed);
    let subjects: Vec<Subject> = sources
        .iter()
        .flat_map(|source| frames::framings(*source).into_iter().map(move |framing| (*source, framing)))
        .flat_map(|(source, framing)| {
            framing.frames.into_iter().map(move |frame| Subject::new(frame, source))
        })
        .collect();
    (0..FRAMES)
        .map(|_| {
            let mut subject = dice.of(&subjects).clone();
            for _ in 0..=dice.below(4) {
                subject.mutate(&mut dice);
            }
            subject.finish(&mut dice)
        })
        .collect()
}

fn no_mutation_gets_through(mode: &'static str) {
    in_lab(mode, |lab| {
        let sources = ["198.51.100.7".parse()?, "2001:db8:bad::7".parse()?];
        let seed = Dice::seed();
        let mutants = mutants(seed, &sources);
        lab.witness.block(&["198.51.100.7", "2001:db8:bad::7"])?;
        let sender = Sender::open(lab)?;

        // Without the program: how many of them the host takes for packets of these sources.
        let sent = sender.send(&mutants)?;
        let open = lab.witness.blocked()?;

        let daemon = Daemon::start(lab, &Config { mode, ..Config::default() })?;
        daemon.cli.ok("block add 198.51.100.7 2001:db8:bad::7")?;
        let start = daemon.cli.counters(HOST.interface)?;
        let begin = Instant::now();
        sender.send(&mutants)?;
        let took = begin.elapsed();
        let passed = lab.witness.blocked()? - open;
        let counted = daemon.cli.counters(HOST.interface)?.since(&start);
        println!(
            "{mode}, LIMITER_SEED={seed}: {sent} mutants sent in {took:.1?}; {open} get through without limiter, {passed} \
             with it; counted: {counted}"
        );
        ensure!(open > FRAMES as u64 / 4, "most mutants are no packets: the test proves little");
        if passed > 0 {
            let culprit = culprit(lab, &sender, &mutants)?;
            anyhow::bail!("{passed} mutants got through, for instance {culprit:02x?}");
        }
        Ok(())
    });
}

/// Finds one that gets through.
fn culprit(lab: &limiter_tests::Lab, sender: &Sender, mutants: &[Vec<u8>]) -> Result<Vec<u8>> {
    for frame in mutants {
        let before = lab.witness.blocked()?;
        sender.send(&[frame])?;
        if lab.witness.blocked()? > before {
            return Ok(frame.clone());
        }
    }
    anyhow::bail!("none got through alone: fragments of one datagram?")
}

#[test]
fn no_mutation_gets_through_native() {
    no_mutation_gets_through("native");
}

#[test]
fn no_mutation_gets_through_generic() {
    no_mutation_gets_through("generic");
}
