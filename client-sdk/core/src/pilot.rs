//! The pilot of one model on one phone: when to look for the router, where to hand over, how long to wait, when to fall
//! back.

use std::sync::Arc;

use graft_model::{CutPoint, SplitMix};
use graft_plan::{Nanos, ms_to_nanos, nanos_to_ms};

use crate::choose::{Choice, Costs, Hints, Prefer, choose};
use crate::handover::Handover;
use crate::link::LinkEstimate;

/// Time after which the server is asked anew what it needs.
pub const DESCRIBE_EVERY: Nanos = Nanos::from_millis(5_000);
/// Time for which what the server said is good enough for handing over at once when it is connected to again.
const TOLD_HOLDS: Nanos = Nanos::from_millis(300_000);
/// Time after an errand failed before it is tried again; for connecting it doubles, up to [`CONNECT_AT_LEAST`].
const RETRY_AFTER: Nanos = Nanos::from_millis(500);
/// Longest time between two attempts at connecting while inferences are asked for, without the jitter.
const CONNECT_AT_LEAST: Nanos = Nanos::from_millis(8_000);
/// Part of that time by which it is longer or shorter by chance, so that many phones don't come at once.
const JITTER: f64 = 0.25;
/// Time after the last transfer for which what is known of the link holds; then a probe is worth its bytes.
const STALE_AFTER: Nanos = Nanos::from_millis(10_000);
/// Time after which a phone that stays away from the server probes the link, at first; it doubles up to [`STALE_AFTER`].
const LOOK_AGAIN: Nanos = Nanos::from_millis(1_000);
/// Longest that an inference waits for what is not known of the router.
const REACH_AT_MOST: Nanos = Nanos::from_millis(3_000);
/// Part of the time to spare that an inference waits so: the rest is for layers that take longer than they should.
const REACH_PART: f64 = 0.8;
/// Longest round trip that a probe is believed, in milliseconds, unless more was asked for: the router stood still.
const LONGEST_ROUND_TRIP_MS: f64 = 1_000.0;
/// Weight of the latest time between two inferences in their mean.
const CYCLE_WEIGHT: f64 = 0.1;

/// What a model's layers are here; all lists have one entry for each cut point.
#[derive(Debug, Clone)]
pub struct Layers {
    /// Whether it may be handed over there; empty: everywhere.
    pub allowed: Arc<[bool]>,
    /// Running all layers up to the cut point, in milliseconds.
    pub head_ms: Arc<[f64]>,
    /// Running all that is left, should no answer come, in milliseconds; empty: what the head has not run.
    pub rest_ms: Arc<[f64]>,
    /// Coding what is sent, in milliseconds; empty: it is sent as it is.
    pub coding_ms: Arc<[f64]>,
    /// Bytes to send.
    pub bytes: Arc<[u64]>,
    /// Bytes of the answer.
    pub answer_bytes: u64,
}

impl Errand {
    /// Time that one message of it may take: what is longer is a failure.
    pub fn patience(self) -> Nanos {
        match self {
            Errand::Connect | Errand::Describe => Nanos::from_millis(3_000),
            // The full message of a probe, on a slow link.
            Errand::Probe => Nanos::from_millis(12_000),
        }
    }
}

impl Layers {
    /// The last cut point: nothing is left to be run.
    pub fn last(&self) -> CutPoint {
        let last = self.head_ms.len().saturating_sub(1);
        CutPoint(u16::try_from(last).unwrap_or(u16::MAX))
    }

    /// What it takes to run what is left after a cut point here, in milliseconds.
    pub fn rest(&self, point: CutPoint) -> f64 {
        let rest = self.rest_ms.get(point.index()).copied();
        rest.unwrap_or_else(|| self.ms(point, self.last()))
    }

    /// What it takes until a cut point's tensors can be sent, in milliseconds. `None`: there is no such cut point.
    pub fn head(&self, point: CutPoint) -> Option<f64> {
        let coding = self.coding_ms.get(point.index()).copied().unwrap_or(0.0);
        Some(self.head_ms.get(point.index())? + coding)
    }

    /// What layers take here, in milliseconds.
    pub fn ms(&self, from: CutPoint, to: CutPoint) -> f64 {
        let at = |point: CutPoint| self.head_ms.get(point.index()).copied().unwrap_or(0.0);
        (at(to) - at(from)).max(0.0)
    }
}

