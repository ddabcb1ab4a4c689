//! The planner: drives the desk of `graft-planner-steer`, and carries what it says to workers and routers, in virtual time.

mod members;

use std::collections::BTreeMap;

use graft_plan::{ControlTimes, Epoch, Hardware, Nanos, Plan, Profile, Profiles, ms_to_nanos};
use graft_planner_search::{Carried, Problem};
use graft_planner_steer::{
    Decision as Decided, Desk, DeskOptions, Do, Event as Heard, Kept, Made, Memory, Outcome, Undone,
};
use graft_wire::{DeviceInfo, WorkerInfo, WorkerModel};

use crate::context::Context;
use crate::events::Event;
use crate::names::{by_identity, identity};
use crate::report::Decision;
use crate::routers::Routers;

/// Makes plans. Whoever drives the simulation brings the algorithm.
pub trait Planning {
    /// A plan for the problem, from the running one.
    fn plan(&mut self, problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Carried;
}

/// The planner.
pub(crate) struct Control<'a> {
    planning: Option<&'a mut dyn Planning>,
    times: ControlTimes,
    options: DeskOptions,
    desk: Desk,
    /// With models by identity.
    hardware: Hardware,
    /// What each worker has to offer.
    infos: Vec<WorkerInfo>,
    /// What outlives the planner.
    kept: Option<Kept>,
    highest: Epoch,
    decided: Vec<Decided>,
    /// The one plan from start to end.
    fixed: Option<Plan>,
    away: bool,
    /// Tells what is for this planner from what was for one before it.
    life: u32,
    /// It is woken then.
    wakes: Nanos,
    /// Places of decisions in the report.
    places: BTreeMap<Epoch, usize>,
}

/// A worker with one device. `names`: the profiles with models by their names.
fn info(device: &graft_plan::Device, profile: &Profile, names: &Profiles) -> WorkerInfo {
    let models = names.models().map(|name| WorkerModel {
        id: identity(name),
        name: name.to_owned(),
    });
    WorkerInfo {
        name: device.id.clone(),
        address: format!("{}:1", device.id),
        devices: vec![DeviceInfo {
            id: device.id.clone(),
            kind: device.kind.clone(),
            share_total: device.share_total.0,
            memory_bytes: device.memory_bytes,
            price: device.price,
            profile: profile.clone(),
            emulated: false,
        }],
        models: models.collect(),
        epoch: Epoch(0),
    }
}

impl<'a> Control<'a> {
    pub fn new(
        planning: Option<&'a mut dyn Planning>,
        times: ControlTimes,
        headroom: f64,
        hardware: &Hardware,
    ) -> Self {
        let identified = Hardware {
            profiles: by_identity(&hardware.profiles),
            devices: hardware.devices.clone(),
        };
        let options = DeskOptions {
            headroom,
            standing: None,
            retire_after: ms_to_nanos(times.retire_after_ms),
            began_unix_ms: 0,
        };
        let fleet = identified.fleet();
        let infos = hardware.devices.devices.iter().filter_map(|d| {
            let profile = fleet.profile(&d.id)?;
            Some(info(d, profile, &hardware.profiles))
        });
        Control {
            planning,
            times,
            desk: Desk::new(Nanos::ZERO, options, Memory::default()),
            options,
            infos: infos.collect(),
            hardware: identified,
            kept: None,
            highest: Epoch(0),
            decided: vec![],
            fixed: None,
            away: false,
            life: 0,
            wakes: Nanos::MAX,
            places: BTreeMap::new(),
        }
    }

    /// Devices, and what workers measured there, with models by identity.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// This plan is in use from the start to the end.
    pub fn begin_with(&mut self, plan: Plan) {
        self.fixed = Some(plan);
    }

    /// There is one plan from the start to the end.
    pub fn fixed(&self) -> Option<&Plan> {
        self.fixed.as_ref()
    }

    /// The plan in use.
    pub fn current(&self) -> Option<&Plan> {
        let current = self.desk.current().map(|current| &current.plan);
        self.fixed.as_ref().or(current)
    }

    fn message(&self, routers: &Routers) -> Nanos {
        ms_to_nanos(self.times.message_ms) + routers.late
    }

