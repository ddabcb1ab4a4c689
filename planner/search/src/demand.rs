//! The analytic test: whether the work that is due fits into the time until it is due.
//!
//! For every deadline t of a cell's stages: what is due before t, up to a small probability, with the batch itself
//! and the longest chunk that may be running, must be done by t. After: Jeffay, Stanat and Martel, "On
//! non-preemptive scheduling of periodic and sporadic tasks", 1991; Baruah, "The limited-preemption uniprocessor
//! scheduling of sporadic task systems", 2005; Zhang and Burns, "Schedulability analysis for real-time systems
//! with EDF scheduling", 2009 (few points are enough).

use graft_plan::Order;

use crate::costs::Costs;
use crate::draft::{Draft, PartitionDraft};
use crate::index::{BatchAt, StageAt};
use crate::judge::{Judge, Verdict};
use crate::merge::Merged;

/// The analytic test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Analytic {
    /// Standard deviations above the mean up to which arriving work is provided for: 2.65 are exceeded in one of 250
    /// windows.
    pub deviations: f64,
    /// Capacity must exceed the rates by this fraction.
    pub headroom: f64,
    /// Whether requests are taken one by one, rather than in full batches.
    pub one_by_one: bool,
}

impl Analytic {
    pub fn new(headroom: f64) -> Self {
        Analytic {
            deviations: 2.65,
            headroom,
            one_by_one: false,
        }
    }
}

/// One stage as the test sees it, times in milliseconds.
struct Task {
    deadline: f64,
    /// Time of a full batch.
    time: f64,
    chunk: f64,
    /// Full batches per millisecond.
    rate: f64,
    /// Index of dispersion of the stage's requests.
    burstiness: f64,
}

/// For each stage of a draft the index of dispersion of its requests; `None`: all come as in a Poisson process.
fn burstiness(draft: &Draft, merged: &[Merged]) -> Option<Vec<f64>> {
    let bursty = |m: &Merged| m.burstiness() > 1.0 + 1e-9;
    if !draft.routes.iter().any(|(unit, _)| bursty(&merged[*unit])) {
        return None;
    }
    let mut sums = vec![(0.0, 0.0); draft.stages.len()];
    for (unit, stages) in &draft.routes {
        for &stage in stages {
            sums[stage.get()].0 += merged[*unit].variance_rps;
            sums[stage.get()].1 += merged[*unit].rate_rps;
        }
    }
    let index = |(variance, rate): &(f64, f64)| {
        if *rate > 0.0 {
            (variance / rate).max(1.0)
        } else {
            1.0
        }
    };
    Some(sums.iter().map(index).collect())
}

impl Judge for Analytic {
    fn judge(&self, draft: &Draft, merged: &[Merged], costs: &Costs<'_>) -> Verdict {
        let bursts = burstiness(draft, merged);
        let mut accepted = true;
        for partition in &draft.partitions {
            accepted &= self.keeps_deadlines(partition, draft, bursts.as_deref(), costs);
        }
        Verdict {
            accepted,
            late: if accepted { 0.0 } else { 1.0 },
        }
    }
}

impl Analytic {
    /// Whether a partition keeps its deadlines.
    fn keeps_deadlines(
        &self,
        partition: &PartitionDraft,
        draft: &Draft,
        bursts: Option<&[f64]>,
        costs: &Costs<'_>,
    ) -> bool {
        let instances = |s: StageAt| {
            draft
                .partitions
                .iter()
                .filter(|p| p.stages.contains(&s))
                .map(|p| p.copies)
                .sum::<usize>()
        };
        let task = |&s: &StageAt| {
            let stage = &draft.stages[s];
            let at = if self.one_by_one {
                BatchAt::ONE
            } else {
                stage.batch
            };
            let run = costs.run(
                stage.model,
                stage.range,
                at,
                partition.share,
                partition.quantum_ms,
            );
            let batch = f64::from(costs.requests(partition.share, at));
            let rate = stage.rate_rps * (1.0 + self.headroom) / instances(s) as f64 / batch / 1e3;
            Task {
                deadline: stage.deadline_ms,
                time: run.total_ms,
                chunk: run.chunk_ms,
                rate,
                burstiness: bursts.map_or(1.0, |all| all[s.get()]),
            }
        };
        let mut tasks: Vec<Task> = partition.stages.iter().map(task).collect();
        tasks.sort_by(|a, b| a.deadline.total_cmp(&b.deadline));
        let load: f64 = tasks.iter().map(|t| t.rate * t.time).sum();
        let in_time = match partition.order {
            Order::Edf => (0..tasks.len()).all(|i| self.due_is_done(&tasks, i, partition.quantum_ms > 0.0)),
            // A request waits for at most one whole turn, then runs.
            Order::Cycle => {
                let turn: f64 = tasks.iter().map(|t| t.time).sum();
                tasks.iter().all(|t| turn + t.time <= t.deadline)
            }
        };
        load <= 1.0 && in_time
    }
}

impl Analytic {
    fn due_is_done(&self, tasks: &[Task], at: usize, cut: bool) -> bool {
        let t = tasks[at].deadline;
        let (mut mean, mut variance, mut own) = (0.0, 0.0, 0.0f64);
        for task in tasks.iter().take_while(|k| k.deadline <= t) {
            let arrivals = (t - task.deadline) * task.rate;
            mean += arrivals * task.time;
            variance += arrivals * task.time * task.time * task.burstiness;
            own = own.max(task.time);
        }
        let later = tasks.iter().filter(|k| k.deadline > t);
        let blocking = later
            .map(|k| if cut { k.chunk } else { k.time })
            .fold(0.0, f64::max);
        self.quantile(mean, variance) + own + blocking <= t
    }

    /// Work, in milliseconds, that is exceeded only as often as `deviations` says: the quantile of a scaled Poisson
    /// variable, by Cornish and Fisher's expansion.
    fn quantile(&self, mean: f64, variance: f64) -> f64 {
        if mean <= 0.0 {
            return 0.0;
        }
        let scale = variance / mean;
        let z = self.deviations;
        mean + z * variance.sqrt() + scale * (z * z - 1.0) / 6.0
    }
}
