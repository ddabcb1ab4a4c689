//! All that is on a device from one setting up to the next: kernels, weights, partitions. A fault that spoils the device's contexts ends
//! it, and the engine begins another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use graft_engine::PartitionId;
use graft_model::{ModelId, ModelInfo, StageRange};

use crate::driver::{Atoms, CudaFault, DeviceMemory, Gpu, Primary};
use crate::graph::{Graph, Unserved};
use crate::held::{Copying, HeldBatch, HeldTensor};
use crate::kernels::{Kernels, KernelsError};
use crate::lane::{Flight, Given, Lane, Name};
use crate::lower::{Stored, Weights, learn, lower};
use crate::params::Element;
use crate::pool::Pool;
use crate::program::{Layout, Program};
use crate::run_error::RunError;

/// Programs of a model at most: ranges by sizes of batches; at the bound all are forgotten, and made anew when they are run.
const MAX_PROGRAMS: usize = 512;

/// Why a device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// Its kernels can't be loaded.
    #[error(transparent)]
    Kernels(#[from] KernelsError),
    /// The driver refuses something.
    #[error(transparent)]
    Cuda(#[from] CudaFault),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A model on a device.
#[derive(Default)]
struct OnDevice {
    weights: WeightList,
    stored: Option<Stored>,
    programs: HashMap<(StageRange, usize, bool), Arc<Program>>,
}

#[derive(Default)]
struct WeightList {
    places: HashMap<String, usize>,
    memory: Vec<Arc<DeviceMemory>>,
    /// Contents that are not on the device yet, by place.
    waiting: Vec<(usize, Vec<u8>)>,
}

impl Weights for WeightList {
    fn place(&mut self, name: &str, make: &mut dyn FnMut() -> Vec<u8>) -> usize {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        let content = make();
        let place = self.places.len();
        self.places.insert(name.to_owned(), place);
        self.waiting.push((place, content));
        place
    }
}

/// Weights that nobody keeps: for finding out what a model is like.
#[derive(Default)]
pub(crate) struct Counted(HashMap<String, usize>);

impl Weights for Counted {
    fn place(&mut self, name: &str, _: &mut dyn FnMut() -> Vec<u8>) -> usize {
        let next = self.0.len();
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

impl WeightList {
    fn bring(&mut self, primary: &Arc<Primary>) -> Result<(), CudaFault> {
        self.waiting.sort_by_key(|(place, _)| *place);
        for (place, content) in std::mem::take(&mut self.waiting) {
            let memory = DeviceMemory::with(primary, &content);
            match memory {
                Ok(memory) => {
                    debug_assert_eq!(self.memory.len(), place);
                    self.memory.push(Arc::new(memory));
                }
                Err(fault) => {
                    // What is not there is made anew the next time.
                    let known = self.memory.len();
                    self.places.retain(|_, place| *place < known);
                    return Err(fault);
                }
            }
        }
        Ok(())
    }
}

/// A device's time between two settings up.
pub struct Session {
    number: u64,
    primary: Arc<Primary>,
    /// A fault spoiled what is on the device, and was told to whoever it hit.
    spoiled: AtomicBool,
    kernels: Kernels,
    atoms: Arc<Atoms>,
    pool: Arc<Pool>,
    models: Mutex<HashMap<ModelId, Arc<Mutex<OnDevice>>>>,
    lanes: Mutex<HashMap<PartitionId, Arc<Mutex<Lane>>>>,
}

/// A model's layers, and what is known of it.
pub struct Layers {
    pub info: Arc<ModelInfo>,
    pub graph: Graph,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Session {
    /// Sets a device up.
    pub fn begin(gpu: &Gpu) -> Result<Self, SetUpError> {
        let primary = gpu.open()?;
        let atoms = Arc::new(Atoms::split_or_whole(&primary)?);
        if let Some(why) = atoms.undivided() {
            tracing::warn!(device = gpu.ordinal, %why, "the driver does not divide the device: all of it is one partition");
        }
        Ok(Session {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            spoiled: AtomicBool::new(false),
            kernels: Kernels::load(gpu.capability)?,
            atoms,
            primary,
            pool: Arc::default(),
            models: Mutex::default(),
            lanes: Mutex::default(),
        })
    }

    /// Ends it: contexts, memory and partitions are gone.
    pub fn end(&self) -> Result<(), CudaFault> {
        self.primary.reset()
    }

    /// What is on the device is spoiled.
    pub fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }

    /// Waits for a run that was put in. `Err`: it failed, or the device was set up anew meanwhile.
    pub fn wait(&self, flight: &Flight) -> Result<(), CudaFault> {
        let _using = self.primary.using()?;
        flight.wait()
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Why the only partition is all of the device. `None`: it is divided.
    pub fn undivided(&self) -> Option<&CudaFault> {
        self.atoms.undivided()
    }

    /// Multiprocessors of the smallest partition, and of all together.
    pub fn granularity(&self) -> (u32, u32) {
        (self.atoms.each(), self.atoms.all())
    }

    /// Fences off a partition; gives the multiprocessors that were granted.
    pub fn open_partition(&self, id: PartitionId, (skipped, sms): (u32, u32)) -> Result<u32, CudaFault> {
        let _using = self.primary.using()?;
        let green = Arc::new(self.atoms.partition(skipped, sms)?);
        let granted = green.sms();
        let lane = Lane::new(&green)?;
        let before = lock(&self.lanes).insert(id, Arc::new(Mutex::new(lane)));
        drop(before);
        Ok(granted)
    }

    pub fn has_partition(&self, id: PartitionId) -> bool {
        lock(&self.lanes).contains_key(&id)
    }

    pub fn close_partition(&self, id: PartitionId) {
        let gone = lock(&self.lanes).remove(&id);
        // The device is not set up anew while the lane waits for what is under way there.
        let _using = self.primary.using();
        drop(gone);
    }

    /// Forgets a model: its weights, and all launches that name them.
    pub fn forget(&self, model: ModelId) {
        let lanes: Vec<_> = lock(&self.lanes).values().cloned().collect();
        let _using = self.primary.using();
        for lane in lanes {
            lock(&lane).forget(model);
        }
        lock(&self.models).remove(&model);
    }

    /// How a range's inputs lie, from the host or from the device.
    fn inputs(
        layers: &Layers,
        stored: &Stored,
        range: StageRange,
        requests: usize,
        from_host: bool,
    ) -> Vec<Layout> {
        let tensors = layers.info.cut(range.from()).map_or(&[][..], |c| &c.tensors);
        let of = |tensor: &graft_model::TensorSpec| {
            let mut dims = vec![requests];
            dims.extend(&tensor.shape);
            let element = element_of(tensor.dtype);
            if from_host {
                Layout::on_host(element, &dims)
            } else {
                Layout::handed_on(stored.get(&tensor.name).copied().unwrap_or(element), &dims)
            }
        };
        tensors.iter().map(of).collect()
    }

    /// A range's program, with its weights on the device.
    pub fn program(
        &self,
        layers: &Layers,
        range: StageRange,
        requests: usize,
        from_host: bool,
    ) -> Result<(Arc<Program>, Vec<Arc<DeviceMemory>>), RunError> {
        let _using = self.primary.using()?;
        let model = Arc::clone(lock(&self.models).entry(layers.info.id).or_default());
        let mut model = lock(&model);
        let model = &mut *model;
        let key = (range, requests, from_host);
        if let Some(program) = model.programs.get(&key) {
            return Ok((Arc::clone(program), model.weights.memory.clone()));
        }
        let stored = match &mut model.stored {
            Some(stored) => stored,
            unknown => unknown.insert(learned(layers)?),
        };
        let inputs = Self::inputs(layers, stored, range, requests, from_host);
        let program = Arc::new(lower(
            &layers.graph,
            stored,
            &mut model.weights,
            range,
            inputs,
            true,
        )?);
        model.weights.bring(&self.primary)?;
        if model.programs.len() >= MAX_PROGRAMS {
            model.programs.clear();
        }
        model.programs.insert(key, Arc::clone(&program));
        Ok((program, model.weights.memory.clone()))
    }

    /// A program of layers that belong to no model, with its weights on the device.
    pub fn alone(
        &self,
        graph: &Graph,
        range: StageRange,
        inputs: Vec<Layout>,
    ) -> Result<(Program, Vec<Arc<DeviceMemory>>), RunError> {
        let mut weights = WeightList::default();
        let program = lower(graph, &mut Stored::new(), &mut weights, range, inputs, true)?;
        weights.bring(&self.primary)?;
        Ok((program, weights.memory))
    }

    /// Memory with a content.
    pub fn with(&self, content: &[u8]) -> Result<Arc<DeviceMemory>, CudaFault> {
        DeviceMemory::with(&self.primary, content).map(Arc::new)
    }

    /// Memory for a batch's tensors, used before where there is some.
    pub fn room(&self, layouts: &[Layout]) -> Result<Vec<HeldTensor>, CudaFault> {
        let take = |layout: &Layout| {
            Ok(HeldTensor {
                memory: Arc::new(self.pool.take(&self.primary, layout.bytes())?),
                layout: layout.clone(),
            })
        };
        layouts.iter().map(take).collect()
    }

    /// Puts in copies of the rows of several batches, one after the other; gives where they will be.
    pub fn gather(
        &self,
        id: PartitionId,
        parts: &[&HeldBatch],
    ) -> Result<(Vec<HeldTensor>, Option<Arc<Copying>>), RunError> {
        let Some(first) = parts.first() else {
            return Ok((vec![], None));
        };
        let requests = parts.iter().map(|p| p.count).sum();
        let layouts: Vec<Layout> = first
            .tensors
            .iter()
            .map(|t| {
                let mut dims = t.layout.dims.clone();
                dims[0] = requests;
                Layout::handed_on(t.layout.element, &dims)
            })
            .collect();
        let lane = self.lane(id)?;
        let _using = self.primary.using()?;
        let room = self.room(&layouts)?;
        let lane = lock(&lane);
        let copied = room.iter().enumerate().try_for_each(|(place, to)| {
            let mut at = 0;
            parts.iter().try_for_each(|part| {
                let row = part.row_bytes(place);
                let from = part.tensors[place].memory.address() + (part.first * row) as u64;
                lane.copy(to.memory.address() + at as u64, from, part.count * row)?;
                at += part.count * row;
                Ok(())
            })
        });
        let done = match copied.and_then(|()| lane.mark()) {
            Ok(done) => done,
            Err(fault) => {
                // Those that were put in use memory that is given back now.
                lane.settle();
                return Err(fault.into());
            }
        };
        let copying = Copying {
            primary: Arc::clone(&self.primary),
            done,
            _from: parts.iter().map(|part| Arc::clone(&part.tensors)).collect(),
        };
        drop((lane, _using));
        Ok((room, Some(Arc::new(copying))))
    }

    /// Puts a program in, on inputs from the host or from the device; where it has a name, its launches are kept as a graph. What it reads
    /// and writes has to be there until it is done.
    pub fn submit(
        &self,
        id: PartitionId,
        name: Option<Name>,
        program: &Program,
        weights: &[Arc<DeviceMemory>],
        given: &Given<'_>,
    ) -> Result<(Vec<HeldTensor>, Flight), RunError> {
        let lane = self.lane(id)?;
        let _using = self.primary.using()?;
        let outputs = self.room(&program.outputs)?;
        let mut lane = lock(&lane);
        let mut once = || {
            lane.submit(
                &self.primary,
                &self.kernels,
                name,
                program,
                weights,
                given,
                &outputs,
            )
        };
        let flight = match once() {
            // What is kept free for later may be what lacks.
            Err(error) if error.fault().is_some_and(CudaFault::is_full) && self.pool.give_back() => once()?,
            put => put?,
        };
        Ok((outputs, flight))
    }

    /// Runs a program to its end.
    pub fn run(
        &self,
        id: PartitionId,
        program: &Program,
        weights: &[Arc<DeviceMemory>],
        given: &Given<'_>,
    ) -> Result<Vec<HeldTensor>, RunError> {
        let (outputs, flight) = self.submit(id, None, program, weights, given)?;
        self.wait(&flight)?;
        Ok(outputs)
    }

    fn lane(&self, id: PartitionId) -> Result<Arc<Mutex<Lane>>, RunError> {
        let lanes = lock(&self.lanes);
        lanes.get(&id).cloned().ok_or(RunError::NoPartition)
    }

    /// Milliseconds that the device had nothing to do between a partition's last two runs.
    pub fn last_gap_ms(&self, id: PartitionId) -> Result<Option<f32>, CudaFault> {
        let lane = lock(&self.lanes).get(&id).cloned();
        lane.map_or(Ok(None), |lane| lock(&lane).last_gap_ms())
    }

    /// Milliseconds that a program's launches took when it was run last on a partition; on the software GPU they are modelled.
    pub fn last_ms(&self, id: PartitionId) -> Result<f32, CudaFault> {
        let lane = lock(&self.lanes).get(&id).cloned();
        lane.map_or(Ok(0.0), |lane| lock(&lane).last_ms())
    }
}

/// The type in which a model's tensor lies on the device when it comes from the host.
pub(crate) fn element_of(dtype: graft_model::DType) -> Element {
    use graft_model::DType;
    match dtype {
        // The host holds floats of any width in 32 bits, and truths as integers.
        DType::F32 | DType::F64 | DType::F16 => Element::F32,
        DType::I32 | DType::Bool => Element::I32,
        DType::I64 => Element::I64,
        DType::I8 => Element::I8,
        DType::U8 => Element::U8,
    }
}

/// In which types a model's tensors are stored. `Err`: it is not run on this device.
pub(crate) fn learned(layers: &Layers) -> Result<Stored, Unserved> {
    let whole = layers
        .info
        .whole()
        .ok_or_else(|| Unserved::because("a model without layers"))?;
    let inputs = Session::inputs(layers, &Stored::new(), whole, 1, true);
    learn(&layers.graph, &mut Counted::default(), whole, inputs)
}
