//! Sessions of ranges, which share one copy of a model's weights.
//!
//! onnxruntime optimises a graph when it makes a session, and keeps the weights that come of it for that session alone.
//! So a range is optimised once, into a file; its weights are taken out of that file and kept by what they hold; the
//! session that runs is made of the rest, unchanged, with weights that all sessions of the model share.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use graft_model::edit::{Initializer, take_out};
use graft_model::{Batch, Model, ModelInfo, Parts, StageRange, Tensor};
use half::f16;
use ndarray::{Array1, ArrayD, Axis, Slice};
use ort::ep;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::library::Library;
use super::values::{elements_of, input_of};
use crate::error::Cause;

/// Smallest weights that sessions share, in bytes.
const SHARED_BYTES: usize = 1024;
/// Name of the file in a model's folder in which graphs say that shared weights lie. It is never read for them:
/// sessions get these weights in memory.
const PLACE: &str = "weights";

/// Key of onnxruntime's setting that says in which folder weights outside of a graph lie.
pub(super) const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// Weights by a hash of their type, shape and content.
type Weights = HashMap<[u8; 32], Weak<DynValue>>;

/// A loaded model.
pub(super) struct Loaded {
    pub info: Arc<ModelInfo>,
    library: Arc<Library>,
    parts: Mutex<Parts>,
    /// Folder for the file's weights, which so take no memory, and for a moment for an optimised graph.
    folder: TempDir,
    weights: Mutex<Weights>,
    packed: PrepackedWeights,
    optimised: Mutex<HashMap<StageRange, Weak<Optimised>>>,
    files: AtomicU64,
}

/// A range as onnxruntime would run it, without its larger weights.
struct Optimised {
    graph: Vec<u8>,
    weights: Vec<(String, Arc<DynValue>)>,
    /// Places, among the tensors at the range's ends, of those that its layers read and make.
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

/// A range that is ready to run.
pub(super) struct Ready {
    session: Session,
    info: Arc<ModelInfo>,
    range: StageRange,
    /// Optimised range, kept for sessions of other partitions that are made while this one is there, too.
    optimised: Arc<Optimised>,
}

impl<T> From<ort::Error<T>> for Cause {
    fn from(error: ort::Error<T>) -> Self {
        Cause::Library(error.to_string())
    }
}

impl Loaded {
    pub fn new(library: Arc<Library>, scratch: &Path, model: &Model) -> Result<Self, Cause> {
        let folder = tempfile::Builder::new().prefix("graft-").tempdir_in(scratch);
        let folder = folder.map_err(|error| Cause::File {
            what: format!("no folder for its weights in {}", scratch.display()),
            error,
        })?;
        let file = File::create_new(folder.path().join(Parts::WEIGHTS)).map(BufWriter::new);
        let parts = file
            .and_then(|file| model.parts_beside_weights(file))
            .map_err(|error| Cause::File {
                what: format!(
                    "its weights can't be written to {} (is there room?)",
                    folder.path().display()
                ),
                error,
            })?;
        Ok(Loaded {
            info: Arc::clone(model.info()),
            library,
            parts: Mutex::new(parts),
            folder,
            weights: Mutex::default(),
            packed: PrepackedWeights::new(),
            optimised: Mutex::default(),
            files: AtomicU64::new(0),
        })
    }

    /// Makes a range ready to run on some cores: by a thread that calls from the first, and one for each of the others.
    pub fn ready(&self, range: StageRange, cores: &[usize]) -> Result<Ready, Cause> {
        let optimised = self.optimised(range)?;
        // Kernels on integers can't share what they repack, and then there is no session.
        let session = self
            .session(&optimised, cores, true)
            .or_else(|_| self.session(&optimised, cores, false))?;
        Ok(Ready {
            session,
            info: Arc::clone(&self.info),
            range,
            optimised,
        })
    }

    /// A session of a range; `share`: with the weights that kernels repack shared by all sessions of the model.
    fn session(&self, optimised: &Optimised, cores: &[usize], share: bool) -> Result<Session, Cause> {
        let mut builder = self
            .builder(cores.len(), true)?
            .with_optimization_level(GraphOptimizationLevel::Disable)?
            .with_env_allocators()?
            // Threads wait for each other in a loop while a session runs, but not afterwards: that would take other
            // sessions' cores.
            .with_intra_op_spinning(true)?
            .with_config_entry("session.force_spinning_stop", "1")?;
        // Each thread gets a core of its own: two that share one would wait for each other in vain.
        let others: Vec<String> = cores.iter().skip(1).map(|core| (core + 1).to_string()).collect();
        if cfg!(target_os = "linux") && !others.is_empty() {
            builder = builder.with_config_entry("session.intra_op_thread_affinities", others.join(";"))?;
        }
        if share {
            builder = builder.with_prepacked_weights(&self.packed)?;
        }
        for (name, value) in &optimised.weights {
            builder = builder.with_initializer(name, Arc::clone(value))?;
        }
        Ok(builder.commit_from_memory(&optimised.graph)?)
    }