/// What is asked of a pilot.
#[derive(Debug, Clone, Copy)]
pub struct PilotOptions {
    /// From the input to the answer.
    pub slo: Nanos,
    /// What counts where there is time to spare.
    pub prefer: Prefer,
    /// Hand over there, always; `None`: choose.
    pub partition_point: Option<CutPoint>,
}

/// Something to be done beside inferences, to know of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// Connect; then [`Pilot::connected`].
    Connect,
    /// Send an empty message and one of [`LinkEstimate::PROBE_BYTES`], and time both; then [`Pilot::probed`].
    Probe,
    /// Ask what the server needs; then [`Pilot::described`].
    Describe,
}

/// Why all layers run on the phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// It is expected to be faster so.
    FasterAlone,
    /// The server did not say what it needs.
    NoPlan,
    /// There is no connection to the router.
    Unreachable,
    /// The router did not answer lately, and not yet again.
    InDoubt,
    /// Head and network leave nothing for the server.
    NoTime,
}

/// How an inference begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Run the layers up to a cut point; if that is the last, all of them, and why.
    Run(CutPoint, Option<Local>),
    /// The router may be there soon: ask again when an errand is done, or at this time.
    Wait(Nanos),
}

/// What is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handing {
    /// What the server has.
    pub budget: Nanos,
    /// When to run the rest here, too, if there is no answer yet. Whichever ends first counts.
    pub alone_after: Nanos,
    /// How long the answer is waited for at most.
    pub patience: Nanos,
}

/// Decides for one model on one phone.
///
/// Before each inference: [`begins`](Self::begins), [`start`](Self::start), and after the head [`hand_over`](Self::hand_over);
/// then how it went: [`answered`](Self::answered), [`refused`](Self::refused) or [`no_answer`](Self::no_answer). After each
/// of these, and after each errand, [`errand`](Self::errand) says whether one is due; one is under way at a time.
#[derive(Debug, Clone)]
pub struct Pilot {
    options: PilotOptions,
    link: LinkEstimate,
    server_ms: Vec<f64>,
    price: Vec<f64>,
    /// From one inference to the next, in the mean of the latest, in milliseconds; not known: without end.
    cycle_ms: f64,
    began: Option<Nanos>,
    in_use: Option<CutPoint>,
    under_way: Option<Errand>,
    is_connected: bool,
    /// The server was asked on this connection, or lately on another.
    is_asked: bool,
    /// When it said what it needs.
    told_at: Option<Nanos>,
    /// When something was last sent and answered, or probed.
    heard_at: Option<Nanos>,
    /// The router did not answer, and not yet again.
    in_doubt: bool,
    /// It stays away from the server, by choice.
    is_away: bool,
    /// Time to the next look at the link while it stays away.
    look_again: Nanos,
    connect_at: Nanos,
    /// Time until connecting is tried again, should it fail; where it failed the last time.
    connect_again: Option<Nanos>,
    probe_at: Nanos,
    describe_at: Nanos,
}

impl Pilot {
    /// A pilot that knows nothing of the router yet.
    pub fn new(options: PilotOptions) -> Self {
        Pilot {
            options,
            link: LinkEstimate::first_guess(),
            server_ms: vec![],
            price: vec![],
            cycle_ms: f64::INFINITY,
            began: None,
            in_use: None,
            under_way: None,
            is_connected: false,
            is_asked: false,
            told_at: None,
            heard_at: None,
            in_doubt: false,
            is_away: false,
            look_again: LOOK_AGAIN,
            connect_at: Nanos::ZERO,
            connect_again: None,
            probe_at: Nanos::ZERO,
            describe_at: Nanos::ZERO,
        }
    }

    /// The link as estimated now.
    pub fn link(&self) -> LinkEstimate {
        self.link
    }

    /// What the server said it needs from a cut point on, in milliseconds.
    pub fn server_ms(&self, point: CutPoint) -> f64 {
        self.server_ms.get(point.index()).copied().unwrap_or(0.0)
    }

    // The router.

    /// There is a connection, as far as it was told.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// There is a connection, and the server was asked what it needs.
    pub fn is_reached(&self) -> bool {
        self.is_connected && self.is_asked
    }

    /// An errand is under way.
    pub fn is_on_errand(&self) -> bool {
        self.under_way.is_some()
    }

    /// The errand that is due now. It is under way until its outcome is told.
    pub fn errand(&mut self, now: Nanos) -> Option<Errand> {
        if self.under_way.is_some() {
            return None;
        }
        let due = match () {
            () if !self.is_connected => (now >= self.connect_at).then_some(Errand::Connect),
            () if now >= self.probe_at => Some(Errand::Probe),
            () if now >= self.describe_at => Some(Errand::Describe),
            () => None,
        };
        self.under_way = due;
        due
    }

