//! Requests and replies on a connection, one stream for each.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use bytes::Bytes;
use graft_wire::{FrameError, Limits, PREFIX_BYTES, Prefix, decode_header, encode_frame};
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::account::{Account, Charge, NoRoom, Purse, SLOW_AFTER, next_room};
use crate::callers::{Place, goodbye};
use crate::identity::{Role, bears, may_be_called};

/// Close code: the connection is not needed any more.
const CODE_DONE: u32 = 0;
/// Close code: the peer sent bytes that are no frame.
const CODE_MALFORMED: u32 = 1;
/// Reset code: whoever asked does not want the answer any more.
const CODE_CANCELLED: u32 = 2;
/// Reset code: there is no room for the request, or it comes in too slowly while room is short.
const CODE_NO_ROOM: u32 = 4;

/// Time for a question for a sign of life to be sent.
const SIGN_WITHIN: Duration = Duration::from_millis(50);

/// A call that got no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection is gone.
    #[error("the connection is gone: {0}")]
    Lost(String),
    /// No reply came in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// The other side reset the stream.
    #[error("the other side gave the request up")]
    Reset,
    /// The reply is no frame.
    #[error("the reply can't be read: {0}")]
    Frame(#[from] FrameError),
}

/// A reply's header and payload.
pub type Reply<H> = (H, Vec<u8>);

/// The caller of a request.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Address that it calls from.
    pub address: SocketAddr,
    /// Number of its connection, which no other of the endpoint had.
    pub connection: u64,
    /// Time from the request's first byte to its last.
    pub coming_in: Duration,
}

/// What the connections of one endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What requests and replies hold.
    account: Arc<Account>,
    /// Time for a reply to be taken.
    reply: Duration,
    /// Number of replies that their askers don't have yet.
    pub open_replies: AtomicUsize,
}

impl Shared {
    /// For so many bytes that requests and replies hold, of which strangers have shares, and so long a time for a reply.
    pub fn new(held_bytes: usize, strangers: bool, reply: Duration) -> Self {
        Shared {
            account: Account::new(held_bytes, strangers),
            reply,
            open_replies: AtomicUsize::new(0),
        }
    }

    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

/// A connection to another part.
#[derive(Debug, Clone)]
pub struct Connection {
    quinn: quinn::Connection,
    shared: Arc<Shared>,
    purse: Arc<Purse>,
    /// Its place among the callers, where it came in.
    place: Option<Arc<Place>>,
    leaving: Arc<Leaving>,
    /// The first request, which came with the first packets.
    first: Arc<Mutex<Option<(SendStream, RecvStream)>>>,
    /// Whether requests that were sent with the first packets were taken, once that is known; `None`: none were.
    early: Arc<OnceLock<watch::Receiver<Option<bool>>>>,
}

/// Whether the other side said that it goes away.
#[derive(Debug, Default)]
struct Leaving {
    said: AtomicBool,
    /// The task that listens for it, which holds the connection.
    listening: OnceLock<AbortHandle>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Nobody uses the connection any more: it ends when the task does.
        if let Some(listening) = self.listening.get() {
            listening.abort();
        }
    }
}

/// An outgoing request. Dropped before it is whole, it is taken back: the other side must not take it for a
/// frame that was cut off.
struct Outgoing {
    stream: SendStream,
    whole: bool,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.whole {
            let _already_gone = self.stream.reset(VarInt::from_u32(CODE_CANCELLED));
        }
    }
}

/// A guard that counts a reply as open as long as it lives.
struct OpenReply<'a>(&'a Connection);

impl<'a> OpenReply<'a> {
    fn new(connection: &'a Connection) -> Self {
        connection.shared.open_replies.fetch_add(1, Ordering::SeqCst);
        if let Some(place) = &connection.place {
            place.begins();
        }
        OpenReply(connection)
    }
}

impl Drop for OpenReply<'_> {
    fn drop(&mut self) {
        self.0.shared.open_replies.fetch_sub(1, Ordering::SeqCst);
        if let Some(place) = &self.0.place {
            place.ends();
        }
    }
}

