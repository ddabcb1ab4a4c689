//! Walks a graph in the file's order: drops what does nothing, makes the batch symbolic, infers every
//! shape, finds the cut points and writes the graph that engines load.
//!
//! A tensor crosses a position of the order if it is made before it and used after it (the model's outputs
//! count as used at the end). Where exactly one tensor crosses, the graph can be cut: by the definition of
//! dominance every path from input to output goes through that tensor, so the set of these cut points does not
//! depend on which topological order the file uses. Long stretches without such a place are cut where few tensors
//! cross; these cut points do depend on the file's order, which belongs to the model's identity.

mod bounds;
mod crossing;
mod cuts;
mod ends;
mod lower;
mod write;

pub use bounds::{Guard, Narrow};
pub(crate) use write::value_info;

use std::collections::{BTreeSet, HashMap, HashSet};

use rten_onnx::onnx::{GraphProto, ModelProto, NodeProto, TensorProto};

use crate::cut::{Cut, CutPoint, Segment};
use crate::dim::{DType, Dim, elements, show};
use crate::error::{ModelError, ModelErrorKind};
use crate::fact::{Fact, LIMITS, Num, Origin, Small, small_of, tensor_of};
use crate::fold::fold;
use crate::options::{ReadOptions, ToldTensor};
use crate::rules::{Op, Outcome, expand, infer, reshape};

/// Result of the walk.
pub(crate) struct Analysis {
    pub cuts: Vec<Cut>,
    pub segments: Vec<Segment>,
    /// The graph with each node's meaning written out.
    pub graph: ModelProto,
    /// The file's own nodes, in the words of its own operator set.
    pub standard: Vec<StandardNode>,
    /// Constants that those nodes read and the graph does not hold.
    pub constants: Vec<TensorProto>,
    pub narrow: Narrow,
    pub opaque: Vec<String>,
    pub divides: Option<String>,
}

/// The nodes that stand for one node of the file, in the words of its own operator set.
pub(crate) struct StandardNode {
    /// Segment that it belongs to. `None`: it does not depend on the input.
    pub segment: Option<usize>,
    pub nodes: Vec<NodeProto>,
}

/// A node of the file that stays.
struct Kept {
    /// Index in the file.
    place: usize,
    kind: String,
    /// Tensors that it reads, once each.
    inputs: BTreeSet<String>,
    outputs: Vec<String>,
    /// Nodes that engines run for it: the node with its meaning written out, or several that mean the same.
    runs: Vec<NodeProto>,
    /// The node as the file's operator set has it, the batch made symbolic.
    standard: Vec<NodeProto>,
    /// Whether it depends on the model's input: then it counts for cut points.
    data: bool,
    flops: u64,
}

/// What the rules say of a node.
enum Ruled {
    /// Its output's values are known.
    Folded(Small, DType),
    /// It stays; `target`: the shape that it is to be given instead of its own.
    Kept {
        data: bool,
        target: Option<Vec<i64>>,
        outcome: Outcome,
        /// There is no rule: the options tell what it gives.
        told: bool,
    },
}

struct Walk<'a> {
    opset: i64,
    /// Outputs of Identity and Dropout, and what they stand for.
    aliases: HashMap<String, String>,
    facts: HashMap<String, Fact>,
    initializers: HashMap<String, TensorProto>,
    kept: Vec<Kept>,
    /// Outputs of nodes that Graft does not serve, and why.
    unserved: HashMap<String, String>,
    /// Name in messages of the node that is being looked at.
    label: String,
    /// Nodes that engines are to run for the node that is being looked at.
    runs: Vec<NodeProto>,
    /// Nodes for the node that is being looked at, in the words of the file's operator set.
    standard: Vec<NodeProto>,
    /// For each limit on what comes from outside: the first node whose 64-bit integers need more than 32 bits.
    wide: [Option<String>; 4],
    /// The first node that computes in 64-bit floats.
    double: Option<String>,
    guards: Vec<Guard>,
    /// The first node that divides integers by what may be 0 or −1.
    divides: Option<String>,
    /// Place of the batch in the file's tensor, for inputs and outputs in which it is not the first dimension.
    turned: HashMap<String, usize>,
    /// Nodes for whose operators there is no rule, with outputs as the options tell them.
    opaque: Vec<String>,
    options: &'a ReadOptions,
}

