//! Memory of the device, and of the host where the device reaches it.

use std::sync::Arc;

use super::error::{CudaFault, check};
use super::open::Primary;

/// Memory of a device; given back when it is dropped.
#[derive(Debug)]
pub struct DeviceMemory {
    primary: Arc<Primary>,
    at: u64,
    bytes: usize,
}

unsafe extern "C" {
    fn graftSoftgpuPoison(at: u64, bytes: usize) -> i32;
}

impl DeviceMemory {
    /// Takes so many bytes; at least one.
    pub fn new(primary: &Arc<Primary>, bytes: usize) -> Result<Self, CudaFault> {
        primary.bind()?;
        let mut at = 0;
        // SAFETY: a place for an address.
        let code = unsafe { cust::sys::cuMemAlloc_v2(&mut at, bytes.max(1)) };
        check("cuMemAlloc", code as u32)?;
        Ok(DeviceMemory {
            primary: Arc::clone(primary),
            at,
            bytes: bytes.max(1),
        })
    }

    /// Memory with a content.
    pub fn with(primary: &Arc<Primary>, content: &[u8]) -> Result<Self, CudaFault> {
        let memory = Self::new(primary, content.len())?;
        memory.write(0, content)?;
        Ok(memory)
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// Its bytes; at least one.
    pub fn size(&self) -> usize {
        self.bytes
    }

    fn range(&self, offset: usize, bytes: usize) -> u64 {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "{bytes} bytes at {offset} of {}",
            self.bytes
        );
        self.at + offset as u64
    }

    /// Writes from the host, and waits.
    pub fn write(&self, offset: usize, content: &[u8]) -> Result<(), CudaFault> {
        let to = self.range(offset, content.len());
        self.primary.bind()?;
        // SAFETY: both ranges were looked at, and the call waits.
        let code = unsafe { cust::sys::cuMemcpyHtoD_v2(to, content.as_ptr().cast(), content.len()) };
        check("cuMemcpyHtoD", code as u32)
    }

    /// Reads to the host, and waits. Whoever wrote it has to be done.
    pub fn read(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, CudaFault> {
        let from = self.range(offset, bytes);
        let mut content = vec![0; bytes];
        self.primary.bind()?;
        // SAFETY: both ranges were looked at, and the call waits.
        let code = unsafe { cust::sys::cuMemcpyDtoH_v2(content.as_mut_ptr().cast(), from, bytes) };
        check("cuMemcpyDtoH", code as u32)?;
        Ok(content)
    }

    /// Makes a range as if it were fresh, where the software GPU watches; elsewhere nothing happens.
    pub fn forget(&self, offset: usize, bytes: usize) {
        let at = self.range(offset, bytes);
        if self.primary.gpu().is_softgpu() && self.primary.bind().is_ok() {
            // SAFETY: a range of this memory.
            let code = unsafe { graftSoftgpuPoison(at, bytes) };
            tracing::trace!(code, "memory is as if it were fresh");
        }
    }
}

impl DeviceMemory {
    /// Reads to the host, where nobody else keeps the device from being reset meanwhile. `Err`: it was.
    pub fn read_held(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, CudaFault> {
        let _using = self.primary.using()?;
        self.read(offset, bytes)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.primary.has_ended() || self.primary.bind().is_err() {
            return;
        }
        // SAFETY: it was taken once, and nobody names it any more.
        let code = unsafe { cust::sys::cuMemFree_v2(self.at) };
        if code as u32 != 0 {
            tracing::debug!(code = code as u32, "device memory is not given back");
        }
    }
}

/// Memory of the host that the device reads and writes beside the processor.
#[derive(Debug)]
pub struct Pinned {
    at: *mut u8,
    bytes: usize,
    primary: Arc<Primary>,
}

// SAFETY: it is plain memory, and has one owner.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Takes so many bytes; at least one.
    pub fn new(primary: &Arc<Primary>, bytes: usize) -> Result<Self, CudaFault> {
        primary.bind()?;
        let mut at = std::ptr::null_mut();
        // SAFETY: a place for an address.
        let code = unsafe { cust::sys::cuMemAllocHost_v2(&mut at, bytes.max(1)) };
        check("cuMemAllocHost", code as u32)?;
        // SAFETY: fresh memory of that length.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, bytes.max(1)) };
        Ok(Pinned {
            at: at.cast(),
            bytes: bytes.max(1),
            primary: Arc::clone(primary),
        })
    }

    /// Its content. The device must not be writing it.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: it has that length, and was filled.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// Its content, to be changed. The device must not be reading it.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: it has that length, was filled, and has one owner.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.primary.has_ended() && self.primary.bind().is_ok() {
            // SAFETY: it was taken once.
            let code = unsafe { cust::sys::cuMemFreeHost(self.at.cast()) };
            if code as u32 != 0 {
                tracing::debug!(code = code as u32, "host memory is not given back");
            }
        }
    }
}
