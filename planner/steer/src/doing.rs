//! What a desk hears, and what it wants done.

use std::collections::BTreeSet;
use std::fmt;

use graft_plan::{Epoch, Hardware, Nanos, Plan, Workload};
use graft_planner_search::{Carried, Problem};
use graft_wire::{Join, MixReport, RoutesUpdate, WorkerPlan, WorkerReport};

use crate::decisions::Decision;

/// Time for a worker to prepare a plan: engines may have to load what it runs.
pub const PREPARE_WITHIN: Nanos = Nanos::from_millis(30_000);
/// Time for a router to switch, and for a worker to take note.
pub const SWITCH_WITHIN: Nanos = Nanos::from_millis(5_000);

/// A worker or a router, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A worker.
    Worker(String),
    /// A router.
    Router(String),
}

/// A plan that was made for a [`Do::Plan`].
#[derive(Debug, Clone)]
pub struct Made {
    /// The plan, and the load that it carries.
    pub carried: Carried,
    /// What making it took, in milliseconds.
    pub planning_ms: f64,
}

/// Why something that a desk wanted done was not done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Undone {
    /// Who should do it was not there.
    #[error("it is not there")]
    Absent,
    /// Who should do it left meanwhile.
    #[error("it left")]
    Left,
    /// There was no answer; why, as the transport says.
    #[error("{0}")]
    Unanswered(String),
    /// The member refuses; in its words.
    #[error("{0}")]
    Refused(String),
    /// The plan is not known any more.
    #[error("the plan is forgotten")]
    Forgotten,
    /// It can't be kept over a restart; why, as the store says.
    #[error("{0}")]
    NotKept(String),
    /// Its number, or a later one, was given out before.
    #[error("number {0} was given out before, as the store says")]
    GivenOut(Epoch),
    /// The simulation can't run the plan; why, as it says.
    #[error("{0}")]
    NotSimulated(String),
    /// The work ended before it was done: a mistake in this program.
    #[error("{0}")]
    Broken(String),
}

/// Why no plan is in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Nobody could run one.
    #[error("no worker has joined")]
    NoWorker,
    /// Workers are left out of plans.
    #[error("no worker can run a plan: their logs say why")]
    NoneWilling,
    /// A plan's number has to be kept before the plan is made.
    #[error("no plan without a number that is kept: {0}")]
    NoNumber(Undone),
    /// None was made yet, or rolled out.
    #[error("no plan is in use yet")]
    NoPlan,
}

/// Something that a desk hears of.
#[derive(Debug)]
pub enum Event {
    /// Somebody joins; one of the same name that was there before is gone.
    Joined(Join),
    /// A member is gone.
    Left(Member),
    /// A router reports.
    Mix {
        /// Its name.
        router: String,
        /// What it observed.
        report: MixReport,
    },
    /// A worker reports.
    Work {
        /// Its name.
        worker: String,
        /// What it did.
        report: WorkerReport,
    },
    /// Somebody asks for another plan.
    Asked,
    /// What became of a [`Do::KeepEpoch`].
    EpochKept(Epoch, Result<(), Undone>),
    /// What became of a [`Do::Plan`].
    Made(Epoch, Result<Made, Undone>),
    /// What became of a [`Do::Prepare`].
    Prepared(String, Epoch, Result<(), Undone>),
    /// What became of a [`Do::Switch`].
    Switched(String, Epoch, Result<(), Undone>),
    /// What became of a [`Do::Predict`].
    Predicted(Epoch, Result<f64, Undone>),
}

/// The last plan and what it was made for: what a desk goes on from after a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The plan.
    pub plan: Plan,
    /// What it was made for.
    pub workload: Workload,
    /// Ids of the fragments that are served whether or not anybody asks.
    pub standing: BTreeSet<String>,
}

