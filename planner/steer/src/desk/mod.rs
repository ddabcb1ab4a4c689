//! The desk of a planner: what it knows, what it hears, what it wants done.

mod planning;
mod rolling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Hardware, Nanos, Plan, Workload};
use graft_wire::{Correction, Join, MixReport, Outcomes, RoutesUpdate, WorkerReport};

use crate::correction::Corrections;
use crate::decisions::{Decision, DecisionLog, Outcome};
use crate::doing::{Do, Event, Kept, Member, NotReady, Note, Undone};
use crate::members::{Members, Unheard, WorkerMember};
use crate::mix::ObservedMix;
use crate::recent::Recent;
use crate::replan::{LOOK_EVERY, Replanner, SETTLE};
use crate::rollout::{Notice, Rollouts};
use crate::wanted::Wanted;
use planning::Making;
use rolling::Rolling;

/// Time after a restart for which what was observed before counts.
const REMEMBERED: Nanos = Nanos::from_millis(10_000);

/// What is planned for at the first cut point of each model, whether or not anybody asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// The time that the server has, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
}

/// How a desk goes about its work.
#[derive(Debug, Clone, Copy)]
pub struct DeskOptions {
    /// Part by which capacity exceeds the rates.
    pub headroom: f64,
    /// What is planned for in any case.
    pub standing: Option<Standing>,
    /// Time that the plan before goes on after a switch.
    pub retire_after: Nanos,
    /// When the desk's time began: milliseconds since 1970.
    pub began_unix_ms: u64,
}

/// What a desk goes on from after a restart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// The plan that was in use last.
    pub kept: Option<Kept>,
    /// The highest number that was given out.
    pub highest: Epoch,
    /// Decisions, in the order of their numbers.
    pub decisions: Vec<Decision>,
}

/// The plan that all routers use.
#[derive(Debug, Clone)]
pub struct InUse {
    /// The plan. After the last worker left, that before.
    pub plan: Plan,
    /// What it was made for.
    pub workload: Workload,
    /// What it runs on, and costs there.
    pub hardware: Hardware,
    /// What routers were told; its number is later than the plan's if no worker is left.
    pub update: RoutesUpdate,
}

/// Something that is due at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// Look at the mix, now and then again.
    Look,
    /// Look whether another plan is to be made: members that joined have settled.
    Settled,
    /// What was observed before a restart counts no longer.
    ForgetRestart,
    /// A worker that could not prepare, or was silent, is asked again.
    AskAgain(String),
    /// No worker was there for a while.
    NobodyLeft,
    /// Plans before the one in use end. A later plan's time covers those before it.
    RetireDue,
}

/// Time without any worker after which routers are told that nothing is served: longer than members take to join again.
const ALONE: Nanos = Nanos::from_millis(6_000);
/// Plans that were made since the latest that is known, at most: as many as a planner makes in thirty thousand years.
const MOST_AHEAD: u64 = 1 << 40;
/// Entries of a router's report, and outcomes, at most: routers count no more classes.
const MOST_ENTRIES: usize = 4096;
/// Rate of a class of one router at most, in requests a second.
const MOST_RATE_RPS: f64 = 1e7;

/// What is wrong with a router's report.
fn believable(report: &MixReport) -> Result<(), String> {
    for (what, count) in [
        ("entries", report.entries.len()),
        ("outcomes", report.outcomes.len()),
    ] {
        if count > MOST_ENTRIES {
            return Err(format!("it has {count} {what}, more than {MOST_ENTRIES}"));
        }
    }
    match report.entries.iter().find(|e| e.rate_rps > MOST_RATE_RPS) {
        Some(entry) => Err(format!("{} requests a second of one class", entry.rate_rps)),
        None => Ok(()),
    }
}

