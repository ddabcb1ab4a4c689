//! What routers and workers report, and what the planner makes of it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use graft_certify::simulate;
use graft_plan::{Epoch, Nanos, Workload, ms_to_nanos};
use graft_planner_core::{Decision, Observation, Outcome, Predicted, Recent, share_alone};
use graft_wire::{MixReport, Outcomes, RunsTook, WorkerReport};

use crate::actor::{PlannerActor, Snapshot, View};
use crate::rollout::OnItsWay;
use crate::status::{Look, PartitionStatus, PointStatus, Served, Status, WorkerStatus};

/// A router's report.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
pub(crate) struct Report {
    pub number: u64,
    pub report: MixReport,
}

/// A worker's report.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
pub(crate) struct Worked {
    pub number: u64,
    pub report: WorkerReport,
}

/// Requests of the simulation that predicts a plan's attainment, about; and its length in seconds.
const PREDICT_REQUESTS: f64 = 50_000.0;
const PREDICT_S: (f64, f64) = (2.0, 60.0);
/// Its seed.
const SEED: u64 = 1;
/// Partitions and runs of a report that are looked at.
const MOST_REPORTED: usize = 4096;
/// Decisions that a status tells of.
const LATEST: usize = 8;

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}

impl Handler<Report> for PlannerActor {
    type Result = Result<(), String>;

    fn handle(&mut self, Report { number, report }: Report, context: &mut Self::Context) -> Self::Result {
        let name = self.router_of(number).ok_or("join first")?;
        let (now, now_unix) = (self.clock.now(), unix_ms());
        let seen: Vec<Observation> = report
            .entries
            .into_iter()
            .map(|e| Observation {
                model: e.model.to_string(),
                partition_point: e.partition_point,
                budget_ms: e.budget_ms,
                rate_rps: e.rate_rps,
                burstiness: e.burstiness,
            })
            .collect();
        self.mix.report(now, &name, &seen);
        for entry in report.outcomes {
            self.decisions.measured(entry.epoch, &entry.outcomes, now_unix);
            self.recent
                .add(now, entry.model, entry.partition_point, &entry.outcomes);
        }
        if report.urgent {
            self.consider(context);
        }
        Ok(())
    }
}

impl Handler<Worked> for PlannerActor {
    type Result = Result<(), String>;

    fn handle(&mut self, Worked { number, mut report }: Worked, _: &mut Self::Context) -> Self::Result {
        report.partitions.truncate(MOST_REPORTED);
        report.runs.truncate(MOST_REPORTED);
        let name = self.worker_of(number).ok_or("join first")?;
        // Of models and batches that it has measured.
        if let Some(member) = self.workers.get(&name) {
            let profile = &member.info.profile;
            let known = |r: &RunsTook| {
                profile.batches.contains(&r.batch) && profile.models.contains_key(&r.model.to_string())
            };
            report.runs.retain(known);
        }
        for (model, from, to) in self.corrections.report(&report.runs) {
            tracing::info!(%model, from, to, "runs take another multiple of what was measured at first");
            self.replanner.costs_moved(model.to_string(), from, to);
        }
        self.worked.insert(name, report);
        Ok(())
    }
}

impl PlannerActor {
    /// A plan is made: the decision is written down.
    pub(crate) fn decided(&mut self, epoch: Epoch, cause: String, predicted: Predicted, outcome: Outcome) {
        let cause = self.named(cause);
        let forgotten = self.decisions.add(Decision {
            epoch,
            at_unix_ms: unix_ms(),
            cause,
            outcome,
            predicted,
            measured: None,
        });
        if let Some(forgotten) = forgotten {
            self.forget_decision(forgotten);
        }
        self.keep_decision(epoch);
    }

    /// Models by their names, for people.
    fn named(&self, mut text: String) -> String {
        for model in self.workers.values().flat_map(|w| &w.info.models) {
            let id = model.id.to_string();
            text = text.replace(&id, &model.name);
            if let Some(short) = id.get(..12) {
                text = text.replace(short, &model.name);
            }
        }
        text
    }

