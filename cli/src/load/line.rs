//! Connections to a router, and what is sent over them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_client::{Sending, ask, connect};
use graft_files::{Catalog, CatalogEntry};
use graft_model::{DType, ModelId};
use graft_plan::{Epoch, Nanos};
use graft_simulator::Dispatch;
use graft_transport::{Connection, Endpoint};
use graft_wire::{
    ClientReply, ClientRequest, Description, InferHeader, Limits, Status, TraceContext, WireType,
};
use graft_worker_core::RequestId;
use tokio::sync::mpsc;

/// Outcome of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Answered, by the plan of that number.
    Answered(Epoch),
    Refused(Status),
    /// Lost: the connection to the router of that number was lost, or no answer came in time.
    Lost(u32),
}

/// Time between two probes whether a router is there.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Longest wait for the reply to such a probe.
const WATCH_WITHIN: Duration = Duration::from_secs(1);
/// Longest wait of a request for a connection in the place of one that is gone.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Time between two looks whether there is one.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for the replies to small messages.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a router.
struct Slot {
    connection: Mutex<Connection>,
    /// Another is being made in its place.
    connecting: AtomicBool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Connections to a router, which clients share. Clones share them too.
#[derive(Clone)]
pub(super) struct Line {
    endpoint: Endpoint,
    address: SocketAddr,
    name: Arc<str>,
    token: Option<Arc<str>>,
    connections: Arc<Vec<Slot>>,
    turn: Arc<AtomicUsize>,
}

impl Line {
    pub async fn open(
        endpoint: Endpoint,
        address: SocketAddr,
        name: &str,
        token: Option<&str>,
        connections: u32,
    ) -> anyhow::Result<Self> {
        let mut list = vec![];
        for _ in 0..connections {
            list.push(Slot {
                connection: Mutex::new(connect(&endpoint, address, name, token).await?),
                connecting: AtomicBool::new(false),
            });
        }
        Ok(Line {
            endpoint,
            address,
            name: name.into(),
            token: token.map(Arc::from),
            connections: Arc::new(list),
            turn: Arc::default(),
        })
    }

    /// An open connection. `None`: it is gone, and is made anew beside; or the router goes away.
    fn connection(&self, at: usize) -> Option<Connection> {
        let slot = &self.connections[at % self.connections.len()];
        let connection = slot.lock();
        if connection.is_closed() && !slot.connecting.swap(true, Ordering::Relaxed) {
            let (line, at) = (self.clone(), at);
            tokio::spawn(async move {
                let made = connect(&line.endpoint, line.address, &line.name, line.token.as_deref()).await;
                let slot = &line.connections[at % line.connections.len()];
                if let Ok(made) = made {
                    *slot.lock() = made;
                }
                slot.connecting.store(false, Ordering::Relaxed);
            });
        }
        Some(connection.clone()).filter(|c| !c.is_closed() && !c.is_leaving())
    }

