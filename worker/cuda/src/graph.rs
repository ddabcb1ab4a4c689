//! A model's layers as this engine reads them: nodes with each meaning written out, and constants.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use graft_model::{Model, StageRange};
use rten_onnx::onnx::{AttributeProto, NodeProto, TensorProto};

use crate::params::Element;

/// Why a network is not run on this device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", node.as_ref().map(|n| format!("node {n}: ")).unwrap_or_default())]
pub struct Unserved {
    /// The node.
    pub node: Option<String>,
    /// What it does that this engine does not.
    pub why: String,
}

impl Unserved {
    /// A reason without a node.
    pub fn because(why: impl Into<String>) -> Self {
        Unserved {
            node: None,
            why: why.into(),
        }
    }
}

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its sizes.
    pub dims: Vec<usize>,
    /// Type of its elements in a device's memory.
    pub element: Element,
    /// Its elements.
    pub numbers: Numbers,
}

/// Elements on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Floats.
    Floats(Arc<Vec<f32>>),
    /// Integers.
    Integers(Arc<Vec<i64>>),
}

impl HostTensor {
    /// A list of integers.
    pub fn integers(numbers: Vec<i64>) -> Self {
        HostTensor {
            dims: vec![numbers.len()],
            element: Element::I64,
            numbers: Numbers::Integers(Arc::new(numbers)),
        }
    }

    /// A number that tensors of other elements mostly don't have.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.numbers {
            Numbers::Floats(all) => all.iter().for_each(|x| x.to_bits().hash(&mut hasher)),
            Numbers::Integers(all) => all.hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Its elements as integers.
    pub fn as_integers(&self) -> Vec<i64> {
        match &self.numbers {
            Numbers::Integers(all) => all.to_vec(),
            Numbers::Floats(all) => all.iter().map(|&x| x as i64).collect(),
        }
    }

    /// Its elements as floats.
    pub fn as_floats(&self) -> Vec<f32> {
        match &self.numbers {
            Numbers::Integers(all) => all.iter().map(|&n| n as f32).collect(),
            Numbers::Floats(all) => all.to_vec(),
        }
    }

    /// Its element, where it has one.
    pub fn only(&self) -> Option<f32> {
        match &self.numbers {
            Numbers::Floats(all) if all.len() == 1 => Some(all[0]),
            Numbers::Integers(all) if all.len() == 1 => Some(all[0] as f32),
            _ => None,
        }
    }
}

/// A layer.
#[derive(Debug)]
pub struct Node {
    /// Its operator.
    pub kind: String,
    /// How messages call it.
    pub label: String,
    /// Names of its inputs; empty: not given.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    attributes: HashMap<String, Attribute>,
}

/// An attribute's values; those that it has not are empty.
#[derive(Debug, Clone, Default)]
struct Attribute {
    int: Option<i64>,
    float: Option<f32>,
    text: Option<String>,
    ints: Vec<i64>,
    /// The element of a tensor of one.
    only: Option<f32>,
}

impl Attribute {
    fn of(attribute: &AttributeProto) -> Self {
        Attribute {
            int: attribute.i,
            float: attribute.f,
            text: attribute.s.clone(),
            ints: attribute.ints.clone(),
            only: attribute.t.as_ref().and_then(constant).and_then(|t| t.only()),
        }
    }
}

impl Node {
    fn new(node: &NodeProto, index: usize) -> Self {
        let kind = node.op_type.clone().unwrap_or_default();
        let name = node.name.as_deref().filter(|n| !n.is_empty());
        let domain = node.domain.as_deref().filter(|d| !matches!(*d, "" | "ai.onnx"));
        Node {
            label: format!(
                "{} ({kind})",
                name.map_or_else(|| format!("#{index}"), str::to_owned)
            ),
            kind: domain.map_or(kind.clone(), |d| format!("{d}.{kind}")),
            inputs: node.input.clone(),
            outputs: node.output.clone(),
            attributes: node
                .attribute
                .iter()
                .map(|a| (a.name.clone().unwrap_or_default(), Attribute::of(a)))
                .collect(),
        }
    }

    /// A node that was made here; integers and lists of them as attributes.
    pub fn made(kind: &str, inputs: &[&str], output: &str, ints: &[(&str, &[i64])]) -> Self {
        let attribute = |list: &[i64]| Attribute {
            int: list.first().copied().filter(|_| list.len() == 1),
            ints: list.to_vec(),
            ..Attribute::default()
        };
        Node {
            kind: kind.to_owned(),
            label: format!("{output} ({kind})"),
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attributes: ints
                .iter()
                .map(|(name, list)| ((*name).to_owned(), attribute(list)))
                .collect(),
        }
    }

    /// The same with a text attribute.
    pub fn with_text(mut self, name: &str, text: &str) -> Self {
        self.attributes.entry(name.to_owned()).or_default().text = Some(text.to_owned());
        self
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attributes.get(name)?.int
    }

    /// A list of integers. `None`: there is no such attribute.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attributes.get(name).map(|a| a.ints.as_slice())
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attributes.get(name)?.float
    }

    /// A text attribute.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name)?.text.as_deref()
    }

    /// The element of its attribute `value`.
    pub fn constant_value(&self) -> Option<f32> {
        self.attributes.get("value")?.only
    }

    /// An input's name. `None`: it is not given.
    pub fn input(&self, place: usize) -> Option<&str> {
        self.inputs
            .get(place)
            .map(String::as_str)
            .filter(|n| !n.is_empty())
    }

    /// Its first output's name.
    pub fn output(&self) -> &str {
        self.outputs.first().map_or("", String::as_str)
    }
}

