//! The scheduler of one partition.
//!
//! Earliest deadline first over queues and set-aside batches, limited preemption at cut points. After:
//! Bertogna and Baruah, "Limited preemption EDF scheduling of sporadic task systems", 2010.

use graft_model::StageRange;
use graft_plan::{Nanos, Order};
use rustc_hash::FxHashMap;

use crate::queue::{Place, Queue, Request, RequestId};
use crate::spec::{Admission, PartitionSpec, StageIndex};
use crate::stage_set::StageSet;

/// A batch's number, unique over a scheduler's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Why a batch has the requests that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Closed {
    /// Nothing else waited for the stage.
    NoneWaiting,
    /// It is as large as the stage's batches may be.
    Full,
    /// A larger one would have ended after its first request's key.
    Deadline,
}

/// A chunk to run now: layers of a stage for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The batch.
    pub batch: BatchId,
    /// The stage.
    pub stage: StageIndex,
    /// Its layers; a batch's first chunk begins where its stage does.
    pub range: StageRange,
    /// What the profile says it takes.
    pub expected: Nanos,
    /// This chunk is the batch's last.
    pub last: bool,
    /// Why the batch is not larger.
    pub closed: Closed,
    /// The requests, by key: the rows of the batch. They stay the same for all chunks.
    pub requests: Vec<RequestId>,
}

/// What became of a chunk that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The batch was set aside; it goes on at a later [`Scheduler::next`].
    SetAside,
    /// Every request of the batch was cancelled meanwhile; what it holds can be freed.
    Abandoned,
    /// The batch is done: its requests (rows without those that were cancelled).
    Done(Vec<RequestId>),
}

/// Why a request was not taken. The caller still has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It can't be answered in time any more.
    #[error("it can't be answered in time any more")]
    Late,
    /// The partition's queues are full.
    #[error("the partition's queues are full")]
    Overloaded,
    /// There is no such stage here.
    #[error("the partition has no such stage")]
    UnknownStage,
    /// A request of this number is here already.
    #[error("a request of this number is here already")]
    Duplicate,
}

/// What a cancellation met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited, and is gone.
    Waiting,
    /// It was in a batch: its row goes on, its answer will not be reported.
    InBatch,
    /// It is not here.
    Unknown,
}

#[derive(Debug)]
struct Batch {
    id: BatchId,
    stage: StageIndex,
    /// The first key: its urgency.
    key: Nanos,
    requests: Vec<RequestId>,
    closed: Closed,
    /// Requests that were not cancelled.
    live: usize,
    /// Next chunk.
    chunk: usize,
}

#[derive(Debug, Clone, Copy)]
enum Whereabouts {
    Waiting(StageIndex, Place),
    InBatch(BatchId),
}

/// The scheduler of one partition. See the crate's page for how it is driven.
#[derive(Debug)]
pub struct Scheduler {
    spec: PartitionSpec,
    queues: Vec<Queue>,
    /// Stages whose queues hold something: few of many, as a rule.
    waiting: StageSet,
    queued: usize,
    /// Requests of each stage that wait, run or are set aside.
    present: Vec<usize>,
    /// Oldest first.
    set_aside: Vec<Batch>,
    running: Option<Batch>,
    whereabouts: FxHashMap<RequestId, Whereabouts>,
    /// Stage that a cycle ran last.
    turn: Option<usize>,
    next_seq: u64,
    next_batch: u64,
}

impl Scheduler {
    /// A scheduler with nothing in it.
    pub fn new(spec: PartitionSpec) -> Self {
        Scheduler {
            queues: spec.stages.iter().map(|_| Queue::default()).collect(),
            waiting: StageSet::new(spec.stages.len()),
            present: vec![0; spec.stages.len()],
            spec,
            queued: 0,
            set_aside: vec![],
            running: None,
            whereabouts: FxHashMap::default(),
            turn: None,
            next_seq: 0,
            next_batch: 0,
        }
    }

    /// What it runs.
    pub fn spec(&self) -> &PartitionSpec {
        &self.spec
    }

    /// Requests that wait in its queues.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Requests of a stage that wait, run or are set aside.
    pub fn present(&self, stage: StageIndex) -> usize {
        self.present.get(stage.index()).copied().unwrap_or(0)
    }

    /// Nothing waits, runs or is set aside.
    pub fn is_idle(&self) -> bool {
        self.queued == 0 && self.set_aside.is_empty() && self.running.is_none()
    }