/// The desk of a planner: members, the observed mix, decisions, roll-outs.
///
/// Tell it with [`heard`](Self::heard) what happens. After that, and at [`next_at`](Self::next_at), ask
/// [`poll`](Self::poll) what to do until there is nothing more. Nothing else has an order; what is done may take any time,
/// and its outcome is heard of when it is there.
#[derive(Debug)]
pub struct Desk {
    options: DeskOptions,
    members: Members,
    mix: ObservedMix,
    replanner: Replanner,
    corrections: Corrections,
    decisions: DecisionLog,
    recent: Recent,
    current: Option<InUse>,
    /// The highest number that was given out, or that a member has reported.
    highest: Epoch,
    /// Workers of the plan that was kept, which may join again until a time: no plan is made without them before.
    awaited: (BTreeSet<String>, Nanos),
    /// How many routers there are, as each was told last.
    told_number: BTreeMap<String, usize>,
    /// The plan that is being made.
    making: Option<Making>,
    /// The number by which routers will be told that no worker is left.
    nobody_left: Option<Epoch>,
    rollouts: Rollouts,
    /// What rolls out, by number: the plan that is on its way, and those that it overtook.
    rolling: BTreeMap<Epoch, Rolling>,
    rolled_out: u64,
    /// Why no plan could be made.
    trouble: Option<NotReady>,
    /// When each is due; one of each at a time, so that they are no more than workers and a few.
    alarms: BTreeMap<Alarm, Nanos>,
    wanted_done: VecDeque<Do>,
}

impl Desk {
    /// A desk with nobody there, that goes on from what was kept.
    pub fn new(now: Nanos, options: DeskOptions, memory: Memory) -> Self {
        let mut desk = Desk {
            options,
            members: Members::default(),
            mix: ObservedMix::default(),
            replanner: Replanner::default(),
            corrections: Corrections::default(),
            decisions: DecisionLog::go_on_from(memory.decisions),
            recent: Recent::default(),
            current: None,
            highest: memory.highest,
            awaited: (BTreeSet::new(), Nanos::ZERO),
            told_number: BTreeMap::new(),
            making: None,
            nobody_left: None,
            rollouts: Rollouts::default(),
            rolling: BTreeMap::new(),
            rolled_out: 0,
            trouble: None,
            alarms: BTreeMap::new(),
            wanted_done: VecDeque::new(),
        };
        desk.alarm_at(now + LOOK_EVERY, Alarm::Look);
        if let Some(kept) = memory.kept {
            desk.remember(now, &kept);
        }
        desk
    }

    fn remember(&mut self, now: Nanos, kept: &Kept) {
        let devices = kept.plan.partitions.iter().map(|p| p.device.as_str());
        let workers = devices.map(|device| device.split('/').next().unwrap_or(device).to_owned());
        self.awaited = (workers.collect(), now + ALONE);
        self.alarm_at(now + ALONE, Alarm::Settled);
        let fragments = kept.workload.fragments.iter();
        let observed = fragments.filter(|f| !kept.standing.contains(&f.id));
        match observed.map(Wanted::of_fragment).collect::<Option<Vec<_>>>() {
            Some(before) => {
                self.mix.remember(now, &before);
                self.alarm_at(now + REMEMBERED, Alarm::ForgetRestart);
            }
            None => {
                let why = "a model's name there is not its identity".to_owned();
                self.note(Note::NotRemembered(why));
            }
        }
    }

    /// Something happened. Refused: nothing has changed.
    pub fn heard(&mut self, now: Nanos, event: Event) -> Result<(), Unheard> {
        match event {
            Event::Joined(join) => self.joined(now, join)?,
            Event::Left(member) => self.left(now, &member),
            Event::Mix { router, report } => self.observed(now, &router, report)?,
            Event::Work { worker, report } => self.worked(now, &worker, report)?,
            Event::Asked => {
                self.replanner.asked();
                self.consider(now);
            }
            Event::EpochKept(epoch, outcome) => self.epoch_kept(now, epoch, outcome),
            Event::Made(epoch, outcome) => self.made(now, epoch, outcome),
            Event::Prepared(worker, epoch, outcome) => {
                let notice = match outcome {
                    Ok(()) => Notice::Prepared(worker, epoch),
                    Err(why) => Notice::Refused(worker, epoch, why),
                };
                self.notice(now, notice);
            }
            Event::Switched(router, epoch, outcome) => {
                let notice = match outcome {
                    Ok(()) => Notice::Switched(router, epoch),
                    Err(why) => {
                        self.note(Note::NotSwitched {
                            router: router.clone(),
                            why,
                        });
                        Notice::NotSwitched(router, epoch)
                    }
                };
                self.notice(now, notice);
            }
            Event::Predicted(epoch, Ok(attainment)) => {
                self.decisions.simulated(epoch, attainment);
                self.keep_decision(epoch);
            }
            Event::Predicted(_, Err(why)) => self.note(Note::NotPredicted(why)),
        }
        Ok(())
    }

