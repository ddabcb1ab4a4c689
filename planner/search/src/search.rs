//! The search for cheap cells: it fills one after the other, then breaks some open and fills them again.

use std::collections::BTreeSet;

use crate::cell::{Cell, lay};
use crate::dice::Dice;
use crate::draft::Draft;
use crate::fill::{Empty, Ground, MOST_COPIES, Placed};
use crate::index::{KindAt, RunningAt, ShareAt, UnitAt};
use crate::judge::Judge;
use crate::running::Running;
use crate::space::{FEW, Space};
use graft_certify::{Crew, gathered};

/// One way to fill a cell.
#[derive(Debug, Clone, Copy)]
struct Method {
    share: ShareAt,
    copies: usize,
    recipe: usize,
    shape: usize,
}

/// Judges of the search: a quick one for every try, a fair one for moves to keep, a thorough one for results.
#[derive(Clone, Copy)]
pub(crate) struct Judges<'a> {
    pub quick: &'a dyn Judge,
    pub fair: &'a dyn Judge,
    pub thorough: &'a dyn Judge,
    /// The thorough judge, allowing no cell more late requests than all cells may have on the average.
    pub strict: &'a dyn Judge,
    /// Part of the requests of all cells that may be late.
    pub late: f64,
}

pub(crate) struct Search<'a> {
    pub ground: &'a Ground<'a>,
    pub space: Space,
    pub judges: Judges<'a>,
    pub crew: &'a dyn Crew,
    /// Number of ways to fill that are tried for each cell.
    pub tries: usize,
    /// Cost that a change of a running partition must save, at least.
    pub change_costs: f64,
    pub dice: Dice,
    /// What there is of each kind of device, where there are several kinds.
    rooms: Option<Rooms>,
    /// What each merged fragment is estimated to cost.
    prices: Vec<f64>,
    /// Part of a cell's size that is usually filled, learnt from the cells so far.
    usual: f64,
    /// Number of times that each recipe, and each shape, was the best, plus two.
    won: (Vec<u32>, Vec<u32>),
}

/// What there is of each kind of device, as cost.
struct Rooms {
    all: Vec<u64>,
    /// What the cells that stay leave.
    free: Vec<u64>,
}

/// Cost that counts for each unit of cost that there is no room for: no plan does with less.
const NO_ROOM: u64 = 100;

/// Cost of a merged fragment beyond its work, as a multiple of it, where its budget is `TIGHT_MS`: found from cells' costs.
const TIGHT_MS: f64 = 10.0;
/// Part of a cell's size that is assumed to be filled usually, before it is learnt.
const FIRST_FILLED: f64 = 0.8;
/// Weight of the newest value when a price, or the usual filling, is learnt; the rest is the value before.
const LEARN: f64 = 0.3;
/// Number of moves that cost the same of which one is taken though it fills no better.
const WANDER: usize = 4;
/// Factor by which a running cell's load may grow before some of its content has to go.
const GROWTH: f64 = 1.01;
/// Number of refills of which one opens more cells than two or three.
const MANY_OPENED: usize = 4;
/// Number of shares that are always worth a try, from the smallest that serves the first merged fragment up.
const JUST_ENOUGH: usize = 3;
/// Most cells to which one move hands the content of another.
const RECEIVERS: usize = 4;

/// Takes merged fragments out of a cell.
fn leave_out(cell: &mut Cell, out: impl Fn(UnitAt) -> bool) {
    for group in &mut cell.groups {
        group.units.retain(|&u| !out(u));
    }
    cell.groups.retain(|g| !g.units.is_empty());
}

impl<'a> Search<'a> {
    pub fn new(ground: &'a Ground<'a>, space: Space, judges: Judges<'a>, crew: &'a dyn Crew) -> Self {
        Search {
            dice: Dice::new(7),
            rooms: None,
            prices: ground
                .merged
                .iter()
                .map(|m| m.work * (1.0 + TIGHT_MS / m.budget_ms))
                .collect(),
            usual: FIRST_FILLED,
            won: (vec![2; space.recipes.len()], vec![2; space.shapes.len()]),
            ground,
            space,
            judges,
            crew,
            tries: if ground.merged.len() <= FEW { 16 } else { 6 },
            change_costs: 0.0,
        }
    }

