//! The routers of a site, of which a phone asks one, and moves to another when that one goes away, is lost, or gives no sign of life.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_transport::{CallError, Connection, Endpoint, EndpointError, Protocol, silence};
use graft_wire::{ClientReply, ClientRequest, Limits, Status};
use tokio::task::JoinSet;

/// Time after which the next router is tried beside one that has not answered yet (after RFC 8305, section 5).
const NEXT_AFTER: Duration = Duration::from_millis(200);
/// Longest wait for a name to be looked up.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for a token to be taken.
const PRESENT_WITHIN: Duration = Duration::from_secs(3);
/// Time after which something is sent while an answer is waited for.
const AWAKE_EVERY: Duration = Duration::from_secs(10);
/// Silence of a router that is too long, beside some round trips.
const SILENT_AFTER: Duration = Duration::from_millis(50);
/// Round trips for which a router may be silent besides.
const SILENT_TRIPS: u32 = 3;
/// Silence of a router after which it is taken for gone, beside some round trips.
const GONE_AFTER: Duration = Duration::from_secs(1);

/// The routers of a site, of which one is asked. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Routers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The phone's end; `None`: there are no routers.
    endpoint: Option<Endpoint>,
    name: String,
    /// `host:port` of each, which is looked up when it is needed.
    places: Vec<String>,
    /// Addresses as they were found last.
    addresses: Mutex<Vec<SocketAddr>>,
    token: Option<String>,
    current: Mutex<Option<Connection>>,
    /// Times at which the network changed.
    changes: AtomicU64,
    /// One at a time looks for another router.
    looking: tokio::sync::Mutex<()>,
}

/// A request on its way: over a connection, for so long.
#[derive(Debug)]
pub struct Sending {
    /// The connection.
    pub connection: Connection,
    /// The request.
    pub request: ClientRequest,
    /// How long to wait for the reply.
    pub patience: Duration,
}

impl Routers {
    /// Routers at these addresses (UDP), whose certificates must carry `name`. `endpoint`: the phone's end; `token`: what says who
    /// asks, where routers want to know.
    pub fn new(
        endpoint: Endpoint,
        name: impl Into<String>,
        mut addresses: Vec<SocketAddr>,
        token: Option<String>,
    ) -> Self {
        // Phones spread over them.
        fastrand::shuffle(&mut addresses);
        Self::of(Some(endpoint), name.into(), vec![], addresses, token)
    }

    /// The same at places, `host:port`: their names are looked up whenever a connection is made, and may have several addresses.
    pub fn named(
        endpoint: Endpoint,
        name: impl Into<String>,
        places: Vec<String>,
        token: Option<String>,
    ) -> Self {
        Self::of(Some(endpoint), name.into(), places, vec![], token)
    }

    /// None: whoever asks is told that there are none.
    pub fn none() -> Self {
        Self::of(None, String::new(), vec![], vec![], None)
    }