    /// A decision was not carried out.
    pub(crate) fn decision_ended(&mut self, epoch: Epoch, outcome: Outcome) {
        self.decisions.ended(epoch, outcome);
        self.keep_decision(epoch);
    }

    /// All routers use a plan.
    pub(crate) fn decision_in_use(&mut self, way: &OnItsWay, context: &mut Context<Self>) {
        let epoch = way.update.epoch;
        if let Some(before) = self.decisions.in_use(epoch, unix_ms()) {
            self.keep_decision(before);
        }
        self.keep_decision(epoch);
        let (kept, profile) = (way.kept.clone(), way.profile.clone());
        let simulating = tokio::task::spawn_blocking(move || {
            let served = kept.workload.fragments.iter();
            let rate: f64 = served.map(|f| f.rate_rps).sum();
            let seconds = (PREDICT_REQUESTS / rate.max(1e-3)).clamp(PREDICT_S.0, PREDICT_S.1);
            let length: Nanos = ms_to_nanos(seconds * 1e3);
            let outcome = simulate(&kept.plan, &kept.workload, &profile, SEED, length);
            outcome.map(|o| o.total().attainment())
        });
        context.spawn(simulating.into_actor(self).map(move |done, this, _| match done {
            Ok(Ok(attainment)) => {
                this.decisions.simulated(epoch, attainment);
                this.keep_decision(epoch);
            }
            Ok(Err(error)) => tracing::error!(%error, "the plan in use can't be simulated"),
            Err(error) => tracing::error!(%error, "simulating the plan in use failed"),
        }));
    }

    /// Nothing is served any more.
    pub(crate) fn no_decision_in_use(&mut self) {
        if let Some(before) = self.decisions.none_in_use(unix_ms()) {
            self.keep_decision(before);
        }
    }

    fn keep_decision(&self, epoch: Epoch) {
        let kept = self.decisions.get(epoch).map(|d| self.store.keep_decision(d));
        if let Some(Err(error)) = kept {
            tracing::error!(%error, "a decision is not kept");
        }
    }

    fn forget_decision(&self, epoch: Epoch) {
        if let Err(error) = self.store.forget_decision(epoch) {
            tracing::error!(%error, "an old decision is kept");
        }
    }
}

impl Handler<View> for PlannerActor {
    type Result = Snapshot;

    fn handle(&mut self, _: View, _: &mut Self::Context) -> Snapshot {
        let (kept, profile) = match &self.current {
            Some((kept, profile, _)) => (Some(kept.clone()), Some(profile.clone())),
            None => (None, None),
        };
        let workload = kept.as_ref().map_or_else(
            || Workload {
                version: 1,
                headroom: self.headroom,
                fragments: vec![],
            },
            |k| k.workload.clone(),
        );
        Snapshot {
            share_alone: profile.as_ref().map_or(0, |p| share_alone(&workload, p)),
            plan: kept.map(|k| k.plan),
            workload,
            profile,
            rolled_out: self.rolled_out,
            models: self.model_names(),
            members: (self.workers.len(), self.routers.len()),
        }
    }
}

/// Another plan is asked for.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PlanNow;

impl Handler<PlanNow> for PlannerActor {
    type Result = ();

    fn handle(&mut self, _: PlanNow, context: &mut Self::Context) {
        self.replanner.asked();
        self.consider(context);
    }
}

/// The decisions, the oldest first; as many of the latest.
#[derive(Message)]
#[rtype(result = "Vec<Decision>")]
pub(crate) struct Decisions(pub usize);

impl Handler<Decisions> for PlannerActor {
    type Result = Vec<Decision>;

