//! Randomness of one core: seeded from what the shell gave it, so that a test's seed says everything.

/// A small generator.
#[derive(Debug)]
pub(in crate::core) struct Dice(u64);

impl Dice {
    pub(in crate::core) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`; 0 if that is 0.
    pub(in crate::core) fn below(&mut self, sides: u64) -> u64 {
        // The output function of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(sides).unwrap_or(0)
    }
}
