//! Nodes that work with sizes: their results are known before anything runs.

use super::{Lowered, Lowering, Value};
use crate::graph::{HostTensor, Node, Numbers};
use crate::params::Element;
use crate::program::{dense, places};

/// Elements of a tensor at most that is worked out here; a larger one is brought to the device.
const MAX_ELEMENTS: usize = 1 << 22;

impl Lowering<'_> {
    /// Works a node out, where all that it reads is known and it works with sizes. `false`: it is for the device.
    pub(super) fn on_host(&mut self, node: &Node) -> Lowered<bool> {
        if node.kind == "Shape" {
            let dims = match self.given_value(node, 0)? {
                Value::Device(view) => view.dims,
                Value::Host(tensor) => tensor.dims,
            };
            let rank = dims.len() as i64;
            let at = |n: i64| (if n < 0 { n + rank } else { n }).clamp(0, rank) as usize;
            let from = at(node.int("start").unwrap_or(0));
            let to = at(node.int("end").unwrap_or(rank));
            let sizes = dims.get(from..to).unwrap_or_default();
            let sizes = HostTensor::integers(sizes.iter().map(|&d| d as i64).collect());
            self.values.insert(node.output().to_owned(), Value::Host(sizes));
            return Ok(true);
        }
        if let Some(result) = self.other_sizes(node) {
            self.values.insert(node.output().to_owned(), Value::Host(result));
            return Ok(true);
        }
        let known: Option<Vec<HostTensor>> = (0..node.inputs.len())
            .map(|place| self.known(node, place))
            .collect();
        let Some(known) = known.filter(|k| !k.is_empty() && k.iter().all(small)) else {
            return Ok(false);
        };
        let Some(result) = work_out(node, &known) else {
            return Ok(false);
        };
        self.values.insert(node.output().to_owned(), Value::Host(result));
        Ok(true)
    }
}

impl Lowering<'_> {
    /// A constant with other sizes, or its elements in another order.
    fn other_sizes(&self, node: &Node) -> Option<HostTensor> {
        match node.kind.as_str() {
            "Transpose" => return turned(node, &self.known(node, 0)?),
            // Halves and floats are the same here.
            "Cast" if matches!(node.int("to"), Some(1 | 10)) => {
                return self
                    .known(node, 0)
                    .filter(|t| matches!(t.numbers, Numbers::Floats(_)));
            }
            _ => {}
        }
        let tensor = self.known(node, 0).filter(|_| node.kind == "Reshape")?;
        let wanted = self.known(node, 1)?.as_integers();
        let count = tensor.dims.iter().product::<usize>();
        let mut dims = vec![];
        for (d, &n) in wanted.iter().enumerate() {
            dims.push(match n {
                0 if node.int("allowzero").unwrap_or(0) == 0 => *tensor.dims.get(d)?,
                -1 => 1,
                n => usize::try_from(n).ok()?,
            });
        }
        if let Some(open) = wanted.iter().position(|&n| n == -1) {
            dims[open] = count.checked_div(dims.iter().product())?;
        }
        (dims.iter().product::<usize>() == count).then_some(HostTensor { dims, ..tensor })
    }
}