pub(crate) fn analyze(
    graph: GraphProto,
    opset: i64,
    ir_version: i64,
    options: &ReadOptions,
) -> Result<Analysis, ModelError> {
    let mut walk = Walk {
        opset,
        aliases: HashMap::new(),
        facts: HashMap::new(),
        initializers: HashMap::new(),
        kept: vec![],
        unserved: HashMap::new(),
        label: String::new(),
        runs: vec![],
        standard: vec![],
        wide: Default::default(),
        double: None,
        guards: vec![],
        divides: None,
        turned: HashMap::new(),
        opaque: vec![],
        options,
    };
    for tensor in graph.initializer {
        walk.initializer(tensor)?;
    }
    let used: HashSet<String> = graph.node.iter().flat_map(reads).collect();
    let inputs = walk.inputs(&graph.input, &used)?;
    for (index, node) in graph.node.into_iter().enumerate() {
        let label = label(&node, index);
        walk.label = label.clone();
        walk.node(node, index).map_err(|e| e.at_node(label))?;
    }
    let outputs = walk.outputs(&graph.output)?;
    let found = walk.cut(&inputs, &outputs)?;
    Ok(walk.write(found, opset, ir_version))
}

/// The tensors that a node reads, those of its inner graphs included.
fn reads(node: &NodeProto) -> Vec<String> {
    let inner = node.attribute.iter().filter_map(|a| a.g.as_ref());
    let inner = inner.flat_map(|g| g.node.iter().flat_map(reads));
    node.input.iter().cloned().chain(inner).collect()
}

/// The tensors that some nodes read and none of them makes.
fn taken(nodes: &[NodeProto]) -> BTreeSet<String> {
    let made: HashSet<&String> = nodes.iter().flat_map(|n| &n.output).collect();
    let read = nodes.iter().flat_map(|n| &n.input);
    read.filter(|name| !name.is_empty() && !made.contains(name))
        .cloned()
        .collect()
}

/// How a node is named in messages: its own name where it has one, else its place and first output.
fn label(node: &NodeProto, index: usize) -> String {
    let kind = node.op_type.as_deref().unwrap_or("?");
    match node.name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => format!("{name} ({kind})"),
        None => {
            let output = node.output.first().map_or("", String::as_str);
            format!("#{index} ({kind}, output {output})")
        }
    }
}

/// Element types that Graft does not read, by the numbers of ONNX' `TensorProto.DataType`.
fn type_name(code: i32) -> String {
    let names = [
        (4, "16-bit unsigned integers"),
        (5, "16-bit integers"),
        (8, "texts"),
        (12, "32-bit unsigned integers"),
        (13, "64-bit unsigned integers"),
        (14, "complex numbers"),
        (15, "complex numbers"),
        (16, "bfloat16 numbers"),
    ];
    match names.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("elements of type {code}"),
    }
}

fn element_type(what: String) -> ModelError {
    ModelError::new(
        ModelErrorKind::UnknownOperator,
        format!("{what}, which Graft does not read"),
        "Export it with floats of 16, 32 or 64 bits, or integers of 8, 32 or 64",
    )
}

/// A network that is well-formed, and of which Graft does not serve a part.
fn not_served(what: String) -> ModelError {
    ModelError::new(
        ModelErrorKind::UnknownOperator,
        what,
        "Export the model for inference, without it",
    )
}

/// An operator of a domain of its own.
fn unknown(node: &NodeProto, kind: &str) -> ModelError {
    let domain = node.domain.as_deref().unwrap_or("");
    ModelError::new(
        ModelErrorKind::UnknownOperator,
        format!("operator {kind} of domain {domain} is unknown to Graft"),
        "Export the model with standard ONNX operators only, or have `graft model tell` ask onnxruntime for its shapes",
    )
}

