//! The reference simulation: what a plan would attain.
//!
//! [`certify`] runs a plan three times with different seeds and says whether it keeps the attainment that a
//! plan must have; [`simulate`] runs it once. Both drive `graft-worker-core`'s scheduler, the code that the
//! workers run, in virtual time. The same plan, workload, profile and seed give the same outcome.
//!
//! It knows no clock, file or thread (a [`Crew`] brings threads, and changes nothing but the time it takes), and
//! changes no plan.

#![deny(clippy::disallowed_methods)]

mod arrivals;
mod certificate;
mod crew;
mod part;
mod setup;
mod simulation;
mod tally;
#[cfg(test)]
mod tests;

pub use arrivals::Generator;
pub use certificate::{Certificate, SEEDS, certify, certify_each};
pub use crew::{Alone, Crew, gathered};
pub use part::{Journey, Part, PartOutcome};
pub use setup::SetupError;
pub use simulation::{Outcome, simulate};
pub use tally::Tally;
