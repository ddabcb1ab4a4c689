//! What a network's launches take on the device, by batch and partition.

use graft_engine::{Engine, EngineError, PartitionShape};
use graft_model::{Batch, Model};
use serde::Serialize;

use crate::CudaEngine;

/// Runs of which each figure is the median.
const REPEATS: usize = 9;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// The network.
    pub network: String,
    /// Requests of the batch.
    pub batch: usize,
    /// Multiprocessors of the partition.
    pub sms: u32,
    /// Milliseconds from the first launch to the end of the last one.
    pub ms: f32,
    /// Whether it is worked out from counts of a software GPU instead of being measured.
    pub modelled: bool,
}

/// Runs a network that is loaded on partitions of the smallest size, its doubles, and all. On the software GPU a run is enough: its
/// figures don't vary.
pub fn latency(
    engine: &CudaEngine,
    network: &str,
    model: &Model,
    batches: &[usize],
) -> Result<Vec<Latency>, EngineError> {
    let info = model.info();
    let Some(whole) = info.whole() else {
        return Ok(vec![]);
    };
    let modelled = engine.gpu().is_softgpu();
    let repeats = if modelled { 1 } else { REPEATS };
    let mut figures = vec![];
    for sms in engine.shares() {
        let partition = engine.open_partition(&PartitionShape::units(sms))?;
        for &batch in batches {
            let mut times = vec![];
            for seed in 0..repeats {
                let input = Batch::pseudo_random(info.inputs(), batch, seed as u64);
                engine.run(partition, info.id, whole, input)?;
                times.push(engine.last_ms(partition).unwrap_or(f32::NAN));
            }
            times.sort_by(f32::total_cmp);
            figures.push(Latency {
                network: network.to_owned(),
                batch,
                sms,
                ms: times[repeats / 2],
                modelled,
            });
        }
        engine.close_partition(partition)?;
    }
    Ok(figures)
}
