//! The edge's clock: what cores are told the time is.

use std::time::Instant;

use graft_plan::Nanos;

/// Nanoseconds since the program's start. Copies count from the same origin.
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

    /// The time.
    pub fn now(&self) -> Nanos {
        self.origin.elapsed().into()
    }
}
