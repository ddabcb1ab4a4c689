//! The router's decisions.
//!
//! [`RouteTable`] finds the route for a request and admits it; [`MixWindow`] turns what comes in into the
//! rates that the planner plans for; [`Lives`] remembers the latest requests, to explain them.
//!
//! Plain data and functions: time comes in as a value, nothing is sent from here.

#![deny(clippy::disallowed_methods)]

mod fair;
mod gate;
mod lives;
mod mix;
#[cfg(test)]
mod pair;
mod passage;
mod rates;
mod routes;

pub use fair::Source;
pub use lives::{Attempt, Life, Lives};
pub use mix::{Arrived, BudgetClass, ClassKey, MixWindow, REPORT_EVERY, URGENT_EVERY};
pub use passage::{Asked, Attempted, Entrance, Go, MOST_IN_FLIGHT, Outside, Passage, Sending};
pub use rates::Rates;
pub use routes::{InFlight, RouteTable};
