//! What must be served, on what, at which cost, and how: workloads, devices, profiles, plans and scenarios.
//!
//! The types mirror the JSON files that `docs/formats.md` describes. [`Plan::check`] tells which rules a
//! plan breaks, independently of the code that makes plans; [`Profile::chunks`] says what a run costs.
//!
//! This crate decides nothing: it never looks for a plan, and knows no clock, file, socket or engine.

#![deny(clippy::disallowed_methods)]

mod check;
mod cost;
mod devices;
mod file;
mod fleet;
mod plan;
mod profile;
mod profiles;
mod scenario;
#[cfg(test)]
mod tests;
mod units;
mod workload;

pub use check::{Broken, Rule};
pub use cost::{Chunk, CostError};
pub use devices::{Device, Devices, PRICES};
pub use file::{FormatError, FormatFile};
pub use fleet::{Fleet, Hardware};
pub use plan::{Order, Partition, Plan, Route, Stage};
pub use profile::{ModelProfile, Profile, SegmentProfile, Source};
pub use profiles::{Profiles, ProfilesError};
pub use scenario::{
    Arrivals, ControlTimes, DeviceSource, Fault, FragmentClient, Link, OneOrMore, PhoneGroup, Range,
    Scenario, Slo, Speed, TraceError,
};
pub use units::{Epoch, Nanos, Share, ms_to_nanos, nanos_to_ms};
pub use workload::{BURST_WINDOW, Fragment, MOST_BURSTY, Workload};
