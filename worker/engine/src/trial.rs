//! Tries whether an engine runs a network: loads it, and runs it once.

use graft_model::{Batch, Model};

use crate::conformance::check_rows;
use crate::engine::Engine;
use crate::error::{EngineError, PartitionId, Refusal};

/// Requests of the batch that is tried after a single request.
const BATCH: usize = 2;
/// Requests of the batch in which those are exchanged around each, where only a run shows that requests don't mix.
const ROWS: usize = 3;

/// Loads a model and runs all of it, alone and as a batch. A network that can't be run is a [`Refusal`]; it is not
/// loaded then.
pub fn try_out(engine: &dyn Engine, partition: PartitionId, model: &Model) -> Result<(), Refusal> {
    let info = model.info();
    let refused = |e: EngineError| match e {
        EngineError::Refused { refusal, .. } => *refusal,
        EngineError::Load { cause, .. } | EngineError::Run { cause, .. } => {
            refusal_of(model, &cause.to_string())
        }
        other => refusal_of(model, &other.to_string()),
    };
    engine.load(model).map_err(refused)?;
    let Some(whole) = info.whole() else { return Ok(()) };
    for batch in [1, BATCH] {
        let input = Batch::pseudo_random(info.inputs(), batch, 3);
        if let Err(error) = engine.run(partition, info.id, whole, input) {
            if let Err(error) = engine.unload(info.id) {
                tracing::warn!(%error, "a network that can't be run stays loaded");
            }
            return Err(refused(error));
        }
    }
    if let Some(node) = info.opaque.first() {
        let mixed = check_rows(engine, partition, model, ROWS).map_err(refused)?;
        let precision = engine.precision(info.id).map_err(refused)?;
        if !mixed.within(precision.between_ways()) {
            if let Err(error) = engine.unload(info.id) {
                tracing::warn!(%error, "a network that mixes requests stays loaded");
            }
            return Err(Refusal {
                node: Some(node.clone()),
                opset: info.opset,
                why: format!(
                    "one request changes another's answer by {:e} when they are run together",
                    mixed.most
                ),
                what_to_do: "Graft answers each request of a batch by itself: export the model so that requests don't mix"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// The refusal by an engine's error text, which may mention the node.
fn refusal_of(model: &Model, cause: &str) -> Refusal {
    let mentioned = model.node_names().filter(|name| cause.contains(name));
    Refusal {
        node: mentioned.max_by_key(|name| name.len()).map(str::to_owned),
        opset: model.info().opset,
        why: cause.to_owned(),
        what_to_do: "Export the network without this operator or setting, or for another operator set"
            .to_owned(),
    }
}
