//! The ends of a network: its inputs and outputs, with the batch as their first dimension.

use std::collections::{BTreeSet, HashSet};

use rten_onnx::onnx::{Dimension, NodeProto, TypeProtoTensor, ValueInfoProto};

use super::lower::{ints_attribute, operator};
use super::{Kept, Walk, bounds, element_type, malformed, not_served, type_name};
use crate::dim::{DType, Dim, elements, show};
use crate::error::{ModelError, ModelErrorKind};
use crate::fact::{Fact, MAX_SMALL, Num, Small};
use crate::fold::held;
use crate::options::InputOptions;

/// Number of inputs, and of outputs, that a network has at most.
const MOST_ENDS: usize = 64;

fn manifest(what: String, hint: impl Into<String>) -> ModelError {
    ModelError::new(ModelErrorKind::Manifest, what, hint)
}

fn name_of(value: &ValueInfoProto) -> &str {
    value.name.as_deref().unwrap_or("")
}

fn names(values: &[&ValueInfoProto]) -> String {
    let names: Vec<&str> = values.iter().map(|v| name_of(v)).collect();
    names.join(", ")
}

/// The order in which a dimension is put first, or first is put back at its place.
#[derive(Clone, Copy)]
enum Turn {
    ToFront,
    Back,
}

impl Turn {
    /// Where the dimensions of the turned tensor come from.
    fn perm(self, axis: usize, rank: usize) -> Vec<i64> {
        let others = (0..rank).filter(|&i| i != axis);
        let front: Vec<usize> = std::iter::once(axis).chain(others).collect();
        let perm = match self {
            Turn::ToFront => front,
            Turn::Back => {
                let mut back = vec![0; rank];
                for (place, from) in front.into_iter().enumerate() {
                    back[from] = place;
                }
                back
            }
        };
        perm.into_iter().map(|i| i as i64).collect()
    }
}