    /// What to do now. `None`: nothing, until something is heard or [`next_at`](Self::next_at) has come.
    pub fn poll(&mut self, now: Nanos) -> Option<Do> {
        while self.wanted_done.is_empty() {
            let Some(alarm) = self
                .earliest()
                .filter(|(at, _)| *at <= now)
                .map(|(_, a)| a.clone())
            else {
                break;
            };
            self.alarms.remove(&alarm);
            self.due(now, alarm);
        }
        self.wanted_done.pop_front()
    }

    /// When to poll next, if nothing is heard before.
    pub fn next_at(&self) -> Nanos {
        match self.earliest() {
            _ if !self.wanted_done.is_empty() => Nanos::ZERO,
            Some((at, _)) => at,
            None => Nanos::MAX,
        }
    }

    fn earliest(&self) -> Option<(Nanos, &Alarm)> {
        self.alarms.iter().map(|(alarm, at)| (*at, alarm)).min()
    }

    /// Whether workers of the plan that was kept may still join: routers have it, and one for a few of them would be worse.
    fn awaits(&self, now: Nanos) -> bool {
        let (workers, until) = &self.awaited;
        now < *until
            && workers
                .iter()
                .any(|worker| !self.members.workers.contains_key(worker))
    }

    fn due(&mut self, now: Nanos, alarm: Alarm) {
        match alarm {
            Alarm::Look => {
                self.alarm_at(now + LOOK_EVERY, Alarm::Look);
                self.consider(now);
            }
            Alarm::Settled => self.consider(now),
            Alarm::AskAgain(worker) => {
                // One that was left out again meanwhile has a later alarm.
                if self.members.is_willing(&worker, now) {
                    self.replanner.members_changed();
                    self.consider(now);
                }
            }
            Alarm::NobodyLeft => {
                if self.members.workers.is_empty() && self.current.is_some() {
                    // Routers learn that nothing is served, so that clients are told at once.
                    let epoch = self.next_epoch();
                    self.nobody_left = Some(epoch);
                    self.wants(Do::KeepEpoch(epoch));
                }
            }
            Alarm::ForgetRestart => self.mix.forget_restart(),
            Alarm::RetireDue => {
                if let Some(epoch) = self.rollouts.current() {
                    self.notice(now, Notice::RetireDue(epoch));
                }
            }
        }
    }

    fn alarm_at(&mut self, at: Nanos, alarm: Alarm) {
        self.alarms.insert(alarm, at);
    }

    fn wants(&mut self, what: Do) {
        self.wanted_done.push_back(what);
    }

    fn note(&mut self, note: Note) {
        self.wants(Do::Note(note));
    }

    /// A number above all that were given out or seen.
    fn next_epoch(&mut self) -> Epoch {
        self.highest = Epoch(self.highest.0.saturating_add(1));
        self.highest
    }

    /// A number that a member reports, if a planner can have given it out.
    fn plausible(&self, member: &str, epoch: Epoch) -> Result<(), Unheard> {
        if epoch.0 <= self.highest.0.saturating_add(MOST_AHEAD) {
            return Ok(());
        }
        Err(Unheard::Epoch {
            member: member.to_owned(),
            epoch,
            highest: self.highest,
        })
    }

