//! Handing over: what the server has, and how long to wait for it.

/// Multiple of what the server needs that it must still have for time to be kept to run the rest here after all.
const LOOSE: f64 = 10.0;
/// Time kept back from the server's budget for what estimates miss: milliseconds, and a part of the budget.
const RESERVE: (f64, f64) = (2.0, 0.05);
/// Time kept back for running the rest here, beyond what that takes: milliseconds, and a part of it.
const RESERVE_HERE: (f64, f64) = (5.0, 0.1);
/// Multiple of what an answer is expected to take, and part of the time that is left, after which it is likely late: the rest is run
/// here, too.
const LIKELY_LATE: (f64, f64) = (1.5, 0.5);

/// Multiple of what the rest takes here, and milliseconds, after which it must have been run.
const PATIENT: f64 = 3.0;
const PATIENT_MS: f64 = 1_000.0;

/// A tensor that is ready to be sent. All times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Handover {
    /// What is left of the time that was asked for.
    pub left_ms: f64,
    /// What sending the tensor and receiving the answer is expected to take.
    pub network_ms: f64,
    /// What an empty message takes there and back.
    pub rtt_ms: f64,
    /// What the server said it needs.
    pub server_ms: f64,
    /// Running the rest here instead; without end where it can't be run.
    pub rest_here_ms: f64,
    /// Whether the rest may be run here while the server is asked.
    pub both: bool,
}

impl Handover {
    /// Until when the rest can be run here in time; not above zero: it can't.
    fn spare_ms(&self) -> f64 {
        self.left_ms - self.rest_here_ms * (1.0 + RESERVE_HERE.1) - RESERVE_HERE.0
    }

    /// The same where the server has time enough until then all the same.
    fn kept_ms(&self) -> Option<f64> {
        let spare = self.spare_ms();
        let kept = spare - self.network_ms >= self.server_ms * LOOSE && spare > 0.0;
        kept.then_some(spare)
    }

    /// When to run the rest here, too, if there is no answer yet; whichever ends first counts. When that can still be in time, if the answer
    /// is expected before; else when the answer is likely late.
    pub fn alone_after_ms(&self) -> f64 {
        if !self.both || !self.rest_here_ms.is_finite() {
            return self.kept_ms().unwrap_or(self.left_ms).max(1.0);
        }
        let expected = self.network_ms + self.server_ms;
        match self.spare_ms() {
            spare if spare > expected => spare,
            _ => (expected * LIKELY_LATE.0)
                .max(self.left_ms * LIKELY_LATE.1)
                .min(self.left_ms)
                .max(0.0),
        }
    }

    /// What the server has: until the rest is run here, or else as long as there is time, less the way there and back. Not above zero:
    /// too little to hand over.
    pub fn budget_ms(&self) -> f64 {
        Self::budget(self.kept_ms().unwrap_or(self.left_ms), self.network_ms)
    }

    /// What the server would have if the tensors went as fast as an empty message: the link may be better than it was. `None`: the rest is
    /// run here in time, so that nothing need be tried.
    pub fn hopeful_budget_ms(&self) -> Option<f64> {
        let here = self.rest_here_ms + RESERVE_HERE.0;
        (self.both && here > self.left_ms).then(|| Self::budget(self.left_ms, self.rtt_ms))
    }

    /// How long the answer is waited for at most: until the rest must have been run here.
    pub fn patience_ms(&self, alone_after_ms: f64) -> f64 {
        match self.rest_here_ms.is_finite() {
            true => alone_after_ms + PATIENT * self.rest_here_ms + PATIENT_MS,
            false => self.left_ms.max(1.0),
        }
    }

    fn budget(left_ms: f64, network_ms: f64) -> f64 {
        let budget = left_ms - network_ms;
        budget - RESERVE.0 - RESERVE.1 * budget.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Handover = Handover {
        left_ms: 100.0,
        network_ms: 30.0,
        rtt_ms: 10.0,
        server_ms: 5.0,
        rest_here_ms: 60.0,
        both: true,
    };

    #[test]
    fn the_server_gets_what_the_network_leaves_less_a_reserve() {
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
        assert!(hopeless.alone_after_ms() == 0.0 && hopeless.budget_ms() < 0.0);
    }

    #[test]
    fn a_quick_phone_keeps_time_to_run_the_rest_itself_and_the_server_is_told() {
        let quick = Handover {
            rest_here_ms: 15.0,
            server_ms: 4.0,
            ..HANDOVER
        };
        let spare = 100.0 - 15.0 * 1.1 - 5.0;
        assert!((quick.alone_after_ms() - spare).abs() < 1e-9);
        assert!((quick.budget_ms() - ((spare - 30.0) * 0.95 - 2.0)).abs() < 1e-9);
    }

    #[test]
    fn a_phone_that_would_be_late_alone_begins_when_the_answer_is_likely_late_and_tries_both_where_hope_is_small()
     {
        let slow = Handover {
            rest_here_ms: 200.0,
            ..HANDOVER
        };
        // One and a half times what is expected, or half of the time.
        assert!((slow.alone_after_ms() - 52.5).abs() < 1e-9);
        let near = Handover {
            network_ms: 5.0,
            ..slow
        };
        assert!((near.alone_after_ms() - 50.0).abs() < 1e-9);
        // By the estimates nothing is left for the server; as fast as an empty message there would be.
        let far = Handover {
            network_ms: 150.0,
            ..slow
        };
        assert!(far.budget_ms() < 0.0);
        assert!((far.hopeful_budget_ms().unwrap() - (90.0 * 0.95 - 2.0)).abs() < 1e-9);
        assert_eq!(HANDOVER.hopeful_budget_ms(), None, "the rest is in time here");
        // Where the battery counts, one after the other.
        let sparing = Handover { both: false, ..slow };
        assert!((sparing.alone_after_ms() - 100.0).abs() < 1e-9);
        assert_eq!(sparing.hopeful_budget_ms(), None);
        // What can't be run here is waited for.
        let headless = Handover {
            rest_here_ms: f64::INFINITY,
            ..HANDOVER
        };
        assert!((headless.alone_after_ms() - 100.0).abs() < 1e-9);
        assert!((headless.patience_ms(0.0) - 100.0).abs() < 1e-9);
    }
}
