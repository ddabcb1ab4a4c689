//! Rolling plans out: workers prepare, routers switch, the plan before is retired. Make before break.
//!
//! [`Rollouts`] is told what happens and says what to do. It keeps:
//!
//! - no router is told to use a plan before every worker of the plan is ready for it;
//! - no plan is retired while a router that is known uses it;
//! - a newer plan overtakes one that is on its ongoing: what workers made ready for that is freed, unless a router may use it;
//! - a worker that can't prepare ends the roll-out, and all that others made ready is freed.

use std::collections::{BTreeMap, BTreeSet};

use graft_plan::Epoch;

use crate::doing::Undone;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notice {
    /// A plan is to be rolled out, to these workers. Its number is above those of all plans before.
    Begins(Epoch, BTreeSet<String>),
    /// A worker is ready for a plan.
    Prepared(String, Epoch),
    /// A worker can't prepare, and why.
    Refused(String, Epoch, Undone),
    /// A router uses a plan.
    Switched(String, Epoch),
    /// A router did not switch.
    NotSwitched(String, Epoch),
    /// A worker is there.
    WorkerJoined(String),
    /// A worker is gone.
    WorkerLeft(String),
    /// A router is there, and uses a plan.
    RouterJoined(String, Epoch),
    /// A router is gone.
    RouterLeft(String),
    /// The time that a plan before this one goes on is over.
    RetireDue(Epoch),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directive {
    /// Tell a worker to prepare; then [`Notice::Prepared`] or [`Notice::Refused`].
    Prepare(String, Epoch),
    /// Tell a router to switch; then [`Notice::Switched`] or [`Notice::NotSwitched`].
    Switch(String, Epoch),
    /// Tell a worker to free what it prepared: no router will use it.
    Abandon(String, Epoch),
    /// After a while, [`Notice::RetireDue`].
    RetireLater(Epoch),
    /// Tell a worker to end all plans before this one.
    Retire(String, Epoch),
    /// All routers use the plan.
    Done(Epoch),
    /// The plan is not rolled out, since this worker can't prepare.
    Failed(Epoch, String, Undone),
    /// The plan is not rolled out any more: a newer one is.
    Overtaken(Epoch),
    /// A router did not do as it was told: it has to join again.
    LetGo(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// These workers are not ready yet.
    Preparing(BTreeSet<String>),
    /// These routers have not switched yet.
    Switching(BTreeSet<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ongoing {
    epoch: Epoch,
    workers: BTreeSet<String>,
    phase: Phase,
}

/// The roll-outs of a planner. See the module's page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rollouts {
    /// The plan that all routers switched to last.
    current: Option<Epoch>,
    ongoing: Option<Ongoing>,
    workers: BTreeSet<String>,
    /// Routers, and the plan that each is known to use.
    routers: BTreeMap<String, Epoch>,
    /// Plans that routers were told to use, from the current one on.
    told: BTreeSet<Epoch>,
    /// Routers that were let go and have not joined again: the plan that each uses, and for how many more rounds it is kept for them.
    let_go: BTreeMap<String, (Epoch, u8)>,
}

/// Times at which plans before the one in use are kept once more for routers that were let go.
const ROUNDS: u8 = 4;

impl Rollouts {
    /// The plan that all routers switched to last.
    pub fn current(&self) -> Option<Epoch> {
        self.current
    }

    /// The latest plan that a router is known to use.
    pub fn latest_of_routers(&self) -> Option<Epoch> {
        self.routers.values().copied().max()
    }

    /// The plan that is on its way.
    pub fn on_its_way(&self) -> Option<Epoch> {
        self.ongoing.as_ref().map(|w| w.epoch)
    }

    /// Something happened: what to do is added to `directives`.
    pub fn notice(&mut self, notice: Notice, directives: &mut Vec<Directive>) {
        match notice {
            Notice::Begins(epoch, workers) => self.begin(epoch, workers, directives),
            Notice::Prepared(worker, epoch) => self.prepared(worker, epoch, directives),
            Notice::Refused(worker, epoch, why) => self.refused(worker, epoch, why, directives),
            Notice::Switched(router, epoch) => self.switched(&router, epoch, directives),
            Notice::NotSwitched(router, epoch) => self.not_switched(router, epoch, directives),
            Notice::WorkerJoined(worker) => {
                self.workers.insert(worker);
            }
            Notice::WorkerLeft(worker) => self.worker_left(&worker, directives),
            Notice::RouterJoined(router, epoch) => self.router_joined(router, epoch, directives),
            Notice::RouterLeft(router) => {
                self.routers.remove(&router);
                self.without_router(&router, directives);
            }
            Notice::RetireDue(epoch) => self.retire_due(epoch, directives),
        }
    }

    fn begin(&mut self, epoch: Epoch, workers: BTreeSet<String>, directives: &mut Vec<Directive>) {
        if let Some(before) = self.ongoing.take() {
            if let Phase::Preparing(_) = before.phase {
                self.abandon(&before, None, directives);
            }
            // Of one that routers switch to already, nothing is freed: they may use it until they use this one.
            directives.push(Directive::Overtaken(before.epoch));
        }
        if let Some(missing) = workers.iter().find(|w| !self.workers.contains(*w)) {
            directives.push(Directive::Failed(epoch, missing.clone(), Undone::Absent));
            return;
        }
        let prepare = |w: &String| Directive::Prepare(w.clone(), epoch);
        directives.extend(workers.iter().map(prepare));
        self.ongoing = Some(Ongoing {
            epoch,
            phase: Phase::Preparing(workers.clone()),
            workers,
        });
        self.all_ready(directives);
    }

    fn prepared(&mut self, worker: String, epoch: Epoch, directives: &mut Vec<Directive>) {
        match self.ongoing.as_mut().filter(|w| w.epoch == epoch) {
            Some(Ongoing {
                phase: Phase::Preparing(waiting),
                ..
            }) => {
                waiting.remove(&worker);
                self.all_ready(directives);
            }
            Some(_) => {}
            // Too late: it was overtaken, or failed.
            None if !self.told.contains(&epoch) => directives.push(Directive::Abandon(worker, epoch)),
            None => {}
        }
    }

    fn all_ready(&mut self, directives: &mut Vec<Directive>) {
        let Some(way) = &mut self.ongoing else { return };
        if !matches!(&way.phase, Phase::Preparing(waiting) if waiting.is_empty()) {
            return;
        }
        let routers: BTreeSet<String> = self.routers.keys().cloned().collect();
        let switch = |r: &String| Directive::Switch(r.clone(), way.epoch);
        directives.extend(routers.iter().map(switch));
        self.told.insert(way.epoch);
        way.phase = Phase::Switching(routers);
        self.all_switched(directives);
    }

    fn refused(&mut self, worker: String, epoch: Epoch, why: Undone, directives: &mut Vec<Directive>) {
        let preparing = |w: &Ongoing| w.epoch == epoch && matches!(w.phase, Phase::Preparing(_));
        if self.ongoing.as_ref().is_some_and(preparing)
            && let Some(way) = self.ongoing.take()
        {
            self.abandon(&way, Some(&worker), directives);
            directives.push(Directive::Failed(epoch, worker, why));
        }
    }

    /// Frees what workers prepared, or are about to.
    fn abandon(&self, way: &Ongoing, but: Option<&str>, directives: &mut Vec<Directive>) {
        let others = way.workers.iter().filter(|w| Some(w.as_str()) != but);
        let there = others.filter(|w| self.workers.contains(*w));
        directives.extend(there.map(|w| Directive::Abandon(w.clone(), way.epoch)));
    }

    fn switched(&mut self, router: &str, epoch: Epoch, directives: &mut Vec<Directive>) {
        if let Some(at) = self.routers.get_mut(router) {
            *at = epoch.max(*at);
        }
        if let Some(way) = self.ongoing.as_mut().filter(|w| w.epoch == epoch) {
            if let Phase::Switching(waiting) = &mut way.phase {
                waiting.remove(router);
            }
            self.all_switched(directives);
        }
    }

    fn not_switched(&mut self, router: String, epoch: Epoch, directives: &mut Vec<Directive>) {
        let at = self.routers.get(&router).copied();
        if at.is_some_and(|at| at > epoch) {
            // It uses a later plan, of another planner's life, and will not switch to this one.
            if self.on_its_way() == Some(epoch) {
                self.without_router(&router, directives);
            }
            return;
        }
        if self.on_its_way() != Some(epoch) && self.current != Some(epoch) {
            return;
        }
        self.routers.remove(&router);
        if let Some(at) = at {
            self.let_go.insert(router.clone(), (at, ROUNDS));
        }
        self.without_router(&router, directives);
        directives.push(Directive::LetGo(router));
    }

    fn without_router(&mut self, router: &str, directives: &mut Vec<Directive>) {
        if let Some(Ongoing {
            phase: Phase::Switching(waiting),
            ..
        }) = &mut self.ongoing
        {
            waiting.remove(router);
            self.all_switched(directives);
        }
    }

    fn all_switched(&mut self, directives: &mut Vec<Directive>) {
        let done = |w: &Ongoing| matches!(&w.phase, Phase::Switching(waiting) if waiting.is_empty());
        if self.ongoing.as_ref().is_some_and(done)
            && let Some(way) = self.ongoing.take()
        {
            self.current = Some(way.epoch);
            self.told = self.told.split_off(&way.epoch);
            directives.push(Directive::Done(way.epoch));
            directives.push(Directive::RetireLater(way.epoch));
        }
    }

    fn worker_left(&mut self, worker: &str, directives: &mut Vec<Directive>) {
        self.workers.remove(worker);
        // One that is not ready yet never will be; one that was is not any more.
        let needed = |w: &Ongoing| w.workers.contains(worker) && matches!(w.phase, Phase::Preparing(_));
        if self.ongoing.as_ref().is_some_and(needed)
            && let Some(way) = self.ongoing.take()
        {
            self.abandon(&way, None, directives);
            directives.push(Directive::Failed(way.epoch, worker.to_owned(), Undone::Left));
        }
    }

    fn router_joined(&mut self, router: String, epoch: Epoch, directives: &mut Vec<Directive>) {
        self.routers.insert(router.clone(), epoch);
        self.let_go.remove(&router);
        let latest = match &mut self.ongoing {
            Some(Ongoing {
                epoch: next,
                phase: Phase::Switching(waiting),
                ..
            }) => {
                if epoch <= *next {
                    waiting.insert(router.clone());
                }
                Some(*next)
            }
            _ => self.current,
        };
        // One with routes of a later plan, of another planner's life, waits for the next.
        if let Some(latest) = latest.filter(|l| *l >= epoch) {
            directives.push(Directive::Switch(router, latest));
        }
    }

    fn retire_due(&mut self, epoch: Epoch, directives: &mut Vec<Directive>) {
        if self.current != Some(epoch) {
            // A later plan's time comes, and covers this one.
            return;
        }
        // Who was let go may still use what it used.
        self.let_go.retain(|_, (at, rounds)| {
            let waits = *at < epoch && *rounds > 0;
            *rounds = rounds.saturating_sub(1);
            waits
        });
        if !self.let_go.is_empty() || self.routers.values().any(|at| *at < epoch) {
            directives.push(Directive::RetireLater(epoch));
            return;
        }
        let retire = |w: &String| Directive::Retire(w.clone(), epoch);
        directives.extend(self.workers.iter().map(retire));
    }
}
