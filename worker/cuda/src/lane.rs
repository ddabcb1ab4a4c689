//! A partition at work: its stream, memory that only its launches use, and graphs of launches.
//!
//! A graph names fixed places, so that each has inputs and outputs of its own; what comes and goes is copied there and back on the stream.
//! A run is put in without waiting for the one before: the stream keeps their order.

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

/// Graphs of a partition at most. At a bound the one whose last run is longest ago is forgotten; it is recorded anew, which takes a few
/// milliseconds, when it is run again.
const MAX_GRAPHS: usize = 256;
/// Bytes of the inputs and outputs of a partition's graphs at most.
const MAX_GRAPH_BYTES: usize = 1 << 30;

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
    /// Number of the run that used it last.
    used: u64,
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
    /// Used in turn, so that one is filled while the device reads the other.
    staging: [Staging; 2],
    ready: HashMap<Name, Ready>,
    /// Runs so far.
    runs: u64,
    /// The last run, and the end of the one before it.
    last: Option<Flight>,
    before: Option<Arc<Event>>,
}

/// Memory of the host from which the device reads inputs.
#[derive(Default)]
struct Staging {
    memory: Option<Pinned>,
    /// The device reads it until then.
    until: Option<Arc<Event>>,
}

/// A run that was put in: the moments at which its launches begin, and at which it is done.
#[derive(Clone)]
pub struct Flight {
    began: Arc<Event>,
    ended: Arc<Event>,
}

