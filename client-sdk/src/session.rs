//! One model on this device, with a router to share its layers with.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_client_core::{Choice, Handing, Layers, LinkEstimate, Local, Pilot, PilotOptions, Prefer, Start};
use graft_features::CutCoding;
use graft_files::CatalogEntry;
use graft_model::{Batch, CutPoint, DType, ModelInfo, Sent, StageRange};
use graft_plan::{Epoch, Nanos, ms_to_nanos, nanos_to_ms};
use graft_transport::{CallError, Connection};
use graft_wire::{ClientReply, ClientRequest, InferHeader, Refused, Timing, TraceContext, WireType};
use tokio::sync::Notify;

use crate::device_error::DeviceError;
use crate::emulation::Emulation;
use crate::head::ModelHere;
use crate::routers::{Routers, Sending};

/// How a session behaves. By default: a second for each inference, the partition point is chosen, wherever the answer is expected soonest, or a bit
/// later where that spares the server.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// From the input to the answer.
    pub slo: Duration,
    /// What counts where there is time to spare.
    pub prefer: Prefer,
    /// Bytes that an inference may send at most; `None`: as many as it takes.
    pub most_bytes: Option<u64>,
    /// The model's inputs never leave the device as they are. (Much of a picture can be told from what its first layers make of it; who
    /// wants less told fixes a later partition point.)
    pub keep_inputs: bool,
    /// Hand over there, always; `None`: choose.
    pub partition_point: Option<CutPoint>,
    /// Element type of intermediate tensors on the way, [`DType::F32`] or [`DType::F16`]; `None`: coded as the model's features say,
    /// where they do, and 32-bit floats elsewhere.
    pub wire: Option<DType>,
    /// A slower device and link than the real ones.
    pub emulation: Option<Emulation>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            slo: Duration::from_secs(1),
            prefer: Prefer::default(),
            most_bytes: None,
            keep_inputs: false,
            partition_point: None,
            wire: None,
            emulation: None,
        }
    }
}

/// An inference that gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The input does not fit the model.
    #[error("input {got}, the model takes one request of {want}")]
    Input {
        /// Shapes and types as given.
        got: String,
        /// The model's inputs.
        want: String,
    },
    /// The layers could not be run here.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The partition point is beyond the last cut point.
    #[error("partition point {point} is beyond the last cut point {last}")]
    NoSuchPoint {
        /// As asked for.
        point: CutPoint,
        /// The last there is.
        last: CutPoint,
    },
    /// What would be sent at the partition point is not allowed to.
    #[error(
        "partition point {point} is asked for, and what is sent there has more bytes than may be, or has an input in it that is to be kept"
    )]
    NotAllowed {
        /// As asked for.
        point: CutPoint,
    },
    /// The task that runs layers died.
    #[error("the layers' task died: {0}")]
    Task(String),
    /// The tensors can't be sent so.
    #[error("the tensors can't be sent: {0}")]
    Wire(String),
}

/// Where an inference's time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// Layers here.
    pub device_ms: f64,
    /// On the way, both ways.
    pub network_ms: f64,
    /// At the server.
    pub server_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// Why all layers ran here.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LocalReason {
    /// It was expected to be faster so.
    #[error("this device is faster alone")]
    FasterAlone,
    /// The server did not say what it needs.
    #[error("the server has no plan for this model yet")]
    NoPlan,
    /// No router.
    #[error("the router can't be reached")]
    Unreachable,
    /// The router did not answer lately, and not yet again.
    #[error("the router did not answer lately")]
    InDoubt,
    /// Head and network leave nothing.
    #[error("nothing of the time would be left for the server")]
    NoTime,
    /// The server refused.
    #[error("the server refused: {0}")]
    Refused(Refused),
    /// The connection failed, or no answer came in time.
    #[error("{0}")]
    NoAnswer(String),
}

