//! What is known of the way to the router.

/// Bandwidths and round trip, as estimated from transfers. Exponentially weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkEstimate {
    up_mbps: f64,
    down_mbps: f64,
    rtt_ms: f64,
}

/// Weight of a new sample.
const WEIGHT: f64 = 0.4;
/// Smallest transfer that says something of the bandwidth, in bytes: smaller ones say more of the round trip.
const LEAST_BYTES: u64 = 4 * 1024;
/// Part of the round trip that a transfer must take for its bandwidth to be told.
const LEAST_PART: f64 = 0.1;
/// Slowest and fastest link that is believed, in megabits a second (1 kbit/s to 10 Gbit/s).
const RANGE_MBPS: (f64, f64) = (1e-3, 1e4);

impl LinkEstimate {
    /// Bytes of a probe.
    pub const PROBE_BYTES: usize = 64 * 1024;

    /// A first guess, before the first probe: a middling mobile network.
    pub fn first_guess() -> Self {
        Self::new(20.0, 40.0, 40.0)
    }

    /// From a probe: what an empty message and one of [`PROBE_BYTES`](Self::PROBE_BYTES) took there and back.
    pub fn of_probe(empty_ms: f64, full_ms: f64) -> Self {
        let there = (full_ms - empty_ms).max(0.05);
        let mbps = Self::PROBE_BYTES as f64 * 8.0 / (there * 1e3);
        Self::new(mbps, mbps, empty_ms)
    }

    /// From figures; what is out of range is brought into it.
    pub fn new(up_mbps: f64, down_mbps: f64, rtt_ms: f64) -> Self {
        LinkEstimate {
            up_mbps: up_mbps.clamp(RANGE_MBPS.0, RANGE_MBPS.1),
            down_mbps: down_mbps.clamp(RANGE_MBPS.0, RANGE_MBPS.1),
            rtt_ms: rtt_ms.max(0.0),
        }
    }

    /// Uplink, in megabits a second.
    pub fn up_mbps(&self) -> f64 {
        self.up_mbps
    }

    /// Round trip of an empty message, in milliseconds.
    pub fn rtt_ms(&self) -> f64 {
        self.rtt_ms
    }

    /// Milliseconds to send a request and receive its answer.
    pub fn transfer_ms(&self, up: u64, down: u64) -> f64 {
        self.rtt_ms + up as f64 * 8.0 / (self.up_mbps * 1e3) + down as f64 * 8.0 / (self.down_mbps * 1e3)
    }

    /// Milliseconds for which so many bytes are sent.
    pub fn sending_ms(&self, up: u64) -> f64 {
        up as f64 * 8.0 / (self.up_mbps * 1e3)
    }

    /// An empty message went there and back.
    pub fn round_trip(&mut self, ms: f64) {
        if ms.is_finite() && ms >= 0.0 {
            self.rtt_ms += WEIGHT * (ms - self.rtt_ms);
        }
    }

    /// A request of `up` bytes and an answer of `down` took `ms` on the way, the server's time not counted.
    pub fn transferred(&mut self, up: u64, down: u64, ms: f64) {
        if up < LEAST_BYTES || !ms.is_finite() {
            return;
        }
        let back = down as f64 * 8.0 / (self.down_mbps * 1e3);
        let there = ms - self.rtt_ms - back;
        // What is little beside the round trip says that the link is at least so fast, no more.
        let least = (self.rtt_ms * LEAST_PART).max(0.05);
        let mbps = |there: f64| (up as f64 * 8.0 / (there * 1e3)).clamp(RANGE_MBPS.0, RANGE_MBPS.1);
        let sample = match there < least {
            true => mbps(least).max(self.up_mbps),
            false => mbps(there),
        };
        // In the logarithm, so that a stall counts as much as a burst.
        self.up_mbps *= (sample / self.up_mbps).powf(WEIGHT);
        self.down_mbps *= (sample / self.down_mbps).powf(WEIGHT / 2.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_comes_near_the_truth() {
        let truth = LinkEstimate::new(25.0, 25.0, 20.0);
        let mut guess = LinkEstimate::new(200.0, 200.0, 20.0);
        for _ in 0..40 {
            guess.transferred(300_000, 4_000, truth.transfer_ms(300_000, 4_000));
        }
        assert!((guess.up_mbps() / 25.0 - 1.0).abs() < 0.1, "{guess:?}");
    }

    #[test]
    fn nonsense_does_not_poison_it() {
        let mut link = LinkEstimate::new(f64::INFINITY, 0.0, -1.0);
        link.transferred(1 << 20, 0, f64::NAN);
        link.transferred(1 << 20, 0, -5.0);
        link.round_trip(f64::NAN);
        assert!(link.transfer_ms(1, 1).is_finite());
    }
}
