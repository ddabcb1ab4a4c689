//! Handing over: what the server has, and how long to wait for it.

use std::time::Duration;

/// The server is asked anew what it needs after so long.
pub const DESCRIBE_EVERY: Duration = Duration::from_secs(5);

/// An answer that takes so many times what the server said is given up for running the rest here.
const SLOW_SERVER: f64 = 3.0;
/// Kept back from the server's budget for what estimates miss, in milliseconds and as a part of the budget.
const RESERVE: (f64, f64) = (2.0, 0.05);

/// A tensor that is ready to be sent. All times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Handover {
    /// What is left of the time that was asked for.
    pub left_ms: f64,
    /// What sending the tensor and receiving the answer is expected to take.
    pub network_ms: f64,
    /// What the server said it needs.
    pub server_ms: f64,
    /// Running the rest here instead.
    pub rest_here_ms: f64,
}

impl Handover {
    /// What the server has; not above zero: too little to hand over.
    pub fn budget_ms(&self) -> f64 {
        let budget = self.left_ms - self.network_ms;
        budget - RESERVE.0 - RESERVE.1 * budget.max(0.0)
    }

    /// How long to wait for an answer: until the rest can just be run here in time, but no less than an answer is
    /// expected to take, and never longer than there is time. Where the rest can't be run here in time anyway, all of it.
    pub fn patience_ms(&self) -> f64 {
        let left = self.left_ms.max(0.0);
        let spare = left - self.rest_here_ms;
        if spare <= 0.0 {
            return left.max(1.0);
        }
        let expected = (left - self.budget_ms()).max(0.0) + self.server_ms * SLOW_SERVER;
        spare.max(expected).min(left).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Handover = Handover {
        left_ms: 100.0,
        network_ms: 30.0,
        server_ms: 5.0,
        rest_here_ms: 60.0,
    };

    #[test]
    fn the_server_gets_what_the_network_leaves_less_a_reserve() {
        assert!((HANDOVER.budget_ms() - (70.0 - 2.0 - 3.5)).abs() < 1e-9);
        let late = Handover {
            left_ms: 10.0,
            ..HANDOVER
        };
        assert!(late.budget_ms() < 0.0);
    }

    #[test]
    fn an_answer_is_waited_for_until_the_rest_can_just_be_run_here() {
        let quick = Handover {
            rest_here_ms: 20.0,
            ..HANDOVER
        };
        assert!((quick.patience_ms() - 80.0).abs() < 1e-9);
        // No less than an answer may take.
        assert!((HANDOVER.patience_ms() - (35.5 + 15.0)).abs() < 1e-9);
        let slow = Handover {
            rest_here_ms: 120.0,
            ..HANDOVER
        };
        assert!((slow.patience_ms() - 100.0).abs() < 1e-9);
        let hopeless = Handover {
            left_ms: -5.0,
            ..HANDOVER
        };
        assert!((hopeless.patience_ms() - 1.0).abs() < 1e-9);
    }
}
