//! Measures what segments cost on an engine's partitions, and makes a profile of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graft_model::{CutPoint, Model, ModelInfo, StageRange, Tensor};
use graft_plan::{ModelProfile, Profile, SegmentProfile, Share, Source};

use crate::engine::{Engine, EngineError, PartitionId};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct MeasureOptions {
    /// Batches, ascending, the first 1.
    pub batches: Vec<u32>,
    /// Numbers of cores, ascending.
    pub shares: Vec<Share>,
    /// The cores that partitions are cut from; at least the largest share.
    pub cores: Vec<usize>,
    /// Each figure is the median of so many runs.
    pub repeats: usize,
    /// Time that one (batch, share) may take; at least one run is made.
    pub patience: Duration,
    /// From a stage to the next, in milliseconds, put into the profile.
    pub hop_ms: f64,
}

/// How far a measurement has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Pairs of batch and share that are done.
    pub done: usize,
    /// All of them.
    pub all: usize,
}

/// One model's figures on one kind of device.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Its segments.
    pub model: ModelProfile,
    /// What a chunk costs beyond its segments, in milliseconds.
    pub stage_overhead_ms: f64,
}

impl Measured {
    /// A profile that holds this model alone.
    pub fn into_profile(self, name: &str, kind: &str, options: &MeasureOptions) -> Profile {
        Profile {
            version: 1,
            device_kind: kind.to_owned(),
            source: Source::Measured,
            share_total: Share(u32::try_from(options.cores.len()).unwrap_or(u32::MAX)),
            shares: options.shares.clone(),
            batches: options.batches.clone(),
            stage_overhead_ms: self.stage_overhead_ms,
            hop_ms: options.hop_ms,
            models: BTreeMap::from([(name.to_owned(), self.model)]),
        }
    }
}

/// Measures a model that is loaded in `engine`.
///
/// Each segment is run by itself, and the whole in one piece. A segment that is run alone pays the engine's
/// overhead of a chunk, the whole pays it once: so the overhead is (sum − whole) / (segments − 1), and is
/// taken off every segment.
pub fn measure(
    engine: &dyn Engine,
    model: &Model,
    options: &MeasureOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Measured, EngineError> {
    let info = model.info();
    let count = info.segments.len();
    let mut ms = vec![vec![vec![0.0; options.shares.len()]; options.batches.len()]; count];
    let mut overhead = f64::INFINITY;
    let all = options.shares.len() * options.batches.len();
    let mut done = 0;
    for (s, share) in options.shares.iter().enumerate() {
        let cores = options.cores.get(..share.0 as usize).unwrap_or(&options.cores);
        let partition = engine.open_partition(cores)?;
        for (b, &batch) in options.batches.iter().enumerate() {
            let sampled = sample(engine, partition, info, batch as usize, options);
            let (segments, whole) = match sampled {
                Ok(times) => times,
                Err(e) => {
                    engine.close_partition(partition)?;
                    return Err(e);
                }
            };
            let sum: f64 = segments.iter().sum();
            let extra = ((sum - whole) / (count.max(2) - 1) as f64).max(0.0);
            overhead = overhead.min(extra);
            // The segments share what the whole takes in proportion to what they take alone.
            let alone: Vec<f64> = segments.iter().map(|t| (t - extra).max(t * 0.05)).collect();
            let scale = (whole - extra).max(whole * 0.5) / alone.iter().sum::<f64>().max(1e-9);
            for (k, t) in alone.into_iter().enumerate() {
                ms[k][b][s] = t * scale;
            }
            done += 1;
            progress(Progress { done, all });
        }
        engine.close_partition(partition)?;
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
            cut_bytes: info.cuts.iter().map(|c| 2 * c.elements as u64).collect(),
            segments,
        },
        stage_overhead_ms: if overhead.is_finite() { overhead } else { 0.0 },
    })
}

/// Medians in milliseconds: each segment alone, and the whole in one piece.
fn sample(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    batch: usize,
    options: &MeasureOptions,
) -> Result<(Vec<f64>, f64), EngineError> {
    let ranges: Vec<StageRange> = pieces(info);
    let whole: Vec<StageRange> = info.whole().into_iter().collect();
    let input = Tensor::pseudo_random(&info.cuts[0], batch, 1);
    let start = Instant::now();
    let (mut by_segment, mut by_whole) = (vec![vec![]; ranges.len()], vec![]);
    run_ranges(engine, partition, info, &whole, input.clone())?;
    for repeat in 0..options.repeats.max(1) {
        if repeat > 0 && start.elapsed() > options.patience {
            break;
        }
        by_whole.extend(run_ranges(engine, partition, info, &whole, input.clone())?);
        let times = run_ranges(engine, partition, info, &ranges, input.clone())?;
        for (list, time) in by_segment.iter_mut().zip(times) {
            list.push(time);
        }
    }
    Ok((by_segment.into_iter().map(median).collect(), median(by_whole)))
}

/// Every segment as a range.
fn pieces(info: &ModelInfo) -> Vec<StageRange> {
    info.cut_points()
        .filter_map(|from| StageRange::new(from, CutPoint(from.0.checked_add(1)?)))
        .take(info.segments.len())
        .collect()
}

/// Runs ranges one after the other on the tensor that each leaves; their times in milliseconds.
fn run_ranges(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    ranges: &[StageRange],
    mut tensor: Tensor,
) -> Result<Vec<f64>, EngineError> {
    let mut times = Vec::with_capacity(ranges.len());
    for &range in ranges {
        let start = Instant::now();
        tensor = engine.run(partition, info.id, range, tensor)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
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
            let input = Tensor::pseudo_random(&info.cuts[first.from().index()], batch, 1);
            list.push(run_ranges(engine, partition, info, ranges, input)?.iter().sum());
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}
