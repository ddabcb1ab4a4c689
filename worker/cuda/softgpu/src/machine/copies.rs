//! Copies to shared memory on the side: they land when they are waited for, and no sooner.

use std::collections::VecDeque;

/// A copy of one lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub lane: u32,
    pub to: u64,
    pub from: u64,
    pub bytes: u8,
    /// Bytes that come from global memory; the rest is 0.
    pub taken: u8,
}

/// A warp's copies.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Groups that were closed and not waited for, the oldest first.
    groups: VecDeque<Vec<Copy>>,
    /// Those since the last group was closed.
    open: Vec<Copy>,
}

impl Copies {
    pub(super) fn add(&mut self, copy: Copy) {
        self.open.push(copy);
    }

    pub(super) fn close_group(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// The copies that land so that at most so many groups are under way.
    pub(super) fn land(&mut self, pending: u32) -> Vec<Copy> {
        let landing = self.groups.len().saturating_sub(pending as usize);
        self.groups.drain(..landing).flatten().collect()
    }
}