    /// Something for the planner is on its way.
    fn send(&self, at: Nanos, heard: Heard, cx: &mut Context) {
        let life = self.life;
        cx.events.at(
            at,
            Event::ToPlanner {
                life,
                heard: Box::new(heard),
            },
        );
    }

    /// Something for the planner is there.
    pub fn heard(&mut self, now: Nanos, life: u32, heard: Heard, routers: &Routers, cx: &mut Context) {
        if !self.away && life == self.life && self.planning.is_some() {
            self.hear(now, heard, routers, cx);
        }
    }

    fn hear(&mut self, now: Nanos, heard: Heard, routers: &Routers, cx: &mut Context) {
        if let Err(unheard) = self.desk.heard(now, heard) {
            cx.ledger.report.notes.push(unheard.to_string());
        }
        self.drive(now, routers, cx);
    }

    /// The desk may want something done.
    pub fn drive(&mut self, now: Nanos, routers: &Routers, cx: &mut Context) {
        if self.away || self.planning.is_none() {
            return;
        }
        while let Some(what) = self.desk.poll(now) {
            self.carry_out(now, what, routers, cx);
        }
        let next = self.desk.next_at();
        if self.wakes <= now || next < self.wakes {
            self.wakes = next;
            cx.events.at(next, Event::Wakes);
        }
    }

    fn carry_out(&mut self, now: Nanos, what: Do, routers: &Routers, cx: &mut Context) {
        let there = now + self.message(routers);
        match what {
            Do::KeepEpoch(epoch) => {
                self.highest = epoch;
                self.hear(now, Heard::EpochKept(epoch, Ok(())), routers, cx);
            }
            Do::Plan {
                epoch,
                problem,
                running,
            } => {
                let planning = self.planning.as_mut();
                let carried = planning.map(|p| p.plan(&problem, epoch, running.as_ref()));
                let made = carried.map(|carried| Made {
                    carried,
                    planning_ms: self.times.planning_ms,
                });
                let made = made.ok_or(Undone::Absent);
                let done = now + ms_to_nanos(self.times.planning_ms);
                self.send(done, Heard::Made(epoch, made), cx);
            }
            Do::Prepare { worker, work, .. } => {
                let life = self.life;
                let worker = self.infos.iter().position(|i| i.name == worker).unwrap_or(0) as u32;
                cx.events.at(there, Event::Prepares { life, worker, work });
            }
            Do::Switch { router, update, .. } => {
                let (life, router) = (self.life, router.parse().unwrap_or(0));
                cx.events.at(there, Event::Switches { life, router, update });
            }
            Do::Abandon { epoch, .. } => cx.events.at(there, Event::Abandons(epoch)),
            Do::Retire { before, .. } => cx.events.at(there, Event::Retires(before)),
            Do::Keep(kept) => self.kept = Some(*kept),
            Do::KeepDecision(decision) => self.decided(now, *decision, cx),
            // Routers of a simulation do as they are told; nobody reads logs; the whole run says what a plan attains.
            Do::LetGo { .. } | Do::ForgetDecision(_) | Do::Predict { .. } | Do::Note(_) => {}
        }
    }

    fn decided(&mut self, now: Nanos, decided: Decided, cx: &mut Context) {
        let decisions = &mut cx.ledger.report.decisions;
        let place = *self.places.entry(decided.epoch).or_insert_with(|| {
            decisions.push(Decision::of(&decided));
            decisions.len() - 1
        });
        let told = &mut decisions[place];
        told.failed = match &decided.outcome {
            Outcome::Failed { why } => Some(why.clone()),
            Outcome::NotWorth => Some("it would save too little".to_owned()),
            Outcome::Overtaken => Some("a newer plan overtook it".to_owned()),
            Outcome::RollingOut | Outcome::InUse | Outcome::Replaced => None,
        };
        if decided.outcome == Outcome::InUse {
            told.switched_s.get_or_insert(now.as_secs());
        }
        let known = self.decided.iter_mut().find(|d| d.epoch == decided.epoch);
        match known {
            Some(known) => *known = decided,
            None => self.decided.push(decided),
        }
    }
}
