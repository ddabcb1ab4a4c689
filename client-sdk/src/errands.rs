//! What a session does beside inferences: it connects, probes the link, and asks what the server needs, when its pilot says.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_client_core::{Errand, LinkEstimate};
use graft_transport::{CallError, Connection};
use graft_wire::{ClientReply, ClientRequest, Description, MAX_PROBE_BYTES, Refused};

use crate::routers::{Sending, ask};
use crate::session::Session;

// Routers take every probe.
const _: () = assert!(LinkEstimate::PROBE_BYTES as u64 <= MAX_PROBE_BYTES);

/// Why it is not known what the router serves.
#[derive(Debug, thiserror::Error)]
enum NotDescribed {
    /// There was no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The router says no.
    #[error("{0}")]
    Refused(Refused),
    /// Another answer came.
    #[error("unexpected reply {0:?}")]
    Unexpected(ClientReply),
    /// The description can't be read.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Session {
    /// Runs the errands that are due, on a task beside.
    pub(crate) fn run_errands(&self) {
        if let Some(first) = self.errand() {
            let session = self.clone();
            tokio::spawn(async move {
                let mut next = Some(first);
                while let Some(errand) = next {
                    session.run_errand(errand).await;
                    session.inner.learnt.notify_waiters();
                    next = session.errand();
                }
            });
        }
    }

    fn errand(&self) -> Option<Errand> {
        let now = self.now();
        let routers = &self.inner.routers;
        routers.follow_goodbye();
        let mut state = self.state();
        let changes = routers.changes();
        if std::mem::replace(&mut state.changes, changes) != changes {
            state.pilot.network_changed(now);
        }
        if state.pilot.is_connected() && routers.current().is_none() {
            state.pilot.disconnected(now);
        }
        state.pilot.errand(now)
    }

    /// Runs errands until the router can be asked, or for so long. Whether it can.
    pub(crate) async fn reach(&self, patience: Duration) -> bool {
        let start = Instant::now();
        loop {
            let learnt = self.inner.learnt.notified();
            self.run_errands();
            let left = patience.saturating_sub(start.elapsed());
            {
                let state = self.state();
                if state.pilot.is_reached() || !state.pilot.is_on_errand() {
                    return state.pilot.is_reached();
                }
            }
            if tokio::time::timeout(left, learnt).await.is_err() {
                return self.state().pilot.is_reached();
            }
        }
    }

    async fn run_errand(&self, errand: Errand) {
        let connection = self.inner.routers.current();
        match (errand, connection) {
            (Errand::Connect, _) => {
                let made = self.inner.routers.connect().await;
                let done = made.is_ok();
                let why = made.err().map(|error| {
                    tracing::debug!(%error, "no router");
                    error.to_string()
                });
                let (now, mut state) = (self.now(), self.state());
                state.unreachable = why;
                state.pilot.connected(now, done);
            }
            (Errand::Probe, Some(connection)) => {
                let took = self.probe(&connection).await;
                if let Err(error) = &took {
                    tracing::debug!(%error, "the link could not be probed");
                }
                let now = self.now();
                self.state().pilot.probed(now, took.ok());
            }
            (Errand::Describe, Some(connection)) => {
                let told = self.describe(&connection).await;
                if let Err(why) = &told {
                    tracing::debug!(%why, "the router did not say what it serves");
                }
                let told = told.ok().map(|d| (d.server_ms, d.price));
                let now = self.now();
                self.state().pilot.described(now, told);
            }
            (Errand::Probe, None) => {
                let now = self.now();
                self.state().pilot.probed(now, None);
            }
            (Errand::Describe, None) => {
                let now = self.now();
                self.state().pilot.described(now, None);
            }
        }
    }

    /// What the empty and the full message of a probe took there and back, in milliseconds.
    async fn probe(&self, connection: &Connection) -> Result<(f64, f64), CallError> {
        let probe = ClientRequest::Probe;
        let patience = Errand::Probe.patience().duration();
        let (_, _, empty) = self
            .exchange_once(connection, &probe, Bytes::new(), patience)
            .await?;
        let zeros = Bytes::from(vec![0; LinkEstimate::PROBE_BYTES]);
        let (_, _, full) = self.exchange_once(connection, &probe, zeros, patience).await?;
        Ok((empty, full))
    }

    async fn describe(&self, connection: &Connection) -> Result<Description, NotDescribed> {
        let model = self.info().id;
        let request = ClientRequest::Describe { model };
        let patience = Errand::Describe.patience().duration();
        match self
            .exchange_once(connection, &request, Bytes::new(), patience)
            .await
        {
            Ok((ClientReply::Described, json, _)) => Ok(serde_json::from_slice(&json)?),
            Ok((ClientReply::Refused(refused), ..)) => Err(NotDescribed::Refused(refused)),
            Ok((other, ..)) => Err(NotDescribed::Unexpected(other)),
            Err(error) => Err(error.into()),
        }
    }

    /// One message there and back over a connection, the emulated link's time included; the reply and the milliseconds.
    async fn exchange_once(
        &self,
        connection: &Connection,
        request: &ClientRequest,
        payload: Bytes,
        patience: Duration,
    ) -> Result<(ClientReply, Vec<u8>, f64), CallError> {
        let sending = Sending {
            connection: connection.clone(),
            request: request.clone(),
            patience,
        };
        self.exchange(sending, payload, || std::future::ready(None)).await
    }

    /// The same; where the router is lost or silent, over another connection, too, if `again` gives one.
    pub(crate) async fn exchange<F: Future<Output = Option<Sending>>>(
        &self,
        mut sending: Sending,
        payload: Bytes,
        again: impl FnOnce() -> F,
    ) -> Result<(ClientReply, Vec<u8>, f64), CallError> {
        let start = Instant::now();
        let emulation = self.emulation();
        if let Some(emulation) = emulation {
            tokio::time::sleep(emulation.before_send(payload.len() as u64)).await;
        }
        sending.patience = sending.patience.saturating_sub(start.elapsed());
        let several = self.inner.routers.are_several();
        let (reply, bytes) = ask(sending, payload, several, again).await?;
        if let Some(emulation) = emulation {
            tokio::time::sleep(emulation.after_receive(bytes.len() as u64)).await;
        }
        Ok((reply, bytes, start.elapsed().as_secs_f64() * 1e3))
    }
}