impl From<Local> for LocalReason {
    fn from(local: Local) -> Self {
        match local {
            Local::FasterAlone => LocalReason::FasterAlone,
            Local::NoPlan => LocalReason::NoPlan,
            Local::Unreachable => LocalReason::Unreachable,
            Local::InDoubt => LocalReason::InDoubt,
            Local::NoTime => LocalReason::NoTime,
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Inference {
    /// The model's outputs, in its order.
    pub outputs: Batch,
    /// Where it was handed over; the last cut point: all layers ran here by choice.
    pub partition_point: CutPoint,
    /// What the server had, in milliseconds, as expected when it was chosen.
    pub budget_ms: f64,
    /// All layers ran here, and why.
    pub local: Option<LocalReason>,
    /// It was there within the time asked for.
    pub in_time: bool,
    /// Bytes of the tensors that were sent; 0: none were.
    pub bytes_sent: u64,
    /// Where the time went.
    pub times: Times,
    /// The server's account.
    pub server: Option<Timing>,
    /// The plan that served it.
    pub epoch: Option<Epoch>,
    /// The id by which the router remembers the request, if one was sent.
    pub request_id: Option<String>,
}

/// A reply, with its payload and what it took, in milliseconds; or why there is none.
type Replied = Result<(ClientReply, Vec<u8>, f64), CallError>;

/// A request that is sent.
struct Asked<F> {
    handing: Handing,
    bytes: u64,
    request_id: String,
    reply: F,
}

/// What the server did not do.
enum Left {
    /// It is to be run here, and why.
    ToRun(LocalReason),
    /// It was run here meanwhile, and why.
    Ran(Batch, LocalReason),
}

#[derive(Debug)]
pub(crate) struct State {
    pub pilot: Pilot,
    pub emulation: Option<Emulation>,
    /// What layers take here, as emulated.
    pub layers: Layers,
    /// Why no router could be reached the last time.
    pub unreachable: Option<String>,
    /// Times at which the network had changed when it was last looked.
    pub changes: u64,
}

/// One model on this device, with a router to share its layers with. Clones share everything.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    model: Arc<ModelHere>,
    pub routers: Routers,
    options: SessionOptions,
    /// The origin of the pilot's time.
    origin: Instant,
    state: Mutex<State>,
    /// An errand was run.
    pub learnt: Notify,
}

/// Longest wait for the router before an app's first inference.
const PREPARE_WITHIN: Duration = Duration::from_secs(12);

/// How a request's tensors are coded at a cut point, if they are.
fn coding<'m>(info: &'m ModelInfo, options: &SessionOptions, point: CutPoint) -> Option<&'m CutCoding> {
    options.wire.map_or_else(|| info.coding(point), |_| None)
}

/// Bytes that a request sends at a cut point: in the mean, where tensors are coded.
fn bytes_sent(info: &ModelInfo, options: &SessionOptions, point: CutPoint) -> u64 {
    let plain = || {
        let cut = info.cut(point);
        cut.map_or(0, |cut| cut.bytes_sent(options.wire.unwrap_or(DType::F32)) as u64)
    };
    coding(info, options, point).map_or_else(plain, |coding| u64::from(coding.mean_bytes))
}