/// Weights that a file has the other way round.
fn turned(node: &Node, tensor: &HostTensor) -> Option<HostTensor> {
    let rank = tensor.dims.len();
    let perm: Vec<usize> = match node.ints("perm") {
        Some(perm) => perm
            .iter()
            .map(|&p| usize::try_from(p).ok())
            .collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    let order: Vec<usize> = (0..rank).collect();
    let strides = dense(&tensor.dims, &order);
    let dims: Vec<usize> = perm
        .iter()
        .map(|&p| tensor.dims.get(p).copied())
        .collect::<Option<_>>()?;
    let strides: Vec<i64> = perm.iter().map(|&p| strides[p]).collect();
    let places = places(&dims, &strides);
    let numbers = match &tensor.numbers {
        Numbers::Floats(all) => Numbers::Floats(places.map(|p| all[p]).collect::<Vec<_>>().into()),
        Numbers::Integers(all) => Numbers::Integers(places.map(|p| all[p]).collect::<Vec<_>>().into()),
    };
    Some(HostTensor {
        dims,
        element: tensor.element,
        numbers,
    })
}

fn small(tensor: &HostTensor) -> bool {
    tensor.dims.iter().product::<usize>() <= MAX_ELEMENTS
}

fn work_out(node: &Node, known: &[HostTensor]) -> Option<HostTensor> {
    let first = &known[0];
    let integers = known.iter().all(|t| !t.element.is_float());
    match node.kind.as_str() {
        "ConstantOfShape" => {
            let dims: Vec<usize> = first
                .as_integers()
                .into_iter()
                .map(|n| n.max(0) as usize)
                .collect();
            let count = dims.iter().product::<usize>();
            (count <= MAX_ELEMENTS).then(|| HostTensor {
                dims,
                element: Element::F32,
                numbers: Numbers::Floats(vec![node.constant_value().unwrap_or(0.0); count].into()),
            })
        }
        "Concat" if integers && known.iter().all(|t| t.dims.len() == 1) => Some(HostTensor::integers(
            known.iter().flat_map(HostTensor::as_integers).collect(),
        )),
        "Unsqueeze" | "Squeeze" if integers => {
            let all = first.as_integers();
            let dims = if node.kind == "Squeeze" && all.len() == 1 {
                vec![]
            } else {
                vec![all.len()]
            };
            Some(HostTensor {
                dims,
                element: first.element,
                numbers: first.numbers.clone(),
            })
        }
        "Gather" if integers && first.dims.len() == 1 => {
            let all = first.as_integers();
            let picked = known.get(1)?.as_integers().into_iter().map(|i| {
                let at = if i < 0 { i + all.len() as i64 } else { i };
                usize::try_from(at).ok().and_then(|at| all.get(at).copied())
            });
            Some(HostTensor {
                dims: known.get(1)?.dims.clone(),
                element: first.element,
                numbers: Numbers::Integers(picked.collect::<Option<Vec<i64>>>()?.into()),
            })
        }
        "Add" | "Sub" | "Mul" | "Div" if integers && known.len() == 2 => {
            let (a, b) = (first.as_integers(), known[1].as_integers());
            let count = a.len().max(b.len());
            if [a.len(), b.len()].iter().any(|&n| n != count && n != 1) || count == 0 {
                return None;
            }
            let each = |i: usize| {
                let (x, y) = (a[i % a.len()], b[i % b.len()]);
                match node.kind.as_str() {
                    "Add" => x.checked_add(y),
                    "Sub" => x.checked_sub(y),
                    "Mul" => x.checked_mul(y),
                    _ => x.checked_div(y),
                }
            };
            let larger = if a.len() >= b.len() { first } else { &known[1] };
            Some(HostTensor {
                dims: larger.dims.clone(),
                element: first.element,
                numbers: Numbers::Integers((0..count).map(each).collect::<Option<Vec<i64>>>()?.into()),
            })
        }
        // Weights that are put together from constants.
        "Add" | "Sub" | "Mul" | "Div" if known.len() == 2 && known.iter().all(|t| t.element.is_float()) => {
            let (a, b) = (first.as_floats(), known[1].as_floats());
            let larger = if a.len() >= b.len() { first } else { &known[1] };
            if first.dims != known[1].dims && a.len().min(b.len()) != 1 {
                return None;
            }
            let each = |i: usize| {
                let (x, y) = (a[i % a.len()], b[i % b.len()]);
                match node.kind.as_str() {
                    "Add" => x + y,
                    "Sub" => x - y,
                    "Mul" => x * y,
                    _ => x / y,
                }
            };
            Some(HostTensor {
                dims: larger.dims.clone(),
                element: first.element,
                numbers: Numbers::Floats((0..a.len().max(b.len())).map(each).collect::<Vec<f32>>().into()),
            })
        }
        "Cast" if integers && matches!(node.int("to"), Some(6 | 7)) => Some(first.clone()),
        _ => None,
    }
}
