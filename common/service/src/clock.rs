//! The clock of a program, which gives the time to the crates that know no clock.

use std::time::Instant;

use graft_plan::Nanos;

/// A clock that counts nanoseconds from its start. Copies count from the same origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Clock {
            origin: Instant::now(),
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Nanos {
        self.origin.elapsed().into()
    }
}
