//! The router: ends client connections, checks and admits, routes by plan, answers.
//!
//! [`Router::start`] listens for clients over QUIC and HTTP and joins the planner. Requests go to workers
//! through a [`Backend`]: over QUIC, or in memory where a worker shares the process.
//!
//! It batches nothing and plans nothing: it reports what it observes and routes as it is told.

mod backend;
mod bearers;
mod check;
mod clients;
mod config;
mod counts;
mod front;
mod http;
mod membership;
mod router;

pub use backend::{Backend, BackendFailure, BackendReply};
pub use config::{Clients, Config, Settings};
pub use router::Router;

/// Reads the JSON of a call over HTTP, as a router does before it looks at what the call is for. For fuzzing.
#[doc(hidden)]
pub fn read_call(json: &[u8]) -> bool {
    http::is_call(json)
}
