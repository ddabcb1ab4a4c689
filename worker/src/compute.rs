//! The threads that compute for a partition: one chunk after the other, batches that were set aside kept by number.
//!
//! One thread starts chunks. Where the engine queues them on a device, another waits for their ends, and the first tells the partition shortly
//! before an end is expected, so that the next chunk is there when the device is free.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Handler, Message};
use graft_engine::{Cause, Engine, EngineError, Held, PartitionId, RunEnd, guarded};
use graft_model::{Batch, Cut, DType, ModelId, Sent, StageRange, TensorError};
use graft_wire::WireType;
use graft_worker_core::BatchId;

use crate::fence::Fence;
use crate::job::Activation;

/// Where chunks are run.
#[derive(Clone)]
pub(crate) struct Place {
    pub fence: Arc<Fence>,
    /// The device's place in the worker.
    pub device: usize,
}

/// A chunk to run.
pub(crate) struct Chunk {
    /// Its number in the partition.
    pub number: u64,
    pub batch: BatchId,
    pub model: ModelId,
    pub range: StageRange,
    /// What it takes by the profile.
    pub expected: Duration,
    /// The batch's rows, for its first chunk.
    pub inputs: Option<Vec<Activation>>,
    /// The batch's result is wanted: it is its last chunk.
    pub last: bool,
    /// Some request of the batch does not go on to another stage on this device: the result is wanted on the host.
    pub leaves: bool,
    /// When the partition was told what led to this chunk, if that was an end.
    pub led_by: Option<Instant>,
}

pub(crate) enum Command {
    Run(Chunk),
    /// Free what a batch holds.
    Forget(BatchId),
}

/// A chunk is about to end: the next may be put in.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Nearly {
    /// The chunk's number.
    pub number: u64,
    pub told: Instant,
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
    pub told: Instant,
}

/// The sending end. Dropping it ends the threads.
pub(crate) struct Computer {
    commands: SyncSender<Command>,
}

/// Commands that may wait: two chunks at most, and a few batches may be forgotten meanwhile.
const COMMANDS: usize = 64;

/// Chunks on a device at a time: one that runs, and the next.
const UNDER_WAY: usize = 2;

impl Computer {
    /// Starts the threads. What they compute goes to `actor`.
    pub fn start<A>(place: Place, name: &str, actor: Addr<A>) -> std::io::Result<Self>
    where
        A: Actor<Context = actix::Context<A>> + Handler<Ran> + Handler<Nearly>,
    {
        let thread = |what: &str| std::thread::Builder::new().name(format!("graft-{what}{name}"));
        let (commands, inbox) = sync_channel(COMMANDS);
        let mut aside = Aside::new();
        if !place.fence.engine().queues() {
            thread("").spawn(move || {
                let last_end = Mutex::new(Instant::now());
                while let Ok(command) = inbox.recv() {
                    if let Some(chunk) = chunk_of(command, &mut aside) {
                        let began = Instant::now();
                        finish(start(&place, chunk, &mut aside), began, &last_end, &actor);
                    }
                }
            })?;
            return Ok(Computer { commands });
        }
        let (started, ends) = sync_channel(UNDER_WAY);
        let last_end = Arc::new(Mutex::new(Instant::now()));
        let (its_actor, its_last_end) = (actor.clone(), Arc::clone(&last_end));
        thread("end-").spawn(move || {
            let mut before = Instant::now();
            while let Ok(started) = ends.recv() {
                before = finish(started, before, &its_last_end, &its_actor);
            }
        })?;
        thread("").spawn(move || queue(&place, &inbox, aside, &started, &last_end, &actor))?;
        Ok(Computer { commands })
    }

    /// `false`: the thread is gone, or does not keep up.
    pub fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

/// Batches between two of their chunks.
type Aside = HashMap<BatchId, Held>;

fn lock(moment: &Mutex<Instant>) -> MutexGuard<'_, Instant> {
    moment.lock().unwrap_or_else(|e| e.into_inner())
}

/// The chunk to run; any other command is done.
fn chunk_of(command: Command, aside: &mut Aside) -> Option<Chunk> {
    match command {
        Command::Forget(batch) => {
            aside.remove(&batch);
            None
        }
        Command::Run(chunk) => Some(chunk),
    }
}

