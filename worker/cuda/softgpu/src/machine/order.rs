//! What orders the blocks of a launch: a fence, then an atomic operation on a place that another block changes later.

use std::collections::HashMap;

use super::memory::Sees;

/// Blocks, as bits.
#[derive(Debug, Clone, Default)]
struct Set(Vec<u64>);

impl Set {
    fn add(&mut self, block: u32) {
        let word = block as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (block % 64);
    }

    fn add_all(&mut self, other: &Set) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }

    fn has(&self, block: u32) -> bool {
        let word = self.0.get(block as usize / 64);
        word.is_some_and(|w| w >> (block % 64) & 1 == 1)
    }
}

/// The blocks whose writes came with what was changed at a place.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: HashMap<u64, Set>,
}

/// The blocks whose writes a block sees.
#[derive(Debug, Default)]
pub(super) struct Seen(Set);

impl Sees for Seen {
    fn sees(&self, block: u32) -> bool {
        self.0.has(block)
    }
}

impl Order {
    /// A block changes a place; `fenced`: all that it wrote is visible.
    pub(super) fn changed(&mut self, address: u64, block: u32, fenced: bool, seen: &mut Seen) {
        let place = self.places.entry(address).or_default();
        seen.0.add_all(place);
        if fenced {
            place.add_all(&seen.0);
            place.add(block);
        }
    }
}
