//! What operators see: logs ([`logs`]), metrics ([`metrics`]) and health ([`health`]).
//!
//! It reports what it is told, and decides nothing: whether a program is ready is for the program to say.

mod limited;

pub mod admin;
pub mod health;
pub mod logs;
pub mod metrics;
