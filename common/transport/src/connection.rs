//! Requests and replies on a connection, one stream for each.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use bytes::Bytes;
use graft_wire::{FrameError, Limits, PREFIX_BYTES, Prefix, decode_header, encode_frame};
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::identity::{Role, bears};

/// Close code: the connection is not needed any more.
const CODE_DONE: u32 = 0;
/// Close code: the peer sent bytes that are no frame.
const CODE_MALFORMED: u32 = 1;
/// Reset code: whoever asked does not want the answer any more.
const CODE_CANCELLED: u32 = 2;
/// Bytes reserved at first for a payload, so that an announced length alone takes no memory (1 MiB).
const FIRST_RESERVE: u64 = 1 << 20;

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
    /// Time from the request's first byte to its last.
    pub coming_in: Duration,
}

/// Bytes that the requests of all connections of an endpoint may hold while they come in and are answered, in
/// units of 1 KiB.
pub(crate) const HELD_KIB: usize = 1 << 20;

/// What the connections of one endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Permits for the bytes that requests hold: [`HELD_KIB`], one for each KiB.
    pub held: Semaphore,
    /// Number of replies that their askers don't have yet.
    pub open_replies: AtomicUsize,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            held: Semaphore::new(HELD_KIB),
            open_replies: AtomicUsize::new(0),
        }
    }
}

/// A connection to another part.
#[derive(Debug, Clone)]
pub struct Connection {
    quinn: quinn::Connection,
    shared: Arc<Shared>,
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
struct OpenReply<'a>(&'a Shared);

impl<'a> OpenReply<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.open_replies.fetch_add(1, Ordering::SeqCst);
        OpenReply(shared)
    }
}

impl Drop for OpenReply<'_> {
    fn drop(&mut self) {
        self.0.open_replies.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connection {
    pub(crate) fn new(quinn: quinn::Connection, shared: Arc<Shared>) -> Self {
        Connection { quinn, shared }
    }

    /// Address of the other end.
    pub fn peer(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// The current estimate of the round trip.
    pub fn round_trip(&self) -> Duration {
        self.quinn.rtt()
    }

    /// Whether the other side's certificate carries this role.
    pub fn is_from(&self, role: Role) -> bool {
        self.quinn
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
            .and_then(|chain| chain.first().map(|c| bears(c, role)))
            .unwrap_or(false)
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
        let exchange = async {
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
                Ok((header, payload, _)) => Ok((header, payload)),
                Err(ReadFailure::Frame(error)) => {
                    self.malformed(&error);
                    Err(error.into())
                }
                Err(ReadFailure::Reset) => Err(CallError::Reset),
                Err(ReadFailure::Lost(cause)) => Err(CallError::Lost(cause)),
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
            let (send, receive) = match self.quinn.accept_bi().await {
                Ok(streams) => streams,
                Err(error) => return describe(&error),
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
        let _open = OpenReply::new(&self.shared);
        let began = Instant::now();
        let reading = read_frame::<Q>(&mut receive, limits, Some(&self.shared.held));
        let (request, payload, _held) = match tokio::time::timeout(patience, reading).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(ReadFailure::Frame(error))) => return self.malformed(&error),
            Ok(Err(ReadFailure::Reset | ReadFailure::Lost(_))) => return,
            Err(_) => {
                tracing::debug!(peer = %self.peer(), "a request did not come in whole in time");
                let _already_gone = send.reset(VarInt::from_u32(CODE_CANCELLED));
                return;
            }
        };
        let caller = Caller {
            address: self.peer(),
            coming_in: began.elapsed(),
        };
        let work = handler(caller, request, Bytes::from(payload));
        let (header, payload) = tokio::select! {
            done = work => done,
            // The asker stopped reading, or is gone: the handler's future is dropped here.
            _ = send.stopped() => return,
        };
        let frame = match encode_frame(&header, payload.len()) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(%error, "a reply can't be encoded");
                let _already_gone = send.reset(VarInt::from_u32(CODE_CANCELLED));
                return;
            }
        };
        let mut chunks = [Bytes::from(frame), payload];
        if let Err(error) = send.write_all_chunks(&mut chunks).await {
            tracing::debug!(peer = %self.peer(), %error, "a reply was not wanted any more");
            return;
        }
        let _already_reset = send.finish();
        // The reply stays open until the other side has all of it, or is gone: closing an endpoint waits for this.
        let _gone = send.stopped().await;
    }
}

enum ReadFailure {
    Frame(FrameError),
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

/// Reads a frame. With `held` it waits for room before it reads the payload, and gives the permit, which is to be kept
/// as long as the payload lives.
async fn read_frame<'h, H: Decode<()>>(
    stream: &mut RecvStream,
    limits: Limits,
    held: Option<&'h Semaphore>,
) -> Result<(H, Vec<u8>, Option<SemaphorePermit<'h>>), ReadFailure> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let prefix = Prefix::decode(&prefix, limits)?;
    let mut header = vec![0; prefix.header_bytes];
    stream.read_exact(&mut header).await?;
    let header = decode_header(&header)?;
    let permit = match held {
        None => None,
        Some(held) => {
            let kib = prefix.payload_bytes.div_ceil(1024).min(HELD_KIB as u64) as u32;
            held.acquire_many(kib).await.ok()
        }
    };
    let mut payload = Vec::with_capacity(prefix.payload_bytes.min(FIRST_RESERVE) as usize);
    let wanted = usize::try_from(prefix.payload_bytes).map_err(|_| cut_off())?;
    while payload.len() < wanted {
        match stream.read_chunk(wanted - payload.len(), true).await? {
            Some(chunk) => payload.extend_from_slice(&chunk.bytes),
            None => return Err(cut_off()),
        }
    }
    Ok((header, payload, permit))
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