    fn of(
        endpoint: Option<Endpoint>,
        name: String,
        places: Vec<String>,
        addresses: Vec<SocketAddr>,
        token: Option<String>,
    ) -> Self {
        Routers {
            inner: Arc::new(Inner {
                endpoint,
                name,
                places,
                addresses: Mutex::new(addresses),
                token,
                current: Mutex::default(),
                changes: AtomicU64::default(),
                looking: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The same routers, with a connection of its own.
    pub fn apart(&self) -> Self {
        let Inner {
            endpoint,
            name,
            places,
            token,
            ..
        } = &*self.inner;
        Self::of(
            endpoint.clone(),
            name.clone(),
            places.clone(),
            self.addresses(),
            token.clone(),
        )
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.inner
            .addresses
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    /// The network is another. What is under way goes on there.
    pub fn network_changed(&self) -> Result<(), EndpointError> {
        self.inner.changes.fetch_add(1, Ordering::Relaxed);
        match &self.inner.endpoint {
            Some(endpoint) => endpoint.rebind(),
            None => Ok(()),
        }
    }

    /// Times at which the network changed.
    pub fn changes(&self) -> u64 {
        self.inner.changes.load(Ordering::Relaxed)
    }

    /// There are others than the one that is asked, as far as it is known.
    pub fn are_several(&self) -> bool {
        self.addresses().len() > 1
    }

    /// Looks places up. Where that fails, addresses stay as they were found before.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, EndpointError> {
        let mut found = vec![];
        let mut error = None;
        for place in &self.inner.places {
            match tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host(place)).await {
                Ok(Ok(all)) => found.extend(all),
                Ok(Err(why)) => error = Some(format!("{place} can't be looked up: {why}")),
                Err(_) => error = Some(format!("{place} can't be looked up in time")),
            }
        }
        if found.is_empty() {
            let before = self.addresses();
            let nowhere = || error.unwrap_or_else(|| "no router is known".to_owned());
            return if before.is_empty() {
                Err(EndpointError::Nowhere(nowhere()))
            } else {
                Ok(before)
            };
        }
        fastrand::shuffle(&mut found);
        *self.inner.addresses.lock().unwrap_or_else(|e| e.into_inner()) = found.clone();
        Ok(found)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.inner.current.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The connection to the one that is asked, if it is open.
    pub fn current(&self) -> Option<Connection> {
        self.slot().clone().filter(|c| !c.is_closed())
    }

    /// The open connection, or a new one to any of them, the next beside the one before where that takes long.
    pub async fn connect(&self) -> Result<Connection, EndpointError> {
        let _alone = self.inner.looking.lock().await;
        match self.current() {
            Some(open) => Ok(open),
            None => self.reach(None).await,
        }
    }

    /// Another router than the one at the other end of `from`; where somebody has connected meanwhile, that one.
    /// `None`: there is none, or it can't be reached. It goes on when nobody waits for it any more.
    pub async fn move_from(&self, from: &Connection) -> Option<Connection> {
        let (routers, from) = (self.clone(), from.clone());
        let moving = tokio::spawn(async move { routers.moved_from(&from).await });
        moving.await.ok().flatten()
    }

    async fn moved_from(&self, from: &Connection) -> Option<Connection> {
        let _alone = self.inner.looking.lock().await;
        // Where that connection is gone, its router may be back.
        let moved = self
            .current()
            .filter(|c| from.is_closed() || c.peer() != from.peer());
        if moved.is_some() || !self.are_several() {
            return moved;
        }
        match self.reach(Some(from.peer())).await {
            Ok(connection) => {
                tracing::info!(from = %from.peer(), to = %connection.peer(), "moved to another router");
                Some(connection)
            }
            Err(error) => {
                tracing::debug!(%error, "there is no other router");
                None
            }
        }
    }

    /// Moves in the background, if the router that is asked said that it goes away.
    pub fn follow_goodbye(&self) {
        let leaving = self.current().filter(|c| c.is_leaving() && self.are_several());
        if let Some(connection) = leaving.filter(|_| self.inner.looking.try_lock().is_ok()) {
            let routers = self.clone();
            tokio::spawn(async move { routers.move_from(&connection).await });
        }
    }

    async fn reach(&self, but: Option<SocketAddr>) -> Result<Connection, EndpointError> {
        if but.is_some() {
            // Who is in a hurry tries what is known before names are looked up.
            let known = self.reach_one(self.addresses(), but).await;
            if known.is_ok() || self.inner.places.is_empty() {
                return known;
            }
        }
        let found = self.look_up().await?;
        self.reach_one(found, but).await
    }

    async fn reach_one(
        &self,
        addresses: Vec<SocketAddr>,
        but: Option<SocketAddr>,
    ) -> Result<Connection, EndpointError> {
        let inner = &self.inner;
        let nowhere = || EndpointError::Nowhere("there is no other router".to_owned());
        let endpoint = inner.endpoint.as_ref().ok_or_else(nowhere)?;
        let mut waiting: Vec<SocketAddr> = addresses.into_iter().filter(|a| Some(*a) != but).rev().collect();
        // Of several the first that answers is taken; one alone may be spoken to before it does.
        let several = but.is_some() || waiting.len() > 1;
        let mut attempts = JoinSet::new();
        let mut error = nowhere();
        loop {
            if let Some(address) = waiting.pop() {
                let (endpoint, name) = (endpoint.clone(), inner.name.clone());
                let token = inner.token.clone();
                attempts.spawn(async move {
                    let connection = connect(&endpoint, address, &name, token.as_deref()).await?;
                    if several {
                        connection
                            .answered()
                            .await
                            .map_err(|cause| EndpointError::Connect { address, cause })?;
                    }
                    Ok(connection)
                });
            }
            let next = tokio::time::timeout(NEXT_AFTER, attempts.join_next());
            match next.await {
                Ok(Some(Ok(Ok(connection)))) => {
                    *self.slot() = Some(connection.clone());
                    return Ok(connection);
                }
                Ok(Some(Ok(Err(why)))) => error = why,
                Ok(Some(Err(panicked))) => error = EndpointError::Nowhere(panicked.to_string()),
                Ok(None) if waiting.is_empty() => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
    }
}

/// Connects to a router as a client, who shows a token if it has one.
pub async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    name: &str,
    token: Option<&str>,
) -> Result<Connection, EndpointError> {
    let connection = endpoint.connect(address, name, Protocol::Client).await?;
    let Some(token) = token else {
        return Ok(connection);
    };
    let refused = |cause: String| EndpointError::Connect { address, cause };
    let token = token.to_owned();
    let sending = Sending {
        connection: connection.clone(),
        request: ClientRequest::Present { token },
        patience: PRESENT_WITHIN,
    };
    match call(&sending, Bytes::new()).await {
        Ok((ClientReply::Welcome, _)) => Ok(connection),
        Ok((ClientReply::Refused(why), _)) => Err(refused(why.to_string())),
        Ok((other, _)) => Err(refused(format!("the router replied {other:?}"))),
        Err(error) => Err(refused(error.to_string())),
    }
}

async fn call(sending: &Sending, payload: Bytes) -> Result<(ClientReply, Vec<u8>), CallError> {
    let Sending {
        connection,
        request,
        patience,
    } = sending;
    let mut call = std::pin::pin!(connection.call(request, payload, Limits::default(), *patience));
    loop {
        let awake = tokio::time::timeout(AWAKE_EVERY, &mut call);
        match awake.await {
            Ok(ended) => return ended,
            // Translators of addresses on the way forget whoever is silent for half a minute.
            Err(_) => connection.ask_for_sign(&ClientRequest::Probe),
        }
    }
}

/// The same as long as the router gives signs of life. If it is there all the same, the next connection finds it.
async fn call_alive(sending: &Sending, payload: Bytes) -> Result<(ClientReply, Vec<u8>), CallError> {
    let connection = &sending.connection;
    let longest = GONE_AFTER + connection.round_trip() * SILENT_TRIPS;
    tokio::select! {
        biased;
        reply = call(sending, payload) => reply,
        () = silence(connection, &ClientRequest::Probe, longest) => {
            connection.close("you give no sign of life");
            Err(CallError::Lost("the router gives no sign of life".to_owned()))
        }
    }
}

/// Whether another router may do better: this one is gone, or goes away.
fn may_be_better_elsewhere(
    reply: &Result<(ClientReply, Vec<u8>), CallError>,
    connection: &Connection,
) -> bool {
    match reply {
        Ok((ClientReply::Refused(refused), _)) => {
            refused.status == Status::NotReady && connection.is_leaving()
        }
        Ok(_) | Err(CallError::TimedOut(_) | CallError::Frame(_)) => false,
        Err(CallError::Lost(_) | CallError::Reset) => true,
    }
}

/// Asks a router. Where it is lost, goes away or gives no sign of life before it has answered, `again` says what to send over
/// which other connection, if there is time; of both the first that answers counts. `several`: there is another that could be asked.
pub async fn ask<F: Future<Output = Option<Sending>>>(
    first: Sending,
    payload: Bytes,
    several: bool,
    again: impl FnOnce() -> F,
) -> Result<(ClientReply, Vec<u8>), CallError> {
    if !several {
        return call_alive(&first, payload).await;
    }
    let (connection, start, patience) = (first.connection.clone(), Instant::now(), first.patience);
    let mut reply = std::pin::pin!(call_alive(&first, payload.clone()));
    let longest = SILENT_AFTER + connection.round_trip() * SILENT_TRIPS;
    let lost = tokio::select! {
        biased;
        reply = &mut reply => match may_be_better_elsewhere(&reply, &connection) {
            true => Some(reply),
            false => return reply,
        },
        () = silence(&connection, &ClientRequest::Probe, longest) => None,
    };
    let mut second = std::pin::pin!(async {
        let second = again().await?;
        Some(call(&second, payload).await)
    });
    if let Some(lost) = lost {
        // Looking for another router may take longer than there is time.
        let left = patience.saturating_sub(start.elapsed());
        let second = tokio::time::timeout(left, second).await;
        return second.ok().flatten().unwrap_or(lost);
    }
    let left = tokio::time::sleep(patience.saturating_sub(start.elapsed()));
    tokio::select! {
        first = &mut reply => match may_be_better_elsewhere(&first, &connection) {
            true => tokio::select! {
                second = &mut second => second.unwrap_or(first),
                () = left => first,
            },
            false => first,
        },
        second = &mut second => match second {
            Some(reply @ Ok(_)) => reply,
            Some(Err(_)) | None => reply.await,
        },
    }
}
