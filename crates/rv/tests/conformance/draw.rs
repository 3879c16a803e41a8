//! Owns chance: a sequence of numbers that a seed fixes.

/// The sequence.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// 64 bits (SplitMix64).
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        (self.word() % u64::from(limit)) as u32
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// A word in which corner cases are as frequent as anything else.
    pub fn corner(&mut self) -> u64 {
        let word = self.word();
        match self.below(8) {
            0 => [0, 1, u64::MAX, i64::MIN as u64, i64::MAX as u64, 0x8000_0000, 0x7fff_ffff, 0xffff_ffff]
                [(word & 7) as usize],
            1 => 1 << (word & 63),
            2 => (1 << (word & 63)) - 1,
            3 => word as i8 as u64,
            4 => word as i32 as u64,
            _ => word,
        }
    }

    /// The bits of a number: double, or boxed single, or a single that is not boxed.
    pub fn number(&mut self) -> u64 {
        match self.below(5) {
            0 | 1 => self.number_of(11, 52),
            4 => self.number_of(8, 23),
            _ => self.number_of(8, 23) | 0xffff_ffff_0000_0000,
        }
    }

    fn number_of(&mut self, exponent_bits: u32, fraction_bits: u32) -> u64 {
        let last = (1 << exponent_bits) - 1;
        let middle = last / 2;
        let near = |draw: &mut Draw, spread: u32| middle - spread / 2 + draw.below(spread);
        let exponent = match self.below(8) {
            0 => 0,
            1 => last,
            2 => 1 + self.below(3),
            3 => last - 1 - self.below(3),
            4 => near(self, 140.min(last)),
            5 => self.below(last),
            _ => near(self, 8),
        };
        let all = (1_u64 << fraction_bits) - 1;
        let word = self.word();
        let fraction = match self.below(8) {
            0 => 0,
            1 => all,
            2 => 1,
            3 => 1 << (word % u64::from(fraction_bits)),
            4 => all & !((1 << (word % u64::from(fraction_bits))) - 1),
            _ => word & all,
        };
        (u64::from(self.below(2)) << exponent_bits | u64::from(exponent)) << fraction_bits | fraction
    }
}
