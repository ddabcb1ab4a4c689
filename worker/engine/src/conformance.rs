//! Checks of what every engine must do: run [`check`] on an engine with a model and look at what fails.

use graft_model::{Cut, CutPoint, DType, Model, StageRange, Tensor};

use crate::checks::guarded;
use crate::engine::{Engine, EngineError, Panicked, PartitionId};

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
    /// Largest difference of an output element.
    pub max_abs_diff: f64,
    /// Largest magnitude of the whole's output.
    pub max_abs: f64,
}

impl CutCheck {
    /// Whether the difference is within [`TOLERANCE`].
    pub fn holds(&self) -> bool {
        self.max_abs_diff <= TOLERANCE * self.max_abs
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
    let input = Tensor::pseudo_random(&info.cuts[0], batch, 7);
    let Some(all) = info.whole() else { return Ok(()) };
    let whole = engine.run(partition, info.id, all, input.clone())?;
    for at in info.cut_points() {
        let mut tensor = input.clone();
        for range in [StageRange::new(CutPoint(0), at), info.tail(at)]
            .into_iter()
            .flatten()
        {
            tensor = engine.run(partition, info.id, range, tensor)?;
        }
        let (max_abs_diff, max_abs) = whole.difference(&tensor).unwrap_or((f64::INFINITY, 0.0));
        each(CutCheck {
            at,
            max_abs_diff,
            max_abs,
        });
    }
    Ok(())
}

/// Runs a batch, and again for each row with all other rows exchanged. Gives the largest change of that row's output,
/// which is 0 unless requests mix, and the largest magnitude of an output.
///
/// Both runs have the same size, so that the same arithmetic is done in the same order.
pub fn check_rows(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    batch: usize,
) -> Result<(f64, f64), EngineError> {
    let info = model.info();
    let Some(all) = info.whole() else {
        return Ok((0.0, 0.0));
    };
    let input = Tensor::pseudo_random(&info.cuts[0], batch, 11);
    let others = Tensor::pseudo_random(&info.cuts[0], batch, 12);
    let before = engine.run(partition, info.id, all, input.clone())?;
    let mut worst = (0.0f64, 0.0f64);
    for row in 0..batch {
        let rows: Vec<Tensor> = (0..batch)
            .filter_map(|i| if i == row { input.row(i) } else { others.row(i) })
            .collect();
        let Some(exchanged) = Tensor::join(&rows) else {
            continue;
        };
        let after = engine.run(partition, info.id, all, exchanged)?;
        let (difference, top) = before
            .row(row)
            .zip(after.row(row))
            .and_then(|(a, b)| a.difference(&b))
            .unwrap_or((f64::INFINITY, 0.0));
        worst = (worst.0.max(difference), worst.1.max(top));
    }
    Ok(worst)
}

/// Runs a batch, and each of its rows alone: the largest difference, and the largest magnitude of an output.
fn check_alone(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    batch: usize,
) -> Result<(f64, f64), EngineError> {
    let info = model.info();
    let Some(all) = info.whole() else {
        return Ok((0.0, 0.0));
    };
    let input = Tensor::pseudo_random(&info.cuts[0], batch, 11);
    let together = engine.run(partition, info.id, all, input.clone())?;
    let mut worst = (0.0f64, 0.0f64);
    for row in 0..batch {
        let (Some(one), Some(of_batch)) = (input.row(row), together.row(row)) else {
            continue;
        };
        let alone = engine.run(partition, info.id, all, one)?;
        let (difference, top) = alone.difference(&of_batch).unwrap_or((f64::INFINITY, 0.0));
        worst = (worst.0.max(difference), worst.1.max(top));
    }
    Ok(worst)
}

/// Checks everything that is demanded of an engine, with one model on some cores. Empty: it conforms.
pub fn check(engine: &dyn Engine, model: &Model, cores: &[usize]) -> Result<Vec<Failure>, EngineError> {
    let mut failures = vec![];
    let outcome = guarded(|| Ok(demands(engine, model, cores, &mut failures)));
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
    cores: &[usize],
    failures: &mut Vec<Failure>,
) -> Result<(), EngineError> {
    let mut fail = |demand: &'static str, seen: String| failures.push(Failure { demand, seen });
    let info = model.info();
    let unknown_before = matches!(
        engine.run(
            PartitionId(u32::MAX),
            info.id,
            StageRange::new(CutPoint(0), info.last()).expect("a model has two cut points"),
            Tensor::pseudo_random(&info.cuts[0], 1, 0),
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
    let partition = engine.open_partition(cores)?;
    if engine.threads(partition)? > cores.len() {
        fail(
            "a partition takes no more threads than cores",
            format!("{} threads on {} cores", engine.threads(partition)?, cores.len()),
        );
    }
    for batch in [1, 5] {
        check_cuts(engine, partition, model, batch, |c| {
            if !c.holds() {
                fail(
                    "head and tail equal the whole",
                    format!(
                        "cut point {}, batch {batch}: {} of {}",
                        c.at, c.max_abs_diff, c.max_abs
                    ),
                );
            }
        })?;
    }
    let all = info.whole().expect("a model has two cut points");
    let (diff, top) = check_rows(engine, partition, model, 3)?;
    if diff > TOLERANCE * top {
        fail("requests of a batch don't mix", format!("{diff} of {top}"));
    }
    let (diff, top) = check_alone(engine, partition, model, 3)?;
    if diff > TOLERANCE * top {
        fail("a batch equals its rows alone", format!("{diff} of {top}"));
    }
    let joined = Tensor::pseudo_random(&info.cuts[0], 3, 11);
    let together = engine.run(partition, info.id, all, joined.clone())?;
    let mut tensor = joined;
    for from in info.cut_points() {
        let Some(range) = StageRange::new(from, CutPoint(from.0.saturating_add(1))) else {
            continue;
        };
        if range.to() > info.last() {
            break;
        }
        tensor = engine.run(partition, info.id, range, tensor)?;
    }
    let (diff, top) = together.difference(&tensor).unwrap_or((f64::INFINITY, 0.0));
    if diff > TOLERANCE * top {
        fail("chunk by chunk equals the whole", format!("{diff} of {top}"));
    }
    let wrong_cut = Cut {
        tensor: String::new(),
        shape: vec![info.cuts[0].elements + 1],
        dtype: DType::F32,
        elements: info.cuts[0].elements + 1,
    };
    let wrong = engine.run(partition, info.id, all, Tensor::pseudo_random(&wrong_cut, 1, 0));
    if !matches!(wrong, Err(EngineError::Input { .. })) {
        fail("a wrong shape is an error", "it ran".to_owned());
    }
    let beyond = StageRange::new(CutPoint(0), CutPoint(info.last().0.saturating_add(1)))
        .expect("0 is before the last");
    let input = Tensor::pseudo_random(&info.cuts[0], 1, 0);
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
