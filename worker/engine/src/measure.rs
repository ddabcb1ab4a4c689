//! Measures what segments cost on an engine's partitions, and makes a profile of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graft_model::{Batch, CutPoint, DType, Model, ModelInfo, StageRange};
use graft_plan::{ModelProfile, Profile, SegmentProfile, Share, Source};

use crate::engine::Engine;
use crate::error::{EngineError, PartitionId};
use crate::held::Held;
use crate::shape::PartitionShape;

/// Options of a measurement.
#[derive(Debug, Clone)]
pub struct MeasureOptions {
    /// Batches, ascending, the first 1.
    pub batches: Vec<u32>,
    /// Shares of the device, ascending.
    pub shares: Vec<Share>,
    /// What partitions are cut from; at least the largest share.
    pub device: PartitionShape,
    /// Number of runs of which each figure is the median.
    pub repeats: usize,
    /// Time that one (batch, share) may take; at least one run is made.
    pub patience: Duration,
    /// Time of a hop, from a stage to the next, in milliseconds: it is put into the profile as it is.
    pub hop_ms: f64,
}

/// Progress of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Number of pairs of batch and share that are done.
    pub done: usize,
    /// Number of all pairs.
    pub all: usize,
}

/// One model's figures on one kind of device.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Figures of its segments.
    pub model: ModelProfile,
    /// Time that a chunk takes beyond its segments, in milliseconds.
    pub stage_overhead_ms: f64,
    /// Whether the engine's times are modelled.
    pub source: Source,
}

impl Measured {
    /// A profile that holds this model alone.
    pub fn into_profile(self, name: &str, kind: &str, options: &MeasureOptions) -> Profile {
        Profile {
            version: 1,
            device_kind: kind.to_owned(),
            source: self.source,
            share_total: Share(options.device.share()),
            shares: options.shares.clone(),
            batches: options.batches.clone(),
            stage_overhead_ms: self.stage_overhead_ms,
            hop_ms: options.hop_ms,
            models: BTreeMap::from([(name.to_owned(), self.model)]),
        }
    }
}

/// Most cut points at which a network is cut to time its head and tail.
const PLACES: usize = 8;
/// Part of the time for a (batch, share) pair that one round of runs may take.
const ROUND: f64 = 0.4;
/// Time of a segment at least, as a part of the mean segment's.
const LEAST: f64 = 0.01;

