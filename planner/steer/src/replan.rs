//! When to make another plan.
//!
//! At once when deadlines are in danger: somebody is not served, more comes than was planned for, or with less time.
//! Later when it would only save something: after a while that doubles whenever the saving was not worth a change, or
//! had to be taken back soon. So under a mix that swings the plan settles on what the peaks need.

use std::collections::{BTreeMap, VecDeque};

use graft_model::{CutPoint, ModelId};
use graft_plan::Nanos;

use crate::wanted::Wanted;

/// What a cause is about: a model, or one of its partition points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The model.
    pub model: ModelId,
    /// Of all its points, if none is named.
    pub point: Option<CutPoint>,
}

impl Subject {
    fn model(model: ModelId) -> Self {
        Subject { model, point: None }
    }

    fn point((model, point): (ModelId, CutPoint)) -> Self {
        Subject {
            model,
            point: Some(point),
        }
    }

    fn told(&self, name: &dyn Fn(ModelId) -> String) -> String {
        match self.point {
            None => name(self.model),
            Some(point) => format!("{}/{point}", name(self.model)),
        }
    }
}

/// Why another plan is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// Workers came or went.
    Members,
    /// Somebody asked for it.
    Asked,
    /// A partition point has no route.
    Unserved(Subject),
    /// The rate of a model, or at one of its points, in requests per second: from, to.
    Rate(Subject, f64, f64),
    /// The tightest budget at a partition point, in milliseconds: from, to.
    Budget(Subject, f64, f64),
    /// The index of dispersion of a model's arrivals: from, to.
    Bursts(Subject, f64, f64),
    /// What a model's runs take as a multiple of what was measured at first: from, to.
    Costs(Subject, f64, f64),
    /// The plan carries only a part of what was asked for, and what is asked for has moved: requests per second, from, to.
    Room(Subject, f64, f64),
    /// Partition points are not used, and their stages not needed any more.
    Gone(usize),
}

impl Cause {
    /// Nothing is in danger: another plan could only be cheaper.
    pub fn saves(&self) -> bool {
        match self {
            Cause::Members | Cause::Asked | Cause::Unserved(_) | Cause::Room(..) => false,
            Cause::Rate(_, from, to) | Cause::Bursts(_, from, to) | Cause::Costs(_, from, to) => to < from,
            Cause::Budget(_, from, to) => to > from,
            Cause::Gone(_) => true,
        }
    }

    /// The plan is in danger; one that was made shortly before, to save something, was a mistake.
    fn regrets(&self) -> bool {
        let in_danger = matches!(
            self,
            Cause::Rate(..) | Cause::Budget(..) | Cause::Bursts(..) | Cause::Unserved(_)
        );
        in_danger && !self.saves()
    }
}

impl Cause {
    /// In words, for people; `name`: what they call a model.
    pub fn told(&self, name: &dyn Fn(ModelId) -> String) -> String {
        match self {
            Cause::Members => "workers came or went".to_owned(),
            Cause::Asked => "somebody asked for it".to_owned(),
            Cause::Unserved(of) => format!("{} has no route", of.told(name)),
            Cause::Rate(of, from, to) => format!(
                "the rate of {} went from {from:.1} to {to:.1} requests/s",
                of.told(name)
            ),
            Cause::Budget(of, from, to) => {
                format!(
                    "the budget at {} went from {from:.1} to {to:.1} ms",
                    of.told(name)
                )
            }
            Cause::Room(of, from, to) => format!(
                "not all is carried, and the rate of {} went from {from:.1} to {to:.1} requests/s",
                of.told(name)
            ),
            Cause::Costs(of, from, to) => format!(
                "runs of {} take {to:.2} times what was measured at first, not {from:.2} times",
                of.told(name)
            ),
            Cause::Bursts(of, from, to) => format!(
                "requests for {} come in bursts: their index of dispersion went from {from:.1} to {to:.1}",
                of.told(name)
            ),
            Cause::Gone(n) => format!("{n} partition points are not used any more"),
        }
    }
}

