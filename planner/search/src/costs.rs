//! Profiles with models, kinds of devices and their shares by number: the time of ranges of layers, and the shares where
//! they are cheapest.

use graft_model::{CutPoint, StageRange};
use graft_plan::{Device, Hardware, Profile, Profiles, Share, nanos_to_ms};

use crate::index::{BatchAt, KindAt, ShareAt};

/// Index of a model among all kinds' models, in the order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModelIndex(pub u16);

/// Profiles with sums over their segments.
#[derive(Debug)]
pub(crate) struct Costs<'p> {
    profiles: &'p Profiles,
    /// All kinds' shares: each kind's stand together, ascending.
    slices: Vec<Slice>,
    /// For each kind the place of its smallest share, and the place behind its largest.
    spans: Vec<(usize, usize)>,
    models: Vec<ModelCosts<'p>>,
    /// Units of cost in one unit of price: 1 where devices have no prices.
    scale: f64,
    /// Cost of the cheapest kind's unit of share.
    unit: f64,
    /// Whether there are devices of each kind; of all, where there is none at all.
    present: Vec<bool>,
}

/// A share of one kind of device.
#[derive(Debug)]
struct Slice {
    kind: KindAt,
    share: Share,
    cost: u64,
}

#[derive(Debug)]
struct ModelCosts<'p> {
    name: &'p str,
    last: CutPoint,
    /// Milliseconds of all segments before each cut point, by share and batch; empty on a kind that lacks the model.
    before: Vec<Vec<Vec<f64>>>,
}

/// Time of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RunTime {
    pub total_ms: f64,
    /// Time of the run's longest chunk, in milliseconds.
    pub chunk_ms: f64,
}

/// Time of what can't be run.
const NEVER: RunTime = RunTime {
    total_ms: f64::INFINITY,
    chunk_ms: f64::INFINITY,
};

/// Units of cost that the cheapest unit of share costs where devices have prices: the search counts in whole units.
const CHEAPEST: f64 = 1000.0;

/// Largest cost of a unit of share: what is dearer still, in the cheapest kind's prices, counts as much.
const MOST_UNIT: f64 = 1e9;
/// Part by which a cost in whole units may exceed the price: units of share are rounded to a thousandth.
const ROUNDED_UP: f64 = 0.5 / CHEAPEST;

impl<'p> Costs<'p> {
    pub fn new(hardware: &'p Hardware) -> Self {
        let Hardware { profiles, devices } = hardware;
        let kinds = profiles.kinds();
        let priced = devices.devices.iter().any(|d| d.price.is_some());
        let price = |profile: &Profile| {
            let mut of_kind = devices.devices.iter().filter(|d| d.kind == profile.device_kind);
            of_kind.next().map(Device::unit_cost)
        };
        let prices: Vec<Option<f64>> = kinds.iter().map(price).collect();
        let known = || prices.iter().flatten().copied();
        let scale = match known().fold(f64::INFINITY, f64::min) {
            cheapest if priced && cheapest.is_finite() => CHEAPEST / cheapest,
            _ => 1.0,
        };
        // What there is not of costs as much as the dearest that there is.
        let dearest = known().reduce(f64::max).unwrap_or(1.0);
        let units: Vec<f64> = prices.iter().map(|price| price.unwrap_or(dearest)).collect();
        let none = prices.iter().all(Option::is_none);
        let unit = if priced { CHEAPEST } else { 1.0 };
        let mut costs = Costs {
            profiles,
            slices: vec![],
            spans: vec![],
            models: vec![],
            scale,
            unit,
            present: prices.iter().map(|price| none || price.is_some()).collect(),
        };
        for ((k, profile), price) in kinds.iter().enumerate().zip(units) {
            let first = costs.slices.len();
            let each = (price * scale).round().min(MOST_UNIT) as u64;
            costs.slices.extend(profile.shares.iter().map(|&share| Slice {
                kind: KindAt::new(k),
                share,
                cost: u64::from(share.0).saturating_mul(each),
            }));
            costs.spans.push((first, costs.slices.len()));
        }
        let mut names: Vec<&str> = profiles.models().collect();
        names.sort_unstable();
        costs.models = names.into_iter().map(|name| costs.model_costs(name)).collect();
        costs
    }

