//! Clients over QUIC.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use graft_model::DType;
use graft_transport::{Connection, Endpoint};
use graft_wire::{ClientReply, ClientRequest, Limits, MAX_PROBE_BYTES, Refused, Status};

use crate::bearers::Bearer;
use crate::front::{Came, Front};

/// Time for a request to come in whole: a large tensor over a slow uplink.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves clients until the endpoint is closed.
pub(crate) async fn listen(endpoint: Endpoint, front: Arc<Front>) {
    let limits = Limits {
        payload_bytes: largest_tensor(&front).max(MAX_PROBE_BYTES),
    };
    endpoint
        .listen(&[], move |connection| {
            tokio::spawn(serve(connection, Arc::clone(&front), limits));
        })
        .await;
}

/// No request's tensors that a client may send are larger: what is announced beyond is refused unread.
fn largest_tensor(front: &Front) -> u64 {
    let cuts = front.catalog.entries().iter().flat_map(|e| &e.info.cuts);
    let bytes = cuts.map(|c| c.bytes().max(c.bytes_sent(DType::F32)) as u64);
    bytes.max().unwrap_or(0)
}

async fn serve(connection: Connection, front: Arc<Front>, limits: Limits) {
    let peer = connection.peer();
    tracing::debug!(%peer, "a client connected");
    // Who asks over this connection, if that was shown.
    let shown: Arc<Mutex<Option<Arc<Bearer>>>> = Arc::default();
    let reason = connection
        .serve(limits, PATIENCE, move |caller, request, payload| {
            let (front, shown) = (Arc::clone(&front), Arc::clone(&shown));
            async move {
                let known = shown.lock().unwrap_or_else(|e| e.into_inner()).clone();
                let came = Came::new(caller.address.ip(), caller.connection, known, caller.coming_in);
                answer(&front, request, payload, came, &shown).await
            }
        })
        .await;
    tracing::debug!(%peer, reason, "a client left");
}

async fn answer(
    front: &Front,
    request: ClientRequest,
    payload: Bytes,
    came: Came,
    shown: &Mutex<Option<Arc<Bearer>>>,
) -> (ClientReply, Bytes) {
    let outcome = match request {
        ClientRequest::Describe { model } => {
            front
                .describe(&model, came.bearer.as_deref())
                .and_then(|description| {
                    let json = serde_json::to_vec(&description)
                        .map_err(|e| Refused::new(Status::Internal, e.to_string()))?;
                    Ok((ClientReply::Described, Bytes::from(json)))
                })
        }
        ClientRequest::Probe => Ok((ClientReply::Probed, Bytes::new())),
        ClientRequest::Present { token } => front.bearers.read(&token).and_then(|bearer| {
            front.bearers.may_look(Some(&bearer))?;
            *shown.lock().unwrap_or_else(|e| e.into_inner()) = Some(bearer);
            Ok((ClientReply::Welcome, Bytes::new()))
        }),
        ClientRequest::Infer(header) => front
            .infer(header, payload, came)
            .await
            .map(|(answer, bytes)| (ClientReply::Answer(answer), bytes)),
    };
    outcome.unwrap_or_else(|refused| (ClientReply::Refused(refused), Bytes::new()))
}
