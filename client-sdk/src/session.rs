//! One model on this device, with a router to share its layers with.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_model::{CutPoint, DType, ModelInfo, StageRange, Tensor};
use graft_plan::{Epoch, ms_to_nanos};
use graft_transport::{CallError, Connection, Endpoint, Protocol};
use graft_wire::{
    ClientReply, ClientRequest, Description, InferHeader, Limits, Refused, Timing, TraceContext, WireType,
};

use tokio::sync::Notify;

use crate::device::{Device, DeviceError, ModelHere};
use crate::emulation::Emulation;
use graft_client_core::{Choice, Costs, DESCRIBE_EVERY, Handover, Hints, LinkEstimate, choose};

/// Where the router is.
#[derive(Debug, Clone)]
pub struct Router {
    /// Its address (UDP).
    pub address: SocketAddr,
    /// The name that its certificate must carry.
    pub name: String,
    /// The client's end.
    pub endpoint: Endpoint,
}

/// How a session behaves.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// From the input to the answer.
    pub slo: Duration,
    /// Where there is time to spare, take a partition point that is cheaper for the server.
    pub take_hints: bool,
    /// Hand over there, always; `None`: choose.
    pub partition_point: Option<CutPoint>,
    /// Element type of intermediate tensors on the way; [`DType::F32`] or [`DType::F16`].
    pub wire: DType,
    /// A slower device and link than the real ones.
    pub emulation: Option<Emulation>,
}

/// An inference that gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The input does not fit the model.
    #[error("input of shape {got:?}, the model takes one of {want:?}")]
    Input {
        /// As given.
        got: Vec<usize>,
        /// As wanted.
        want: Vec<usize>,
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
    /// The task that runs layers died.
    #[error("the layers' task died: {0}")]
    Task(String),
    /// The tensor can't be sent so.
    #[error("the tensor can't be sent: {0}")]
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

/// An answer.
#[derive(Debug, Clone)]
pub struct Inference {
    /// The model's output.
    pub output: Tensor,
    /// Where it was handed over; the last cut point: all layers ran here by choice.
    pub partition_point: CutPoint,
    /// What the server had, in milliseconds, as expected when it was chosen.
    pub budget_ms: f64,
    /// All layers ran here, and why.
    pub local: Option<LocalReason>,
    /// It was there within the time asked for.
    pub in_time: bool,
    /// Where the time went.
    pub times: Times,
    /// The server's account.
    pub server: Option<Timing>,
    /// The plan that served it.
    pub epoch: Option<Epoch>,
    /// The id by which the router remembers the request, if one was sent.
    pub request_id: Option<String>,
}

#[derive(Debug)]
struct State {
    link: LinkEstimate,
    server_ms: Vec<f64>,
    price: Vec<f64>,
    /// From one inference to the next, in the mean of the latest; not known: without end.
    cycle_ms: f64,
    /// The latest inference began then.
    began: Option<Instant>,
    described: Option<Instant>,
    /// The link was last tried then.
    tried: Option<Instant>,
    /// The server was asked on this connection.
    asked: bool,
    in_use: Option<CutPoint>,
    connection: Option<Connection>,
    /// No connecting before that: the last try failed.
    retry_at: Option<Instant>,
    emulation: Option<Emulation>,
    /// A task connects, probes or asks.
    preparing: bool,
}

impl State {
    /// An inference begins.
    fn begins(&mut self, now: Instant) {
        if let Some(before) = self.began.replace(now) {
            let since = (now - before).as_secs_f64() * 1e3;
            self.cycle_ms = if self.cycle_ms.is_finite() {
                self.cycle_ms + (since - self.cycle_ms) * CYCLE_WEIGHT
            } else {
                since
            };
        }
    }
}

/// One model on this device, with a router to share its layers with. Clones share everything.
#[derive(Debug, Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: Arc<Device>,
    model: Arc<ModelHere>,
    router: Router,
    options: SessionOptions,
    state: Mutex<State>,
    /// A preparation ended.
    prepared: Notify,
}

