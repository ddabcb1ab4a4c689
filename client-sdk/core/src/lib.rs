//! The phone's decisions.
//!
//! [`Pilot`] decides for one model on one phone: when to connect, probe and ask, where to hand over and how long to wait,
//! when all layers run here. Behind it [`choose`] takes the partition point, [`LinkEstimate`] is what is known of the way to
//! the router, [`Handover`] says what the server has of the time that is left.
//!
//! Plain state machines: nothing is measured, run or sent from here, so that simulator and load generators decide as phones
//! do.

#![deny(clippy::disallowed_methods)]

mod choose;
mod handover;
mod link;
mod pilot;

pub use choose::{Choice, Costs, Hints, Prefer, choose};
pub use handover::Handover;
pub use link::LinkEstimate;
pub use pilot::{DESCRIBE_EVERY, Errand, Handing, Layers, Local, Pilot, PilotOptions, Start};
