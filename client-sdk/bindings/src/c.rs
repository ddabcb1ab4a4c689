//! The C interface, `graft.h`.
//!
//! Whatever `*_new`, `*_open`, `graft_input_*` and `graft_model_infer` give belongs to the caller, until its `*_free`. Pointers that
//! are read of such a thing are good until then. Models, clients and inputs may be used from several threads at a time, and are freed
//! when no call with them runs any more; what `graft_model_infer_async` began goes on. Answers are used by one thread at a time. Structures begin with their size, so that later versions can have more fields:
//! make them of zeros, set `size`, then what is wanted.

mod answer;
mod given;
mod words;

use std::ffi::{CStr, c_char, c_void};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use crate::client::{Client, ClientOptions, ModelOptions, ModelSource};
use crate::error::GraftError;
use crate::input::Input;
use crate::model::Model;
use crate::runtime;
pub use answer::{
    GraftAnswer, GraftAnswerInfo, GraftElementType, GraftLocal, GraftTensor, graft_answer_free,
    graft_answer_info, graft_answer_output, graft_answer_output_count,
};
pub use given::{GraftBytes, GraftPixelFormat, GraftPixels, GraftPrefer};
use given::{bytes, list, needed, sized, text};
use words::{c_text, keep};

/// How a call ended.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraftStatus {
    /// Well.
    Ok = 0,
    /// The client, or what was asked of it, can't be had with these options.
    Options = 1,
    /// The model can't be read.
    Model = 2,
    /// The device can't run it.
    Device = 3,
    /// The input does not fit the model.
    Input = 4,
    /// Something failed that should not.
    Internal = 5,
}

impl From<&GraftError> for GraftStatus {
    fn from(error: &GraftError) -> Self {
        match error {
            GraftError::Options(_) => GraftStatus::Options,
            GraftError::Model(_) => GraftStatus::Model,
            GraftError::Device(_) => GraftStatus::Device,
            GraftError::Input(_) => GraftStatus::Input,
            GraftError::Internal(_) => GraftStatus::Internal,
        }
    }
}

/// Runs a call; a failure is kept in words for this thread. Panics don't reach C.
fn call(run: impl FnOnce() -> Result<(), GraftError>) -> GraftStatus {
    let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
    let error = match ended {
        Ok(Ok(())) => return GraftStatus::Ok,
        Ok(Err(error)) => error,
        Err(_) => GraftError::Internal("the library failed; this is a fault in it".to_owned()),
    };
    keep(&error.to_string());
    GraftStatus::from(&error)
}

/// Gives a thing to the caller.
///
/// # Safety
///
/// `place` may be written.
unsafe fn give<T>(place: *mut *mut T, thing: T) {
    // SAFETY: the caller's promise.
    unsafe { place.write(Box::into_raw(Box::new(thing))) };
}

/// Takes a thing back from the caller, and drops it.
///
/// # Safety
///
/// It is null, or was given and not taken back.
unsafe fn take<T>(thing: *mut T) {
    if !thing.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(thing) });
    }
}

/// What the last call on this thread that failed has to say. Good until the next call that fails on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn graft_last_error() -> *const c_char {
    words::kept()
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn graft_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// What an app holds: its way to the routers, and this device.
#[derive(Debug)]
pub struct GraftClient(Arc<Client>);

/// How a client is made. Zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GraftClientOptions {
    /// Bytes of this structure.
    pub size: usize,
    /// Routers, `host:port` (UDP), of which one is asked; none: all layers run on the device.
    pub routers: *const *const c_char,
    /// How many they are.
    pub router_count: usize,
    /// The certificate of the authority that issued the routers' (PEM).
    pub authority_pem: GraftBytes,
    /// The name that routers' certificates must carry; null: the one that all of Graft's carry.
    pub server_name: *const c_char,
    /// The token that says who asks, where routers want to know; or null.
    pub token: *const c_char,
    /// A folder of the app's, in which it is kept what layers take here; or null.
    pub cache: *const c_char,
    /// Cores that layers run on; none: one is chosen.
    pub cores: *const u32,
    /// How many they are.
    pub core_count: usize,
}

/// A model that an app brings: a path, or what files hold.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GraftModelSource {
    /// Bytes of this structure.
    pub size: usize,
    /// An ONNX file, a `model.toml`, or a folder with one; null: it is in memory.
    pub path: *const c_char,
    /// The ONNX file.
    pub network: GraftBytes,
    /// The manifest (`model.toml`), or null.
    pub manifest: *const c_char,
    /// Labels of the first output's classes, one a line, or null.
    pub labels: *const c_char,
    /// The file that the manifest names as features, if it does.
    pub features: GraftBytes,
}

