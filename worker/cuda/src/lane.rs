//! A partition at work: its stream, memory that only its launches use, and graphs of launches.
//!
//! A graph names fixed places, so that each has inputs and outputs of its own; what comes and goes is copied there and back on the stream.

use std::collections::HashMap;
use std::sync::Arc;

use graft_model::{Batch, ModelId, StageRange};

use crate::driver::{CudaFault, DeviceMemory, Event, Function, Graph, Green, Pinned, Primary, Stream};
use crate::held::{HeldTensor, to_bytes};
use crate::kernels::Kernels;
use crate::params::Place;
use crate::program::Program;
use crate::run_error::RunError;

/// A program's name: its model and range, the requests of its batch, and whether they come from the host.
pub type Name = (ModelId, StageRange, usize, bool);

/// Graphs of a partition at most; at the bound all are forgotten, and recorded anew when they are run.
const MAX_GRAPHS: usize = 64;

/// Inputs of a run.
pub enum Given<'a> {
    /// Tensors of the host.
    Host(&'a Batch),
    /// Addresses on the device, and bytes.
    Device(Vec<(u64, usize)>),
}

/// A program's launches, ready to be run on fixed places.
struct Ready {
    graph: Graph,
    inputs: Vec<DeviceMemory>,
    outputs: Vec<DeviceMemory>,
    /// What the graph names: it stays as long as the graph.
    _weights: Vec<Arc<DeviceMemory>>,
}

/// A partition at work.
pub struct Lane {
    stream: Stream,
    arena: Option<DeviceMemory>,
    partial: Option<DeviceMemory>,
    arrived: Option<DeviceMemory>,
    fault: DeviceMemory,
    staging: Option<Pinned>,
    ready: HashMap<Name, Ready>,
    began: Event,
    ended: Event,
}

impl Lane {
    /// A lane of a partition.
    pub fn new(green: &Arc<Green>) -> Result<Self, CudaFault> {
        Ok(Lane {
            stream: Stream::new(green)?,
            arena: None,
            partial: None,
            arrived: None,
            fault: DeviceMemory::with(green.primary(), &[0; 4])?,
            staging: None,
            ready: HashMap::new(),
            began: Event::new(green)?,
            ended: Event::new(green)?,
        })
    }

    /// Waits for all that was put in.
    pub fn wait(&self) -> Result<(), CudaFault> {
        self.stream.wait()
    }

    /// Forgets a model's launches.
    pub fn forget(&mut self, model: ModelId) {
        self.ready.retain(|(of, ..), _| *of != model);
    }

    /// Milliseconds that the last run's launches took.
    pub fn last_ms(&self) -> Result<f32, CudaFault> {
        self.ended.ms_since(&self.began)
    }

    /// Copies within the device; whoever asks holds both until the lane was waited for.
    #[allow(unsafe_code)]
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaFault> {
        // SAFETY: both are tensors' rows or a graph's places, of that many bytes, which the caller holds until the lane was waited for.
        unsafe { self.stream.copy(to, from, bytes) }
    }