impl Connection {
    pub(crate) fn new(quinn: quinn::Connection, shared: Arc<Shared>, place: Option<Place>) -> Self {
        Connection {
            purse: shared.account.purse(quinn.remote_address().ip().to_canonical()),
            quinn,
            shared,
            place: place.map(Arc::new),
            leaving: Arc::default(),
            first: Arc::default(),
            early: Arc::default(),
        }
    }

    /// It begins with a request that came with the first packets.
    pub(crate) fn begin_with(&self, first: Option<(SendStream, RecvStream)>) {
        *self.first.lock().unwrap_or_else(|e| e.into_inner()) = first;
    }

    /// Requests may be sent, and it will be known whether they are taken; for that there is so much time. `nobody`: there was no answer.
    pub(crate) fn began_early(
        &self,
        accepted: quinn::ZeroRttAccepted,
        within: Duration,
        nobody: impl FnOnce() + Send + 'static,
    ) {
        let (told, early) = watch::channel(None);
        let _once = self.early.set(early);
        let quinn = self.quinn.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(within, accepted).await {
                Ok(taken) if quinn.close_reason().is_none() => {
                    told.send_replace(Some(taken));
                }
                Ok(_) => nobody(),
                Err(_) => {
                    quinn.close(VarInt::from_u32(CODE_DONE), b"nobody answers");
                    nobody();
                }
            }
        });
    }

    /// Waits until the other side has answered at all. `Err`: it did not, and why the connection is gone.
    pub async fn answered(&self) -> Result<(), String> {
        if let Some(early) = self.early.get() {
            let mut early = early.clone();
            if early.wait_for(Option::is_some).await.is_err() {
                return Err(self.closed().await);
            }
        }
        Ok(())
    }

    /// Whether what was sent with the first packets may not have been taken, as far as is known.
    fn is_early(&self) -> bool {
        self.early.get().is_some_and(|early| early.borrow().is_none())
    }

    /// Whether what was sent with the first packets was not taken, and is to be sent again.
    async fn is_turned_back(&self) -> bool {
        let Some(early) = self.early.get() else {
            return false;
        };
        let mut early = early.clone();
        let known = early.wait_for(Option::is_some).await;
        known.is_ok_and(|taken| *taken == Some(false))
    }

    /// Listens for the other side's saying that it goes away, which it does by a stream of its own.
    pub(crate) fn expect_leave(&self) {
        let (quinn, leaving) = (self.quinn.clone(), Arc::downgrade(&self.leaving));
        let listening = tokio::spawn(async move {
            if quinn.accept_uni().await.is_ok()
                && let Some(leaving) = leaving.upgrade()
            {
                leaving.said.store(true, Ordering::Relaxed);
            }
        });
        // It listens once.
        let _first = self.leaving.listening.set(listening.abort_handle());
    }

    /// Whether the other side said that it goes away: what is under way is still answered, and others should be asked from now on.
    pub fn is_leaving(&self) -> bool {
        self.leaving.said.load(Ordering::Relaxed)
    }

    /// Tells the other side that it should ask others from now on.
    pub(crate) fn say_goodbye(&self) {
        goodbye(self.quinn.clone());
    }

    /// Packets that came in on it.
    pub(crate) fn received(&self) -> u64 {
        self.quinn.stats().udp_rx.datagrams
    }

    /// Asks the other side for a sign of life, and does not wait for it.
    pub fn ask_for_sign<Q: Encode>(&self, sign: &Q) {
        let Ok(frame) = encode_frame(sign, 0) else { return };
        let quinn = self.quinn.clone();
        tokio::spawn(async move {
            let asking = async {
                let (mut send, _receive) = quinn.open_bi().await.ok()?;
                send.write_all(&frame).await.ok()?;
                send.finish().ok()
            };
            // Where no more streams may be opened, others are open, and tell as much.
            let _told = tokio::time::timeout(SIGN_WITHIN, asking).await;
        });
    }

    /// Address of the other end.
    pub fn peer(&self) -> SocketAddr {
        let peer = self.quinn.remote_address();
        SocketAddr::new(peer.ip().to_canonical(), peer.port())
    }

    /// The current estimate of the round trip.
    pub fn round_trip(&self) -> Duration {
        self.quinn.rtt()
    }

    /// Whether the other side's certificate carries this role.
    pub fn is_from(&self, role: Role) -> bool {
        self.certificate().is_some_and(|c| bears(&c, role))
    }

    /// Whether the other side may call itself so: its certificate is bound to this name, or to none.
    pub fn may_be_called(&self, role: Role, part: &str) -> bool {
        self.certificate().is_some_and(|c| may_be_called(&c, role, part))
    }

    fn certificate(&self) -> Option<CertificateDer<'static>> {
        let chain = self
            .quinn
            .peer_identity()?
            .downcast::<Vec<CertificateDer<'static>>>();
        chain.ok()?.first().cloned()
    }

    /// Closes the connection, which is not needed any more.
    pub fn close(&self, reason: &str) {
        self.quinn.close(VarInt::from_u32(CODE_DONE), reason.as_bytes());
    }

    /// Resolves when the connection is gone, with the reason.
    pub async fn closed(&self) -> String {
        describe(&self.quinn.closed().await)
    }

    /// Whether it is gone already.
    pub fn is_closed(&self) -> bool {
        self.quinn.close_reason().is_some()
    }

    /// Sends a request and waits for the reply. Dropping the future takes the request back.
    pub async fn call<Q: Encode, R: Decode<()>>(
        &self,
        header: &Q,
        payload: Bytes,
        limits: Limits,
        patience: Duration,
    ) -> Result<Reply<R>, CallError> {
        let exchange = || async {
            let payload = payload.clone();
            let (stream, mut receive) = self.quinn.open_bi().await.map_err(lost)?;
            let mut send = Outgoing { stream, whole: false };
            let frame = encode_frame(header, payload.len())?;
            let mut chunks = [Bytes::from(frame), payload];
            let sent = send.stream.write_all_chunks(&mut chunks).await;
            if let Err(error) = sent
                && !matches!(error, WriteError::Stopped(_))
            {
                return Err(CallError::Lost(error.to_string()));
            }
            // A reply may come before the request is read whole: a refusal, say.
            let _already_reset = send.stream.finish();
            send.whole = true;
            match read_frame::<R>(&mut receive, limits, None).await {
                Ok(reply) => Ok(reply),
                Err(ReadFailure::NoRoom) => Err(CallError::Reset),
                Err(ReadFailure::Frame(error)) => {
                    self.malformed(&error);
                    Err(error.into())
                }
                Err(ReadFailure::Reset) => Err(CallError::Reset),
                Err(ReadFailure::Lost(cause)) => Err(CallError::Lost(cause)),
            }
        };
        let exchange = async {
            let may_be_turned_back = self.is_early();
            match exchange().await {
                Err(CallError::Lost(_) | CallError::Reset)
                    if may_be_turned_back && !self.is_closed() && self.is_turned_back().await =>
                {
                    exchange().await
                }
                ended => ended,
            }
        };
        tokio::time::timeout(patience, exchange)
            .await
            .map_err(|_| CallError::TimedOut(patience))?
    }

    /// Sends bytes that need not be a frame, and closes the stream: for tests of how peers take them.
    #[doc(hidden)]
    pub async fn send_unframed(&self, bytes: &[u8]) -> Result<(), CallError> {
        let (mut send, _receive) = self.quinn.open_bi().await.map_err(lost)?;
        send.write_all(bytes)
            .await
            .map_err(|e| CallError::Lost(e.to_string()))?;
        let _already_reset = send.finish();
        let _already_gone = send.stopped().await;
        Ok(())
    }

    /// A stream on which nothing was sent yet: for tests of how peers take what is no request.
    #[doc(hidden)]
    pub async fn open_raw(&self) -> Result<(SendStream, RecvStream), CallError> {
        self.quinn.open_bi().await.map_err(lost)
    }

    fn malformed(&self, error: &FrameError) {
        tracing::warn!(peer = %self.peer(), %error, "closing a connection that sent no frame");
        self.quinn
            .close(VarInt::from_u32(CODE_MALFORMED), error.to_string().as_bytes());
    }

    /// Answers requests until the connection is gone, and gives the reason. A request whose sender takes it back has
    /// its handler's future dropped. Bytes that are no frame close the connection.
    ///
    /// A request must be whole within `patience` of its first byte.
    pub async fn serve<Q, R, F>(
        &self,
        limits: Limits,
        patience: Duration,
        handler: impl Fn(Caller, Q, Bytes) -> F + Send + Sync + 'static,
    ) -> String
    where
        Q: Decode<()> + Send + 'static,
        R: Encode + Send + 'static,
        F: Future<Output = (R, Bytes)> + Send + 'static,
    {
        let handler = Arc::new(handler);
        loop {
            let first = self.first.lock().unwrap_or_else(|e| e.into_inner()).take();
            let (send, receive) = match first {
                Some(streams) => streams,
                None => match self.quinn.accept_bi().await {
                    Ok(streams) => streams,
                    Err(error) => return describe(&error),
                },
            };
            let (this, handler) = (self.clone(), Arc::clone(&handler));
            tokio::spawn(async move { this.answer(send, receive, limits, patience, &*handler).await });
        }
    }

    async fn answer<Q, R, F>(
        &self,
        mut send: SendStream,
        mut receive: RecvStream,
        limits: Limits,
        patience: Duration,
        handler: &(impl Fn(Caller, Q, Bytes) -> F + Send + Sync),
    ) where
        Q: Decode<()> + Send + 'static,
        R: Encode + Send + 'static,
        F: Future<Output = (R, Bytes)> + Send + 'static,
    {
        let _open = OpenReply::new(self);
        let began = Instant::now();
        let mut charge = self.purse.charge();
        let reading = read_frame::<Q>(&mut receive, limits, Some(&mut charge));
        let (request, payload) = match tokio::time::timeout(patience, reading).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(ReadFailure::Frame(error))) => return self.malformed(&error),
            Ok(Err(ReadFailure::Reset | ReadFailure::Lost(_))) => return,
            Ok(Err(ReadFailure::NoRoom)) => {
                tracing::debug!(peer = %self.peer(), "there is no room for a request, or it comes in too slowly");
                let _already_gone = send.reset(VarInt::from_u32(CODE_NO_ROOM));
                return;
            }
            Err(_) => {
                tracing::debug!(peer = %self.peer(), "a request did not come in whole in time");
                let _already_gone = send.reset(VarInt::from_u32(CODE_CANCELLED));
                return;
            }
        };
        if let Some(place) = &self.place {
            place.came_in();
        }
        let caller = Caller {
            address: self.peer(),
            connection: self.purse.id(),
            coming_in: began.elapsed(),
        };
        let work = handler(caller, request, Bytes::from(payload));
        let (header, payload) = tokio::select! {
            done = work => done,
            // The asker stopped reading, or is gone: the handler's future is dropped here.
            _ = send.stopped() => return,
        };
        drop(charge);
        let frame = match encode_frame(&header, payload.len()) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(%error, "a reply can't be encoded");
                let _already_gone = send.reset(VarInt::from_u32(CODE_CANCELLED));
                return;
            }
        };
        let mut charge = self.purse.charge();
        let reply = async {
            charge
                .add(frame.len() + payload.len())
                .await
                .map_err(|NoRoom| "there is no room for it")?;
            let mut chunks = [Bytes::from(frame), payload];
            let sent = send.write_all_chunks(&mut chunks).await;
            sent.map_err(|_| "it is not wanted any more")?;
            let _already_reset = send.finish();
            // The reply stays open until the other side has all of it, or is gone: closing an endpoint waits for this.
            let _gone = send.stopped().await;
            Ok::<(), &str>(())
        };
        let sent = tokio::time::timeout(self.shared.reply, reply).await;
        if let Err(why) = sent.unwrap_or(Err("it was not taken in time")) {
            tracing::debug!(peer = %self.peer(), why, "a reply is given up");
            let _already_gone = send.reset(VarInt::from_u32(CODE_CANCELLED));
        }
    }
}