/// A model's layers.
#[derive(Debug)]
pub struct Graph {
    /// In an order in which they can be run.
    pub nodes: Vec<Node>,
    /// Constants by name.
    pub constants: HashMap<String, HostTensor>,
    consumers: HashMap<String, Vec<usize>>,
    producers: HashMap<String, usize>,
    /// Tensors of each cut point.
    cuts: Vec<Vec<String>>,
}

impl Graph {
    /// Reads a model. `Err`: it holds constants of types that are not known here.
    pub fn of(model: &Model) -> Result<Self, Unserved> {
        let graph = model
            .graph()
            .ok_or_else(|| Unserved::because("a file without a graph"))?;
        let mut constants = HashMap::new();
        for tensor in &graph.initializer {
            let name = tensor.name.clone().unwrap_or_default();
            let constant = constant(tensor).ok_or_else(|| {
                Unserved::because(format!("constant {name} is of a type that it does not know"))
            })?;
            constants.insert(name, constant);
        }
        let nodes: Vec<Node> = graph
            .node
            .iter()
            .enumerate()
            .map(|(i, n)| Node::new(n, i))
            .collect();
        let cuts = model.info().cuts.iter();
        let cuts = cuts.map(|c| c.names().map(str::to_owned).collect()).collect();
        Ok(Self::made(nodes, constants, cuts))
    }

    /// Nodes in an order in which they can be run, constants, and the tensors of each cut point.
    pub fn made(nodes: Vec<Node>, constants: HashMap<String, HostTensor>, cuts: Vec<Vec<String>>) -> Self {
        let mut consumers: HashMap<String, Vec<usize>> = HashMap::new();
        let mut producers = HashMap::new();
        for (place, node) in nodes.iter().enumerate() {
            for name in node.inputs.iter().collect::<BTreeSet<_>>() {
                consumers.entry(name.clone()).or_default().push(place);
            }
            for name in &node.outputs {
                producers.insert(name.clone(), place);
            }
        }
        Graph {
            nodes,
            constants,
            consumers,
            producers,
            cuts,
        }
    }

    /// The node that makes a tensor.
    pub fn producer(&self, name: &str) -> Option<&Node> {
        self.producers.get(name).map(|&place| &self.nodes[place])
    }

    /// The nodes that read a tensor.
    pub fn consumers(&self, name: &str) -> &[usize] {
        self.consumers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Tensors at a range's two ends.
    pub fn ends(&self, range: StageRange) -> (&[String], &[String]) {
        (&self.cuts[range.from().index()], &self.cuts[range.to().index()])
    }

    /// The nodes of a range, in their order: those that lead from its first cut point to its last.
    pub fn nodes_of(&self, range: StageRange) -> Vec<usize> {
        let (from, to) = self.ends(range);
        let given: HashSet<&str> = from.iter().map(String::as_str).collect();
        let mut needed = BTreeSet::new();
        let mut open: Vec<&str> = to
            .iter()
            .map(String::as_str)
            .filter(|n| !given.contains(n))
            .collect();
        while let Some(name) = open.pop() {
            let Some(&place) = self.producers.get(name) else {
                continue;
            };
            if needed.insert(place) {
                let inputs = self.nodes[place].inputs.iter().map(String::as_str);
                open.extend(inputs.filter(|n| !given.contains(n)));
            }
        }
        needed.into_iter().collect()
    }
}

/// A constant of a file.
fn constant(tensor: &TensorProto) -> Option<HostTensor> {
    let dims = tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<Vec<_>>>()?;
    let count: usize = dims.iter().product();
    let raw = tensor.raw_data.as_ref().map(|raw| raw.borrow().clone());
    fn all<const N: usize, T>(raw: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (chunks, _) = raw.as_chunks::<N>();
        chunks.iter().map(|&c| f(c)).collect()
    }
    let bytes = |f: fn(u8) -> i64| -> Vec<i64> {
        match &raw {
            Some(raw) => raw.iter().map(|&b| f(b)).collect(),
            None => tensor.int32_data.iter().map(|&n| i64::from(n)).collect(),
        }
    };
    // Numbers of ONNX' TensorProto.DataType.
    let (element, numbers) = match tensor.data_type?.0 {
        1 => {
            let floats = raw.map_or_else(|| tensor.float_data.clone(), |raw| all(&raw, f32::from_le_bytes));
            (Element::F32, Numbers::Floats(Arc::new(floats)))
        }
        10 => {
            let halves = raw.map_or_else(
                || {
                    tensor
                        .int32_data
                        .iter()
                        .map(|&n| half::f16::from_bits(n as u16).to_f32())
                        .collect()
                },
                |raw| all(&raw, |b| half::f16::from_le_bytes(b).to_f32()),
            );
            (Element::F16, Numbers::Floats(Arc::new(halves)))
        }
        6 => {
            let integers = raw.map_or_else(
                || tensor.int32_data.iter().map(|&n| i64::from(n)).collect(),
                |raw| all(&raw, |b| i64::from(i32::from_le_bytes(b))),
            );
            (Element::I32, Numbers::Integers(Arc::new(integers)))
        }
        7 => {
            let integers = raw.map_or_else(|| tensor.int64_data.clone(), |raw| all(&raw, i64::from_le_bytes));
            (Element::I64, Numbers::Integers(Arc::new(integers)))
        }
        2 => (Element::U8, Numbers::Integers(Arc::new(bytes(i64::from)))),
        3 => (
            Element::I8,
            Numbers::Integers(Arc::new(bytes(|b| i64::from(b as i8)))),
        ),
        9 => (Element::Bool, Numbers::Integers(Arc::new(bytes(i64::from)))),
        _ => return None,
    };
    let has = match &numbers {
        Numbers::Floats(all) => all.len(),
        Numbers::Integers(all) => all.len(),
    };
    (has == count).then_some(HostTensor {
        dims,
        element,
        numbers,
    })
}
