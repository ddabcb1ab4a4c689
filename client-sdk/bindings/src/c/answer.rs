//! What C reads: tensors, and an answer.

use std::ffi::{CString, c_char};
use std::ptr;

use super::words::c_text;
use super::{GraftStatus, call, needed, take};
use crate::error::GraftError;
use crate::model::{Answer, ElementType, Local, TensorInfo};

/// Type of a tensor's elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraftElementType {
    /// 32-bit IEEE float.
    F32 = 0,
    /// 16-bit IEEE float.
    F16 = 1,
    /// 32-bit signed integer.
    I32 = 2,
    /// 64-bit signed integer.
    I64 = 3,
    /// 8-bit signed integer.
    I8 = 4,
    /// 8-bit unsigned integer.
    U8 = 5,
    /// One byte: 0 or 1.
    Bool = 6,
    /// 64-bit IEEE float.
    F64 = 7,
}

impl From<ElementType> for GraftElementType {
    fn from(of: ElementType) -> Self {
        match of {
            ElementType::F32 => GraftElementType::F32,
            ElementType::F16 => GraftElementType::F16,
            ElementType::I32 => GraftElementType::I32,
            ElementType::I64 => GraftElementType::I64,
            ElementType::I8 => GraftElementType::I8,
            ElementType::U8 => GraftElementType::U8,
            ElementType::Bool => GraftElementType::Bool,
            ElementType::F64 => GraftElementType::F64,
        }
    }
}

/// A tensor, or what one must be.
#[repr(C)]
#[derive(Debug)]
pub struct GraftTensor {
    /// Its name.
    pub name: *const c_char,
    /// Its shape, without the batch dimension.
    pub shape: *const u64,
    /// Number of its dimensions.
    pub rank: usize,
    /// Type of its elements.
    pub element_type: GraftElementType,
    /// Its elements, little-endian; null where there are none yet.
    pub data: *const u8,
    /// Its bytes.
    pub length: usize,
}

/// A tensor in a form that C can read.
#[derive(Debug)]
pub(super) struct Described {
    name: CString,
    shape: Vec<u64>,
    element_type: GraftElementType,
    data: Option<Vec<u8>>,
    length: usize,
}

impl From<&TensorInfo> for Described {
    fn from(info: &TensorInfo) -> Self {
        Described {
            name: c_text(&info.name),
            shape: info.shape.clone(),
            element_type: info.element_type.into(),
            data: None,
            length: usize::try_from(info.length).unwrap_or(usize::MAX),
        }
    }
}

/// Writes what is known of one of some tensors.
///
/// # Safety
///
/// `info` is null or may be written.
pub(super) unsafe fn tell(
    tensors: &[Described],
    number: usize,
    what: &str,
    info: *mut GraftTensor,
) -> Result<(), GraftError> {
    needed(info, "info")?;
    let Some(tensor) = tensors.get(number) else {
        return Err(GraftError::Options(format!(
            "there are {} {what}, and no {number}",
            tensors.len()
        )));
    };
    let told = GraftTensor {
        name: tensor.name.as_ptr(),
        shape: tensor.shape.as_ptr(),
        rank: tensor.shape.len(),
        element_type: tensor.element_type,
        data: tensor.data.as_ref().map_or(ptr::null(), |data| data.as_ptr()),
        length: tensor.length,
    };
    // SAFETY: it is not null, and may be written by the caller's promise.
    unsafe { info.write(told) };
    Ok(())
}

/// Why all layers ran on the device.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraftLocal {
    /// They did not: the rest ran at the server.
    Not = 0,
    /// It was expected to be faster so.
    FasterAlone = 1,
    /// The server did not say what it needs for this model.
    NoPlan = 2,
    /// No router can be reached.
    Unreachable = 3,
    /// The router did not answer lately, and not yet again.
    InDoubt = 4,
    /// Head and network would leave the server nothing.
    NoTime = 5,
    /// The server refused.
    Refused = 6,
    /// The connection failed, or no answer came in time.
    NoAnswer = 7,
}

