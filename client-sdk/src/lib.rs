//! Graft on a phone.
//!
//! An app makes a [`Client`], opens its models, and runs them: [`Client::builder`] has an example. That is all that it needs; what follows is what it is made of.
//!
//! A [`Head`] runs layers here, an engine's ([`Device`]) or the app's, and a [`ModelHere`] knows what they cost. A [`Session`] is one model on a device with a
//! connection to a router: it estimates the link ([`LinkEstimate`]), chooses the partition point
//! (`graft-client-core`), runs the head, sends the rest, and falls back to running everything here when the server
//! can't be reached or would be late. [`picture`] turns photographs into tensors.
//!
//! It never batches, and never decides anything for other clients.

mod client;
#[cfg(feature = "engines")]
mod device;
mod device_error;
mod emulation;
mod errands;
mod head;
pub mod picture;
mod routers;
mod session;
mod sizes;

pub use client::{Client, ClientBuilder, ClientError, ModelSource};
#[cfg(feature = "engines")]
pub use device::Device;
pub use device_error::DeviceError;
pub use emulation::Emulation;
pub use graft_client_core::{Choice, LinkEstimate, Prefer};
#[cfg(feature = "engines")]
pub use graft_engine::EngineOptions;
pub use graft_model::{
    Batch, CutPoint, DType, Elements, ModelInfo, StageRange, Tensor, TensorError, TensorSpec,
};
pub use head::{Head, ModelHere, Progress, Taken};
pub use routers::{Routers, Sending, ask, connect};
pub use session::{Inference, LocalReason, Session, SessionError, SessionOptions, Times};
pub use sizes::Sizes;
