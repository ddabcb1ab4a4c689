//! Random choices, the same for the same seed.

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub u64);

impl Dice {
    /// A new generator with a seed drawn from this one, for a task that may run at the same time.
    pub fn another(&mut self) -> Dice {
        self.roll(2);
        Dice(self.0)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }

    /// A number below `sides`, smaller ones likelier.
    pub fn low(&mut self, sides: usize) -> usize {
        self.roll(sides).min(self.roll(sides))
    }

    /// An index in the list, drawn in proportion to its weights.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut at = self.roll(weights.iter().sum::<u32>() as usize) as u32;
        for (i, w) in weights.iter().enumerate() {
            match at.checked_sub(*w) {
                Some(rest) => at = rest,
                None => return i,
            }
        }
        0
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = self.roll(i + 1);
            list.swap(i, j);
        }
    }
}
