//! Opening a model: from a file to cut points and the graph that engines load.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use graft_features::{CutCoding, Features};
use rten_onnx::onnx::{DataLocation, GraphProto, ModelProto, TensorProto, ValueInfoProto};
use rten_onnx::protobuf::{EncodeMessage, ProtobufError, ValueWriter};
use sha2::{Digest, Sha256};

use crate::analyze::{StandardNode, analyze};
use crate::cut::{Cut, ModelId, NUMBERING};
use crate::dim::DType;
use crate::error::{ModelError, ModelErrorKind};
use crate::info::{Listed, ModelInfo};
use crate::options::ReadOptions;
use crate::parts::{Originals, Parts, WeightsFile};
use crate::written::{GraphBeside, Written};
use crate::{careful, framing};

/// Operator sets of the default domain that Graft reads.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=21;

/// A model that was read: what is known of it, and the graph for an engine.
pub struct Model {
    info: Arc<ModelInfo>,
    graph: ModelProto,
    /// The file's own nodes, and constants that the graph does not hold.
    standard: Vec<StandardNode>,
    constants: Vec<TensorProto>,
    /// Operator sets of the file beside the standard's, with their versions.
    domains: Vec<(String, i64)>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Reads an ONNX model that holds its weights itself; `file` is for messages.
    pub fn parse(file: &Path, bytes: &[u8], options: &ReadOptions) -> Result<Self, ModelError> {
        let none = |_: &Path| {
            Err(io::Error::new(
                io::ErrorKind::NotFound,
                "there is no file beside the model",
            ))
        };
        Self::parse_with_weights(file, bytes, &none, options)
    }

    /// Reads an ONNX model; `file` is for messages, `weights` gives the content of files beside it, by relative path.
    pub fn parse_with_weights(
        file: &Path,
        bytes: &[u8],
        weights: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
        options: &ReadOptions,
    ) -> Result<Self, ModelError> {
        read(file, bytes, weights, options).map_err(|e| e.in_file(file))
    }

    /// What is known of it.
    pub fn info(&self) -> &Arc<ModelInfo> {
        &self.info
    }

    /// The file's own nodes in parts between cut points, with everything in them.
    pub fn parts(&self) -> Parts {
        let as_it_is = |_, tensor: &TensorProto| Ok::<_, Infallible>(tensor.clone());
        Parts::of(self.originals(), as_it_is).unwrap_or_else(|e| match e {})
    }

    /// The parts, with the larger weights written to `weights`: the content of a file beside them, which they name as
    /// external data by [`Parts::WEIGHTS`].
    pub fn parts_beside_weights(&self, weights: impl io::Write) -> io::Result<Parts> {
        let mut file = WeightsFile::new(weights);
        let parts = Parts::of(self.originals(), |dtype, tensor| file.put(dtype, tensor))?;
        file.close()?;
        Ok(parts)
    }

    /// What parts are made of.
    fn originals(&self) -> Originals<'_> {
        Originals {
            info: &self.info,
            ir_version: self.graph.ir_version,
            nodes: &self.standard,
            domains: &self.domains,
            constants: self.all_constants().collect(),
        }
    }

    /// All constants of the graph and of the file's nodes.
    pub(crate) fn all_constants(&self) -> impl Iterator<Item = &TensorProto> {
        let graph = self.graph.graph.iter().flat_map(|g| &g.initializer);
        graph.chain(&self.constants)
    }

    /// Names of the nodes in messages: `name (operator)`.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        let nodes = self.standard.iter().filter_map(|n| n.nodes.first());
        nodes.filter_map(|node| node.name.as_deref())
    }

    /// The graph for engines, as [`Model::engine_graph`] writes it.
    pub fn graph(&self) -> Option<&GraphProto> {
        self.graph.graph.as_ref()
    }

    /// The graph for engines, as an ONNX file: symbolic batch, no dead nodes, every cut point an output.
    pub fn engine_graph(&self) -> Result<Vec<u8>, ModelError> {
        self.graph.write_buf().map_err(|e| self.cannot_write(&e))
    }

    /// Writes the graph for engines whose Relu and Clip lose NaN, as an ONNX file: with a second way through the layers on
    /// which NaN and infinite numbers pass as the standard says. `true`: it has one; [`Model::careful_name`] names its
    /// tensors. Weights are written as they lie in memory, without a copy.
    pub fn write_careful_graph(&self, out: impl io::Write) -> Result<bool, ModelError> {
        let whole = self.graph.graph.as_ref();
        let weights = whole.map_or(&[][..], |graph| &graph.initializer);
        let mut graph = whole.map(without_weights).unwrap_or_default();
        let added = careful::add(&mut graph);
        let written = Written {
            ir_version: self.graph.ir_version,
            opset_import: &self.graph.opset_import,
            graph: GraphBeside {
                graph: &graph,
                weights,
            },
        };
        written
            .encode(ValueWriter::new(out))
            .map_err(|e| self.cannot_write(&e))?;
        Ok(added)
    }

    /// The name of a tensor on the second way.
    pub fn careful_name(tensor: &str) -> String {
        careful::name_of(tensor)
    }

    fn cannot_write(&self, error: &ProtobufError) -> ModelError {
        let what = format!("can't be written: {error}");
        ModelError::new(ModelErrorKind::Malformed, what, "").in_file(&self.info.file)
    }
}

