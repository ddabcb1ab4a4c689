//! A set of a partition's stages, as bits.

const BITS: usize = u64::BITS as usize;

/// Some of a partition's stages.
#[derive(Debug, Clone)]
pub(crate) struct StageSet {
    words: Vec<u64>,
}

impl StageSet {
    /// Empty, for stages below `stages`.
    pub fn new(stages: usize) -> Self {
        StageSet {
            words: vec![0; stages.div_ceil(BITS)],
        }
    }

    pub fn insert(&mut self, stage: usize) {
        self.words[stage / BITS] |= 1 << (stage % BITS);
    }

    /// Keeps a stage, or takes it out.
    pub fn keep(&mut self, stage: usize, keep: bool) {
        if !keep {
            self.words[stage / BITS] &= !(1 << (stage % BITS));
        }
    }

    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// Members whose bits are in a word, ascending, as they are now.
    pub fn in_word(&self, word: usize) -> impl Iterator<Item = usize> + use<> {
        let mut left = self.words[word];
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            if left == 0 {
                return None;
            }
            left &= left - 1;
            Some(word * BITS + bit)
        })
    }
}
