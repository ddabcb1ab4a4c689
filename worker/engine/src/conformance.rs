//! Checks of what every engine must do: run [`check`] on an engine with a model and look at what fails.

use graft_model::samples::Known;
use graft_model::{
    Batch, Cut, CutPoint, DType, Discrepancy, Elements, Model, ModelInfo, Precision, ReadOptions, StageRange,
    Tensor, TensorSpec, largest_difference,
};

use crate::checks::guarded;
use crate::engine::Engine;
use crate::error::{EngineError, Panicked, PartitionId};
use crate::held::Held;
use crate::shape::PartitionShape;

/// Difference that is allowed whatever the magnitudes are, as a number: a result near 0 whose insides are near 1, such as
/// a sigmoid's, is rounded as 1 is.
pub const ROUNDING: f64 = 4.0 * f32::EPSILON as f64;

/// Whether two results are as equal as the same arithmetic in another order is, in a precision.
pub fn is_equal(found: Discrepancy, precision: Precision) -> bool {
    found.within(precision.between_ways()) || found.most <= ROUNDING
}

/// A demand that an engine does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of the demand.
    pub demand: &'static str,
    /// What was seen instead.
    pub seen: String,
}

/// Comparison of the two parts of a model with the whole.
#[derive(Debug, Clone, Copy)]
pub struct CutCheck {
    /// Cut point at which it was cut.
    pub at: CutPoint,
    /// Difference of the outputs.
    pub found: Discrepancy,
    /// The precision in which they were computed.
    pub precision: Precision,
}

impl CutCheck {
    /// Whether they are equal, as [`is_equal`] says.
    pub fn holds(&self) -> bool {
        is_equal(self.found, self.precision)
    }
}

/// Runs head and tail for every cut point and compares them with the whole.
pub fn check_cuts(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    batch: usize,
    mut each: impl FnMut(CutCheck),
) -> Result<(), EngineError> {
    let info = model.info();
    let input = Batch::pseudo_random(info.inputs(), batch, 7);
    let Some(all) = info.whole() else { return Ok(()) };
    let precision = engine.precision(info.id)?;
    let whole = engine.run(partition, info.id, all, input.clone())?;
    for at in info.cut_points() {
        let mut crossing = input.clone();
        for range in [StageRange::new(CutPoint(0), at), info.tail(at)]
            .into_iter()
            .flatten()
        {
            crossing = engine.run(partition, info.id, range, crossing)?;
        }
        each(CutCheck {
            at,
            found: apart(&whole, Some(&crossing)),
            precision,
        });
    }
    Ok(())
}

/// Difference of a batch from the one that is right; incomparable where it has other shapes, or is not there.
fn apart(right: &Batch, found: Option<&Batch>) -> Discrepancy {
    let difference = found.and_then(|f| right.difference(f));
    difference.unwrap_or(Discrepancy::INCOMPARABLE)
}

/// Runs a batch, and again for each row with all other rows exchanged. Gives the largest change of that row's output,
/// which is 0 unless requests mix.
///
/// Both runs have the same size, so that the same arithmetic is done in the same order.
pub fn check_rows(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    batch: usize,
) -> Result<Discrepancy, EngineError> {
    let info = model.info();
    let Some(all) = info.whole() else {
        return Ok(Discrepancy::default());
    };
    let input = Batch::pseudo_random(info.inputs(), batch, 11);
    let others = Batch::pseudo_random(info.inputs(), batch, 12);
    let before = engine.run(partition, info.id, all, input.clone())?;
    let mut worst = Discrepancy::default();
    for row in 0..batch {
        let rows: Vec<Batch> = (0..batch)
            .filter_map(|i| if i == row { input.row(i) } else { others.row(i) })
            .collect();
        let Some(exchanged) = Batch::join(&rows) else {
            continue;
        };
        let after = engine.run(partition, info.id, all, exchanged)?;
        let found = before.row(row).zip(after.row(row));
        let found = found.map_or(Discrepancy::INCOMPARABLE, |(a, b)| apart(&a, Some(&b)));
        worst = worst.or_larger(found);
    }
    Ok(worst)
}

/// Runs a batch, and each of its rows alone: the largest difference.
fn check_alone(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    batch: usize,
) -> Result<Discrepancy, EngineError> {
    let info = model.info();
    let Some(all) = info.whole() else {
        return Ok(Discrepancy::default());
    };
    let input = Batch::pseudo_random(info.inputs(), batch, 11);
    let together = engine.run(partition, info.id, all, input.clone())?;
    let mut worst = Discrepancy::default();
    for row in 0..batch {
        let (Some(one), Some(of_batch)) = (input.row(row), together.row(row)) else {
            continue;
        };
        let alone = engine.run(partition, info.id, all, one)?;
        worst = worst.or_larger(apart(&of_batch, Some(&alone)));
    }
    Ok(worst)
}

