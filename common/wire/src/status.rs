//! Why a request was not answered: one table for QUIC, HTTP and metrics.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Why a request was not answered.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No plan serves this yet, or the program is starting or draining. Try again later.
    NotReady,
    /// More comes in than the plan can carry. Try again later.
    Overloaded,
    /// The request can't be answered within its deadline any more.
    Late,
    /// There is no such model here.
    UnknownModel,
    /// The request contradicts itself or the model.
    BadRequest,
    /// The worker that had it is gone.
    WorkerLost,
    /// Something failed that should not.
    Internal,
    /// Who asks does not show who it is, and must.
    Unauthenticated,
    /// Who asks may not ask for this.
    Forbidden,
    /// Who asked waited no longer.
    Cancelled,
}

impl Status {
    /// All statuses, for metrics and documentation.
    pub const ALL: [Status; 10] = [
        Status::NotReady,
        Status::Overloaded,
        Status::Late,
        Status::UnknownModel,
        Status::BadRequest,
        Status::WorkerLost,
        Status::Internal,
        Status::Unauthenticated,
        Status::Forbidden,
        Status::Cancelled,
    ];

    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::NotReady => "not_ready",
            Status::Overloaded => "overloaded",
            Status::Late => "late",
            Status::UnknownModel => "unknown_model",
            Status::BadRequest => "bad_request",
            Status::WorkerLost => "worker_lost",
            Status::Internal => "internal",
            Status::Unauthenticated => "unauthenticated",
            Status::Forbidden => "forbidden",
            Status::Cancelled => "cancelled",
        }
    }

    /// Status of an HTTP response.
    pub fn http(self) -> u16 {
        match self {
            Status::BadRequest => 400,
            Status::Unauthenticated => 401,
            Status::Forbidden => 403,
            Status::UnknownModel => 404,
            Status::Overloaded => 429,
            // As nginx has it: nobody is there to read it.
            Status::Cancelled => 499,
            Status::Internal => 500,
            Status::WorkerLost => 502,
            Status::NotReady => 503,
            Status::Late => 504,
        }
    }

    /// Whether the same request may be answered if it is sent again.
    pub fn is_transient(self) -> bool {
        matches!(self, Status::NotReady | Status::Overloaded | Status::WorkerLost)
    }
}

/// A request that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {reason}", status.name())]
pub struct Refused {
    /// What kind of refusal.
    pub status: Status,
    /// Reason, for people.
    pub reason: String,
}

impl Refused {
    /// Longest reason that is sent, in bytes.
    const MAX_REASON: usize = 512;

    /// A refusal; a reason that is too long is cut.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > Self::MAX_REASON {
            let mut end = Self::MAX_REASON;
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            reason.truncate(end);
        }
        Refused { status, reason }
    }
}