/// Weight of the latest time between two inferences in their mean.
const CYCLE_WEIGHT: f64 = 0.1;
/// Wait after a connection could not be made.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest wait for small messages.
const PATIENCE: Duration = Duration::from_secs(3);

impl Session {
    /// A session; nothing is sent yet.
    pub fn new(
        device: Arc<Device>,
        model: Arc<ModelHere>,
        router: Router,
        options: SessionOptions,
    ) -> Result<Self, SessionError> {
        let last = model.entry.info.last();
        if let Some(point) = options.partition_point
            && point > last
        {
            return Err(SessionError::NoSuchPoint { point, last });
        }
        let inner = Inner {
            device,
            model,
            router,
            options,
            state: Mutex::new(State {
                link: LinkEstimate::first_guess(),
                server_ms: vec![],
                price: vec![],
                cycle_ms: f64::INFINITY,
                began: None,
                described: None,
                tried: None,
                asked: false,
                in_use: None,
                connection: None,
                retry_at: None,
                emulation: options.emulation,
                preparing: false,
            }),
            prepared: Notify::new(),
        };
        Ok(Session {
            inner: Arc::new(inner),
        })
    }

    fn info(&self) -> &ModelInfo {
        &self.inner.model.entry.info
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The link as estimated now.
    pub fn link(&self) -> LinkEstimate {
        self.state().link
    }

    /// The emulated device or link changes; the session finds out by itself.
    pub fn emulate(&self, emulation: Option<Emulation>) {
        self.state().emulation = emulation;
    }

    fn emulation(&self) -> Option<Emulation> {
        self.state().emulation
    }

    /// The partition point that would be taken now.
    pub fn choice(&self) -> Option<Choice> {
        let state = self.state();
        let slowdown = state.emulation.map_or(1.0, |e| e.slowdown);
        let head_ms: Vec<f64> = self.inner.model.head_ms.iter().map(|ms| ms * slowdown).collect();
        let wire = self.inner.options.wire.bytes() as u64;
        let cuts = &self.info().cuts;
        let bytes: Vec<u64> = cuts
            .iter()
            .map(|c| {
                if c.dtype == DType::F32 {
                    c.elements as u64 * wire
                } else {
                    c.bytes() as u64
                }
            })
            .collect();
        let costs = Costs {
            head_ms: &head_ms,
            bytes: &bytes,
            answer_bytes: cuts.last().map_or(0, |c| c.bytes() as u64),
            hints: Hints {
                server_ms: &state.server_ms,
                price: if self.inner.options.take_hints {
                    &state.price
                } else {
                    &[]
                },
            },
            link: state.link,
            cycle_ms: state.cycle_ms,
        };
        let slo_ms = self.inner.options.slo.as_secs_f64() * 1e3;
        match self.inner.options.partition_point {
            None => choose(&costs, slo_ms, state.in_use),
            Some(point) => {
                let head = *head_ms.get(point.index())?;
                let network = costs
                    .link
                    .transfer_ms(*bytes.get(point.index())?, costs.answer_bytes);
                Some(Choice {
                    point,
                    total_ms: head + network + state.server_ms.get(point.index()).copied().unwrap_or(0.0),
                    budget_ms: slo_ms - head - network,
                    in_time: true,
                })
            }
        }
    }

    /// Connects if need be, measures the link, asks the server what it needs, and makes ready the layers before and after
    /// the partition point. `false`: the router can't be reached.
    pub async fn prepare(&self) -> bool {
        let reached = self.reach(PATIENCE * 4).await;
        if let Some(choice) = self.choice() {
            let (device, info) = (
                Arc::clone(&self.inner.device),
                Arc::clone(&self.inner.model.entry.info),
            );
            let made = tokio::task::spawn_blocking(move || device.prepare(&info, choice.point)).await;
            match made {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "layers could not be made ready"),
                Err(error) => tracing::warn!(%error, "layers could not be made ready"),
            }
        }
        reached
    }

