//! The functions of the driver API.
//!
//! What they take and give is as in `cuda.h` 13.0. Pointers are the caller's promise, as with the real driver; handles are checked.

#![allow(unsafe_code, non_snake_case, clippy::missing_safety_doc)]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::device::{Code, named};
use super::objects::{Context, Driver};
use super::stream::{Event, HostPlace, Task};
use crate::machine::Launch;
use crate::ptx;

type Handle = *mut c_void;
type Given = Result<(), Code>;

thread_local! {
    /// The contexts that were made current, the latest last.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(vec![]) };
}

fn current() -> usize {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

fn context() -> Result<Context, Code> {
    Driver::get()?.context(current())
}

/// What lies at a place of the host's memory.
pub(super) fn host_bytes(HostPlace(at): HostPlace, bytes: usize) -> Vec<u8> {
    if bytes == 0 {
        return vec![];
    }
    // SAFETY: whoever asked for the copy keeps the place until it is done.
    unsafe { std::slice::from_raw_parts(at as *const u8, bytes) }.to_vec()
}

/// Writes to a place of the host's memory.
pub(super) fn to_host(HostPlace(at): HostPlace, content: &[u8]) {
    // SAFETY: whoever asked for the copy keeps the place until it is done.
    unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), at as *mut u8, content.len()) }
}

/// Writes a result where the caller wants it.
unsafe fn give<T>(to: *mut T, value: T) -> Given {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller gives a place for a `T`, or null.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

fn as_code(f: impl FnOnce() -> Given) -> c_int {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => 0,
        Ok(Err(Code(code))) => code,
        Err(_) => {
            eprintln!("softgpu: panicked");
            Code::LAUNCH_FAILED.0
        }
    }
}

macro_rules! driver {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("`", stringify!($name), "`, as in cuda.h.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $kind),*) -> c_int {
                as_code(|| -> Given {
                    // SAFETY: the pointers are the caller's promise.
                    #[allow(unused_unsafe)]
                    unsafe { $body }
                })
            }
        )*

        /// The address of one of these functions, by its name.
        fn address_of(name: &[u8]) -> Option<usize> {
            $(if name == stringify!($name).as_bytes() { return Some($name as *const () as usize); })*
            None
        }
    };
}

fn handle(number: usize) -> Handle {
    number as Handle
}

/// A device's resource: multiprocessors.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DevResource {
    kind: u32,
    padding: [u8; 92],
    sms: u32,
    smallest: u32,
    alignment: u32,
    /// Number of the split that it came from; 0: the whole device.
    split: u32,
    rest: [u8; 32],
}

const RESOURCE_SM: u32 = 1;

fn resource(sms: u32, smallest: u32, split: u32) -> DevResource {
    DevResource {
        kind: RESOURCE_SM,
        padding: [0; 92],
        sms,
        smallest,
        alignment: smallest,
        split,
        rest: [0; 32],
    }
}

fn attribute(context: &super::plan::Plan, which: c_int) -> Option<c_int> {
    Some(match which {
        // Threads of a block, sizes of a block and of a grid.
        1..=3 => 1024,
        4 => 64,
        5 => 0x7fff_ffff,
        6 | 7 => 65535,
        8 => 48 << 10,
        10 => 32,
        12 => 65536,
        13 => 1_755_000,
        16 => context.sms as c_int,
        36 => 1_593_000,
        37 => 5120,
        38 => 50 << 20,
        39 => 2048,
        75 => (context.capability / 10) as c_int,
        76 => (context.capability % 10) as c_int,
        81 => 228 << 10,
        82 => 65536,
        97 => 227 << 10,
        106 => 32,
        _ => return None,
    })
}

