//! Makes cells stand the thorough test: takes out some of their content, or gives them more share.

use graft_certify::gathered;

use crate::cell::Cell;
use crate::dice::Dice;
use crate::draft::Draft;
use crate::fill::{Ground, Placed, Shape};
use crate::index::{ShareAt, UnitAt};
use crate::judge::Judge;
use crate::search::Search;

/// Most larger sizes (shares or numbers of copies) that are tried to make a cell stand.
const ENLARGED: usize = 12;

/// Rounds in which the content taken out of several cells is filled into new ones together, before each cell is
/// mended by itself.
const ROUNDS: usize = 3;

impl Search<'_> {
    /// The same cells, mended until each stands the thorough test. Merged fragments that no cell serves go to
    /// `hopeless`.
    pub fn made_sound(&mut self, cells: Vec<Placed>, hopeless: &mut Vec<UnitAt>) -> Vec<Placed> {
        let thorough = self.judges.thorough;
        let mut sound = vec![];
        let mut broken = self.tested(cells, thorough, &mut sound);
        // Cells that don't stand with less in them either.
        let mut stuck = vec![];
        for _ in 0..ROUNDS {
            let mut out = vec![];
            stuck.extend(self.thinned_all(broken, thorough, &mut sound, &mut out));
            // Merged fragments that were taken out of several cells may fill a few new ones together.
            self.beside(sound.iter().chain(&stuck));
            let (new, cannot) = self.start(out);
            hopeless.extend(cannot);
            broken = self.tested(new, thorough, &mut sound);
            if broken.is_empty() {
                break;
            }
        }
        stuck.extend(broken);
        for cell in stuck {
            self.mend(cell, thorough, &mut sound, hopeless);
        }
        // One cell may be late more often than the whole plan may be, as long as others are late less often.
        while let Some(worst) = self.too_late(&sound) {
            let cell = sound.swap_remove(worst);
            self.mend(cell, self.judges.strict, &mut sound, hopeless);
        }
        sound
    }

    /// Tests cells; those that stand go to `sound`, the others come back.
    fn tested(&self, cells: Vec<Placed>, judge: &dyn Judge, sound: &mut Vec<Placed>) -> Vec<Placed> {
        let ground = self.ground;
        let verdicts = gathered(self.crew, cells.len(), |i| {
            let draft = || Draft::of_cells([&cells[i].laid]);
            let known = cells[i].sound.then_some(cells[i].late);
            let judged = || Some(judge.judge(&draft(), ground.merged, ground.costs));
            known.or_else(|| judged().filter(|v| v.accepted).map(|v| v.late))
        });
        let mut broken = vec![];
        for (cell, late) in cells.into_iter().zip(verdicts) {
            match late {
                Some(late) => sound.push(Placed {
                    sound: true,
                    late,
                    ..cell
                }),
                None => broken.push(cell),
            }
        }
        broken
    }

    /// Takes some of the content out of each cell so that the cell stands, and puts it into `out`. Cells that don't
    /// stand even so come back.
    fn thinned_all(
        &mut self,
        cells: Vec<Placed>,
        judge: &dyn Judge,
        sound: &mut Vec<Placed>,
        out: &mut Vec<UnitAt>,
    ) -> Vec<Placed> {
        let seeds: Vec<Dice> = cells.iter().map(|_| self.dice.another()).collect();
        let (ground, shape) = (self.ground, self.space.shapes[0]);
        let thinned = gathered(self.crew, cells.len(), |i| {
            let order = cells[i].cell.order;
            thinned(
                &cells[i],
                ground,
                Shape { order, ..shape },
                judge,
                seeds[i].clone(),
            )
        });
        let mut left = vec![];
        for (cell, thinned) in cells.into_iter().zip(thinned) {
            match thinned {
                Some((keep, more)) => {
                    sound.push(Placed { sound: true, ..keep });
                    out.extend(more);
                }
                None => left.push(cell),
            }
        }
        left
    }

    /// Index of the cell with the largest part of late requests, if too many requests are late in all.
    fn too_late(&self, cells: &[Placed]) -> Option<usize> {
        let rate = |c: &Placed| {
            c.cell
                .units()
                .map(|u| self.ground.merged[u].rate_rps)
                .sum::<f64>()
        };
        let late: f64 = cells.iter().map(|c| rate(c) * c.late).sum();
        let all: f64 = cells.iter().map(rate).sum();
        if late <= self.judges.late * all {
            return None;
        }
        let worst = (0..cells.len()).max_by(|&a, &b| cells[a].late.total_cmp(&cells[b].late))?;
        // A cell that stood the strict test already is as good as it gets.
        (cells[worst].late > self.judges.late).then_some(worst)
    }

    /// Takes some content out of a cell that does not stand a test, or gives the cell more share.
    pub fn mend(
        &mut self,
        cell: Placed,
        judge: &dyn Judge,
        sound: &mut Vec<Placed>,
        hopeless: &mut Vec<UnitAt>,
    ) {
        let mut queue = vec![cell];
        let mut first = true;
        while let Some(mut cell) = queue.pop() {
            let tested = (!std::mem::take(&mut first)).then(|| {
                judge.judge(
                    &Draft::of_cells([&cell.laid]),
                    self.ground.merged,
                    self.ground.costs,
                )
            });
            if let Some(v) = tested.filter(|v| v.accepted) {
                (cell.sound, cell.late) = (true, v.late);
                sound.push(cell);
                continue;
            }
            self.beside(sound.iter().chain(&queue));
            let units: Vec<UnitAt> = cell.cell.units().collect();
            let shape = Shape {
                order: cell.cell.order,
                ..self.space.shapes[0]
            };
            if units.len() < 2 {
                match self.enlarged(&cell, shape, judge) {
                    Some(p) => sound.push(Placed { sound: true, ..p }),
                    None => hopeless.extend(units),
                }
                continue;
            }
            let dice = self.dice.another();
            let Some((keep, out)) = thinned(&cell, self.ground, shape, judge, dice) else {
                if let Some(p) = self.enlarged(&cell, shape, judge) {
                    sound.push(Placed { sound: true, ..p });
                    continue;
                }
                // Neither less content nor more share helped: each merged fragment gets a cell for itself.
                for unit in units {
                    match self.alone(unit) {
                        Some(placed) => queue.push(placed),
                        None => hopeless.push(unit),
                    }
                }
                continue;
            };
            sound.push(Placed { sound: true, ..keep });
            match self.construct(out.clone()) {
                Some(more) => queue.extend(more),
                None => {
                    for unit in out {
                        match self.alone(unit) {
                            Some(placed) => queue.push(placed),
                            None => hopeless.push(unit),
                        }
                    }
                }
            }
        }
    }

    /// The cell with more share, or more copies, so that it stands. `None`: it does not.
    fn enlarged(&self, cell: &Placed, shape: Shape, judge: &dyn Judge) -> Option<Placed> {
        let shares = self.ground.costs.shares_from(cell.cell.share).skip(1);
        let larger = shares.map(|s| (s, cell.cell.copies));
        let more = (1..=8).map(|n| (cell.cell.share, cell.cell.copies + n));
        let mut sizes: Vec<(ShareAt, usize)> = larger.chain(more).collect();
        sizes.sort_by(|a, b| {
            let cost = |s: &(ShareAt, usize)| self.size(s.0) * s.1 as f64;
            cost(a).total_cmp(&cost(b)).then(a.cmp(b))
        });
        sizes.truncate(ENLARGED);
        sizes.into_iter().find_map(|(share, copies)| {
            let cell = Cell {
                share,
                copies,
                ..cell.cell.clone()
            };
            self.ground.judged(cell, shape.batches, judge)
        })
    }
}

/// The cell with a part of its content taken out, until it stands; and what was taken out. `None`: it does not.
fn thinned(
    cell: &Placed,
    ground: &Ground<'_>,
    shape: Shape,
    judge: &dyn Judge,
    mut dice: Dice,
) -> Option<(Placed, Vec<UnitAt>)> {
    let mut units: Vec<UnitAt> = cell.cell.units().collect();
    let mut out = vec![];
    let all = units.len();
    while units.len() > all * 2 / 3 && units.len() > 1 {
        for _ in 0..(all / 12).clamp(1, units.len() - 1) {
            let at = dice.roll(units.len());
            out.push(units.remove(at));
        }
        let smaller = ground.cell(&units, cell.cell.share, cell.cell.copies, shape);
        if let Some(p) = ground.judged(smaller, shape.batches, judge) {
            return Some((p, out));
        }
    }
    None
}
