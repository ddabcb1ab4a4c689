//! Every interleaving of two roll-outs to two workers and two routers: messages in any order, a worker that refuses, a
//! worker that leaves, a router that does.

use std::collections::BTreeSet;

use graft_plan::Epoch;
use stateright::{Checker, Model, Property};

use crate::doing::Undone;
use crate::rollout::{Directive, Notice, Rollouts};

const WORKERS: [&str; 2] = ["w0", "w1"];
const ROUTERS: [&str; 2] = ["r0", "r1"];
const PLANS: u64 = 2;

/// What may go wrong in a run.
#[derive(Debug, Clone, Copy)]
struct Faults {
    /// So many times, a worker refuses to prepare.
    refusals: u8,
    /// So many workers leave.
    losses: u8,
    /// So many routers leave.
    routers_lost: u8,
    /// The planted fault: routers are told as soon as the first worker is ready.
    hasty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    rollouts: Rollouts,
    begun: u64,
    refusals: u8,
    losses: u8,
    routers_lost: u8,
    /// On their way to workers and routers.
    directives: BTreeSet<Directive>,
    /// On their way to the planner.
    notices: BTreeSet<Notice>,
    /// What each worker has ready; `None`: it left.
    ready: Vec<Option<BTreeSet<u64>>>,
    /// What each router uses; `None`: it left.
    uses: Vec<Option<u64>>,
    /// A worker that had not prepared a plan was asked for it.
    unready: bool,
    failed: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Begin,
    Deliver(Directive),
    Refuse(Directive),
    Hear(Notice),
    WorkerLeaves(usize),
    RouterLeaves(usize),
}

impl Faults {
    fn tell(&self, state: &mut State, notice: Notice) {
        let mut directives = vec![];
        if self.hasty
            && let Notice::Prepared(_, epoch) = &notice
        {
            directives.extend(ROUTERS.map(|r| Directive::Switch(r.to_owned(), *epoch)));
        }
        state.rollouts.notice(notice, &mut directives);
        for directive in directives {
            match directive {
                Directive::RetireLater(epoch) => {
                    state.notices.insert(Notice::RetireDue(epoch));
                }
                Directive::Failed(epoch, ..) | Directive::Overtaken(epoch) => {
                    state.failed.insert(epoch.0);
                }
                Directive::Done(_) | Directive::LetGo(_) => {}
                directive => {
                    state.directives.insert(directive);
                }
            }
        }
    }
}

fn number(list: &[&str], name: &str) -> usize {
    list.iter().position(|n| *n == name).unwrap()
}