/// Measures a model that is loaded in `engine`.
///
/// A segment that is run alone pays for what engines do at the ends of a run (a layout that is changed, a fusion that
/// is lost), and the sum of all segments is far more than the whole. So heads and tails are timed. A run takes what its
/// segments take and an overhead, so head + tail − whole is the overhead, and what lies before a cut point takes
/// (head + whole − tail − overhead) / 2. Between two of the cut points that are tried, time is shared out as it is
/// known from the smaller batch, at first by what segments compute and move. One overhead holds for all batches and
/// shares, the median of the smallest batch's; segments are such that the whole takes what was measured.
pub fn measure(
    engine: &dyn Engine,
    model: &Model,
    options: &MeasureOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Measured, EngineError> {
    let info = model.info();
    let count = info.segments.len();
    let all = options.shares.len() * options.batches.len();
    let mut known = by_size(info);
    let places = places(&known, PLACES);
    let mut sampled = vec![];
    for share in &options.shares {
        let shape = options.device.part(0, share.0).unwrap_or(options.device.clone());
        let partition = engine.open_partition(&shape)?;
        for &batch in &options.batches {
            match sample(engine, partition, info, &places, batch as usize, options) {
                Ok(found) => sampled.push(found),
                Err(e) => {
                    engine.close_partition(partition)?;
                    return Err(e);
                }
            }
            let done = sampled.len();
            progress(Progress { done, all });
        }
        engine.close_partition(partition)?;
    }
    // A run of a large batch moves more at its ends, too; the overhead is what a request alone pays.
    let smallest = sampled.iter().step_by(options.batches.len().max(1));
    let overhead = median(smallest.map(Sampled::overhead).collect());
    let mut ms = vec![vec![vec![0.0; options.shares.len()]; options.batches.len()]; count];
    let pairs = (0..options.shares.len()).flat_map(|s| (0..options.batches.len()).map(move |b| (s, b)));
    for ((s, b), found) in pairs.zip(&sampled) {
        known = found.segments(&known, overhead);
        for (segment, &t) in ms.iter_mut().zip(&known) {
            segment[b][s] = t;
        }
    }
    let segments = info
        .segments
        .iter()
        .zip(ms)
        .map(|(segment, ms)| SegmentProfile {
            weights_bytes: segment.weights_bytes,
            flops: Some(segment.flops),
            ms,
        })
        .collect();
    Ok(Measured {
        model: ModelProfile {
            cut_bytes: info
                .cuts
                .iter()
                .map(|c| c.bytes_sent(DType::F16) as u64)
                .collect(),
            segments,
        },
        stage_overhead_ms: overhead,
        source: if engine.is_modelled() {
            Source::Modelled
        } else {
            Source::Measured
        },
    })
}

/// Relative times of segments before anything was timed: a byte that is moved counts as much as ten operations.
fn by_size(info: &ModelInfo) -> Vec<f64> {
    const OPERATIONS_A_BYTE: f64 = 10.0;
    let moved = |k: usize| info.cuts[k].bytes() + info.cuts[k + 1].bytes();
    let segments = info.segments.iter().enumerate();
    segments
        .map(|(k, s)| s.flops as f64 + OPERATIONS_A_BYTE * (moved(k) as f64 + s.weights_bytes as f64))
        .collect()
}

/// Measured times of one pair of batch and share: medians in milliseconds.
struct Sampled {
    whole: f64,
    /// Inner cut points, ascending, with the times of head and tail.
    places: Vec<(usize, f64, f64)>,
}

impl Sampled {
    /// Time that a run takes beyond its segments, in milliseconds.
    fn overhead(&self) -> f64 {
        let extra = self.places.iter().map(|(_, head, tail)| head + tail - self.whole);
        median(extra.collect()).max(0.0)
    }

    /// Time of each segment, such that the whole takes their sum and `overhead`. `known`: relative times of segments.
    fn segments(&self, known: &[f64], overhead: f64) -> Vec<f64> {
        let own = self.overhead();
        // At least half remains for segments, however noisy the times are.
        let part = |o: f64| (self.whole - o).max(self.whole * 0.5);
        let scale = part(overhead) / part(own).max(f64::MIN_POSITIVE);
        let net = part(overhead);
        // Time before each place; noise must not let it fall.
        let mut before = vec![(0, 0.0f64)];
        for &(at, head, tail) in &self.places {
            let latest = before.last().map_or(0.0, |b| b.1);
            let time = (head + self.whole - tail - own) / 2.0 * scale;
            before.push((at, time.clamp(latest, net)));
        }
        before.push((known.len(), net));
        let least = net / known.len().max(1) as f64 * LEAST;
        let mut segments = vec![0.0; known.len()];
        for pair in before.windows(2) {
            let [(from, start), (to, end)] = [pair[0], pair[1]];
            let sum: f64 = known[from..to].iter().sum();
            for k in from..to {
                let part = if sum > 0.0 {
                    known[k] / sum
                } else {
                    1.0 / (to - from) as f64
                };
                segments[k] = ((end - start) * part).max(least);
            }
        }
        let sum: f64 = segments.iter().sum();
        segments
            .iter()
            .map(|t| t * net / sum.max(f64::MIN_POSITIVE))
            .collect()
    }
}

/// Inner cut points that part a network into pieces that take about as long, as far as is known; `count` at most.
fn places(known: &[f64], count: usize) -> Vec<usize> {
    let all: f64 = known.iter().sum();
    let mut found = vec![];
    let mut sum = 0.0;
    for (k, t) in known.iter().enumerate().take(known.len().saturating_sub(1)) {
        sum += t;
        if found.len() < count && sum >= all * (found.len() + 1) as f64 / (count + 1) as f64 {
            found.push(k + 1);
        }
    }
    found
}

/// Some of a list, evenly spread; at least one of a list that has any.
fn some_of(list: &[usize], count: usize) -> Vec<usize> {
    let count = count.clamp(1, list.len().max(1));
    let step = list.len() as f64 / count as f64;
    let pick = |i: usize| list.get(((i as f64 + 0.5) * step) as usize).copied();
    (0..count).filter_map(pick).collect()
}

/// Times the whole, and heads and tails at as many of the places as there is time for.
fn sample(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    places: &[usize],
    batch: usize,
    options: &MeasureOptions,
) -> Result<Sampled, EngineError> {
    let Some(whole) = info.whole() else {
        return Ok(Sampled {
            whole: 0.0,
            places: vec![],
        });
    };
    let input = Batch::pseudo_random(info.inputs(), batch, 1);
    let run = |range: StageRange, batch: Held| run_held(engine, partition, info, range, batch);
    let given = || Held::Host(input.clone());
    engine.prepare(partition, info.id, &[whole])?;
    let (_, first) = run(whole, given())?;
    // The number of runs of the whole network that there is time for: each place takes as much as one, and the whole
    // one.
    let affordable = options.patience.as_secs_f64() * 1e3 * ROUND / first.max(1e-3);
    let places = some_of(places, (affordable as usize).saturating_sub(1));
    let ends: Vec<(StageRange, StageRange)> = places
        .iter()
        .filter_map(|&k| {
            let at = CutPoint(u16::try_from(k).ok()?);
            StageRange::new(CutPoint(0), at).zip(info.tail(at))
        })
        .collect();
    let ranges: Vec<StageRange> = ends.iter().flat_map(|&(head, tail)| [head, tail]).collect();
    engine.prepare(partition, info.id, &ranges)?;
    let (mut wholes, mut heads, mut tails) = (vec![], vec![vec![]; ends.len()], vec![vec![]; ends.len()]);
    let start = Instant::now();
    for repeat in 0..options.repeats.max(1) {
        if repeat > 0 && start.elapsed() > options.patience {
            break;
        }
        wholes.push(run(whole, given())?.1);
        for ((head, tail), (heads, tails)) in ends.iter().zip(heads.iter_mut().zip(&mut tails)) {
            let (middle, time) = run(*head, given())?;
            heads.push(time);
            tails.push(run(*tail, middle)?.1);
        }
    }
    let ends = places.into_iter().zip(heads.into_iter().zip(tails));
    Ok(Sampled {
        whole: median(wholes),
        places: ends
            .map(|(at, (head, tail))| (at, median(head), median(tail)))
            .collect(),
    })
}

/// Runs a range; what it leaves, where the engine leaves it, and its time in milliseconds. A network's result comes to the host.
fn run_held(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    range: StageRange,
    batch: Held,
) -> Result<(Held, f64), EngineError> {
    let start = Instant::now();
    let mut held = engine.run_held(partition, info.id, range, batch)?;
    if range.to() == info.last() {
        held = Held::Host(held.into_host()?);
    }
    Ok((held, start.elapsed().as_secs_f64() * 1e3))
}

/// Runs ranges one after the other on what each leaves; what the last leaves, and their times in milliseconds.
fn run_ranges(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    ranges: &[StageRange],
    mut batch: Batch,
) -> Result<(Batch, Vec<f64>), EngineError> {
    let mut times = Vec::with_capacity(ranges.len());
    for &range in ranges {
        let start = Instant::now();
        batch = engine.run(partition, info.id, range, batch)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok((batch, times))
}

/// Times some ranges in turn, `repeats` times over; the medians in milliseconds. For comparisons in one run.
pub fn time_ranges(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    plans: &[Vec<StageRange>],
    batch: usize,
    repeats: usize,
) -> Result<Vec<f64>, EngineError> {
    let mut times = vec![vec![]; plans.len()];
    for _ in 0..repeats {
        for (list, ranges) in times.iter_mut().zip(plans) {
            let Some(first) = ranges.first() else { continue };
            let input = Batch::pseudo_random(&info.cuts[first.from().index()], batch, 1);
            let (_, times) = run_ranges(engine, partition, info, ranges, input)?;
            list.push(times.iter().sum());
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_before_a_cut_point_is_what_head_and_tail_say() {
        // Segments of 1, 2, 3, 4 ms; a run takes 0.5 ms more.
        let sampled = Sampled {
            whole: 10.5,
            places: vec![(2, 3.5, 7.5)],
        };
        assert!((sampled.overhead() - 0.5).abs() < 1e-9);
        let near =
            |segments: &[f64], want: [f64; 4]| segments.iter().zip(want).all(|(s, w)| (s - w).abs() < 1e-9);
        let segments = sampled.segments(&[1.0, 2.0, 3.0, 4.0], 0.5);
        assert!(near(&segments, [1.0, 2.0, 3.0, 4.0]), "{segments:?}");
        // With another overhead for all batches and shares, the whole still takes what it took.
        let segments = sampled.segments(&[1.0, 2.0, 3.0, 4.0], 1.5);
        assert!(near(&segments, [0.9, 1.8, 2.7, 3.6]), "{segments:?}");
    }

    #[test]
    fn noise_makes_no_segment_negative() {
        let sampled = Sampled {
            whole: 10.0,
            places: vec![(1, 6.0, 4.0), (2, 5.0, 5.0), (3, 12.0, 0.1)],
        };
        let segments = sampled.segments(&[1.0; 4], 0.2);
        assert!(segments.iter().all(|t| *t > 0.0), "{segments:?}");
        assert_eq!(places(&[1.0; 4], 16), [1, 2, 3]);
        assert_eq!(places(&[1.0, 1.0, 8.0, 1.0, 1.0], 1), [3]);
        assert_eq!(some_of(&[1, 2, 3, 4, 5], 1), [3]);
        assert_eq!(some_of(&[1, 2, 3], 16), [1, 2, 3]);
        assert_eq!(some_of(&[], 2), [0usize; 0]);
    }
}