/// Puts chunks in, and tells the partition when one is about to end.
fn queue<A>(
    place: &Place,
    inbox: &Receiver<Command>,
    mut aside: Aside,
    started: &SyncSender<StartedChunk>,
    last_end: &Mutex<Instant>,
    actor: &Addr<A>,
) where
    A: Actor<Context = actix::Context<A>> + Handler<Nearly>,
{
    let mut lead = Lead::default();
    // The chunk that was put in last, until the partition was told that it is about to end.
    let mut watched: Option<Watched> = None;
    loop {
        let command = match &watched {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(chunk) => {
                let at = chunk.expected_end(*lock(last_end), lead);
                inbox.recv_timeout(at.saturating_duration_since(Instant::now()))
            }
        };
        let command = match (command, &watched) {
            (Ok(command), _) => command,
            (Err(RecvTimeoutError::Timeout), Some(chunk)) => {
                // The chunk before it may have ended later than was thought.
                if chunk.expected_end(*lock(last_end), lead) <= Instant::now() {
                    let (number, told) = (chunk.number, Instant::now());
                    actor.do_send(Nearly { number, told });
                    watched = None;
                }
                continue;
            }
            (Err(_), _) => return,
        };
        let Some(chunk) = chunk_of(command, &mut aside) else {
            continue;
        };
        let (number, expected, led_by) = (chunk.number, chunk.expected, chunk.led_by);
        let chunk = start(place, chunk, &mut aside);
        if let Some(told) = led_by {
            lead.took(told.elapsed());
        }
        watched = chunk.outcome.is_ok().then_some(Watched {
            number,
            began: chunk.began,
            expected,
        });
        if started.send(chunk).is_err() {
            return;
        }
    }
}

/// A chunk that was put in.
struct Watched {
    number: u64,
    began: Instant,
    expected: Duration,
}

impl Watched {
    /// When the partition is told that it is about to end. `last_end`: of the chunks before it; the device takes it up then, if that is later
    /// than when it was put in.
    fn expected_end(&self, last_end: Instant, lead: Lead) -> Instant {
        let early = lead.0.min(self.expected / 4);
        self.began.max(last_end) + (self.expected - early)
    }
}

/// How long before a chunk's expected end the partition is told: the time from that to the next chunk's being put in, as it was lately.
#[derive(Debug, Default, Clone, Copy)]
struct Lead(Duration);

/// Longest lead: what is put in early can't be overtaken.
const MOST_LEAD: Duration = Duration::from_micros(500);
/// Weight of what was known before against a new measurement of 1.
const LEAD_MEMORY: u32 = 7;

impl Lead {
    fn took(&mut self, time: Duration) {
        self.0 = (self.0 * LEAD_MEMORY + time.min(MOST_LEAD)) / (LEAD_MEMORY + 1);
    }
}

/// A chunk that was started.
struct StartedChunk {
    batch: BatchId,
    range: StageRange,
    leaves: bool,
    began: Instant,
    outcome: Result<Started, EngineError>,
}

/// What a started chunk leaves, when its end comes.
struct Started {
    /// Of a batch's last chunk; what others leave is set aside.
    rows: Option<Held>,
    spoiled: Spoiled,
    end: Option<Box<dyn RunEnd>>,
}

/// Starts a chunk; where the engine does not queue, it is done then.
fn start(place: &Place, chunk: Chunk, aside: &mut Aside) -> StartedChunk {
    let (batch, range, last, leaves) = (chunk.batch, chunk.range, chunk.last, chunk.leaves);
    let began = Instant::now();
    // Whatever happens in an engine, the partition hears of it.
    let outcome = guarded(|| run(place, chunk, aside)).map(|rows| {
        let Rows { rows, spoiled, end } = rows;
        let rows = match last {
            true => Some(rows),
            false => {
                aside.insert(batch, rows);
                None
            }
        };
        Started { rows, spoiled, end }
    });
    StartedChunk {
        batch,
        range,
        leaves,
        began,
        outcome,
    }
}

/// Waits for a chunk's end, and tells the partition. `before`: when the chunk before it ended. Gives when this one did.
fn finish<A>(chunk: StartedChunk, before: Instant, last_end: &Mutex<Instant>, actor: &Addr<A>) -> Instant
where
    A: Actor<Context = actix::Context<A>> + Handler<Ran>,
{
    let StartedChunk {
        batch,
        range,
        leaves,
        began,
        outcome,
    } = chunk;
    let mut ended = None;
    let ended_rows = guarded(|| {
        let Started { rows, spoiled, end } = outcome?;
        end.map_or(Ok(()), |end| end.wait())?;
        let now = Instant::now();
        (ended, *lock(last_end)) = (Some(now), now);
        let Some(rows) = rows else {
            return Ok((None, spoiled));
        };
        if !leaves {
            return Ok((Some(rows), spoiled));
        }
        let brought = brought(rows, range)?;
        Ok((Some(brought.rows), [spoiled, brought.spoiled].concat()))
    });
    let elapsed = began.max(before).elapsed();
    let (result, spoiled) = match ended_rows {
        Ok((rows, spoiled)) => (Ok(rows), spoiled),
        Err(error) => (Err(error), vec![]),
    };
    actor.do_send(Ran {
        batch,
        result,
        spoiled,
        elapsed,
        told: Instant::now(),
    });
    ended.unwrap_or_else(Instant::now)
}