/// The graph but for its weights.
fn without_weights(graph: &GraphProto) -> GraphProto {
    GraphProto {
        node: graph.node.clone(),
        input: graph.input.clone(),
        output: graph.output.clone(),
        value_info: graph.value_info.clone(),
        initializer: vec![],
    }
}

fn read(
    file: &Path,
    bytes: &[u8],
    weights: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    options: &ReadOptions,
) -> Result<Model, ModelError> {
    let not_onnx = |what: String| {
        ModelError::new(
            ModelErrorKind::NotOnnx,
            what,
            "Is it an ONNX file, and was it copied whole? (onnx.checker.check_model tells)",
        )
    };
    framing::check(bytes).map_err(|e| not_onnx(format!("is no ONNX model, or is cut off: {e}")))?;
    let proto = ModelProto::parse_buf(bytes)
        .map_err(|e| not_onnx(format!("is no ONNX model, or is cut off: {e}")))?;
    let opset = proto
        .opset_import
        .iter()
        .filter(|set| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx")))
        .find_map(|set| set.version)
        .ok_or_else(|| not_onnx("names no operator set".to_owned()))?;
    if !OPSETS.contains(&opset) {
        return Err(ModelError::new(
            ModelErrorKind::Opset,
            format!("uses operator set {opset}"),
            format!(
                "Graft reads {} to {}: export it again, or convert it with onnx.version_converter",
                OPSETS.start(),
                OPSETS.end()
            ),
        ));
    }
    let mut graph = proto.graph.ok_or_else(|| not_onnx("has no graph".to_owned()))?;
    if graph.node.is_empty() {
        return Err(not_onnx("has a graph without nodes".to_owned()));
    }

    let mut hash = Sha256::new();
    hash.update(b"graft model, cut points numbered by version ");
    hash.update(NUMBERING.to_le_bytes());
    options.add_to(&mut hash);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
    let constants = graph.node.iter_mut().flat_map(|n| &mut n.attribute);
    let constants = constants.filter_map(|a| a.t.as_mut());
    let tensors = graph.initializer.iter_mut().chain(constants);
    for (name, content) in inline_external(tensors, weights)? {
        hash.update(name.as_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(&content);
    }
    let id = ModelId(hash.finalize().into());

    let domains = proto.opset_import.iter().filter_map(|set| {
        let domain = set.domain.as_deref().filter(|d| !matches!(*d, "" | "ai.onnx"))?;
        Some((domain.to_owned(), set.version?))
    });
    let domains: Vec<(String, i64)> = domains.collect();
    let ir_version = proto.ir_version.unwrap_or(7).max(4);
    let listed = listed(&graph);
    let analysis = analyze(graph, opset, ir_version, options).map_err(|e| e.of_opset(opset))?;
    let features = options
        .features
        .as_deref()
        .map(|bytes| coded(bytes, &analysis.cuts));
    let features = features.transpose()?.unwrap_or_default();
    Ok(Model {
        info: Arc::new(ModelInfo {
            id,
            file: file.to_owned(),
            opset,
            cuts: analysis.cuts,
            segments: analysis.segments,
            narrow: analysis.narrow,
            listed,
            fixed: options.fixed(),
            opaque: analysis.opaque,
            features,
            divides: analysis.divides,
        }),
        graph: analysis.graph,
        standard: analysis.standard,
        constants: analysis.constants,
        domains,
    })
}

/// How tensors may travel in fewer bytes, held against the cut points.
fn coded(bytes: &[u8], cuts: &[Cut]) -> Result<Features, ModelError> {
    let wrong = |what: String| {
        let hint = "Make it anew for this file: graft model features";
        ModelError::new(ModelErrorKind::Manifest, format!("features: {what}"), hint)
    };
    let features = Features::from_bytes(bytes).map_err(|e| wrong(e.to_string()))?;
    for (point, coding) in &features.0 {
        let between = cuts.get(..cuts.len() - 1).unwrap_or_default();
        let cut = between
            .get(usize::from(*point))
            .ok_or_else(|| wrong(format!("nothing is sent at cut point {point}")))?;
        let (least, most) = CutCoding::bytes(cut.tensors.iter().map(|t| t.elements));
        let fits = (least..=most).contains(&(coding.mean_bytes as usize))
            && cut.tensors.len() == coding.tensors.len()
            && (cut.tensors.iter().zip(&coding.tensors))
                .all(|(spec, coding)| spec.dtype == DType::F32 && coding.fits(spec.elements));
        if !fits {
            return Err(wrong(format!(
                "at cut point {point} they are of other tensors than {cut}"
            )));
        }
    }
    Ok(features)
}

/// The file's inputs and outputs.
fn listed(graph: &GraphProto) -> Listed {
    let initializers: HashSet<&str> = graph
        .initializer
        .iter()
        .filter_map(|t| t.name.as_deref())
        .collect();
    let names = |values: &[ValueInfoProto]| -> Vec<String> {
        values
            .iter()
            .map(|v| v.name.clone().unwrap_or_default())
            .collect()
    };
    let mut inputs = names(&graph.input);
    inputs.retain(|name| !initializers.contains(name.as_str()));
    Listed {
        inputs,
        outputs: names(&graph.output),
    }
}

/// Moves weights that lie in files of their own into the tensors; gives those files' content by name.
fn inline_external<'t>(
    tensors: impl Iterator<Item = &'t mut TensorProto>,
    weights: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<BTreeMap<String, Vec<u8>>, ModelError> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for tensor in tensors {
        if tensor.data_location != Some(DataLocation::EXTERNAL) {
            continue;
        }
        let name = tensor.name.clone().unwrap_or_default();
        let wrong = |what: String| {
            ModelError::new(
                ModelErrorKind::Malformed,
                what,
                "Keep the weights' file beside the model, under the name that the model gives it",
            )
            .at_node(format!("(weights {name})"))
        };
        let field = |key: &str| {
            tensor
                .external_data
                .iter()
                .find(|e| e.key.as_deref() == Some(key))
                .and_then(|e| e.value.clone())
        };
        let number = |key: &str| -> Result<Option<usize>, ModelError> {
            field(key)
                .map(|v| v.parse().map_err(|_| wrong(format!("{key} is {v}, no number"))))
                .transpose()
        };
        let location = field("location").unwrap_or_default();
        let plain = Path::new(&location);
        let inside = plain
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if location.is_empty() || !inside {
            return Err(wrong(format!(
                "weights lie in {location:?}, outside the model's folder"
            )));
        }
        if !files.contains_key(&location) {
            let content =
                weights(plain).map_err(|e| wrong(format!("weights' file {location} can't be read: {e}")))?;
            files.insert(location.clone(), content);
        }
        let content = &files[&location];
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(content.len().saturating_sub(offset));
        let bytes = offset
            .checked_add(length)
            .and_then(|end| content.get(offset..end))
            .ok_or_else(|| wrong(format!("weights' file {location} is cut off")))?
            .to_vec();
        tensor.raw_data = Some(bytes.into());
        tensor.data_location = None;
        tensor.external_data.clear();
    }
    Ok(files)
}