    fn model_costs(&self, name: &'p str) -> ModelCosts<'p> {
        let mut before = vec![];
        for profile in self.profiles.kinds() {
            before.extend((0..profile.shares.len()).map(|s| {
                let Some(model) = profile.models.get(name) else {
                    return vec![];
                };
                let of_batch = |b: usize| sums(model.segments.iter().map(|k| k.ms[b][s]));
                (0..profile.batches.len()).map(of_batch).collect()
            }));
        }
        ModelCosts {
            name,
            last: self.profiles.last_cut(name).unwrap_or(CutPoint(u16::MAX)),
            before,
        }
    }

    pub fn model(&self, name: &str) -> Option<ModelIndex> {
        let at = self.models.iter().position(|m| m.name == name)?;
        Some(ModelIndex(at as u16))
    }

    /// All models.
    pub fn models(&self) -> impl Iterator<Item = ModelIndex> {
        (0..self.models.len()).map(|at| ModelIndex(at as u16))
    }

    pub fn name(&self, model: ModelIndex) -> &'p str {
        self.models[usize::from(model.0)].name
    }

    /// Bytes of a segment's weights on one kind of device.
    pub fn weights(&self, kind: KindAt, model: ModelIndex, segment: usize) -> u64 {
        let of = self.profile(kind).models.get(self.name(model));
        of.and_then(|m| m.segments.get(segment))
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

    /// All kinds of devices.
    pub fn kinds(&self) -> impl ExactSizeIterator<Item = KindAt> + Clone + use<> {
        (0..self.spans.len()).map(KindAt::new)
    }

    pub fn profile(&self, kind: KindAt) -> &'p Profile {
        &self.profiles.kinds()[kind.get()]
    }

    /// A kind of device by its name. `None`: no profile is of it.
    pub fn kind(&self, name: &str) -> Option<KindAt> {
        self.kinds().find(|&k| self.profile(k).device_kind == name)
    }

    /// The kind of device that a share is of.
    pub fn kind_of(&self, share: ShareAt) -> KindAt {
        self.slices[share.get()].kind
    }

