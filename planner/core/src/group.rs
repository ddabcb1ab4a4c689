//! The stages of one model's fragments on a share: re-alignment, local deadlines, batches, load.

use std::collections::BTreeMap;

use graft_model::{CutPoint, StageRange};
use graft_plan::{Fragment, Profile, Share, nanos_to_ms};

/// Fragments of one model that hand over at the same cut point.
#[derive(Debug, Clone)]
pub(crate) struct Class<'a> {
    pub point: CutPoint,
    /// The tightest.
    pub budget_ms: f64,
    pub rate_rps: f64,
    pub fragments: Vec<&'a Fragment>,
}

/// Merges fragments of one model by their partition points.
pub(crate) fn classes<'a>(fragments: impl IntoIterator<Item = &'a Fragment>) -> Vec<Class<'a>> {
    let mut by_point: BTreeMap<CutPoint, Class<'a>> = BTreeMap::new();
    for fragment in fragments {
        let class = by_point.entry(fragment.partition_point).or_insert_with(|| Class {
            point: fragment.partition_point,
            budget_ms: f64::INFINITY,
            rate_rps: 0.0,
            fragments: vec![],
        });
        class.budget_ms = class.budget_ms.min(fragment.budget_ms);
        class.rate_rps += fragment.rate_rps;
        class.fragments.push(fragment);
    }
    by_point.into_values().collect()
}

/// A stage before it has an id.
#[derive(Debug, Clone)]
pub(crate) struct StageDraft {
    pub range: StageRange,
    pub batch: u32,
    pub rate_rps: f64,
    pub deadline_ms: f64,
}

/// The stages of a group on a share.
#[derive(Debug, Clone)]
pub(crate) struct GroupDraft<'a> {
    pub model: &'a str,
    pub share: Share,
    pub stages: Vec<StageDraft>,
    /// For each fragment its stages' places, in order.
    pub routes: Vec<(&'a Fragment, Vec<usize>)>,
    /// Seconds of work a second, headroom included: 1 fills a partition.
    pub load: f64,
}

/// Shortest chunk that is asked for, in milliseconds: shorter ones are mostly overhead.
const MIN_QUANTUM_MS: f64 = 1.0;
/// A chunk takes at most this part of the tightest local deadline.
const QUANTUM_PART: f64 = 0.125;
/// A full batch takes at most this part of its stage's deadline: the rest is for waiting.
const BATCH_PART: f64 = 0.5;

/// The quantum of all partitions that may serve these fragments.
pub(crate) fn quantum_ms<'a>(fragments: impl IntoIterator<Item = &'a Fragment>) -> f64 {
    let tightest = fragments
        .into_iter()
        .map(|f| f.budget_ms)
        .fold(f64::INFINITY, f64::min);
    if tightest.is_finite() {
        (tightest * QUANTUM_PART).max(MIN_QUANTUM_MS)
    } else {
        MIN_QUANTUM_MS
    }
}

/// What layouts are made of and for.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'p> {
    pub profile: &'p Profile,
    pub headroom: f64,
    pub quantum_ms: f64,
}

/// Lays out a group on a share. `re_partition`: all classes join there. `None`: some class can't be in time so.
pub(crate) fn draft<'a>(
    model: &'a str,
    classes: &[Class<'a>],
    re_partition: Option<CutPoint>,
    share: Share,
    ground: Ground<'_>,
) -> Option<GroupDraft<'a>> {
    let Ground {
        profile,
        headroom,
        quantum_ms,
    } = ground;
    let last = CutPoint(u16::try_from(profile.models.get(model)?.segments.len()).ok()?);
    let hop = profile.hop_ms;
    let alone = |range: StageRange| -> Option<f64> {
        profile
            .latency(model, range, 1, share, quantum_ms)
            .ok()
            .map(nanos_to_ms)
    };

    let shared = re_partition.and_then(|q| StageRange::new(q, last));
    let shared_ms = shared.map_or(Some(0.0), alone)?;
    let mut shared_deadline = f64::INFINITY;
    for class in classes.iter().filter(|_| shared.is_some()) {
        let align = re_partition.and_then(|q| StageRange::new(class.point, q));
        let align_ms = align.map_or(Some(0.0), alone)?;
        let hops = if align.is_some() { 2.0 } else { 1.0 } * hop;
        let slack = class.budget_ms - hops - align_ms - shared_ms;
        if slack < 0.0 {
            return None;
        }
        shared_deadline =
            shared_deadline.min(shared_ms + slack * shared_ms / (align_ms + shared_ms).max(1e-9));
    }

    let mut stages = vec![];
    let mut routes = vec![];
    for class in classes {
        let (range, deadline_ms) = match shared {
            Some(shared) if class.point < shared.from() => (
                StageRange::new(class.point, shared.from())?,
                class.budget_ms - 2.0 * hop - shared_deadline,
            ),
            Some(_) => {
                // Its budget may be looser than the shared stage's deadline needs.
                routes.extend(class.fragments.iter().map(|f| (*f, vec![])));
                continue;
            }
            None => (StageRange::new(class.point, last)?, class.budget_ms - hop),
        };
        if alone(range)? > deadline_ms {
            return None;
        }
        routes.extend(class.fragments.iter().map(|f| (*f, vec![stages.len()])));
        stages.push(StageDraft {
            range,
            batch: 1,
            rate_rps: class.rate_rps,
            deadline_ms,
        });
    }
    if let Some(range) = shared {
        for (_, stages_of_route) in &mut routes {
            stages_of_route.push(stages.len());
        }
        stages.push(StageDraft {
            range,
            batch: 1,
            rate_rps: classes.iter().map(|c| c.rate_rps).sum(),
            deadline_ms: shared_deadline,
        });
    }
    let mut load = 0.0;
    for stage in &mut stages {
        let mut per_request = alone(stage.range)?;
        for &batch in &profile.batches {
            let time = profile
                .latency(model, stage.range, batch, share, quantum_ms)
                .ok()
                .map(nanos_to_ms)?;
            if batch == 1
                || (time <= stage.deadline_ms * BATCH_PART && time / f64::from(batch) <= per_request)
            {
                stage.batch = batch;
                per_request = time / f64::from(batch);
            }
        }
        load += stage.rate_rps * (1.0 + headroom) * per_request / 1e3;
    }
    Some(GroupDraft {
        model,
        share,
        stages,
        routes,
        load,
    })
}
