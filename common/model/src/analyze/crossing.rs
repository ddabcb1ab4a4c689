//! Where a graph is cut: which tensors cross after each prefix of its nodes, and which of these places are cut points.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Number of nodes between two neighbouring cut points above which there is another, where several tensors cross.
const LONG_STRETCH: usize = 32;
/// Number of tensors that cross at most at such a cut point.
const MOST_TENSORS: usize = 8;
/// Number of such cut points of a network at most.
const MOST_PLACES: usize = 1024;
/// Bytes of one request's tensors at most at such a cut point (64 MiB).
const MOST_BYTES: usize = 64 << 20;

/// With what a tensor may cross at a cut point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crosses {
    /// Alone, or with others.
    Anyhow,
    /// Alone only.
    Alone,
    /// With others only.
    WithOthers,
    /// Not at all.
    Never,
}

/// A tensor that crosses somewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor<'n> {
    pub name: &'n str,
    /// Bytes for one request.
    pub bytes: usize,
    pub crosses: Crosses,
}

/// What crosses after each prefix of nodes, in the order in which it is made.
pub(super) struct Crossings<'n> {
    /// How many nodes are still to use each tensor.
    uses: HashMap<&'n str, usize>,
    /// What crosses now, by the order in which it was made.
    now: BTreeMap<usize, Tensor<'n>>,
    order: HashMap<&'n str, usize>,
    /// After each prefix: what crosses, where that can be a cut point.
    places: Vec<Option<Candidate<'n>>>,
}

/// A place that can be a cut point.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate<'n> {
    tensors: Vec<&'n str>,
    bytes: usize,
}

impl<'n> Crossings<'n> {
    /// Before the first node. `uses`: how many nodes, and ends of the graph, use each tensor.
    pub fn new(uses: HashMap<&'n str, usize>, inputs: impl IntoIterator<Item = Tensor<'n>>) -> Self {
        let mut crossings = Crossings {
            uses,
            now: BTreeMap::new(),
            order: HashMap::new(),
            places: vec![],
        };
        for input in inputs {
            crossings.made(input);
        }
        crossings.close();
        crossings
    }

    fn made(&mut self, tensor: Tensor<'n>) {
        let at = self.order.len();
        self.order.insert(tensor.name, at);
        if self.uses.get(tensor.name).is_some_and(|&left| left > 0) {
            self.now.insert(at, tensor);
        }
    }

    /// The next node, by what it reads and what it makes.
    pub fn node(&mut self, reads: impl Iterator<Item = &'n str>, makes: impl Iterator<Item = Tensor<'n>>) {
        for name in reads {
            if let Some(left) = self.uses.get_mut(name) {
                *left -= 1;
                if *left == 0
                    && let Some(at) = self.order.get(name)
                {
                    self.now.remove(at);
                }
            }
        }
        makes.for_each(|tensor| self.made(tensor));
        self.close();
    }

    /// A prefix ends here.
    fn close(&mut self) {
        let alone = self.now.len() == 1;
        let may_cross = |t: &Tensor<'_>| match t.crosses {
            Crosses::Anyhow => true,
            Crosses::Alone => alone,
            Crosses::WithOthers => !alone,
            Crosses::Never => false,
        };
        if self.now.len() > MOST_TENSORS {
            self.places.push(None);
            return;
        }
        let bytes = self.now.values().map(|t| t.bytes).fold(0, usize::saturating_add);
        let few = alone || bytes <= MOST_BYTES;
        let place = (few && !self.now.is_empty() && self.now.values().all(may_cross)).then(|| Candidate {
            tensors: self.now.values().map(|t| t.name).collect(),
            bytes,
        });
        self.places.push(place);
    }

    /// Inner cut points: after how many nodes, and what crosses there.
    pub fn choose(mut self) -> Vec<(usize, Vec<&'n str>)> {
        let last = self.places.len().saturating_sub(1);
        let alone = |at: &usize| self.places[*at].as_ref().is_some_and(|p| p.tensors.len() == 1);
        let mut found: Vec<usize> = (1..last).filter(alone).collect();
        let mut ends = vec![0];
        ends.extend(&found);
        ends.push(last);
        let mut stretches: Vec<Range<usize>> = ends.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let most = found.len() + MOST_PLACES;
        while let Some(stretch) = stretches.pop().filter(|_| found.len() < most) {
            if let Some(at) = self.within(&stretch) {
                found.push(at);
                stretches.extend([stretch.start..at, at..stretch.end]);
            }
        }
        found.sort_unstable();
        let taken = found.into_iter().filter_map(|at| {
            let place = self.places[at].take()?;
            Some((at, place.tensors))
        });
        taken.collect()
    }

    /// Where a stretch between two cut points is cut. `None`: it is short, or too much crosses everywhere.
    fn within(&self, stretch: &Range<usize>) -> Option<usize> {
        if stretch.len() <= LONG_STRETCH {
            return None;
        }
        let quarter = stretch.len() / 4;
        let middle = stretch.start + stretch.len() / 2;
        let best = |among: Range<usize>| {
            let places = among.filter_map(|at| Some((at, self.places[at].as_ref()?)));
            places.min_by_key(|(at, p)| (p.tensors.len(), p.bytes, at.abs_diff(middle), *at))
        };
        let half = stretch.start + quarter.max(1)..stretch.end - quarter;
        let chosen = best(half).or_else(|| best(stretch.start + 1..stretch.end));
        chosen.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str) -> Tensor<'_> {
        Tensor {
            name,
            bytes: 4,
            crosses: Crosses::Anyhow,
        }
    }

    /// A chain of nodes that each read the one before, and the tensor `beside` up to node `until`.
    fn chain(names: &[String], until: usize) -> Vec<(usize, Vec<&str>)> {
        let mut uses: HashMap<&str, usize> = names.iter().map(|n| (n.as_str(), 1)).collect();
        uses.insert("beside", until);
        let inputs = [tensor(&names[0]), tensor("beside")];
        let mut crossings = Crossings::new(uses, inputs);
        for (i, pair) in names.windows(2).enumerate() {
            let beside = (i < until).then_some("beside");
            let reads = std::iter::once(pair[0].as_str()).chain(beside);
            crossings.node(reads, std::iter::once(tensor(&pair[1])));
        }
        crossings.choose()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("t{i}")).collect()
    }

    #[test]
    fn a_short_stretch_with_two_tensors_is_not_cut() {
        let names = names(41);
        let found = chain(&names, 30);
        let places: Vec<usize> = found.iter().map(|f| f.0).collect();
        assert_eq!(places, (30..40).collect::<Vec<_>>());
        assert!(found.iter().all(|(_, tensors)| tensors.len() == 1));
    }

    #[test]
    fn a_long_stretch_is_halved_until_none_is_long() {
        let names = names(101);
        let found = chain(&names, 100);
        let places: Vec<usize> = found.iter().map(|f| f.0).collect();
        assert_eq!(places, [25, 50, 75]);
        assert_eq!(found[1].1, ["beside", "t50"]);
    }
}