/// Time within which workers that join get one plan together.
pub(crate) const SETTLE: Nanos = Nanos::from_millis(100);
/// Time between two looks at the mix, besides one at every report that is urgent.
pub(crate) const LOOK_EVERY: Nanos = Nanos::from_millis(500);

/// Parts by which a rate is dangerously above what was planned for, of a model and at one point: headroom is for what comes
/// by chance.
const MORE: (f64, f64) = (0.05, 0.5);
/// Part by which a model's rate is below what was planned for where another plan may be worth it.
const LESS: f64 = 0.3;
/// Factor by which a budget must move to count: 1.25 is one class.
const BUDGET_MOVE: f64 = 1.4;
/// Factor by which an index of dispersion must move to count.
const BURSTS_MOVE: f64 = 1.6;
/// Part of a model's requests that may have less time than planned for.
const TIGHTER: f64 = 0.05;
/// Standard deviations of a count that are taken for noise.
const DEVIATIONS: f64 = 3.0;
/// Time over which a model's rate is observed, about, in seconds.
const OF_MODEL_S: f64 = 10.0;
/// Time over which the rate at a partition point is observed, in seconds: clients move from one to another.
const OF_POINT_S: f64 = 3.0;
/// Least time between plans when somebody is not served.
const URGENT_AFTER: Nanos = Nanos::from_millis(150);
/// Least time between plans when deadlines are in danger otherwise.
const DANGER_AFTER: Nanos = Nanos::from_millis(1_000);
/// Least life of a plan before a cheaper one is looked for, at first.
const SAVE_AFTER: Nanos = Nanos::from_millis(10_000);
/// Least life of a plan before a cheaper one is looked for, at most: it doubles with each that was a mistake.
const SAVE_AFTER_MOST: Nanos = Nanos::from_millis(600_000);
/// Time after a plan that saved something in which danger says that it was a mistake.
const REGRET: Nanos = Nanos::from_millis(60_000);
/// Parts by which a rate must move, of a model and at one point, to leave room where a plan carries only a part.
const ROOM: (f64, f64) = (0.1, 0.25);
/// Plans within an hour that only save something, at most.
const SAVINGS_AN_HOUR: usize = 12;
const HOUR: Nanos = Nanos::from_millis(3_600_000);
/// Difference of costs that are the same, in the natural logarithm.
const SAME_COSTS: f64 = 0.1;
/// Part of the running plan's cost that a change must save.
const WORTH: f64 = 0.1;

/// What is planned for at one partition point: rate, and tightest budget in milliseconds.
type Points = BTreeMap<(ModelId, CutPoint), (f64, f64)>;

/// What the running plan was made for.
#[derive(Debug)]
struct Planned {
    at: Nanos,
    points: Points,
    bursts: Bursts,
    /// It carries only a part of that.
    limited: bool,
    /// Points that it does not serve at all, and the largest budget there.
    left_out: BTreeMap<(ModelId, CutPoint), f64>,
}

/// Says when to make another plan.
#[derive(Debug)]
pub struct Replanner {
    planned: Option<Planned>,
    members_changed: bool,
    /// Somebody asked for a plan.
    asked: bool,
    /// A model's costs were corrected since the last plan.
    costs_moved: Option<(ModelId, f64, f64)>,
    /// When plans were made to save something, in the last hour.
    savings: VecDeque<Nanos>,
    tried: Option<Nanos>,
    /// A plan was made to save something then.
    saved: Option<Nanos>,
    /// Nothing is to be saved before that.
    save_at: Nanos,
    /// How long a plan lives before a cheaper one is looked for.
    save_after: Nanos,
}

impl Default for Replanner {
    fn default() -> Self {
        Replanner {
            planned: None,
            members_changed: false,
            asked: false,
            costs_moved: None,
            savings: VecDeque::new(),
            tried: None,
            saved: None,
            save_at: Nanos::ZERO,
            save_after: SAVE_AFTER,
        }
    }
}