/// What is known of an answer beside its tensors.
#[repr(C)]
#[derive(Debug)]
pub struct GraftAnswerInfo {
    /// The label of the first output's largest number; null where the model has no labels.
    pub label: *const c_char,
    /// Why all layers ran on the device.
    pub local: GraftLocal,
    /// The same in words; empty where there are none.
    pub why: *const c_char,
    /// The id by which the router remembers the request; null where none was sent.
    pub request_id: *const c_char,
    /// Where it was handed over; the last cut point: all layers ran on the device by choice.
    pub partition_point: u16,
    /// It was there within the time asked for.
    pub in_time: bool,
    /// Bytes of the tensors that were sent; 0: none were.
    pub bytes_sent: u64,
    /// From the picture to the model's input, in milliseconds.
    pub picture_ms: f64,
    /// Layers on the device, in milliseconds.
    pub device_ms: f64,
    /// On the way, both ways, in milliseconds.
    pub network_ms: f64,
    /// At the server, in milliseconds.
    pub server_ms: f64,
    /// All of it, in milliseconds.
    pub total_ms: f64,
}

/// An answer.
#[derive(Debug)]
pub struct GraftAnswer {
    outputs: Vec<Described>,
    label: Option<CString>,
    why: CString,
    request_id: Option<CString>,
    local: GraftLocal,
    answer: Answer,
}

impl From<Answer> for GraftAnswer {
    fn from(mut answer: Answer) -> Self {
        let outputs = std::mem::take(&mut answer.outputs);
        let outputs = outputs.into_iter().map(|output| Described {
            name: c_text(&output.name),
            shape: output.shape,
            element_type: output.element_type.into(),
            length: output.data.len(),
            data: Some(output.data),
        });
        let (local, why) = match &answer.local {
            None => (GraftLocal::Not, String::new()),
            Some(Local::FasterAlone) => (GraftLocal::FasterAlone, String::new()),
            Some(Local::NoPlan) => (GraftLocal::NoPlan, String::new()),
            Some(Local::Unreachable { why }) => (GraftLocal::Unreachable, why.clone()),
            Some(Local::InDoubt) => (GraftLocal::InDoubt, String::new()),
            Some(Local::NoTime) => (GraftLocal::NoTime, String::new()),
            Some(Local::Refused { status, why }) => (GraftLocal::Refused, format!("{status}: {why}")),
            Some(Local::NoAnswer { why }) => (GraftLocal::NoAnswer, why.clone()),
        };
        GraftAnswer {
            outputs: outputs.collect(),
            label: answer.label.as_deref().map(c_text),
            why: c_text(&why),
            request_id: answer.request_id.as_deref().map(c_text),
            local,
            answer,
        }
    }
}

/// What is known of an answer beside its tensors.
///
/// # Safety
///
/// `answer` is an answer, `info` points to where it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_answer_info(
    answer: *const GraftAnswer,
    info: *mut GraftAnswerInfo,
) -> GraftStatus {
    call(|| {
        needed(answer, "answer")?;
        needed(info, "info")?;
        // SAFETY: the caller's promise.
        let answer = unsafe { &*answer };
        let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let times = answer.answer.times;
        let told = GraftAnswerInfo {
            label: text(&answer.label),
            local: answer.local,
            why: answer.why.as_ptr(),
            request_id: text(&answer.request_id),
            partition_point: answer.answer.partition_point,
            in_time: answer.answer.in_time,
            bytes_sent: answer.answer.bytes_sent,
            picture_ms: times.picture_ms,
            device_ms: times.device_ms,
            network_ms: times.network_ms,
            server_ms: times.server_ms,
            total_ms: times.total_ms,
        };
        // SAFETY: the caller's promise.
        unsafe { info.write(told) };
        Ok(())
    })
}

/// Number of an answer's tensors.
///
/// # Safety
///
/// `answer` is an answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_answer_output_count(answer: *const GraftAnswer) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*answer }.outputs.len()
}

/// An answer's tensor of that number.
///
/// # Safety
///
/// `answer` is an answer, `tensor` points to where it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_answer_output(
    answer: *const GraftAnswer,
    number: usize,
    tensor: *mut GraftTensor,
) -> GraftStatus {
    call(|| {
        needed(answer, "answer")?;
        // SAFETY: the caller's promise.
        unsafe { tell(&(*answer).outputs, number, "outputs", tensor) }
    })
}

/// Frees an answer.
///
/// # Safety
///
/// `answer` is null or was given by a function of this interface, and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graft_answer_free(answer: *mut GraftAnswer) {
    // SAFETY: the caller's promise.
    unsafe { take(answer) };
}