/// Checks everything that is demanded of an engine, with one model on one partition. Empty: it conforms.
pub fn check(
    engine: &dyn Engine,
    model: &Model,
    shape: &PartitionShape,
) -> Result<Vec<Failure>, EngineError> {
    let mut failures = vec![];
    let outcome = guarded(|| Ok(demands(engine, model, shape, &mut failures)));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error),
        Err(panicked) => failures.push(Failure {
            demand: "a panic is an error",
            seen: Panicked::to_string(&panicked),
        }),
    }
    Ok(failures)
}

/// Demand that answers are those that are known without the engine.
const ANSWERS: &str = "answers are right";
/// Networks of as many seeds whose answers are known.
const KNOWN_NETWORKS: u64 = 3;
/// Requests of a batch of such a network.
const KNOWN_BATCH: usize = 3;

/// An engine's answers between all cut points of small networks are those that are known without it: one that gives
/// back what it gave before, leaves layers out, or says that it ran them, does not stand this.
fn known_answers(
    engine: &dyn Engine,
    partition: PartitionId,
    fail: &mut dyn FnMut(&'static str, String),
) -> Result<(), EngineError> {
    for seed in 0..KNOWN_NETWORKS {
        let known = Known::new(seed);
        let options = ReadOptions::default();
        let Ok(model) = Model::parse("known.onnx".as_ref(), &known.file(), &options) else {
            fail(ANSWERS, "the known network can't be read".to_owned());
            return Ok(());
        };
        let info = model.info();
        engine.load(&model)?;
        // Other requests come after the first ones: an engine that remembers answers gives the wrong ones then.
        for dice in [1, 2] {
            let input = Batch::pseudo_random(info.inputs(), KNOWN_BATCH, 100 * dice + seed);
            known_network(engine, partition, (&known, info), &input, fail)?;
        }
        engine.unload(info.id)?;
    }
    Ok(())
}

/// Runs a known network between all cut points, on the requests of a batch.
fn known_network(
    engine: &dyn Engine,
    partition: PartitionId,
    (known, info): (&Known, &ModelInfo),
    input: &Batch,
    fail: &mut dyn FnMut(&'static str, String),
) -> Result<(), EngineError> {
    let precision = engine.precision(info.id)?;
    let floats = |batch: &Batch| -> Vec<f32> {
        let tensors = batch.tensors().iter();
        tensors.flat_map(|t| t.numbers().map(|n| n as f32)).collect()
    };
    let rows = (0..KNOWN_BATCH).filter_map(|row| input.row(row));
    let right: Vec<Vec<Vec<f64>>> = rows.map(|row| known.tensors(&floats(&row))).collect();
    let at = |cut: CutPoint| -> Vec<f64> { right.iter().flat_map(|row| row[cut.index()].clone()).collect() };
    let ranges = info.cut_points().flat_map(|from| {
        let later = info.cut_points();
        later.filter_map(move |to| StageRange::new(from, to))
    });
    for range in ranges {
        let cut = &info.cuts[range.from().index()];
        let numbers: Vec<f32> = at(range.from()).iter().map(|&v| v as f32).collect();
        let shape = cut.tensors[0].shape.clone();
        let taken = Tensor::new(KNOWN_BATCH, shape, Elements::F32(numbers))?;
        let given = engine.run(partition, info.id, range, taken.into())?;
        let wanted = at(range.to());
        let (most, of) = match given.tensors() {
            [only] if only.numbers().count() == wanted.len() => {
                largest_difference(wanted.iter().copied(), only.numbers())
            }
            _ => (f64::INFINITY, 0.0),
        };
        if most > precision.from_right() * of.max(1.0) {
            fail(
                ANSWERS,
                format!("layers {range} of a known network: {most} of {of}"),
            );
        }
    }
    Ok(())
}

/// Batches that the engine keeps give the same as batches of the host, whole and row by row.
fn held_batches(
    engine: &dyn Engine,
    partition: PartitionId,
    info: &ModelInfo,
    fail: &mut dyn FnMut(&'static str, String),
) -> Result<(), EngineError> {
    const DEMAND: &str = "a batch that is kept equals one of the host";
    let Some(all) = info.whole() else { return Ok(()) };
    let precision = engine.precision(info.id)?;
    let input = Batch::pseudo_random(info.inputs(), 3, 21);
    let right = engine.run(partition, info.id, all, input.clone())?;
    let middle = CutPoint(all.to().0 / 2);
    let mut kept = Held::Host(input);
    let parts = [
        StageRange::new(all.from(), middle),
        StageRange::new(middle, all.to()),
    ];
    for range in parts.into_iter().flatten() {
        kept = engine.run_held(partition, info.id, range, kept)?;
        if kept.requests() != 3 {
            fail(DEMAND, format!("{kept:?} instead of 3 requests"));
            return Ok(());
        }
        // The same requests in another order, and back.
        let order = |kept: &Held, rows: [usize; 3]| -> Vec<Held> {
            rows.iter().filter_map(|&row| kept.row(row)).collect()
        };
        let turned = engine.join(partition, info.id, range, order(&kept, [2, 0, 1]))?;
        kept = engine.join(partition, info.id, range, order(&turned, [1, 2, 0]))?;
    }
    let found = apart(&right, Some(&kept.into_host()?));
    if !is_equal(found, precision) {
        fail(DEMAND, format!("{} of {}", found.most, found.of));
    }
    Ok(())
}

fn demands(
    engine: &dyn Engine,
    model: &Model,
    shape: &PartitionShape,
    failures: &mut Vec<Failure>,
) -> Result<(), EngineError> {
    let mut fail = |demand: &'static str, seen: String| failures.push(Failure { demand, seen });
    let info = model.info();
    let unknown_before = matches!(
        engine.run(
            PartitionId(u32::MAX),
            info.id,
            StageRange::new(CutPoint(0), info.last()).expect("a model has two cut points"),
            Batch::pseudo_random(info.inputs(), 1, 0),
        ),
        Err(EngineError::NoPartition(_) | EngineError::NotLoaded(_))
    );
    if !unknown_before {
        fail("a partition that is not open is an error", "it ran".to_owned());
    }
    engine.load(model)?;
    let once = engine.memory();
    engine.load(model)?;
    if engine.memory() != once {
        fail(
            "loading twice keeps one copy",
            format!("{:?} became {:?}", once, engine.memory()),
        );
    }
    let precision = engine.precision(info.id)?;
    let partition = engine.open_partition(shape)?;
    if engine.computes() {
        known_answers(engine, partition, &mut fail)?;
    }
    if engine.threads(partition)? > shape.share() as usize {
        fail(
            "a partition takes no more threads than cores",
            format!("{} threads on {shape}", engine.threads(partition)?),
        );
    }
    for batch in [1, 5] {
        check_cuts(engine, partition, model, batch, |c| {
            if !c.holds() {
                fail(
                    "head and tail equal the whole",
                    format!(
                        "cut point {}, batch {batch}: {} of {}",
                        c.at, c.found.most, c.found.of
                    ),
                );
            }
        })?;
    }
    let all = info.whole().expect("a model has two cut points");
    let shown = |found: Discrepancy| format!("{} of {}", found.most, found.of);
    let found = check_rows(engine, partition, model, 3)?;
    if !found.within(precision.between_ways()) {
        fail("requests of a batch don't mix", shown(found));
    }
    let found = check_alone(engine, partition, model, 3)?;
    if !is_equal(found, precision) {
        fail("a batch equals its rows alone", shown(found));
    }
    let joined = Batch::pseudo_random(info.inputs(), 3, 11);
    let together = engine.run(partition, info.id, all, joined.clone())?;
    let mut crossing = joined;
    for from in info.cut_points() {
        let Some(range) = StageRange::new(from, CutPoint(from.0.saturating_add(1))) else {
            continue;
        };
        if range.to() > info.last() {
            break;
        }
        let before = crossing.clone();
        crossing = engine.run(partition, info.id, range, crossing)?;
        for (at, passing) in info.passing(range).into_iter().enumerate() {
            let unchanged =
                passing.is_none_or(|from| crossing.tensors().get(at) == before.tensors().get(from));
            if !unchanged {
                fail(
                    "a tensor that crosses both ends passes unchanged",
                    format!("tensor {at} of cut point {}", range.to()),
                );
            }
        }
    }
    let found = apart(&together, Some(&crossing));
    if !is_equal(found, precision) {
        fail("chunk by chunk equals the whole", shown(found));
    }
    held_batches(engine, partition, info, &mut fail)?;
    let wrong_size = info.inputs().elements() + 1;
    let wrong_cut = Cut {
        tensors: vec![TensorSpec {
            name: String::new(),
            shape: vec![wrong_size],
            dtype: DType::F32,
            elements: wrong_size,
            batch_axis: 0,
        }],
    };
    let wrong = engine.run(partition, info.id, all, Batch::pseudo_random(&wrong_cut, 1, 0));
    if !matches!(wrong, Err(EngineError::Input { .. })) {
        fail("a wrong shape is an error", "it ran".to_owned());
    }
    let beyond = StageRange::new(CutPoint(0), CutPoint(info.last().0.saturating_add(1)))
        .expect("0 is before the last");
    let input = Batch::pseudo_random(info.inputs(), 1, 0);
    if !matches!(
        engine.run(partition, info.id, beyond, input.clone()),
        Err(EngineError::BeyondLastCut { .. })
    ) {
        fail(
            "a range beyond the last cut point is an error",
            "it ran".to_owned(),
        );
    }
    engine.close_partition(partition)?;
    if !matches!(
        engine.run(partition, info.id, all, input),
        Err(EngineError::NoPartition(_))
    ) {
        fail("a closed partition is an error", "it ran".to_owned());
    }
    engine.unload(info.id)?;
    if engine.memory().models + 1 != once.models {
        fail("unloading frees the model", format!("{:?}", engine.memory()));
    }
    Ok(())
}