/// What layers take on a device, as emulated, what is sent at each cut point, and where it may be.
fn layers(model: &ModelHere, options: &SessionOptions, emulation: Option<Emulation>) -> Layers {
    let slowdown = emulation.map_or(1.0, |e| e.slowdown);
    let stretched = |list: &[Option<f64>]| -> Arc<[f64]> {
        let ms = list.iter().map(|ms| ms.map_or(f64::INFINITY, |ms| ms * slowdown));
        ms.collect()
    };
    let info = &model.entry.info;
    let cuts = || info.cut_points().zip(&info.cuts);
    let bytes = || cuts().map(|(point, _)| bytes_sent(info, options, point));
    let coding_ms = info.cut_points().map(|point| match coding(info, options, point) {
        Some(_) => model.coding_ms(point) * slowdown,
        None => 0.0,
    });
    let inputs = info.inputs();
    let allowed = cuts().zip(bytes()).map(|((point, cut), bytes)| {
        let fits = options.most_bytes.is_none_or(|most| bytes <= most);
        let tells = options.keep_inputs && cut.names().any(|name| inputs.position(name).is_some());
        fits && !tells && model.reaches(point)
    });
    Layers {
        allowed: allowed.collect(),
        head_ms: stretched(&model.taken.head_ms),
        rest_ms: stretched(&model.taken.rest_ms),
        coding_ms: coding_ms.collect(),
        bytes: bytes().collect(),
        answer_bytes: model.entry.info.outputs().bytes_sent(DType::F32) as u64,
    }
}

impl Session {
    /// A session; nothing is sent yet.
    pub fn new(
        model: Arc<ModelHere>,
        routers: Routers,
        options: SessionOptions,
    ) -> Result<Self, SessionError> {
        let last = model.entry.info.last();
        if let Some(point) = options.partition_point
            && point > last
        {
            return Err(SessionError::NoSuchPoint { point, last });
        }
        let layers = layers(&model, &options, options.emulation);
        if let Some(point) = options.partition_point
            && point < last
            && !layers.allowed[point.index()]
        {
            return Err(SessionError::NotAllowed { point });
        }
        let pilot = Pilot::new(PilotOptions {
            slo: options.slo.into(),
            prefer: options.prefer,
            partition_point: options.partition_point,
        });
        let state = State {
            pilot,
            emulation: options.emulation,
            layers,
            unreachable: None,
            changes: routers.changes(),
        };
        let inner = Inner {
            model,
            routers,
            options,
            origin: Instant::now(),
            state: Mutex::new(state),
            learnt: Notify::new(),
        };
        Ok(Session {
            inner: Arc::new(inner),
        })
    }

    pub(crate) fn info(&self) -> &ModelInfo {
        &self.inner.model.entry.info
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The pilot's time.
    pub(crate) fn now(&self) -> Nanos {
        self.inner.origin.elapsed().into()
    }

    /// The link as estimated now.
    pub fn link(&self) -> LinkEstimate {
        self.state().pilot.link()
    }

    /// What all layers take here, in milliseconds.
    pub fn here_ms(&self) -> f64 {
        self.inner.model.whole_ms()
    }

    /// The emulated device or link changes; the session finds out by itself.
    pub fn emulate(&self, emulation: Option<Emulation>) {
        let layers = layers(&self.inner.model, &self.inner.options, emulation);
        let mut state = self.state();
        (state.emulation, state.layers) = (emulation, layers);
    }

    pub(crate) fn emulation(&self) -> Option<Emulation> {
        self.state().emulation
    }

    /// The partition point that would be taken now.
    pub fn choice(&self) -> Option<Choice> {
        let state = self.state();
        state.pilot.choice(&state.layers)
    }

    /// Why no router could be reached the last time that it was tried; `None`: one was.
    pub fn why_unreachable(&self) -> Option<String> {
        self.state().unreachable.clone()
    }

    /// Connects if need be, measures the link, asks the server what it needs, and makes ready the layers before and after
    /// the partition point. `false`: the router can't be reached.
    pub async fn prepare(&self) -> bool {
        let reached = self.reach(PREPARE_WITHIN).await;
        if let Some(choice) = self.choice() {
            let model = Arc::clone(&self.inner.model);
            let made = tokio::task::spawn_blocking(move || model.prepare(choice.point)).await;
            match made {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "layers could not be made ready"),
                Err(error) => tracing::warn!(%error, "layers could not be made ready"),
            }
        }
        reached
    }

