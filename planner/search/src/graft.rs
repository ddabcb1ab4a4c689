//! Graft's own planner: merge, group, re-align, pack by deadline, with the simulation in the loop.

use graft_plan::{Epoch, Fragment, Order, Plan, Route};

use crate::bound::bound_of;
use crate::costs::Costs;
use crate::demand::Analytic;
use crate::draft::Draft;
use crate::exact::{EXACT_MOST, optimum};
use crate::fill::{Ground, Placed};
use crate::index::{FragmentAt, UnitAt};
use crate::judge::{Judge, Simulated};
use crate::merge::{Sorted, merge, merging};
use crate::problem::Problem;
use crate::running::Running;
use crate::search::{Judges, Search};
use crate::space::Space;
use graft_certify::Crew;

/// How to plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraftOptions {
    /// Whether fragments may join at re-partition points.
    pub realign: bool,
    /// Whether a running batch gives way to more urgent ones at cut points.
    pub cuts: bool,
    /// Whether partitions run batches by earliest deadline; else in turns.
    pub edf: bool,
    /// What accepts a cell.
    pub test: Test,
    /// Cost that a change of a running partition must save, at least: share, or price.
    pub change_costs: f64,
}

/// What accepts a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The reference simulation.
    Simulation,
    /// The analytic test alone: quick, and nearly right.
    Analytic,
}

impl Default for GraftOptions {
    fn default() -> Self {
        GraftOptions {
            realign: true,
            cuts: true,
            edf: true,
            test: Test::Simulation,
            change_costs: 0.0,
        }
    }
}

/// Progress of the search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Number of moves made.
    pub moves: u64,
    /// Cost of the best plan so far: its total share, or what it takes of the devices' prices.
    pub cost: f64,
    /// Lower bound on the cost of every plan that keeps the rules.
    pub bound: f64,
    /// Whether the best plan stood the test that was asked for. The quick first plan has only stood the analytic one.
    pub sound: bool,
}

/// Ways that are tried for each cell of the first plan.
const TRIES_AT_ONCE: usize = 2;

/// Seeds of the thorough test: the certificate's, and others, so that a plan does not suit those alone.
const THOROUGH_SEEDS: [u64; 4] = [1, 2, 3, 7001];
/// Seed of the quick test: none of the thorough test's.
const QUICK_SEED: u64 = 7002;
/// Requests of the quick test, which every try has to pass.
const QUICK_REQUESTS: f64 = 20_000.0;
/// Seed of the fair test: none of the other tests'.
const FAIR_SEED: u64 = 7003;
/// Requests of the fair test, which a move has to pass before it is kept.
const FAIR_REQUESTS: f64 = 120_000.0;
/// Part of all requests that may be late: a little less than the 0.1% that a certificate allows.
const LATE: f64 = 0.0008;
/// Part of one cell's requests that may be late: more than of all, since other cells are late less often.
const LATE_CELL: f64 = 0.0025;
/// Part of one merged fragment's requests that may be late: less than the 1% that a certificate allows.
const LATE_EACH: f64 = 0.004;

