//! Graft on a phone, for other languages: `libgraft_sdk`, with a C interface (`graft.h`) and what Kotlin, Swift and Python reach
//! through UniFFI.
//!
//! A [`Client`](client::Client) opens models, a [`Model`](model::Model) takes an [`Input`](input::Input) and gives an
//! [`Answer`](model::Answer). The C interface ([`c`]) has the same things.

uniffi::setup_scaffolding!("graft");

pub mod c;
pub mod client;
pub mod error;
pub mod head;
pub mod input;
pub mod model;
mod runtime;
