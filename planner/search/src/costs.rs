//! A profile with models by number: the time of ranges of layers, and the shares where they are cheapest.

use graft_model::{CutPoint, StageRange};
use graft_plan::{Profile, Share, nanos_to_ms};

use crate::index::{BatchAt, ShareAt};

/// Index of a model among the profile's models, in the order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModelIndex(pub u16);

/// A profile with sums over its segments.
#[derive(Debug)]
pub(crate) struct Costs<'p> {
    pub profile: &'p Profile,
    models: Vec<ModelCosts<'p>>,
}

#[derive(Debug)]
struct ModelCosts<'p> {
    name: &'p str,
    last: CutPoint,
    /// Milliseconds of all segments before each cut point, by batch and share.
    before: Vec<Vec<Vec<f64>>>,
}

/// Time of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RunTime {
    pub total_ms: f64,
    /// Time of the run's longest chunk, in milliseconds.
    pub chunk_ms: f64,
}

impl<'p> Costs<'p> {
    pub fn new(profile: &'p Profile) -> Self {
        let models = profile
            .models
            .iter()
            .map(|(name, model)| {
                let before = (0..profile.batches.len())
                    .map(|b| {
                        (0..profile.shares.len())
                            .map(|s| sums(model.segments.iter().map(|k| k.ms[b][s])))
                            .collect()
                    })
                    .collect();
                ModelCosts {
                    name,
                    last: CutPoint(u16::try_from(model.segments.len()).unwrap_or(u16::MAX)),
                    before,
                }
            })
            .collect();
        Costs { profile, models }
    }

    pub fn model(&self, name: &str) -> Option<ModelIndex> {
        let at = self.models.iter().position(|m| m.name == name)?;
        Some(ModelIndex(at as u16))
    }

    pub fn name(&self, model: ModelIndex) -> &'p str {
        self.models[usize::from(model.0)].name
    }

    /// Bytes of a segment's weights.
    pub fn weights(&self, model: ModelIndex, segment: usize) -> u64 {
        let profile = self.profile.models.get(self.name(model));
        profile
            .and_then(|m| m.segments.get(segment))
            .map_or(0, |s| s.weights_bytes)
    }

    /// The model's last cut point, which is its output.
    pub fn last(&self, model: ModelIndex) -> CutPoint {
        self.models[usize::from(model.0)].last
    }

    /// The rest of a network from a cut point; `None` at its output.
    pub fn rest(&self, model: ModelIndex, from: CutPoint) -> Option<StageRange> {
        StageRange::new(from, self.last(model))
    }

    /// Milliseconds of an uncut run, overhead included.
    pub fn uncut_ms(&self, model: ModelIndex, range: StageRange, batch: BatchAt, share: ShareAt) -> f64 {
        let before = &self.models[usize::from(model.0)].before[batch.get()][share.get()];
        self.profile.stage_overhead_ms + before[range.to().index()] - before[range.from().index()]
    }

    /// Time of a run that is cut into chunks of at most `quantum_ms`.
    pub fn run(
        &self,
        model: ModelIndex,
        range: StageRange,
        batch: BatchAt,
        share: ShareAt,
        quantum_ms: f64,
    ) -> RunTime {
        if quantum_ms <= 0.0 {
            let total_ms = self.uncut_ms(model, range, batch, share);
            return RunTime {
                total_ms,
                chunk_ms: total_ms,
            };
        }
        // The profile's own rule, so that sums are rounded alike.
        let (requests, of) = (self.profile.batches[batch], self.profile.shares[share]);
        let chunks = self
            .profile
            .chunks(self.name(model), range, requests, of, quantum_ms)
            .unwrap_or_default();
        let times = chunks.iter().map(|c| nanos_to_ms(c.time));
        RunTime {
            total_ms: times.clone().sum(),
            chunk_ms: times.fold(0.0, f64::max),
        }
    }

    /// Work of one request in uncut runs at the best batch, in share-milliseconds.
    pub fn work_at(&self, model: ModelIndex, range: StageRange, share: ShareAt) -> f64 {
        let each = self
            .batches()
            .map(|(b, n)| self.uncut_ms(model, range, b, share) / n);
        f64::from(self.share(share).0) * each.fold(f64::INFINITY, f64::min)
    }

    /// For each share, the least work of one request from `from` to the end on that share or a larger one, in
    /// share-milliseconds.
    pub fn least_work_from(&self, model: ModelIndex, from: CutPoint) -> Vec<f64> {
        let shares = self.profile.shares.len();
        let mut least = vec![f64::INFINITY; shares];
        if let Some(range) = self.rest(model, from) {
            let mut beyond = f64::INFINITY;
            for share in self.shares().rev() {
                beyond = beyond.min(self.work_at(model, range, share));
                least[share.get()] = beyond;
            }
        }
        least
    }

    /// The least, over shares and batches, of a segment's share-milliseconds for one request plus `lambda` times its
    /// time alone. Overheads are left out: any number of segments can share them.
    pub fn least_work(&self, model: ModelIndex, segment: usize, lambda: f64) -> f64 {
        let before = &self.models[usize::from(model.0)].before;
        let ms = |b: BatchAt, s: ShareAt| {
            let before = &before[b.get()][s.get()];
            before[segment + 1] - before[segment]
        };
        let at = |s: ShareAt| {
            let each = self
                .batches()
                .map(|(b, n)| ms(b, s) / n)
                .fold(f64::INFINITY, f64::min);
            f64::from(self.share(s).0) * each + lambda * ms(BatchAt::ONE, s)
        };
        self.shares().map(at).fold(f64::INFINITY, f64::min)
    }

    pub fn share(&self, at: ShareAt) -> Share {
        self.profile.shares[at]
    }

    /// Where a share stands. `None`: the profile lacks it.
    pub fn share_at(&self, share: Share) -> Option<ShareAt> {
        self.profile.share_index(share).map(ShareAt::new)
    }

    /// The largest share.
    pub fn largest_share(&self) -> ShareAt {
        ShareAt::new(self.profile.shares.len() - 1)
    }

    /// All shares, ascending.
    pub fn shares(&self) -> impl DoubleEndedIterator<Item = ShareAt> + ExactSizeIterator + Clone {
        ShareAt::all(self.profile.shares.len())
    }

    /// The shares from one up, ascending.
    pub fn shares_from(&self, least: ShareAt) -> impl DoubleEndedIterator<Item = ShareAt> + Clone {
        ShareAt::range(least.get(), self.profile.shares.len())
    }

    /// All batch limits, ascending, with their requests.
    pub fn batches(&self) -> impl DoubleEndedIterator<Item = (BatchAt, f64)> + '_ {
        let batches = self.profile.batches.iter().enumerate();
        batches.map(|(b, n)| (BatchAt::new(b), f64::from(*n)))
    }

    /// The smallest share on which a request that is alone takes at most `budget_ms` with its hop.
    pub fn least_share(&self, model: ModelIndex, from: CutPoint, budget_ms: f64) -> Option<ShareAt> {
        let range = self.rest(model, from)?;
        self.shares()
            .find(|&s| self.uncut_ms(model, range, BatchAt::ONE, s) + self.profile.hop_ms <= budget_ms)
    }
}

fn sums(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums = vec![0.0];
    for value in values {
        sum += value;
        sums.push(sum);
    }
    sums
}
