//! The search for plans.
//!
//! [`plan_graft`] turns a [`Problem`] into a plan and makes it cheaper for as long as it is let; [`plan_baseline`]
//! makes the plans that it is compared with, [`lower_bound`] says what any plan costs at least, [`changes`] what a
//! plan changes about a running one. [`plan_what_fits`] plans for as much of the load as there are devices for.
//!
//! It knows workloads, profiles and devices only: nothing of routers, workers, clocks or files, nor when a plan is
//! wanted.

#![deny(clippy::disallowed_methods)]

mod alone;
mod baseline;
mod bound;
mod carried;
mod cell;
mod changes;
mod costs;
mod demand;
mod dice;
mod draft;
mod exact;
mod explain;
mod fill;
mod graft;
mod index;
mod judge;
mod mend;
mod merge;
mod problem;
mod roofline;
mod running;
mod search;
mod space;
#[cfg(test)]
mod tests;

pub use alone::cost_alone;
pub use baseline::{Baseline, plan_baseline};
pub use bound::lower_bound;
pub use carried::{Carried, plan_what_fits};
pub use changes::{ChangeCounts, Changes, changes};
pub use exact::{EXACT_MOST, TooMany, plan_exact};
pub use explain::{CellExplanation, GroupExplanation, explain};
pub use graft::{GraftOptions, Progress, Test, plan_graft};
pub use problem::{Lacks, Problem};
pub use roofline::{GPUS, Gpu};