    /// Where to hand over an inference that began then. What is missing to know that is done by a task beside, and waited for
    /// as long as the pilot says.
    async fn start(&self, began: Nanos) -> (CutPoint, Option<Local>) {
        loop {
            let learnt = self.inner.learnt.notified();
            self.run_errands();
            let now = self.now();
            let start = {
                let state = &mut *self.state();
                state.pilot.start(now, began, &state.layers)
            };
            match start {
                Start::Run(point, local) => return (point, local),
                Start::Wait(until) => {
                    let _either = tokio::time::timeout((until - now).duration(), learnt).await;
                }
            }
        }
    }

    /// The model, with its manifest.
    pub fn entry(&self) -> &CatalogEntry {
        &self.inner.model.entry
    }

    /// The label of an answer's largest number; `None`: the model has no labels.
    pub fn best_label(&self, answer: &Inference) -> Option<&str> {
        let scores = answer.outputs.tensors().first()?.floats()?;
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        self.entry().labels.get(best.0).map(String::as_str)
    }

    /// Runs the model on one request: a tensor, or a [`Batch`] of one with a tensor for each of the model's inputs.
    ///
    /// Where the server can't be reached, refuses, or does not answer in time, all layers run here and the
    /// result says so; an answer that is late is still an answer.
    pub async fn infer(&self, input: impl Into<Batch>) -> Result<Inference, SessionError> {
        let start = Instant::now();
        let input: Batch = input.into();
        let inputs = self.info().inputs();
        if !input.fits(inputs) || input.requests() != 1 {
            return Err(SessionError::Input {
                got: input.to_string(),
                want: inputs.to_string(),
            });
        }
        let began = self.now();
        self.state().pilot.begins(began);
        let (point, local) = self.start(began).await;
        let budget_ms = self
            .choice()
            .filter(|c| c.point == point)
            .map_or(0.0, |c| c.budget_ms);
        let mut times = Times::default();
        // What runs layers may have those after the cut point by themselves, or all of them alone.
        let again = (!self.inner.model.has_rest(point)).then(|| input.clone());
        let head = self.layers(CutPoint(0), point, input, &mut times).await?;
        let mut result = Inference {
            outputs: head.clone(),
            partition_point: point,
            budget_ms,
            local: None,
            in_time: false,
            bytes_sent: 0,
            times,
            server: None,
            epoch: None,
            request_id: None,
        };
        let ended = match local {
            Some(why) => Err(Left::ToRun(why.into())),
            None => {
                let alone = (point, &head, again.as_ref());
                self.hand_over(began, alone, &mut result).await?
            }
        };
        let here = match ended {
            Ok(()) => None,
            Err(Left::Ran(outputs, why)) => Some((outputs, why)),
            Err(Left::ToRun(why)) => {
                let (outputs, device_ms) = self.rest(point, &head, again.as_ref()).await?;
                result.times.device_ms += device_ms;
                Some((outputs, why))
            }
        };
        if let Some((outputs, why)) = here {
            (result.outputs, result.local) = (outputs, Some(why));
        }
        result.times.total_ms = start.elapsed().as_secs_f64() * 1e3;
        result.in_time = start.elapsed() <= self.inner.options.slo;
        Ok(result)
    }

    /// Runs what is left after the head here, or all layers anew where the input is given; and how long that took, in milliseconds.
    async fn rest(
        &self,
        point: CutPoint,
        head: &Batch,
        again: Option<&Batch>,
    ) -> Result<(Batch, f64), SessionError> {
        let (from, left) = match again {
            Some(input) => (CutPoint(0), input.clone()),
            None => (point, head.clone()),
        };
        let mut times = Times::default();
        let outputs = self.layers(from, self.info().last(), left, &mut times).await?;
        Ok((outputs, times.device_ms))
    }

