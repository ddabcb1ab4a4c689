//! A model on this device, and what it answers.

use std::sync::Arc;
use std::time::Instant;

use graft_client::{Batch, DType, Inference, LocalReason, Session};

use crate::error::GraftError;
use crate::input::{Bytes, Given, Input};
use crate::runtime;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum ElementType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte: 0 or 1.
    Bool,
    /// 64-bit IEEE float.
    F64,
}

impl From<DType> for ElementType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => ElementType::F32,
            DType::F16 => ElementType::F16,
            DType::I32 => ElementType::I32,
            DType::I64 => ElementType::I64,
            DType::I8 => ElementType::I8,
            DType::U8 => ElementType::U8,
            DType::Bool => ElementType::Bool,
            DType::F64 => ElementType::F64,
        }
    }
}

/// What a model takes or gives.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its shape, without the batch dimension.
    pub shape: Vec<u64>,
    /// Type of its elements.
    pub element_type: ElementType,
    /// Its bytes.
    pub length: u64,
}

/// A tensor of an answer.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct TensorValue {
    /// Its name.
    pub name: String,
    /// Its shape, without the batch dimension.
    pub shape: Vec<u64>,
    /// Type of its elements.
    pub element_type: ElementType,
    /// Its elements, little-endian.
    pub data: Vec<u8>,
}

/// Why all layers ran on the device.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Local {
    /// It was expected to be faster so.
    FasterAlone,
    /// The server did not say what it needs for this model.
    NoPlan,
    /// No router can be reached.
    Unreachable {
        /// What was found out: name, certificate, clock, firewall.
        why: String,
    },
    /// The router did not answer lately, and not yet again.
    InDoubt,
    /// Head and network would leave the server nothing.
    NoTime,
    /// The server refused.
    Refused {
        /// Its status, as in metrics: `not_ready`, `overloaded`, `late`, …
        status: String,
        /// Its words.
        why: String,
    },
    /// The connection failed, or no answer came in time.
    NoAnswer {
        /// What happened.
        why: String,
    },
}

/// Where an inference's time went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, uniffi::Record)]
pub struct Times {
    /// From the picture to the model's input.
    pub picture_ms: f64,
    /// Layers on the device.
    pub device_ms: f64,
    /// On the way, both ways.
    pub network_ms: f64,
    /// At the server.
    pub server_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Answer {
    /// The model's outputs, in its order.
    pub outputs: Vec<TensorValue>,
    /// The label of the first output's largest number, where the model has labels.
    pub label: Option<String>,
    /// Why all layers ran on the device; none: the rest ran at the server.
    pub local: Option<Local>,
    /// Where it was handed over; the last cut point: all layers ran on the device by choice.
    pub partition_point: u16,
    /// It was there within the time asked for.
    pub in_time: bool,
    /// Bytes of the tensors that were sent; 0: none were.
    pub bytes_sent: u64,
    /// Where the time went.
    pub times: Times,
    /// The id by which the router remembers the request, if one was sent.
    pub request_id: Option<String>,
}

/// A model on this device, with a router to share its layers with.
#[derive(Debug, uniffi::Object)]
pub struct Model {
    session: Session,
}

#[uniffi::export]
impl Model {
    /// Its name, of the manifest.
    pub fn name(&self) -> String {
        self.session.entry().manifest.name.clone()
    }

    /// Its identity: a hash of its content, the same at the server.
    pub fn identity(&self) -> String {
        self.session.entry().info.id.to_string()
    }

    /// What it takes.
    pub fn inputs(&self) -> Vec<TensorInfo> {
        infos(&self.session.entry().info.inputs().tensors)
    }

    /// What it gives.
    pub fn outputs(&self) -> Vec<TensorInfo> {
        infos(&self.session.entry().info.outputs().tensors)
    }

    /// Labels of the first output's classes; none: it has none.
    pub fn labels(&self) -> Vec<String> {
        self.session.entry().labels.to_vec()
    }

    /// The last cut point: all layers run on the device there.
    pub fn last_cut_point(&self) -> u16 {
        self.session.entry().info.last().0
    }

    /// It takes pictures: its manifest says how they become its input.
    pub fn takes_pictures(&self) -> bool {
        self.session.entry().manifest.input.image.is_some()
    }

    /// Tensors to run it on, in the order of its inputs: elements of their types, little-endian.
    pub fn tensors(&self, tensors: Vec<Bytes>) -> Result<Arc<Input>, GraftError> {
        Ok(Arc::new(self.input(&tensors)?))
    }