    /// A connection to one of several routers, the first that is there; where none is, one that is made within this time.
    async fn any(lines: &[Line], at: usize, within: Duration) -> Option<Connection> {
        let start = Instant::now();
        loop {
            let open = lines.iter().find_map(|line| line.connection(at));
            if open.is_some() || start.elapsed() >= within {
                return open;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends a request and waits for what becomes of it, as a phone does that knows all these routers: it asks the first, and
    /// another where that one is lost, goes away, or gives no sign of life. Dropping the future takes it back.
    pub async fn infer(
        lines: Vec<Line>,
        id: RequestId,
        router: u32,
        header: InferHeader,
        payload: Bytes,
        patience: Duration,
    ) -> Outcome {
        let (at, start) = (id.0 as usize, Instant::now());
        let Some(connection) = Line::any(&lines, at, patience.min(RECONNECT_WITHIN)).await else {
            return Outcome::Lost(router);
        };
        let sending = |connection: Connection| {
            let (mut header, took) = (header.clone(), start.elapsed());
            header.time_left = header.time_left - Nanos::from(took);
            (header.time_left > Nanos::ZERO).then(|| Sending {
                connection,
                request: ClientRequest::Infer(header),
                patience: patience.saturating_sub(took),
            })
        };
        let (first, asked) = (sending(connection.clone()), connection.peer());
        let Some(first) = first else {
            return Outcome::Lost(router);
        };
        let again = || async {
            let others: Vec<Line> = lines.iter().filter(|l| l.address != asked).cloned().collect();
            sending(Line::any(&others, at, Duration::ZERO).await?)
        };
        match ask(first, payload, lines.len() > 1, again).await {
            Ok((ClientReply::Answer(header), _)) => Outcome::Answered(header.epoch),
            Ok((ClientReply::Refused(refused), _)) => Outcome::Refused(refused.status),
            Ok(_) | Err(_) => Outcome::Lost(router),
        }
    }

    /// Probes again and again whether one of these routers is there, the first before the others, and reports it to `to` until
    /// nobody receives there.
    pub async fn watch(lines: Vec<Line>, number: u32, to: mpsc::Sender<(u32, bool)>) {
        let mut turn = 0;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            turn += 1;
            let there = match Line::any(&lines, turn, WATCH_WITHIN).await {
                None => false,
                Some(connection) => {
                    let probe = ClientRequest::Probe;
                    let reply = connection.call::<_, ClientReply>(
                        &probe,
                        Bytes::new(),
                        Limits::default(),
                        WATCH_WITHIN,
                    );
                    reply.await.is_ok()
                }
            };
            if to.send((number, there)).await.is_err() {
                return;
            }
        }
    }

    /// What the server needs for a model.
    pub async fn describe(&self, model: ModelId) -> anyhow::Result<Description> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let connection = self.connection(turn);
        let connection = connection.ok_or_else(|| anyhow::anyhow!("the router is gone"))?;
        let request = ClientRequest::Describe { model };
        let call = connection.call(&request, Bytes::new(), Limits::default(), PATIENCE);
        match call.await? {
            (ClientReply::Described, json) => Ok(serde_json::from_slice(&json)?),
            (ClientReply::Refused(refused), _) => anyhow::bail!("{refused}"),
            (other, _) => anyhow::bail!("the router replied {other:?}"),
        }
    }

    /// Asks again and again what the server needs, and reports it until nobody receives there.
    pub async fn describe_again(
        self,
        models: Vec<(String, ModelId)>,
        every: Duration,
        to: mpsc::Sender<(String, Description)>,
    ) {
        loop {
            tokio::time::sleep(every).await;
            for (name, id) in &models {
                match self.describe(*id).await {
                    Ok(description) => {
                        if to.send((name.clone(), description)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the router did not say what it needs"),
                }
            }
        }
    }
}

/// Tensors of zeros, by model and cut point.
pub(super) struct Payloads {
    models: HashMap<String, CatalogEntry>,
    made: HashMap<(String, u16), Bytes>,
}

impl Payloads {
    pub fn new(catalog: &Catalog) -> Self {
        let entries = catalog.entries().iter();
        Payloads {
            models: entries.map(|e| (e.manifest.name.clone(), e.clone())).collect(),
            made: HashMap::new(),
        }
    }

    /// A request with its tensor.
    pub fn of(&mut self, sending: &Dispatch, budget: Duration) -> Option<(InferHeader, Bytes)> {
        let info = &self.models.get(&sending.model)?.info;
        let cut = info.cut(sending.point)?;
        let key = (sending.model.clone(), sending.point.0);
        let zeros = || Bytes::from(vec![0; cut.bytes_sent(DType::F32)]);
        let payload = self.made.entry(key).or_insert_with(zeros).clone();
        let header = InferHeader {
            model: info.id,
            partition_point: sending.point,
            dtypes: WireType::of_all(&cut.types_sent(DType::F32))?,
            coded: false,
            time_left: budget.into(),
            trace: TraceContext::new(fastrand::u128(..), fastrand::u64(..)),
        };
        Some((header, payload))
    }
}