enum ReadFailure {
    Frame(FrameError),
    /// There is no room for what comes in.
    NoRoom,
    Reset,
    Lost(String),
}

impl From<FrameError> for ReadFailure {
    fn from(error: FrameError) -> Self {
        ReadFailure::Frame(error)
    }
}

impl From<ReadError> for ReadFailure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(_) => ReadFailure::Reset,
            ReadError::ConnectionLost(e) => ReadFailure::Lost(describe(&e)),
            other => ReadFailure::Lost(other.to_string()),
        }
    }
}

impl From<ReadExactError> for ReadFailure {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => cut_off(),
            ReadExactError::ReadError(e) => e.into(),
        }
    }
}

fn cut_off() -> ReadFailure {
    ReadFailure::Frame(FrameError::Header(
        "the stream ends before the frame does".to_owned(),
    ))
}

/// Reads a frame. With a charge, what arrives is charged as it arrives.
async fn read_frame<H: Decode<()>>(
    stream: &mut RecvStream,
    limits: Limits,
    mut charge: Option<&mut Charge>,
) -> Result<(H, Vec<u8>), ReadFailure> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let prefix = Prefix::decode(&prefix, limits)?;
    let header = read_bytes(stream, prefix.header_bytes, charge.as_deref_mut()).await?;
    let header = decode_header(&header)?;
    let wanted = usize::try_from(prefix.payload_bytes).map_err(|_| cut_off())?;
    let payload = read_bytes(stream, wanted, charge).await?;
    Ok((header, payload))
}