impl Flight {
    /// Waits for its end.
    pub fn wait(&self) -> Result<(), CudaFault> {
        self.ended.wait()
    }
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
            staging: Default::default(),
            ready: HashMap::new(),
            runs: 0,
            last: None,
            before: None,
        })
    }

    /// A moment after all that was put in.
    pub fn mark(&self) -> Result<Event, CudaFault> {
        let event = Event::new(self.stream.green())?;
        event.record(&self.stream)?;
        Ok(event)
    }

    /// Forgets a model's launches.
    pub fn forget(&mut self, model: ModelId) {
        if self.ready.keys().any(|(of, ..)| *of == model) {
            self.settle();
            self.ready.retain(|(of, ..), _| *of != model);
        }
    }

    /// Keeps launches, and forgets others where there are too many.
    fn keep(&mut self, name: Name, ready: Ready) {
        self.ready.insert(name, ready);
        let bytes = |ready: &Ready| -> usize {
            let all = ready.inputs.iter().chain(&ready.outputs);
            all.map(DeviceMemory::size).sum()
        };
        let mut all: usize = self.ready.values().map(bytes).sum();
        while self.ready.len() > MAX_GRAPHS || all > MAX_GRAPH_BYTES {
            let others = self.ready.iter().filter(|(other, _)| **other != name);
            let Some(oldest) = others.min_by_key(|(_, r)| r.used).map(|(name, _)| *name) else {
                return;
            };
            self.settle();
            all -= self.ready.remove(&oldest).map_or(0, |gone| bytes(&gone));
        }
    }

    /// Waits for all that was put in, whatever becomes of it: those who wait for it are told. Nothing, where the device was set up anew: what
    /// was put in is gone.
    pub fn settle(&self) {
        if self.stream.green().primary().has_ended() {
            return;
        }
        self.stream.wait().unwrap_or_default();
    }

    /// Milliseconds that the last run's launches took.
    pub fn last_ms(&self) -> Result<f32, CudaFault> {
        let last = self.last.as_ref();
        last.map_or(Ok(0.0), |flight| flight.ended.ms_since(&flight.began))
    }

    /// Milliseconds that the device had nothing to do between the last two runs. `None`: there were no two.
    pub fn last_gap_ms(&self) -> Result<Option<f32>, CudaFault> {
        let both = self.last.as_ref().zip(self.before.as_ref());
        both.map(|(last, before)| last.began.ms_since(before)).transpose()
    }

    /// Copies within the device; whoever asks holds both until that is done.
    #[allow(unsafe_code)]
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaFault> {
        // SAFETY: both are tensors' rows or a graph's places, of that many bytes, which the caller holds until it is done.
        unsafe { self.stream.copy(to, from, bytes) }
    }

    /// Puts a program in, whose results will be in `outputs`. What it reads and writes has to be there until it is done.
    #[allow(clippy::too_many_arguments)]
    pub fn submit(
        &mut self,
        primary: &Arc<Primary>,
        kernels: &Kernels,
        name: Option<Name>,
        program: &Program,
        weights: &[Arc<DeviceMemory>],
        given: &Given<'_>,
        outputs: &[HeldTensor],
    ) -> Result<Flight, RunError> {
        self.make_room(primary, program)?;
        let mut ready = match name.and_then(|name| self.ready.remove(&name)) {
            Some(ready) => ready,
            None => self
                .record(primary, kernels, program, weights)
                .inspect_err(|_| self.settle())?,
        };
        let put = self.replay(primary, program, &ready, given, outputs);
        match name.filter(|_| put.is_ok()) {
            Some(name) => {
                self.runs += 1;
                ready.used = self.runs;
                self.keep(name, ready);
            }
            // Launches and copies may be under way on memory that is given back now.
            None => self.settle(),
        }
        put
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
            // What was put in uses the old one, which goes first, so that there is room. What it fails of is told to those who wait for it.
            self.stream.wait().unwrap_or_default();
            self.ready.clear();
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
            used: 0,
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
    ) -> Result<Flight, RunError> {
        for memory in self.arena.iter().chain(&ready.outputs) {
            self.stream.forget(memory)?;
        }
        match given {
            Given::Host(batch) => self.upload(primary, batch, &ready.inputs)?,
            Given::Device(all) => {
                for (to, &(from, bytes)) in ready.inputs.iter().zip(all) {
                    self.copy(to.address(), from, bytes)?;
                }
            }
        }
        let began = Arc::new(self.mark()?);
        // SAFETY: as when it was recorded: all memory that it names is held.
        unsafe { self.stream.replay(&ready.graph) }?;
        for ((from, to), layout) in ready.outputs.iter().zip(outputs).zip(&program.outputs) {
            self.copy(to.memory.address(), from.address(), layout.bytes())?;
        }
        let ended = Arc::new(self.mark()?);
        let flight = Flight { began, ended };
        let before = self.last.replace(flight.clone());
        self.before = before.map(|b| b.ended);
        if program.can_fault {
            // Nothing that follows may use what was not computed.
            flight.wait()?;
            let told = self.fault.read(0, 4)?;
            let told = u32::from_le_bytes([told[0], told[1], told[2], told[3]]);
            if told != 0 {
                self.fault.write(0, &[0; 4])?;
                return Err(RunError::NoRow(told - 1));
            }
        }
        Ok(flight)
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
        self.staging.swap(0, 1);
        let Staging { memory, until } = &mut self.staging[0];
        if let Some(until) = until.take() {
            until.wait()?;
        }
        if memory.as_ref().is_none_or(|s| s.as_slice().len() < most) {
            *memory = Some(Pinned::new(primary, most)?);
        }
        let Some(staging) = memory else {
            return Ok(());
        };
        let mut at = 0;
        for (bytes, to) in tensors.iter().zip(inputs) {
            staging.as_mut_slice()[at..at + bytes.len()].copy_from_slice(bytes);
            // SAFETY: both are the lane's; the staging memory is not touched again before the moment that follows, nor the input but on
            // this stream.
            unsafe { self.stream.upload(to, staging, at, bytes.len()) }?;
            at += bytes.len();
        }
        let read = Event::new(self.stream.green())?;
        read.record(&self.stream)?;
        *until = Some(Arc::new(read));
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.settle();
    }
}
