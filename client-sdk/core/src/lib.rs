//! The phone's decisions.
//!
//! [`choose`] takes the partition point, [`LinkEstimate`] is what is known of the way to the router, [`Handover`] says
//! what the server has of the time that is left, and how long to wait for it.
//!
//! Plain values: nothing is measured, run or sent from here, so that simulator and load generators decide as phones do.

mod choose;
mod handover;
mod link;

pub use choose::{Choice, Costs, Hints, choose};
pub use handover::{DESCRIBE_EVERY, Handover};
pub use link::LinkEstimate;
