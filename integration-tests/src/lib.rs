//! A site of real processes for tests: certificates, configuration files, programs that can be killed.
//!
//! It drives programs from outside, as an operator does; it links none of Graft's crates.

pub mod http;
mod one_host;
mod program;
mod site;

pub use one_host::{Network, OneHost};
pub use program::{Program, graft, programs};
pub use site::{
    Site, alone, emulated_profile, free_tcp_port, free_udp_port, models, phones, until, worker_part,
};