fn load(image: &[u8], to: *mut Handle) -> Given {
    let driver = Driver::get()?;
    if image.starts_with(b"\x7fELF") {
        // What was compiled for real devices.
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    let text = std::str::from_utf8(image).map_err(|_| Code::INVALID_PTX)?;
    let module = ptx::parse(text).map_err(|error| {
        if let Ok(context) = context() {
            context.device.tell(format!("softgpu: {error}"));
        }
        Code::INVALID_PTX
    })?;
    let mut objects = driver.objects();
    let number = objects.handle();
    objects.modules.insert(number, Arc::new(module));
    // SAFETY: the caller's place for a handle.
    unsafe { give(to, handle(number)) }
}

/// A module's kernel by its name.
fn function_of(to: *mut Handle, module: Handle, name: &[u8]) -> Given {
    let mut objects = Driver::get()?.objects();
    let module = objects
        .modules
        .get(&(module as usize))
        .ok_or(Code::INVALID_HANDLE)?;
    let kernel = module.kernels.iter().find(|k| k.name.as_bytes() == name);
    let kernel = Arc::clone(kernel.ok_or(Code::NOT_FOUND)?);
    let number = objects.handle();
    objects.functions.insert(number, kernel);
    // SAFETY: the caller's place for a handle.
    unsafe { give(to, handle(number)) }
}

driver! {
    fn cuInit(_flags: c_uint) {
        Driver::start().map(|_| ())
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        let driver = Driver::start()?;
        give(version, driver.plan.driver as c_int)
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        give(count, Driver::get()?.devices.len() as c_int)
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        Driver::get()?.device(ordinal)?;
        give(device, ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        Driver::get()?.device(device)?;
        let text = b"softgpu\0";
        if (len as usize) < text.len() || name.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len());
        Ok(())
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        let total = Driver::get()?.device(device)?.plan.memory;
        give(bytes, total as usize)
    }

    fn cuDeviceGetAttribute(value: *mut c_int, which: c_int, device: c_int) {
        let device = Driver::get()?.device(device)?;
        give(value, attribute(&device.plan, which).ok_or(Code::INVALID_VALUE)?)
    }

    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) {
        let driver = Driver::get()?;
        if driver.device(device)?.state() == Err(Code::ECC_UNCORRECTABLE) {
            return Err(Code::ECC_UNCORRECTABLE);
        }
        give(context, handle(driver.primary(device)?))
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        Driver::get()?.device(device).map(|_| ())
    }

    /// Sets a device up anew: what spoiled its contexts is gone.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        let driver = Driver::get()?;
        driver.device(device)?.set_up_anew();
        driver.forget(device as u32);
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) {
        let wanted = context as usize;
        if wanted != 0 {
            Driver::get()?.context(wanted)?;
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if wanted != 0 {
                stack.push(wanted);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: *mut Handle) {
        give(context, handle(current()))
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        Driver::get()?.context(context as usize)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context as usize));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: *mut Handle) {
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        if context.is_null() { Ok(()) } else { give(context, handle(popped)) }
    }

    fn cuCtxGetDevice(device: *mut c_int) {
        give(device, context()?.ordinal as c_int)
    }

    fn cuCtxSynchronize() {
        let driver = Driver::get()?;
        let here = current();
        let streams: Vec<_> = driver.objects().streams.values().filter(|s| s.context == here).cloned().collect();
        streams.iter().try_for_each(|s| s.wait())?;
        context()?.device.state()
    }

    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) {
        load(CStr::from_ptr(image.cast()).to_bytes(), module)
    }

    fn cuModuleLoadDataEx(
        module: *mut Handle,
        image: *const c_void,
        _options: c_uint,
        _keys: *mut c_void,
        _values: *mut c_void,
    ) {
        load(CStr::from_ptr(image.cast()).to_bytes(), module)
    }

    fn cuModuleUnload(module: Handle) {
        let gone = Driver::get()?.objects().modules.remove(&(module as usize));
        gone.map(drop).ok_or(Code::INVALID_HANDLE)
    }

    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        function_of(function, module, CStr::from_ptr(name).to_bytes())
    }

    fn cuLibraryLoadData(
        library: *mut Handle,
        code: *const c_void,
        _jit: *mut c_void,
        _jit_values: *mut c_void,
        _jit_count: c_uint,
        _options: *mut c_void,
        _option_values: *mut c_void,
        _option_count: c_uint,
    ) {
        load(CStr::from_ptr(code.cast()).to_bytes(), library)
    }

    fn cuLibraryUnload(library: Handle) {
        let gone = Driver::get()?.objects().modules.remove(&(library as usize));
        gone.map(drop).ok_or(Code::INVALID_HANDLE)
    }

    /// A kernel can be launched on any context; its handle is a function's.
    fn cuLibraryGetKernel(kernel: *mut Handle, library: Handle, name: *const c_char) {
        function_of(kernel, library, CStr::from_ptr(name).to_bytes())
    }

    fn cuFuncGetAttribute(value: *mut c_int, which: c_int, function: Handle) {
        let objects = Driver::get()?.objects();
        let kernel = objects.functions.get(&(function as usize)).ok_or(Code::INVALID_HANDLE)?;
        give(value, match which {
            0 => kernel.most_threads.unwrap_or(1024) as c_int,
            1 => kernel.shared as c_int,
            4 => 32,
            _ => 0,
        })
    }

    fn cuFuncSetAttribute(_function: Handle, _which: c_int, _value: c_int) {
        Ok(())
    }

    fn cuMemAlloc_v2(at: *mut u64, bytes: usize) {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        give(at, context()?.device.allocate(bytes as u64)?)
    }

    fn cuMemFree_v2(at: u64) {
        context()?.device.memory(|memory| memory.free(at))
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (all, left) = context()?.device.memory(|memory| Ok(memory.total_and_free()))?;
        give(free, left as usize)?;
        give(total, all as usize)
    }

    fn cuMemAllocHost_v2(at: *mut Handle, bytes: usize) {
        let mut memory = vec![0u64; bytes.div_ceil(8).max(1)];
        let place = memory.as_mut_ptr() as usize;
        Driver::get()?.objects().pinned.insert(place, memory);
        give(at, handle(place))
    }

    fn cuMemFreeHost(at: Handle) {
        let gone = Driver::get()?.objects().pinned.remove(&(at as usize));
        gone.map(drop).ok_or(Code::INVALID_VALUE)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        let content = host_bytes(HostPlace(from as usize), bytes);
        context()?.device.memory(|memory| memory.write(to, &content))
    }

    fn cuMemcpyDtoH_v2(to: Handle, from: u64, bytes: usize) {
        let mut content = vec![0; bytes];
        context()?.device.memory(|memory| memory.read(from, &mut content))?;
        to_host(HostPlace(to as usize), &content);
        Ok(())
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        context()?.device.memory(|memory| memory.copy(to, from, bytes))
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        context()?.device.memory(|memory| memory.fill(to, &[value], count))
    }

    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) {
        context()?.device.memory(|memory| memory.fill(to, &value.to_le_bytes(), count))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) {
        let from = HostPlace(from as usize);
        Driver::get()?.stream(stream as usize, current())?.put([Task::ToDevice { to, from, bytes }])
    }

    fn cuMemcpyDtoHAsync_v2(to: Handle, from: u64, bytes: usize, stream: Handle) {
        let to = HostPlace(to as usize);
        Driver::get()?.stream(stream as usize, current())?.put([Task::ToHost { to, from, bytes }])
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        Driver::get()?.stream(stream as usize, current())?.put([Task::Within { to, from, bytes }])
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        let pattern = vec![value];
        Driver::get()?.stream(stream as usize, current())?.put([Task::Fill { to, pattern, count }])
    }

    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: Handle) {
        let pattern = value.to_le_bytes().to_vec();
        Driver::get()?.stream(stream as usize, current())?.put([Task::Fill { to, pattern, count }])
    }

    fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) {
        give(stream, handle(Driver::get()?.new_stream(current())?))
    }

    fn cuStreamCreateWithPriority(stream: *mut Handle, _flags: c_uint, _priority: c_int) {
        give(stream, handle(Driver::get()?.new_stream(current())?))
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let gone = Driver::get()?.objects().streams.remove(&(stream as usize));
        gone.map(drop).ok_or(Code::INVALID_HANDLE)
    }

    fn cuStreamSynchronize(stream: Handle) {
        Driver::get()?.stream(stream as usize, current())?.wait()
    }

    fn cuStreamQuery(stream: Handle) {
        let stream = Driver::get()?.stream(stream as usize, current())?;
        if stream.is_done() { stream.wait() } else { Err(Code::NOT_READY) }
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) {
        let driver = Driver::get()?;
        let event = driver.event(event as usize)?;
        let count = event.recorded();
        driver.stream(stream as usize, current())?.put([Task::Waits(event, count)])
    }

    fn cuStreamBeginCapture_v2(stream: Handle, _mode: c_uint) {
        Driver::get()?.stream(stream as usize, current())?.begin_capture()
    }

    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) {
        let driver = Driver::get()?;
        let tasks = driver.stream(stream as usize, current())?.end_capture()?;
        let mut objects = driver.objects();
        let number = objects.handle();
        objects.graphs.insert(number, Arc::new(tasks));
        give(graph, handle(number))
    }

    fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, _flags: u64) {
        let mut objects = Driver::get()?.objects();
        let tasks = Arc::clone(objects.graphs.get(&(graph as usize)).ok_or(Code::INVALID_HANDLE)?);
        let number = objects.handle();
        objects.graphs.insert(number, tasks);
        give(exec, handle(number))
    }

    fn cuGraphLaunch(exec: Handle, stream: Handle) {
        let driver = Driver::get()?;
        let tasks = driver.objects().graphs.get(&(exec as usize)).cloned().ok_or(Code::INVALID_HANDLE)?;
        driver.stream(stream as usize, current())?.put(tasks.iter().cloned())
    }

    fn cuGraphDestroy(graph: Handle) {
        let gone = Driver::get()?.objects().graphs.remove(&(graph as usize));
        gone.map(drop).ok_or(Code::INVALID_HANDLE)
    }

    fn cuGraphExecDestroy(exec: Handle) {
        let gone = Driver::get()?.objects().graphs.remove(&(exec as usize));
        gone.map(drop).ok_or(Code::INVALID_HANDLE)
    }

    fn cuEventCreate(event: *mut Handle, _flags: c_uint) {
        let mut objects = Driver::get()?.objects();
        let number = objects.handle();
        objects.events.insert(number, Arc::new(Event::default()));
        give(event, handle(number))
    }

    fn cuEventDestroy_v2(event: Handle) {
        let gone = Driver::get()?.objects().events.remove(&(event as usize));
        gone.map(drop).ok_or(Code::INVALID_HANDLE)
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        let driver = Driver::get()?;
        let event = driver.event(event as usize)?;
        let stream = driver.stream(stream as usize, current())?;
        let count = event.record();
        let put = stream.put([Task::Happens(Arc::clone(&event), count)]);
        // Nobody shall wait for what will never happen.
        put.inspect_err(|&code| event.happen(count, Default::default(), Some(code)))
    }

    fn cuEventQuery(event: Handle) {
        let event = Driver::get()?.event(event as usize)?;
        if event.is_done() { event.wait(0).map(|_| ()) } else { Err(Code::NOT_READY) }
    }

    fn cuEventSynchronize(event: Handle) {
        let event = Driver::get()?.event(event as usize)?;
        event.wait(event.recorded()).map(|_| ())
    }

    /// Milliseconds between two events of the streams' clocks, which run by modelled time.
    fn cuEventElapsedTime(ms: *mut f32, start: Handle, end: Handle) {
        let driver = Driver::get()?;
        let (start, end) = (driver.event(start as usize)?, driver.event(end as usize)?);
        let from = start.wait(start.recorded())?;
        let to = end.wait(end.recorded())?;
        give(ms, to.saturating_sub(from).as_secs_f32() * 1e3)
    }

    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        dynamic_shared: c_uint,
        stream: Handle,
        params: *mut *mut c_void,
        _extra: *mut *mut c_void,
    ) {
        let driver = Driver::get()?;
        let kernel = driver.objects().functions.get(&(function as usize)).cloned().ok_or(Code::INVALID_HANDLE)?;
        let grid = [grid_x, grid_y, grid_z];
        let threads = [block_x, block_y, block_z];
        let product = |sizes: &[u32; 3]| sizes.iter().try_fold(1u32, |all, &n| all.checked_mul(n));
        let blocks = product(&grid).filter(|n| (1..1 << 31).contains(n)).ok_or(Code::INVALID_VALUE)?;
        let most = kernel.most_threads.unwrap_or(1024).min(1024);
        let fits = product(&threads).is_some_and(|n| n >= 1 && n <= most);
        if blocks == 0 || !fits || kernel.shared + dynamic_shared as usize > 227 << 10 {
            return Err(Code::LAUNCH_OUT_OF_RESOURCES);
        }
        let mut bytes = vec![0; kernel.param_bytes()];
        for (place, &(offset, size)) in kernel.params.iter().enumerate() {
            let from = *params.add(place);
            bytes[offset..offset + size].copy_from_slice(&host_bytes(HostPlace(from as usize), size));
        }
        let launch = Launch { kernel, grid, threads, params: bytes, dynamic_shared };
        driver.stream(stream as usize, current())?.put([Task::Launch(Arc::new(launch))])
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: Handle, threads: c_int, dynamic: usize) {
        let objects = Driver::get()?.objects();
        let kernel = objects.functions.get(&(function as usize)).ok_or(Code::INVALID_HANDLE)?;
        let by_threads = 2048 / threads.max(1) as usize;
        let by_shared = (228 << 10) / (kernel.shared + dynamic + 1024);
        give(blocks, by_threads.min(by_shared).min(32) as c_int)
    }

    fn cuDeviceGetDevResource(device: c_int, to: *mut DevResource, kind: c_uint) {
        let driver = Driver::get()?;
        let device = driver.device(device)?;
        if !driver.plan.green {
            return Err(Code::NOT_SUPPORTED);
        }
        if kind != RESOURCE_SM {
            return Err(Code::INVALID_RESOURCE_TYPE);
        }
        give(to, resource(device.plan.sms, device.plan.smallest_split(false), 0))
    }

    fn cuDevSmResourceSplitByCount(
        result: *mut DevResource,
        groups: *mut c_uint,
        input: *const DevResource,
        remaining: *mut DevResource,
        flags: c_uint,
        least: c_uint,
    ) {
        let driver = Driver::get()?;
        if input.is_null() || groups.is_null() || (*input).kind != RESOURCE_SM {
            return Err(Code::INVALID_RESOURCE_TYPE);
        }
        // Only a driver of CUDA 13.0 knows that flag.
        let alone = flags & 1 == 1;
        if alone && driver.plan.driver < 13_000 {
            return Err(Code::INVALID_VALUE);
        }
        let smallest = driver.plan.smallest_split(alone);
        let step = if driver.plan.capability / 10 >= 9 && !alone { 8 } else { 2 };
        let each = least.max(smallest).next_multiple_of(step);
        let all = (*input).sms;
        let can = all / each;
        if result.is_null() {
            return give(groups, can);
        }
        let split = driver.objects().handle() as u32;
        let count = (*groups).min(can);
        for place in 0..count {
            result.add(place as usize).write_unaligned(resource(each, smallest, split));
        }
        if !remaining.is_null() {
            remaining.write_unaligned(resource(all - count * each, smallest, split));
        }
        give(groups, count)
    }

    fn cuDevResourceGenerateDesc(descriptor: *mut Handle, resources: *mut DevResource, count: c_uint) {
        let driver = Driver::get()?;
        let all: Vec<DevResource> = (0..count as usize).map(|i| resources.add(i).read_unaligned()).collect();
        let one_split = all.windows(2).all(|two| two[0].split == two[1].split);
        if all.is_empty() || !one_split || all.iter().any(|r| r.kind != RESOURCE_SM || r.sms == 0) {
            return Err(Code::INVALID_RESOURCE_TYPE);
        }
        let sms = all.iter().map(|r| r.sms).sum();
        let mut objects = driver.objects();
        let number = objects.handle();
        objects.descriptors.insert(number, sms);
        give(descriptor, handle(number))
    }

    fn cuGreenCtxCreate(green: *mut Handle, descriptor: Handle, device: c_int, flags: c_uint) {
        let driver = Driver::get()?;
        let of = Arc::clone(driver.device(device)?);
        of.state()?;
        if flags & 1 == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut objects = driver.objects();
        let sms = *objects.descriptors.get(&(descriptor as usize)).ok_or(Code::INVALID_HANDLE)?;
        let number = objects.handle();
        objects.contexts.insert(number, Context { device: of, ordinal: device as u32, sms });
        give(green, handle(number))
    }

    fn cuGreenCtxDestroy(green: Handle) {
        let mut objects = Driver::get()?.objects();
        let gone = objects.contexts.remove(&(green as usize));
        gone.map(drop).ok_or(Code::INVALID_CONTEXT)
    }

    fn cuCtxFromGreenCtx(context: *mut Handle, green: Handle) {
        Driver::get()?.context(green as usize)?;
        give(context, green)
    }

    fn cuGreenCtxStreamCreate(stream: *mut Handle, green: Handle, _flags: c_uint, _priority: c_int) {
        give(stream, handle(Driver::get()?.new_stream(green as usize)?))
    }

    fn cuGetErrorString(code: c_int, text: *mut *const c_char) {
        let known = named(code).ok_or(Code::INVALID_VALUE);
        if known.is_err() {
            give(text, c"an error that this driver does not know".as_ptr())?;
        }
        give(text, known?.1.as_ptr())
    }

    fn cuGetErrorName(code: c_int, text: *mut *const c_char) {
        give(text, named(code).ok_or(Code::INVALID_VALUE)?.0.as_ptr())
    }

    fn cuGetProcAddress(symbol: *const c_char, to: *mut Handle, _version: c_int, _flags: u64) {
        let name = CStr::from_ptr(symbol).to_bytes();
        let newer = [name, b"_v2"].concat();
        let found = address_of(&newer).or_else(|| address_of(name));
        give(to, handle(found.ok_or(Code::NOT_FOUND)?))
    }

    /// Changes what faults a device is to have; `plan` as in `GRAFT_SOFTGPU`. Not of the driver API.
    fn graftSoftgpuPlan(device: c_int, plan: *const c_char) {
        let text = CStr::from_ptr(plan).to_str().map_err(|_| Code::INVALID_VALUE)?;
        Driver::start()?.device(device)?.change_plan(text).map_err(|_| Code::INVALID_VALUE)
    }

    /// Forgets what lies in a device's range, as if it were fresh. Not of the driver API.
    fn graftSoftgpuPoison(at: u64, bytes: usize) {
        context()?.device.memory(|memory| memory.poison(at, bytes))
    }

    /// As above, when a stream gets there. Not of the driver API.
    fn graftSoftgpuPoisonAsync(at: u64, bytes: usize, stream: Handle) {
        Driver::get()?.stream(stream as usize, current())?.put([Task::Poison { at, bytes }])
    }

    /// Writes what a device told and what its launches did since it was asked last, as JSON with `messages`, `launches` and `late_ms`, and gives
    /// its length; what does not fit is kept. Not of the driver API.
    fn graftSoftgpuReport(device: c_int, to: *mut c_char, room: usize, length: *mut usize) {
        thread_local! {
            static KEPT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
        }
        let device = Driver::get()?.device(device)?;
        KEPT.with_borrow_mut(|kept| {
            let text = kept.get_or_insert_with(|| {
                let report = serde_json::json!({
                    "messages": device.take_messages(),
                    "launches": device.take_reports(),
                    "late_ms": device.take_late().as_secs_f64() * 1e3,
                });
                report.to_string().into_bytes()
            });
            give(length, text.len())?;
            if text.len() <= room && !to.is_null() {
                std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
                *kept = None;
            }
            Ok(())
        })
    }
}
