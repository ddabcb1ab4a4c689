//! Streams of a partition, events and graphs.

use std::ffi::c_void;
use std::sync::Arc;

use cust::sys::{CUevent, CUgraph, CUgraphExec, CUstream, CUstreamCaptureMode_enum};

use super::error::{CudaFault, check};
use super::green::Green;
use super::library::Function;
use super::memory::{DeviceMemory, Pinned};

unsafe extern "C" {
    fn graftSoftgpuPoisonAsync(at: u64, bytes: usize, stream: CUstream) -> i32;
}

/// The thread sleeps that waits for an event, instead of asking again and again.
const EVENT_BLOCKING_SYNC: u32 = 1;

/// What a partition does, in order.
#[derive(Debug)]
pub struct Stream {
    raw: CUstream,
    green: Arc<Green>,
}

// SAFETY: the driver's streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of a partition.
    pub fn new(green: &Arc<Green>) -> Result<Self, CudaFault> {
        Ok(Stream {
            raw: green.new_stream()?,
            green: Arc::clone(green),
        })
    }

    /// The partition.
    pub fn green(&self) -> &Arc<Green> {
        &self.green
    }

    /// Launches a kernel whose one parameter is a structure that lies at `params`.
    ///
    /// # Safety
    /// The structure is the kernel's, and the memory that it names is there until the launch is done.
    pub unsafe fn launch(
        &self,
        function: Function,
        blocks: u32,
        threads: u32,
        params: &[u8],
    ) -> Result<(), CudaFault> {
        self.green.bind()?;
        let mut pointers = [params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the caller's promise; the driver copies the parameters before it returns.
        let code = unsafe {
            cust::sys::cuLaunchKernel(
                function.0,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                self.raw,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check("cuLaunchKernel", code as u32)
    }

    /// Copies to the device, beside the host, from `offset` of the host's memory on.
    ///
    /// # Safety
    /// Both are there, and neither is written, until the copy is done.
    pub unsafe fn upload(
        &self,
        to: &DeviceMemory,
        from: &Pinned,
        offset: usize,
        bytes: usize,
    ) -> Result<(), CudaFault> {
        let source = &from.as_slice()[offset..offset + bytes];
        assert!(bytes <= to.size(), "a copy beyond its memory");
        self.green.bind()?;
        // SAFETY: the ranges were looked at; they stay, by the caller's promise.
        let code =
            unsafe { cust::sys::cuMemcpyHtoDAsync_v2(to.address(), source.as_ptr().cast(), bytes, self.raw) };
        check("cuMemcpyHtoDAsync", code as u32)
    }

    /// Copies within the device.
    ///
    /// # Safety
    /// Both addresses have that many bytes, which stay until the copy is done.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaFault> {
        self.green.bind()?;
        // SAFETY: the caller's promise.
        let code = unsafe { cust::sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.raw) };
        check("cuMemcpyDtoDAsync", code as u32)
    }

    /// Makes memory as if it were fresh when the stream gets there, where the software GPU watches; elsewhere nothing happens.
    pub fn forget(&self, memory: &DeviceMemory) -> Result<(), CudaFault> {
        if !self.green.primary().gpu().is_softgpu() {
            return Ok(());
        }
        self.green.bind()?;
        // SAFETY: memory and stream are held.
        let code = unsafe { graftSoftgpuPoisonAsync(memory.address(), memory.size(), self.raw) };
        check("graftSoftgpuPoisonAsync", code as u32)
    }

    /// Waits for all that was put in.
    pub fn wait(&self) -> Result<(), CudaFault> {
        self.green.bind()?;
        // SAFETY: a stream that is held.
        let code = unsafe { cust::sys::cuStreamSynchronize(self.raw) };
        check("cuStreamSynchronize", code as u32)
    }

    /// Records what `f` puts in as a graph, without running it.
    pub fn capture(&self, f: impl FnOnce() -> Result<(), CudaFault>) -> Result<Graph, CudaFault> {
        self.green.bind()?;
        let mode = CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream that is held.
        let code = unsafe { cust::sys::cuStreamBeginCapture_v2(self.raw, mode) };
        check("cuStreamBeginCapture", code as u32)?;
        let put = f();
        let mut graph: CUgraph = std::ptr::null_mut();
        // SAFETY: a place for a handle; the capture ends whatever became of it.
        let code = unsafe { cust::sys::cuStreamEndCapture(self.raw, &mut graph) };
        put?;
        check("cuStreamEndCapture", code as u32)?;
        let mut exec: CUgraphExec = std::ptr::null_mut();
        // SAFETY: a graph that was just made, and is given back.
        let code = unsafe {
            let code = cust::sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0);
            cust::sys::cuGraphDestroy(graph);
            code
        };
        check("cuGraphInstantiate", code as u32)?;
        Ok(Graph {
            exec,
            green: Arc::clone(&self.green),
        })
    }

    /// Runs a graph.
    ///
    /// # Safety
    /// The memory that its launches name is there until they are done.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<(), CudaFault> {
        self.green.bind()?;
        // SAFETY: a graph that is held; its memory by the caller's promise.
        let code = unsafe { cust::sys::cuGraphLaunch(graph.exec, self.raw) };
        check("cuGraphLaunch", code as u32)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.green.primary().has_ended() {
            return;
        }
        // SAFETY: it was made once.
        let code = unsafe { cust::sys::cuStreamDestroy_v2(self.raw) };
        if code as u32 != 0 {
            tracing::debug!(code = code as u32, "a stream is not given back");
        }
    }
}

