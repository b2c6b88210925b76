//! Random choices that a seed repeats.

/// A small generator: choices are repeated by their seed.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        let given = std::env::var("HARNESS_SOAK_SEED").ok();
        let seed = given.and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            now.as_nanos() as u64
        });
        println!("HARNESS_SOAK_SEED={seed}");
        Dice(seed)
    }

    /// For another thread: its choices follow from the same seed.
    pub fn another(&mut self) -> Dice {
        Dice(self.below(u64::MAX))
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }
}
