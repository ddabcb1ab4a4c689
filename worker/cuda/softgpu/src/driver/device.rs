//! A device: its memory, its clock, what became of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Plan, due, reached};
use crate::machine::{Counts, Fault, Launch, Memory, MemoryError, run};

/// A result of the driver's functions, by the driver's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub i32);

impl Code {
    pub const OK: Code = Code(0);
    pub const INVALID_VALUE: Code = Code(1);
    pub const OUT_OF_MEMORY: Code = Code(2);
    pub const NOT_INITIALIZED: Code = Code(3);
    pub const INVALID_DEVICE: Code = Code(101);
    pub const INVALID_CONTEXT: Code = Code(201);
    pub const NO_BINARY_FOR_GPU: Code = Code(209);
    pub const ECC_UNCORRECTABLE: Code = Code(214);
    pub const INVALID_PTX: Code = Code(218);
    pub const INVALID_HANDLE: Code = Code(400);
    pub const NOT_FOUND: Code = Code(500);
    pub const NOT_READY: Code = Code(600);
    pub const LAUNCH_OUT_OF_RESOURCES: Code = Code(701);
    pub const LAUNCH_FAILED: Code = Code(719);
    pub const NOT_SUPPORTED: Code = Code(801);
    pub const STREAM_CAPTURE_UNSUPPORTED: Code = Code(900);
    pub const INVALID_RESOURCE_TYPE: Code = Code(914);
}

/// Names and texts of codes.
pub(super) fn named(code: i32) -> Option<(&'static std::ffi::CStr, &'static std::ffi::CStr)> {
    Some(match Code(code) {
        Code::OK => (c"CUDA_SUCCESS", c"no error"),
        Code::INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        Code::OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        Code::NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        Code::INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        Code::INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        Code::NO_BINARY_FOR_GPU => (
            c"CUDA_ERROR_NO_BINARY_FOR_GPU",
            c"no kernel image is available for execution on the device",
        ),
        Code::ECC_UNCORRECTABLE => (
            c"CUDA_ERROR_ECC_UNCORRECTABLE",
            c"uncorrectable ECC error encountered",
        ),
        Code::INVALID_PTX => (c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        Code::INVALID_HANDLE => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        Code::NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        Code::NOT_READY => (c"CUDA_ERROR_NOT_READY", c"device not ready"),
        Code::LAUNCH_OUT_OF_RESOURCES => (
            c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            c"too many resources requested for launch",
        ),
        Code::LAUNCH_FAILED => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        Code::NOT_SUPPORTED => (c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
        Code::STREAM_CAPTURE_UNSUPPORTED => (
            c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            c"operation not permitted when stream is capturing",
        ),
        Code::INVALID_RESOURCE_TYPE => (c"CUDA_ERROR_INVALID_RESOURCE_TYPE", c"invalid resource type"),
        _ => return None,
    })
}

impl From<MemoryError> for Code {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Full { .. } => Code::OUT_OF_MEMORY,
            MemoryError::Unknown(_) | MemoryError::Outside(..) | MemoryError::Unwritten(_) => {
                Code::INVALID_VALUE
            }
        }
    }
}

/// Launches of which is told what they did, at most.
const MAX_REPORTS: usize = 1 << 16;

/// A launch that was run.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Report {
    pub kernel: String,
    pub blocks: u32,
    pub threads: u32,
    pub sms: u32,
    pub counts: Counts,
    /// Microseconds that a device of this kind would take, by a roofline on the counts; modelled.
    pub modelled_us: f64,
}

struct Inside {
    memory: Memory,
    plan: Plan,
    /// What ended a context, which spoils all others of the device until it is set up anew.
    spoiled: Option<Code>,
    lost: bool,
    launches: u64,
    messages: Vec<String>,
    reports: Vec<Report>,
}

/// A device.
pub(super) struct Device {
    pub plan: Plan,
    /// When its clock began.
    pub began: Instant,
    late_ns: AtomicU64,
    stretch: AtomicU32,
    inside: Mutex<Inside>,
}

/// Messages that a device remembers at most.
const MAX_MESSAGES: usize = 64;

