//! The thread that computes for a partition: one chunk at a time, batches that were set aside kept by number.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use actix::{Message, Recipient};
use graft_engine::{Cause, Engine, EngineError, Held, PartitionId};
use graft_model::{Batch, Cut, DType, ModelId, Sent, StageRange};
use graft_wire::WireType;
use graft_worker_core::BatchId;

use crate::job::Activation;

/// Where chunks are run.
#[derive(Clone)]
pub(crate) struct Place {
    pub engine: Arc<dyn Engine>,
    /// In the engine.
    pub partition: PartitionId,
    /// The device's place in the worker.
    pub device: usize,
}

/// A chunk to run.
pub(crate) struct Chunk {
    pub batch: BatchId,
    pub model: ModelId,
    pub range: StageRange,
    /// The batch's rows, for its first chunk.
    pub inputs: Option<Vec<Activation>>,
    /// The batch's result is wanted: it is its last chunk.
    pub last: bool,
    /// Some request of the batch does not go on to another stage on this device: the result is wanted on the host.
    pub leaves: bool,
}

pub(crate) enum Command {
    Run(Chunk),
    /// Free what a batch holds.
    Forget(BatchId),
}

/// A chunk was run.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Ran {
    pub batch: BatchId,
    /// The result after a batch's last chunk.
    pub result: Result<Option<Held>, EngineError>,
    /// Rows that could not be computed, by their place in the batch, and why.
    pub spoiled: Vec<(usize, String)>,
    pub elapsed: Duration,
}

/// The sending end. Dropping it ends the thread.
pub(crate) struct Computer {
    commands: SyncSender<Command>,
}

/// Commands that may wait: one chunk runs at a time, and a few batches may be forgotten meanwhile.
const COMMANDS: usize = 64;

impl Computer {
    /// Starts the thread. What it computes goes to `actor`.
    pub fn start(place: Place, name: &str, actor: Recipient<Ran>) -> std::io::Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS);
        std::thread::Builder::new()
            .name(format!("graft-{name}"))
            .spawn(move || work(&place, &inbox, &actor))?;
        Ok(Computer { commands })
    }

    /// `false`: the thread is gone, or does not keep up.
    pub fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

fn work(place: &Place, inbox: &Receiver<Command>, actor: &Recipient<Ran>) {
    let mut aside: HashMap<BatchId, Held> = HashMap::new();
    while let Ok(command) = inbox.recv() {
        let chunk = match command {
            Command::Forget(batch) => {
                aside.remove(&batch);
                continue;
            }
            Command::Run(chunk) => chunk,
        };
        let start = Instant::now();
        let (batch, last) = (chunk.batch, chunk.last);
        // Whatever happens in an engine, the partition hears of it.
        let running = || run(place, chunk, &mut aside);
        let result = graft_engine::guarded(running);
        let elapsed: Duration = start.elapsed();
        let (result, spoiled) = match result {
            Ok(Rows { rows, spoiled }) if last => (Ok(Some(rows)), spoiled),
            Ok(Rows { rows, spoiled }) => {
                aside.insert(batch, rows);
                (Ok(None), spoiled)
            }
            Err(error) => (Err(error), vec![]),
        };
        actor.do_send(Ran {
            batch,
            result,
            spoiled,
            elapsed,
        });
    }
}

/// What a chunk made of a batch.
#[derive(Debug)]
struct Rows {
    rows: Held,
    /// Rows that the engine does not compute, by their place, and why. Another row stands in their place.
    spoiled: Spoiled,
}

/// Rows that could not be computed, by their place, and why.
type Spoiled = Vec<(usize, String)>;

