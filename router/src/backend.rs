//! How a worker is reached.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use graft_transport::{CallError, Endpoint, Link, Protocol, Role};
use graft_wire::{AnswerHeader, Limits, Refused, RunHeader, Status, Visit, WorkReply, WorkRequest};

/// Why a worker gave no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendFailure {
    /// It refused; where the request was until then.
    Refused(Refused, Vec<Visit>),
    /// It can't be reached, or was lost on the way.
    Lost(String),
    /// It did not answer in time.
    TimedOut,
}

/// What a worker replied.
pub type BackendReply = Result<(AnswerHeader, Bytes, Vec<Visit>), BackendFailure>;

/// The way to a worker. Dropping the future takes the request back.
pub trait Backend: Send + Sync {
    /// Runs one request.
    fn run(
        &self,
        header: RunHeader,
        payload: Bytes,
        patience: Duration,
    ) -> Pin<Box<dyn Future<Output = BackendReply> + Send + '_>>;

    /// It can be reached now, and gives signs of life.
    fn is_alive(&self) -> bool;

    /// Waits until it has given no sign of life for too long while something was asked of it.
    fn silent(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Waits until it gives signs of life, or can't be reached any more.
    fn heard(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Its longest chunk of work is so long from now on.
    fn expect_chunks(&self, longest: Duration);
}

/// A worker on another host, or in another process.
pub(crate) struct Remote {
    link: Link,
}

impl Remote {
    /// The worker of this name; `changed` hears when it falls silent, and when it is heard again.
    pub fn open(
        endpoint: Endpoint,
        place: &str,
        worker: &str,
        changed: impl Fn(bool) + Send + Sync + 'static,
    ) -> Self {
        let part = (Role::Worker, worker.to_owned());
        Remote {
            link: Link::open_watched(endpoint, place, part, Protocol::Work, WorkRequest::Alive, changed),
        }
    }
}

impl Backend for Remote {
    fn run(
        &self,
        header: RunHeader,
        payload: Bytes,
        patience: Duration,
    ) -> Pin<Box<dyn Future<Output = BackendReply> + Send + '_>> {
        Box::pin(async move {
            let _asking = self.link.asks();
            let connection = self
                .link
                .current()
                .ok_or_else(|| BackendFailure::Lost("the worker is not connected".to_owned()))?;
            let request = WorkRequest::Run(header);
            match connection
                .call::<_, WorkReply>(&request, payload, Limits::default(), patience)
                .await
            {
                Ok((WorkReply::Answer(header, visits), bytes)) => Ok((header, Bytes::from(bytes), visits)),
                Ok((WorkReply::Refused(refused, visits), _)) => Err(BackendFailure::Refused(refused, visits)),
                Ok((WorkReply::Alive, _)) => {
                    let what = "the worker gave a sign of life for an answer";
                    Err(BackendFailure::Refused(
                        Refused::new(Status::Internal, what),
                        vec![],
                    ))
                }
                Err(CallError::TimedOut(_)) => Err(BackendFailure::TimedOut),
                Err(error) => Err(BackendFailure::Lost(error.to_string())),
            }
        })
    }

    fn is_alive(&self) -> bool {
        self.link.is_alive()
    }

    fn silent(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.link.silent())
    }

    fn heard(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.link.heard())
    }

    fn expect_chunks(&self, longest: Duration) {
        self.link.expect_chunks(longest);
    }
}
