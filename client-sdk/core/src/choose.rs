//! Which partition point to take.

use graft_model::CutPoint;

use crate::link::LinkEstimate;

/// What a server says of each cut point; a list is empty where it did not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints<'a> {
    /// Milliseconds that it needs from there on.
    pub server_ms: &'a [f64],
    /// What a request costs it from there on: milliseconds of one unit of share.
    pub price: &'a [f64],
}

/// What counts where there is time to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The answer as soon as can be.
    Speed,
    /// What is cheaper for the server, where the phone and its next inference don't feel it.
    #[default]
    Server,
    /// What is expected to take less of the battery.
    Battery,
    /// Fewer bytes on the way.
    Bytes,
}

/// What each partition point costs, in milliseconds and bytes; all lists have one entry for each cut point.
#[derive(Debug, Clone)]
pub struct Costs<'a> {
    /// Whether it may be handed over there; a list that is too short: it may. The last cut point is always there.
    pub allowed: &'a [bool],
    /// Running the head here, up to the cut point.
    pub head_ms: &'a [f64],
    /// Coding what is sent here; a list that is too short: it is sent as it is.
    pub coding_ms: &'a [f64],
    /// Bytes to send.
    pub bytes: &'a [u64],
    /// Bytes of the answer.
    pub answer_bytes: u64,
    /// What the server said.
    pub hints: Hints<'a>,
    /// The link.
    pub link: LinkEstimate,
    /// From one inference to the next, in milliseconds, as far as is known.
    pub cycle_ms: f64,
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

/// Part by which another choice must be better than the one in use.
const HYSTERESIS: f64 = 0.1;
/// Multiple of what the server's layers take alone that is counted with: others are served too.
const SERVER_MARGIN: f64 = 1.3;
/// Part of the time to the next inference that the head of a cheaper point may take: the next does not wait for it.
const FREE: f64 = 0.05;
/// Part of the time asked for that a cheaper point may be expected to need.
const SLACK: f64 = 0.3;
/// Part of the other point's cost to the server that a cheaper point may cost.
const CHEAPER: f64 = 0.8;

/// Part of the time asked for that a point may be expected to need where battery or bytes are wished for.
const WISHED_SLACK: f64 = 0.7;
/// Power of one core that runs layers, in watts.
const COMPUTE_W: f64 = 2.0;
/// Power of a radio that sends, in watts, and what each megabit a second adds: LTE as measured by Huang et al., "A Close Examination of
/// Performance and Power Characteristics of 4G LTE Networks", MobiSys 2012, table 4.
const RADIO_W: (f64, f64) = (1.288, 0.438);

impl Costs<'_> {
    /// What an inference at a point takes of the battery, in millijoules, modelled: layers and sending.
    fn millijoules(&self, point: CutPoint) -> Option<f64> {
        let head = *self.head_ms.get(point.index())? * COMPUTE_W;
        if point.index() + 1 == self.head_ms.len() {
            return Some(head);
        }
        let sending = self.link.sending_ms(*self.bytes.get(point.index())?);
        Some(head + sending * (RADIO_W.0 + RADIO_W.1 * self.link.up_mbps()))
    }

    /// What a wish would have less of.
    fn wished(&self, prefer: Prefer, point: CutPoint) -> Option<f64> {
        match prefer {
            Prefer::Speed => None,
            Prefer::Server => self.hints.price.get(point.index()).copied(),
            Prefer::Battery => self.millijoules(point),
            Prefer::Bytes if point.index() + 1 == self.head_ms.len() => Some(0.0),
            Prefer::Bytes => self.bytes.get(point.index()).map(|bytes| *bytes as f64),
        }
    }
}