/// How a model is used. Zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GraftModelOptions {
    /// Bytes of this structure.
    pub size: usize,
    /// From the input to the answer, in milliseconds; 0: a second.
    pub slo_ms: f64,
    /// What counts where there is time to spare: one of `GraftPrefer`.
    pub prefer: u32,
    /// Bytes that an inference may send at most; 0: as many as it takes.
    pub most_bytes: u64,
    /// The model's inputs never leave the device as they are. (Much of a picture can be told from what its first layers make of it; who
    /// wants less told fixes a later partition point.)
    pub keep_inputs: bool,
    /// Send 16-bit floats, half the bytes, where the manifest allows it.
    pub half_precision: bool,
    /// Hand over at `partition_point`, always.
    pub fixed_partition_point: bool,
    /// The cut point at which it is handed over, if that is fixed.
    pub partition_point: u16,
    /// Send tensors as they are, even where the model's features say how they travel in fewer bytes.
    pub exact: bool,
}

/// Hears that so many steps of so many are done, on a thread of the library's.
pub type GraftProgress = Option<unsafe extern "C" fn(context: *mut c_void, done: u32, all: u32)>;

/// A pointer of the caller's, which is given back to its functions.
#[derive(Clone, Copy)]
struct Context(*mut c_void);

// SAFETY: it is not looked at, only given back; the interface says on which threads.
unsafe impl Send for Context {}

impl Context {
    /// The pointer. A method, so that closures capture the whole.
    fn get(self) -> *mut c_void {
        self.0
    }
}

/// Makes a client; nothing is sent yet, and no network is needed.
///
/// # Safety
///
/// `options` is null or points to a structure as described, `client` to where the client is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_client_new(
    options: *const GraftClientOptions,
    client: *mut *mut GraftClient,
) -> GraftStatus {
    call(|| {
        needed(client, "client")?;
        // SAFETY: the caller's promise.
        let made = unsafe {
            let mut made = ClientOptions::default();
            if !options.is_null() {
                let given = sized(options, (*options).size)?;
                for router in list(given.routers, given.router_count) {
                    made.routers.push(text(*router, "a router")?.unwrap_or_default());
                }
                let pem = bytes(&given.authority_pem)?;
                made.authority_pem = (!pem.is_empty()).then(|| pem.to_vec());
                made.server_name = text(given.server_name, "server_name")?;
                made.token = text(given.token, "token")?;
                made.cache = text(given.cache, "cache")?;
                made.cores = list(given.cores, given.core_count).to_vec();
            }
            made
        };
        let made = Client::new(made)?;
        // SAFETY: the caller's promise.
        unsafe { give(client, GraftClient(made)) };
        Ok(())
    })
}

/// The device is in another network (Wi-Fi, mobile, a VPN): what is under way moves there. To be called when the system says so.
///
/// # Safety
///
/// `client` is a client.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_client_network_changed(client: *const GraftClient) -> GraftStatus {
    call(|| {
        needed(client, "client")?;
        // SAFETY: the caller's promise.
        unsafe { &(*client).0 }.network_changed()
    })
}

/// Frees a client. Models that were opened with it go on.
///
/// # Safety
///
/// `client` is null or was given by `graft_client_new`, and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_client_free(client: *mut GraftClient) {
    // SAFETY: the caller's promise.
    unsafe { take(client) };
}

/// A model on this device, with a router to share its layers with.
#[derive(Debug)]
pub struct GraftModel {
    model: Arc<Model>,
    name: std::ffi::CString,
    identity: std::ffi::CString,
    inputs: Vec<answer::Described>,
    outputs: Vec<answer::Described>,
}