    /// Sends the head's tensors and waits for the answer; when it is likely late, the rest is run here, too, and whichever ends first
    /// counts. `Err`: it is not the server's.
    async fn hand_over(
        &self,
        began: Nanos,
        (point, head, again): (CutPoint, &Batch, Option<&Batch>),
        result: &mut Inference,
    ) -> Result<Result<(), Left>, SessionError> {
        let asked = match self.ask(began, point, head).await? {
            Ok(asked) => asked,
            Err(why) => return Ok(Err(Left::ToRun(why))),
        };
        result.budget_ms = nanos_to_ms(asked.handing.budget);
        result.bytes_sent = asked.bytes;
        result.request_id = Some(asked.request_id);
        let mut reply = std::pin::pin!(asked.reply);
        let early = tokio::time::timeout(asked.handing.alone_after.duration(), &mut reply).await;
        if let Ok(reply) = early {
            return Ok(self.heard(reply, false, result)?.map_err(Left::ToRun));
        }
        self.state().pilot.no_answer(self.now());
        let mut alone = std::pin::pin!(self.rest(point, head, again));
        let (ran, why) = tokio::select! {
            biased;
            reply = &mut reply => match self.heard(reply, true, result)? {
                Ok(()) => return Ok(Ok(())),
                Err(why) => (alone.await, why),
            },
            ran = &mut alone => match ran {
                // It can't be run here: there is nothing but the answer.
                Err(error) => {
                    let heard = self.heard(reply.await, true, result)?;
                    return heard.map_or(Err(error), |()| Ok(Ok(())));
                }
                ran => {
                    let what = "it was not there before the rest had been run here";
                    (ran, LocalReason::NoAnswer(what.to_owned()))
                }
            },
        };
        let (outputs, device_ms) = ran?;
        result.times.device_ms += device_ms;
        Ok(Err(Left::Ran(outputs, why)))
    }

    /// Sends the head's tensors. The inner error says why nothing is sent.
    async fn ask(
        &self,
        began: Nanos,
        point: CutPoint,
        head: &Batch,
    ) -> Result<Result<Asked<impl Future<Output = Replied>>, LocalReason>, SessionError> {
        let Some(connection) = self.inner.routers.current() else {
            return Ok(Err(LocalReason::Unreachable));
        };
        let float = self.inner.options.wire.unwrap_or(DType::F32);
        let types = self.info().cuts[point.index()].types_sent(float);
        let wire = WireType::of_all(&types)
            .ok_or_else(|| SessionError::Wire(format!("elements of types {types:?}")))?;
        let coded = self.coded(point, head).await;
        let is_coded = coded.is_some();
        let payload = match coded {
            Some(coded) => coded,
            None => head
                .to_bytes(&types)
                .map_err(|e| SessionError::Wire(e.to_string()))?,
        };
        let bytes = payload.len() as u64;
        // Coded ones have so many in the mean, and as many as floats where one of them is no finite number.
        if let Some(most) = self.inner.options.most_bytes.filter(|most| bytes > *most) {
            let what = format!("it was not sent: {bytes} bytes, and {most} may be");
            return Ok(Err(LocalReason::NoAnswer(what)));
        }
        let trace = TraceContext::new(fastrand::u128(..), fastrand::u64(..));
        let sending = move |connection: Connection| {
            let handing = {
                let state = self.state();
                let now = self.now();
                state.pilot.hand_over(now, began, point, bytes, &state.layers)
            };
            let handing = handing?;
            let request = ClientRequest::Infer(InferHeader {
                model: self.info().id,
                partition_point: point,
                dtypes: wire.clone(),
                coded: is_coded,
                time_left: handing.budget,
                trace,
            });
            let sending = Sending {
                connection,
                request,
                patience: handing.patience.duration(),
            };
            Ok::<_, Local>((sending, handing))
        };
        let (first, handing) = match sending(connection.clone()) {
            Ok(first) => first,
            Err(why) => return Ok(Err(why.into())),
        };
        let elsewhere = async move || {
            let other = self.inner.routers.move_from(&connection).await?;
            Some(sending(other).ok()?.0)
        };
        Ok(Ok(Asked {
            handing,
            bytes,
            request_id: trace.request_id(),
            reply: self.exchange(first, Bytes::from(payload), elsewhere),
        }))
    }

