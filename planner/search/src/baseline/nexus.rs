//! Duty cycles: merged fragments share a partition in turns.

use graft_plan::Order;

use super::slices::Size;
use super::{BaselineGround, Drafted};
use crate::cell::{Laid, StageDraft};
use crate::draft::Draft;
use crate::fill::{Ground as Cells, MOST_COPIES};
use crate::index::{BatchAt, ShareAt, StageAt, UnitAt};
use crate::judge::Judge;
use graft_certify::gathered;

/// Parts of the time budget that a turn and a run may take together at first: above 1 counts on turns that are mostly
/// shorter than the longest possible.
const MARGINS: [f64; 6] = [2.5, 2.0, 1.5, 1.2, 1.0, 0.8];
/// Extra headroom at first, as parts of the rate, from which the cheapest is chosen.
const EXTRA: [f64; 3] = [0.0, 0.1, 0.3];
/// Factor on the time of a cycle's members each time that the cycle does not stand.
const TIGHTER: f64 = 0.8;
/// Headroom, as a part of the rate, that a cycle's members gain each time that the cycle does not stand.
const MORE: f64 = 0.1;
/// Most times that a packing is made tighter where it does not stand.
const REPAIRS: usize = 20;

/// Packings that are repaired, cheapest first, where there are more than `MANY` merged fragments; else all are.
const ATTEMPTS: usize = 3;
/// Number of merged fragments beyond which only [`ATTEMPTS`] packings are repaired: each takes long.
const MANY: usize = 150;

/// Margin, extra headroom and share with which one merged fragment is planned.
#[derive(Debug, Clone, Copy)]
struct Terms {
    margin: f64,
    extra: f64,
    /// The smallest share that it may get.
    share: ShareAt,
}

/// The cheapest packing into duty cycles that stands, over margins, headrooms and shares. Those that cost `enough` or
/// more are not looked into.
pub(super) fn duty_cycles(ground: &BaselineGround<'_, '_>, enough: u64) -> Drafted {
    let costs = ground.costs;
    let shares: Vec<ShareAt> = costs
        .kinds()
        .flat_map(|kind| costs.shares_of(kind).take(SHARES))
        .collect();
    let terms = |i: usize| Terms {
        margin: MARGINS[i % MARGINS.len()],
        extra: EXTRA[i / MARGINS.len() % EXTRA.len()],
        share: shares[i / MARGINS.len() / EXTRA.len()],
    };
    let mut packings: Vec<(u64, usize)> = (0..MARGINS.len() * EXTRA.len() * shares.len())
        .map(|i| {
            (
                cost(&pack(ground, &vec![terms(i); ground.sorted.merged.len()]), ground),
                i,
            )
        })
        .collect();
    packings.sort_unstable();
    let many = ground.sorted.merged.len() > MANY;
    let attempts = if many { ATTEMPTS } else { packings.len() };
    let mut best: Option<(usize, u64, Vec<Laid>, Vec<UnitAt>)> = None;
    // Repairs only add cost: a packing that is dear before them can't become the cheapest.
    for (before, i) in packings.into_iter().take(attempts) {
        if best.as_ref().is_some_and(|b| b.0 == 0 && before >= b.1) {
            break;
        }
        let below = best.as_ref().map_or(enough, |b| b.1);
        let Some((cells, hopeless)) = repaired(ground, terms(i), below) else {
            continue;
        };
        let cost = cost(&cells, ground);
        if best.as_ref().is_none_or(|b| (hopeless.len(), cost) < (b.0, b.1)) {
            best = Some((hopeless.len(), cost, cells, hopeless));
        }
    }
    let everything = UnitAt::all(ground.sorted.merged.len()).collect();
    let (mut cells, outcasts) =
        best.map_or((vec![], everything), |(_, _, cells, hopeless)| (cells, hopeless));
    // What fits no cycle gets partitions of its own.
    let own = Cells::new(ground.costs, &ground.sorted.merged, ground.problem);
    let alone = gathered(ground.crew, outcasts.len(), |i| {
        super::slices::alone(&[outcasts[i]], Size::Any, &own, ground)
    });
    let mut hopeless = vec![];
    for (unit, placed) in outcasts.into_iter().zip(alone) {
        match placed {
            Some(placed) => cells.push(placed.laid),
            None => hopeless.push(unit),
        }
    }
    Drafted {
        draft: Draft::of_cells(&cells),
        hopeless,
    }
}

fn cost(cells: &[Laid], ground: &BaselineGround<'_, '_>) -> u64 {
    let each = cells.iter();
    each.map(|l| ground.costs.cost(l.share) * l.copies as u64).sum()
}