fn run(place: &Place, chunk: Chunk, aside: &mut HashMap<BatchId, Held>) -> Result<Rows, EngineError> {
    let (engine, partition, range) = (&*place.engine, place.partition, chunk.range);
    let input = match chunk.inputs {
        None => aside.remove(&chunk.batch).ok_or(EngineError::Run {
            range,
            cause: Cause::BatchGone,
        })?,
        Some(inputs) => {
            let info = engine.info(chunk.model)?;
            let cut = info.cut(range.from()).ok_or(EngineError::BeyondLastCut {
                range,
                last: info.last().index(),
            })?;
            gather(place, cut, inputs, (chunk.model, range))?
        }
    };
    let info = engine.info(chunk.model)?;
    // What a device keeps it has computed itself, in types that it has.
    let spare = match &input {
        Held::Host(batch) if batch.requests() > 1 => {
            let may_refuse = info.narrow.watches(range) || !batch.is_float();
            may_refuse.then(|| batch.clone())
        }
        _ => None,
    };
    let mut made = match (engine.run_held(partition, chunk.model, range, input), spare) {
        (Ok(rows), _) => Rows {
            rows,
            spoiled: vec![],
        },
        (Err(_), Some(batch)) => one_by_one(engine, partition, (chunk.model, range), &batch)?,
        (Err(error), None) => return Err(error),
    };
    if chunk.last && chunk.leaves {
        let brought = brought(made.rows, range)?;
        made.rows = brought.rows;
        made.spoiled.extend(brought.spoiled);
    }
    Ok(made)
}

/// A batch in the host's memory. What a device can't give of one row costs the others nothing.
fn brought(rows: Held, range: StageRange) -> Result<Rows, EngineError> {
    let whole = match &rows {
        Held::Device(batch) => batch.to_host(),
        Held::Host(_) => {
            return Ok(Rows {
                rows,
                spoiled: vec![],
            });
        }
    };
    let error = match whole {
        Ok(batch) => {
            return Ok(Rows {
                rows: Held::Host(batch),
                spoiled: vec![],
            });
        }
        Err(error) => error,
    };
    let each = (0..rows.requests()).filter_map(|row| rows.row(row));
    let outcomes: Vec<Result<Batch, EngineError>> = each.map(Held::into_host).collect();
    let Ok((whole, spoiled)) = with_stand_ins(outcomes, range) else {
        return Err(error);
    };
    let rows = Held::Host(Held::join_on_host(whole, range)?);
    Ok(Rows { rows, spoiled })
}

/// Rows that went each its own way: another in the place of each that failed, and which these are. `Err`: all failed.
fn with_stand_ins(
    outcomes: Vec<Result<Batch, EngineError>>,
    range: StageRange,
) -> Result<(Vec<Held>, Spoiled), EngineError> {
    // A device's fault is no row's.
    let is_device = |o: &Result<Batch, EngineError>| matches!(o, Err(EngineError::Device { .. }));
    if let Some(place) = outcomes.iter().position(is_device) {
        let failed = outcomes.into_iter().nth(place).and_then(Result::err);
        return Err(failed.unwrap_or(EngineError::Run {
            range,
            cause: Cause::NoRows,
        }));
    }
    let Some(stand_in) = outcomes.iter().find_map(|o| o.as_ref().ok()).cloned() else {
        let first = outcomes.into_iter().find_map(Result::err);
        return Err(first.unwrap_or(EngineError::Run {
            range,
            cause: Cause::NoRows,
        }));
    };
    let (mut whole, mut spoiled) = (vec![], vec![]);
    for (place, outcome) in outcomes.into_iter().enumerate() {
        whole.push(Held::Host(outcome.unwrap_or_else(|error| {
            spoiled.push((place, error.to_string()));
            stand_in.clone()
        })));
    }
    Ok((whole, spoiled))
}