    /// What a reply means for an inference, and for those after it; `late`: it was likely late. The inner error: it is no answer.
    fn heard(
        &self,
        reply: Replied,
        late: bool,
        result: &mut Inference,
    ) -> Result<Result<(), LocalReason>, SessionError> {
        let now = self.now();
        Ok(match reply {
            Ok((ClientReply::Answer(header), bytes, ms)) => {
                let types = WireType::dtypes(&header.dtypes);
                let sent = Sent {
                    types: &types,
                    bytes: &bytes,
                };
                let outputs = match Batch::from_requests(self.info().outputs(), &[sent]) {
                    Ok(outputs) => outputs,
                    // The rest is being run here.
                    Err(error) if late => return Ok(Err(LocalReason::NoAnswer(error.to_string()))),
                    Err(error) => return Err(SessionError::Wire(error.to_string())),
                };
                let server_ms = header.timing.router_ns as f64 / 1e6;
                result.outputs = outputs;
                result.times.server_ms = server_ms;
                result.times.network_ms = (ms - server_ms).max(0.0);
                result.server = Some(header.timing);
                result.epoch = Some(header.epoch);
                let on_the_way = ms_to_nanos(result.times.network_ms);
                let state = &mut *self.state();
                state
                    .pilot
                    .answered(now, result.bytes_sent, on_the_way, &state.layers);
                Ok(())
            }
            Ok((ClientReply::Refused(refused), ..)) => {
                // A refusal that comes late is no sign that the router answers in time.
                if !late {
                    self.state().pilot.refused(now);
                }
                Err(LocalReason::Refused(refused))
            }
            Ok((other, ..)) => Err(LocalReason::NoAnswer(format!("the router replied {other:?}"))),
            Err(error) => {
                let mut state = self.state();
                state.pilot.no_answer(now);
                if matches!(error, CallError::Lost(_)) && self.inner.routers.current().is_none() {
                    state.pilot.disconnected(now);
                }
                Err(LocalReason::NoAnswer(error.to_string()))
            }
        })
    }

    /// The head's tensors, coded, in the emulated device's time. `None`: they are sent as they are.
    async fn coded(&self, point: CutPoint, head: &Batch) -> Option<Vec<u8>> {
        coding(self.info(), &self.inner.options, point)?;
        let start = Instant::now();
        // Not on a thread that others' bytes wait for.
        let (model, head) = (Arc::clone(&self.inner.model), head.clone());
        let coding = tokio::task::spawn_blocking(move || model.entry.info.encode(point, &head));
        let coded = coding.await.ok().flatten();
        if let Some(emulation) = self.emulation() {
            let took = start.elapsed();
            tokio::time::sleep(took.mul_f64(emulation.slowdown.max(1.0)).saturating_sub(took)).await;
        }
        coded
    }

    /// What layers take on this device, as emulated.
    fn emulated(&self, from: CutPoint, to: CutPoint) -> Duration {
        ms_to_nanos(self.state().layers.ms(from, to)).duration()
    }

    /// Runs layers here, stretched to the emulated device's time.
    async fn layers(
        &self,
        from: CutPoint,
        to: CutPoint,
        input: Batch,
        times: &mut Times,
    ) -> Result<Batch, SessionError> {
        let Some(range) = StageRange::new(from, to) else {
            return Ok(input);
        };
        let start = Instant::now();
        let model = Arc::clone(&self.inner.model);
        let output = tokio::task::spawn_blocking(move || model.run(range, input))
            .await
            .map_err(|e| SessionError::Task(e.to_string()))??;
        if self.emulation().is_some() {
            tokio::time::sleep(self.emulated(from, to).saturating_sub(start.elapsed())).await;
        }
        times.device_ms += start.elapsed().as_secs_f64() * 1e3;
        Ok(output)
    }
}