    fn joined(&mut self, now: Nanos, join: Join) -> Result<(), Unheard> {
        match &join {
            Join::Worker(info) => self.plausible(&info.name, info.epoch)?,
            Join::Router { name, epoch } => self.plausible(name, *epoch)?,
        }
        match join {
            Join::Worker(info) => {
                let (name, epoch) = (info.name.clone(), info.epoch);
                if self.members.add_worker(*info)? {
                    // A restart that was quicker than the loss was noticed; or two workers of one name.
                    self.notice(now, Notice::WorkerLeft(name.clone()));
                }
                self.highest = self.highest.max(epoch);
                self.notice(now, Notice::WorkerJoined(name));
                self.replanner.members_changed();
                self.alarm_at(now + SETTLE, Alarm::Settled);
                if self.awaits(now + SETTLE) {
                    self.alarm_at(self.awaited.1, Alarm::Settled);
                }
            }
            Join::Router { name, epoch } => {
                self.members.add_router(&name)?;
                self.highest = self.highest.max(epoch);
                let current = self.rollouts.on_its_way().or(self.rollouts.current());
                if current.is_some_and(|current| current < epoch) {
                    // It has routes of a plan that this planner does not know: it needs later ones.
                    self.replanner.members_changed();
                    self.alarm_at(now + SETTLE, Alarm::Settled);
                }
                self.notice(now, Notice::RouterJoined(name.clone(), epoch));
                self.tell_number_of_routers(now, &name);
            }
        }
        Ok(())
    }

    /// Where there is more load than devices, each router lets through its part: the others learn that there is one more, or less.
    pub(super) fn tell_number_of_routers(&mut self, now: Nanos, but: &str) {
        let limited = self.current.as_ref().filter(|current| current.update.limited);
        let Some(epoch) = limited.map(|current| current.update.epoch) else {
            return;
        };
        if self.rollouts.on_its_way().is_some() {
            // They are told when that is over.
            return;
        }
        let number = self.members.routers.len();
        let others = self.members.routers.iter().filter(|r| *r != but);
        let others = others.filter(|r| self.told_number.get(*r) != Some(&number));
        let others: Vec<String> = others.cloned().collect();
        for router in others {
            self.tell_again(now, router, epoch);
        }
    }

    fn left(&mut self, now: Nanos, member: &Member) {
        match member {
            Member::Router(name) => {
                if self.members.routers.remove(name) {
                    self.mix.router_left(name);
                    self.told_number.remove(name);
                    self.notice(now, Notice::RouterLeft(name.clone()));
                    self.tell_number_of_routers(now, name);
                }
            }
            Member::Worker(name) => {
                if self.members.workers.remove(name).is_none() {
                    return;
                }
                self.replanner.members_changed();
                self.notice(now, Notice::WorkerLeft(name.clone()));
                if self.members.workers.is_empty() && self.current.is_some() {
                    // They may be well, and it is this planner that was away: then they join again.
                    self.alarm_at(now + ALONE, Alarm::NobodyLeft);
                }
                self.consider(now);
            }
        }
    }

    fn observed(&mut self, now: Nanos, router: &str, report: MixReport) -> Result<(), Unheard> {
        if !self.members.routers.contains(router) {
            return Err(Unheard::NotJoined(format!("router {router}")));
        }
        believable(&report).map_err(|why| Unheard::Report {
            router: router.to_owned(),
            why,
        })?;
        self.mix.report(now, router, &report.entries);
        let unix_ms = self.unix_ms(now);
        for entry in report.outcomes {
            self.decisions.measured(entry.epoch, &entry.outcomes, unix_ms);
            self.recent
                .add(now, entry.model, entry.partition_point, &entry.outcomes);
        }
        if report.urgent {
            self.consider(now);
        }
        Ok(())
    }

    fn worked(&mut self, now: Nanos, worker: &str, report: WorkerReport) -> Result<(), Unheard> {
        let report = self.members.reported(worker, report)?;
        let silent = report.partitions.iter().find(|p| p.silent).map(|p| p.id.clone());
        for (model, from, to) in self.corrections.report(&report.runs) {
            self.replanner.costs_moved(model, from, to);
            let model = self.members.name_of(model);
            self.note(Note::CostsMoved { model, from, to });
        }
        if let Some(partition) = silent {
            let was_there = self.members.is_willing(worker, now);
            if was_there {
                self.note(Note::Silent {
                    worker: worker.to_owned(),
                    partition,
                });
            }
            self.leave_out(now, worker, was_there);
        }
        Ok(())
    }