    /// Whether connecting succeeded.
    pub fn connected(&mut self, now: Nanos, done: bool) {
        self.under_way = None;
        self.is_connected = done;
        if done {
            let since = |at: Option<Nanos>| at.map_or(Nanos::MAX, |at| now - at);
            // Whoever knows the way and what is there hands over at once, and asks beside.
            self.is_asked = since(self.told_at) < TOLD_HOLDS;
            self.describe_at = now;
            self.probe_at = match since(self.heard_at) < TOLD_HOLDS {
                true if !self.in_doubt => self.probe_at.max(now + RETRY_AFTER),
                _ => now,
            };
            self.connect_again = None;
        } else {
            let wait = self.connect_again.unwrap_or(RETRY_AFTER);
            let part = 1.0 + JITTER * (2.0 * SplitMix(now.0).part() - 1.0);
            self.connect_at = now + Nanos((wait.0 as f64 * part) as u64);
            self.connect_again = Some((wait + wait).min(CONNECT_AT_LEAST));
        }
    }

    /// What the empty and the full message of a probe took there and back, in milliseconds. `None`: it failed.
    pub fn probed(&mut self, now: Nanos, took: Option<(f64, f64)>) {
        self.under_way = None;
        let longest = LONGEST_ROUND_TRIP_MS.max(nanos_to_ms(self.options.slo));
        match took.filter(|(empty, _)| *empty <= longest) {
            Some((empty, full)) => {
                self.link = LinkEstimate::of_probe(empty, full);
                self.in_doubt = false;
                self.heard_at = Some(now);
                self.probe_at = now
                    + if self.is_away {
                        self.look_again
                    } else {
                        STALE_AFTER
                    };
                if self.is_away {
                    self.look_again = (self.look_again + self.look_again).min(STALE_AFTER);
                }
            }
            None => self.probe_at = now + RETRY_AFTER,
        }
    }

    /// What the server needs from each cut point on, in milliseconds, and what a request costs it there. `None`: it did not
    /// say.
    pub fn described(&mut self, now: Nanos, told: Option<(Vec<f64>, Vec<f64>)>) {
        self.under_way = None;
        self.is_asked = true;
        self.describe_at = now
            + if told.is_some() {
                DESCRIBE_EVERY
            } else {
                RETRY_AFTER
            };
        if let Some((server_ms, price)) = told {
            self.told_at = Some(now);
            (self.server_ms, self.price) = (server_ms, price);
        }
    }

    /// The phone is in another network: the link is another, and nothing is known of it.
    pub fn network_changed(&mut self, now: Nanos) {
        (self.heard_at, self.probe_at) = (None, now);
        (self.connect_at, self.connect_again) = (self.connect_at.min(now), None);
        self.look_again = LOOK_AGAIN;
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now: Nanos) {
        self.is_connected = false;
        self.connect_at = now;
    }

    // Inferences.

    /// An inference begins.
    pub fn begins(&mut self, now: Nanos) {
        if let Some(before) = self.began.replace(now) {
            let since = nanos_to_ms(now - before);
            self.cycle_ms = if self.cycle_ms.is_finite() {
                self.cycle_ms + (since - self.cycle_ms) * CYCLE_WEIGHT
            } else {
                since
            };
        }
    }

    /// What to run first of an inference that began then.
    pub fn start(&mut self, now: Nanos, began: Nanos, layers: &Layers) -> Start {
        let last = layers.last();
        if !self.is_reached() {
            let alone = layers.ms(CutPoint(0), last);
            // Where the layers are not all here, there is no other way than the server.
            let alone = if alone.is_finite() {
                ms_to_nanos(alone)
            } else {
                Nanos::ZERO
            };
            let spare = (self.options.slo - alone).min(REACH_AT_MOST);
            // As long as all layers can still be run here in time.
            let until = began + Nanos((spare.0 as f64 * REACH_PART) as u64);
            // Where nobody was reached the last time, nobody waits for the next.
            if self.under_way.is_some() && self.connect_again.is_none() && now < until {
                return Start::Wait(until);
            }
            return Start::Run(last, Some(Local::Unreachable));
        }
        if let Some(point) = self.options.partition_point {
            let point = point.min(last);
            return Start::Run(point, (point == last).then_some(Local::FasterAlone));
        }
        let alone = layers.ms(CutPoint(0), last);
        let alone_is_late = ms_to_nanos(alone) > self.options.slo;
        let tries_both = alone_is_late && self.tries_both(layers);
        if self.in_doubt && alone.is_finite() && !tries_both {
            return Start::Run(last, Some(Local::InDoubt));
        }
        let point = self.choice(layers).map_or(last, |choice| choice.point);
        self.in_use = Some(point);
        let is_away = point == last && !self.server_ms.is_empty();
        if is_away && tries_both {
            self.look_again = LOOK_AGAIN;
        }
        if is_away && (!self.is_away || tries_both) {
            self.probe_at = self.probe_at.min(now + self.look_again);
        }
        self.is_away = is_away;
        let why = match () {
            () if point < last => None,
            () if self.server_ms.is_empty() => Some(Local::NoPlan),
            () => Some(Local::FasterAlone),
        };
        Start::Run(point, why)
    }

