//! From a range of layers to launches.
//!
//! A tensor is a view of memory: sizes and strides. Nodes that only look at it differently launch nothing. What follows a convolution
//! or a product is done by its launch (`fuse`), within the range: a cut point that a range crosses costs nothing.

mod attention;
mod conv;
mod fuse;
mod host;
mod layout;
mod map;
mod matrix;
mod resize;
mod rows;
mod spelled;
mod window;

pub(crate) use resize::{Between, Rule, between};

use std::collections::{HashMap, HashSet};

use graft_model::StageRange;

use crate::graph::{Graph, HostTensor, Node, Numbers, Unserved};
use crate::params::{At, Element, Params, Place};
use crate::program::{Blocks, Layout, Program, Step, arrange, dense};

/// A tensor in the device's memory.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub at: At,
    pub element: Element,
    pub dims: Vec<usize>,
    pub strides: Vec<i64>,
}

impl View {
    fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// The view from an element on.
    fn moved(mut self, elements: i64) -> View {
        let bytes = elements * self.element.bytes() as i64;
        self.at.offset = self.at.offset.wrapping_add_signed(bytes);
        self
    }
}

/// A tensor, wherever it is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Device(View),
    Host(HostTensor),
}

/// Where weights are kept, by name.
pub trait Weights {
    /// The place of weights with a name, which are made where they are not there yet.
    fn place(&mut self, name: &str, make: &mut dyn FnMut() -> Vec<u8>) -> usize;
}

/// Types of tensors that are stored between launches, by name: the same for every range, so that ranges fit together.
pub(crate) type Stored = HashMap<String, Element>;

type Lowered<T> = Result<T, Unserved>;

/// Operators that read and write halves.
const MATRIX: [&str; 9] = [
    "Conv",
    "MatMul",
    "Gemm",
    "MaxPool",
    "AveragePool",
    "Resize",
    "InstanceNormalization",
    "GroupNormalization",
    "ConvTranspose",
];

/// Operators whose results may be much smaller or larger than what they read: these are kept in 32 bits.
const WIDE: [&str; 12] = [
    "Pow",
    "Exp",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Div",
    "Cast",
    "Softplus",
    "ReduceMean",
    "ReduceSum",
    "ReduceL2",
    "Where",
];

pub(crate) struct Lowering<'g> {
    graph: &'g Graph,
    weights: &'g mut dyn Weights,
    stored: &'g mut Stored,
    values: HashMap<String, Value>,
    steps: Vec<Step>,
    slots: Vec<usize>,
    /// Nodes that a launch before does.
    done: HashSet<usize>,
    /// The range's nodes, and the tensors that it gives.
    inside: HashSet<usize>,
    given: HashSet<String>,
    fuses: bool,
    can_fault: bool,
    label: String,
    /// What weights of the node that is looked at are called: its output, whose name no other node has.
    key: String,
}

/// Lowers a range for a batch of `requests`. `inputs`: how they lie.
pub(crate) fn lower(
    graph: &Graph,
    stored: &mut Stored,
    weights: &mut dyn Weights,
    range: StageRange,
    inputs: Vec<Layout>,
    fuses: bool,
) -> Lowered<Program> {
    let (from, to) = graph.ends(range);
    let nodes = graph.nodes_of(range);
    let mut lowering = Lowering {
        graph,
        weights,
        stored,
        values: HashMap::new(),
        steps: vec![],
        slots: vec![],
        done: HashSet::new(),
        inside: nodes.iter().copied().collect(),
        given: to.iter().cloned().collect(),
        fuses,
        can_fault: false,
        label: String::new(),
        key: String::new(),
    };
    for (place, (name, layout)) in from.iter().zip(&inputs).enumerate() {
        let view = View {
            at: At {
                place: Place::Input(place),
                offset: 0,
            },
            element: layout.element,
            dims: layout.dims.clone(),
            strides: layout.strides.clone(),
        };
        lowering.values.insert(name.clone(), Value::Device(view));
    }
    for place in nodes {
        if lowering.done.contains(&place) {
            continue;
        }
        let node = &graph.nodes[place];
        lowering.label = node.label.clone();
        lowering.key = node.output().to_owned();
        lowering.node(node).map_err(|mut unserved| {
            unserved.node.get_or_insert_with(|| node.label.clone());
            unserved
        })?;
    }
    let mut outputs = vec![];
    for (place, name) in to.iter().enumerate() {
        outputs.push(lowering.output(name, place)?);
    }
    let made = lowering.values.iter().filter_map(|(name, value)| match value {
        Value::Device(view) => Some((name.clone(), view.element)),
        Value::Host(_) => None,
    });
    let made = if fuses { vec![] } else { made.collect() };
    let (slots, arena_bytes) = arrange(&lowering.steps, &lowering.slots);
    Ok(Program {
        steps: lowering.steps,
        inputs,
        outputs,
        slots,
        arena_bytes,
        can_fault: lowering.can_fault,
        made,
    })
}