    fn epoch_kept(&mut self, now: Nanos, epoch: Epoch, outcome: Result<(), Undone>) {
        if let Err(Undone::GivenOut(highest)) = outcome {
            self.highest = self.highest.max(highest);
        }
        if self.nobody_left == Some(epoch) {
            self.nobody_left = None;
            match outcome {
                Ok(()) => self.serve_nothing(now, epoch),
                Err(why) => {
                    self.alarm_at(now + LOOK_EVERY, Alarm::NobodyLeft);
                    self.note(Note::Failed {
                        epoch,
                        why: why.to_string(),
                    });
                }
            }
        } else {
            self.begin_making(epoch, outcome);
        }
    }

    // The log of decisions.

    fn unix_ms(&self, now: Nanos) -> u64 {
        self.options.began_unix_ms + now.0 / 1_000_000
    }

    fn decided(&mut self, decision: Decision) {
        let epoch = decision.epoch;
        if let Some(forgotten) = self.decisions.add(decision) {
            self.wants(Do::ForgetDecision(forgotten));
        }
        self.keep_decision(epoch);
    }

    /// A decision was not carried out.
    fn decision_ended(&mut self, epoch: Epoch, outcome: Outcome) {
        self.decisions.ended(epoch, outcome);
        self.keep_decision(epoch);
    }

    fn keep_decision(&mut self, epoch: Epoch) {
        if let Some(decision) = self.decisions.get(epoch).cloned() {
            self.wants(Do::KeepDecision(Box::new(decision)));
        }
    }

    fn count_rolled_out(&mut self) {
        self.rolled_out += 1;
    }

    // What there is to see.

    /// Whether a plan is in use. `Err`: why not.
    pub fn readiness(&self, now: Nanos) -> Result<(), NotReady> {
        if self.members.workers.is_empty() {
            return Err(NotReady::NoWorker);
        }
        if !self.members.any_willing(now) {
            return Err(NotReady::NoneWilling);
        }
        if let Some(trouble) = &self.trouble {
            return Err(trouble.clone());
        }
        let serves = |current: &InUse| current.update.epoch == current.plan.epoch;
        match self.current.as_ref().is_some_and(serves) {
            true => Ok(()),
            false => Err(NotReady::NoPlan),
        }
    }

    /// The plan that all routers use.
    pub fn current(&self) -> Option<&InUse> {
        self.current.as_ref()
    }

    /// The plan that rolls out.
    pub fn on_its_way(&self) -> Option<Epoch> {
        self.rollouts.on_its_way()
    }

    /// Plans that were rolled out since the desk was made.
    pub fn rolled_out(&self) -> u64 {
        self.rolled_out
    }

    /// Workers that have joined, by name.
    pub fn workers(&self) -> impl ExactSizeIterator<Item = &WorkerMember> {
        self.members.workers.values()
    }

    /// Names of the routers that have joined.
    pub fn routers(&self) -> impl ExactSizeIterator<Item = &str> {
        self.members.routers.iter().map(String::as_str)
    }

    /// What people call a model.
    pub fn name_of(&self, model: ModelId) -> String {
        self.members.name_of(model)
    }

    /// What is asked for now, but for what is served in any case.
    pub fn observed_mix(&self) -> Vec<Wanted> {
        self.mix.wanted(&[])
    }

    /// What became of the requests of the last seconds, by model and partition point.
    pub fn recent(&self, now: Nanos) -> BTreeMap<(ModelId, CutPoint), Outcomes> {
        self.recent.points(now)
    }

    /// What runs take, as multiples of what was measured at first.
    pub fn corrections(&self) -> Vec<Correction> {
        self.corrections.list()
    }

    /// The decisions, the oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.decisions.all()
    }

    /// How it goes about its work.
    pub fn options(&self) -> &DeskOptions {
        &self.options
    }
}