/// Opens a model on this device; blocks. What its layers take here is measured, for about a second, unless the cache knows it.
///
/// # Safety
///
/// `client` is a client; `source` and, unless it is null, `options` point to structures as described, `model` to where the model is
/// written. `progress` may be called on another thread until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_open(
    client: *const GraftClient,
    source: *const GraftModelSource,
    options: *const GraftModelOptions,
    progress: GraftProgress,
    context: *mut c_void,
    model: *mut *mut GraftModel,
) -> GraftStatus {
    call(|| {
        needed(client, "client")?;
        needed(source, "source")?;
        needed(model, "model")?;
        // SAFETY: the caller's promise.
        let (client, source, wanted) = unsafe {
            let given = sized(source, (*source).size)?;
            let source = match text(given.path, "path")? {
                Some(path) => ModelSource::Path { path },
                None => ModelSource::Bytes {
                    network: bytes(&given.network)?.to_vec(),
                    manifest: text(given.manifest, "manifest")?,
                    labels: text(given.labels, "labels")?,
                    features: Some(bytes(&given.features)?.to_vec()).filter(|f| !f.is_empty()),
                },
            };
            let mut wanted = ModelOptions::default();
            if !options.is_null() {
                let given = sized(options, (*options).size)?;
                if given.slo_ms != 0.0 {
                    wanted.slo_ms = given.slo_ms;
                }
                wanted.prefer = Some(given::prefer(given.prefer)?);
                wanted.most_bytes = (given.most_bytes != 0).then_some(given.most_bytes);
                wanted.keep_inputs = given.keep_inputs;
                wanted.half_precision = given.half_precision;
                wanted.exact = given.exact;
                wanted.partition_point = given.fixed_partition_point.then_some(given.partition_point);
            }
            (&(*client).0, source, wanted)
        };
        let context = Context(context);
        let opened = client.open_blocking(source, wanted, move |step| {
            if let Some(progress) = progress {
                let [done, all] = [step.done, step.all].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                // SAFETY: the caller's function, with the caller's pointer.
                unsafe { progress(context.get(), done, all) };
            }
        })?;
        let opened = GraftModel {
            name: c_text(&opened.name()),
            identity: c_text(&opened.identity()),
            inputs: opened.inputs().iter().map(answer::Described::from).collect(),
            outputs: opened.outputs().iter().map(answer::Described::from).collect(),
            model: opened,
        };
        // SAFETY: the caller's promise.
        unsafe { give(model, opened) };
        Ok(())
    })
}

/// Frees a model. Inferences that are under way go on.
///
/// # Safety
///
/// `model` is null or was given by `graft_model_open`, and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_free(model: *mut GraftModel) {
    // SAFETY: the caller's promise.
    unsafe { take(model) };
}

/// A model's name, of the manifest.
///
/// # Safety
///
/// `model` is a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_name(model: *const GraftModel) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { (*model).name.as_ptr() }
}

/// A model's identity: a hash of its content, the same at the server.
///
/// # Safety
///
/// `model` is a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_identity(model: *const GraftModel) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { (*model).identity.as_ptr() }
}

/// Number of a model's inputs.
///
/// # Safety
///
/// `model` is a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_input_count(model: *const GraftModel) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*model }.inputs.len()
}

/// Number of a model's outputs.
///
/// # Safety
///
/// `model` is a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_output_count(model: *const GraftModel) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*model }.outputs.len()
}

/// What a model takes: its input of that number. `data` is null.
///
/// # Safety
///
/// `model` is a model, `info` points to where it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_input(
    model: *const GraftModel,
    number: usize,
    info: *mut GraftTensor,
) -> GraftStatus {
    call(|| {
        needed(model, "model")?;
        // SAFETY: the caller's promise.
        unsafe { answer::tell(&(*model).inputs, number, "inputs", info) }
    })
}

/// What a model gives: its output of that number. `data` is null.
///
/// # Safety
///
/// `model` is a model, `info` points to where it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_output(
    model: *const GraftModel,
    number: usize,
    info: *mut GraftTensor,
) -> GraftStatus {
    call(|| {
        needed(model, "model")?;
        // SAFETY: the caller's promise.
        unsafe { answer::tell(&(*model).outputs, number, "outputs", info) }
    })
}

/// What a model is run on; it may be used several times.
#[derive(Debug)]
pub struct GraftInput(Input);

/// Tensors for a model, in the order of its inputs: elements of their types, little-endian. They are copied.
///
/// # Safety
///
/// `model` is a model, `tensors` points to `count` of them, `input` to where the input is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_input_tensors(
    model: *const GraftModel,
    tensors: *const GraftBytes,
    count: usize,
    input: *mut *mut GraftInput,
) -> GraftStatus {
    call(|| {
        needed(model, "model")?;
        needed(input, "input")?;
        // SAFETY: the caller's promise.
        unsafe {
            let tensors: Vec<_> = list(tensors, count).iter().map(GraftBytes::place).collect();
            give(input, GraftInput((*model).model.input(&tensors)?));
        }
        Ok(())
    })
}