    /// The partition point that would be taken now.
    pub fn choice(&self, layers: &Layers) -> Option<Choice> {
        let slo_ms = nanos_to_ms(self.options.slo);
        if let Some(point) = self.options.partition_point {
            let head = layers.head(point)?;
            let bytes = *layers.bytes.get(point.index())?;
            let network = self.link.transfer_ms(bytes, layers.answer_bytes);
            return Some(Choice {
                point,
                total_ms: head + network + self.server_ms(point),
                budget_ms: slo_ms - head - network,
                in_time: true,
            });
        }
        let costs = Costs {
            allowed: &layers.allowed,
            head_ms: &layers.head_ms,
            coding_ms: &layers.coding_ms,
            bytes: &layers.bytes,
            answer_bytes: layers.answer_bytes,
            hints: Hints {
                server_ms: &self.server_ms,
                price: &self.price,
            },
            link: self.link,
            cycle_ms: self.cycle_ms,
        };
        choose(&costs, slo_ms, self.options.prefer, self.in_use)
    }

    /// Whether layers may run here while the server is asked: neither battery nor bytes count most, and all inferences could run here, so
    /// that no head waits for what runs in vain.
    fn tries_both(&self, layers: &Layers) -> bool {
        let alone = layers.ms(CutPoint(0), layers.last());
        !matches!(self.options.prefer, Prefer::Battery | Prefer::Bytes) && alone <= self.cycle_ms
    }

    /// The head of an inference that began then is done, and so many bytes are to be sent. Refused: nothing would be left for the server.
    pub fn hand_over(
        &self,
        now: Nanos,
        began: Nanos,
        point: CutPoint,
        bytes: u64,
        layers: &Layers,
    ) -> Result<Handing, Local> {
        let handover = Handover {
            left_ms: nanos_to_ms(began + self.options.slo - now),
            network_ms: self.link.transfer_ms(bytes, layers.answer_bytes),
            rtt_ms: self.link.rtt_ms(),
            server_ms: self.server_ms(point),
            rest_here_ms: layers.rest(point),
            both: self.tries_both(layers),
        };
        let hopeful = handover.hopeful_budget_ms().filter(|budget| *budget > 0.0);
        let (budget, alone_after) = match (handover.budget_ms(), hopeful) {
            (budget, _) if budget > 0.0 && !self.in_doubt => (budget, handover.alone_after_ms()),
            // It would be late here in any case: both are tried.
            (_, Some(budget)) if handover.rest_here_ms.is_finite() => (budget, 0.0),
            (_, Some(budget)) => (budget, handover.left_ms),
            (budget, None) if budget > 0.0 => (budget, handover.alone_after_ms()),
            (_, None) => return Err(Local::NoTime),
        };
        Ok(Handing {
            budget: ms_to_nanos(budget),
            alone_after: ms_to_nanos(alone_after),
            patience: ms_to_nanos(handover.patience_ms(alone_after)),
        })
    }

    /// The answer to so many bytes is there; so much of the time was on the way.
    pub fn answered(&mut self, now: Nanos, bytes: u64, on_the_way: Nanos, layers: &Layers) {
        self.link
            .transferred(bytes, layers.answer_bytes, nanos_to_ms(on_the_way));
        self.in_doubt = false;
        self.heard_at = Some(now);
        self.look_again = LOOK_AGAIN;
        self.probe_at = now + STALE_AFTER;
    }

    /// The server refused: what it needs may have changed, and is asked again.
    pub fn refused(&mut self, now: Nanos) {
        self.in_doubt = false;
        self.describe_at = now;
    }