    fn handle(&mut self, Decisions(most): Decisions, _: &mut Self::Context) -> Vec<Decision> {
        let mut latest: Vec<Decision> = self.decisions.all().rev().take(most).cloned().collect();
        latest.reverse();
        latest
    }
}

impl Handler<Look> for PlannerActor {
    type Result = MessageResult<Look>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> MessageResult<Look> {
        let names = self.model_names();
        let name = |id: &str| names.get(id).cloned().unwrap_or_else(|| id.to_owned());
        let plan = self.current.as_ref().map(|(kept, _, _)| &kept.plan);
        let shares: BTreeMap<&str, u32> = plan
            .iter()
            .flat_map(|p| &p.partitions)
            .map(|p| (p.id.as_str(), p.share.0))
            .collect();
        let workers = self.workers.values().map(|worker| {
            let report = self.worked.get(&worker.info.name);
            let partitions = report.iter().flat_map(|r| &r.partitions);
            WorkerStatus {
                name: worker.info.name.clone(),
                device_kind: worker.info.device_kind.clone(),
                emulated: worker.info.emulated,
                share_total: worker.info.share_total,
                epoch: report.map_or(worker.info.epoch, |r| r.epoch),
                partitions: partitions
                    .map(|p| PartitionStatus {
                        share: shares.get(p.id.as_str()).copied().unwrap_or(0),
                        report: p.clone(),
                    })
                    .collect(),
            }
        });
        let workers = workers.collect();
        let mut points: BTreeMap<(String, u16), PointStatus> = BTreeMap::new();
        let mut at = |model: &str, point: u16, note: &dyn Fn(&mut PointStatus)| {
            note(
                points
                    .entry((model.to_owned(), point))
                    .or_insert_with(|| PointStatus {
                        model: name(model),
                        partition_point: point,
                        rate_rps: 0.0,
                        planned_rps: 0.0,
                        tightest_ms: f64::INFINITY,
                        burstiness: 1.0,
                        served: Served::default(),
                    }),
            );
        };
        for f in &self.mix.workload(self.headroom, &[]).fragments {
            at(&f.model, f.partition_point.0, &|point| {
                point.rate_rps += f.rate_rps;
                point.tightest_ms = point.tightest_ms.min(f.budget_ms);
                point.burstiness = point.burstiness.max(f.burstiness);
            });
        }
        let planned = self
            .current
            .iter()
            .flat_map(|(kept, ..)| &kept.workload.fragments);
        for f in planned {
            at(&f.model, f.partition_point.0, &|point| {
                point.planned_rps += f.rate_rps;
                point.tightest_ms = point.tightest_ms.min(f.budget_ms);
            });
        }
        let mut total = Outcomes::default();
        for ((model, point), outcomes) in self.recent.points(self.clock.now()) {
            at(&model.to_string(), point.0, &|point| {
                point.served = Served::of(&outcomes, Recent::SECONDS);
            });
            total += &outcomes;
        }
        for point in points.values_mut().filter(|p| p.tightest_ms.is_infinite()) {
            point.tightest_ms = 0.0;
        }
        MessageResult(Status {
            epoch: self
                .current
                .as_ref()
                .map_or(Epoch(0), |(.., update)| update.epoch),
            rolling_out: self.rollouts.on_its_way(),
            share: plan.map_or(0, |p| p.total_share),
            share_total: self.workers.values().map(|w| u64::from(w.info.share_total)).sum(),
            infeasible: plan.map_or(0, |p| p.infeasible.len()),
            headroom: self.headroom,
            workers,
            routers: self.routers.keys().cloned().collect(),
            points: points.into_values().collect(),
            total: Served::of(&total, Recent::SECONDS),
            corrections: self
                .corrections
                .list()
                .iter()
                .map(|c| (name(&c.model.to_string()), c.batch, c.times))
                .collect(),
            decisions: {
                let mut latest: Vec<Decision> = self.decisions.all().rev().take(LATEST).cloned().collect();
                latest.reverse();
                latest
            },
        })
    }
}
