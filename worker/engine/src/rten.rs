//! The engine on rten: runs anywhere.

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use graft_model::{
    Batch, DType, Elements, Guard, Model, ModelId, ModelInfo, Narrow, StageRange, Tensor, TensorSpec,
};
use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;

use crate::checks::{check_input, guarded};
use crate::cores::{CoresError, pin_current_thread};
use crate::engine::{Engine, MemoryUse};
use crate::error::{Cause, EngineError, PartitionId, Refusal};
use crate::shape::PartitionShape;

struct Loaded {
    info: Arc<ModelInfo>,
    model: rten::Model,
    /// The tensors of each cut point.
    nodes: Vec<Vec<NodeId>>,
    /// The tensors of each cut point on the way for inputs with NaN or infinite numbers, where there is one.
    careful: Option<Vec<Vec<NodeId>>>,
    /// Tensors whose elements must stay within 32 bits.
    guards: Vec<Watched>,
}

/// A tensor that is watched, on both ways.
struct Watched {
    guard: Guard,
    node: NodeId,
    careful: Option<NodeId>,
}

struct Pool {
    pool: Arc<ThreadPool>,
    threads: usize,
}

/// An engine that runs layers on the CPU. A partition is a set of cores with a thread pool pinned to them.
#[derive(Default)]
pub struct RtenEngine {
    models: RwLock<HashMap<ModelId, Arc<Loaded>>>,
    partitions: RwLock<HashMap<PartitionId, Arc<Pool>>>,
    next: AtomicU32,
}

impl RtenEngine {
    /// An engine with nothing loaded.
    pub fn new() -> Self {
        Self::default()
    }

    fn loaded(&self, id: ModelId) -> Result<Arc<Loaded>, EngineError> {
        let models = self.models.read().unwrap_or_else(|e| e.into_inner());
        models.get(&id).cloned().ok_or(EngineError::NotLoaded(id))
    }

    fn pool(&self, id: PartitionId) -> Result<Arc<Pool>, EngineError> {
        let partitions = self.partitions.read().unwrap_or_else(|e| e.into_inner());
        partitions.get(&id).cloned().ok_or(EngineError::NoPartition(id))
    }
}

/// Weights beyond which a network goes to rten by way of a file, in bytes: rten reads such a file tensor by tensor, where a
/// network in memory is there twice while it is read.
const LARGE: u64 = 64 << 20;

/// The network as rten holds it, and whether it has a second way for NaN and infinite numbers.
fn read_by_rten(model: &Model) -> Result<(rten::Model, bool), Cause> {
    let written = |e: graft_model::ModelError| Cause::from(Box::new(e));
    let library = |e: rten::LoadError| Cause::Library(e.to_string());
    let weights: u64 = model.info().segments.iter().map(|s| s.weights_bytes).sum();
    if weights <= LARGE {
        let mut bytes = vec![];
        let careful = model.write_careful_graph(&mut bytes).map_err(written)?;
        let loaded = guarded(|| ModelOptions::with_all_ops().load(bytes).map_err(library))?;
        return Ok((loaded, careful));
    }
    let file = |error| Cause::File {
        what: "a file for a network on its way to rten can't be made (is the disk full? TMPDIR says where)"
            .to_owned(),
        error,
    };
    let on_disk = tempfile::Builder::new()
        .suffix(".onnx")
        .tempfile()
        .map_err(file)?;
    let mut out = BufWriter::new(on_disk.as_file());
    let careful = model.write_careful_graph(&mut out).map_err(written)?;
    out.flush().map_err(file)?;
    drop(out);
    let read = || {
        ModelOptions::with_all_ops()
            .load_file(on_disk.path())
            .map_err(library)
    };
    Ok((guarded(read)?, careful))
}

impl Engine for RtenEngine {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn narrows(&self, info: &ModelInfo) -> bool {
        let watched = !matches!(&info.narrow, Narrow::Within(guards) if guards.is_empty());
        let mut crossing = info.cuts.iter().flat_map(|c| &c.tensors);
        watched || crossing.any(|t| t.dtype == DType::I64)
    }