fn points(wanted: &[Wanted]) -> Points {
    let mut points = Points::new();
    for w in wanted {
        let point = points.entry((w.model, w.point)).or_insert((0.0, f64::INFINITY));
        point.0 += w.rate_rps;
        point.1 = point.1.min(w.budget_ms);
    }
    points
}

/// By model: the index of dispersion of its arrivals.
type Bursts = BTreeMap<ModelId, f64>;

fn bursts(wanted: &[Wanted]) -> Bursts {
    let mut sums: BTreeMap<ModelId, (f64, f64)> = BTreeMap::new();
    for w in wanted {
        let sum = sums.entry(w.model).or_default();
        sum.0 += w.rate_rps * w.burstiness;
        sum.1 += w.rate_rps;
    }
    let index = |(model, (variance, rate)): (ModelId, (f64, f64))| (model, variance / rate);
    sums.into_iter().map(index).collect()
}

/// A model whose arrivals come in other bursts than planned for. One that was not planned for has a rate to tell of.
fn in_other_bursts(planned: &Bursts, wanted: &Bursts, moved: fn(f64, f64) -> bool) -> Option<Cause> {
    wanted.iter().find_map(|(&model, &to)| {
        let from = *planned.get(&model)?;
        moved(from, to).then(|| Cause::Bursts(Subject::model(model), from, to))
    })
}

fn rates(points: &Points) -> BTreeMap<ModelId, f64> {
    let mut rates: BTreeMap<ModelId, f64> = BTreeMap::new();
    for ((model, _), (rate, _)) in points {
        *rates.entry(*model).or_default() += rate;
    }
    rates
}

/// What a rate that is observed over so many seconds may be off by.
fn noise(rate: f64, seconds: f64) -> f64 {
    DEVIATIONS * (rate / seconds).sqrt()
}

impl Replanner {
    /// Workers came or went.
    pub fn members_changed(&mut self) {
        self.members_changed = true;
    }

    /// Somebody asks for another plan.
    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// A model's runs take so many times what its profile says: from, to.
    pub fn costs_moved(&mut self, model: ModelId, from: f64, to: f64) {
        match &mut self.costs_moved {
            // It moves on from what the running plan counts with; where it is back there, nothing has moved.
            Some(known) if known.0 == model => {
                known.2 = to;
                if (known.2 / known.1).ln().abs() < SAME_COSTS {
                    self.costs_moved = None;
                }
            }
            Some(known) if to / from <= known.2 / known.1 => {}
            _ => self.costs_moved = Some((model, from, to)),
        }
    }

    /// A plan is being made.
    pub fn tried(&mut self, now: Nanos) {
        self.tried = Some(now);
        self.members_changed = false;
        self.asked = false;
        self.costs_moved = None;
    }

    /// A plan was made for this, and is rolled out. `limited`: it carries only a part of it.
    pub fn planned(&mut self, now: Nanos, wanted: &[Wanted], cause: &Cause, limited: bool) {
        self.planned = Some(Planned {
            at: now,
            points: points(wanted),
            bursts: bursts(wanted),
            limited,
            left_out: BTreeMap::new(),
        });
        if cause.saves() {
            self.saved = Some(now);
            self.savings.push_back(now);
            if self.savings.len() > SAVINGS_AN_HOUR {
                self.savings.pop_front();
            }
        } else if cause.regrets() && self.saved.take().is_some_and(|saved| now < saved + REGRET) {
            self.later();
        }
        self.save_at = now + self.save_after;
    }

    /// What the plan that was made last does not serve, by the fragments' ids.
    pub fn left_out(&mut self, wanted: &[Wanted], infeasible: &[String]) {
        let Some(planned) = &mut self.planned else { return };
        let (out, served): (Vec<_>, Vec<_>) = wanted.iter().partition(|w| infeasible.contains(&w.id()));
        for w in out {
            let is_here = |s: &&Wanted| s.model == w.model && s.point == w.point;
            if !served.iter().any(is_here) {
                let most = planned.left_out.entry((w.model, w.point)).or_default();
                *most = most.max(w.budget_ms);
            }
        }
    }