/// Something that a desk wants done.
#[derive(Debug)]
pub enum Do {
    /// Keep the number, so that no later life of the planner gives it out again; then [`Event::EpochKept`].
    KeepEpoch(Epoch),
    /// Make a plan of this number, from the running one; then [`Event::Made`].
    Plan {
        /// The plan's number.
        epoch: Epoch,
        /// What is to be planned.
        problem: Box<Problem>,
        /// The running plan.
        running: Option<Plan>,
    },
    /// Tell a worker to prepare; then [`Event::Prepared`].
    Prepare {
        /// Its name.
        worker: String,
        /// The plan.
        epoch: Epoch,
        /// What to tell it.
        work: Box<WorkerPlan>,
    },
    /// Tell a router to switch; then [`Event::Switched`].
    Switch {
        /// Its name.
        router: String,
        /// The plan.
        epoch: Epoch,
        /// What to tell it.
        update: Box<RoutesUpdate>,
    },
    /// Tell a worker to free a plan that no router will use. No reply is needed: the next plan makes good what does not
    /// come through.
    Abandon {
        /// Its name.
        worker: String,
        /// The plan.
        epoch: Epoch,
    },
    /// Tell a worker to end all plans before this one. No reply is needed.
    Retire {
        /// Its name.
        worker: String,
        /// The oldest plan that stays.
        before: Epoch,
    },
    /// A router did not do as it was told: end its connection, so that it joins again.
    LetGo {
        /// Its name.
        router: String,
    },
    /// Keep the plan in use over a restart.
    Keep(Box<Kept>),
    /// Keep a decision, in the place of what was kept of it before.
    KeepDecision(Box<Decision>),
    /// Forget a decision.
    ForgetDecision(Epoch),
    /// Simulate the plan in use, with [`predict`](crate::predict), for the log of decisions; then [`Event::Predicted`]. May
    /// be left.
    Predict {
        /// The plan's number.
        epoch: Epoch,
        /// The plan.
        plan: Box<Plan>,
        /// What it was made for.
        workload: Box<Workload>,
        /// What it runs on, and costs there.
        hardware: Box<Hardware>,
    },
    /// Tell people.
    Note(Note),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// Devices of one kind were measured with different batches: plans are made for the largest group of equal ones alone.
    OtherDevices,
    /// A plan was made, and rolls out.
    RollingOut {
        /// The plan.
        epoch: Epoch,
        /// Why it was made.
        cause: String,
        /// Fragments that it was made for.
        fragments: usize,
        /// Its share.
        share: u64,
        /// Fragments that it does not serve.
        infeasible: usize,
        /// Part of the rates that it carries; below 1 there is more load than devices.
        part: f64,
    },
    /// A plan that was made would save too little.
    NotWorth {
        /// The plan.
        epoch: Epoch,
        /// Why it was made.
        cause: String,
        /// Its share.
        share: u64,
        /// The running plan's.
        running: u64,
    },
    /// All routers use a plan.
    InUse {
        /// The plan.
        epoch: Epoch,
        /// Its share.
        share: u64,
    },
    /// A plan is not used, and why.
    Failed {
        /// The plan.
        epoch: Epoch,
        /// For people.
        why: String,
    },
    /// A newer plan overtook one.
    Overtaken(Epoch),
    /// A router did not switch.
    NotSwitched {
        /// Its name.
        router: String,
        /// Why not.
        why: Undone,
    },
    /// A model's runs take another multiple of what was measured at first: from, to.
    CostsMoved {
        /// For people.
        model: String,
        /// As counted with until now.
        from: f64,
        /// From now on.
        to: f64,
    },
    /// The engine of a worker's partition does not answer: plans are made without the worker.
    Silent {
        /// The worker.
        worker: String,
        /// The partition, as the plan calls it.
        partition: String,
    },
    /// A prediction failed.
    NotPredicted(Undone),
    /// What was kept before the restart can't be gone on from.
    NotRemembered(String),
}

impl Note {
    /// Somebody should look at it.
    pub fn is_warning(&self) -> bool {
        match self {
            Note::RollingOut { part, .. } => *part < 1.0,
            Note::NotWorth { .. } | Note::InUse { .. } | Note::Overtaken(_) | Note::CostsMoved { .. } => {
                false
            }
            Note::OtherDevices
            | Note::Failed { .. }
            | Note::NotSwitched { .. }
            | Note::Silent { .. }
            | Note::NotPredicted(_)
            | Note::NotRemembered(_) => true,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::OtherDevices => f.write_str(
                "devices of one kind have different `batches`: planning for the largest group of equal ones alone",
            ),
            Note::RollingOut {
                epoch,
                cause,
                fragments,
                share,
                infeasible,
                part,
            } => {
                write!(
                    f,
                    "rolling out plan {epoch}, since {cause}: {fragments} fragments, share {share}, {infeasible} infeasible"
                )?;
                if *part < 1.0 {
                    write!(
                        f,
                        "; there is more load than devices, and it carries {part:.2} of the rates"
                    )?;
                }
                Ok(())
            }
            Note::NotWorth {
                epoch,
                cause,
                share,
                running,
            } => write!(
                f,
                "plan {epoch}, made since {cause}, would save too little: share {share} against {running}"
            ),
            Note::InUse { epoch, share } => write!(f, "all routers use plan {epoch}, share {share}"),
            Note::Failed { epoch, why } => write!(f, "plan {epoch} is not used: {why}"),
            Note::Overtaken(epoch) => write!(f, "a newer plan overtakes plan {epoch}"),
            Note::NotSwitched { router, why } => write!(f, "router {router} did not switch: {why}"),
            Note::CostsMoved { model, from, to } => write!(
                f,
                "runs of {model} take {to:.2} times what was measured at first, not {from:.2} times"
            ),
            Note::Silent { worker, partition } => write!(
                f,
                "partition {partition} of worker {worker} does not answer; planning without the worker"
            ),
            Note::NotPredicted(why) => write!(f, "the plan in use can't be simulated: {why}"),
            Note::NotRemembered(why) => write!(f, "what was kept before the restart is left: {why}"),
        }
    }
}
