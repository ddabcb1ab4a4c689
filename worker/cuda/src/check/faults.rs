//! Faults that are planned on the software GPU: what the engine makes of them.

use graft_engine::{Engine, EngineError, PartitionId};
use graft_model::{Batch, Model};
use serde::Serialize;

use crate::driver::softgpu_plan;
use crate::{CudaEngine, CudaFault};

/// A fault, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// What was planned.
    pub name: &'static str,
    /// Whether the run that it hit failed with a reason, and what came after it was as it should be.
    pub ok: bool,
    /// The reason that was given.
    pub told: String,
}

/// Plans faults one after the other, and runs a model that the engine has. `Err`: it is no software GPU. The last fault loses the device:
/// nothing runs on it any more.
pub fn faults(
    engine: &CudaEngine,
    partition: PartitionId,
    model: &Model,
    input: &Batch,
) -> Result<Vec<FaultReport>, CudaFault> {
    let info = model.info();
    let Some(whole) = info.whole() else {
        return Ok(vec![]);
    };
    let run = |input: &Batch| engine.run(partition, info.id, whole, input.clone());
    let before = run(input);
    // Name, plan, words that the reason has, whether the device goes on.
    let planned = [
        ("memory is full", "full_after=0", "memory", true),
        ("a launch fails", "fail_after=1", "launch", true),
        ("the device is lost", "lose_after=1", "ECC", false),
    ];
    let mut reports = vec![];
    for (name, plan, words, goes_on) in planned {
        softgpu_plan(engine.gpu().ordinal, plan)?;
        // A run that was made before takes no memory: the fault meets a batch of another size.
        let hit = run(&Batch::pseudo_random(info.inputs(), input.requests() + 1, 1));
        // Memory stays full until this is told.
        softgpu_plan(engine.gpu().ordinal, &format!("full_after={}", u64::MAX))?;
        let after = run(input);
        let told = hit.as_ref().err().map(EngineError::to_string).unwrap_or_default();
        let as_before = match (&before, &after) {
            (Ok(before), Ok(after)) => before == after,
            _ => false,
        };
        reports.push(FaultReport {
            name,
            ok: told.contains(words) && if goes_on { as_before } else { after.is_err() },
            told,
        });
    }
    Ok(reports)
}