    /// A request enters a stage's queue. Refused: the scheduler is as before.
    pub fn submit(&mut self, now: Nanos, stage: StageIndex, request: Request) -> Result<(), Refusal> {
        let queue = self.queues.get_mut(stage.index()).ok_or(Refusal::UnknownStage)?;
        if self.whereabouts.contains_key(&request.id) {
            return Err(Refusal::Duplicate);
        }
        if self.spec.admission == Admission::On {
            if request.latest_start < now {
                return Err(Refusal::Late);
            }
            if self.queued >= self.spec.limits.queued_requests {
                return Err(Refusal::Overloaded);
            }
        }
        let place = Place {
            key: request.key,
            seq: self.next_seq,
        };
        self.next_seq += 1;
        queue.push(place, request);
        self.waiting.insert(stage.index());
        self.queued += 1;
        self.present[stage.index()] += 1;
        self.whereabouts
            .insert(request.id, Whereabouts::Waiting(stage, place));
        Ok(())
    }

    /// A request is not wanted any more.
    pub fn cancel(&mut self, id: RequestId) -> Cancelled {
        match self.whereabouts.remove(&id) {
            None => Cancelled::Unknown,
            Some(Whereabouts::Waiting(stage, place)) => {
                let queue = &mut self.queues[stage.index()];
                if queue.remove(place).is_some() {
                    self.queued -= 1;
                    self.present[stage.index()] -= 1;
                    self.waiting.keep(stage.index(), queue.len() > 0);
                }
                Cancelled::Waiting
            }
            Some(Whereabouts::InBatch(batch)) => {
                let batches = self.set_aside.iter_mut().chain(self.running.as_mut());
                for held in batches.filter(|b| b.id == batch) {
                    held.live -= 1;
                    self.present[held.stage.index()] -= 1;
                }
                Cancelled::InBatch
            }
        }
    }

    /// Batches that lost all their requests while set aside; what they hold can be freed.
    pub fn take_abandoned(&mut self) -> Vec<BatchId> {
        let mut abandoned = vec![];
        self.set_aside.retain(|b| {
            if b.live == 0 {
                abandoned.push(b.id);
            }
            b.live > 0
        });
        abandoned
    }

    /// What to run now. Call it when the partition is free and all events of this instant are in.
    ///
    /// Requests at the front of a queue that can't be answered in time any more are added to `dropped`.
    /// `None`: nothing to run, or a chunk is running.
    pub fn next(&mut self, now: Nanos, dropped: &mut Vec<RequestId>) -> Option<Run> {
        if self.running.is_some() {
            return None;
        }
        self.drop_late(now, dropped);
        let batch = match self.spec.order {
            Order::Edf => self.choose_earliest(now),
            Order::Cycle => self.choose_in_turn(),
        }?;
        let spec = &self.spec.stages[batch.stage.index()];
        let chunks = spec.chunks(batch.requests.len());
        let Some(chunk) = chunks.get(batch.chunk) else {
            // A stage that was described without chunks can't be run: nobody waits for it.
            dropped.extend(self.release(batch));
            return self.next(now, dropped);
        };
        let run = Run {
            batch: batch.id,
            stage: batch.stage,
            range: chunk.range,
            expected: chunk.time,
            last: batch.chunk + 1 == chunks.len(),
            closed: batch.closed,
            requests: batch.requests.clone(),
        };
        self.running = Some(batch);
        Some(run)
    }

    /// The chunk that [`next`](Self::next) gave has been run. `None`: none was running.
    pub fn finished(&mut self) -> Option<Finished> {
        let mut batch = self.running.take()?;
        batch.chunk += 1;
        let spec = &self.spec.stages[batch.stage.index()];
        let done = batch.chunk >= spec.chunks(batch.requests.len()).len();
        Some(if batch.live == 0 {
            Finished::Abandoned
        } else if done {
            Finished::Done(self.release(batch))
        } else {
            self.set_aside.push(batch);
            Finished::SetAside
        })
    }

    /// The chunk that [`next`](Self::next) gave could not be run: the batch is given up. Its requests.
    pub fn failed(&mut self) -> Vec<RequestId> {
        match self.running.take() {
            None => vec![],
            Some(batch) => self.release(batch),
        }
    }