/// A packing whose members get tighter terms where it does not stand, until it does. `None`: it stands nowhere
/// below a cost.
fn repaired(ground: &BaselineGround<'_, '_>, start: Terms, below: u64) -> Option<(Vec<Laid>, Vec<UnitAt>)> {
    let merged = &ground.sorted.merged;
    let mut terms = vec![start; merged.len()];
    let mut stood: Vec<Laid> = vec![];
    // Short runs find cycles that don't stand at all; the others are then run as long as a certificate takes.
    let mut quick = true;
    for repair in 0..REPAIRS {
        let cells = pack(ground, &terms);
        if cost(&cells, ground) >= below {
            return None;
        }
        let judge = if quick { &ground.quick } else { &ground.judge };
        let fresh: Vec<&Laid> = cells.iter().filter(|l| !stood.contains(l)).collect();
        let verdicts = gathered(ground.crew, fresh.len(), |i| {
            judge
                .judge(&Draft::of_cells([fresh[i]]), merged, ground.costs)
                .accepted
        });
        let mut failed = false;
        let mut now_stood: Vec<Laid> = cells.iter().filter(|l| stood.contains(l)).cloned().collect();
        for (laid, stands) in fresh.into_iter().zip(verdicts) {
            if stands {
                now_stood.push(laid.clone());
                continue;
            }
            failed = true;
            for (unit, _) in &laid.routes {
                let terms = &mut terms[unit.get()];
                terms.margin *= TIGHTER;
                terms.extra += MORE;
                // One that is alone needs a larger share.
                let grow = laid.routes.len() == 1 || repair > REPAIRS / 2;
                let larger = ground.costs.shares_from(laid.share).nth(1).filter(|_| grow);
                terms.share = larger.unwrap_or(laid.share);
            }
        }
        stood = now_stood;
        if !failed && std::mem::take(&mut quick) {
            stood.clear();
        } else if !failed {
            let served: Vec<UnitAt> = cells
                .iter()
                .flat_map(|l| l.routes.iter().map(|(u, _)| *u))
                .collect();
            return Some((
                cells,
                UnitAt::all(merged.len())
                    .filter(|u| !served.contains(u))
                    .collect(),
            ));
        }
    }
    // Merged fragments whose cycles never stand are left out.
    let served: Vec<UnitAt> = stood
        .iter()
        .flat_map(|l| l.routes.iter().map(|(u, _)| *u))
        .collect();
    Some((
        stood,
        UnitAt::all(merged.len())
            .filter(|u| !served.contains(u))
            .collect(),
    ))
}

/// Number of each kind's smallest shares from which packings start; a merged fragment that needs a larger one gets it.
const SHARES: usize = 6;

/// A merged fragment as Nexus sees it.
struct Session {
    unit: UnitAt,
    share: ShareAt,
    batch: BatchAt,
    /// Partitions that it fills alone.
    full: usize,
    /// Part of one more partition that the rest of its load takes.
    part: f64,
    /// Time in which its batch comes together.
    gather_ms: f64,
}

/// A partition that is shared in turns.
struct Turns {
    share: ShareAt,
    cycle_ms: f64,
    /// Merged fragments, with their batches.
    members: Vec<(UnitAt, BatchAt)>,
}

/// Squishy bin packing: full partitions first, then what is left into duty cycles, longest cycles first.
fn pack(ground: &BaselineGround<'_, '_>, terms: &[Terms]) -> Vec<Laid> {
    let mut sessions: Vec<Session> = UnitAt::all(terms.len())
        .filter_map(|unit| session(unit, terms[unit.get()], ground))
        .collect();
    sessions.sort_by(|a, b| {
        let longer = b.gather_ms.total_cmp(&a.gather_ms);
        b.share.cmp(&a.share).then(longer).then(a.unit.cmp(&b.unit))
    });
    let mut cells: Vec<Laid> = vec![];
    let mut shared: Vec<Turns> = vec![];
    for session in &sessions {
        if session.full > 0 || session.part > 0.999 {
            let copies = session.full.min(MOST_COPIES) + usize::from(session.part > 1e-9);
            cells.extend(laid(
                ground,
                &[(session.unit, session.batch)],
                session.share,
                copies,
            ));
        } else if !shared
            .iter_mut()
            .any(|turns| squeezed(turns, session, terms, ground))
        {
            shared.push(Turns {
                share: session.share,
                cycle_ms: session.gather_ms,
                members: vec![(session.unit, session.batch)],
            });
        }
    }
    cells.extend(shared.iter().filter_map(|t| laid(ground, &t.members, t.share, 1)));
    cells
}

/// Requests per millisecond that are planned for.
fn planned_rate(unit: UnitAt, terms: Terms, ground: &BaselineGround<'_, '_>) -> f64 {
    let headroom = 1.0 + ground.problem.workload.headroom + terms.extra;
    ground.sorted.merged[unit].rate_rps * headroom / 1e3
}

fn planned_budget(unit: UnitAt, terms: Terms, ground: &BaselineGround<'_, '_>) -> f64 {
    (ground.sorted.merged[unit].budget_ms - ground.costs.hop_ms()) * terms.margin
}

fn run_ms(unit: UnitAt, batch: BatchAt, share: ShareAt, ground: &BaselineGround<'_, '_>) -> Option<f64> {
    let m = &ground.sorted.merged[unit];
    let range = ground.costs.rest(m.model, m.point)?;
    Some(ground.costs.uncut_ms(m.model, range, batch, share))
}