impl Model for Faults {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            rollouts: Rollouts::default(),
            begun: 0,
            refusals: self.refusals,
            losses: self.losses,
            routers_lost: self.routers_lost,
            directives: BTreeSet::new(),
            notices: BTreeSet::new(),
            ready: vec![Some(BTreeSet::new()); WORKERS.len()],
            uses: vec![Some(0); ROUTERS.len()],
            unready: false,
            failed: BTreeSet::new(),
        };
        for worker in WORKERS {
            self.tell(&mut state, Notice::WorkerJoined(worker.to_owned()));
        }
        for router in ROUTERS {
            self.tell(&mut state, Notice::RouterJoined(router.to_owned(), Epoch(0)));
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.begun < PLANS {
            actions.push(Action::Begin);
        }
        for directive in &state.directives {
            actions.push(Action::Deliver(directive.clone()));
            if state.refusals > 0 && matches!(directive, Directive::Prepare(..)) {
                actions.push(Action::Refuse(directive.clone()));
            }
        }
        actions.extend(state.notices.iter().cloned().map(Action::Hear));
        if state.losses > 0 {
            let there = (0..WORKERS.len()).filter(|&w| state.ready[w].is_some());
            actions.extend(there.map(Action::WorkerLeaves));
        }
        if state.routers_lost > 0 {
            let there = (0..ROUTERS.len()).filter(|&r| state.uses[r].is_some());
            actions.extend(there.map(Action::RouterLeaves));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Begin => {
                state.begun += 1;
                let there = (0..WORKERS.len()).filter(|&w| state.ready[w].is_some());
                let workers = there.map(|w| WORKERS[w].to_owned()).collect();
                let epoch = Epoch(state.begun);
                self.tell(&mut state, Notice::Begins(epoch, workers));
            }
            Action::Refuse(directive) => {
                state.directives.remove(&directive);
                let Directive::Prepare(worker, epoch) = directive else {
                    return None;
                };
                if state.ready[number(&WORKERS, &worker)].is_some() {
                    state.refusals -= 1;
                    state.notices.insert(Notice::Refused(
                        worker,
                        epoch,
                        Undone::Refused("no room".to_owned()),
                    ));
                }
            }
            Action::Hear(notice) => {
                state.notices.remove(&notice);
                self.tell(&mut state, notice);
            }
            Action::WorkerLeaves(w) => {
                state.losses -= 1;
                state.ready[w] = None;
                // Replies that were on their way do not arrive any more.
                let gone = |n: &Notice| match n {
                    Notice::Prepared(name, _) | Notice::Refused(name, ..) => name == WORKERS[w],
                    _ => false,
                };
                state.notices.retain(|n| !gone(n));
                state.notices.insert(Notice::WorkerLeft(WORKERS[w].to_owned()));
            }
            Action::RouterLeaves(r) => {
                state.routers_lost -= 1;
                state.uses[r] = None;
                let gone = |n: &Notice| matches!(n, Notice::Switched(name, _) | Notice::NotSwitched(name, _) if name == ROUTERS[r]);
                state.notices.retain(|n| !gone(n));
                state.notices.insert(Notice::RouterLeft(ROUTERS[r].to_owned()));
            }
            Action::Deliver(directive) => {
                state.directives.remove(&directive);
                match directive {
                    Directive::Prepare(worker, epoch) => {
                        if let Some(ready) = &mut state.ready[number(&WORKERS, &worker)] {
                            // As workers do: what is older than what they have is refused.
                            if ready.last().is_some_and(|latest| *latest > epoch.0) {
                                let why = "it is old".to_owned();
                                state
                                    .notices
                                    .insert(Notice::Refused(worker, epoch, Undone::Refused(why)));
                            } else {
                                ready.insert(epoch.0);
                                state.notices.insert(Notice::Prepared(worker, epoch));
                            }
                        }
                    }
                    Directive::Abandon(worker, epoch) => {
                        if let Some(ready) = &mut state.ready[number(&WORKERS, &worker)] {
                            ready.remove(&epoch.0);
                        }
                    }
                    Directive::Retire(worker, epoch) => {
                        if let Some(ready) = &mut state.ready[number(&WORKERS, &worker)] {
                            *ready = ready.split_off(&epoch.0);
                        }
                    }
                    Directive::Switch(router, epoch) => {
                        if let Some(uses) = &mut state.uses[number(&ROUTERS, &router)] {
                            let newer = epoch.0 >= *uses;
                            state.notices.insert(if newer {
                                *uses = epoch.0;
                                Notice::Switched(router, epoch)
                            } else {
                                Notice::NotSwitched(router, epoch)
                            });
                        }
                    }
                    _ => return None,
                }
            }
        }
        // What a router uses, every worker that is there has ready.
        let used = state.uses.iter().flatten().filter(|e| **e > 0);
        let mut used = used.copied().collect::<BTreeSet<u64>>().into_iter();
        state.unready |= used.any(|e| state.ready.iter().flatten().any(|ready| !ready.contains(&e)));
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn at_rest(state: &State) -> bool {
            state.begun == PLANS && state.directives.is_empty() && state.notices.is_empty()
        }
        vec![
            Property::always("what a router uses is ready", |_, state: &State| !state.unready),
            Property::always("at the end nothing is on its way", |_, state: &State| {
                !at_rest(state) || state.rollouts.on_its_way().is_none()
            }),
            Property::always(
                "at the end each plan is in use, was overtaken or failed",
                |_, state: &State| {
                    !at_rest(state)
                        || state.rollouts.current() == Some(Epoch(PLANS))
                        || state.failed.contains(&PLANS)
                },
            ),
            Property::always(
                "at the end workers hold what may be used alone",
                |_, state: &State| {
                    let oldest = state.uses.iter().flatten().min().copied().unwrap_or(PLANS);
                    let kept = |e: &u64| {
                        state.uses.contains(&Some(*e))
                            || *e >= oldest && Some(Epoch(*e)) >= state.rollouts.current()
                    };
                    !at_rest(state) || state.ready.iter().flatten().flatten().all(kept)
                },
            ),
            Property::sometimes("both routers use the second plan", |_, state: &State| {
                at_rest(state) && state.uses == [Some(PLANS), Some(PLANS)]
            }),
            Property::sometimes("the second plan overtakes the first", |_, state: &State| {
                at_rest(state) && state.failed.contains(&1) && state.rollouts.current() == Some(Epoch(PLANS))
            }),
        ]
    }
}

fn check(site: Faults) -> usize {
    let checker = site.checker().spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

#[test]
fn two_roll_outs_are_safe_in_every_interleaving() {
    let site = Faults {
        refusals: 0,
        losses: 0,
        routers_lost: 0,
        hasty: false,
    };
    assert!(check(site) > 1000);
}

#[test]
fn two_roll_outs_are_safe_when_workers_refuse_and_leave() {
    for (refusals, losses, routers_lost) in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)] {
        check(Faults {
            refusals,
            losses,
            routers_lost,
            hasty: false,
        });
    }
}

#[test]
fn the_checker_finds_routers_that_are_told_too_early() {
    let site = Faults {
        refusals: 0,
        losses: 0,
        routers_lost: 0,
        hasty: true,
    };
    let found = site
        .checker()
        .spawn_bfs()
        .join()
        .discovery("what a router uses is ready");
    assert!(found.is_some());
}
