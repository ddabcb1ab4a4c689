//! Whether an engine runs a network: it is loaded, and run once.

use graft_model::{Model, Tensor};

use crate::engine::{Engine, EngineError, PartitionId, Refusal};

/// Requests of the batch that is tried, after one alone.
const BATCH: usize = 2;

/// Loads a model and runs all of it, alone and as a batch. A network that can't be run is a [`Refusal`]; it is not
/// loaded then.
pub fn try_out(engine: &dyn Engine, partition: PartitionId, model: &Model) -> Result<(), Refusal> {
    let info = model.info();
    let refused = |e: EngineError| match e {
        EngineError::Refused { refusal, .. } => *refusal,
        EngineError::Load { cause, .. } | EngineError::Run { cause, .. } => refusal_of(info.opset, &cause),
        other => refusal_of(info.opset, &other.to_string()),
    };
    engine.load(model).map_err(refused)?;
    let Some(whole) = info.whole() else { return Ok(()) };
    for batch in [1, BATCH] {
        let input = Tensor::pseudo_random(&info.cuts[0], batch, 3);
        if let Err(error) = engine.run(partition, info.id, whole, input) {
            if let Err(error) = engine.unload(info.id) {
                tracing::warn!(%error, "a network that can't be run stays loaded");
            }
            return Err(refused(error));
        }
    }
    Ok(())
}

/// From what an engine says, which quotes the node's name: `… "conv1 (Conv)" …`.
fn refusal_of(opset: i64, cause: &str) -> Refusal {
    let quoted = cause.split('"').skip(1).step_by(2);
    let node = quoted
        .filter(|text| text.contains(" ("))
        .map(|text| text.split(" /").next().unwrap_or(text).to_owned())
        .next();
    Refusal {
        node,
        opset,
        why: cause.to_owned(),
        what_to_do: "Export the network without this operator or setting, or for another operator set"
            .to_owned(),
    }
}
