//! Control messages on a connection: JSON in a frame, answered with done or with the reason why not.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use graft_wire::{Control, ControlMessage, ControlReply, Limits};

use crate::connection::{CallError, Connection};

/// A control message that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// It can't be written.
    #[error("the message can't be written: {0}")]
    Write(#[from] serde_json::Error),
    /// There was no reply.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The other side did not do it, and says why.
    #[error("{0}")]
    Failed(String),
}

impl Connection {
    /// Tells the other side something, and waits until it has done it.
    pub async fn tell<M: ControlMessage>(&self, message: &M, patience: Duration) -> Result<(), TellError> {
        let json = Bytes::from(serde_json::to_vec(message)?);
        let call = self.call::<_, ControlReply>(&Control, json, Limits::default(), patience);
        match call.await? {
            (ControlReply::Done, _) => Ok(()),
            (ControlReply::Failed(why), _) => Err(TellError::Failed(why)),
        }
    }

    /// Does what the other side says until the connection is gone, and gives the reason. A message must be whole within
    /// `patience` of its first byte; what the handler could not do is told in the words of its error.
    pub async fn obey<M, F, E>(
        &self,
        patience: Duration,
        handler: impl Fn(M) -> F + Send + Sync + 'static,
    ) -> String
    where
        M: ControlMessage,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error,
    {
        let answer = move |_, Control, payload: Bytes| {
            let doing = serde_json::from_slice(&payload).map(&handler);
            async move {
                let done = match doing {
                    Ok(doing) => doing.await.map_err(|error| error.to_string()),
                    Err(error) => Err(format!("this is no message to a {}: {error}", M::TO)),
                };
                let reply = done.map_or_else(ControlReply::Failed, |()| ControlReply::Done);
                (reply, Bytes::new())
            }
        };
        self.serve(Limits::default(), patience, answer).await
    }
}