    fn load(&self, model: &Model) -> Result<(), EngineError> {
        let info = Arc::clone(model.info());
        if self.loaded(info.id).is_ok() {
            return Ok(());
        }
        let error = |cause: Cause| EngineError::Load {
            engine: "rten",
            file: info.file.display().to_string(),
            cause,
        };
        let guards = match &info.narrow {
            Narrow::Within(guards) => guards.clone(),
            Narrow::TooNarrow(node) => return Err(too_narrow(&info, node)),
        };
        let (loaded, careful) = read_by_rten(model).map_err(error)?;
        let find = |name: String| {
            let node = loaded.find_node(&name);
            node.ok_or_else(|| error(Cause::NoTensor(name)))
        };
        let all = |way: fn(&str) -> String| {
            let cuts = info.cuts.iter();
            cuts.map(|cut| cut.names().map(|name| find(way(name))).collect())
                .collect::<Result<Vec<Vec<NodeId>>, _>>()
        };
        let nodes = all(str::to_owned)?;
        let careful = careful.then(|| all(Model::careful_name)).transpose()?;
        let guards = guards
            .into_iter()
            .map(|guard| {
                Ok(Watched {
                    node: find(guard.tensor.clone())?,
                    careful: careful
                        .as_ref()
                        .map(|_| find(Model::careful_name(&guard.tensor)))
                        .transpose()?,
                    guard,
                })
            })
            .collect::<Result<_, EngineError>>()?;
        let entry = Loaded {
            info: Arc::clone(&info),
            model: loaded,
            nodes,
            careful,
            guards,
        };
        self.models
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .insert(info.id, Arc::new(entry));
        Ok(())
    }

    fn unload(&self, model: ModelId) -> Result<(), EngineError> {
        let mut models = self.models.write().unwrap_or_else(|e| e.into_inner());
        models
            .remove(&model)
            .map(drop)
            .ok_or(EngineError::NotLoaded(model))
    }

    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError> {
        Ok(Arc::clone(&self.loaded(model)?.info))
    }

    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError> {
        let error = |cause: Cause| EngineError::Partition {
            shape: shape.clone(),
            cause,
        };
        let PartitionShape::Cores(cores) = shape else {
            return Err(error(Cause::OtherShape("cores of a CPU")));
        };
        if cores.is_empty() {
            return Err(error(CoresError::None.into()));
        }
        // Threads inherit the cores of the thread that starts them, so the pool is started from a pinned one.
        let list = cores.clone();
        let pool = std::thread::spawn(move || -> Result<ThreadPool, CoresError> {
            pin_current_thread(&list)?;
            Ok(ThreadPool::with_num_threads(list.len()))
        })
        .join()
        .map_err(|_| error(Cause::NoPool))?
        .map_err(|e| error(e.into()))?;
        let id = PartitionId(self.next.fetch_add(1, Ordering::Relaxed));
        let entry = Pool {
            pool: Arc::new(pool),
            threads: cores.len(),
        };
        self.partitions
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .insert(id, Arc::new(entry));
        Ok(id)
    }

    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        partitions
            .remove(&partition)
            .map(drop)
            .ok_or(EngineError::NoPartition(partition))
    }

    fn run(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Batch,
    ) -> Result<Batch, EngineError> {
        let pool = self.pool(partition)?;
        let loaded = self.loaded(model)?;
        let info = &loaded.info;
        let to = info.cut(range.to()).ok_or(EngineError::BeyondLastCut {
            range,
            last: info.last().index(),
        })?;
        check_input(info, range.from(), &batch)?;
        let failed = |cause: Cause| EngineError::Run { range, cause };
        let requests = batch.requests();
        let all_finite = batch.is_finite();
        let nodes = loaded
            .careful
            .as_ref()
            .filter(|_| !all_finite)
            .unwrap_or(&loaded.nodes);
        let (from_nodes, to_nodes) = (&nodes[range.from().index()], &nodes[range.to().index()]);
        let passing = info.passing(range);
        // What only passes is set aside for the result.
        let aside = passing.iter().map(|from| Some(batch.tensors()[(*from)?].clone()));
        let mut outputs: Vec<Option<Tensor>> = aside.collect();
        let mut inputs = vec![];
        for (&node, tensor) in from_nodes.iter().zip(batch.into_tensors()) {
            inputs.push((node, value_of(tensor).map_err(failed)?));
        }
        let watched = loaded
            .guards
            .iter()
            .filter(|w| range.segments().contains(&w.guard.segment));
        let way = |w: &'_ Watched| {
            if all_finite {
                w.node
            } else {
                w.careful.unwrap_or(w.node)
            }
        };
        let mut inside = vec![];
        for (guard, node) in watched.map(|w| (&w.guard, way(w))) {
            match inputs.iter().find(|(input, _)| *input == node) {
                Some((_, value)) => within(guard, value).map_err(failed)?,
                None => inside.push((guard, node)),
            }
        }
        let mut wanted: Vec<NodeId> = vec![];
        let made = to_nodes.iter().zip(&passing).filter(|(_, p)| p.is_none());
        for node in made.map(|(&n, _)| n).chain(inside.iter().map(|&(_, n)| n)) {
            if !wanted.contains(&node) {
                wanted.push(node);
            }
        }
        let inputs = inputs.into_iter().map(|(node, value)| (node, value.into()));
        let inputs = inputs.collect();
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&pool.pool)));
        let values = guarded(|| {
            loaded
                .model
                .run(inputs, &wanted, Some(options))
                .map_err(|e| Cause::Library(e.to_string()))
        })
        .map_err(failed)?;
        let mut values: HashMap<NodeId, Value> = wanted.into_iter().zip(values).collect();
        for (guard, node) in inside {
            if let Some(value) = values.get(&node) {
                within(guard, value).map_err(failed)?;
            }
        }
        for ((output, &node), spec) in outputs.iter_mut().zip(to_nodes).zip(&to.tensors) {
            if let Some(value) = values.remove(&node).filter(|_| output.is_none()) {
                *output = Some(tensor_of(value, spec, requests).map_err(failed)?);
            }
        }
        let missing = outputs.iter().zip(to.names()).find(|(o, _)| o.is_none());
        if let Some((_, name)) = missing {
            return Err(failed(Cause::NoTensor(name.to_owned())));
        }
        Ok(Batch::new(outputs.into_iter().flatten().collect())?)
    }

    fn memory(&self) -> MemoryUse {
        let models = self.models.read().unwrap_or_else(|e| e.into_inner());
        MemoryUse {
            models: models.len(),
            weights_bytes: models.values().map(|m| m.info.weights_bytes()).sum(),
        }
    }

    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        Ok(self.pool(partition)?.threads)
    }
}