    /// A builder of sessions that read weights in the model's folder.
    fn builder(&self, threads: usize, arena: bool) -> Result<SessionBuilder, Cause> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        Session::builder(&self.library.environment)?
            .with_intra_threads(threads)?
            .with_execution_providers([ep::CPU::default().with_arena_allocator(arena).build()])?
            .with_config_entry(WEIGHTS_FOLDER, folder)
            .map_err(Cause::from)
    }

    /// A range as onnxruntime would run it. It is kept as long as some session holds it.
    fn optimised(&self, range: StageRange) -> Result<Arc<Optimised>, Cause> {
        let known = |map: &HashMap<StageRange, Weak<Optimised>>| map.get(&range).and_then(Weak::upgrade);
        if let Some(optimised) = known(&self.optimised.lock().unwrap_or_else(|e| e.into_inner())) {
            return Ok(optimised);
        }
        let parts = self.parts.lock().unwrap_or_else(|e| e.into_inner());
        let part = parts.part(range, None).map_err(Box::new)?;
        drop(parts);
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("{number}.onnx"));
        self.write_optimised(&part.bytes, &file)?;
        let (inputs, outputs) = (part.inputs, part.outputs);
        drop(part.bytes);
        let bytes = std::fs::read(&file).map_err(|error| Cause::File {
            what: format!("{} can't be read", file.display()),
            error,
        })?;
        if let Err(error) = std::fs::remove_file(&file) {
            tracing::debug!(%error, file = %file.display(), "an optimised graph stays until its model is unloaded");
        }
        let mut weights = vec![];
        let mut failed = None;
        let graph = take_out(&bytes, PLACE, |initializer| match self.share(&initializer) {
            Ok(Some(value)) => {
                weights.push((initializer.name, value));
                true
            }
            Ok(None) => false,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let optimised = Arc::new(Optimised {
            graph,
            weights,
            inputs,
            outputs,
        });
        let mut all = self.optimised.lock().unwrap_or_else(|e| e.into_inner());
        all.retain(|_, kept| kept.strong_count() > 0);
        all.insert(range, Arc::downgrade(&optimised));
        Ok(optimised)
    }

    fn write_optimised(&self, part: &[u8], file: &Path) -> Result<(), Cause> {
        let session = self
            .builder(1, false)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_prepacking(false)?
            .with_optimized_model_path(file)?
            .commit_from_memory(part);
        session.map(drop).map_err(Cause::from)
    }

    /// An initialiser's value, from those that the model's sessions share. `None`: it is small, or of another type.
    fn share(&self, initializer: &Initializer<'_>) -> Result<Option<Arc<DynValue>>, Cause> {
        let read;
        let raw = if initializer.elsewhere.is_empty() {
            initializer.raw
        } else {
            read = elsewhere(self.folder.path(), initializer).map_err(|error| Cause::File {
                what: format!("weights {} can't be read", initializer.name),
                error,
            })?;
            &read
        };
        if raw.len() < SHARED_BYTES && initializer.elsewhere.is_empty() {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        hash.update(initializer.data_type.to_le_bytes());
        initializer.dims.iter().for_each(|d| hash.update(d.to_le_bytes()));
        hash.update(raw);
        let key: [u8; 32] = hash.finalize().into();
        let mut weights = self.weights.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(value) = weights.get(&key).and_then(Weak::upgrade) {
            return Ok(Some(value));
        }
        let Some(value) = value_of(initializer.data_type, &initializer.dims, raw) else {
            return Ok(None);
        };
        let value = Arc::new(value?);
        weights.retain(|_, kept| kept.strong_count() > 0);
        weights.insert(key, Arc::downgrade(&value));
        Ok(Some(value))
    }

    /// Bytes of the weights that sessions hold.
    pub fn weights_bytes(&self) -> u64 {
        let weights = self.weights.lock().unwrap_or_else(|e| e.into_inner());
        let held = weights.values().filter_map(Weak::upgrade);
        held.map(|value| {
            let shape = value.dtype().tensor_shape().map_or(0, |s| s.num_elements());
            let each = value.dtype().tensor_type().and_then(|t| t.byte_size(1));
            (shape * each.unwrap_or(0)) as u64
        })
        .sum()
    }
}

/// Elements of an initialiser that lie in a file of the folder.
fn elsewhere(folder: &Path, initializer: &Initializer<'_>) -> std::io::Result<Vec<u8>> {
    let entry = |key: &str| {
        let mut all = initializer.elsewhere.iter();
        all.find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    };
    let number = |key: &str| entry(key).and_then(|v| v.parse().ok());
    let mut file = File::open(folder.join(entry("location").unwrap_or_default()))?;
    file.seek(SeekFrom::Start(number("offset").unwrap_or(0)))?;
    let mut bytes = vec![];
    file.take(number("length").unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of a cache line: weights begin at the beginning of one.
const LINE_BYTES: usize = 64;

/// A tensor whose elements begin at the beginning of a cache line: elsewhere convolutions take a tenth longer.
fn aligned<T: Clone + Default>(
    dims: &[i64],
    count: usize,
    elements: impl Iterator<Item = T>,
) -> Result<ArrayD<T>, Cause> {
    let room = LINE_BYTES / size_of::<T>();
    let mut all: Vec<T> = Vec::with_capacity(count + room);
    let skipped = all.as_ptr().align_offset(LINE_BYTES).min(room);
    all.resize(skipped, T::default());
    all.extend(elements);
    let shape: Vec<usize> = dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
    let mut array = Array1::from_vec(all);
    array.slice_axis_inplace(Axis(0), Slice::from(skipped..));
    array
        .into_shape_with_order(shape)
        .map_err(|_| Cause::Weights(dims.to_vec()))
}

/// A tensor of an ONNX element type from its bytes. `None`: a type that is not shared.
fn value_of(data_type: i32, dims: &[i64], raw: &[u8]) -> Option<Result<DynValue, Cause>> {
    fn tensor<T: PrimitiveTensorElementType + Debug + Clone + Default + 'static, const N: usize>(
        dims: &[i64],
        raw: &[u8],
        from: impl Fn([u8; N]) -> T,
    ) -> Result<DynValue, Cause> {
        let all = raw.as_chunks::<N>().0;
        let elements = aligned(dims, all.len(), all.iter().map(|&b| from(b)))?;
        Ok(OrtTensor::from_array(elements)?.into_dyn())
    }
    Some(match data_type {
        1 => tensor(dims, raw, f32::from_le_bytes),
        2 => tensor(dims, raw, |[b]| b),
        3 => tensor(dims, raw, |[b]| b as i8),
        6 => tensor(dims, raw, i32::from_le_bytes),
        7 => tensor(dims, raw, i64::from_le_bytes),
        10 => tensor(dims, raw, f16::from_le_bytes),
        11 => tensor(dims, raw, f64::from_le_bytes),
        _ => return None,
    })
}

impl Ready {
    /// Runs the range on a batch that fits its first cut point.
    pub fn run(&mut self, batch: Batch) -> Result<Batch, Cause> {
        let cut = |at| self.info.cut(at).ok_or(Cause::BeyondLastCut);
        let (from, to) = (cut(self.range.from())?, cut(self.range.to())?);
        let requests = batch.requests();
        // What only passes is set aside for the result.
        let passing = self.info.passing(self.range).into_iter();
        let aside = passing.map(|from| Some(batch.tensors()[from?].clone()));
        let mut tensors: Vec<Option<Tensor>> = aside.collect();
        let mut inputs = vec![];
        for (at, (spec, tensor)) in from.tensors.iter().zip(batch.into_tensors()).enumerate() {
            if self.optimised.inputs.contains(&at) {
                let mut shape = vec![requests];
                shape.extend_from_slice(tensor.shape());
                let input = input_of(spec, tensor, &shape)?;
                inputs.push((spec.name.as_str(), SessionInputValue::from(input)));
            }
        }
        let outputs = self.session.run(inputs)?;
        for &at in &self.optimised.outputs {
            let spec = &to.tensors[at];
            let output = outputs.get(&spec.name);
            let output = output.ok_or_else(|| Cause::NoTensor(spec.name.clone()))?;
            let elements = elements_of(spec.dtype, output)?;
            tensors[at] = Some(Tensor::new(requests, spec.shape.clone(), elements)?);
        }
        Ok(Batch::new(tensors.into_iter().flatten().collect())?)
    }
}
