//! How a worker is reached.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use graft_transport::{CallError, Endpoint, Link, Protocol, Role};
use graft_wire::{AnswerHeader, Limits, Refused, RunHeader, Visit, WorkReply, WorkRequest};

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

    /// It can be reached now.
    fn is_connected(&self) -> bool;
}

/// A worker on another host, or in another process.
pub(crate) struct Remote {
    link: Link,
}

impl Remote {
    pub fn open(endpoint: Endpoint, address: SocketAddr) -> Self {
        Remote {
            link: Link::open(endpoint, address, Role::Worker, Protocol::Work, |_| {}),
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
                Err(CallError::TimedOut(_)) => Err(BackendFailure::TimedOut),
                Err(error) => Err(BackendFailure::Lost(error.to_string())),
            }
        })
    }

    fn is_connected(&self) -> bool {
        self.link.current().is_some()
    }
}