    /// There is no answer when the rest is run here, too. The link is probed; until that succeeds or the answer comes after all, the phone
    /// runs all layers itself, or both where it would be late alone.
    pub fn no_answer(&mut self, now: Nanos) {
        self.in_doubt = true;
        self.probe_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A phone that takes 100 ms for all, before a server that takes 5.
    fn layers() -> Layers {
        Layers {
            allowed: [].into(),
            head_ms: [0.0, 10.0, 50.0, 100.0].into(),
            rest_ms: [].into(),
            coding_ms: [].into(),
            bytes: [60_000, 30_000, 20_000, 4_000].into(),
            answer_bytes: 4_000,
        }
    }

    fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    fn pilot() -> Pilot {
        Pilot::new(PilotOptions {
            slo: ms(400),
            prefer: Prefer::Speed,
            partition_point: None,
        })
    }

    const SERVER: [f64; 4] = [5.0, 4.0, 3.0, 0.0];

    /// Runs errands as long as any is due; each takes 20 ms.
    fn errands(pilot: &mut Pilot, now: &mut Nanos) -> Vec<Errand> {
        let mut done = vec![];
        while let Some(errand) = pilot.errand(*now) {
            *now += ms(20);
            match errand {
                Errand::Connect => pilot.connected(*now, true),
                Errand::Probe => pilot.probed(*now, Some((20.0, 30.0))),
                Errand::Describe => pilot.described(*now, Some((SERVER.to_vec(), vec![]))),
            }
            done.push(errand);
        }
        done
    }

    fn reached() -> (Pilot, Nanos) {
        let (mut pilot, mut now) = (pilot(), ms(0));
        let done = errands(&mut pilot, &mut now);
        assert_eq!(done, [Errand::Connect, Errand::Probe, Errand::Describe]);
        (pilot, now)
    }

    #[test]
    fn a_phone_connects_probes_and_asks_once_and_then_hands_over() {
        let (mut pilot, now) = reached();
        assert_eq!(pilot.errand(now), None);
        assert_eq!(pilot.start(now, now, &layers()), Start::Run(CutPoint(0), None));
        // The server is asked again after a while, the link probed where nothing was sent.
        assert_eq!(pilot.errand(now + DESCRIBE_EVERY), Some(Errand::Describe));
        pilot.described(now + DESCRIBE_EVERY, None);
        assert_eq!(pilot.errand(now + STALE_AFTER), Some(Errand::Probe));
    }

    #[test]
    fn an_inference_waits_for_the_router_no_longer_than_it_can_afford() {
        let (mut pilot, began) = (pilot(), ms(10));
        assert_eq!(pilot.errand(began), Some(Errand::Connect));
        assert_eq!(pilot.start(began, began, &layers()), Start::Wait(ms(250)));
        let local = Start::Run(CutPoint(3), Some(Local::Unreachable));
        assert_eq!(pilot.start(ms(250), began, &layers()), local);
        pilot.connected(ms(260), false);
        // It is tried again after a while, and meanwhile waited for by nobody.
        assert_eq!(pilot.errand(ms(300)), None);
        assert_eq!(pilot.start(ms(300), ms(300), &layers()), local);
        assert_eq!(pilot.errand(ms(900)), Some(Errand::Connect));
        assert_eq!(pilot.start(ms(900), ms(900), &layers()), local);
        // Attempts become rare, until the network is another.
        pilot.connected(ms(910), false);
        assert_eq!(pilot.errand(ms(1_600)), None);
        pilot.network_changed(ms(1_600));
        assert_eq!(pilot.errand(ms(1_600)), Some(Errand::Connect));
        assert_eq!(
            pilot.start(ms(1_600), ms(1_600), &layers()),
            Start::Wait(ms(1_840))
        );
    }

    #[test]
    fn who_was_here_lately_hands_over_as_soon_as_it_is_connected_again() {
        let (mut pilot, now) = reached();
        let again = now + ms(60_000);
        pilot.disconnected(again);
        assert_eq!(pilot.errand(again), Some(Errand::Connect));
        pilot.connected(again, true);
        assert_eq!(
            pilot.start(again, again, &layers()),
            Start::Run(CutPoint(0), None)
        );
        assert_eq!(pilot.errand(again), Some(Errand::Describe));
        // Of another network nothing is known.
        let moved = again + ms(1_000);
        pilot.described(moved, None);
        pilot.network_changed(moved);
        assert_eq!(pilot.errand(moved), Some(Errand::Probe));
        // Nor after a long time.
        let late = moved + TOLD_HOLDS;
        pilot.probed(moved, None);
        pilot.disconnected(late);
        assert_eq!(pilot.errand(late), Some(Errand::Connect));
        pilot.connected(late, true);
        assert_eq!(pilot.errand(late), Some(Errand::Probe));
        assert_eq!(pilot.start(late, late, &layers()), Start::Wait(late + ms(240)));
    }

    #[test]
    fn whoever_falls_back_is_still_in_time() {
        let (pilot, now) = reached();
        let handing = pilot.hand_over(now, now, CutPoint(0), 60_000, &layers()).unwrap();
        // 100 ms for all layers, a tenth more, and what it takes to notice.
        assert!(handing.alone_after <= ms(400 - 110), "{handing:?}");
        assert!(
            handing.budget < handing.alone_after && handing.budget > ms(200),
            "{handing:?}"
        );
    }

    #[test]
    fn a_router_that_stood_still_is_gone_back_to_soon() {
        let (mut pilot, mut now) = reached();
        let layers = layers();
        // It stands still for four seconds, ten inferences a second; probes get no reply, and fail after three.
        let back = now + ms(4000);
        let (mut tried, mut failed_at) = (0, None);
        let mut first_sent = None;
        while now < back + ms(3000) {
            if failed_at.is_some_and(|at| now >= at) {
                failed_at = None;
                pilot.probed(now, None);
            }
            pilot.begins(now);
            match pilot.errand(now) {
                Some(Errand::Probe) if now < back => failed_at = Some((now + ms(3000)).min(back + ms(20))),
                Some(Errand::Probe) => pilot.probed(now, Some((20.0, 30.0))),
                Some(Errand::Describe) if now >= back => {
                    pilot.described(now, Some((SERVER.to_vec(), vec![])))
                }
                Some(Errand::Describe) => failed_at = Some(now + ms(3000)),
                _ => {}
            }
            if let Start::Run(CutPoint(0), None) = pilot.start(now, now, &layers) {
                if now < back {
                    tried += 1;
                    pilot.no_answer(now + ms(290));
                } else {
                    first_sent = first_sent.or(Some(now));
                }
            }
            now += ms(100);
        }
        assert_eq!(tried, 1, "one inference finds out for all");
        let away = first_sent.expect("it came back") - back;
        assert!(away <= ms(1000), "{away:?}");
    }

    #[test]
    fn a_probe_that_met_a_pause_is_not_believed_for_long() {
        let (mut pilot, now) = reached();
        let layers = layers();
        assert_eq!(pilot.errand(now + STALE_AFTER), Some(Errand::Probe));
        let now = now + STALE_AFTER + ms(4000);
        pilot.probed(now, Some((20.0, 4000.0)));
        let away = Start::Run(CutPoint(3), Some(Local::FasterAlone));
        assert_eq!(pilot.start(now, now, &layers), away);
        assert_eq!(pilot.errand(now), Some(Errand::Describe));
        pilot.described(now, Some((SERVER.to_vec(), vec![])));
        assert_eq!(pilot.errand(now + LOOK_AGAIN), Some(Errand::Probe));
        pilot.probed(now + ms(1050), Some((20.0, 30.0)));
        assert_eq!(
            pilot.start(now + ms(1050), now + ms(1050), &layers),
            Start::Run(CutPoint(0), None)
        );
    }

    #[test]
    fn who_stays_away_for_good_probes_seldom() {
        let (mut pilot, mut now) = reached();
        let layers = layers();
        let mut probes = 0;
        // A slow link: five minutes.
        for _ in 0..3000 {
            match pilot.errand(now) {
                Some(Errand::Probe) => {
                    probes += 1;
                    pilot.probed(now, Some((20.0, 5000.0)));
                }
                Some(_) => pilot.described(now, Some((SERVER.to_vec(), vec![]))),
                None => {}
            }
            if pilot.start(now, now, &layers) == Start::Run(CutPoint(0), None) {
                pilot.answered(now, 60_000, ms(5000), &layers);
            }
            now += ms(100);
        }
        assert!((28..=40).contains(&probes), "{probes}");
    }

    #[test]
    fn a_refusal_makes_it_ask_again() {
        let (mut pilot, now) = reached();
        pilot.refused(now + ms(100));
        assert_eq!(pilot.errand(now + ms(100)), Some(Errand::Describe));
    }
}