/// The partition point with the least expected latency; where there is time to spare, the one that is preferred. The one in
/// use is kept while it is nearly as good.
///
/// `in_use`: the present one. `None` in, or a list that is too short: whatever is best.
pub fn choose(costs: &Costs<'_>, slo_ms: f64, prefer: Prefer, in_use: Option<CutPoint>) -> Option<Choice> {
    let last = costs.head_ms.len().checked_sub(1)?;
    let at = |k: usize| -> Option<Choice> {
        if k < last && costs.allowed.get(k) == Some(&false) {
            return None;
        }
        let coding = costs.coding_ms.get(k).copied().unwrap_or(0.0);
        let head = *costs.head_ms.get(k)? + coding;
        let (network, server) = if k == last {
            (0.0, 0.0)
        } else {
            let sent = costs.link.transfer_ms(*costs.bytes.get(k)?, costs.answer_bytes);
            (sent, *costs.hints.server_ms.get(k)? * SERVER_MARGIN)
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
    let quickest = match present {
        Some(present)
            if present.total_ms <= best.total_ms * (1.0 + HYSTERESIS) && present.in_time >= best.in_time =>
        {
            present
        }
        _ => best,
    };
    let is_here = |c: &Choice| c.point.index() == last;
    let wish = |c: &Choice| costs.wished(prefer, c.point);
    // What is cheap for the server is of no interest to a phone that needs it not.
    let for_server = prefer == Prefer::Server;
    let Some(dear) = wish(&quickest).filter(|_| !(for_server && is_here(&quickest))) else {
        return Some(quickest);
    };
    // There is time to spare at all of these, even if the link or the server is slower than expected.
    let has_slack = |c: &Choice| match for_server {
        true => {
            let head = costs.head_ms.get(c.point.index());
            let is_free = head.is_some_and(|head| *head <= costs.cycle_ms * FREE);
            c.total_ms <= SLACK * slo_ms && is_free && !is_here(c)
        }
        false => c.total_ms <= WISHED_SLACK * slo_ms,
    };
    let cheaper = (0..=last)
        .filter_map(at)
        .filter(has_slack)
        .filter_map(|c| Some((wish(&c)?, c)))
        .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_ms.total_cmp(&b.1.total_ms)))
        .filter(|(least, _)| *least <= dear * CHEAPER);
    let Some((least, cheapest)) = cheaper else {
        return Some(quickest);
    };
    let stays = |p: &Choice| has_slack(p) && wish(p).is_some_and(|p| p <= least / CHEAPER);
    Some(present.filter(stays).unwrap_or(cheapest))
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
            allowed: &[],
            head_ms: &HEAD,
            coding_ms: &[],
            bytes: &BYTES,
            answer_bytes: 4_000,
            hints: Hints {
                server_ms: &SERVER,
                price: &[],
            },
            link: LinkEstimate::new(mbps, mbps, 10.0),
            cycle_ms: f64::INFINITY,
        }
    }

    #[test]
    fn a_fast_link_sends_early_and_a_slow_one_late() {
        assert_eq!(
            choose(&costs(1000.0), 500.0, Prefer::Server, None).unwrap().point,
            CutPoint(0)
        );
        assert_eq!(
            choose(&costs(20.0), 500.0, Prefer::Server, None).unwrap().point,
            CutPoint(2)
        );
        assert_eq!(
            choose(&costs(0.5), 500.0, Prefer::Server, None).unwrap().point,
            CutPoint(3)
        );
    }

    #[test]
    fn a_choice_that_is_nearly_as_good_is_kept() {
        let best = choose(&costs(100.0), 500.0, Prefer::Server, None).unwrap();
        let near = choose(&costs(95.0), 500.0, Prefer::Server, Some(best.point)).unwrap();
        assert_eq!(near.point, best.point);
    }

    #[test]
    fn the_budget_is_what_head_and_network_leave() {
        let choice = choose(&costs(20.0), 200.0, Prefer::Server, None).unwrap();
        let network = (50_000.0 + 4_000.0) * 8.0 / 20e3 + 10.0;
        assert!((choice.budget_ms - (200.0 - 60.0 - network)).abs() < 1e-6);
    }

    #[test]
    fn without_word_from_the_server_everything_runs_here() {
        let mut alone = costs(1000.0);
        alone.hints.server_ms = &[];
        assert_eq!(
            choose(&alone, 500.0, Prefer::Server, None).unwrap().point,
            CutPoint(3)
        );
    }

    const PRICE: [f64; 4] = [160.0, 30.0, 20.0, 0.0];

    fn hinted(mbps: f64) -> Costs<'static> {
        let mut costs = costs(mbps);
        costs.hints.price = &PRICE;
        costs
    }

    #[test]
    fn who_has_time_to_spare_takes_a_cheaper_point() {
        let choice = |slo: f64, present| {
            choose(&hinted(1000.0), slo, Prefer::Server, present)
                .unwrap()
                .point
        };
        assert_eq!(choice(500.0, None), CutPoint(2));
        // Not where it would be tight.
        assert_eq!(choice(60.0, None), CutPoint(0));
        assert_eq!(choice(250.0, None), CutPoint(1));
        // Nor where the next inference would have to wait.
        let mut busy = hinted(1000.0);
        busy.cycle_ms = 60.0;
        assert_eq!(
            choose(&busy, 500.0, Prefer::Server, None).unwrap().point,
            CutPoint(0)
        );
        // Nor for a little.
        assert_eq!(choice(500.0, Some(CutPoint(1))), CutPoint(2));
        assert_eq!(choice(500.0, Some(CutPoint(2))), CutPoint(2));
    }

    #[test]
    fn battery_and_bytes_are_spared_where_there_is_time() {
        let at = |prefer, slo, mbps| choose(&costs(mbps), slo, prefer, None).unwrap().point;
        // 0.6 MB at 20 megabits a second are 240 ms of a radio of 10 W; 200 ms of one core are 0.4 J.
        assert_eq!(at(Prefer::Speed, 1000.0, 1000.0), CutPoint(0));
        assert_eq!(at(Prefer::Battery, 1000.0, 20.0), CutPoint(2));
        assert_eq!(at(Prefer::Bytes, 1000.0, 1000.0), CutPoint(3));
        // 200 ms are too long for all layers: the fewest bytes that are in time.
        assert_eq!(at(Prefer::Bytes, 200.0, 1000.0), CutPoint(2));
        // What is in use stays while it is nearly as good.
        let stays = choose(&costs(20.0), 1000.0, Prefer::Battery, Some(CutPoint(2))).unwrap();
        assert_eq!(stays.point, CutPoint(2));
    }

    #[test]
    fn it_is_never_handed_over_where_it_may_not_be() {
        let mut barred = costs(1000.0);
        barred.allowed = &[false, false, true, true];
        for prefer in [Prefer::Speed, Prefer::Server, Prefer::Battery, Prefer::Bytes] {
            for present in [None, Some(CutPoint(0)), Some(CutPoint(1))] {
                let choice = choose(&barred, 300.0, prefer, present).unwrap();
                assert!(choice.point >= CutPoint(2), "{prefer:?} {present:?}");
            }
        }
        barred.allowed = &[false; 4];
        assert_eq!(
            choose(&barred, 300.0, Prefer::Speed, None).unwrap().point,
            CutPoint(3)
        );
    }

    proptest! {
        #[test]
        fn hints_never_cost_anybody_the_time_that_was_asked_for(mbps in 0.01f64..1e4, slo in 20.0f64..500.0) {
            let plain = choose(&costs(mbps), slo, Prefer::Server, None).unwrap();
            for present in [None, Some(CutPoint(0)), Some(CutPoint(1)), Some(CutPoint(2))] {
                let choice = choose(&hinted(mbps), slo, Prefer::Server, present).unwrap();
                prop_assert!(choice.in_time >= plain.in_time);
            }
        }


        #[test]
        fn nothing_is_faster_than_the_fresh_choice(mbps in 0.01f64..1e4) {
            let costs = costs(mbps);
            let best = choose(&costs, 300.0, Prefer::Server, None).unwrap();
            for point in 0..4u16 {
                let other = choose(&costs, 300.0, Prefer::Server, Some(CutPoint(point))).unwrap();
                prop_assert!(best.total_ms <= other.total_ms + 1e-9);
            }
        }
    }
}
