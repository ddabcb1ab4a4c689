//! Finding the driver and its devices.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard};

use cust::CudaFlags;
use cust::device::{Device, DeviceAttribute};
use cust::sys::CUcontext;

use super::error::{CudaFault, check, of_cust};

/// Library of the driver, where `GRAFT_CUDA_LIBRARY` names no other.
const LIBRARY: &str = "libcuda.so.1";

/// Version of the oldest driver that divides a device finely enough: CUDA 13.0, driver 580.
const OLDEST_DRIVER: i32 = 13_000;

/// Name that the software GPU gives itself.
const SOFTGPU: &str = "softgpu";

unsafe extern "C" {
    fn graft_cuda_open(path: *const c_char, why: *mut c_char, room: usize) -> c_int;
    fn graft_cuda_connections();
    fn graftSoftgpuPlan(device: c_int, plan: *const c_char) -> c_int;
    fn graftSoftgpuReport(device: c_int, to: *mut c_char, room: usize, length: *mut usize) -> c_int;
}

/// Why there is no device to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDriver {
    /// The driver's library can't be opened.
    #[error("no CUDA driver: {library} can't be opened ({why})")]
    NotFound {
        /// The library.
        library: String,
        /// Why, in the loader's words.
        why: String,
    },
    /// It does not start.
    #[error("the CUDA driver does not start: {0}")]
    NotStarted(CudaFault),
    /// It is older than what is needed.
    #[error("the CUDA driver is of CUDA {}.{}; Graft needs 13.0 (driver 580) or later: bring it up to date", version / 1000, version % 1000 / 10)]
    Old {
        /// Its version: 12040 is 12.4.
        version: i32,
    },
    /// It has no such device.
    #[error("there is no CUDA device {0}")]
    NoDevice(u32),
}

/// Asks the driver, which looks for it in the environment when it starts, for as many connections to a device as it has, unless somebody
/// asked for another number. To be called first of all in a program, while it has one thread.
pub fn ask_for_connections() {
    // SAFETY: one thread, by the caller's promise: nobody reads the environment meanwhile.
    unsafe { graft_cuda_connections() };
}

static OPENED: OnceLock<Result<i32, NoDriver>> = OnceLock::new();

fn opened() -> Result<i32, NoDriver> {
    let named = std::env::var_os("GRAFT_CUDA_LIBRARY");
    let library = named.map_or_else(|| PathBuf::from(LIBRARY), PathBuf::from);
    OPENED.get_or_init(|| open(library)).clone()
}

/// Opens a library in the place of the driver's, for this process. It has to be called before anything looks for devices; later, what
/// was opened first stays.
pub fn use_library(library: &Path) -> Result<(), NoDriver> {
    OPENED
        .get_or_init(|| open(library.to_owned()))
        .clone()
        .map(|_| ())
}

fn open(library: PathBuf) -> Result<i32, NoDriver> {
    let shown = library.display().to_string();
    let path = CString::new(shown.clone()).map_err(|_| NoDriver::NotFound {
        library: shown.clone(),
        why: "its name has a zero byte".to_owned(),
    })?;
    let mut why = [0u8; 256];
    // SAFETY: a text that ends with 0, and a place for a text of that length.
    let found = unsafe { graft_cuda_open(path.as_ptr(), why.as_mut_ptr().cast(), why.len()) };
    if found == 0 {
        let why = CStr::from_bytes_until_nul(&why)
            .map_or_else(|_| String::new(), |t| t.to_string_lossy().into_owned());
        return Err(NoDriver::NotFound { library: shown, why });
    }
    cust::init(CudaFlags::empty()).map_err(|e| NoDriver::NotStarted(of_cust("cuInit", e)))?;
    let mut version = 0;
    // SAFETY: a place for a number.
    let code = unsafe { cust::sys::cuDriverGetVersion(&mut version) };
    check("cuDriverGetVersion", code as u32).map_err(NoDriver::NotStarted)?;
    if version < OLDEST_DRIVER {
        return Err(NoDriver::Old { version });
    }
    Ok(version)
}

/// A device as it was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Gpu {
    /// Its number.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Compute capability: 90 is 9.0.
    pub capability: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The driver's version: 13000 is CUDA 13.0.
    pub driver: i32,
}

impl Gpu {
    /// The devices of this host. `Err`: there is no driver, or it is too old.
    pub fn all() -> Result<Vec<Gpu>, NoDriver> {
        let driver = opened()?;
        let failed = |e| NoDriver::NotStarted(of_cust("cuDeviceGet", e));
        let count = Device::num_devices().map_err(failed)?;
        (0..count)
            .map(|ordinal| {
                let device = Device::get_device(ordinal).map_err(failed)?;
                let attribute = |which| {
                    device
                        .get_attribute(which)
                        .map(|n| n.max(0) as u32)
                        .map_err(failed)
                };
                let major = attribute(DeviceAttribute::ComputeCapabilityMajor)?;
                Ok(Gpu {
                    ordinal,
                    name: device.name().map_err(failed)?,
                    sms: attribute(DeviceAttribute::MultiprocessorCount)?,
                    capability: major * 10 + attribute(DeviceAttribute::ComputeCapabilityMinor)?,
                    memory: device.total_memory().map_err(failed)? as u64,
                    driver,
                })
            })
            .collect()
    }

