//! Handing over: what the server has, and how long to wait for it.

/// Multiple of what the server needs that it must still have for time to be kept to run the rest here after all.
const LOOSE: f64 = 10.0;
/// Time kept back from the server's budget for what estimates miss: milliseconds, and a part of the budget.
const RESERVE: (f64, f64) = (2.0, 0.05);
/// Time kept back for running the rest here, beyond what that takes: milliseconds, and a part of it.
const RESERVE_HERE: (f64, f64) = (5.0, 0.1);

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
    /// How long to wait for an answer. Where the server has time enough all the same, until the rest can still be
    /// run here in time; else as long as there is time.
    pub fn patience_ms(&self) -> f64 {
        let spare = self.left_ms - self.rest_here_ms * (1.0 + RESERVE_HERE.1) - RESERVE_HERE.0;
        let kept = spare - self.network_ms >= self.server_ms * LOOSE && spare > 0.0;
        (if kept { spare } else { self.left_ms }).max(1.0)
    }

    /// What the server has: as long as it is waited for, less the way there and back. Not above zero: too little to
    /// hand over.
    pub fn budget_ms(&self) -> f64 {
        let budget = self.patience_ms().min(self.left_ms) - self.network_ms;
        budget - RESERVE.0 - RESERVE.1 * budget.max(0.0)
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
        assert!((HANDOVER.patience_ms() - 100.0).abs() < 1e-9);
        assert!((HANDOVER.budget_ms() - (70.0 - 2.0 - 3.5)).abs() < 1e-9);
        let late = Handover {
            left_ms: 10.0,
            ..HANDOVER
        };
        assert!(late.budget_ms() < 0.0);
        let hopeless = Handover {
            left_ms: -5.0,
            ..HANDOVER
        };
        assert!((hopeless.patience_ms() - 1.0).abs() < 1e-9 && hopeless.budget_ms() < 0.0);
    }

    #[test]
    fn a_quick_phone_keeps_time_to_run_the_rest_itself_and_the_server_is_told() {
        let quick = Handover {
            rest_here_ms: 15.0,
            server_ms: 4.0,
            ..HANDOVER
        };
        let spare = 100.0 - 15.0 * 1.1 - 5.0;
        assert!((quick.patience_ms() - spare).abs() < 1e-9);
        assert!((quick.budget_ms() - ((spare - 30.0) * 0.95 - 2.0)).abs() < 1e-9);
    }
}