/// A PNG or JPEG. It is copied, and decoded with the inference.
///
/// # Safety
///
/// `picture` describes bytes that are there, `input` points to where the input is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_input_encoded(
    picture: GraftBytes,
    input: *mut *mut GraftInput,
) -> GraftStatus {
    call(|| {
        needed(input, "input")?;
        let made = Input::of_encoded(&picture.place())?;
        // SAFETY: the caller's promise.
        unsafe { give(input, GraftInput(made)) };
        Ok(())
    })
}

/// A picture that is not encoded. It is copied.
///
/// # Safety
///
/// `pixels` points to a structure as described, `input` to where the input is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_input_pixels(
    pixels: *const GraftPixels,
    input: *mut *mut GraftInput,
) -> GraftStatus {
    call(|| {
        needed(pixels, "pixels")?;
        needed(input, "input")?;
        // SAFETY: the caller's promise.
        unsafe {
            let pixels = sized(pixels, (*pixels).size)?;
            give(input, GraftInput(Input::of_pixels(&pixels.pixels()?)?));
        }
        Ok(())
    })
}

/// Frees an input.
///
/// # Safety
///
/// `input` is null or was given by a function of this interface, and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_input_free(input: *mut GraftInput) {
    // SAFETY: the caller's promise.
    unsafe { take(input) };
}

/// Connects if need be, and makes ready what the first inference takes; blocks, for some seconds at most. `*reached` is false where no
/// router can be reached: layers will run on the device. Inferences need not wait for it.
///
/// # Safety
///
/// `model` is a model; `reached` is null or points to where it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_prepare(model: *const GraftModel, reached: *mut bool) -> GraftStatus {
    call(|| {
        needed(model, "model")?;
        // SAFETY: the caller's promise.
        let done = runtime::block_on(unsafe { (*model).model.prepare() })??;
        if !reached.is_null() {
            // SAFETY: the caller's promise.
            unsafe { reached.write(done) };
        }
        Ok(())
    })
}

/// Runs a model; blocks until the answer is there. Where the server can't be reached, refuses, or would be late, all layers run on the
/// device, and the answer says why.
///
/// # Safety
///
/// `model` and `input` are such, `answer` points to where the answer is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_infer(
    model: *const GraftModel,
    input: *const GraftInput,
    answer: *mut *mut GraftAnswer,
) -> GraftStatus {
    call(|| {
        needed(model, "model")?;
        needed(input, "input")?;
        needed(answer, "answer")?;
        // SAFETY: the caller's promise.
        let inference = unsafe { (*model).model.inference(&(*input).0) };
        let made = runtime::block_on(runtime::run(inference))???;
        // SAFETY: the caller's promise.
        unsafe { give(answer, GraftAnswer::from(made)) };
        Ok(())
    })
}

/// Takes the answer of an inference, on a thread of the library's: `answer` belongs to it, and is null unless `status` is `GRAFT_STATUS_OK`;
/// `why` says what failed, and is good until it returns.
pub type GraftAnswered = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        status: GraftStatus,
        why: *const c_char,
        answer: *mut GraftAnswer,
    ),
>;

/// Begins to run a model, and returns; `answered` is called once, unless this fails.
///
/// # Safety
///
/// `model` and `input` are such, and may be freed when this has returned; `answered` may be called on another thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_model_infer_async(
    model: *const GraftModel,
    input: *const GraftInput,
    answered: GraftAnswered,
    context: *mut c_void,
) -> GraftStatus {
    call(|| {
        needed(model, "model")?;
        needed(input, "input")?;
        let answered = answered.ok_or_else(|| GraftError::Options("answered is null".to_owned()))?;
        // SAFETY: the caller's promise.
        let inference = unsafe { (*model).model.inference(&(*input).0) };
        let context = Context(context);
        runtime::handle()?.spawn(async move {
            let ended = runtime::run(inference).await.and_then(|answer| answer);
            // It is the caller's code: it may take its time.
            tokio::task::spawn_blocking(move || match ended {
                Ok(answer) => {
                    let answer = Box::into_raw(Box::new(GraftAnswer::from(answer)));
                    // SAFETY: the caller's function, with the caller's pointer; the answer is given away.
                    unsafe { answered(context.get(), GraftStatus::Ok, c"".as_ptr(), answer) };
                }
                Err(error) => {
                    let (status, why) = (GraftStatus::from(&error), c_text(&error.to_string()));
                    // SAFETY: the caller's function, with the caller's pointer; `why` lives until it returns.
                    unsafe { answered(context.get(), status, why.as_ptr(), std::ptr::null_mut()) };
                }
            });
        });
        Ok(())
    })
}