    /// Everything that waits or is set aside, given up: its requests, and the batches whose tensors can be freed. A running
    /// chunk is not touched.
    pub fn give_up(&mut self) -> (Vec<RequestId>, Vec<BatchId>) {
        let (mut gone, mut batches) = (vec![], vec![]);
        for (stage, queue) in self.queues.iter_mut().enumerate() {
            while let Some(request) = queue.pop() {
                self.queued -= 1;
                self.present[stage] -= 1;
                self.whereabouts.remove(&request.id);
                gone.push(request.id);
            }
            self.waiting.keep(stage, false);
        }
        for batch in std::mem::take(&mut self.set_aside) {
            batches.push(batch.id);
            gone.extend(self.release(batch));
        }
        (gone, batches)
    }

    /// Forgets a batch; its requests without those that were cancelled.
    fn release(&mut self, batch: Batch) -> Vec<RequestId> {
        let mut requests = batch.requests;
        let whereabouts = &mut self.whereabouts;
        requests.retain(|id| match whereabouts.get(id) {
            Some(Whereabouts::InBatch(at)) if *at == batch.id => {
                whereabouts.remove(id);
                true
            }
            _ => false,
        });
        self.present[batch.stage.index()] -= requests.len();
        requests
    }

    fn drop_late(&mut self, now: Nanos, dropped: &mut Vec<RequestId>) {
        for word in 0..self.waiting.words() {
            for stage in self.waiting.in_word(word) {
                let queue = &mut self.queues[stage];
                while queue.front().is_some_and(|r| r.latest_start < now) {
                    let Some(request) = queue.pop() else { break };
                    self.queued -= 1;
                    self.present[stage] -= 1;
                    self.whereabouts.remove(&request.id);
                    dropped.push(request.id);
                }
                self.waiting.keep(stage, queue.len() > 0);
            }
        }
    }

    fn choose_earliest(&mut self, now: Nanos) -> Option<Batch> {
        // Ties: a set-aside batch before a queue, the older batch, the partition's order of stages.
        let aside = self.set_aside.iter().enumerate().min_by_key(|(i, b)| (b.key, *i));
        let aside = aside.map(|(i, b)| (b.key, i));
        let may_start = self.set_aside.len() < self.spec.limits.set_aside_batches.max(1);
        let fronts = (0..self.waiting.words()).flat_map(|w| self.waiting.in_word(w));
        let queue = fronts
            .filter_map(|stage| self.queues[stage].front().map(|r| (r.key, stage)))
            .min()
            .filter(|_| may_start || self.spec.admission == Admission::Off);
        match (aside, queue) {
            (Some((key, i)), front) if front.is_none_or(|(other, _)| key <= other) => {
                Some(self.set_aside.remove(i))
            }
            (_, Some((key, stage))) => {
                let spec = &self.spec.stages[stage];
                let largest = self.queues[stage].len().min(spec.batch as usize);
                let mut size = largest;
                while size > 1 && now + spec.time(size) > key {
                    size = spec.smaller(size);
                }
                Some(self.form(stage, size, largest))
            }
            _ => None,
        }
    }

    fn choose_in_turn(&mut self) -> Option<Batch> {
        let count = self.queues.len();
        let start = self.turn.map_or(0, |t| t + 1);
        let stage = (0..count)
            .map(|i| (start + i) % count)
            .find(|&stage| self.queues[stage].len() > 0)?;
        self.turn = Some(stage);
        let size = self.queues[stage]
            .len()
            .min(self.spec.stages[stage].batch as usize);
        Some(self.form(stage, size, size))
    }

    /// A batch of `size` requests, of `largest` that could have been in it.
    fn form(&mut self, stage: usize, size: usize, largest: usize) -> Batch {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let mut key = Nanos::MAX;
        let mut requests = Vec::with_capacity(size);
        while requests.len() < size {
            let Some(request) = self.queues[stage].pop() else {
                break;
            };
            self.queued -= 1;
            key = key.min(request.key);
            self.whereabouts.insert(request.id, Whereabouts::InBatch(id));
            requests.push(request.id);
        }
        self.waiting.keep(stage, self.queues[stage].len() > 0);
        Batch {
            id,
            stage: StageIndex(stage as u16),
            key,
            closed: match () {
                () if size < largest => Closed::Deadline,
                () if self.queues[stage].len() > 0 => Closed::Full,
                () => Closed::NoneWaiting,
            },
            live: requests.len(),
            requests,
            chunk: 0,
        }
    }
}