/// A graph: launches that are put in at once.
#[derive(Debug)]
pub struct Graph {
    exec: CUgraphExec,
    /// Its context, which stays as long as it.
    green: Arc<Green>,
}

// SAFETY: the driver's graphs may be used from any thread, one at a time.
unsafe impl Send for Graph {}
// SAFETY: as above; they are launched through a stream that its owner locks.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.green.primary().has_ended() {
            return;
        }
        // SAFETY: it was made once.
        let code = unsafe { cust::sys::cuGraphExecDestroy(self.exec) };
        if code as u32 != 0 {
            tracing::debug!(code = code as u32, "a graph is not given back");
        }
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub struct Event {
    raw: CUevent,
    /// Its context, which stays as long as it.
    green: Arc<Green>,
}

// SAFETY: the driver's events may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event of a partition's device.
    pub fn new(green: &Arc<Green>) -> Result<Self, CudaFault> {
        green.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for a handle.
        let code = unsafe { cust::sys::cuEventCreate(&mut raw, EVENT_BLOCKING_SYNC) };
        check("cuEventCreate", code as u32)?;
        Ok(Event {
            raw,
            green: Arc::clone(green),
        })
    }

    /// Records it in a stream.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaFault> {
        stream.green.bind()?;
        // SAFETY: both are held.
        let code = unsafe { cust::sys::cuEventRecord(self.raw, stream.raw) };
        check("cuEventRecord", code as u32)
    }

    /// Waits until it happened.
    pub fn wait(&self) -> Result<(), CudaFault> {
        self.green.bind()?;
        // SAFETY: an event that is held.
        let code = unsafe { cust::sys::cuEventSynchronize(self.raw) };
        check("cuEventSynchronize", code as u32)
    }

    /// Milliseconds from another event to this one; waits for both. On the software GPU they are modelled.
    pub fn ms_since(&self, start: &Event) -> Result<f32, CudaFault> {
        let mut ms = 0.0;
        // SAFETY: both are held, and a place for a number.
        let code = unsafe {
            let code = cust::sys::cuEventSynchronize(self.raw) as u32;
            if code != 0 {
                code
            } else {
                cust::sys::cuEventElapsedTime(&mut ms, start.raw, self.raw) as u32
            }
        };
        check("cuEventElapsedTime", code)?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.green.primary().has_ended() {
            return;
        }
        // SAFETY: it was made once.
        let code = unsafe { cust::sys::cuEventDestroy_v2(self.raw) };
        if code as u32 != 0 {
            tracing::debug!(code = code as u32, "an event is not given back");
        }
    }
}