impl Device {
    pub fn new(plan: Plan) -> Self {
        Device {
            inside: Mutex::new(Inside {
                memory: Memory::new(plan.memory),
                plan: plan.clone(),
                spoiled: None,
                lost: false,
                launches: 0,
                messages: vec![],
                reports: vec![],
            }),
            stretch: AtomicU32::new(plan.stretch),
            plan,
            began: Instant::now(),
            late_ns: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What spoiled the device, if something did.
    pub fn state(&self) -> Result<(), Code> {
        let inside = self.lock();
        if inside.lost {
            return Err(Code::ECC_UNCORRECTABLE);
        }
        inside.spoiled.map_or(Ok(()), Err)
    }

    /// Its contexts are gone: what spoiled them is, too, and all memory.
    pub fn set_up_anew(&self) {
        let mut inside = self.lock();
        inside.spoiled = None;
        inside.memory.free_all();
    }

    /// Further faults.
    pub fn change_plan(&self, text: &str) -> Result<(), super::PlanError> {
        let mut inside = self.lock();
        inside.plan = inside.plan.with(text)?;
        self.stretch.store(inside.plan.stretch, Ordering::Relaxed);
        Ok(())
    }

    /// The memory, where the device is sound.
    pub fn memory<T>(&self, f: impl FnOnce(&mut Memory) -> Result<T, MemoryError>) -> Result<T, Code> {
        self.state()?;
        let mut inside = self.lock();
        f(&mut inside.memory).map_err(|error| {
            inside.tell(format!("softgpu: {error}"));
            Code::from(error)
        })
    }

    pub fn allocate(&self, bytes: u64) -> Result<u64, Code> {
        self.state()?;
        if reached(&mut self.lock().plan.full_after) {
            return Err(Code::OUT_OF_MEMORY);
        }
        self.memory(|memory| memory.allocate(bytes))
    }

    /// Runs a launch on so many multiprocessors; gives its modelled time.
    pub fn launch(&self, launch: &Launch, sms: u32) -> Result<Duration, Code> {
        self.state()?;
        let mut inside = self.lock();
        let inside = &mut *inside;
        if due(&mut inside.plan.lose_after) {
            inside.lost = true;
            return Err(Code::ECC_UNCORRECTABLE);
        }
        if due(&mut inside.plan.fail_after) {
            inside.spoiled = Some(Code::LAUNCH_FAILED);
            return Err(Code::LAUNCH_FAILED);
        }
        inside.launches += 1;
        let seed = inside.plan.seed.wrapping_add(inside.launches);
        let ran = run(launch, &mut inside.memory, seed);
        let counts = ran.map_err(|fault| inside.stopped(&fault))?;
        let modelled_us = modelled_us(&counts, sms);
        if inside.reports.len() < MAX_REPORTS {
            inside.reports.push(Report {
                kernel: launch.kernel.name.clone(),
                blocks: launch.grid.iter().product(),
                threads: launch.threads.iter().product(),
                sms,
                counts,
                modelled_us,
            });
        }
        Ok(Duration::from_nanos(
            (modelled_us * 1e3) as u64 + inside.plan.slow_ns,
        ))
    }

    /// What tasks take on the host's clock, as a multiple of what is modelled; 0: as long as it takes to work them out.
    pub fn stretch(&self) -> u32 {
        self.stretch.load(Ordering::Relaxed)
    }

    /// A task was done so much later than its stretched time: the stretch is too small for what it takes to work it out.
    pub fn late(&self, by: Duration) {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.late_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Time by which tasks were late since it was asked last.
    pub fn take_late(&self) -> Duration {
        Duration::from_nanos(self.late_ns.swap(0, Ordering::Relaxed))
    }

    /// Tells something to whoever asks later.
    pub fn tell(&self, message: String) {
        self.lock().tell(message);
    }

    /// What was told since it was asked last.
    pub fn take_messages(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().messages)
    }

    /// What launches did since it was asked last.
    pub fn take_reports(&self) -> Vec<Report> {
        std::mem::take(&mut self.lock().reports)
    }
}

impl Inside {
    fn tell(&mut self, message: String) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message);
        }
    }

    fn stopped(&mut self, fault: &Fault) -> Code {
        self.tell(format!("softgpu: {fault}"));
        self.spoiled = Some(Code::LAUNCH_FAILED);
        Code::LAUNCH_FAILED
    }
}

/// Microseconds of a launch on so many multiprocessors of an H100 (SXM, 132 at 1.755 GHz, 3.35 TB/s), modelled: the slowest of issuing
/// instructions, products of matrices, and moving sectors, and what a launch costs. Never measured.
fn modelled_us(counts: &Counts, sms: u32) -> f64 {
    const CYCLES_A_US: f64 = 1755.0;
    const ISSUED_A_CYCLE: f64 = 4.0;
    /// Products of m16n8k16 a cycle and multiprocessor: 512 multiplications each for four units, of 2048.
    const MATRIX_A_CYCLE: f64 = 1.0;
    const BYTES_A_US: f64 = 3.35e6;
    const MULTIPROCESSORS: f64 = 132.0;
    const LAUNCH_US: f64 = 2.0;
    let sms = f64::from(sms.max(1));
    let issue = counts.instructions as f64 / (ISSUED_A_CYCLE * sms * CYCLES_A_US);
    let matrix = counts.matrix as f64 / (MATRIX_A_CYCLE * sms * CYCLES_A_US);
    // A part of the multiprocessors draws more than its part of the memory's speed; about twice, up to all.
    let speed = BYTES_A_US * (2.0 * sms / MULTIPROCESSORS).min(1.0);
    let moved = counts.global_sectors as f64 * 32.0 / speed;
    LAUNCH_US + issue.max(matrix).max(moved)
}
