//! What all parts of a run share.

use crate::events::Events;
use crate::report::{Ledger, Report};
use crate::requests::Requests;

/// What all parts of a run share.
pub(crate) struct Context {
    pub requests: Requests,
    pub events: Events,
    pub ledger: Ledger,
}

impl Context {
    /// Of a run that has not begun.
    pub fn new(report: Report) -> Self {
        Context {
            requests: Requests::default(),
            events: Events::default(),
            ledger: Ledger::new(report),
        }
    }
}