    fn profile_of(&self, share: ShareAt) -> &'p Profile {
        self.profile(self.kind_of(share))
    }

    /// Time of a hop, in milliseconds.
    pub fn hop_ms(&self) -> f64 {
        self.profiles.hop_ms()
    }

    /// Overhead of a chunk on a share, in milliseconds.
    pub fn overhead_ms(&self, share: ShareAt) -> f64 {
        self.profile_of(share).stage_overhead_ms
    }

    /// Milliseconds of an uncut run, overhead included; infinite if the share's kind lacks the model.
    pub fn uncut_ms(&self, model: ModelIndex, range: StageRange, batch: BatchAt, share: ShareAt) -> f64 {
        let of_share = &self.models[usize::from(model.0)].before[share.get()];
        let Some(before) = of_share.get(batch.get()) else {
            return f64::INFINITY;
        };
        self.overhead_ms(share) + before[range.to().index()] - before[range.from().index()]
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
        let (profile, of) = (self.profile_of(share), self.share(share));
        let requests = profile.batches[batch];
        let Ok(chunks) = profile.chunks(self.name(model), range, requests, of, quantum_ms) else {
            return NEVER;
        };
        let times = chunks.iter().map(|c| nanos_to_ms(c.time));
        RunTime {
            total_ms: times.clone().sum(),
            chunk_ms: times.fold(0.0, f64::max),
        }
    }

    /// Cost of one request's work in uncut runs at the best batch, times milliseconds.
    pub fn work_at(&self, model: ModelIndex, range: StageRange, share: ShareAt) -> f64 {
        let each = self
            .batches(share)
            .map(|(b, n)| self.uncut_ms(model, range, b, share) / n);
        self.size(share) * each.fold(f64::INFINITY, f64::min)
    }

    /// For each share, the least work of one request from `from` to the end on that share or a larger one of its kind,
    /// in cost times milliseconds.
    pub fn least_work_from(&self, model: ModelIndex, from: CutPoint) -> Vec<f64> {
        let mut least = vec![f64::INFINITY; self.slices.len()];
        let Some(range) = self.rest(model, from) else {
            return least;
        };
        for kind in self.kinds() {
            let mut beyond = f64::INFINITY;
            for share in self.shares_of(kind).rev() {
                beyond = beyond.min(self.work_at(model, range, share));
                least[share.get()] = beyond;
            }
        }
        least
    }

    /// The least, over shares and batches, of a segment's cost times milliseconds for one request plus `lambda` times its
    /// time alone. Overheads are left out: any number of segments can share them.
    pub fn least_work(&self, model: ModelIndex, segment: usize, lambda: f64) -> f64 {
        let before = &self.models[usize::from(model.0)].before;
        let ms = |b: BatchAt, s: ShareAt| match before[s.get()].get(b.get()) {
            Some(before) => before[segment + 1] - before[segment],
            None => f64::INFINITY,
        };
        let at = |s: ShareAt| {
            let each = self
                .batches(s)
                .map(|(b, n)| ms(b, s) / n)
                .fold(f64::INFINITY, f64::min);
            self.size(s) * each + lambda * ms(BatchAt::ONE, s)
        };
        let known = self.shares().filter(|s| !before[s.get()].is_empty());
        known.map(at).fold(f64::INFINITY, f64::min)
    }

    pub fn share(&self, at: ShareAt) -> Share {
        self.slices[at.get()].share
    }

    /// Cost of a share: itself, or its part of the device's price, in whole units.
    pub fn cost(&self, at: ShareAt) -> u64 {
        self.slices[at.get()].cost
    }

    /// [`Costs::cost`] as a number to reckon with.
    pub fn size(&self, at: ShareAt) -> f64 {
        self.cost(at) as f64
    }

    /// Cost of a whole device.
    pub fn cost_of_device(&self, kind: KindAt, share_total: Share) -> u64 {
        let least = self.least_of(kind);
        (self.cost(least) / u64::from(self.share(least).0)).saturating_mul(u64::from(share_total.0))
    }

    /// Units of cost in one unit of price, or of share where devices have no prices.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// A cost as a price, or share, that is certainly not above the true one.
    pub fn at_least(&self, cost: u64) -> f64 {
        let rounded_up = if self.scale == 1.0 { 0.0 } else { ROUNDED_UP };
        cost as f64 / self.scale * (1.0 - rounded_up)
    }

    /// Whether there are devices of a kind; of all, where there is none at all.
    pub fn is_present(&self, kind: KindAt) -> bool {
        self.present[kind.get()]
    }

    /// Cost of the cheapest kind's unit of share.
    pub fn unit(&self) -> f64 {
        self.unit
    }

    /// Where a share stands. `None`: the kind's profile lacks it.
    pub fn share_at(&self, kind: KindAt, share: Share) -> Option<ShareAt> {
        let place = self.profile(kind).share_index(share)?;
        Some(ShareAt::new(self.spans[kind.get()].0 + place))
    }

    /// The smallest share of a kind.
    pub fn least_of(&self, kind: KindAt) -> ShareAt {
        ShareAt::new(self.spans[kind.get()].0)
    }

    /// The largest share of a kind.
    pub fn largest_of(&self, kind: KindAt) -> ShareAt {
        ShareAt::new(self.spans[kind.get()].1 - 1)
    }

    /// The next smaller share of the same kind. `None`: this is the smallest.
    pub fn below(&self, share: ShareAt) -> Option<ShareAt> {
        let less = share.get().checked_sub(1).map(ShareAt::new)?;
        (self.kind_of(less) == self.kind_of(share)).then_some(less)
    }

    /// Cost of the cheapest share of the kinds that there are.
    pub fn cheapest(&self) -> f64 {
        let there = self.shares().filter(|&s| self.is_present(self.kind_of(s)));
        there.map(|s| self.size(s)).fold(f64::INFINITY, f64::min)
    }

    /// All kinds' shares, each kind's ascending.
    pub fn shares(&self) -> impl DoubleEndedIterator<Item = ShareAt> + ExactSizeIterator + Clone + use<> {
        ShareAt::all(self.slices.len())
    }

    /// The shares of one kind, ascending.
    pub fn shares_of(&self, kind: KindAt) -> impl DoubleEndedIterator<Item = ShareAt> + Clone + use<> {
        let (first, end) = self.spans[kind.get()];
        ShareAt::range(first, end)
    }

    /// The shares of the same kind from one up, ascending.
    pub fn shares_from(&self, least: ShareAt) -> impl DoubleEndedIterator<Item = ShareAt> + Clone + use<> {
        ShareAt::range(least.get(), self.spans[self.kind_of(least).get()].1)
    }

    /// All batch limits on a share, ascending, with their requests.
    pub fn batches(&self, share: ShareAt) -> impl DoubleEndedIterator<Item = (BatchAt, f64)> + 'p {
        let batches = self.profile_of(share).batches.iter().enumerate();
        batches.map(|(b, n)| (BatchAt::new(b), f64::from(*n)))
    }

    /// Requests of a batch limit on a share.
    pub fn requests(&self, share: ShareAt, batch: BatchAt) -> u32 {
        self.profile_of(share).batches[batch]
    }

    /// Where the smallest batch limit on a share that holds `requests` stands.
    pub fn batch_at(&self, share: ShareAt, requests: u32) -> Option<BatchAt> {
        self.profile_of(share).batch_index(requests).map(BatchAt::new)
    }

    /// The smallest share of a kind on which a request that is alone takes at most `budget_ms` with its hop.
    pub fn least_share(
        &self,
        kind: KindAt,
        model: ModelIndex,
        from: CutPoint,
        budget_ms: f64,
    ) -> Option<ShareAt> {
        let range = self.rest(model, from)?;
        self.shares_of(kind)
            .find(|&s| self.uncut_ms(model, range, BatchAt::ONE, s) + self.hop_ms() <= budget_ms)
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
