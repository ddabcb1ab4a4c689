//! Graft on a phone.
//!
//! A [`Device`] runs layers here and knows what they cost. A [`Session`] is one model on a device with a
//! connection to a router: it estimates the link ([`LinkEstimate`]), chooses the partition point
//! (`graft-client-core`), runs the head, sends the rest, and falls back to running everything here when the server
//! can't be reached or would be late. [`picture`] turns photographs into tensors.
//!
//! It never batches, and never decides anything for other clients.

mod device;
mod emulation;
mod errands;
pub mod picture;
mod routers;
mod session;
mod sizes;

pub use device::{Device, DeviceError, ModelHere};
pub use emulation::Emulation;
pub use graft_client_core::{Choice, LinkEstimate};
pub use routers::{Routers, Sending, ask, connect};
pub use session::{Inference, LocalReason, Session, SessionError, SessionOptions, Times};
pub use sizes::Sizes;