/// Plans as long as `go_on` says so: it is asked before each move, and told how far the search is. With a running
/// plan the search starts from that, and changes only what it must and what saves enough.
///
/// The plan is valid; with [`Test::Simulation`] its cells have stood the reference simulation, unless the search was
/// ended at its first plan (see [`Progress::sound`]). The same problem,
/// running plan, options and number of moves give the same plan, whatever `crew` is.
///
/// When the devices run out, fragments are left out, loosest budgets first, with `capacity_exhausted` set.
pub fn plan_graft(
    problem: &Problem,
    epoch: Epoch,
    running: Option<&Plan>,
    options: GraftOptions,
    crew: &dyn Crew,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Plan {
    let (mut best, needed) = plan_rationed(problem, epoch, running, options, crew, go_on);
    let there: f64 = problem
        .usable()
        .map(|(_, d)| f64::from(d.share_total.0) * d.unit_cost())
        .sum();
    if !best.capacity_exhausted || there == 0.0 {
        return best;
    }
    let mut order: Vec<FragmentAt> = FragmentAt::all(problem.workload.fragments.len()).collect();
    let fragments = &problem.workload.fragments;
    order.sort_by(|&a, &b| {
        let (a, b) = (&fragments[a], &fragments[b]);
        a.budget_ms.total_cmp(&b.budget_ms).then_with(|| a.id.cmp(&b.id))
    });
    let rate: f64 = fragments.iter().map(|f| f.rate_rps).sum();
    for step in 0..FEWER {
        // First the part of the load that the devices' share suggests; then a tenth less in each step.
        let part = there / needed.max(there) * 0.9f64.powi(step);
        let mut left = rate * part;
        let (kept, out): (Vec<FragmentAt>, Vec<FragmentAt>) = order.iter().partition(|&&i| {
            left -= fragments[i].rate_rps;
            left >= 0.0
        });
        let mut fewer = problem.clone();
        fewer.workload.fragments = kept.iter().map(|&i| fragments[i].clone()).collect();
        let (mut plan, _) = plan_rationed(&fewer, epoch, running, options, crew, &mut |p| !p.sound);
        plan.infeasible
            .extend(out.iter().map(|&i| fragments[i].id.clone()));
        plan.infeasible.sort();
        let fits = !plan.capacity_exhausted;
        plan.capacity_exhausted = true;
        if plan.infeasible.len() < best.infeasible.len() {
            best = plan;
        }
        if fits {
            break;
        }
    }
    give_back_nothing_owed(&mut best, problem);
    best
}

/// Parts of what there is of each of several kinds of devices that are used at most, where a plan with all of it did not
/// fit the single devices.
const LESS_ROOM: [f64; 3] = [0.95, 0.88, 0.8];

/// Most attempts at planning for fewer fragments when the devices run out; each takes a tenth less of the load.
const FEWER: i32 = 12;

/// Serves fragments at the last cut point after all: they need no device.
fn give_back_nothing_owed(plan: &mut Plan, problem: &Problem) {
    let owes_nothing =
        |f: &&Fragment| problem.hardware.profiles.last_cut(&f.model) == Some(f.partition_point);
    for fragment in problem.workload.fragments.iter().filter(owes_nothing) {
        if plan.infeasible.contains(&fragment.id) {
            plan.infeasible.retain(|id| *id != fragment.id);
            plan.routes.push(Route {
                fragment: fragment.id.clone(),
                stages: vec![],
            });
        }
    }
    plan.routes.sort_by(|a, b| a.fragment.cmp(&b.fragment));
}

/// As [`plan_all`]; of several kinds of devices one may have too little room in one piece, and is then used less.
pub(crate) fn plan_rationed(
    problem: &Problem,
    epoch: Epoch,
    running: Option<&Plan>,
    options: GraftOptions,
    crew: &dyn Crew,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> (Plan, f64) {
    let (plan, needed) = plan_all(problem, epoch, running, options, crew, 1.0, go_on);
    let several = problem.hardware.profiles.kinds().len() > 1;
    if !plan.capacity_exhausted || !several {
        return (plan, needed);
    }
    for part in LESS_ROOM {
        let (less, needed) = plan_all(problem, epoch, running, options, crew, part, &mut |p| !p.sound);
        if !less.capacity_exhausted {
            return (less, needed);
        }
    }
    (plan, needed)
}

/// Plans for all fragments that can be served; what this costs, whether there is so much or not. `room`: part of what
/// there is of each of several kinds of devices that is used at most.
pub(crate) fn plan_all(
    problem: &Problem,
    epoch: Epoch,
    running: Option<&Plan>,
    options: GraftOptions,
    crew: &dyn Crew,
    room: f64,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> (Plan, f64) {
    let costs = Costs::new(&problem.hardware);
    let told = |cost: u64| cost as f64 / costs.scale();
    let running = running
        .and_then(|plan| Running::of(plan, problem, &costs))
        .unwrap_or_default();
    let sorted = merge(
        &problem.workload,
        &costs,
        merging(&costs, problem.workload.fragments.len()),
        &|id| running.home(id),
    );
    let bound = bound_of(&problem.workload, &costs);
    let ground = Ground::new(&costs, &sorted.merged, problem);
    let analytic = Analytic::new(problem.workload.headroom);
    let short = |requests, seed, doubt| Simulated {
        fragments: None,
        requests,
        seeds: vec![seed],
        late: LATE_CELL,
        late_each: LATE_EACH,
        doubt,
    };
    let quick = short(QUICK_REQUESTS, QUICK_SEED, 0.7);
    let fair = short(FAIR_REQUESTS, FAIR_SEED, 0.3);
    let strict = thorough(problem);
    let thorough = Simulated {
        late: LATE_CELL,
        ..strict.clone()
    };
    let order = if options.edf { Order::Edf } else { Order::Cycle };
    let space = Space::new(&ground, options.realign, options.cuts && options.edf, order);
    let give_out = |cells: Vec<Placed>, hopeless: &[UnitAt]| {
        let needed = told(cells.iter().map(|c| c.cell.cost(&costs)).sum());
        let plan = finished(cells, hopeless, epoch, problem, &running, &costs, &sorted);
        (plan, needed)
    };
    let judges = match options.test {
        Test::Analytic => all_by(&analytic),
        Test::Simulation => {
            // A quick first plan: valid, and nearly right. Of equal copies the first takes requests while others are
            // idle, which the analytic test does not see: so this plan has no copies.
            let one_by_one = Analytic {
                one_by_one: true,
                ..analytic
            };
            let at_once = all_by(&one_by_one);
            let at_once_space = Space {
                copies: 1,
                ..space.clone()
            };
            let mut search = Search::new(&ground, at_once_space, at_once, crew);
            search.tries = TRIES_AT_ONCE;
            search.ration(room);
            let (cells, hopeless) = search.go_on_from(&running);
            if !go_on(Progress {
                moves: 0,
                cost: told(search.cost(&cells)),
                bound: costs.at_least(bound),
                sound: false,
            }) {
                return give_out(cells, &hopeless);
            }
            Judges {
                quick: &quick,
                fair: &fair,
                thorough: &thorough,
                strict: &strict,
                late: LATE,
            }
        }
    };
    let mut search = Search::new(&ground, space, judges, crew);
    search.change_costs = options.change_costs * costs.scale();
    search.ration(room);
    let (cells, mut hopeless) = search.go_on_from(&running);
    let mut best = search.made_sound(cells, &mut hopeless);
    let mut moves = 0;
    // Few merged fragments can be tried in every division, by the analytic test. A running plan is kept instead.
    let everything = options.realign && options.cuts && options.edf && !running.is_any();
    let progress = Progress {
        moves,
        cost: told(search.cost(&best)),
        bound: costs.at_least(bound),
        sound: true,
    };
    if everything && sorted.merged.len() <= EXACT_MOST && search.burden(&best) > bound && go_on(progress) {
        moves += 1;
        let (others, mut lost) = optimum(&ground, crew);
        let others = search.made_sound(others, &mut lost);
        if lost.is_empty() && search.burden(&others) < search.burden(&best) {
            best = others;
        }
    }
    let mut cells = best.clone();
    while go_on(Progress {
        moves,
        cost: told(search.cost(&best)),
        bound: costs.at_least(bound),
        sound: true,
    }) && search.burden(&best) > bound
    {
        search.step(&mut cells);
        moves += 1;
        // Cheaper cells become the result if they stand the thorough test, or can be made to.
        if search.burden(&cells) < search.burden(&best) {
            let mut lost = vec![];
            cells = search.made_sound(cells, &mut lost);
            if !lost.is_empty() {
                cells = best.clone();
            } else if search.burden(&cells) < search.burden(&best) {
                best = cells.clone();
            }
        }
    }
    give_out(best, &hopeless)
}

/// One judge for everything.
fn all_by(judge: &dyn Judge) -> Judges<'_> {
    Judges {
        quick: judge,
        fair: judge,
        thorough: judge,
        strict: judge,
        late: 1.0,
    }
}

fn finished(
    mut cells: Vec<Placed>,
    hopeless: &[UnitAt],
    epoch: Epoch,
    problem: &Problem,
    running: &Running<'_>,
    costs: &Costs<'_>,
    sorted: &Sorted,
) -> Plan {
    cells.sort_by_key(|c| (std::cmp::Reverse(c.cell.share), c.cell.units().min()));
    let mut draft = Draft::of_cells(cells.iter().map(|c| &c.laid));
    for (partition, cell) in draft.partitions.iter_mut().zip(&cells) {
        let devices = cell.runs_as.map(|at| running.devices(at)).unwrap_or_default();
        partition.homes = devices.iter().map(|d| (*d).to_owned()).collect();
    }
    let mut plan = draft.placed("graft", epoch, problem, costs, sorted);
    sorted.leave_out(&mut plan, hopeless, problem);
    plan
}

/// The thorough test in short.
pub(crate) fn in_short(problem: &Problem) -> Simulated<'_> {
    Simulated {
        requests: QUICK_REQUESTS,
        seeds: vec![QUICK_SEED],
        ..thorough(problem)
    }
}

/// The thorough test: fragments with their own budgets, for as long as a certificate takes.
pub(crate) fn thorough(problem: &Problem) -> Simulated<'_> {
    Simulated {
        fragments: Some(&problem.workload),
        requests: f64::INFINITY,
        seeds: THOROUGH_SEEDS.to_vec(),
        late: LATE,
        late_each: LATE_EACH,
        doubt: 0.8,
    }
}
