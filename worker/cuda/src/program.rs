//! A range of layers for one size of batch: launches in their order, and where everything lies.

use crate::params::{Element, Params, Place};

/// A tensor as it lies in memory outside of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Type of its elements.
    pub element: Element,
    /// Its sizes, the batch first.
    pub dims: Vec<usize>,
    /// Strides in elements.
    pub strides: Vec<i64>,
}

impl Layout {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.dims.iter().product::<usize>() * self.element.bytes()
    }

    /// How tensors lie that are handed on: row by row; within a row channels last, where there are pixels.
    pub fn handed_on(element: Element, dims: &[usize]) -> Self {
        let mut order: Vec<usize> = (0..dims.len()).collect();
        if dims.len() >= 4 && element == Element::F16 {
            order.remove(1);
            order.push(1);
        }
        Layout {
            element,
            dims: dims.to_vec(),
            strides: dense(dims, &order),
        }
    }

    /// How they lie on the host: the last dimension runs fastest.
    pub fn on_host(element: Element, dims: &[usize]) -> Self {
        let order: Vec<usize> = (0..dims.len()).collect();
        Layout {
            element,
            dims: dims.to_vec(),
            strides: dense(dims, &order),
        }
    }
}

/// Strides without gaps; `order`: the dimensions, the one that runs fastest last.
pub fn dense(dims: &[usize], order: &[usize]) -> Vec<i64> {
    let mut strides = vec![0; dims.len()];
    let mut stride = 1;
    for &d in order.iter().rev() {
        strides[d] = stride;
        stride *= dims[d].max(1) as i64;
    }
    strides
}

/// Places of elements, in the order of the host.
pub fn places(dims: &[usize], strides: &[i64]) -> impl Iterator<Item = usize> {
    let count: usize = dims.iter().product();
    let (dims, strides) = (dims.to_vec(), strides.to_vec());
    (0..count).map(move |index| {
        let mut rest = index;
        let mut place = 0;
        for d in (0..dims.len()).rev() {
            place += (rest % dims[d]) as i64 * strides[d];
            rest /= dims[d];
        }
        place as usize
    })
}

/// How many blocks a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Those that find something to do, at most.
    pub useful: u32,
    /// Those of each multiprocessor, at most.
    pub each: u32,
}

impl Blocks {
    /// Blocks on so many multiprocessors.
    pub fn on(self, sms: u32) -> u32 {
        self.useful.min(sms.saturating_mul(self.each)).max(1)
    }
}

/// A launch.
#[derive(Debug, Clone)]
pub struct Step {
    /// The kernel.
    pub kernel: &'static str,
    /// Its blocks.
    pub blocks: Blocks,
    /// Threads of a block.
    pub threads: u32,
    /// Its parameters.
    pub params: Params,
    /// The node that it is for, in messages.
    pub label: String,
    /// Bytes of partial sums that a block leaves.
    pub partial_bytes: usize,
    /// Counters that it needs.
    pub counters: usize,
}

/// A range of layers for one size of batch.
#[derive(Debug, Clone)]
pub struct Program {
    /// The launches.
    pub steps: Vec<Step>,
    /// How inputs and outputs lie.
    pub inputs: Vec<Layout>,
    /// As above.
    pub outputs: Vec<Layout>,
    /// Where each slot begins in the arena, and its bytes.
    pub slots: Vec<(usize, usize)>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Whether a launch may tell of inputs that it can't serve.
    pub can_fault: bool,
    /// Types of all tensors that it made, where nodes were lowered each by itself.
    pub made: Vec<(String, Element)>,
}

impl Program {
    /// Bytes of partial sums on so many multiprocessors.
    pub fn partial_bytes(&self, sms: u32) -> usize {
        let each = self
            .steps
            .iter()
            .map(|s| s.partial_bytes * s.blocks.on(sms) as usize);
        each.max().unwrap_or(0)
    }

    /// Counters of all launches.
    pub fn counters(&self) -> usize {
        self.steps.iter().map(|s| s.counters).max().unwrap_or(0)
    }
}

/// Alignment of slots, in bytes.
const ALIGNMENT: usize = 256;

/// Places slots in an arena: those that live at the same time don't overlap. Greedy by size, after: Pisarchyk, Lee, "Efficient Memory
/// Management for Deep Neural Net Inference", 2020.
pub fn arrange(steps: &[Step], bytes: &[usize]) -> (Vec<(usize, usize)>, usize) {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; bytes.len()];
    for (at, step) in steps.iter().enumerate() {
        for place in step.params.places() {
            if let Place::Slot(slot) = place {
                let life = lives[slot].get_or_insert((at, at));
                life.1 = at;
            }
        }
    }
    let mut order: Vec<usize> = (0..bytes.len()).filter(|&s| lives[s].is_some()).collect();
    order.sort_by_key(|&s| (std::cmp::Reverse(bytes[s]), s));
    let mut placed: Vec<(usize, usize, (usize, usize))> = vec![];
    let mut slots = vec![(0, 0); bytes.len()];
    let mut end = 0;
    for slot in order {
        let Some(life) = lives[slot] else { continue };
        let size = bytes[slot].max(1).next_multiple_of(ALIGNMENT);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, _, other)| other.0 <= life.1 && life.0 <= other.1)
            .map(|&(from, to, _)| (from, to))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (from, to) in taken {
            if at + size <= from {
                break;
            }
            at = at.max(to);
        }
        placed.push((at, at + size, life));
        slots[slot] = (at, bytes[slot]);
        end = end.max(at + size);
    }
    (slots, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::At;

    fn step(slots: &[usize]) -> Step {
        let params = slots.iter().fold(Params::default(), |p, &s| {
            p.at(At {
                place: Place::Slot(s),
                offset: 0,
            })
        });
        Step {
            kernel: "map_any",
            blocks: Blocks { useful: 1, each: 1 },
            threads: 32,
            params,
            label: String::new(),
            partial_bytes: 0,
            counters: 0,
        }
    }

    #[test]
    fn slots_that_live_at_the_same_time_lie_apart_and_others_share() {
        let steps = [step(&[0, 1]), step(&[1, 2]), step(&[2, 3])];
        let (slots, bytes) = arrange(&steps, &[1000, 1000, 1000, 1000]);
        assert_ne!(slots[0].0, slots[1].0);
        assert_ne!(slots[1].0, slots[2].0);
        assert_eq!(bytes, 2048, "four slots need the room of two: {slots:?}");
    }

    #[test]
    fn pixels_are_handed_on_with_their_channels_side_by_side() {
        let layout = Layout::handed_on(Element::F16, &[2, 3, 4, 5]);
        assert_eq!(layout.strides, [60, 1, 15, 3]);
        assert_eq!(Layout::handed_on(Element::F32, &[2, 3, 4]).strides, [12, 4, 1]);
    }
}