    /// Rations several kinds of devices: `part` of what there is of each is used at most.
    pub fn ration(&mut self, part: f64) {
        let kinds = self.ground.costs.kinds();
        if kinds.len() > 1 {
            let there = kinds.map(|k| (self.ground.there_is(k) as f64 * part) as u64);
            let all: Vec<u64> = there.collect();
            self.rooms = Some(Rooms {
                free: all.clone(),
                all,
            });
        }
    }

    pub fn size(&self, at: ShareAt) -> f64 {
        self.ground.costs.size(at)
    }

    pub fn cost<'c>(&self, cells: impl IntoIterator<Item = &'c Placed>) -> u64 {
        cells.into_iter().map(|c| c.cell.cost(self.ground.costs)).sum()
    }

    /// Cost of all cells, and what counts for those that there is no room for.
    pub fn burden(&self, cells: &[Placed]) -> u64 {
        self.cost(cells) + self.beyond(cells.iter())
    }

    /// What counts for cells that there is no room for.
    fn beyond<'c>(&self, cells: impl Iterator<Item = &'c Placed>) -> u64 {
        let Some(rooms) = &self.rooms else { return 0 };
        let used = self.used(cells);
        let over = used
            .iter()
            .zip(&rooms.all)
            .map(|(used, all)| used.saturating_sub(*all));
        NO_ROOM * over.sum::<u64>()
    }

    /// Cost of cells by kind of device.
    fn used<'c>(&self, cells: impl Iterator<Item = &'c Placed>) -> Vec<u64> {
        let costs = self.ground.costs;
        let mut used = vec![0; costs.kinds().len()];
        for placed in cells {
            used[costs.kind_of(placed.cell.share).get()] += placed.cell.cost(costs);
        }
        used
    }

    /// New cells get what these leave.
    pub fn beside<'c>(&mut self, cells: impl Iterator<Item = &'c Placed>) {
        if self.rooms.is_none() {
            return;
        }
        let used = self.used(cells);
        if let Some(rooms) = &mut self.rooms {
            let left = rooms.all.iter().zip(used);
            rooms.free = left.map(|(all, used)| all.saturating_sub(used)).collect();
        }
    }

    /// Whether there is room for another cell.
    fn has_room(&self, share: ShareAt, copies: usize) -> bool {
        let costs = self.ground.costs;
        let needed = costs.cost(share) * copies as u64;
        let free = |rooms: &Rooms| rooms.free[costs.kind_of(share).get()];
        self.rooms.as_ref().is_none_or(|rooms| needed <= free(rooms))
    }

    fn density(&self, placed: &Placed) -> f64 {
        placed.work / placed.cell.cost(self.ground.costs) as f64
    }

    /// The merged fragment that is hardest to serve: it needs the dearest share, or of several such has the least time.
    fn hardest(&self, left: &[UnitAt]) -> Option<UnitAt> {
        let m = |u: UnitAt| &self.ground.merged[u];
        left.iter().copied().max_by(|&a, &b| {
            m(a).least_cost(self.ground.costs)
                .cmp(&m(b).least_cost(self.ground.costs))
                .then(m(b).budget_ms.total_cmp(&m(a).budget_ms))
                .then(b.cmp(&a))
        })
    }

    fn loosest(&self, left: &[UnitAt]) -> Option<UnitAt> {
        let budget = |u: UnitAt| self.ground.merged[u].budget_ms;
        left.iter()
            .copied()
            .max_by(|&a, &b| budget(a).total_cmp(&budget(b)).then(b.cmp(&a)))
    }

    /// Cells for all of `left`, by the quick judge. `None`: one of them can't be served at all.
    pub fn construct(&mut self, mut left: Vec<UnitAt>) -> Option<Vec<Placed>> {
        let mut cells = vec![];
        while !left.is_empty() {
            let first = if self.dice.roll(2) == 0 {
                self.hardest(&left)
            } else {
                self.loosest(&left)
            }?;
            let placed = match self.best_cell(first, &left) {
                Some(placed) => placed,
                None => self.alone(first)?,
            };
            left.retain(|u| placed.cell.units().all(|p| p != *u));
            if let Some(rooms) = &mut self.rooms {
                let costs = self.ground.costs;
                let free = &mut rooms.free[costs.kind_of(placed.cell.share).get()];
                *free = free.saturating_sub(placed.cell.cost(costs));
            }
            cells.push(placed);
        }
        Some(cells)
    }

    /// The cell with `first` that saves most, of several ways to fill it.
    fn best_cell(&mut self, first: UnitAt, left: &[UnitAt]) -> Option<Placed> {
        let (m, costs) = (&self.ground.merged[first], self.ground.costs);
        let tried = self.space.shares.iter().copied();
        let mut useful: Vec<ShareAt> = tried.filter(|&s| m.fits(s, costs)).collect();
        // Shares just large enough for the first are always worth a try.
        for least in m.least_shares() {
            useful.extend(costs.shares_from(least).take(JUST_ENOUGH));
        }
        useful.sort_unstable();
        useful.dedup();
        if useful.iter().any(|&s| self.has_room(s, 1)) {
            useful.retain(|&s| self.has_room(s, 1));
        }
        let cheaper = |a: &ShareAt, b: &ShareAt| costs.cost(*a).cmp(&costs.cost(*b));
        // What all that is left fills of each kind, as far as it can be there.
        let on_kind = |kind: KindAt| -> f64 {
            let there = left.iter().filter_map(|&u| self.ground.merged[u].on[kind.get()]);
            there.map(|on| on.work).sum()
        };
        let rests: Vec<f64> = costs.kinds().map(on_kind).collect();
        let rest = |share: ShareAt| rests[costs.kind_of(share).get()];
        let enough = useful
            .iter()
            .copied()
            .filter(|&s| self.size(s) > rest(s))
            .min_by(cheaper);
        let smallest = useful
            .iter()
            .copied()
            .min_by(cheaper)
            .map_or(0.0, |s| self.size(s));
        let mut ways = vec![];
        for attempt in 0..self.tries {
            let mut way = Method {
                share: useful[self.dice.roll(useful.len())],
                copies: 1,
                recipe: self.dice.weighted(&self.won.0),
                shape: self.dice.weighted(&self.won.1),
            };
            match enough {
                // The smallest share that could take all is worth a try.
                Some(share) if attempt == 0 => way.share = share,
                _ if self.space.copies > 1 && self.dice.roll(2) == 0 => {
                    way.copies = 1 + self.dice.roll(self.space.copies)
                }
                _ => {}
            }
            if way.copies > 1 && !self.has_room(way.share, way.copies) {
                way.copies = 1;
            }
            if self.size(way.share) * way.copies as f64 <= 3.0 * rest(way.share) + smallest {
                ways.push(way);
            }
        }
        let (ground, space, quick, likely) = (self.ground, &self.space, self.judges.quick, self.usual);
        let filled = gathered(self.crew, ways.len(), |i| {
            let way = ways[i];
            let empty = Empty {
                share: way.share,
                copies: way.copies,
                shape: space.shapes[way.shape],
                likely,
            };
            let placed = ground.fill(first, left, empty, space.recipes[way.recipe], quick)?;
            Some(ground.shrunk(placed, empty.shape, quick))
        });
        let mut best: Option<(f64, Placed, Method)> = None;
        for (way, placed) in ways.iter().zip(filled) {
            let Some(placed) = placed else { continue };
            let worth: f64 = placed.cell.units().map(|u| self.prices[u.get()]).sum();
            let saved = worth - placed.cell.cost(self.ground.costs) as f64;
            if best.as_ref().is_none_or(|(s, _, _)| saved > *s) {
                best = Some((saved, placed, *way));
            }
        }
        let (_, placed, way) = best?;
        self.won.0[way.recipe] += 1;
        self.won.1[way.shape] += 1;
        self.usual += LEARN * (self.density(&placed) - self.usual);
        Some(placed)
    }

    /// A cell for one merged fragment: the cheapest share and number of copies that is accepted, where there is room for
    /// it if anywhere.
    pub fn alone(&self, unit: UnitAt) -> Option<Placed> {
        let with_room = self
            .rooms
            .is_some()
            .then(|| self.alone_where(unit, &|s, n| self.has_room(s, n)));
        with_room
            .flatten()
            .or_else(|| self.alone_where(unit, &|_, _| true))
    }

    fn alone_where(&self, unit: UnitAt, may: &dyn Fn(ShareAt, usize) -> bool) -> Option<Placed> {
        let (m, costs) = (&self.ground.merged[unit], self.ground.costs);
        let mut best: Option<Placed> = None;
        for share in m.least_shares().flat_map(|least| costs.shares_from(least)) {
            let size = self.size(share);
            let below = best
                .as_ref()
                .map_or(f64::INFINITY, |b| b.cell.cost(self.ground.costs) as f64);
            let fewest = (self.ground.work_on(unit, share) / size).ceil().max(1.0) as usize;
            // The more copies there are already, the more are added at a time.
            let mut copies = fewest;
            while copies <= MOST_COPIES && size * (copies as f64) < below && may(share, copies) {
                let accepted = self.space.shapes.iter().find_map(|&shape| {
                    let cell = self.ground.cell(&[unit], share, copies, shape);
                    self.ground.judged(cell, shape.batches, self.judges.quick)
                });
                if accepted.is_some() {
                    best = accepted;
                    break;
                }
                if copies >= fewest * 4 + 4 {
                    break;
                }
                copies += (copies / 8).max(1);
            }
        }
        best
    }

    /// Moves the members' prices towards what their cells cost.
    fn learn(&mut self, cells: &[Placed]) {
        for cell in cells {
            let dear = cell.cell.cost(self.ground.costs) as f64 / cell.work.max(1e-9);
            for u in cell.cell.units() {
                let new = self.ground.merged[u].work * dear;
                self.prices[u.get()] += LEARN * (new - self.prices[u.get()]);
            }
        }
    }

    /// Measure of how unevenly cells are filled: of equally dear cells, those that leave one nearly empty are better.
    fn fullness(&self, cells: &[Placed]) -> f64 {
        cells.iter().map(|c| c.work * self.density(c)).sum()
    }

    fn stand(&self, cells: &[Placed], judge: &dyn Judge) -> bool {
        let ground = self.ground;
        let verdicts = gathered(self.crew, cells.len(), |i| {
            judge.judge(&Draft::of_cells([&cells[i].laid]), ground.merged, ground.costs)
        });
        verdicts.iter().all(|v| v.accepted)
    }

    /// Makes one move; gives whether it was kept.
    pub fn step(&mut self, cells: &mut Vec<Placed>) -> bool {
        if self.dice.roll(3) == 0 {
            self.refill(cells)
        } else {
            self.absorb(cells)
        }
    }

    /// Indexes of cells, loosely filled ones first.
    fn by_density(&self, cells: &[Placed]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..cells.len()).collect();
        order.sort_by(|&a, &b| self.density(&cells[a]).total_cmp(&self.density(&cells[b])));
        order
    }

    /// Breaks two or three cells open, sometimes more, and fills their content again.
    fn refill(&mut self, cells: &mut Vec<Placed>) -> bool {
        let order = self.by_density(cells);
        // Sometimes many at a time: a fresh start may leave an arrangement that few cells can't.
        let few = 2 + self.dice.roll(2);
        let count = if self.dice.roll(MANY_OPENED) == 0 {
            few + self.dice.roll(cells.len())
        } else {
            few
        };
        let count = count.min(cells.len());
        let mut chosen = vec![];
        while chosen.len() < count {
            let at = order[self.dice.low(order.len())];
            if !chosen.contains(&at) {
                chosen.push(at);
            }
        }
        let units = chosen
            .iter()
            .flat_map(|&i| cells[i].cell.units().collect::<Vec<_>>())
            .collect();
        let stay = (0..cells.len()).filter(|i| !chosen.contains(i));
        self.beside(stay.map(|i| &cells[i]));
        let Some(new) = self.construct(units) else {
            return false;
        };
        self.learn(&new);
        self.replace(cells, &mut chosen, new)
    }

    /// Hands the content of one cell to others as far as they take it, and the rest to a smaller cell.
    fn absorb(&mut self, cells: &mut Vec<Placed>) -> bool {
        if cells.len() < 2 {
            return self.refill(cells);
        }
        let order = self.by_density(cells);
        let donor = order[self.dice.low(order.len())];
        let mut left: Vec<UnitAt> = cells[donor].cell.units().collect();
        let mut others: Vec<usize> = (0..cells.len()).filter(|&i| i != donor).collect();
        self.dice.shuffle(&mut others);
        let (mut gone, mut new) = (vec![donor], vec![]);
        for other in others.into_iter().take(RECEIVERS) {
            if let Some(p) = self.taken(&cells[other], &mut left) {
                gone.push(other);
                new.push(p);
            }
            if left.is_empty() {
                break;
            }
        }
        if new.is_empty() {
            return false;
        }
        if !left.is_empty() {
            let shape = self.space.shapes[self.dice.weighted(&self.won.1)];
            let Cell { share, copies, .. } = cells[donor].cell;
            let same = self.ground.cell(&left, share, copies, shape);
            match self.ground.judged(same, shape.batches, self.judges.quick) {
                Some(p) => new.push(self.ground.shrunk(p, shape, self.judges.quick)),
                None => {
                    let stay = (0..cells.len()).filter(|i| !gone.contains(i));
                    self.beside(stay.map(|i| &cells[i]).chain(&new));
                    match self.construct(left) {
                        Some(more) => new.extend(more),
                        None => return false,
                    }
                }
            }
        }
        self.replace(cells, &mut gone, new)
    }

    /// The cell with as many of `left` added as it takes; they are removed from `left`. `None`: it takes none.
    fn taken(&mut self, into: &Placed, left: &mut Vec<UnitAt>) -> Option<Placed> {
        let budget = |u: UnitAt| self.ground.merged[u].budget_ms;
        let tightest = into.cell.units().map(budget).fold(f64::INFINITY, f64::min);
        if self.dice.roll(2) == 0 {
            // Those with the most time are taken most easily ...
            left.sort_by(|&a, &b| budget(b).total_cmp(&budget(a)).then(a.cmp(&b)));
        } else {
            // ... and those with little make most room.
            left.sort_by(|&a, &b| {
                (budget(a) < tightest)
                    .cmp(&(budget(b) < tightest))
                    .then(budget(a).total_cmp(&budget(b)))
                    .then(a.cmp(&b))
            });
        }
        let shape = self.space.shapes[self.dice.weighted(&self.won.1)];
        let Cell { share, copies, .. } = into.cell;
        let empty = Empty {
            share,
            copies,
            shape,
            likely: self.usual,
        };
        let base = into.cell.units().collect();
        let servable = self.ground.servable(left, self.ground.costs.kind_of(share));
        let placed = self.ground.longest(base, &servable, empty, self.judges.quick)?;
        left.retain(|u| placed.cell.units().all(|x| x != *u));
        Some(placed)
    }

    /// Puts `new` in the place of some cells, if it is better and stands the fair test; gives whether it did.
    fn replace(&mut self, cells: &mut Vec<Placed>, gone: &mut [usize], new: Vec<Placed>) -> bool {
        let old: Vec<Placed> = gone.iter().map(|&i| cells[i].clone()).collect();
        let changed = old
            .iter()
            .filter(|c| c.runs_as.is_some())
            .map(|c| c.cell.copies)
            .sum::<usize>();
        let stay = || (0..cells.len()).filter(|i| !gone.contains(i)).map(|i| &cells[i]);
        let (before, after) = (
            (self.cost(&old) + self.beyond(cells.iter())) as f64,
            (self.cost(&new) + self.beyond(stay().chain(&new))) as f64 + self.change_costs * changed as f64,
        );
        // Among equally dear cells the search wanders a little, or it would stay where it is.
        let wander = self.dice.roll(WANDER) == 0;
        let fuller = || self.fullness(&new) > self.fullness(&old) + 1e-6;
        let better = after < before || (after == before && (wander || (new.len() <= old.len() && fuller())));
        if !better || !self.stand(&new, self.judges.fair) {
            return false;
        }
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for &mut i in gone {
            cells.swap_remove(i);
        }
        cells.extend(new);
        true
    }

    /// Cells for some merged fragments, by the quick judge; and the merged fragments that can't be served.
    pub fn start(&mut self, units: Vec<UnitAt>) -> (Vec<Placed>, Vec<UnitAt>) {
        if let Some(cells) = self.construct(units.clone()) {
            self.learn(&cells);
            return (cells, vec![]);
        }
        // Only those that can be served alone go on.
        let (can, cannot): (Vec<UnitAt>, Vec<UnitAt>) =
            units.into_iter().partition(|&u| self.alone(u).is_some());
        (self.construct(can).unwrap_or_default(), cannot)
    }

    /// A cell of the running plan with as much of its content as is no harder to serve than what it was planned for: it
    /// stood the tests then. Members with too little time now, or beyond the planned load, are left out.
    fn kept(&self, running: &Running<'_>, at: RunningAt, mut cell: Cell) -> Option<Placed> {
        let ground = self.ground;
        let work = |u: UnitAt| ground.merged[u].work;
        let batches = self.space.shapes[0].batches;
        let slower = running.tighter(at, &cell, ground.merged, ground.costs);
        leave_out(&mut cell, |u| slower.contains(&u));
        let most = running.load(at, ground.costs, ground.headroom) * GROWTH;
        loop {
            let laid = lay(&cell, ground.merged, ground.costs, ground.headroom, batches);
            if let Some(laid) = laid.filter(|l| l.load <= most) {
                return Some(Placed {
                    sound: running.is_as_before(at, &laid, ground.costs),
                    work: cell.units().map(work).sum(),
                    late: 0.0,
                    runs_as: Some(at),
                    cell,
                    laid,
                });
            }
            // The member with the most work goes.
            let heaviest = cell.units().max_by(|&a, &b| work(a).total_cmp(&work(b)))?;
            leave_out(&mut cell, |u| u == heaviest);
        }
    }

    /// Cells for all merged fragments, from those of the running plan, and the merged fragments that can't be served.
    /// What did not change is kept as it is.
    pub fn go_on_from(&mut self, running: &Running<'_>) -> (Vec<Placed>, Vec<UnitAt>) {
        let mut cells = vec![];
        let ground = self.ground;
        let mut homeless: Vec<UnitAt> = UnitAt::all(ground.merged.len()).collect();
        for (at, cell) in running.cells(ground.merged) {
            if let Some(kept) = self.kept(running, at, cell) {
                let units: BTreeSet<UnitAt> = kept.cell.units().collect();
                homeless.retain(|u| !units.contains(u));
                cells.push(kept);
            }
        }
        for cell in &mut cells {
            if homeless.is_empty() {
                break;
            }
            if let Some(placed) = self.taken(cell, &mut homeless) {
                let runs_as = cell.runs_as;
                *cell = Placed { runs_as, ..placed };
            }
        }
        self.beside(cells.iter());
        let (more, cannot) = self.start(homeless);
        cells.extend(more);
        (cells, cannot)
    }
}
