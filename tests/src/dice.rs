//! Random numbers that can be had again: whoever prints the seed can repeat the run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Splitmix64: one word of state, full period, good enough for test data.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed in the environment variable `LIMITER_SEED`, or else a new one. It is printed, so that a test that fails can be
    /// run again.
    pub fn seed() -> u64 {
        let seed =
            std::env::var("LIMITER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                u64::from(now.subsec_nanos()) ^ now.as_secs()
            });
        println!("LIMITER_SEED={seed}");
        seed
    }

    pub fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn byte(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.word() % bound as u64).unwrap_or(0)
    }

    /// Whether one of `n` equal chances came up.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// An IPv4 address that a host may have, outside of the network 10.0.0.0/8: the lab is in it, and so are the sources that
    /// tests watch among random ones.
    pub fn v4(&mut self) -> IpAddr {
        loop {
            let [a, b, c, d, ..] = self.word().to_be_bytes();
            if matches!(a, 1..=9 | 11..=126 | 128..=223) {
                return Ipv4Addr::new(a, b, c, d).into();
            }
        }
    }

    /// An IPv6 address of the global range.
    pub fn v6(&mut self) -> IpAddr {
        let high = self.word() >> 3 | 1 << 61;
        Ipv6Addr::from(u128::from(high) << 64 | u128::from(self.word())).into()
    }
}
