//! What partitions cost one another, chunks their successors, and a change of partitions those who are served meanwhile.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use graft_engine::{Engine, EngineError, Held, PartitionId, PartitionShape};
use graft_model::{Batch, CutPoint, Model, StageRange};
use serde::Serialize;

use crate::CudaEngine;

/// Runs of which each figure is the median.
const REPEATS: usize = 15;
/// Chunks into which a network is cut, at most.
const CHUNKS: usize = 8;

/// What was found, in milliseconds. Where time is stretched (a software GPU), so are all of these.
#[derive(Debug, Clone, Serialize)]
pub struct Together {
    /// The network's file.
    pub file: String,
    /// Chunks into which it was cut.
    pub chunks: usize,
    /// Median of the time that the device has nothing to do between two chunks, where each is put in after the one before was waited for.
    pub gap_ms: f32,
    /// The same, where it is put in before.
    pub gap_ahead_ms: f32,
    /// Median of a run of the whole on the one half of the device, while the other half has nothing to do.
    pub alone_ms: f64,
    /// The same, while the other half runs the network, too.
    pub beside_ms: f64,
    /// Time to open a partition and run the network on it for the first time.
    pub resize_ms: f64,
    /// Longest run on another partition meanwhile, beyond the median of those before.
    pub resize_pause_ms: f64,
}

/// Runs a network that is loaded. `Ok(None)`: the device has too few parts, or the network has nothing to cut.
pub fn together(engine: &CudaEngine, file: &str, model: &Model) -> Result<Option<Together>, EngineError> {
    let info = model.info();
    let (each, all) = engine.granularity();
    let half = all / 2 / each.max(1) * each;
    let (Some(whole), true) = (info.whole(), half > 0) else {
        return Ok(None);
    };
    let open = |first: u32| engine.open_partition(&PartitionShape::Units { first, count: half });
    let (one, other) = (open(0)?, open(half)?);
    let input = Batch::pseudo_random(info.inputs(), 1, 3);
    let run = |partition| {
        let start = Instant::now();
        engine.run(partition, info.id, whole, input.clone())?;
        Ok::<_, EngineError>(ms(start.elapsed()))
    };
    let runs = |partition| {
        (0..REPEATS)
            .map(|_| run(partition))
            .collect::<Result<Vec<_>, _>>()
    };
    run(one)?;
    run(other)?;
    let alone_ms = median(runs(one)?);
    let beside = with_company(|| run(other).map(drop), || runs(one))?;
    let chunks = chunks(info.last());
    let (gap_ms, gap_ahead_ms) = gaps(engine, one, model, &chunks, &input)?;

    // A partition is opened beside one that goes on serving.
    let served = Mutex::new(vec![]);
    let serve = || {
        let took = run(one)?;
        served.lock().unwrap_or_else(|e| e.into_inner()).push(took);
        Ok(())
    };
    let resize_ms = with_company(serve, || {
        engine.close_partition(other)?;
        let start = Instant::now();
        let next = engine.open_partition(&PartitionShape::Units {
            first: half,
            count: each.min(half),
        })?;
        run(next)?;
        let took = ms(start.elapsed());
        engine.close_partition(next)?;
        Ok(took)
    })?;
    engine.close_partition(one)?;
    let served = served.into_inner().unwrap_or_else(|e| e.into_inner());
    let longest = served.into_iter().fold(0.0f64, f64::max);
    let beside_ms = median(beside);
    Ok(Some(Together {
        file: file.to_owned(),
        chunks: chunks.len(),
        gap_ms,
        gap_ahead_ms,
        alone_ms,
        beside_ms,
        resize_ms,
        resize_pause_ms: (longest - alone_ms.max(beside_ms)).max(0.0),
    }))
}

/// Does something while something else is done again and again on another thread.
fn with_company<T: Send>(
    again: impl Fn() -> Result<(), EngineError> + Sync,
    f: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    /// Tells the company that it is over, whatever became of what it was for.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Over(&over);
        let company = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                again()?;
            }
            Ok(())
        });
        let done = f();
        drop(ends);
        let kept_on = company
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and_then(|done| kept_on.map(|()| done))
    })
}

/// The medians of the gaps between chunks: put in after the one before, and ahead of its end.
fn gaps(
    engine: &CudaEngine,
    partition: PartitionId,
    model: &Model,
    chunks: &[StageRange],
    input: &Batch,
) -> Result<(f32, f32), EngineError> {
    let id = model.info().id;
    let (mut after, mut ahead) = (vec![], vec![]);
    let gap = |list: &mut Vec<f32>| {
        list.extend(engine.last_gap_ms(partition).ok().flatten());
    };
    // The first round records launches.
    for round in 0..=REPEATS {
        let mut rows = Held::Host(input.clone());
        for (place, &range) in chunks.iter().enumerate() {
            rows = engine.run_held(partition, id, range, rows)?;
            if place > 0 && round > 0 {
                gap(&mut after);
            }
        }
        let mut rows = Held::Host(input.clone());
        let mut before: Option<Box<dyn graft_engine::RunEnd>> = None;
        for (place, &range) in chunks.iter().enumerate() {
            let submitted = engine.submit(partition, id, range, rows)?;
            rows = submitted.rows;
            if let Some(before) = before.replace(submitted.end) {
                before.wait()?;
            }
            if place > 0 && round > 0 {
                gap(&mut ahead);
            }
        }
        before.map_or(Ok(()), |end| end.wait())?;
    }
    let middle = |mut list: Vec<f32>| {
        list.sort_by(f32::total_cmp);
        list.get(list.len() / 2).copied().unwrap_or(0.0)
    };
    Ok((middle(after), middle(ahead)))
}

/// About as many segments in each.
fn chunks(last: CutPoint) -> Vec<StageRange> {
    let segments = last.index();
    let count = segments.clamp(1, CHUNKS);
    let at = |place: usize| CutPoint((place * segments / count) as u16);
    (0..count)
        .filter_map(|place| StageRange::new(at(place), at(place + 1)))
        .collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(0.0)
}
