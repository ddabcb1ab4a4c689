//! Walks a graph in the file's order: drops what does nothing, makes the batch symbolic, infers every
//! shape, finds the cut points and writes the graph that engines load.
//!
//! A tensor crosses a position of the order if it is made before it and used after it (the model's output
//! counts as used at the end). Where exactly one tensor crosses, the graph can be cut: by the definition of
//! dominance every path from input to output goes through that tensor, so the set of cut points does not
//! depend on which topological order the file uses.

mod bounds;
mod cuts;
mod lower;
mod write;

pub use bounds::{Guard, Narrow};
pub(crate) use write::value_info;

use std::collections::{BTreeSet, HashMap, HashSet};

use rten_onnx::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use crate::cut::{Cut, CutPoint, Segment};
use crate::dim::{DType, Dim, elements, show};
use crate::error::{ModelError, ModelErrorKind};
use crate::fact::{Fact, Num, Origin, Small, small_of, tensor_of};
use crate::fold::fold;
use crate::options::ReadOptions;
use crate::rules::{Op, Outcome, expand, infer, reshape};

/// Result of the walk.
pub(crate) struct Analysis {
    pub input: String,
    pub output: String,
    pub cuts: Vec<Cut>,
    pub segments: Vec<Segment>,
    /// The graph with each node's meaning written out.
    pub graph: ModelProto,
    /// The file's own nodes, in the words of its own operator set.
    pub standard: Vec<StandardNode>,
    /// Constants that those nodes read and the graph does not hold.
    pub constants: Vec<TensorProto>,
    pub narrow: Narrow,
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
        options,
    };
    for tensor in graph.initializer {
        walk.initializer(tensor)?;
    }
    let used: HashSet<String> = graph.node.iter().flat_map(reads).collect();
    let input = walk.input(&graph.input, &used)?;
    for (index, node) in graph.node.into_iter().enumerate() {
        let label = label(&node, index);
        walk.label = label.clone();
        walk.node(node, index).map_err(|e| e.at_node(label))?;
    }
    let output = walk.output(&graph.output)?;
    let found = walk.cut(&input, &output)?;
    Ok(walk.write(&input, found, opset, ir_version))
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

    /// The one input that is no initializer, with its batch made symbolic.
    ///
    /// `used`: the tensors that nodes read; an input that none reads is left out.
    fn input(&mut self, inputs: &[ValueInfoProto], used: &HashSet<String>) -> Result<String, ModelError> {
        let mut real: Vec<&ValueInfoProto> = inputs
            .iter()
            .filter(|v| !self.initializers.contains_key(v.name.as_deref().unwrap_or("")))
            .collect();
        if real.len() > 1 {
            real.retain(|v| used.contains(v.name.as_deref().unwrap_or("")));
        }
        let [info] = real.as_slice() else {
            let names: Vec<&str> = real.iter().filter_map(|v| v.name.as_deref()).collect();
            return Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                format!("the model has {} inputs ({})", real.len(), names.join(", ")),
                "A cut point is where one tensor crosses: export the model with one input and the others as constants",
            ));
        };
        let name = info.name.clone().unwrap_or_default();
        let tensor = info
            .r#type
            .as_ref()
            .and_then(|t| t.tensor_type.as_ref())
            .ok_or_else(|| malformed(format!("input {name} is no tensor")))?;
        let code = tensor.elem_type.map_or(0, |t| t.0);
        let dtype = DType::from_onnx(code)
            .ok_or_else(|| element_type(format!("input {name} has {}", type_name(code))))?;
        let dims = tensor
            .shape
            .as_ref()
            .map(|s| s.dim.as_slice())
            .unwrap_or_default();
        let wanted = self.options.input_shape.as_deref();
        if let Some(shape) = wanted
            && shape.len() + 1 != dims.len()
            && !dims.is_empty()
        {
            return Err(ModelError::new(
                ModelErrorKind::DynamicShape,
                format!(
                    "input {name} has {} dimensions with the batch, the manifest's shape has {} without it",
                    dims.len(),
                    shape.len()
                ),
                "Give the shape of one request",
            ));
        }
        let rank = wanted.map_or(dims.len(), |s| s.len() + 1);
        let mut facts = vec![];
        for i in 0..rank {
            let given = dims.get(i).and_then(|d| d.dim_value).filter(|&v| v > 0);
            let chosen = wanted.and_then(|s| i.checked_sub(1).and_then(|i| s.get(i)));
            facts.push(match (i, chosen, given) {
                (0, _, None | Some(1)) => Dim::BATCH,
                (0, _, Some(n)) => {
                    return Err(ModelError::new(
                        ModelErrorKind::Batch,
                        format!("input {name} has a fixed batch of {n}"),
                        "Export the model with a batch of 1 or a symbolic batch",
                    ));
                }
                (_, Some(&c), Some(n)) if n != c as i64 => {
                    return Err(ModelError::new(
                        ModelErrorKind::DynamicShape,
                        format!("dimension {i} of input {name} is {n} in the file and {c} in the manifest"),
                        "Mend the manifest's shape",
                    ));
                }
                (_, Some(&c), _) => Dim::fixed(c),
                (_, None, Some(n)) => Dim::fixed(n as usize),
                (_, None, None) => {
                    let symbol = dims.get(i).and_then(|d| d.dim_param.as_deref()).unwrap_or("?");
                    return Err(ModelError::new(
                        ModelErrorKind::DynamicShape,
                        format!("dimension {i} ({symbol}) of input {name} is not known"),
                        "Graft needs every size but the batch: set `shape` under [input] in model.toml, or export the model with fixed sizes",
                    ));
                }
            });
        }
        if facts.is_empty() {
            return Err(ModelError::new(
                ModelErrorKind::DynamicShape,
                format!("input {name} has no shape in the file"),
                "Set `shape` under [input] in model.toml, or export the model with its shapes",
            ));
        }
        elements(&facts)?;
        let mut fact = Fact::data(facts, dtype);
        if dtype == DType::I64 {
            fact.bound = Some(bounds::OUTSIDE);
            self.watch_input(&name);
        }
        self.facts.insert(name.clone(), fact);
        Ok(name)
    }

    /// The one output, or the one that the options name.
    fn output(&self, outputs: &[ValueInfoProto]) -> Result<String, ModelError> {
        let names: Vec<&str> = outputs.iter().filter_map(|v| v.name.as_deref()).collect();
        let name = match (&self.options.output, names.as_slice()) {
            (Some(wanted), _) if names.contains(&wanted.as_str()) => wanted.as_str(),
            (Some(wanted), _) => {
                return Err(ModelError::new(
                    ModelErrorKind::Manifest,
                    format!("the model has no output {wanted}"),
                    format!("Its outputs are: {}", names.join(", ")),
                ));
            }
            (None, [one]) => one,
            (None, _) => {
                return Err(ModelError::new(
                    ModelErrorKind::NoCutPoint,
                    format!("the model has {} outputs ({})", names.len(), names.join(", ")),
                    "Choose one: `output = \"…\"` in model.toml",
                ));
            }
        };
        let name = self.resolve(name);
        match self.facts.get(&name) {
            Some(fact) if fact.is_data() => Ok(name),
            _ => Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                format!("output {name} is the same whatever the input is"),
                "There is nothing to run for a request: choose another output in model.toml, or answer with the constant",
            )),
        }
    }

    fn resolve(&self, name: &str) -> String {
        self.aliases.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }

    fn node(&mut self, mut node: NodeProto, index: usize) -> Result<(), ModelError> {
        let kind = node.op_type.clone().unwrap_or_default();
        if let Some(domain) = node.domain.as_deref()
            && !matches!(domain, "" | "ai.onnx")
        {
            return Err(ModelError::new(
                ModelErrorKind::UnknownOperator,
                format!("operator {kind} of domain {domain} is unknown to Graft"),
                "Export the model with standard ONNX operators only",
            ));
        }
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
        let Some(output) = node.output.first().cloned().filter(|o| !o.is_empty()) else {
            return Err(match node.output.iter().any(|o| !o.is_empty()) {
                true => not_served(format!("{kind} without its first output is not served")),
                false => malformed("a node without output"),
            });
        };
        for name in node.output.iter().filter(|o| !o.is_empty()) {
            if self.facts.contains_key(name) || self.aliases.contains_key(name) {
                return Err(malformed(format!("tensor {name} is made twice")));
            }
        }
        match kind.as_str() {
            "Identity" | "Dropout" => return self.alias(&node, &kind, output),
            "Constant" => return self.constant(node, output),
            "Shape" | "Size" => return self.shape_of(&node, output),
            _ => {}
        }
        let (data, target, outcome) = match self.ruling(&node, &kind)? {
            Ruled::Folded(small, dtype) => {
                self.facts.insert(output, Fact::from_small(small, dtype));
                return Ok(());
            }
            Ruled::Kept {
                data,
                target,
                outcome,
            } => (data, target, outcome),
        };
        let flops = match outcome.flops {
            Some(flops) => flops,
            None => elements(&outcome.outputs[0].0)? as u64,
        };
        self.look_at_divisor(&node, &kind, outcome.outputs[0].1);
        let bound = self.bound(&node, &kind, index, &outcome.outputs[0])?;
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
        if kind == "Concat" && data {
            self.repeat_constants(&mut node, index)?;
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
        self.lower(node.clone(), index, &outcome.outputs[0])?;
        if counts_batch {
            // The node written out needs none.
            self.standard.clone_from(&self.runs);
        }
        let origin = if data { Origin::Data } else { Origin::Constant };
        for (name, (dims, dtype)) in node.output.iter().zip(outcome.outputs) {
            elements(&dims)?;
            let fact = Fact {
                dims,
                dtype,
                origin,
                small: None,
                bound,
            };
            self.facts.insert(name.clone(), fact);
        }
        self.keep(index, kind, outputs, data, flops)
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
