//! A slower phone on a slower link than this machine is, for demonstrations and load generators.

use std::time::Duration;

/// How much slower than the truth. Real layers run and real bytes are sent; time is stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Emulation {
    /// Layers take so many times what they take on this machine alone.
    pub slowdown: f64,
    /// Uplink, in megabits a second.
    pub up_mbps: f64,
    /// Downlink, in megabits a second.
    pub down_mbps: f64,
    /// Round trip, in milliseconds.
    pub rtt_ms: f64,
}

impl Emulation {
    pub(crate) fn before_send(&self, bytes: u64) -> Duration {
        delay(bytes, self.up_mbps, self.rtt_ms)
    }

    pub(crate) fn after_receive(&self, bytes: u64) -> Duration {
        delay(bytes, self.down_mbps, self.rtt_ms)
    }
}

fn delay(bytes: u64, mbps: f64, rtt_ms: f64) -> Duration {
    let ms = bytes as f64 * 8.0 / (mbps.max(1e-3) * 1e3) + rtt_ms.max(0.0) / 2.0;
    Duration::from_secs_f64(ms / 1e3)
}
