//! The keeper of a worker's plans: prepares, retires, abandons them.
//!
//! What survives a restart: nothing. The planner sends plans again when the worker joins.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
use arc_swap::ArcSwap;
use graft_plan::Epoch;
use graft_telemetry::metrics as names;
use graft_wire::WorkerPlan;

use crate::epochs::Epochs;
use crate::plan_refused::PlanRefused;
use crate::workshop::{Workshop, make_ready};

/// Time for an engine to make ready what a plan runs; the planner waits a little longer.
const PREPARING: Duration = Duration::from_secs(20);
/// Plans that may be prepared at a time; at the bound the oldest is drained to make room.
const MAX_PLANS: usize = 8;

/// Make ready for a plan.
#[derive(Message)]
#[rtype(result = "Result<(), PlanRefused>")]
pub(crate) struct Prepare(pub WorkerPlan);

/// Drain and drop all plans before this epoch.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Retire {
    pub before: Epoch,
}

/// Drop a plan that no router will use.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Abandon(pub Epoch);

/// Owns the prepared plans.
pub(crate) struct PlanKeeper {
    workshop: Workshop,
    epochs: Arc<ArcSwap<Epochs>>,
    drain: Duration,
    /// The latest plan that is to be prepared, or that comes after all that were retired.
    wanted: Arc<AtomicU64>,
    /// The latest plan that was heard of at all.
    seen: Arc<AtomicU64>,
    /// The latest plans that were abandoned, maybe before they were prepared.
    given_up: VecDeque<Epoch>,
}

impl Actor for PlanKeeper {
    type Context = Context<Self>;
}

impl Handler<Prepare> for PlanKeeper {
    /// Partitions and other messages go on while the engine makes ready what the plan runs.
    type Result = ResponseActFuture<Self, Result<(), PlanRefused>>;

    fn handle(&mut self, Prepare(work): Prepare, _: &mut Self::Context) -> Self::Result {
        let in_order = self.in_order(&work);
        let list = in_order.and_then(|()| self.workshop.what_it_runs(&work));
        let epoch = work.plan.epoch.0;
        self.seen.fetch_max(epoch, Ordering::Relaxed);
        if list.is_ok() {
            self.wanted.fetch_max(epoch, Ordering::Relaxed);
        }
        let wanted = Arc::clone(&self.wanted);
        let making = async move {
            let list = list?;
            let overtaken = move || wanted.load(Ordering::Relaxed) > epoch;
            let making = tokio::task::spawn_blocking(move || make_ready(&list, PREPARING, overtaken));
            making.await.map_err(PlanRefused::from)
        };
        let made = making.into_actor(self);
        Box::pin(made.map(move |made, keeper, _| {
            made?;
            // Meanwhile another plan may have been prepared, or this one given up.
            keeper.in_order(&work)?;
            keeper.use_plan(&work)
        }))
    }
}

impl PlanKeeper {
    /// With no plan. `drain`: time that what is under way in an old plan has.
    pub fn new(
        workshop: Workshop,
        epochs: Arc<ArcSwap<Epochs>>,
        drain: Duration,
        seen: Arc<AtomicU64>,
    ) -> Self {
        PlanKeeper {
            workshop,
            epochs,
            drain,
            wanted: Arc::default(),
            seen,
            given_up: VecDeque::new(),
        }
    }

    /// Whether a plan comes after all that are prepared.
    fn in_order(&self, work: &WorkerPlan) -> Result<(), PlanRefused> {
        let epoch = work.plan.epoch;
        if epoch.0 < self.wanted.load(Ordering::Relaxed) || self.given_up.contains(&epoch) {
            return Err(PlanRefused::NotWanted(epoch));
        }
        let epochs = self.epochs.load();
        match epochs.last_key_value() {
            Some((&prepared, _)) if epoch < prepared => Err(PlanRefused::Old { epoch, prepared }),
            _ => Ok(()),
        }
    }

    /// From now on requests of the plan are taken.
    fn use_plan(&mut self, work: &WorkerPlan) -> Result<(), PlanRefused> {
        let plan = &work.plan;
        let mut epochs = (**self.epochs.load()).clone();
        let prepared = self.workshop.prepare(work)?;
        tracing::info!(epoch = %plan.epoch, partitions = prepared.partitions.len(), "prepared a plan");
        if let Some(same) = epochs.insert(plan.epoch, Arc::new(prepared)) {
            same.drain(self.drain);
        }
        while epochs.len() > MAX_PLANS {
            if let Some((_, oldest)) = epochs.pop_first() {
                oldest.drain(self.drain);
            }
        }
        metrics::gauge!(names::EPOCH).set(plan.epoch.0 as f64);
        self.epochs.store(Arc::new(epochs));
        Ok(())
    }
}

impl Handler<Retire> for PlanKeeper {
    type Result = ();

    fn handle(&mut self, Retire { before }: Retire, _: &mut Self::Context) {
        self.wanted.fetch_max(before.0, Ordering::Relaxed);
        self.seen.fetch_max(before.0, Ordering::Relaxed);
        let mut old = (**self.epochs.load()).clone();
        let kept = old.split_off(&before);
        self.epochs.store(Arc::new(kept));
        for (epoch, plan) in old {
            tracing::info!(%epoch, "draining a plan");
            plan.drain(self.drain);
        }
    }
}

impl Handler<Abandon> for PlanKeeper {
    type Result = ();

    fn handle(&mut self, Abandon(epoch): Abandon, _: &mut Self::Context) {
        self.seen.fetch_max(epoch.0, Ordering::Relaxed);
        self.given_up.push_back(epoch);
        if self.given_up.len() > MAX_PLANS {
            self.given_up.pop_front();
        }
        let mut epochs = (**self.epochs.load()).clone();
        if let Some(plan) = epochs.remove(&epoch) {
            tracing::info!(%epoch, "a plan was abandoned");
            self.epochs.store(Arc::new(epochs));
            plan.drain(self.drain);
        }
    }
}