fn session(unit: UnitAt, terms: Terms, ground: &BaselineGround<'_, '_>) -> Option<Session> {
    let m = &ground.sorted.merged[unit];
    let kind = ground.costs.kind_of(terms.share);
    let batches = &ground.costs.profile(kind).batches;
    let share = m.least_on(kind)?.max(terms.share);
    let range = ground.costs.rest(m.model, m.point)?;
    let time = |batch: BatchAt| ground.costs.uncut_ms(m.model, range, batch, share);
    let budget = planned_budget(unit, terms, ground);
    // The largest batch that, run again and again, is in time even for a request that just missed one.
    let batch = BatchAt::all(batches.len())
        .rev()
        .find(|&b| 2.0 * time(b) <= budget)
        .unwrap_or(BatchAt::ONE);
    let rate = planned_rate(unit, terms, ground);
    let load = rate * time(batch) / f64::from(batches[batch]);
    let full = load.floor();
    // The rest of the load gathers in a smaller batch, if need be, so that gathering and running are in time.
    let rest = (load - full) / load.max(1e-12) * rate;
    let gathers = |b: BatchAt| f64::from(batches[b]) / rest.max(1e-12);
    let batch = BatchAt::all(batch.get() + 1)
        .rev()
        .find(|&b| gathers(b) + time(b) <= budget)
        .unwrap_or(BatchAt::ONE);
    Some(Session {
        unit,
        share,
        batch,
        full: full as usize,
        part: rest * time(batch) / f64::from(batches[batch]),
        gather_ms: gathers(batch).min((budget - time(batch)).max(time(BatchAt::ONE))),
    })
}

/// Takes a session into a partition's turns, if all are in time then. The cycle is squeezed to the session's, if
/// that is shorter, and batches shrink with it.
fn squeezed(turns: &mut Turns, session: &Session, terms: &[Terms], ground: &BaselineGround<'_, '_>) -> bool {
    if turns.share < session.share {
        return false;
    }
    let cycle_ms = turns.cycle_ms.min(session.gather_ms);
    let units = turns.members.iter().map(|(u, _)| *u).chain([session.unit]);
    let mut taken = 0.0;
    let mut members = vec![];
    for unit in units {
        let need = planned_rate(unit, terms[unit.get()], ground) * cycle_ms;
        let mut batches = ground.costs.batches(turns.share);
        let Some((batch, _)) = batches.find(|(_, requests)| *requests >= need - 1e-9) else {
            return false;
        };
        let Some(time) = run_ms(unit, batch, turns.share, ground) else {
            return false;
        };
        taken += time;
        if taken > cycle_ms || cycle_ms + time > planned_budget(unit, terms[unit.get()], ground) {
            return false;
        }
        members.push((unit, batch));
    }
    (turns.cycle_ms, turns.members) = (cycle_ms, members);
    true
}

/// A cycle's partition, or copies of it.
fn laid(
    ground: &BaselineGround<'_, '_>,
    members: &[(UnitAt, BatchAt)],
    share: ShareAt,
    copies: usize,
) -> Option<Laid> {
    let (costs, merged) = (ground.costs, &ground.sorted.merged);
    let batches = &costs.profile(costs.kind_of(share)).batches;
    let mut laid = Laid {
        share,
        copies,
        order: Order::Cycle,
        quantum_ms: 0.0,
        stages: vec![],
        routes: vec![],
        load: 0.0,
    };
    for &(unit, batch) in members {
        let m = &merged[unit];
        laid.routes.push((unit, vec![StageAt::new(laid.stages.len())]));
        laid.stages.push(StageDraft {
            model: m.model,
            range: costs.rest(m.model, m.point)?,
            batch,
            rate_rps: m.rate_rps,
            deadline_ms: m.budget_ms - costs.hop_ms(),
        });
    }
    // The plan's rule on load must hold whatever the cycle: batches grow until it does, then the number of copies.
    let headroom = 1.0 + ground.problem.workload.headroom;
    let load = |s: &StageDraft, b: BatchAt| {
        let time = costs.uncut_ms(s.model, s.range, b, share) / f64::from(batches[b]);
        s.rate_rps * headroom * time / 1e3
    };
    let larger = |s: &StageDraft| BatchAt::all(batches.len()).nth(s.batch.get() + 1);
    let gain = |s: &StageDraft| larger(s).map_or(0.0, |more| load(s, s.batch) - load(s, more));
    loop {
        let all: f64 = laid.stages.iter().map(|s| load(s, s.batch)).sum();
        if laid.copies > MOST_COPIES {
            return None;
        }
        laid.load = all / laid.copies as f64;
        if laid.load <= 1.0 {
            return Some(laid);
        }
        let best = laid
            .stages
            .iter_mut()
            .max_by(|a, b| gain(a).total_cmp(&gain(b)))?;
        match larger(best).filter(|_| gain(best) > 0.0) {
            Some(more) => best.batch = more,
            None => laid.copies += 1,
        }
    }
}
