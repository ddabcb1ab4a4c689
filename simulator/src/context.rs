//! What all parts of a run share.

use crate::events::Events;
use crate::report::Ledger;
use crate::requests::Requests;

/// What all parts of a run share.
pub(crate) struct Context {
    pub requests: Requests,
    pub events: Events,
    pub ledger: Ledger,
}