/// What a chunk made of a batch, or makes.
struct Rows {
    rows: Held,
    /// Rows that the engine does not compute, by their place, and why. Another row stands in their place.
    spoiled: Spoiled,
    /// `None`: they are there.
    end: Option<Box<dyn RunEnd>>,
}

/// Rows that could not be computed, by their place, and why.
type Spoiled = Vec<(usize, String)>;

fn run(place: &Place, chunk: Chunk, aside: &mut Aside) -> Result<Rows, EngineError> {
    let (engine, partition, range) = (&**place.fence.engine(), place.fence.id(), chunk.range);
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
    match (engine.submit(partition, chunk.model, range, input), spare) {
        (Ok(submitted), _) => Ok(Rows {
            rows: submitted.rows,
            spoiled: vec![],
            end: Some(submitted.end),
        }),
        (Err(_), Some(batch)) => one_by_one(engine, partition, (chunk.model, range), &batch),
        (Err(error), None) => Err(error),
    }
}

/// Rows in the host's memory, and those that could not be brought there.
struct Brought {
    rows: Held,
    spoiled: Spoiled,
}

/// A batch in the host's memory. What a device can't give of one row costs the others nothing.
fn brought(rows: Held, range: StageRange) -> Result<Brought, EngineError> {
    let whole = |rows| Brought {
        rows,
        spoiled: vec![],
    };
    let batch = match rows {
        Held::Host(_) => return Ok(whole(rows)),
        Held::Device(batch) => batch,
    };
    let error = match batch.to_host() {
        Ok(batch) => return Ok(whole(Held::Host(batch))),
        Err(error) => error,
    };
    let each = (0..batch.requests()).filter_map(|row| batch.row(row));
    let outcomes: Vec<Result<Batch, EngineError>> = each.map(|row| row.to_host()).collect();
    let Ok((rows, spoiled)) = with_stand_ins(outcomes, range) else {
        return Err(error);
    };
    let rows = Held::Host(Held::join_on_host(rows, range)?);
    Ok(Brought { rows, spoiled })
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
    Ok(Rows {
        rows,
        spoiled,
        end: None,
    })
}

/// Rows as they were sent. What is all but zero is zero from here on: no request slows down the batch that it is in.
fn taken_in(cut: &Cut, rows: &[Sent<'_>]) -> Result<Batch, TensorError> {
    let mut batch = Batch::from_requests(cut, rows)?;
    batch.flush_tiny();
    Ok(batch)
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
        return Ok(Held::Host(taken_in(cut, &rows)?));
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
                Ok(Held::Host(taken_in(cut, &[sent])?))
            }
        })
        .collect::<Result<_, EngineError>>()?;
    let fence = &place.fence;
    fence.engine().join(fence.id(), model, range, rows)
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
        let engine: Arc<dyn Engine> = Arc::new(RtenEngine::new());
        engine.load(&model).unwrap();
        let fence = Fence::new(&engine, &PartitionShape::cores(&usable_cores()[..1])).unwrap();
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
            number: 1,
            expected: Duration::ZERO,
            led_by: None,
        };
        let place = Place {
            fence: Arc::new(fence),
            device: 0,
        };
        run(&place, chunk, &mut Aside::new())
    }

    #[test]
    fn a_request_whose_numbers_can_t_be_computed_does_not_spoil_its_batch() {
        let Rows { rows, spoiled, .. } = tripled([[2e9, 0.0], [7.0, -2.0]]).unwrap();
        let second = rows.row(1).unwrap().into_host().unwrap();
        assert_eq!(second.only().unwrap().floats().unwrap(), [21.0, -6.0]);
        assert_eq!(spoiled.len(), 1);
        assert_eq!(spoiled[0].0, 0);
        assert!(spoiled[0].1.contains("32 bits"), "{}", spoiled[0].1);

        assert!(tripled([[1.0, 2.0], [3.0, 4.0]]).unwrap().spoiled.is_empty());
        assert!(tripled([[2e9, 0.0], [3e9, 0.0]]).is_err());
    }
}