/// Finds out in which types tensors are stored, by lowering the whole model for one request, each node by itself.
pub(crate) fn learn(
    graph: &Graph,
    weights: &mut dyn Weights,
    whole: StageRange,
    inputs: Vec<Layout>,
) -> Lowered<Stored> {
    let mut stored = Stored::new();
    let program = lower(graph, &mut stored, weights, whole, inputs, false)?;
    stored.extend(program.made);
    Ok(stored)
}

/// Elements of a tensor at most: places are counted in 31 bits.
const MAX_ELEMENTS: usize = (1 << 31) - 1;

impl Lowering<'_> {
    fn node(&mut self, node: &Node) -> Lowered<()> {
        if self.on_host(node)? {
            return Ok(());
        }
        match node.kind.as_str() {
            "Conv" => self.conv(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.matmul(node),
            "MaxPool" | "AveragePool" => self.pool(node),
            "GlobalAveragePool" | "GlobalMaxPool" => self.global_pool(node),
            "ReduceMean" if self.spelled_layer_norm(node)? => Ok(()),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" | "ReduceL1"
            | "ReduceSumSquare" => self.reduce(node),
            "Softmax" | "LogSoftmax" => self.softmax(node),
            "LayerNormalization" => self.layer_norm(node),
            "InstanceNormalization" | "GroupNormalization" => self.group_norm(node),
            "Gather" => self.gather(node),
            "Resize" => self.resize(node),
            "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Slice" | "Split" | "Expand"
            | "Identity" | "Concat" | "Pad" | "ConstantOfShape" => self.layout(node),
            _ => self.elementwise(node),
        }
    }

    fn unserved<T>(&self, why: impl Into<String>) -> Lowered<T> {
        Err(Unserved::because(why))
    }

    fn given_value(&self, node: &Node, place: usize) -> Lowered<Value> {
        let name = node
            .input(place)
            .ok_or_else(|| Unserved::because(format!("input {place} is missing")))?;
        self.value(name)
    }

    fn value(&self, name: &str) -> Lowered<Value> {
        if let Some(value) = self.values.get(name) {
            return Ok(value.clone());
        }
        let constant = self.graph.constants.get(name).cloned().map(Value::Host);
        constant.ok_or_else(|| Unserved::because(format!("tensor {name} is not there")))
    }

    /// An input's values, where they are known before anything runs.
    fn known(&self, node: &Node, place: usize) -> Option<HostTensor> {
        match self.value(node.input(place)?) {
            Ok(Value::Host(tensor)) => Some(tensor),
            _ => None,
        }
    }

    /// An input in the device's memory; constants are brought there, floats in 32 bits.
    fn device(&mut self, node: &Node, place: usize) -> Lowered<View> {
        let value = self.given_value(node, place)?;
        Ok(self.on_device(value, node.input(place)))
    }

    fn on_device(&mut self, value: Value, name: Option<&str>) -> View {
        match value {
            Value::Device(view) => view,
            Value::Host(tensor) => {
                // What was worked out here may be another thing for another size of batch: it is called by its content.
                let constant = name.filter(|n| self.graph.constants.contains_key(*n));
                let key = match constant {
                    Some(name) => format!("{name} as it is"),
                    None => format!("{} by {:016x}, {:?}", self.key, tensor.digest(), tensor.dims),
                };
                let (element, bytes) = match &tensor.numbers {
                    Numbers::Floats(_) => (Element::F32, 4),
                    Numbers::Integers(_) => (tensor.element, tensor.element.bytes()),
                };
                let mut make = || match &tensor.numbers {
                    Numbers::Floats(all) => all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
                    Numbers::Integers(all) => all
                        .iter()
                        .flat_map(|n| n.to_le_bytes()[..bytes].to_vec())
                        .collect(),
                };
                let place = Place::Weight(self.weights.place(&key, &mut make));
                let order: Vec<usize> = (0..tensor.dims.len()).collect();
                View {
                    at: At { place, offset: 0 },
                    element,
                    strides: dense(&tensor.dims, &order),
                    dims: tensor.dims,
                }
            }
        }
    }

    fn weight(&mut self, key: &str, mut make: impl FnMut() -> Vec<u8>) -> At {
        At {
            place: Place::Weight(self.weights.place(key, &mut make)),
            offset: 0,
        }
    }

    fn set(&mut self, name: &str, view: View) {
        self.values.insert(name.to_owned(), Value::Device(view));
    }

    /// Room for a tensor; `order`: its dimensions, the one that runs fastest last.
    fn fresh(&mut self, element: Element, dims: &[usize], order: &[usize]) -> Lowered<View> {
        let count = dims.iter().try_fold(1usize, |all, &d| all.checked_mul(d));
        let Some(count) = count.filter(|&n| n <= MAX_ELEMENTS) else {
            return self.unserved("a tensor of more than 2^31 elements: plan for smaller batches");
        };
        self.slots.push(count * element.bytes());
        Ok(View {
            at: At {
                place: Place::Slot(self.slots.len() - 1),
                offset: 0,
            },
            element,
            dims: dims.to_vec(),
            strides: dense(dims, order),
        })
    }

    /// Room for a tensor whose last dimension runs fastest.
    fn fresh_rows(&mut self, element: Element, dims: &[usize]) -> Lowered<View> {
        let order: Vec<usize> = (0..dims.len()).collect();
        self.fresh(element, dims, &order)
    }

    /// Room for pixels, with their channels side by side.
    fn fresh_pixels(&mut self, dims: &[usize]) -> Lowered<View> {
        let mut order: Vec<usize> = (0..dims.len()).collect();
        if dims.len() > 1 {
            order.remove(1);
            order.push(1);
        }
        self.fresh(Element::F16, dims, &order)
    }

    fn push(&mut self, kernel: &'static str, threads: u32, blocks: Blocks, params: Params) {
        self.steps.push(Step {
            kernel,
            blocks,
            threads,
            params,
            label: self.label.clone(),
            partial_bytes: 0,
            counters: 0,
        });
    }

    /// The type in which a node's float result is kept.
    fn stored_as(&mut self, node: &Node, operands: &[View], dims: &[usize]) -> Element {
        let wide = WIDE.contains(&node.kind.as_str());
        self.stored_of(node.output(), wide, operands, dims)
    }

    /// As above, of a tensor that several nodes make together.
    fn stored_named(&mut self, name: &str, operands: &[View], dims: &[usize]) -> Element {
        self.stored_of(name, false, operands, dims)
    }

    fn stored_of(&mut self, name: &str, wide: bool, operands: &[View], dims: &[usize]) -> Element {
        if let Some(&element) = self.stored.get(name) {
            return element;
        }
        let consumers = self.graph.consumers(name).to_vec();
        let kinds =
            |wanted: &dyn Fn(&str) -> bool| consumers.iter().all(|&c| wanted(&self.graph.nodes[c].kind));
        let feeds = self.feeds_matrix(name, 0);
        let count: usize = dims.iter().product();
        let halves = |v: &View| v.element == Element::F16 && v.count() == count;
        let element = if feeds {
            Element::F16
        } else if (!consumers.is_empty() && kinds(&|k| k.ends_with("Softmax"))) || wide {
            Element::F32
        } else if operands.iter().any(halves) {
            Element::F16
        } else {
            Element::F32
        };
        self.stored.insert(name.to_owned(), element);
        element
    }

    /// Whether a tensor is read as halves, by way of nodes that only look at it differently, too.
    fn feeds_matrix(&self, name: &str, depth: usize) -> bool {
        const VIEWS: [&str; 9] = [
            "Transpose",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Slice",
            "Split",
            "Concat",
            "Identity",
        ];
        /// Nodes in a row that are looked through.
        const DEPTH: usize = 8;
        self.graph.consumers(name).iter().any(|&c| {
            let node = &self.graph.nodes[c];
            let looks = VIEWS.contains(&node.kind.as_str()) && depth < DEPTH;
            MATRIX.contains(&node.kind.as_str())
                || looks && node.outputs.iter().any(|o| self.feeds_matrix(o, depth + 1))
        })
    }

    /// The type of a tensor where it is handed on between ranges.
    fn output(&mut self, name: &str, place: usize) -> Lowered<Layout> {
        let value = self.value(name)?;
        let view = self.on_device(value, Some(name));
        let element = *self.stored.entry(name.to_owned()).or_insert(view.element);
        let layout = Layout::handed_on(element, &view.dims);
        let to = View {
            at: At {
                place: Place::Output(place),
                offset: 0,
            },
            element,
            dims: layout.dims.clone(),
            strides: layout.strides.clone(),
        };
        self.label = format!("output {name}");
        // What a launch leaves in a slot of its own, it may leave in the output at once.
        let slot = match view.at.place {
            Place::Slot(slot) if self.slots[slot] == layout.bytes() => Some(slot),
            _ => None,
        };
        let whole = view.at.offset == 0 && view.element == element && same_places(&view, &to);
        if slot.is_some() && whole {
            for step in &mut self.steps {
                step.params.replace(view.at.place, Place::Output(place));
            }
            let values = self.values.values_mut();
            for value in values {
                if let Value::Device(other) = value
                    && other.at.place == view.at.place
                {
                    other.at.place = Place::Output(place);
                }
            }
        } else {
            self.copy(&view, &to)?;
        }
        Ok(layout)
    }
}

/// Whether two views of the same sizes have each element at the same place.
fn same_places(a: &View, b: &View) -> bool {
    let mut both = a.dims.iter().zip(a.strides.iter().zip(&b.strides));
    a.dims == b.dims && both.all(|(&d, (x, y))| d == 1 || x == y)
}

/// A constant's values in another order, as bytes of halves.
fn halves(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values
        .flat_map(|x| half::f16::from_f32(x).to_le_bytes())
        .collect()
}

/// Bytes of floats.
fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}