impl Walk<'_> {
    /// The inputs that are no initializers, with their batch made symbolic, in the file's order.
    ///
    /// `used`: the tensors that nodes read; of several inputs, those that none reads are left out.
    pub(super) fn inputs(
        &mut self,
        inputs: &[ValueInfoProto],
        used: &HashSet<String>,
    ) -> Result<Vec<String>, ModelError> {
        let mut real: Vec<&ValueInfoProto> = inputs
            .iter()
            .filter(|v| !self.initializers.contains_key(name_of(v)))
            .collect();
        let options = self.options;
        let known = |name: &&String| !real.iter().any(|v| name_of(v) == name.as_str());
        if let Some(unknown) = options.inputs.keys().find(known) {
            return Err(manifest(
                format!("the model has no input {unknown}"),
                format!("Its inputs are: {}", names(&real)),
            ));
        }
        if real.len() > 1 {
            real.retain(|v| used.contains(name_of(v)));
        }
        for input in &real {
            if let Some(values) = options.inputs.get(name_of(input)).and_then(|o| o.value.as_ref()) {
                self.fixed(input, values)?;
            }
        }
        real.retain(|v| !self.facts.contains_key(name_of(v)));
        if real.is_empty() || real.len() > MOST_ENDS {
            return Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                format!("the model has {} inputs", real.len()),
                format!("Graft serves models with 1 to {MOST_ENDS} inputs"),
            ));
        }
        if options.input_shape.is_some() && real.len() > 1 {
            return Err(manifest(
                format!(
                    "[input] has a shape, and the model has {} inputs ({})",
                    real.len(),
                    names(&real)
                ),
                "Give each its own: [inputs.NAME] with `shape = [\u{2026}]`",
            ));
        }
        real.into_iter().map(|input| self.input(input)).collect()
    }

    /// Makes an input a constant: it holds the same for every request.
    fn fixed(&mut self, input: &ValueInfoProto, values: &[f64]) -> Result<(), ModelError> {
        let name = name_of(input);
        let (tensor, dtype) = tensor_type(input)?;
        let dims: Vec<usize> = sizes(tensor)
            .iter()
            .map(|d| d.dim_value.and_then(|v| usize::try_from(v).ok()).unwrap_or(1))
            .collect();
        let fixed: Vec<Dim> = dims.iter().map(|&d| Dim::fixed(d)).collect();
        let count = elements(&fixed)?;
        let all = match values {
            [one] => vec![*one; count.min(MAX_SMALL)],
            each => each.to_vec(),
        };
        if all.len() != count {
            return Err(manifest(
                format!(
                    "input {name} of shape {dims:?} holds {count} elements, and [inputs.{name}] gives it {}",
                    values.len()
                ),
                format!("Give one number for all, or {count}; {MAX_SMALL} at most"),
            ));
        }
        let is_float = matches!(dtype, DType::F32 | DType::F16 | DType::F64);
        let fits = |v: f64| is_float || v.fract() == 0.0 && held(v, dtype) == Some(v);
        if let Some(odd) = all.iter().find(|v| !fits(**v)) {
            return Err(manifest(
                format!("[inputs.{name}] gives {odd}, and the input takes elements of type {dtype}"),
                "Mend the manifest's value",
            ));
        }
        let nums = all.into_iter().map(Num::fixed).collect();
        let fact = Fact::from_small(Small { dims, nums }, dtype);
        self.facts.insert(name.to_owned(), fact);
        Ok(())
    }

    /// One input, with its batch made symbolic and put first.
    fn input(&mut self, input: &ValueInfoProto) -> Result<String, ModelError> {
        let name = name_of(input).to_owned();
        let (tensor, dtype) = tensor_type(input)?;
        if dtype == DType::F64 {
            return Err(not_served(format!("input {name} takes 64-bit floats")));
        }
        let said = self.options.inputs.get(&name).cloned().unwrap_or_default();
        let shape = said.shape.as_ref().or(self.options.input_shape.as_ref());
        let dims = sizes(tensor);
        let rank = shape.map_or(dims.len(), |s| s.len() + 1);
        let axis = batch_axis(&name, dims, rank, &said)?;
        let facts = input_dims(&name, dims, shape.map(Vec::as_slice), axis)?;
        elements(&facts)?;
        let mut outer = facts.clone();
        let batch = outer.remove(axis);
        outer.insert(0, batch);
        let mut fact = Fact::data(outer, dtype);
        if dtype == DType::I64 {
            fact.bound = Some(bounds::OUTSIDE);
            self.watch_input(&name);
        }
        let inner = Fact {
            dims: facts,
            ..fact.clone()
        };
        self.facts.insert(name.clone(), fact);
        if axis != 0 {
            let turned = format!("graft:turned:{name}");
            self.turn(&name, &turned, Turn::Back.perm(axis, inner.dims.len()));
            self.facts.insert(turned.clone(), inner);
            self.aliases.insert(name.clone(), turned);
            self.turned.insert(name.clone(), axis);
        }
        Ok(name)
    }

    /// The outputs, those that the options name or all that depend on the inputs, with their batch put first.
    pub(super) fn outputs(&mut self, outputs: &[ValueInfoProto]) -> Result<Vec<String>, ModelError> {
        let listed: Vec<&ValueInfoProto> = outputs.iter().collect();
        let all: Vec<&str> = listed.iter().map(|v| name_of(v)).collect();
        let wanted = &self.options.outputs;
        if let Some(unknown) = wanted.iter().find(|w| !all.contains(&w.as_str())) {
            return Err(manifest(
                format!("the model has no output {unknown}"),
                format!("Its outputs are: {}", names(&listed)),
            ));
        }
        let chosen: Vec<&str> = if wanted.is_empty() {
            all.clone()
        } else {
            wanted.iter().map(String::as_str).collect()
        };
        let hint = if all.len() > 1 {
            "Choose those that you need: `outputs = [\u{2026}]` in model.toml"
        } else {
            "There is nothing to run for a request: answer with the constant"
        };
        let mut found: Vec<String> = vec![];
        let mut constant = None;
        for name in chosen {
            if found.len() > MOST_ENDS {
                break;
            }
            let resolved = self.resolve(name);
            match self.facts.get(&resolved) {
                Some(fact) if fact.is_data() => {
                    if !found.contains(&resolved) {
                        found.push(resolved);
                    }
                }
                Some(_) => constant = constant.or(Some(name)),
                None => {
                    let why = self.unserved.get(&resolved);
                    let why = why.cloned().unwrap_or_else(|| "no node makes it".to_owned());
                    return Err(ModelError::new(
                        ModelErrorKind::NoCutPoint,
                        format!("output {name}: {why}"),
                        hint,
                    ));
                }
            }
        }
        // Of several outputs those that are always the same need not be served, unless they were asked for.
        if let Some(name) = constant.filter(|_| found.is_empty() || !wanted.is_empty()) {
            return Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                format!("output {name} is the same whatever the input is"),
                hint,
            ));
        }
        if found.is_empty() || found.len() > MOST_ENDS {
            return Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                format!("the model has {} outputs", found.len()),
                format!("Graft serves models with 1 to {MOST_ENDS} outputs: {hint}"),
            ));
        }
        for name in &found {
            self.output(name, hint)?;
        }
        Ok(found)
    }

    /// Puts an output's batch first.
    fn output(&mut self, name: &str, hint: &str) -> Result<(), ModelError> {
        let Some(fact) = self.facts.get(name).cloned() else {
            return Err(malformed(format!("output {name} is made by no node")));
        };
        let refused = |why: &str| {
            let what = format!("output {name} of shape {} {why}", show(&fact.dims));
            ModelError::new(ModelErrorKind::NoCutPoint, what, hint)
        };
        if fact.dtype == DType::F64 {
            return Err(refused("holds 64-bit floats, which are not given out"));
        }
        let axis = fact.dims.iter().position(|d| d.batch);
        let axis = axis.filter(|&at| fact.dims[at] == Dim::BATCH);
        let Some(axis) = axis else {
            return Err(refused("has no dimension that is the batch alone"));
        };
        if axis == 0 {
            return Ok(());
        }
        if !self.kept.iter().any(|k| k.outputs.iter().any(|o| o == name)) {
            return Err(refused("is an input whose batch is not its first dimension"));
        }
        let inner = format!("graft:turned:{name}");
        self.rename(name, &inner);
        let mut dims = fact.dims.clone();
        let batch = dims.remove(axis);
        dims.insert(0, batch);
        self.facts.insert(inner.clone(), fact.clone());
        self.facts.insert(name.to_owned(), Fact { dims, ..fact.clone() });
        self.turn(&inner, name, Turn::ToFront.perm(axis, fact.dims.len()));
        self.turned.insert(name.to_owned(), axis);
        Ok(())
    }

    /// Gives a tensor that nodes make another name.
    fn rename(&mut self, from: &str, to: &str) {
        let changed = |name: &mut String| {
            if name == from {
                to.clone_into(name);
            }
        };
        for kept in &mut self.kept {
            if kept.inputs.remove(from) {
                kept.inputs.insert(to.to_owned());
            }
            kept.outputs.iter_mut().for_each(changed);
            let nodes = kept.runs.iter_mut().chain(&mut kept.standard);
            nodes
                .flat_map(|n| n.input.iter_mut().chain(&mut n.output))
                .for_each(changed);
        }
        self.guards.iter_mut().map(|g| &mut g.tensor).for_each(changed);
    }

    /// Adds a node that turns a tensor.
    fn turn(&mut self, from: &str, to: &str, perm: Vec<i64>) {
        let mut node: NodeProto = operator("Transpose", &[from], to, &[]);
        node.attribute.push(ints_attribute("perm", &perm));
        self.kept.push(Kept {
            // No node of the file has this place.
            place: usize::MAX - self.kept.len(),
            kind: "Transpose".to_owned(),
            inputs: BTreeSet::from([from.to_owned()]),
            outputs: vec![to.to_owned()],
            runs: vec![node.clone()],
            standard: vec![node],
            data: true,
            flops: 0,
        });
    }
}

