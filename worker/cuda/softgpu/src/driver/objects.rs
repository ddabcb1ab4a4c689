//! What handles stand for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::device::{Code, Device};
use super::plan::Plan;
use super::stream::{Event, Stream, Table, Task};
use crate::ptx::{Kernel, Module};

/// A context: a device, or a part of it.
#[derive(Clone)]
pub(super) struct Context {
    pub device: Arc<Device>,
    pub ordinal: u32,
    /// Multiprocessors that it may use.
    pub sms: u32,
}

/// All handles.
#[derive(Default)]
pub(super) struct Objects {
    next: usize,
    pub contexts: HashMap<usize, Context>,
    /// The primary contexts, by device.
    pub primary: HashMap<u32, usize>,
    pub modules: HashMap<usize, Arc<Module>>,
    pub functions: HashMap<usize, Arc<Kernel>>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub graphs: HashMap<usize, Arc<Vec<Task>>>,
    /// Multiprocessors of a descriptor.
    pub descriptors: HashMap<usize, u32>,
    /// Host memory that was given out, by address: kept so that it can be freed.
    pub pinned: HashMap<usize, Vec<u64>>,
    /// The stream of each context that has no handle.
    pub default_streams: HashMap<usize, usize>,
}

impl Objects {
    /// A fresh handle. Never 0.
    pub fn handle(&mut self) -> usize {
        self.next += 1;
        // Handles look like nobody's address.
        0x5067_0000_0000 + self.next * 16
    }
}

/// The process's devices and handles.
pub(super) struct Driver {
    pub devices: Vec<Arc<Device>>,
    pub plan: Plan,
    objects: Mutex<Objects>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

impl Driver {
    /// Starts it, by what the environment tells; a second call changes nothing.
    pub fn start() -> Result<&'static Driver, Code> {
        if let Some(driver) = DRIVER.get() {
            return Ok(driver);
        }
        let text = std::env::var("GRAFT_SOFTGPU").unwrap_or_default();
        let plan = Plan::default().with(&text).map_err(|error| {
            eprintln!("softgpu: {error}");
            Code::INVALID_VALUE
        })?;
        Ok(DRIVER.get_or_init(|| Driver {
            devices: (0..plan.devices)
                .map(|ordinal| Arc::new(Device::new(plan.of(ordinal))))
                .collect(),
            plan,
            objects: Mutex::new(Objects::default()),
        }))
    }

    /// The driver, where it was started.
    pub fn get() -> Result<&'static Driver, Code> {
        DRIVER.get().ok_or(Code::NOT_INITIALIZED)
    }

    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn device(&self, ordinal: i32) -> Result<&Arc<Device>, Code> {
        let place = usize::try_from(ordinal).ok();
        place
            .and_then(|p| self.devices.get(p))
            .ok_or(Code::INVALID_DEVICE)
    }

    /// The primary context of a device, made where it is not yet.
    pub fn primary(&self, ordinal: i32) -> Result<usize, Code> {
        let device = Arc::clone(self.device(ordinal)?);
        let mut objects = self.objects();
        let ordinal = ordinal as u32;
        if let Some(&handle) = objects.primary.get(&ordinal) {
            return Ok(handle);
        }
        let handle = objects.handle();
        let sms = device.plan.sms;
        objects.contexts.insert(handle, Context { device, ordinal, sms });
        objects.primary.insert(ordinal, handle);
        Ok(handle)
    }

    /// Forgets all contexts of a device but its primary one, and their streams.
    pub fn forget(&self, ordinal: u32) {
        let mut objects = self.objects();
        let primary = objects.primary.get(&ordinal).copied();
        let gone: Vec<usize> = objects
            .contexts
            .iter()
            .filter(|(_, c)| c.ordinal == ordinal)
            .map(|(&h, _)| h)
            .collect();
        objects
            .streams
            .retain(|_, stream| !gone.contains(&stream.context));
        objects
            .contexts
            .retain(|handle, _| !gone.contains(handle) || Some(*handle) == primary);
        objects
            .default_streams
            .retain(|context, _| !gone.contains(context));
    }

    pub fn context(&self, handle: usize) -> Result<Context, Code> {
        let objects = self.objects();
        objects
            .contexts
            .get(&handle)
            .cloned()
            .ok_or(Code::INVALID_CONTEXT)
    }

    pub fn event(&self, handle: usize) -> Result<Arc<Event>, Code> {
        self.objects()
            .events
            .get(&handle)
            .cloned()
            .ok_or(Code::INVALID_HANDLE)
    }

    /// A stream by its handle; 0: the context's own.
    pub fn stream(&self, handle: usize, context: usize) -> Result<Arc<Stream>, Code> {
        if handle != 0 {
            return self
                .objects()
                .streams
                .get(&handle)
                .cloned()
                .ok_or(Code::INVALID_HANDLE);
        }
        let known = self.objects().default_streams.get(&context).copied();
        let handle = match known {
            Some(handle) => handle,
            None => {
                let handle = self.new_stream(context)?;
                self.objects().default_streams.insert(context, handle);
                handle
            }
        };
        self.objects()
            .streams
            .get(&handle)
            .cloned()
            .ok_or(Code::INVALID_HANDLE)
    }

    pub fn new_stream(&self, context: usize) -> Result<usize, Code> {
        let its = self.context(context)?;
        its.device.state()?;
        let mut objects = self.objects();
        let handle = objects.handle();
        let stream = Stream::new(its.device, its.sms, context);
        objects.streams.insert(handle, Arc::new(stream));
        Ok(handle)
    }
}
