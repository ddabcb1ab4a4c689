//! The planner's desk.
//!
//! [`Desk`] knows the members, the observed mix and the plan in use; it says when another plan is to be made and rolls it
//! out: prepare on workers, switch routers, retire what is old. It is told what happens ([`Event`]) and says what to do
//! ([`Do`]); the planner's actor and the simulator carry that out.
//!
//! Plain state machines: time comes in as a value. Nothing is sent, stored, planned or simulated from here; what makes
//! plans is `graft-planner-search`, which knows nothing of this.

#![deny(clippy::disallowed_methods)]

mod correction;
mod decisions;
mod desk;
mod doing;
mod members;
mod mix;
mod predict;
mod recent;
mod replan;
mod rollout;
#[cfg(test)]
mod rollout_model;
mod routes;
mod wanted;

pub use decisions::{Decision, MOST_DECISIONS, Measured, Outcome, Predicted};
pub use desk::{Desk, DeskOptions, InUse, Memory, Standing};
pub use doing::{Do, Event, Kept, Made, Member, NotReady, Note, PREPARE_WITHIN, SWITCH_WITHIN, Undone};
pub use members::{Unheard, WorkerMember};
pub use predict::predict;
pub use recent::Recent;
pub use replan::{Cause, Subject};
pub use routes::routes;
pub use wanted::Wanted;