    /// A plan was made to save something, and saves too little: the running one is kept.
    pub fn kept(&mut self, now: Nanos) {
        self.later();
        self.save_at = now + self.save_after;
    }

    fn savings_of_hour(&self, now: Nanos) -> usize {
        let of_hour = |at: &&Nanos| now < **at + HOUR;
        self.savings.iter().rev().take_while(of_hour).count()
    }

    fn later(&mut self) {
        self.save_after = Nanos(self.save_after.0 * 2).min(SAVE_AFTER_MOST);
    }

    /// The running plan carries only a part of what was asked for.
    pub fn is_limited(&self) -> bool {
        self.planned.as_ref().is_some_and(|p| p.limited)
    }

    /// Whether a plan that was made for a cause is worth a change, by its cost and the running plan's.
    ///
    /// `limited`: the running plan carries only a part of what is asked for.
    pub fn is_worth(cause: &Cause, cost: f64, running: f64, limited: bool) -> bool {
        !cause.saves() || limited || cost <= running * (1.0 - WORTH)
    }

    /// Whether to make another plan for what is `wanted` now, and why.
    pub fn decide(&self, now: Nanos, wanted: &[Wanted]) -> Option<Cause> {
        if self.members_changed {
            return Some(Cause::Members);
        }
        let (at, running) = match &self.planned {
            None if self.tried.is_some_and(|at| now < at + DANGER_AFTER) => return None,
            None => return Some(Cause::Members),
            Some(running) => {
                let at = running.at;
                (self.tried.map_or(at, |tried| tried.max(at)), running)
            }
        };
        if self.asked {
            return (now >= at + URGENT_AFTER).then_some(Cause::Asked);
        }
        let (planned, bursts_planned) = (&running.points, &running.bursts);
        let asked = points(wanted);
        if let Some(&point) = asked.keys().find(|k| !planned.contains_key(*k)) {
            let cause = || Cause::Unserved(Subject::point(point));
            return (now >= at + URGENT_AFTER).then(cause);
        }
        let servable = wanted.iter().find(|w| {
            let out = running.left_out.get(&(w.model, w.point));
            out.is_some_and(|most| w.budget_ms > most * BUDGET_MOVE)
        });
        if let Some(w) = servable {
            let cause = || Cause::Unserved(Subject::point((w.model, w.point)));
            return (now >= at + URGENT_AFTER).then(cause);
        }
        if now < at + DANGER_AFTER {
            return None;
        }
        let in_bursts = bursts(wanted);
        let burstier = || in_other_bursts(bursts_planned, &in_bursts, |from, to| to > from * BURSTS_MOVE);
        let smoother = || in_other_bursts(bursts_planned, &in_bursts, |from, to| to < from / BURSTS_MOVE);
        let danger = more(planned, &asked)
            .or_else(|| tighter(planned, wanted))
            .or_else(burstier);
        let saving = || less(planned, &asked).or_else(smoother);
        let danger = danger.or_else(|| running.limited.then(|| room(planned, &asked)).flatten());
        let costs = self.costs_moved.as_ref();
        let costs = costs.map(|(model, from, to)| Cause::Costs(Subject::model(*model), *from, *to));
        // Cheaper runs leave room where not all is carried.
        let danger = danger.or_else(|| costs.clone().filter(|c| !c.saves() || running.limited));
        let saving = || saving().or_else(|| costs.clone());
        let may_save = now >= self.save_at && self.savings_of_hour(now) < SAVINGS_AN_HOUR;
        danger.or_else(|| may_save.then(saving).flatten())
    }
}

