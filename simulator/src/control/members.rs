//! What members do: they report, join and leave, prepare and switch as they are told; and the planner that dies.

use graft_plan::{Nanos, ms_to_nanos};
use graft_planner_steer::{Desk, Event as Heard, Member, Memory, PREPARE_WITHIN, Undone};
use graft_router_core::REPORT_EVERY;
use graft_wire::{Join, MixReport, RoutesUpdate, WorkerPlan};

use super::Control;
use crate::context::Context;
use crate::events::Event;
use crate::routers::Routers;
use crate::workers::Workers;

impl Control<'_> {
    /// A router reports.
    pub fn reports(
        &mut self,
        now: Nanos,
        router: u32,
        urgent: bool,
        routers: &mut Routers,
        cx: &mut Context,
    ) {
        let (window_s, entries) = routers.observed(now, router);
        let report = MixReport {
            window_s,
            entries,
            urgent,
            outcomes: vec![],
        };
        let router_name = router.to_string();
        let heard = Heard::Mix {
            router: router_name,
            report,
        };
        self.send(now + self.message(routers), heard, cx);
        if !urgent {
            cx.events
                .at(now + REPORT_EVERY, Event::Reports { router, urgent });
        }
    }

    /// A worker reports.
    pub fn works(
        &mut self,
        now: Nanos,
        worker: u32,
        workers: &mut Workers,
        routers: &Routers,
        cx: &mut Context,
    ) {
        if let Some(report) = workers.report(worker) {
            let worker = self.infos[worker as usize].name.clone();
            self.send(now + self.message(routers), Heard::Work { worker, report }, cx);
        }
        cx.events
            .at(now + graft_worker_core::REPORT_EVERY, Event::Works { worker });
    }

    // What workers and routers do when they are told.

    pub fn prepares(
        &mut self,
        now: Nanos,
        (life, worker): (u32, u32),
        work: &WorkerPlan,
        workers: &mut Workers,
        routers: &Routers,
        cx: &mut Context,
    ) {
        let prepared = workers.prepare(worker, work, &self.hardware.profiles);
        // Who is gone does not answer.
        let (time, outcome) = match prepared {
            Ok(true) => (ms_to_nanos(self.times.prepare_ms) + self.message(routers), Ok(())),
            Ok(false) => (PREPARE_WITHIN, Err(Undone::Unanswered("no reply".to_owned()))),
            Err(error) => (self.message(routers), Err(Undone::Refused(error.to_string()))),
        };
        let name = self.infos[worker as usize].name.clone();
        if life == self.life {
            self.send(now + time, Heard::Prepared(name, work.plan.epoch, outcome), cx);
        }
    }

    pub fn switches(
        &mut self,
        now: Nanos,
        (life, router): (u32, u32),
        update: RoutesUpdate,
        workers: &mut Workers,
        routers: &mut Routers,
        cx: &mut Context,
    ) {
        let epoch = update.epoch;
        let done = routers.switch(now, router, update, workers, cx);
        let outcome = if done {
            Ok(())
        } else {
            Err(Undone::Refused("it uses a later plan".to_owned()))
        };
        if life == self.life {
            let heard = Heard::Switched(router.to_string(), epoch, outcome);
            self.send(now + self.message(routers), heard, cx);
        }
    }

    // Members and faults.

    /// A worker is gone, or back: the planner notices.
    pub fn member(&mut self, now: Nanos, worker: u32, there: bool, routers: &Routers, cx: &mut Context) {
        let info = self.infos[worker as usize].clone();
        let heard = if there {
            Heard::Joined(Join::Worker(Box::new(info)))
        } else {
            Heard::Left(Member::Worker(info.name))
        };
        let life = self.life;
        self.heard(now, life, heard, routers, cx);
    }

    /// The planner dies: what it was doing is not gone on with. Routers and workers keep what they have.
    pub fn dies(&mut self) {
        self.away = true;
        self.life += 1;
    }

    /// It starts anew, from what it kept, and all that is there joins.
    pub fn starts(&mut self, now: Nanos, workers: &Workers, routers: &Routers, cx: &mut Context) {
        self.away = false;
        self.wakes = Nanos::MAX;
        let memory = Memory {
            kept: self.kept.clone(),
            highest: self.highest,
            decisions: self.decided.clone(),
        };
        self.desk = Desk::new(now, self.options, memory);
        self.all_join(now, workers, routers, cx);
    }

    /// Workers and routers join.
    pub fn all_join(&mut self, now: Nanos, workers: &Workers, routers: &Routers, cx: &mut Context) {
        for worker in workers.alive() {
            self.member(now, worker, true, routers, cx);
        }
        for router in routers.all() {
            let joined = Heard::Joined(Join::Router {
                name: router.to_string(),
                epoch: routers.epoch_of(router),
            });
            let life = self.life;
            self.heard(now, life, joined, routers, cx);
        }
    }
}