    /// Whether the router can be asked now. What is missing for that is done by a task beside, which goes on when
    /// `patience` is over; what is merely old is renewed beside and waited for by nobody.
    async fn reach(&self, patience: Duration) -> bool {
        let connected = |s: &State| s.connection.as_ref().is_some_and(|c| !c.is_closed());
        let usable = |s: &State| connected(s) && s.asked;
        let ended = self.inner.prepared.notified();
        {
            let mut state = self.state();
            let fresh = usable(&state) && state.described.is_some_and(|at| at.elapsed() < DESCRIBE_EVERY);
            let hopeless = !connected(&state) && state.retry_at.is_some_and(|at| Instant::now() < at);
            if !fresh && !hopeless && !state.preparing {
                state.preparing = true;
                tokio::spawn(self.clone().renew());
            }
            if usable(&state) || hopeless {
                return usable(&state);
            }
        }
        let _in_time = tokio::time::timeout(patience, ended).await;
        usable(&self.state())
    }

    async fn renew(self) {
        if let Some((connection, new)) = self.connect().await {
            let stale = |tried: Instant| tried.elapsed() > LinkEstimate::STALE_AFTER;
            let stale = self.state().tried.is_none_or(stale);
            if (new || stale)
                && let Err(error) = self.probe(&connection).await
            {
                tracing::debug!(%error, "the link could not be probed");
            }
            match self.describe(&connection).await {
                Ok(description) => {
                    let mut state = self.state();
                    state.server_ms = description.server_ms;
                    state.price = description.price;
                    state.described = Some(Instant::now());
                }
                Err(why) => {
                    tracing::debug!(why, "the router did not say what it serves");
                    self.state().described = None;
                }
            }
            self.state().asked = true;
        }
        self.state().preparing = false;
        self.inner.prepared.notify_waiters();
    }

    async fn connect(&self) -> Option<(Connection, bool)> {
        {
            let state = self.state();
            if let Some(connection) = state.connection.as_ref().filter(|c| !c.is_closed()) {
                return Some((connection.clone(), false));
            }
            if state.retry_at.is_some_and(|at| Instant::now() < at) {
                return None;
            }
        }
        let made = self
            .inner
            .router
            .endpoint
            .connect(
                self.inner.router.address,
                &self.inner.router.name,
                Protocol::Client,
            )
            .await;
        let mut state = self.state();
        match made {
            Ok(connection) => {
                state.connection = Some(connection.clone());
                state.asked = false;
                state.retry_at = None;
                Some((connection, true))
            }
            Err(error) => {
                tracing::debug!(%error, "no router");
                state.connection = None;
                state.retry_at = Some(Instant::now() + RETRY_AFTER);
                None
            }
        }
    }

    /// One message there and back, the emulated link's time included; the reply and the milliseconds.
    async fn exchange(
        &self,
        connection: &Connection,
        request: &ClientRequest,
        payload: Bytes,
        patience: Duration,
    ) -> Result<(ClientReply, Vec<u8>, f64), CallError> {
        let start = Instant::now();
        let emulation = self.emulation();
        if let Some(emulation) = emulation {
            tokio::time::sleep(emulation.before_send(payload.len() as u64)).await;
        }
        let (reply, bytes) = connection
            .call(request, payload, Limits::default(), patience)
            .await?;
        if let Some(emulation) = emulation {
            tokio::time::sleep(emulation.after_receive(bytes.len() as u64)).await;
        }
        Ok((reply, bytes, start.elapsed().as_secs_f64() * 1e3))
    }

