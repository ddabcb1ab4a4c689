//! The thread that computes for a partition: one chunk at a time, batches that were set aside kept by number.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use actix::Addr;
use graft_engine::{Engine, EngineError, PartitionId};
use graft_model::{Cut, DType, ModelId, StageRange, Tensor};
use graft_worker_core::BatchId;

use crate::job::Activation;
use crate::partition::{PartitionActor, Ran};

/// A chunk to run.
pub(crate) struct Chunk {
    pub batch: BatchId,
    pub model: ModelId,
    pub range: StageRange,
    /// The batch's rows, for its first chunk.
    pub inputs: Option<Vec<Activation>>,
    /// The batch's result is wanted: it is its last chunk.
    pub last: bool,
}

pub(crate) enum Command {
    Run(Chunk),
    /// Free what a batch holds.
    Forget(BatchId),
}

/// The sending end. Dropping it ends the thread.
pub(crate) struct Computer {
    commands: SyncSender<Command>,
}

/// Commands that may wait: one chunk runs at a time, and a few batches may be forgotten meanwhile.
const COMMANDS: usize = 64;

impl Computer {
    /// Starts the thread. What it computes goes to `actor`.
    pub fn start(
        engine: Arc<dyn Engine>,
        partition: PartitionId,
        name: &str,
        actor: Addr<PartitionActor>,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS);
        std::thread::Builder::new()
            .name(format!("graft-{name}"))
            .spawn(move || work(&*engine, partition, &inbox, &actor))?;
        Ok(Computer { commands })
    }

    /// `false`: the thread is gone, or does not keep up.
    pub fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

fn work(
    engine: &dyn Engine,
    partition: PartitionId,
    inbox: &Receiver<Command>,
    actor: &Addr<PartitionActor>,
) {
    let mut aside: HashMap<BatchId, Tensor> = HashMap::new();
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
        let result = run(engine, partition, chunk, &mut aside);
        let elapsed: Duration = start.elapsed();
        let result = match result {
            Ok(tensor) if last => Ok(Some(tensor)),
            Ok(tensor) => {
                aside.insert(batch, tensor);
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        };
        actor.do_send(Ran {
            batch,
            result,
            elapsed,
        });
    }
}

fn run(
    engine: &dyn Engine,
    partition: PartitionId,
    chunk: Chunk,
    aside: &mut HashMap<BatchId, Tensor>,
) -> Result<Tensor, EngineError> {
    let input = match chunk.inputs {
        None => aside.remove(&chunk.batch).ok_or_else(|| EngineError::Run {
            range: chunk.range,
            cause: "the batch that was set aside is gone".to_owned(),
        })?,
        Some(inputs) => {
            let info = engine.info(chunk.model)?;
            let cut = info.cut(chunk.range.from()).ok_or(EngineError::BeyondLastCut {
                range: chunk.range,
                last: info.last().index(),
            })?;
            gather(cut, inputs, chunk.range)?
        }
    };
    engine.run(partition, chunk.model, chunk.range, input)
}

/// The rows of a batch as one tensor.
fn gather(cut: &Cut, inputs: Vec<Activation>, range: StageRange) -> Result<Tensor, EngineError> {
    if inputs.iter().all(|i| matches!(i, Activation::Bytes(..))) {
        let rows: Vec<(DType, &[u8])> = inputs
            .iter()
            .filter_map(|i| match i {
                Activation::Bytes(dtype, bytes) => Some((dtype.dtype(), &bytes[..])),
                Activation::Tensor(_) => None,
            })
            .collect();
        return Ok(Tensor::from_requests(cut, &rows)?);
    }
    let rows: Vec<Tensor> = inputs
        .into_iter()
        .map(|input| match input {
            Activation::Tensor(tensor) => Ok(tensor),
            Activation::Bytes(dtype, bytes) => Tensor::from_requests(cut, &[(dtype.dtype(), &bytes)]),
        })
        .collect::<Result<_, _>>()?;
    Tensor::join(&rows).ok_or_else(|| EngineError::Run {
        range,
        cause: "rows of different shapes can't be one batch".to_owned(),
    })
}