    /// A device by its number.
    pub fn find(ordinal: u32) -> Result<Gpu, NoDriver> {
        let mut all = Self::all()?.into_iter();
        all.find(|gpu| gpu.ordinal == ordinal)
            .ok_or(NoDriver::NoDevice(ordinal))
    }

    /// Whether it is the software GPU, whose times are modelled.
    pub fn is_softgpu(&self) -> bool {
        self.name == SOFTGPU
    }

    /// Opens it.
    pub(crate) fn open(&self) -> Result<Arc<Primary>, CudaFault> {
        let mut context = std::ptr::null_mut();
        // SAFETY: a place for a context; the device is there.
        let code = unsafe { cust::sys::cuDevicePrimaryCtxRetain(&mut context, self.ordinal as c_int) };
        check("cuDevicePrimaryCtxRetain", code as u32)?;
        Ok(Arc::new(Primary {
            gpu: self.clone(),
            context,
            ended: RwLock::new(false),
        }))
    }
}

/// A device that was opened. Nothing is launched on its primary context, whose kernels could run anywhere, but where the device is not divided.
#[derive(Debug)]
pub struct Primary {
    gpu: Gpu,
    context: CUcontext,
    /// Whether it was reset: nothing that was made before is there any more.
    ended: RwLock<bool>,
}

// SAFETY: the driver's contexts may be used from any thread.
unsafe impl Send for Primary {}
// SAFETY: as above.
unsafe impl Sync for Primary {}

impl Primary {
    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub(super) fn context(&self) -> CUcontext {
        self.context
    }

    pub(super) fn ordinal(&self) -> c_int {
        self.gpu.ordinal as c_int
    }

    /// Makes its context this thread's, for calls that need one.
    pub(super) fn bind(&self) -> Result<(), CudaFault> {
        // SAFETY: a context that is held.
        check(
            "cuCtxSetCurrent",
            unsafe { cust::sys::cuCtxSetCurrent(self.context) } as u32,
        )
    }

    /// Holds the device as it is: it is not reset meanwhile. `Err`: it was. Not to be asked for again while it is held.
    pub fn using(&self) -> Result<RwLockReadGuard<'_, bool>, CudaFault> {
        let ended = self.ended.read().unwrap_or_else(|e| e.into_inner());
        if *ended { Err(CudaFault::gone()) } else { Ok(ended) }
    }

    /// Whether what was made on it is gone, or is about to be.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.try_read().map_or(true, |ended| *ended)
    }

    /// Ends all contexts of the device, with what spoiled them, once nobody uses it. All memory, streams and partitions are gone; what stands
    /// for them gives nothing back any more.
    pub fn reset(&self) -> Result<(), CudaFault> {
        let mut ended = self.ended.write().unwrap_or_else(|e| e.into_inner());
        *ended = true;
        // SAFETY: nobody uses the device, and what was made on it looks whether it has ended before it calls the driver.
        let code = unsafe { cust::sys::cuDevicePrimaryCtxReset_v2(self.ordinal()) };
        check("cuDevicePrimaryCtxReset", code as u32)
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        // SAFETY: it was retained once.
        let code = unsafe { cust::sys::cuDevicePrimaryCtxRelease_v2(self.ordinal()) };
        if code as u32 != 0 {
            tracing::debug!(code = code as u32, "a device's context is not given back");
        }
    }
}

/// Tells the software GPU which faults it is to have. `Err`: it is none, or does not understand it.
pub fn softgpu_plan(ordinal: u32, plan: &str) -> Result<(), CudaFault> {
    let text = CString::new(plan).unwrap_or_default();
    // SAFETY: a text that ends with 0.
    check(
        "graftSoftgpuPlan",
        unsafe { graftSoftgpuPlan(ordinal as c_int, text.as_ptr()) } as u32,
    )
}

/// What the software GPU's launches did and told since it was asked last, as JSON. `Err`: it is none.
pub fn softgpu_report(ordinal: u32) -> Result<String, CudaFault> {
    let mut length = 0;
    let device = ordinal as c_int;
    // SAFETY: no room and a place for a number: it only tells the length.
    let code = unsafe { graftSoftgpuReport(device, std::ptr::null_mut(), 0, &mut length) };
    check("graftSoftgpuReport", code as u32)?;
    let mut text = vec![0u8; length];
    // SAFETY: room for as many bytes as it just said, on the same thread.
    let code = unsafe { graftSoftgpuReport(device, text.as_mut_ptr().cast(), text.len(), &mut length) };
    check("graftSoftgpuReport", code as u32)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