/// The refusal of a model whose 64-bit integers need more than the 32 bits in which rten computes them.
fn too_narrow(info: &ModelInfo, node: &str) -> EngineError {
    EngineError::Refused {
        engine: "rten",
        file: info.file.display().to_string(),
        refusal: Box::new(Refusal {
            node: Some(node.to_owned()),
            opset: info.opset,
            why: "its 64-bit numbers need more than the 32 bits in which rten computes".to_owned(),
            what_to_do: "Compute in 32-bit floats or smaller integers".to_owned(),
        }),
    }
}

/// A tensor as rten takes it.
fn value_of(tensor: Tensor) -> Result<Value, Cause> {
    let mut shape = vec![tensor.requests()];
    shape.extend_from_slice(tensor.shape());
    let failed = |e: &dyn std::error::Error| Cause::Library(e.to_string());
    match tensor.into_elements() {
        Elements::F32(v) => Value::from_shape(&shape, v).map_err(|e| failed(&e)),
        Elements::I32(v) => Value::from_shape(&shape, v).map_err(|e| failed(&e)),
        Elements::I64(v) => Value::from_shape(&shape, narrowed(v)?).map_err(|e| failed(&e)),
        Elements::U8(v) => Value::from_shape(&shape, v).map_err(|e| failed(&e)),
        Elements::I8(v) => Value::from_shape(&shape, v).map_err(|e| failed(&e)),
    }
}

/// A tensor that rten gives.
fn tensor_of(value: Value, spec: &TensorSpec, requests: usize) -> Result<Tensor, Cause> {
    let elements = match value {
        Value::FloatTensor(t) => Elements::F32(t.into_data()),
        Value::Int32Tensor(t) if spec.dtype == DType::I64 => {
            Elements::I64(t.into_data().into_iter().map(i64::from).collect())
        }
        Value::Int32Tensor(t) => Elements::I32(t.into_data()),
        Value::UInt8Tensor(t) => Elements::U8(t.into_data()),
        Value::Int8Tensor(t) => Elements::I8(t.into_data()),
        other => {
            return Err(Cause::ElementType {
                tensor: spec.name.clone(),
                dtype: other.dtype().to_string(),
            });
        }
    };
    Ok(Tensor::new(requests, spec.shape.clone(), elements)?)
}

/// 64-bit integers in the 32 bits in which rten computes them.
fn narrowed(values: Vec<i64>) -> Result<Vec<i32>, Cause> {
    let narrow = |value: i64| i32::try_from(value).map_err(|_| Cause::TooWide(value));
    values.into_iter().map(narrow).collect()
}

/// Checks that a tensor stays within the limit of a guard.
fn within(guard: &Guard, value: &Value) -> Result<(), Cause> {
    let most = match value {
        Value::FloatTensor(t) => t.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs())),
        Value::Int32Tensor(t) => t.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs())),
        _ => 0.0,
    };
    if most <= guard.limit {
        return Ok(());
    }
    Err(Cause::TooLarge {
        tensor: guard.tensor.clone(),
        most,
        limit: guard.limit,
    })
}