    /// Connects if need be, and makes ready what the first inference takes. False: no router can be reached, and layers will run on the
    /// device. Inferences need not wait for it.
    pub async fn prepare(&self) -> Result<bool, GraftError> {
        let session = self.session.clone();
        runtime::run(async move { session.prepare().await }).await
    }

    /// Runs it. Where the server can't be reached, refuses, or would be late, all layers run on the device, and the answer says why; one
    /// that is late is still an answer.
    pub async fn infer(&self, input: Arc<Input>) -> Result<Answer, GraftError> {
        let (session, given) = (self.session.clone(), input.0.clone());
        runtime::run(infer(session, given)).await?
    }
}

impl Model {
    pub(crate) fn new(session: Session) -> Self {
        Model { session }
    }

    pub(crate) fn input(&self, tensors: &[Bytes]) -> Result<Input, GraftError> {
        Input::of_tensors(&self.session, tensors)
    }

    /// The model and its inference, for a task of its own.
    pub(crate) fn inference(
        &self,
        input: &Input,
    ) -> impl Future<Output = Result<Answer, GraftError>> + Send + use<> {
        infer(self.session.clone(), input.0.clone())
    }
}

fn infos(specs: &[graft_client::TensorSpec]) -> Vec<TensorInfo> {
    let info = |spec: &graft_client::TensorSpec| TensorInfo {
        name: spec.name.clone(),
        shape: shape(&spec.shape),
        element_type: spec.dtype.into(),
        length: (spec.elements * spec.dtype.bytes()) as u64,
    };
    specs.iter().map(info).collect()
}

fn shape(sides: &[usize]) -> Vec<u64> {
    sides.iter().map(|side| *side as u64).collect()
}

/// Tensors with what they are.
pub(crate) fn values(
    specs: &[graft_client::TensorSpec],
    batch: &Batch,
) -> Result<Vec<TensorValue>, graft_client::TensorError> {
    let value = |(spec, tensor): (&graft_client::TensorSpec, &graft_client::Tensor)| {
        Ok(TensorValue {
            name: spec.name.clone(),
            shape: shape(tensor.shape()),
            element_type: spec.dtype.into(),
            data: tensor.to_bytes(spec.dtype)?,
        })
    };
    specs.iter().zip(batch.tensors()).map(value).collect()
}

async fn infer(session: Session, given: Given) -> Result<Answer, GraftError> {
    let start = Instant::now();
    let batch = match given {
        Given::Tensors(batch) => batch,
        picture => {
            let session = session.clone();
            tokio::task::spawn_blocking(move || picture.batch(&session))
                .await
                .map_err(|error| GraftError::Internal(error.to_string()))??
        }
    };
    let picture_ms = start.elapsed().as_secs_f64() * 1e3;
    let inference = session.infer(batch).await?;
    answer(&session, inference, picture_ms)
}

fn answer(session: &Session, inference: Inference, picture_ms: f64) -> Result<Answer, GraftError> {
    let label = session.best_label(&inference).map(str::to_owned);
    let outputs = values(&session.entry().info.outputs().tensors, &inference.outputs)
        .map_err(|error| GraftError::Internal(error.to_string()))?;
    let times = inference.times;
    Ok(Answer {
        outputs,
        label,
        local: inference.local.map(|why| local(why, session)),
        partition_point: inference.partition_point.0,
        in_time: inference.in_time,
        bytes_sent: inference.bytes_sent,
        times: Times {
            picture_ms,
            device_ms: times.device_ms,
            network_ms: times.network_ms,
            server_ms: times.server_ms,
            total_ms: times.total_ms + picture_ms,
        },
        request_id: inference.request_id,
    })
}

fn local(why: LocalReason, session: &Session) -> Local {
    match why {
        LocalReason::FasterAlone => Local::FasterAlone,
        LocalReason::NoPlan => Local::NoPlan,
        LocalReason::Unreachable => Local::Unreachable {
            why: session.why_unreachable().unwrap_or_default(),
        },
        LocalReason::InDoubt => Local::InDoubt,
        LocalReason::NoTime => Local::NoTime,
        LocalReason::Refused(refused) => Local::Refused {
            status: refused.status.name().to_owned(),
            why: refused.reason,
        },
        LocalReason::NoAnswer(why) => Local::NoAnswer { why },
    }
}
