//! RNN, GRU and LSTM: sequences, with the time as the first dimension and the batch as the second.

use super::{Op, Outcome, Ruling, malformed, mixes_batch};
use crate::dim::{Dim, elements, show};
use crate::error::{ModelError, ModelErrorKind};

/// Whether an initial state is zero for every request, as it is where none is given.
pub(crate) fn is_zero(op: &Op<'_>, i: usize) -> bool {
    let state = op.input(i).and_then(|f| f.small.as_ref());
    state.is_some_and(|s| s.nums.iter().all(|n| n.coef == 0.0))
}

/// Whether the lengths of sequences, input 4, are the whole time for every request, as they are where none are given.
pub(crate) fn is_whole(op: &Op<'_>) -> bool {
    let time = op.input(0).and_then(|x| x.dims.first()).map(|d| d.coef as f64);
    let lengths = op.input(4).and_then(|f| f.small.as_ref());
    lengths.is_some_and(|s| s.nums.iter().all(|n| !n.batch && Some(n.coef) == time))
}

pub(super) fn recurrent(op: &Op<'_>) -> Ruling {
    let (x, weights, again) = (op.required(0)?, op.required(1)?, op.required(2)?);
    if op.int("layout", 0) != 0 {
        return Err(ModelError::new(
            ModelErrorKind::UnknownOperator,
            format!("{} with layout 1 is not served", op.kind),
            "Export it with the time as the first dimension",
        ));
    }
    let [time, batch, _] = x.dims.as_slice() else {
        return Err(malformed(format!("{} of {}", op.kind, show(&x.dims))));
    };
    if time.batch || x.dims[2].batch {
        return Err(mixes_batch(format!("{} runs along the batch", op.kind)));
    }
    let directions = match op.text("direction").unwrap_or("forward") {
        "bidirectional" => 2,
        _ => 1,
    };
    let hidden = again.dims.last().and_then(|d| d.known());
    let hidden = hidden.ok_or_else(|| malformed("recurrent weights without a size"))?;
    if weights.dims.len() != 3 || again.dims.len() != 3 || weights.dims[0] != Dim::fixed(directions) {
        return Err(malformed(format!(
            "{} in {directions} direction(s) with weights of {}",
            op.kind,
            show(&weights.dims)
        )));
    }
    for (i, what) in [(5, "state"), (6, "cell state")] {
        let Some(state) = op.input(i).filter(|_| !is_zero(op, i)) else {
            continue;
        };
        let fits = [Dim::fixed(directions), *batch, Dim::fixed(hidden)];
        if op.kind != "LSTM" && i == 6 {
            continue;
        }
        if state.dims != fits {
            let what = format!(
                "an initial {what} of {}, expected {}",
                show(&state.dims),
                show(&fits)
            );
            return Err(match batch.batch {
                true => mixes_batch(what),
                false => malformed(what),
            });
        }
    }
    if let Some(lengths) = op.input(4).filter(|_| !is_whole(op))
        && lengths.dims != [*batch]
    {
        return Err(mixes_batch(format!(
            "{} with lengths of sequences of shape {} holds for one size of the batch only",
            op.kind,
            show(&lengths.dims)
        )));
    }
    let state = vec![Dim::fixed(directions), *batch, Dim::fixed(hidden)];
    let all = vec![*time, Dim::fixed(directions), *batch, Dim::fixed(hidden)];
    let mut weights_count = 0u64;
    for fact in [weights, again] {
        weights_count = weights_count.saturating_add(elements(&fact.dims)? as u64);
    }
    let mut outputs = vec![(all, x.dtype), (state.clone(), x.dtype)];
    if op.kind == "LSTM" {
        outputs.push((state, x.dtype));
    }
    Ok(Outcome {
        outputs,
        flops: Some((2 * time.coef as u64).saturating_mul(weights_count)),
    })
}