fn malformed(what: impl Into<String>) -> ModelError {
    ModelError::new(
        ModelErrorKind::Malformed,
        what,
        "is the file damaged? check it with onnx.checker",
    )
}

impl Walk<'_> {
    fn initializer(&mut self, tensor: TensorProto) -> Result<(), ModelError> {
        let name = tensor.name.clone().unwrap_or_default();
        let code = tensor.data_type.map_or(0, |t| t.0);
        let dtype = DType::from_onnx(code)
            .ok_or_else(|| element_type(format!("tensor {name} has {}", type_name(code))))?;
        let dims: Vec<usize> = tensor
            .dims
            .iter()
            .map(|&d| usize::try_from(d).ok())
            .collect::<Option<_>>()
            .ok_or_else(|| malformed(format!("tensor {name} has a negative size")))?;
        let fact_dims: Vec<Dim> = dims.iter().map(|&d| Dim::fixed(d)).collect();
        let count = elements(&fact_dims)?;
        let stored = match &tensor.raw_data {
            Some(raw) => raw.borrow().len() / dtype.bytes(),
            None => [
                tensor.float_data.len(),
                tensor.int32_data.len(),
                tensor.int64_data.len(),
                tensor.double_data.len(),
            ]
            .into_iter()
            .max()
            .unwrap_or(0),
        };
        if stored != count {
            return Err(malformed(format!(
                "tensor {name} of shape {} holds {stored} elements instead of {count}",
                show(&fact_dims)
            )));
        }
        let fact = Fact {
            dims: fact_dims,
            dtype,
            origin: Origin::Constant,
            small: small_of(&tensor, &dims, dtype),
            bound: (dtype == DType::I64).then(|| bounds::of_integers(&tensor)),
        };
        self.facts.insert(name.clone(), fact);
        self.initializers.insert(name, tensor);
        Ok(())
    }

    fn resolve(&self, name: &str) -> String {
        self.aliases.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }

    fn node(&mut self, mut node: NodeProto, index: usize) -> Result<(), ModelError> {
        let kind = node.op_type.clone().unwrap_or_default();
        for name in &mut node.input {
            *name = self
                .aliases
                .get(name)
                .cloned()
                .unwrap_or_else(|| std::mem::take(name));
            if !name.is_empty() && !self.facts.contains_key(name) {
                return Err(match self.unserved.get(name) {
                    Some(why) => not_served(format!("input {name}: {why}")),
                    None => malformed(format!("input {name} is not made by an earlier node")),
                });
            }
        }
        let first = node.output.first().cloned().filter(|o| !o.is_empty());
        let output = match first {
            Some(output) => output,
            None if node.output.iter().all(String::is_empty) => {
                return Err(malformed("a node without output"));
            }
            None if matches!(kind.as_str(), "RNN" | "GRU" | "LSTM") => String::new(),
            None => {
                return Err(not_served(format!(
                    "{kind} without its first output is not served"
                )));
            }
        };
        for name in node.output.iter().filter(|o| !o.is_empty()) {
            if self.facts.contains_key(name) || self.aliases.contains_key(name) {
                return Err(malformed(format!("tensor {name} is made twice")));
            }
        }
        let standard = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
        let mut kind = kind;
        if standard && kind == "CastLike" {
            kind = self.cast_to_like(&mut node)?;
        }
        match kind.as_str() {
            _ if !standard => {}
            "Identity" | "Dropout" => return self.alias(&node, &kind, output),
            "Constant" => return self.constant(node, output),
            "Shape" | "Size" => return self.shape_of(&node, output),
            _ => {}
        }
        let ruled = if standard {
            self.ruling(&node, &kind)
        } else {
            Err(unknown(&node, &kind))
        };
        let ruled = ruled.or_else(|error| self.told(&node, error));
        let (data, target, outcome, is_told) = match ruled? {
            Ruled::Folded(small, dtype) => {
                self.facts.insert(output, Fact::from_small(small, dtype));
                return Ok(());
            }
            Ruled::Kept {
                data,
                target,
                outcome,
                told,
            } => (data, target, outcome, told),
        };
        let flops = match outcome.flops {
            Some(flops) => flops,
            None => elements(&outcome.outputs[0].0)? as u64,
        };
        self.look_at_divisor(&node, &kind, outcome.outputs[0].1);
        let bound = self.bound(&node, &kind, index, &outcome.outputs[0])?;
        // Of what an engine told, how large it gets is not known.
        let bound = bound.filter(|_| !is_told);
        // Places along an axis.
        let along = node.input.first().and_then(|name| self.facts.get(name));
        let along = along.map(|x| x.dims.iter().map(|d| d.coef).max().unwrap_or(1) as f64);
        let places = along.filter(|_| kind == "TopK").map(|most| [most; LIMITS.len()]);
        if let Some(target) = target {
            let name = format!("graft:target:{index}");
            let nums = target.iter().map(|&t| Num::fixed(t as f64)).collect();
            let small = Small::list(nums);
            self.facts
                .insert(name.clone(), Fact::from_small(small, DType::I64));
            node.input.truncate(1);
            node.input.push(name);
            node.attribute.retain(|a| a.name.as_deref() != Some("allowzero"));
        }
        match kind.as_str() {
            _ if is_told => {}
            "Concat" if data => self.repeat_constants(&mut node, index)?,
            "RNN" | "GRU" | "LSTM" => self.drop_what_is_default(&mut node),
            "Resize" | "Upsample" => self.resize_to(&mut node, &kind, index)?,
            _ => {}
        }
        let outputs: Vec<String> = node.output.iter().filter(|o| !o.is_empty()).cloned().collect();
        let served = outcome.outputs.len();
        for (i, name) in node.output.iter().enumerate().skip(served) {
            let why = format!("output {i} of {kind} is not served");
            self.unserved.insert(name.clone(), why);
        }
        node.output.truncate(served);
        let by_sizes = |name: &String| self.facts.get(name).is_some_and(|f| f.origin == Origin::Sizes);
        let counts_batch = node.input.iter().any(by_sizes);
        self.standard.push(node.clone());
        if !is_told {
            self.lower(node.clone(), index, &outcome.outputs[0])?;
        } else {
            self.runs.push(node.clone());
        }
        if counts_batch {
            // The node written out needs none.
            self.standard.clone_from(&self.runs);
        }
        let origin = if data { Origin::Data } else { Origin::Constant };
        for (i, (name, (dims, dtype))) in node.output.iter().zip(outcome.outputs).enumerate() {
            elements(&dims)?;
            if name.is_empty() {
                continue;
            }
            let fact = Fact {
                dims,
                dtype,
                origin,
                small: None,
                bound: if i == 0 { bound } else { places },
            };
            self.facts.insert(name.clone(), fact);
        }
        self.keep(index, kind, outputs, data, flops)
    }

    /// Makes CastLike a Cast: the types are known. Gives the operator.
    fn cast_to_like(&self, node: &mut NodeProto) -> Result<String, ModelError> {
        let like = node.input.get(1).and_then(|name| self.facts.get(name));
        let to = like.ok_or_else(|| malformed("input 1 is missing"))?.dtype;
        node.input.truncate(1);
        node.attribute
            .push(lower::int_attribute("to", to.to_onnx().into()));
        node.op_type = Some("Cast".to_owned());
        Ok("Cast".to_owned())
    }

    /// Notes a node that divides integers by values that may be 0 or −1.
    fn look_at_divisor(&mut self, node: &NodeProto, kind: &str, dtype: DType) {
        let floats = matches!(dtype, DType::F32 | DType::F16 | DType::F64);
        if floats || !matches!(kind, "Div" | "Mod") {
            return;
        }
        let divisor = node.input.get(1).and_then(|name| self.facts.get(name));
        let fine = |small: &Small| {
            small
                .nums
                .iter()
                .all(|n| !n.batch && n.coef != 0.0 && n.coef != -1.0)
        };
        if !divisor.and_then(|f| f.small.as_ref()).is_some_and(fine) {
            self.divides.get_or_insert_with(|| self.label.clone());
        }
    }

    /// Closes a node of the file: what engines run for it stays.
    fn keep(
        &mut self,
        place: usize,
        kind: String,
        outputs: Vec<String>,
        data: bool,
        flops: u64,
    ) -> Result<(), ModelError> {
        let mut runs = std::mem::take(&mut self.runs);
        let mut standard = std::mem::take(&mut self.standard);
        for list in [&mut runs, &mut standard] {
            for (i, run) in list.iter_mut().enumerate() {
                // An engine's errors then carry the name of the file's node.
                run.name = Some(match i {
                    0 => self.label.clone(),
                    i => format!("{} /{i}", self.label),
                });
            }
        }
        let inputs = taken(&runs);
        for name in inputs.union(&taken(&standard)) {
            self.provide(name)?;
        }
        self.kept.push(Kept {
            place,
            kind,
            inputs,
            outputs,
            runs,
            standard,
            data,
            flops,
        });
        Ok(())
    }

    /// A node that hands its input on: its output is another name of it.
    fn alias(&mut self, node: &NodeProto, kind: &str, output: String) -> Result<(), ModelError> {
        let from = node.input.first().cloned().unwrap_or_default();
        if from.is_empty() {
            return Err(malformed("input 0 is missing"));
        }
        let training = node.input.get(2).filter(|name| !name.is_empty());
        let off = |fact: &Fact| {
            fact.small
                .as_ref()
                .is_some_and(|s| s.nums.iter().all(|n| n.coef == 0.0))
        };
        if kind == "Dropout" && training.is_some_and(|name| !self.facts.get(name).is_some_and(off)) {
            return Err(not_served(
                "Dropout is in training mode, where its output is random".to_owned(),
            ));
        }
        for mask in node.output.iter().skip(1) {
            let why = format!("the mask of {kind} is not served");
            self.unserved.insert(mask.clone(), why);
        }
        self.aliases.insert(output, from);
        Ok(())
    }

    /// What the options tell of a node for which there is no rule, as an engine found it. `error`: that there is none.
    fn told(&mut self, node: &NodeProto, error: ModelError) -> Result<Ruled, ModelError> {
        let outputs: Vec<&String> = node.output.iter().filter(|o| !o.is_empty()).collect();
        let told = |name: &String| self.options.tensors.get(name);
        let is_told = outputs.iter().all(|name| told(name).is_some());
        let has_graphs = node.attribute.iter().any(|a| a.g.is_some());
        let no_rule = error.kind() == ModelErrorKind::UnknownOperator;
        let data = node.input.iter().filter_map(|name| self.facts.get(name));
        let data = data.into_iter().any(Fact::is_data);
        if !(no_rule && !has_graphs && data && is_told) {
            return Err(match no_rule && !has_graphs && data {
                true => error.without_rule(outputs.into_iter().cloned().collect()),
                false => error,
            });
        }
        let outputs = node.output.iter().map(|name| match told(name) {
            Some(ToldTensor { shape, dtype }) => {
                let sizes = shape.iter().map(|&d| Dim::fixed(d));
                (std::iter::once(Dim::BATCH).chain(sizes).collect(), *dtype)
            }
            None => (vec![], DType::F32),
        });
        let outcome = Outcome {
            outputs: outputs.collect(),
            flops: None,
        };
        self.opaque.push(self.label.clone());
        Ok(Ruled::Kept {
            data,
            target: None,
            outcome,
            told: true,
        })
    }

    /// What the rules say of a node.
    fn ruling(&self, node: &NodeProto, kind: &str) -> Result<Ruled, ModelError> {
        let op = Op {
            node,
            kind,
            opset: self.opset,
            inputs: node.input.iter().map(|name| self.facts.get(name)).collect(),
        };
        let data = op.inputs.iter().flatten().any(|f| f.is_data());
        if !data && let Some((small, dtype)) = fold(&op) {
            return Ok(Ruled::Folded(small, dtype));
        }
        let (target, outcome) = match kind {
            "Reshape" => reshape(&op).map(|(target, outcome)| (Some(target), outcome))?,
            "Expand" => expand(&op).map(|(target, outcome)| (Some(target), outcome))?,
            _ => (None, infer(&op)?),
        };
        Ok(Ruled::Kept {
            data,
            target,
            outcome,
            told: false,
        })
    }

    fn constant(&mut self, node: NodeProto, output: String) -> Result<(), ModelError> {
        for attribute in node.attribute {
            let name = attribute.name.as_deref().unwrap_or("");
            let float = |v: &f32| Num::fixed(f64::from(*v));
            let int = |v: &i64| Num::fixed(*v as f64);
            let (small, dtype) = match (name, attribute.t) {
                ("value", Some(mut tensor)) => {
                    tensor.name = Some(output);
                    return self.initializer(tensor);
                }
                ("value_float", _) => (Small::scalar(float(&attribute.f.unwrap_or(0.0))), DType::F32),
                ("value_int", _) => (Small::scalar(int(&attribute.i.unwrap_or(0))), DType::I64),
                ("value_floats", _) => (
                    Small::list(attribute.floats.iter().map(float).collect()),
                    DType::F32,
                ),
                ("value_ints", _) => (Small::list(attribute.ints.iter().map(int).collect()), DType::I64),
                _ => continue,
            };
            self.facts.insert(output, Fact::from_small(small, dtype));
            return Ok(());
        }
        Err(not_served(
            "a Constant of texts, or of a sparse tensor, is not served".to_owned(),
        ))
    }

    fn shape_of(&mut self, node: &NodeProto, output: String) -> Result<(), ModelError> {
        let fact = node
            .input
            .first()
            .and_then(|name| self.facts.get(name))
            .ok_or_else(|| malformed("input 0 is missing"))?;
        let small = if node.op_type.as_deref() == Some("Size") {
            Small::scalar(crate::dim::product(&fact.dims)?.into())
        } else {
            let rank = fact.dims.len() as i64;
            let bound = |name: &str, default: i64| {
                let v = node
                    .attribute
                    .iter()
                    .find(|a| a.name.as_deref() == Some(name))
                    .and_then(|a| a.i)
                    .unwrap_or(default);
                (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize
            };
            let (start, end) = (bound("start", 0), bound("end", rank));
            let dims = fact.dims.get(start..end).unwrap_or_default();
            Small::list(dims.iter().map(|&d| d.into()).collect())
        };
        self.facts.insert(output, Fact::from_small(small, DType::I64));
        Ok(())
    }

    /// Adds a constant that was computed here to the graph, if it is not there.
    fn provide(&mut self, name: &str) -> Result<(), ModelError> {
        let Some(fact) = self.facts.get(name) else {
            return Ok(());
        };
        match (&fact.small, fact.origin) {
            (_, Origin::Data) | (None, Origin::Constant) => Ok(()),
            (Some(small), Origin::Constant) => {
                if !self.initializers.contains_key(name) {
                    let tensor = tensor_of(name, small, fact.dtype);
                    self.initializers.insert(name.to_owned(), tensor);
                }
                Ok(())
            }
            (_, Origin::Sizes) => Err(ModelError::new(
                ModelErrorKind::Batch,
                format!("input {name} is computed from the batch size"),
                "Graft answers each request of a batch by itself: export the model so that only shapes depend on the batch",
            )),
        }
    }
}

/// Cut points of a range of indexes, for iteration.
pub(crate) fn cut_points(count: usize) -> impl Iterator<Item = CutPoint> {
    (0..count).map(|i| CutPoint(u16::try_from(i).unwrap_or(u16::MAX)))
}