/// Reads so many bytes; memory for them is taken, and charged, in steps as they arrive.
async fn read_bytes(
    stream: &mut RecvStream,
    wanted: usize,
    charge: Option<&mut Charge>,
) -> Result<Vec<u8>, ReadFailure> {
    let mut bytes = Vec::new();
    let Some(charge) = charge else {
        while bytes.len() < wanted {
            let chunk = stream.read_chunk(wanted - bytes.len(), true).await?;
            let chunk = chunk.ok_or_else(cut_off)?;
            bytes.reserve_exact(next_room(&bytes, chunk.bytes.len(), wanted) - bytes.len());
            bytes.extend_from_slice(&chunk.bytes);
        }
        return Ok(bytes);
    };
    let began = Instant::now();
    let gives_way = charge.gives_way();
    let mut must_give_way = std::pin::pin!(gives_way.notified());
    let mut look = std::pin::pin!(tokio::time::sleep(SLOW_AFTER));
    while bytes.len() < wanted {
        // While room is short, nobody waits for someone who is slow.
        let chunk = tokio::select! {
            biased;
            read = stream.read_chunk(wanted - bytes.len(), true) => read?.ok_or_else(cut_off)?,
            () = &mut must_give_way => return Err(ReadFailure::NoRoom),
            () = &mut look => {
                if charge.is_too_slow(began, bytes.len()) {
                    return Err(ReadFailure::NoRoom);
                }
                look.as_mut().reset(tokio::time::Instant::now() + SLOW_AFTER);
                continue;
            }
        };
        let room = charge.make_room(&mut bytes, chunk.bytes.len(), wanted).await;
        room.map_err(|NoRoom| ReadFailure::NoRoom)?;
        bytes.extend_from_slice(&chunk.bytes);
    }
    Ok(bytes)
}

fn lost(error: ConnectionError) -> CallError {
    CallError::Lost(describe(&error))
}

/// Text of an error: the other side's own words where it closed with some.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        other => other.to_string(),
    }
}
