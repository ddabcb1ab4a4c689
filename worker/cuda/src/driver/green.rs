//! Partitions of a device: green contexts on sets of its multiprocessors.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use cust::sys::{CUcontext, CUstream};

use super::error::{CudaFault, check};
use super::open::Primary;

/// A resource of a device, as `CUdevResource` of cuda.h 13.0 lies in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Resource {
    kind: c_uint,
    padding: [u8; 92],
    sms: c_uint,
    smallest: c_uint,
    alignment: c_uint,
    rest: [u8; 36],
}

const KIND_SM: c_uint = 1;
/// Treats each multiprocessor by itself, whatever is scheduled together with it.
const SPLIT_ALONE: c_uint = 1;
const DEFAULT_STREAM: c_uint = 1;
const NON_BLOCKING: c_uint = 1;

unsafe extern "C" {
    fn cuDeviceGetDevResource(device: c_int, resource: *mut Resource, kind: c_uint) -> c_uint;
    fn cuDevSmResourceSplitByCount(
        result: *mut Resource,
        groups: *mut c_uint,
        input: *const Resource,
        remaining: *mut Resource,
        flags: c_uint,
        least: c_uint,
    ) -> c_uint;
    fn cuDevResourceGenerateDesc(
        descriptor: *mut *mut c_void,
        resources: *mut Resource,
        count: c_uint,
    ) -> c_uint;
    fn cuGreenCtxCreate(
        green: *mut *mut c_void,
        descriptor: *mut c_void,
        device: c_int,
        flags: c_uint,
    ) -> c_uint;
    fn cuGreenCtxDestroy(green: *mut c_void) -> c_uint;
    fn cuCtxFromGreenCtx(context: *mut CUcontext, green: *mut c_void) -> c_uint;
    fn cuGreenCtxStreamCreate(
        stream: *mut CUstream,
        green: *mut c_void,
        flags: c_uint,
        priority: c_int,
    ) -> c_uint;
}

/// The parts into which a device was split, once: partitions are sets of them. Resources of two splits would overlap.
#[derive(Debug)]
pub struct Atoms {
    primary: Arc<Primary>,
    resources: Vec<Resource>,
    /// Why the driver does not divide the device: the only partition is all of it.
    undivided: Option<CudaFault>,
}

fn empty() -> Resource {
    Resource {
        kind: 0,
        padding: [0; 92],
        sms: 0,
        smallest: 0,
        alignment: 0,
        rest: [0; 36],
    }
}

impl Atoms {
    /// Splits a device as finely as its driver does. `Err`: it does not divide devices.
    pub fn split(primary: &Arc<Primary>) -> Result<Self, CudaFault> {
        primary.bind()?;
        let mut whole = empty();
        // SAFETY: a place for a resource.
        let code = unsafe { cuDeviceGetDevResource(primary.ordinal(), &mut whole, KIND_SM) };
        check("cuDeviceGetDevResource", code)?;
        let split = |resources: *mut Resource, count: &mut c_uint, rest: *mut Resource| {
            // SAFETY: `count` resources have room, or there are none and it only counts.
            let code = unsafe { cuDevSmResourceSplitByCount(resources, count, &whole, rest, SPLIT_ALONE, 1) };
            check("cuDevSmResourceSplitByCount", code)
        };
        let mut count = 0;
        split(std::ptr::null_mut(), &mut count, std::ptr::null_mut())?;
        let mut resources = vec![empty(); count as usize];
        let mut rest = empty();
        split(resources.as_mut_ptr(), &mut count, &mut rest)?;
        resources.truncate(count as usize);
        Ok(Atoms {
            primary: Arc::clone(primary),
            resources,
            undivided: None,
        })
    }

    /// As [`split`](Self::split), or all of the device in one piece where the driver does not divide it. `Err`: the device is of no use.
    pub fn split_or_whole(primary: &Arc<Primary>) -> Result<Self, CudaFault> {
        match Self::split(primary) {
            Ok(atoms) if !atoms.resources.is_empty() => Ok(atoms),
            Err(fault) if fault.is_lost() || fault.is_spoiled() => Err(fault),
            undivided => Ok(Atoms {
                primary: Arc::clone(primary),
                resources: vec![],
                undivided: Some(undivided.err().unwrap_or_else(CudaFault::no_parts)),
            }),
        }
    }