fn tensor_type(input: &ValueInfoProto) -> Result<(&TypeProtoTensor, DType), ModelError> {
    let name = name_of(input);
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| malformed(format!("input {name} is no tensor")))?;
    let code = tensor.elem_type.map_or(0, |t| t.0);
    let dtype = DType::from_onnx(code)
        .ok_or_else(|| element_type(format!("input {name} has {}", type_name(code))))?;
    Ok((tensor, dtype))
}

fn sizes(tensor: &TypeProtoTensor) -> &[Dimension] {
    tensor
        .shape
        .as_ref()
        .map(|s| s.dim.as_slice())
        .unwrap_or_default()
}

/// Place of the batch among an input's dimensions: as the manifest says, else the one that the file calls so, else the
/// first.
fn batch_axis(name: &str, dims: &[Dimension], rank: usize, said: &InputOptions) -> Result<usize, ModelError> {
    let symbols = dims.iter().map(|d| d.dim_param.as_deref().unwrap_or(""));
    let axis = said.axis(symbols);
    if rank == 0 {
        return Err(ModelError::new(
            ModelErrorKind::DynamicShape,
            format!("input {name} has no dimensions, or none that the file knows"),
            format!(
                "Set `shape` under [inputs.{name}] in model.toml; or `value`, if it is the same for every request"
            ),
        ));
    }
    if axis >= rank {
        return Err(manifest(
            format!("input {name} has {rank} dimensions, and a batch axis {axis}"),
            "Axes are counted from 0",
        ));
    }
    Ok(axis)
}

