//! The reference simulation: what a plan would attain.
//!
//! [`certify`] runs a plan three times with different seeds and says whether it keeps the attainment that a
//! plan must have; [`simulate`] runs it once. Both drive `graft-worker-core`'s scheduler, the code that the
//! workers run, in virtual time. The same plan, workload, profile and seed give the same outcome.
//!
//! It knows no clock, file or thread, and changes no plan.

mod arrivals;
mod certificate;
mod setup;
mod simulation;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, SEEDS, certify};
pub use setup::SetupError;
pub use simulation::{Outcome, Tally, simulate};
