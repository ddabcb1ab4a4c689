//! What a partition runs: its stages, their chunks at each batch, and its bounds.

use graft_model::StageRange;
use graft_plan::{Chunk, CostError, Nanos, Order, Partition, Plan, Profile, Share, nanos_to_ms};

/// A stage's place in the partition's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageIndex(pub u16);

impl StageIndex {
    /// As an index into the partition's stages.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One stage of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSpec {
    /// Its layers.
    pub range: StageRange,
    /// Largest batch.
    pub batch: u32,
    /// Ascending batches and the chunks of a run of that many requests; a run of m takes the first that holds m.
    pub runs: Vec<(u32, Vec<Chunk>)>,
}

impl StageSpec {
    /// The chunks of a run of `requests`. A run larger than every listed batch takes the largest's.
    pub(crate) fn chunks(&self, requests: usize) -> &[Chunk] {
        self.run(requests).map(|(_, c)| c.as_slice()).unwrap_or_default()
    }

    fn run(&self, requests: usize) -> Option<&(u32, Vec<Chunk>)> {
        let listed = self.runs.iter().find(|(batch, _)| *batch as usize >= requests);
        listed.or(self.runs.last())
    }

    /// The ranges of all chunks of runs up to the stage's batch, in order, each once.
    pub fn ranges(&self) -> Vec<StageRange> {
        let most = self.listed(self.batch as usize);
        let mut found: Vec<StageRange> = vec![];
        for (_, chunks) in self.runs.iter().filter(|(batch, _)| *batch <= most) {
            found.extend(chunks.iter().map(|chunk| chunk.range));
        }
        found.sort_by_key(|r| (r.from(), r.to()));
        found.dedup();
        found
    }

    /// The listed batch whose costs a run of `requests` has.
    pub fn listed(&self, requests: usize) -> u32 {
        self.run(requests).map_or(1, |(batch, _)| *batch)
    }

    pub(crate) fn time(&self, requests: usize) -> Nanos {
        self.chunks(requests)
            .iter()
            .fold(Nanos::ZERO, |sum, c| sum + c.time)
    }

    /// The next listed batch below `requests`; 1 at last.
    pub(crate) fn smaller(&self, requests: usize) -> usize {
        let below = self
            .runs
            .iter()
            .rev()
            .map(|(b, _)| *b as usize)
            .find(|&b| b < requests);
        below.unwrap_or(1)
    }
}

/// Whether requests are refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Late and surplus requests are refused.
    On,
    /// Everything is taken: queues are unbounded, as in the reference simulation.
    Off,
}

/// Bounds of what a partition holds. At each of them a request is refused, or a batch is not cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that wait in the partition's queues; one more is refused as overload.
    pub queued_requests: usize,
    /// Batches that are set aside, each with its intermediate tensor; at the bound no new batch is formed
    /// before one of them is done.
    pub set_aside_batches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queued_requests: 4096,
            set_aside_batches: 8,
        }
    }
}

/// What a partition runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSpec {
    /// Its stages, in the plan's order.
    pub stages: Vec<StageSpec>,
    /// How it chooses.
    pub order: Order,
    /// Its bounds.
    pub limits: Limits,
    /// Whether it refuses at the door.
    pub admission: Admission,
}

/// A partition that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It names a stage that the plan has not.
    #[error("partition {partition} names stage {stage}, which the plan has not")]
    UnknownStage {
        /// The partition.
        partition: String,
        /// The stage.
        stage: String,
    },
    /// It has more stages than can be counted.
    #[error("partition {0} has more than 65535 stages")]
    TooManyStages(String),
    /// The profile does not know what it costs.
    #[error("partition {partition}: {cause}")]
    Cost {
        /// The partition.
        partition: String,
        /// Why.
        cause: CostError,
    },
}

/// A stage that is to be run, on the costs of a profile.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The profile's name of its model.
    pub model: &'a str,
    /// Its layers.
    pub range: StageRange,
    /// Largest batch.
    pub batch: u32,
}

/// What a partition has of its device, and how it goes about its work.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Its share.
    pub share: Share,
    /// How it chooses.
    pub order: Order,
    /// Longest chunk in milliseconds; 0: runs are not cut. A cycle does not cut them in any case.
    pub quantum_ms: f64,
    /// Whether it refuses at the door.
    pub admission: Admission,
}

impl StageSpec {
    /// On a share, cut into chunks of at most a quantum. Batches beyond the stage's largest are not listed.
    fn new(work: &Work<'_>, manner: &Manner, profile: &Profile) -> Result<Self, CostError> {
        let quantum = match manner.order {
            Order::Edf => manner.quantum_ms,
            Order::Cycle => 0.0,
        };
        let mut runs = vec![];
        for &batch in &profile.batches {
            let chunks = profile.chunks(work.model, work.range, batch, manner.share, quantum)?;
            runs.push((batch, chunks));
            if batch >= work.batch {
                break;
            }
        }
        Ok(StageSpec {
            range: work.range,
            batch: work.batch,
            runs,
        })
    }
}

impl PartitionSpec {
    /// The description of a partition that runs these stages, on the costs of a profile.
    pub fn new<'w>(
        manner: Manner,
        stages: impl IntoIterator<Item = Work<'w>>,
        profile: &Profile,
    ) -> Result<Self, CostError> {
        let stages = stages.into_iter();
        let stages = stages.map(|work| StageSpec::new(&work, &manner, profile));
        Ok(PartitionSpec {
            stages: stages.collect::<Result<_, _>>()?,
            order: manner.order,
            limits: Limits::default(),
            admission: manner.admission,
        })
    }

    /// The description of a plan's partition, on the costs of its device's kind.
    pub fn of_plan(
        plan: &Plan,
        partition: &Partition,
        profile: &Profile,
        admission: Admission,
    ) -> Result<Self, SpecError> {
        if partition.stages.len() > usize::from(u16::MAX) {
            return Err(SpecError::TooManyStages(partition.id.clone()));
        }
        let by_id = plan.stages_by_id();
        let mut stages = vec![];
        for id in &partition.stages {
            let unknown = || SpecError::UnknownStage {
                partition: partition.id.clone(),
                stage: id.clone(),
            };
            let stage = by_id.get(id.as_str()).ok_or_else(unknown)?;
            stages.push(Work {
                model: &stage.model,
                range: stage.range().ok_or_else(unknown)?,
                batch: stage.batch,
            });
        }
        let manner = Manner {
            share: partition.share,
            order: partition.order,
            quantum_ms: partition.quantum_ms,
            admission,
        };
        PartitionSpec::new(manner, stages, profile).map_err(|cause| SpecError::Cost {
            partition: partition.id.clone(),
            cause,
        })
    }

    /// Time of one request alone at a stage, with its chunks, in milliseconds. For reports.
    pub fn alone_ms(&self, stage: StageIndex) -> f64 {
        self.stages
            .get(stage.index())
            .map_or(0.0, |s| nanos_to_ms(s.time(1)))
    }
}