/// More comes than was planned for.
fn more(planned: &Points, asked: &Points) -> Option<Cause> {
    let (before, after) = (rates(planned), rates(asked));
    for (&model, &rate) in &after {
        let old = before.get(&model).copied().unwrap_or(0.0);
        if rate > old * (1.0 + MORE.0) + noise(rate, OF_MODEL_S) {
            return Some(Cause::Rate(Subject::model(model), old, rate));
        }
    }
    asked.iter().find_map(|(key, &(rate, _))| {
        let old = planned.get(key).map_or(0.0, |p| p.0);
        let more = rate > old * (1.0 + MORE.1) + noise(rate, OF_POINT_S);
        more.then(|| Cause::Rate(Subject::point(*key), old, rate))
    })
}

/// What is asked for is less than before, or elsewhere.
fn room(planned: &Points, asked: &Points) -> Option<Cause> {
    let (before, after) = (rates(planned), rates(asked));
    for (&model, &old) in &before {
        let rate = after.get(&model).copied().unwrap_or(0.0);
        if rate < old * (1.0 - ROOM.0) - noise(old, OF_MODEL_S) {
            return Some(Cause::Room(Subject::model(model), old, rate));
        }
    }
    asked.iter().find_map(|(key, &(rate, _))| {
        let old = planned.get(key).map_or(0.0, |p| p.0);
        let moved = (rate - old).abs() > old * ROOM.1 + noise(rate.max(old), OF_POINT_S);
        moved.then(|| Cause::Room(Subject::point(*key), old, rate))
    })
}

/// Too many have less time than was planned for at their point.
fn tighter(planned: &Points, wanted: &[Wanted]) -> Option<Cause> {
    let mut of_models: BTreeMap<ModelId, (f64, f64)> = BTreeMap::new();
    let mut tightest: BTreeMap<ModelId, Cause> = BTreeMap::new();
    for w in wanted {
        let key = (w.model, w.point);
        let sums = of_models.entry(w.model).or_default();
        sums.1 += w.rate_rps;
        let old = planned.get(&key).map_or(0.0, |p| p.1);
        if w.budget_ms < old / BUDGET_MOVE {
            sums.0 += w.rate_rps;
            let cause = Cause::Budget(Subject::point(key), old, w.budget_ms);
            tightest.entry(w.model).or_insert(cause);
        }
    }
    let too_many = of_models
        .iter()
        .find(|(_, (tight, all))| *tight > TIGHTER * all && *tight > noise(*tight, OF_MODEL_S));
    too_many.and_then(|(model, _)| tightest.remove(model))
}

