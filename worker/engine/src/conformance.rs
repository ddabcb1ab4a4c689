//! Checks of what every engine must do: run [`check`] on an engine with a model and look at what fails.

use graft_model::{Batch, Cut, CutPoint, DType, Discrepancy, Model, StageRange, TensorSpec};

use crate::checks::guarded;
use crate::engine::{Engine, EngineError, Panicked, PartitionId};
use crate::shape::PartitionShape;

/// Difference of head and tail from the whole that is allowed, as a part of the whole's largest magnitude.
pub const TOLERANCE: f64 = 1e-5;

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
}

impl CutCheck {
    /// Whether the difference is within [`TOLERANCE`].
    pub fn holds(&self) -> bool {
        self.found.within(TOLERANCE)
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
    let partition = engine.open_partition(shape)?;
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
    if !found.within(TOLERANCE) {
        fail("requests of a batch don't mix", shown(found));
    }
    let found = check_alone(engine, partition, model, 3)?;
    if !found.within(TOLERANCE) {
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
    if !found.within(TOLERANCE) {
        fail("chunk by chunk equals the whole", shown(found));
    }
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