    /// Why the only partition is all of the device. `None`: it is divided.
    pub fn undivided(&self) -> Option<&CudaFault> {
        self.undivided.as_ref()
    }

    /// Multiprocessors of an atom.
    pub fn each(&self) -> u32 {
        self.resources.first().map_or(self.primary.gpu().sms, |r| r.sms)
    }

    /// Multiprocessors of all atoms.
    pub fn all(&self) -> u32 {
        match self.undivided {
            Some(_) => self.primary.gpu().sms,
            None => self.resources.iter().map(|r| r.sms).sum(),
        }
    }

    /// The partition of so many multiprocessors after the first `skipped`, both rounded up to whole atoms. Those of two plans may overlap
    /// while one takes over from the other.
    pub fn partition(self: &Arc<Self>, skipped: u32, sms: u32) -> Result<Green, CudaFault> {
        if self.undivided.is_some() {
            return Ok(Green {
                context: self.primary.context(),
                primary: Arc::clone(&self.primary),
                green: std::ptr::null_mut(),
                sms: self.all(),
            });
        }
        let each = self.each().max(1);
        let count = (sms.div_ceil(each) as usize).clamp(1, self.resources.len().max(1));
        let first = (skipped.div_ceil(each) as usize).min(self.resources.len().saturating_sub(count));
        let order = first..(first + count).min(self.resources.len());
        let mut resources = self.resources[order].to_vec();
        self.primary.bind()?;
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: resources of one split; the descriptor lives as long as the process.
        let code = unsafe {
            cuDevResourceGenerateDesc(&mut descriptor, resources.as_mut_ptr(), resources.len() as c_uint)
        };
        check("cuDevResourceGenerateDesc", code)?;
        let mut green = std::ptr::null_mut();
        // SAFETY: a descriptor of this device.
        let code =
            unsafe { cuGreenCtxCreate(&mut green, descriptor, self.primary.ordinal(), DEFAULT_STREAM) };
        check("cuGreenCtxCreate", code)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: a green context that was just made.
        let code = unsafe { cuCtxFromGreenCtx(&mut context, green) };
        check("cuCtxFromGreenCtx", code)?;
        Ok(Green {
            primary: Arc::clone(&self.primary),
            green,
            context,
            sms: resources.iter().map(|r| r.sms).sum(),
        })
    }
}

/// A partition.
#[derive(Debug)]
pub struct Green {
    primary: Arc<Primary>,
    /// Null: it is all of a device that is not divided, and `context` is the device's primary one.
    green: *mut c_void,
    context: CUcontext,
    sms: u32,
}

// SAFETY: the driver's contexts may be used from any thread.
unsafe impl Send for Green {}
// SAFETY: as above.
unsafe impl Sync for Green {}

impl Green {
    /// Multiprocessors that were granted.
    pub fn sms(&self) -> u32 {
        self.sms
    }

    /// The device.
    pub fn primary(&self) -> &Arc<Primary> {
        &self.primary
    }

    /// Makes it this thread's context.
    pub(super) fn bind(&self) -> Result<(), CudaFault> {
        // SAFETY: a context that is held.
        check(
            "cuCtxSetCurrent",
            unsafe { cust::sys::cuCtxSetCurrent(self.context) } as u32,
        )
    }

    pub(super) fn new_stream(&self) -> Result<CUstream, CudaFault> {
        let mut stream = std::ptr::null_mut();
        if self.green.is_null() {
            self.bind()?;
            // SAFETY: a place for a handle.
            let code = unsafe { cust::sys::cuStreamCreate(&mut stream, NON_BLOCKING) };
            check("cuStreamCreate", code as u32)?;
            return Ok(stream);
        }
        // SAFETY: a place for a handle, and a green context that is held.
        let code = unsafe { cuGreenCtxStreamCreate(&mut stream, self.green, NON_BLOCKING, 0) };
        check("cuGreenCtxStreamCreate", code)?;
        Ok(stream)
    }
}

impl Drop for Green {
    fn drop(&mut self) {
        if self.green.is_null() || self.primary.has_ended() {
            return;
        }
        // SAFETY: it was made once; its streams are gone, since they hold it.
        let code = unsafe { cuGreenCtxDestroy(self.green) };
        if code != 0 {
            tracing::debug!(code, "a partition's context is not given back");
        }
    }
}
