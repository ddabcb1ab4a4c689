//! Which partition point to take.

use graft_model::CutPoint;

use crate::link::LinkEstimate;

/// What each partition point costs, in milliseconds and bytes; all lists have one entry for each cut point.
#[derive(Debug, Clone)]
pub struct Costs<'a> {
    /// Running the head here, up to the cut point.
    pub head_ms: &'a [f64],
    /// Bytes to send.
    pub bytes: &'a [u64],
    /// Bytes of the answer.
    pub answer_bytes: u64,
    /// What the server needs from the cut point on. Empty: it did not say.
    pub server_ms: &'a [f64],
    /// The link.
    pub link: LinkEstimate,
}

/// A partition point and what it is expected to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Where to hand over; the last cut point: not at all.
    pub point: CutPoint,
    /// From the input to the answer, in milliseconds.
    pub total_ms: f64,
    /// What is left for the server of the time that was asked for, in milliseconds; not above zero: too little.
    pub budget_ms: f64,
    /// It is expected to be in time.
    pub in_time: bool,
}

/// A choice is kept unless another is better by this part.
const HYSTERESIS: f64 = 0.1;
/// The server's time is taken to be so much longer than its layers alone: others are served too.
const SERVER_MARGIN: f64 = 1.3;

/// The partition point with the least expected latency; the one in use is kept while it is nearly as good.
///
/// `in_use`: the present one. `None` in, or a list that is too short: whatever is best.
pub fn choose(costs: &Costs<'_>, slo_ms: f64, in_use: Option<CutPoint>) -> Option<Choice> {
    let last = costs.head_ms.len().checked_sub(1)?;
    let at = |k: usize| -> Option<Choice> {
        let head = *costs.head_ms.get(k)?;
        let (network, server) = if k == last {
            (0.0, 0.0)
        } else {
            let sent = costs.link.transfer_ms(*costs.bytes.get(k)?, costs.answer_bytes);
            (sent, *costs.server_ms.get(k)? * SERVER_MARGIN)
        };
        let total_ms = head + network + server;
        Some(Choice {
            point: CutPoint(u16::try_from(k).ok()?),
            total_ms,
            budget_ms: slo_ms - head - network,
            in_time: total_ms <= slo_ms,
        })
    };
    let best = (0..=last)
        .filter_map(at)
        .min_by(|a, b| a.total_ms.total_cmp(&b.total_ms))?;
    let present = in_use.and_then(|p| at(p.index()));
    match present {
        Some(present)
            if present.total_ms <= best.total_ms * (1.0 + HYSTERESIS) && present.in_time >= best.in_time =>
        {
            Some(present)
        }
        _ => Some(best),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: [f64; 4] = [0.0, 40.0, 60.0, 200.0];
    const BYTES: [u64; 4] = [600_000, 100_000, 50_000, 4_000];
    const SERVER: [f64; 4] = [20.0, 15.0, 10.0, 0.0];

    fn costs(mbps: f64) -> Costs<'static> {
        Costs {
            head_ms: &HEAD,
            bytes: &BYTES,
            answer_bytes: 4_000,
            server_ms: &SERVER,
            link: LinkEstimate::new(mbps, mbps, 10.0),
        }
    }

    #[test]
    fn a_fast_link_sends_early_and_a_slow_one_late() {
        assert_eq!(choose(&costs(1000.0), 500.0, None).unwrap().point, CutPoint(0));
        assert_eq!(choose(&costs(20.0), 500.0, None).unwrap().point, CutPoint(2));
        assert_eq!(choose(&costs(0.5), 500.0, None).unwrap().point, CutPoint(3));
    }

    #[test]
    fn a_choice_that_is_nearly_as_good_is_kept() {
        let best = choose(&costs(100.0), 500.0, None).unwrap();
        let near = choose(&costs(95.0), 500.0, Some(best.point)).unwrap();
        assert_eq!(near.point, best.point);
    }

    #[test]
    fn the_budget_is_what_head_and_network_leave() {
        let choice = choose(&costs(20.0), 200.0, None).unwrap();
        let network = (50_000.0 + 4_000.0) * 8.0 / 20e3 + 10.0;
        assert!((choice.budget_ms - (200.0 - 60.0 - network)).abs() < 1e-6);
    }

    #[test]
    fn without_word_from_the_server_everything_runs_here() {
        let mut alone = costs(1000.0);
        alone.server_ms = &[];
        assert_eq!(choose(&alone, 500.0, None).unwrap().point, CutPoint(3));
    }

    proptest! {
        #[test]
        fn nothing_is_faster_than_the_fresh_choice(mbps in 0.01f64..1e4) {
            let costs = costs(mbps);
            let best = choose(&costs, 300.0, None).unwrap();
            for point in 0..4u16 {
                let other = choose(&costs, 300.0, Some(CutPoint(point))).unwrap();
                prop_assert!(best.total_ms <= other.total_ms + 1e-9);
            }
        }
    }
}
