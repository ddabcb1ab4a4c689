//! Random choices, the same for the same seed.

use graft_model::SplitMix;

/// What chance decides in a search.
#[derive(Debug, Clone)]
pub(crate) struct Dice(SplitMix);

impl Dice {
    /// With a seed.
    pub fn new(seed: u64) -> Self {
        Dice(SplitMix(seed))
    }

    /// Others, for something that is done beside.
    pub fn another(&mut self) -> Dice {
        self.roll(2);
        self.clone()
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0.below(sides)
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