    /// Runs a program to its end, and leaves its results in `outputs`.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &mut self,
        primary: &Arc<Primary>,
        kernels: &Kernels,
        name: Option<Name>,
        program: &Program,
        weights: &[Arc<DeviceMemory>],
        given: &Given<'_>,
        outputs: &[HeldTensor],
    ) -> Result<(), RunError> {
        self.make_room(primary, program)?;
        let ready = match name.and_then(|name| self.ready.remove(&name)) {
            Some(ready) => ready,
            None => self.record(primary, kernels, program, weights)?,
        };
        let ran = self.replay(primary, program, &ready, given, outputs);
        if ran.is_err() {
            // Copies may be under way to memory that is given back now. What they fail of was told already.
            self.stream.wait().unwrap_or_default();
        }
        if let Some(name) = name.filter(|_| ran.is_ok()) {
            if self.ready.len() >= MAX_GRAPHS {
                self.ready.clear();
            }
            self.ready.insert(name, ready);
        }
        ran
    }

    /// Makes memory large enough for a program; graphs that name smaller memory are forgotten.
    fn make_room(&mut self, primary: &Arc<Primary>, program: &Program) -> Result<(), CudaFault> {
        let sms = self.stream.green().sms();
        let wanted = [
            (&mut self.arena, program.arena_bytes),
            (&mut self.partial, program.partial_bytes(sms)),
            (&mut self.arrived, program.counters() * 4),
        ];
        for (place, (memory, bytes)) in wanted.into_iter().enumerate() {
            if bytes == 0 || memory.as_ref().is_some_and(|m| m.size() >= bytes) {
                continue;
            }
            self.ready.clear();
            // The old one goes first, so that there is room.
            *memory = None;
            let made = DeviceMemory::new(primary, bytes)?;
            if place == 2 {
                made.write(0, &vec![0; bytes])?;
            }
            *memory = Some(made);
        }
        Ok(())
    }

    /// Records a program's launches.
    fn record(
        &self,
        primary: &Arc<Primary>,
        kernels: &Kernels,
        program: &Program,
        weights: &[Arc<DeviceMemory>],
    ) -> Result<Ready, RunError> {
        let room = |layouts: &[crate::program::Layout]| -> Result<Vec<DeviceMemory>, CudaFault> {
            layouts
                .iter()
                .map(|l| DeviceMemory::new(primary, l.bytes()))
                .collect()
        };
        let (inputs, outputs) = (room(&program.inputs)?, room(&program.outputs)?);
        let of = |memory: &Option<DeviceMemory>| memory.as_ref().map_or(0, DeviceMemory::address);
        let address = |place: Place| match place {
            Place::Null => 0,
            Place::Slot(slot) => of(&self.arena) + program.slots[slot].0 as u64,
            Place::Weight(place) => weights[place].address(),
            Place::Input(place) => inputs[place].address(),
            Place::Output(place) => outputs[place].address(),
            Place::Partial => of(&self.partial),
            Place::Arrived => of(&self.arrived),
            Place::Fault => self.fault.address(),
        };
        let sms = self.stream.green().sms();
        let mut launches = vec![];
        for step in &program.steps {
            let function = kernels.get(step.kernel).ok_or(RunError::NoKernel(step.kernel))?;
            let params = step.params.filled(address);
            launches.push((function, step.blocks.on(sms), step.threads, params, &step.label));
        }
        let mut refused = None;
        let graph = self.stream.capture(|| {
            launches
                .iter()
                .try_for_each(|(function, blocks, threads, params, label)| {
                    let launched = self.launch(*function, *blocks, *threads, params);
                    launched.inspect_err(|fault| refused = Some((label.to_string(), fault.clone())))
                })
        });
        let graph = match (graph, refused) {
            (Ok(graph), _) => graph,
            (Err(_), Some((node, fault))) => return Err(RunError::Launch { node, fault }),
            (Err(fault), None) => return Err(fault.into()),
        };
        Ok(Ready {
            graph,
            inputs,
            outputs,
            _weights: weights.to_vec(),
        })
    }

    #[allow(unsafe_code)]
    fn launch(&self, function: Function, blocks: u32, threads: u32, params: &[u8]) -> Result<(), CudaFault> {
        // SAFETY: the structure is what the kernel's file declares. It is recorded into a graph; all memory that it names is the lane's,
        // whose growth forgets its graphs, or is held beside the graph.
        unsafe { self.stream.launch(function, blocks, threads, params) }
    }

    #[allow(unsafe_code)]
    fn replay(
        &mut self,
        primary: &Arc<Primary>,
        program: &Program,
        ready: &Ready,
        given: &Given<'_>,
        outputs: &[HeldTensor],
    ) -> Result<(), RunError> {
        for memory in self.arena.iter().chain(&ready.outputs) {
            memory.forget(0, memory.size());
        }
        match given {
            Given::Host(batch) => self.upload(primary, batch, &ready.inputs)?,
            Given::Device(all) => {
                for (to, &(from, bytes)) in ready.inputs.iter().zip(all) {
                    self.copy(to.address(), from, bytes)?;
                }
            }
        }
        self.began.record(&self.stream)?;
        // SAFETY: as when it was recorded: all memory that it names is held.
        unsafe { self.stream.replay(&ready.graph) }?;
        self.ended.record(&self.stream)?;
        for ((from, to), layout) in ready.outputs.iter().zip(outputs).zip(&program.outputs) {
            self.copy(to.memory.address(), from.address(), layout.bytes())?;
        }
        self.stream.wait()?;
        if program.can_fault {
            let told = self.fault.read(0, 4)?;
            let told = u32::from_le_bytes([told[0], told[1], told[2], told[3]]);
            if told != 0 {
                self.fault.write(0, &[0; 4])?;
                return Err(RunError::NoRow(told - 1));
            }
        }
        Ok(())
    }

    /// Copies a batch's tensors to the device, by way of memory that it reads beside the host.
    #[allow(unsafe_code)]
    fn upload(
        &mut self,
        primary: &Arc<Primary>,
        batch: &Batch,
        inputs: &[DeviceMemory],
    ) -> Result<(), CudaFault> {
        let tensors: Vec<Vec<u8>> = batch.tensors().iter().map(|t| to_bytes(t).1).collect();
        let most = tensors.iter().map(Vec::len).sum::<usize>();
        if self.staging.as_ref().is_none_or(|s| s.as_slice().len() < most) {
            self.staging = Some(Pinned::new(primary, most)?);
        }
        let Some(staging) = &mut self.staging else {
            return Ok(());
        };
        let mut at = 0;
        for (bytes, to) in tensors.iter().zip(inputs) {
            staging.as_mut_slice()[at..at + bytes.len()].copy_from_slice(bytes);
            // SAFETY: the staging memory and the input are the lane's, which waits for the stream before either is touched again.
            unsafe { self.stream.upload(to, staging, at, bytes.len()) }?;
            at += bytes.len();
        }
        Ok(())
    }
}