/// Dimensions of an input by the file and, where that leaves them open, by the manifest.
fn input_dims(
    name: &str,
    dims: &[Dimension],
    shape: Option<&[usize]>,
    axis: usize,
) -> Result<Vec<Dim>, ModelError> {
    if let Some(shape) = shape
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
    let rank = shape.map_or(dims.len(), |s| s.len() + 1);
    let dim = |i: usize| {
        let given = dims.get(i).and_then(|d| d.dim_value).filter(|&v| v > 0);
        if i == axis {
            return match given {
                None | Some(1) => Ok(Dim::BATCH),
                Some(n) => Err(ModelError::new(
                    ModelErrorKind::Batch,
                    format!("input {name} has a fixed batch of {n}"),
                    format!(
                        "Export the model with a batch of 1 or a symbolic batch; if the batch is another dimension, set `batch_axis` under [inputs.{name}] in model.toml"
                    ),
                )),
            };
        }
        let chosen = shape.and_then(|s| s.get(if i < axis { i } else { i - 1 }));
        match (chosen, given) {
            (Some(&c), Some(n)) if n != c as i64 => Err(ModelError::new(
                ModelErrorKind::DynamicShape,
                format!("dimension {i} of input {name} is {n} in the file and {c} in the manifest"),
                "Mend the manifest's shape",
            )),
            (Some(&c), _) => Ok(Dim::fixed(c)),
            (None, Some(n)) => Ok(Dim::fixed(n as usize)),
            (None, None) => {
                let symbol = dims.get(i).and_then(|d| d.dim_param.as_deref()).unwrap_or("?");
                Err(ModelError::new(
                    ModelErrorKind::DynamicShape,
                    format!("dimension {i} ({symbol}) of input {name} is not known"),
                    format!(
                        "Graft needs every size but the batch: set `shape` under [input], or under [inputs.{name}], in model.toml, or export the model with fixed sizes"
                    ),
                ))
            }
        }
    };
    (0..rank).map(dim).collect()
}