/// Less is needed than was planned for.
fn less(planned: &Points, asked: &Points) -> Option<Cause> {
    let (before, after) = (rates(planned), rates(asked));
    for (&model, &old) in &before {
        let rate = after.get(&model).copied().unwrap_or(0.0);
        if rate < old * (1.0 - LESS) - noise(old, OF_MODEL_S) {
            return Some(Cause::Rate(Subject::model(model), old, rate));
        }
    }
    for (key, (_, budget)) in asked {
        let old = planned.get(key).map_or(f64::INFINITY, |p| p.1);
        if *budget > old * BUDGET_MOVE {
            return Some(Cause::Budget(Subject::point(*key), old, *budget));
        }
    }
    let gone = planned.keys().filter(|k| !asked.contains_key(*k)).count();
    (gone > 0).then_some(Cause::Gone(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelId = ModelId([7; 32]);

    /// Of one model: partition point, budget in milliseconds, requests per second.
    fn wanted(classes: &[(u16, f64, f64)]) -> Vec<Wanted> {
        let class = |&(point, budget_ms, rate_rps): &(u16, f64, f64)| Wanted {
            model: MODEL,
            point: CutPoint(point),
            budget_ms,
            rate_rps,
            burstiness: 1.0,
            standing: false,
        };
        classes.iter().map(class).collect()
    }

    const fn at(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    fn begun(fragments: &[(u16, f64, f64)]) -> Replanner {
        let mut replanner = Replanner::default();
        let all = wanted(fragments);
        assert_eq!(replanner.decide(at(0), &all), Some(Cause::Members));
        replanner.tried(at(0));
        replanner.planned(at(0), &all, &Cause::Members, false);
        assert_eq!(replanner.decide(at(60_000), &all), None);
        replanner
    }

    #[test]
    fn danger_is_met_soon_and_the_unserved_at_once() {
        let mut replanner = begun(&[(0, 50.0, 100.0)]);
        let more = wanted(&[(0, 50.0, 150.0)]);
        assert_eq!(replanner.decide(at(500), &more), None);
        assert!(matches!(replanner.decide(at(1000), &more), Some(Cause::Rate(..))));
        let other = wanted(&[(0, 50.0, 100.0), (2, 50.0, 1.0)]);
        assert!(matches!(
            replanner.decide(at(200), &other),
            Some(Cause::Unserved(_))
        ));
        let tight = wanted(&[(0, 50.0, 90.0), (0, 20.0, 10.0)]);
        assert!(matches!(
            replanner.decide(at(2000), &tight),
            Some(Cause::Budget(..))
        ));
        // A few strays are no danger, and neither is noise.
        let strays = wanted(&[(0, 50.0, 98.0), (0, 20.0, 2.0)]);
        assert_eq!(replanner.decide(at(2000), &strays), None);
        assert_eq!(replanner.decide(at(2000), &wanted(&[(0, 50.0, 114.0)])), None);
        // A quarter more of much is no noise.
        let busy = begun(&[(0, 50.0, 185.0), (4, 50.0, 185.0)]);
        let quarter = wanted(&[(0, 50.0, 231.0), (4, 50.0, 231.0)]);
        assert!(matches!(busy.decide(at(2000), &quarter), Some(Cause::Rate(..))));
        replanner.members_changed();
        assert_eq!(replanner.decide(at(1), &other), Some(Cause::Members));
    }

    #[test]
    fn a_cheaper_plan_is_looked_for_later_and_later_where_it_was_not_worth_it() {
        let mut replanner = begun(&[(0, 50.0, 100.0), (3, 50.0, 5.0)]);
        let less = wanted(&[(0, 50.0, 40.0)]);
        assert_eq!(replanner.decide(at(9_000), &less), None);
        let cause = replanner.decide(at(10_000), &less).unwrap();
        assert!(cause.saves());
        assert!(
            Replanner::is_worth(&cause, 8.0, 16.0, false) && !Replanner::is_worth(&cause, 15.0, 16.0, false)
        );
        replanner.tried(at(10_000));
        replanner.kept(at(10_000));
        assert_eq!(replanner.decide(at(29_000), &less), None);
        assert!(replanner.decide(at(30_000), &less).is_some());
    }

    #[test]
    fn dearer_runs_are_planned_for_soon_and_cheaper_ones_later() {
        let same = wanted(&[(0, 50.0, 100.0)]);
        let mut replanner = begun(&[(0, 50.0, 100.0)]);
        replanner.costs_moved(MODEL, 1.0, 0.7);
        assert_eq!(replanner.decide(at(2000), &same), None);
        assert!(replanner.decide(at(10_000), &same).is_some_and(|c| c.saves()));
        replanner.costs_moved(MODEL, 1.0, 1.4);
        let cause = replanner.decide(at(2000), &same).unwrap();
        assert_eq!(cause, Cause::Costs(Subject::model(MODEL), 1.0, 1.4));
        replanner.tried(at(2000));
        replanner.planned(at(2000), &same, &cause, false);
        assert_eq!(replanner.decide(at(20_000), &same), None);
    }

    #[test]
    fn where_not_all_is_carried_any_change_may_leave_room() {
        let much = wanted(&[(0, 50.0, 300.0), (2, 50.0, 300.0)]);
        let mut replanner = begun(&[(0, 50.0, 300.0), (2, 50.0, 300.0)]);
        let same_but = |a: f64, b: f64| wanted(&[(0, 50.0, a), (2, 50.0, b)]);
        assert_eq!(replanner.decide(at(2000), &same_but(420.0, 180.0)), None);
        replanner.planned(at(3000), &much, &Cause::Members, true);
        assert!(replanner.is_limited());
        assert_eq!(replanner.decide(at(5000), &same_but(310.0, 300.0)), None);
        for moved in [same_but(420.0, 180.0), same_but(200.0, 200.0)] {
            let cause = replanner.decide(at(5000), &moved).unwrap();
            assert!(matches!(cause, Cause::Room(..)) && !cause.saves(), "{cause:?}");
        }
    }

    #[test]
    fn who_could_be_served_where_others_were_left_out_is_planned_for_once() {
        let tight = wanted(&[(0, 50.0, 100.0), (3, 5.0, 10.0)]);
        let mut replanner = begun(&[(0, 50.0, 100.0)]);
        replanner.planned(at(1000), &tight, &Cause::Members, false);
        replanner.left_out(&tight, &[tight[1].id()]);
        assert_eq!(replanner.decide(at(5000), &tight), None);
        let looser = wanted(&[(0, 50.0, 100.0), (3, 5.0, 10.0), (3, 500.0, 1.0)]);
        assert!(matches!(
            replanner.decide(at(5000), &looser),
            Some(Cause::Unserved(_))
        ));
        replanner.planned(at(5000), &looser, &Cause::Members, false);
        replanner.left_out(&looser, &[tight[1].id()]);
        assert_eq!(replanner.decide(at(9000), &looser), None);
    }

    #[test]
    fn a_correction_that_goes_back_is_none() {
        let same = wanted(&[(0, 50.0, 100.0)]);
        let mut replanner = begun(&[(0, 50.0, 100.0)]);
        replanner.costs_moved(MODEL, 1.0, 0.7);
        replanner.costs_moved(MODEL, 0.7, 1.0);
        assert_eq!(replanner.decide(at(20_000), &same), None);
    }

    #[test]
    fn there_are_only_so_many_savings_an_hour() {
        let mut replanner = begun(&[(0, 50.0, 1e18)]);
        let mut plans = 0;
        for minute in 1..60u64 {
            // Less and less.
            let less = wanted(&[(0, 50.0, 1e18 * 0.5f64.powi(minute as i32))]);
            if let Some(cause) = replanner.decide(at(minute * 60_000), &less) {
                replanner.tried(at(minute * 60_000));
                replanner.planned(at(minute * 60_000), &less, &cause, false);
                plans += 1;
            }
        }
        assert_eq!(plans, SAVINGS_AN_HOUR);
    }

    #[test]
    fn bursts_are_planned_for_and_forgotten_later() {
        let mut bursty = wanted(&[(0, 50.0, 100.0)]);
        bursty[0].burstiness = 4.0;
        let mut replanner = begun(&[(0, 50.0, 100.0)]);
        let cause = replanner.decide(at(2000), &bursty).unwrap();
        assert_eq!(cause, Cause::Bursts(Subject::model(MODEL), 1.0, 4.0));
        replanner.tried(at(2000));
        replanner.planned(at(2000), &bursty, &cause, false);
        let smooth = wanted(&[(0, 50.0, 100.0)]);
        assert_eq!(replanner.decide(at(11_000), &smooth), None);
        assert!(replanner.decide(at(12_000), &smooth).is_some_and(|c| c.saves()));
    }

    #[test]
    fn under_a_mix_that_swings_the_plan_settles_on_the_peaks() {
        let (low, high) = (wanted(&[(0, 50.0, 100.0)]), wanted(&[(0, 50.0, 300.0)]));
        let mut replanner = begun(&[(0, 50.0, 100.0)]);
        let mut plans = vec![];
        // An hour; fifteen seconds each.
        for half in 0..7200u64 {
            let now = at(1000 + half * 500);
            let swings = if half / 30 % 2 == 0 { &low } else { &high };
            if let Some(cause) = replanner.decide(now, swings) {
                replanner.tried(now);
                replanner.planned(now, swings, &cause, false);
                plans.push(half);
            }
        }
        assert!(plans.len() < 30, "{} plans", plans.len());
        // In the second half hour hardly any.
        assert!(plans.iter().filter(|p| **p > 3600).count() <= 6, "{plans:?}");
    }
}