/// A batch failed that holds numbers which the engine may not compute: each row by itself, so that one does not
/// cost the others their answers.
fn one_by_one(
    engine: &dyn Engine,
    partition: PartitionId,
    (model, range): (ModelId, StageRange),
    batch: &Batch,
) -> Result<Rows, EngineError> {
    let rows = (0..batch.requests()).filter_map(|row| batch.row(row));
    let outcomes: Vec<Result<Batch, EngineError>> =
        rows.map(|row| engine.run(partition, model, range, row)).collect();
    let (whole, spoiled) = with_stand_ins(outcomes, range)?;
    let rows = engine.join(partition, model, range, whole)?;
    Ok(Rows { rows, spoiled })
}

/// The rows of a batch together.
fn gather(
    place: &Place,
    cut: &Cut,
    inputs: Vec<Activation>,
    (model, range): (ModelId, StageRange),
) -> Result<Held, EngineError> {
    let types = |input: &Activation| match input {
        Activation::Bytes(types, _) => Some(WireType::dtypes(types)),
        Activation::Held(..) => None,
    };
    let all: Option<Vec<Vec<DType>>> = inputs.iter().map(types).collect();
    if let Some(all) = all {
        let rows: Vec<Sent<'_>> = inputs
            .iter()
            .zip(&all)
            .filter_map(|(input, types)| match input {
                Activation::Bytes(_, bytes) => Some(Sent { types, bytes }),
                Activation::Held(..) => None,
            })
            .collect();
        return Ok(Held::Host(Batch::from_requests(cut, &rows)?));
    }
    let rows: Vec<Held> = inputs
        .into_iter()
        .map(|input| match input.for_device(place.device)? {
            Activation::Held(_, row) => Ok(row),
            Activation::Bytes(types, bytes) => {
                let types = WireType::dtypes(&types);
                let sent = Sent {
                    types: &types,
                    bytes: &bytes,
                };
                Ok(Held::Host(Batch::from_requests(cut, &[sent])?))
            }
        })
        .collect::<Result<_, EngineError>>()?;
    place.engine.join(place.partition, model, range, rows)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use graft_engine::{PartitionShape, RtenEngine, usable_cores};
    use graft_model::{CutPoint, Elements, Model, ReadOptions, Tensor, samples};

    use super::*;

    /// Two batches of two rows through a network that multiplies integers by 3, which rten does in 32 bits.
    fn tripled(rows: [[f32; 2]; 2]) -> Result<Rows, EngineError> {
        let bytes = samples::integers_times(3);
        let model = Model::parse(Path::new("m.onnx"), &bytes, &ReadOptions::default()).unwrap();
        let engine = Arc::new(RtenEngine::new());
        engine.load(&model).unwrap();
        let partition = engine
            .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
            .unwrap();
        let info = model.info();
        let row = |row: [f32; 2]| Tensor::new(1, vec![2], Elements::F32(row.to_vec())).unwrap();
        let chunk = Chunk {
            batch: BatchId(1),
            model: info.id,
            range: StageRange::new(CutPoint(0), info.last()).unwrap(),
            inputs: Some(
                rows.map(|r| Activation::Held(0, Held::Host(row(r).into())))
                    .into_iter()
                    .collect(),
            ),
            last: true,
            leaves: true,
        };
        let place = Place {
            engine,
            partition,
            device: 0,
        };
        run(&place, chunk, &mut HashMap::new())
    }

    #[test]
    fn a_request_whose_numbers_can_t_be_computed_does_not_spoil_its_batch() {
        let Rows { rows, spoiled } = tripled([[2e9, 0.0], [7.0, -2.0]]).unwrap();
        let second = rows.row(1).unwrap().into_host().unwrap();
        assert_eq!(second.only().unwrap().floats().unwrap(), [21.0, -6.0]);
        assert_eq!(spoiled.len(), 1);
        assert_eq!(spoiled[0].0, 0);
        assert!(spoiled[0].1.contains("32 bits"), "{}", spoiled[0].1);

        assert!(tripled([[1.0, 2.0], [3.0, 4.0]]).unwrap().spoiled.is_empty());
        assert!(tripled([[2e9, 0.0], [3e9, 0.0]]).is_err());
    }
}