    async fn probe(&self, connection: &Connection) -> Result<(), CallError> {
        let probe = ClientRequest::Probe;
        let (_, _, empty) = self.exchange(connection, &probe, Bytes::new(), PATIENCE).await?;
        let (_, _, full) = self
            .exchange(
                connection,
                &probe,
                Bytes::from(vec![0; LinkEstimate::PROBE_BYTES]),
                PATIENCE * 4,
            )
            .await?;
        let mut state = self.state();
        state.link = LinkEstimate::of_probe(empty, full);
        state.tried = Some(Instant::now());
        Ok(())
    }

    async fn describe(&self, connection: &Connection) -> Result<Description, String> {
        let request = ClientRequest::Describe {
            model: self.info().id,
        };
        match self.exchange(connection, &request, Bytes::new(), PATIENCE).await {
            Ok((ClientReply::Described, json, _)) => serde_json::from_slice(&json).map_err(|e| e.to_string()),
            Ok((ClientReply::Refused(refused), ..)) => Err(refused.to_string()),
            Ok((other, ..)) => Err(format!("unexpected reply {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Runs the model on one input.
    ///
    /// Where the server can't be reached, refuses, or does not answer in time, all layers run here and the
    /// result says so; an answer that is late is still an answer.
    pub async fn infer(&self, input: Tensor) -> Result<Inference, SessionError> {
        let start = Instant::now();
        let cut = &self.info().cuts[0];
        if input.shape() != cut.shape || input.requests() != 1 {
            return Err(SessionError::Input {
                got: input.shape().to_vec(),
                want: cut.shape.clone(),
            });
        }
        let last = self.info().last();
        self.state().begins(start);
        // As long as all layers can still be run here in time.
        let alone = self.emulated_ms(CutPoint(0), last);
        let spare = self.inner.options.slo.saturating_sub(alone).min(PATIENCE);
        let reachable = self.reach(spare.mul_f64(0.8)).await;
        let choice = self.choice().filter(|_| reachable);
        let point = choice.map_or(last, |c| c.point);
        self.state().in_use = Some(point);
        let mut times = Times::default();
        let head = self.layers(CutPoint(0), point, input, &mut times).await?;
        let mut result = Inference {
            output: head.clone(),
            partition_point: point,
            budget_ms: choice.map_or(0.0, |c| c.budget_ms),
            local: None,
            in_time: false,
            times,
            server: None,
            epoch: None,
            request_id: None,
        };
        let why_local = if !reachable {
            Some(LocalReason::Unreachable)
        } else if point == last && self.state().server_ms.is_empty() {
            Some(LocalReason::NoPlan)
        } else if point == last {
            Some(LocalReason::FasterAlone)
        } else {
            self.send_rest(start, point, &head, &mut result).await?.err()
        };
        if let Some(why) = why_local {
            result.output = self.layers(point, last, head, &mut result.times).await?;
            result.local = Some(why);
        }
        result.times.total_ms = start.elapsed().as_secs_f64() * 1e3;
        result.in_time = start.elapsed() <= self.inner.options.slo;
        Ok(result)
    }

    /// Sends the head's tensor and waits for the answer. The inner error says why there is none.
    async fn send_rest(
        &self,
        start: Instant,
        point: CutPoint,
        head: &Tensor,
        result: &mut Inference,
    ) -> Result<Result<(), LocalReason>, SessionError> {
        let Some(connection) = self.state().connection.clone() else {
            return Ok(Err(LocalReason::Unreachable));
        };
        let dtype = if head.dtype() == DType::F32 {
            self.inner.options.wire
        } else {
            self.info().cuts[point.index()].dtype
        };
        let wire =
            WireType::of(dtype).ok_or_else(|| SessionError::Wire(format!("elements of type {dtype}")))?;
        let payload = head
            .to_bytes(dtype)
            .map_err(|e| SessionError::Wire(e.to_string()))?;
        let sent = payload.len() as u64;
        let answer = self.info().cuts.last().map_or(0, |c| c.bytes() as u64);
        let left = self.inner.options.slo.saturating_sub(start.elapsed());
        let handover = Handover {
            left_ms: left.as_secs_f64() * 1e3,
            network_ms: self.link().transfer_ms(sent, answer),
            server_ms: self.server_ms(point),
            rest_here_ms: self.emulated_ms(point, self.info().last()).as_secs_f64() * 1e3,
        };
        let budget = handover.budget_ms();
        result.budget_ms = budget;
        if budget <= 0.0 {
            return Ok(Err(LocalReason::NoTime));
        }
        let trace = TraceContext::new(fastrand::u128(..), fastrand::u64(..));
        result.request_id = Some(trace.request_id());
        let request = ClientRequest::Infer(InferHeader {
            model: self.info().id,
            partition_point: point,
            dtype: wire,
            time_left: ms_to_nanos(budget),
            trace,
        });
        let patience = Duration::from_secs_f64(handover.patience_ms() / 1e3);
        let reply = self
            .exchange(&connection, &request, Bytes::from(payload), patience)
            .await;
        Ok(match reply {
            Ok((ClientReply::Answer(header), bytes, ms)) => {
                let cut = self
                    .info()
                    .cuts
                    .last()
                    .ok_or_else(|| SessionError::Wire("no output".to_owned()))?;
                let output = Tensor::from_requests(cut, &[(header.dtype.dtype(), &bytes)])
                    .map_err(|e| SessionError::Wire(e.to_string()))?;
                let server_ms = header.timing.router_ns as f64 / 1e6;
                result.output = output;
                result.times.server_ms = server_ms;
                result.times.network_ms = (ms - server_ms).max(0.0);
                result.server = Some(header.timing);
                result.epoch = Some(header.epoch);
                let mut state = self.state();
                state.link.transferred(sent, answer, ms - server_ms);
                state.tried = Some(Instant::now());
                Ok(())
            }
            Ok((ClientReply::Refused(refused), ..)) => {
                // What the server needs may have changed: ask again.
                self.state().described = None;
                Err(LocalReason::Refused(refused))
            }
            Ok((other, ..)) => Err(LocalReason::NoAnswer(format!("the router replied {other:?}"))),
            Err(error) => {
                if matches!(error, CallError::Lost(_)) {
                    self.state().connection = None;
                }
                Err(LocalReason::NoAnswer(error.to_string()))
            }
        })
    }

    /// What the server said it needs from a cut point on, in milliseconds.
    fn server_ms(&self, point: CutPoint) -> f64 {
        self.state().server_ms.get(point.index()).copied().unwrap_or(0.0)
    }

    /// What layers take on this device, as emulated.
    fn emulated_ms(&self, from: CutPoint, to: CutPoint) -> Duration {
        let head = &self.inner.model.head_ms;
        let alone = head[to.index()] - head[from.index()];
        let slowdown = self.emulation().map_or(1.0, |e| e.slowdown);
        Duration::from_secs_f64((alone * slowdown).max(0.0) / 1e3)
    }

    /// Runs layers here, stretched to the emulated device's time.
    async fn layers(
        &self,
        from: CutPoint,
        to: CutPoint,
        input: Tensor,
        times: &mut Times,
    ) -> Result<Tensor, SessionError> {
        let Some(range) = StageRange::new(from, to) else {
            return Ok(input);
        };
        let start = Instant::now();
        let (device, info) = (
            Arc::clone(&self.inner.device),
            Arc::clone(&self.inner.model.entry.info),
        );
        let output = tokio::task::spawn_blocking(move || device.run(&info, range, input))
            .await
            .map_err(|e| SessionError::Task(e.to_string()))??;
        if self.emulation().is_some() {
            tokio::time::sleep(self.emulated_ms(from, to).saturating_sub(start.elapsed())).await;
        }
        times.device_ms += start.elapsed().as_secs_f64() * 1e3;
        Ok(output)
    }
}
