//! Chance that can be repeated, for tests in real time: the threads' order cannot be, but what they do is.

#![allow(dead_code, reason = "each test that includes this module uses its own part of it")]

use std::hash::{BuildHasher, Hasher, RandomState};

/// `SplitMix64`.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// With the seed from the environment's `SEED`, or one of its own, which it prints.
    pub fn from_env() -> Self {
        let seed = match std::env::var("SEED") {
            Ok(seed) => seed.parse().expect("SEED is a number"),
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("to repeat: SEED={seed}");
        Self(seed)
    }

    /// Another one, for a task of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}
