//! Layers that files spell out in several nodes.

use graft_model::SplitMix;

use super::{Case, Dense, Making, exact, tensor, tensor_of};
use crate::params::{Activation, Element};

fn scalar(value: f32) -> Dense {
    Dense {
        dims: vec![],
        values: vec![f64::from(value)],
    }
}

/// GELU of a sum, in the orders of products in which exporters write it.
pub(super) fn gelu(random: &mut SplitMix, round: usize) -> Case {
    let x = tensor_of(random, |random| {
        vec![1 + random.below(3), 8 * (1 + random.below(40))]
    });
    let y = tensor(random, &x.dims);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.input("y", Element::F16, &y);
    for (name, value) in [
        ("root", std::f32::consts::SQRT_2),
        ("part", std::f32::consts::FRAC_1_SQRT_2),
        ("one", 1.0),
        ("half", 0.5),
    ] {
        making.constant(name, &scalar(value));
    }
    making.node("Add", &["x", "y"], "s", &[]);
    match round % 2 {
        0 => making.node("Div", &["s", "root"], "inner", &[]),
        _ => making.node("Mul", &["part", "s"], "inner", &[]),
    }
    making.node("Erf", &["inner"], "erf", &[]);
    making.node("Add", &["erf", "one"], "plus", &[]);
    let order = match round % 3 {
        0 => {
            making.node("Mul", &["s", "plus"], "product", &[]);
            making.node("Mul", &["product", "half"], "out", &[]);
            "(x(1+erf))/2"
        }
        1 => {
            making.node("Mul", &["half", "s"], "halved", &[]);
            making.node("Mul", &["halved", "plus"], "out", &[]);
            "(x/2)(1+erf)"
        }
        _ => {
            making.node("Mul", &["plus", "half"], "halved", &[]);
            making.node("Mul", &["halved", "s"], "out", &[]);
            "x((1+erf)/2)"
        }
    };
    let sums = x.values.iter().zip(&y.values).map(|(a, b)| a + b);
    let expected = Dense {
        dims: x.dims.clone(),
        values: sums.map(|s| Activation::Gelu.of(s)).collect(),
    };
    making.done(format!("gelu as {order} {:?}", x.dims), expected, "map_flat")
}

/// Layer normalisation, with and without a gain and an offset.
pub(super) fn norm(random: &mut SplitMix, round: usize) -> Case {
    let length = 2 + random.below(200);
    let x = tensor_of(random, |random| {
        vec![1 + random.below(3), 1 + random.below(12), length]
    });
    let ones = Dense {
        dims: vec![length],
        values: vec![1.0; length],
    };
    let zeros = Dense {
        dims: vec![length],
        values: vec![0.0; length],
    };
    let (gain, offset) = match round % 2 {
        0 => (tensor(random, &[length]), tensor(random, &[length])),
        _ => (ones, zeros),
    };
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    for (name, values) in [
        ("gain", &gain),
        ("offset", &offset),
        ("two", &scalar(2.0)),
        ("epsilon", &scalar(1e-5)),
    ] {
        making.constant(name, values);
    }
    let last: &[(&str, &[i64])] = &[("axes", [&[-1][..], &[2][..]][round / 2 % 2])];
    making.node("ReduceMean", &["x"], "mean", last);
    making.node("Sub", &["x", "mean"], "apart", &[]);
    match round % 3 {
        0 => making.node("Mul", &["apart", "apart"], "squares", &[]),
        _ => making.node("Pow", &["apart", "two"], "squares", &[]),
    }
    making.node("ReduceMean", &["squares"], "variance", last);
    making.node("Add", &["variance", "epsilon"], "sum", &[]);
    making.node("Sqrt", &["sum"], "deviation", &[]);
    making.node("Div", &["apart", "deviation"], "normal", &[]);
    if round.is_multiple_of(2) {
        making.node("Mul", &["normal", "gain"], "scaled", &[]);
        making.node("Add", &["scaled", "offset"], "out", &[]);
    }
    let expected = exact::layer_norm(&x, &gain, &offset, f64::from(1e-5f32));
    making.done(format!("spelled layer norm {:?}", x.dims), expected, "layer_norm")
}

#[cfg(test)]
mod tests {
    use graft_model::{CutPoint, StageRange};

    use super::*;
    use crate::lower::{Stored, lower};
    use crate::program::Layout;
    use crate::session::Counted;

    #[test]
    fn what_is_spelled_out_is_one_launch() {
        let mut random = SplitMix(3);
        for (family, rounds) in [(gelu as fn(&mut SplitMix, usize) -> Case, 6), (norm, 12)] {
            for round in 0..rounds {
                let case = family(&mut random, round);
                let layouts = case
                    .inputs
                    .iter()
                    .map(|input| Layout::handed_on(input.element, &input.tensor.dims));
                let range = StageRange::new(CutPoint(0), CutPoint(1)).unwrap();
                let mut stored = Stored::new();
                let program = lower(
                    &case.graph,
                    &mut stored,
                    &mut Counted::default(),
                    range,
                    layouts.collect(),
                    true,
                )
                .unwrap();
                let kernels: Vec<_> = program.steps.iter().map(|s| s.kernel).collect();
                assert_eq!(kernels.len(), 1, "{}: {kernels:?}", case.label);
            }
        }
    }
}
