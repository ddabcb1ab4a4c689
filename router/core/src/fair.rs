//! Whose requests are let in where more come than can be served.
//!
//! Shares are of addresses first, then of the connections of one. A connection that asks for much more than the others is let in the less, the
//! more it asks for: those that ask for little are served, and of the rest each gets about as much. After "Approximate Fairness through
//! Differential Dropping" (Pan, Breslau, Prabhakar, Shenker, 2003), with a steeper curve.

use std::collections::{HashMap, VecDeque};

use graft_plan::Nanos;

/// A connection, of an address or of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The address, or the identity.
    pub group: u128,
    /// The connection.
    pub connection: u64,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// Whether the request is demand that may be planned for: not where it comes from one who asks for far more than he could get.
    pub is_demand: bool,
}

/// Time over which rates are observed.
const OVER_S: f64 = 2.0;
/// Time between two looks at what is asked for, served and refused.
const LOOK_EVERY: Nanos = Nanos::from_millis(300);
/// Time after which a connection that asks no more is forgotten.
const FORGET_AFTER: Nanos = Nanos::from_millis(5_000);
/// Connections that are told apart at most; further ones of an address are one.
const MOST_CONNECTIONS: usize = 16_384;
/// Number that stands for the new connections of an address.
const NEWCOMERS: u64 = u64::MAX;
/// Events of which a rate is made at least.
const FEW: f64 = 3.0;
/// Power of the quotient of limit and rate with which a connection's requests are let in.
const STEEPNESS: i32 = 4;
/// Part of what was let in that is refused later on, from which on more comes than can be served.
const TOO_MUCH: f64 = 0.02;
/// Part of what can be served that is shared out after a look at which that was so: the queue has to become shorter again.
const SHARED: f64 = 0.88;
/// Part by which more is shared out at a step, about as far as what can be served.
const FIRST_STEP: f64 = 0.03;
/// Multiple of what can be served from which on it certainly is more: each step is twice the one before.
const ABOVE: f64 = 1.1;
/// Part by which more is shared out at most.
const LARGEST_STEP: f64 = 0.5;
/// Looks between two steps.
const STEP_LOOKS: usize = 3;
/// Part of what was shared out, at least, that is after a step was too far: what is served just now may be little by chance.
const LEAST_KEPT: f64 = 0.5;
/// Longer queue, in seconds, and in requests, with which a step was too far.
const LONGER_S: f64 = 0.1;
const LONGER: f64 = 2.0;
/// Multiple of what can be served beyond which nothing is shared out any more, once nobody is held back.
const MOST_SHARED: f64 = 1.6;
/// Part of what the plan is made for below which what was served says that there was an outage.
const OUT: f64 = 0.25;
/// Multiple of what the plan before was made for from which on a plan is for more.
const MORE: f64 = 1.05;
/// Looks over which refusals are counted.
const REFUSED_OVER: usize = 3;
/// Part of its window that a rate has been counted for, at least.
const LEAST_COUNTED: f64 = 0.15;
/// Looks whose rates tell what can be served: those of ten seconds. What was served at the best fifth of them can be.
const LOOKS: usize = 33;
/// Time for which requests have to have been served before an estimate is made of how many can be.
const KNOWN_AFTER: Nanos = Nanos::from_millis(1_000);
/// Multiple of an equal share of what can be served up to which nobody's requests are held back here.
const EXEMPT: f64 = 2.0;
/// Multiple of a limit beyond which what is held back is no demand.
const DEMAND_TIMES: f64 = 2.0;

/// Events a second, the older the less.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    /// Since when events are counted.
    since: Option<Nanos>,
    /// Sum of the events, each the less the older it is.
    sum: f64,
    at: Nanos,
}

impl Rate {
    /// Of one that has just begun it is too low.
    fn now(&self, now: Nanos) -> f64 {
        self.sum * (-(now - self.at).as_secs() / OVER_S).exp() / OVER_S
    }

    /// As far as it was counted so far; a few events make no rate.
    fn counted(&self, now: Nanos) -> f64 {
        if self.sum < FEW {
            return self.now(now);
        }
        let since = self.since.map_or(0.0, |since| (now - since).as_secs());
        self.now(now) / (1.0 - (-since / OVER_S).exp()).max(LEAST_COUNTED)
    }

    fn is_known(&self, now: Nanos) -> bool {
        self.since.is_some_and(|since| now - since >= KNOWN_AFTER)
    }

    fn add(&mut self, now: Nanos) {
        self.since.get_or_insert(now);
        self.sum = self.sum * (-(now - self.at).as_secs() / OVER_S).exp() + 1.0;
        self.at = now;
    }
}

#[derive(Debug)]
struct Connection {
    asks: Rate,
    /// Parts of requests that were let in so far, below 1; of a new one, all of its first.
    credit: f64,
}

impl Default for Connection {
    fn default() -> Self {
        Connection {
            asks: Rate::default(),
            credit: 1.0,
        }
    }
}

/// What is shared out while there are too many.
#[derive(Debug, Clone, Copy)]
struct Sharing {
    /// In requests a second.
    rate: f64,
    /// Part by which it is more after the next step.
    step: f64,
    /// Looks since the last one.
    looks: usize,
    /// Requests in flight before the first one, and what was shared out then.
    usual: Option<(f64, f64)>,
}

impl Sharing {
    fn of(capacity: f64) -> Self {
        Sharing {
            rate: SHARED * capacity,
            step: FIRST_STEP,
            looks: 0,
            usual: None,
        }
    }

    /// After another look: step by step more, until the queue becomes longer. All at once, it would be a queue for everybody. `holds`: somebody
    /// was held back; else it is not what is shared out that makes a queue longer.
    fn next(self, in_flight: f64, capacity: f64, served: f64, holds: bool, planned: f64) -> Self {
        let longer = LONGER + LONGER_S * served;
        // Where more is let in, as much more is in flight without any queue.
        let is_longer = |(usual, then): (f64, f64)| in_flight > usual * (self.rate / then) + longer;
        if holds && self.usual.is_some_and(is_longer) {
            return Sharing::of(served.max(LEAST_KEPT * self.rate).max(1.0));
        }
        // Where nothing was served for long, what can be is what the plan is made for.
        let was_out = capacity < OUT * planned && self.rate < planned / 2.0;
        match self.looks + 1 < STEP_LOOKS && !was_out {
            true => Sharing {
                looks: self.looks + 1,
                ..self
            },
            false => Sharing {
                rate: self.rate * (1.0 + if was_out { LARGEST_STEP } else { self.step }),
                step: match self.rate < ABOVE * capacity {
                    true => self.step,
                    false => (2.0 * self.step).min(LARGEST_STEP),
                },
                looks: 0,
                usual: self.usual.or(Some((in_flight, self.rate))),
            },
        }
    }
}

#[derive(Debug)]
struct Group {
    /// Requests a second up to which all of a connection's are let in.
    limit: f64,
    /// Rates of its connections at the latest look.
    rates: Vec<f64>,
}

/// Decides whose requests are let in.
#[derive(Debug, Default)]
pub(crate) struct Fair {
    connections: HashMap<Source, Connection>,
    groups: HashMap<u128, Group>,
    served: Rate,
    /// Requests a second that were served, at the latest looks.
    lately: VecDeque<f64>,
    /// What was served when there were too many.
    saturated: f64,
    /// `None`: there are not too many.
    sharing: Option<Sharing>,
    /// Somebody was held back at the latest look.
    holds: bool,
    /// Requests a second that the plan is made for.
    planned: f64,
    looked: Nanos,
    /// Since the last look: requests that were let in, and that were refused later on since there are too many.
    entered: u64,
    refused: u64,
    /// The same of the latest looks.
    refusals: VecDeque<(u64, u64)>,
}

impl Fair {
    /// A request comes in, where so many have not got their answers yet.
    pub fn ask(&mut self, now: Nanos, source: Source, in_flight: usize) -> Result<(), TooMany> {
        if now - self.looked >= LOOK_EVERY {
            self.look(now, in_flight as f64);
        }
        // Beyond the bound, new connections of an address count as one.
        let full = self.connections.len() >= MOST_CONNECTIONS;
        let source = match full && !self.connections.contains_key(&source) {
            true => Source {
                connection: 0,
                ..source
            },
            false => source,
        };
        let limit = self.groups.get(&source.group).map_or(f64::INFINITY, |g| g.limit);
        // The first requests of an address's new connections count as those of one: who makes a connection for each is one, too.
        let judged = match self.connections.contains_key(&source) {
            true => source,
            false => {
                self.connections.entry(source).or_default().asks.at = now;
                Source {
                    connection: NEWCOMERS,
                    ..source
                }
            }
        };
        let connection = self.connections.entry(judged).or_default();
        connection.asks.add(now);
        let rate = connection.asks.counted(now);
        connection.credit += (limit / rate).min(1.0).powi(STEEPNESS);
        if connection.credit < 1.0 {
            return Err(TooMany {
                is_demand: rate <= DEMAND_TIMES * limit,
            });
        }
        connection.credit -= 1.0;
        self.entered += 1;
        Ok(())
    }

    /// A request that was let in is over. `served`: it was answered; `too_much`: it got no answer since there are too many.
    pub fn ended(&mut self, now: Nanos, served: bool, too_much: bool) {
        if served {
            self.served.add(now);
        }
        self.refused += u64::from(too_much);
    }

    /// From now on there is a plan for so many requests a second: where it is for more than the one before, as many are let in until it shows
    /// that they can't be served.
    pub fn planned(&mut self, rps: f64) {
        let is_more = rps > self.planned * MORE;
        self.planned = rps;
        if let Some(sharing) = &mut self.sharing
            && is_more
            && sharing.rate < SHARED * rps
        {
            *sharing = Sharing::of(rps);
        }
    }

    /// What can be served is shared out anew.
    fn look(&mut self, now: Nanos, in_flight: f64) {
        if now - std::mem::replace(&mut self.looked, now) > FORGET_AFTER {
            // Nothing was asked for: what was learnt is of another time.
            (self.sharing, self.saturated, self.served) = (None, 0.0, Rate::default());
            self.lately.clear();
            self.refusals.clear();
        }
        self.connections
            .retain(|_, connection| now - connection.asks.at < FORGET_AFTER);
        let before = std::mem::take(&mut self.groups);
        for (source, connection) in &self.connections {
            let group = self.groups.entry(source.group).or_insert_with(|| Group {
                limit: before.get(&source.group).map_or(f64::INFINITY, |g| g.limit),
                rates: vec![],
            });
            group.rates.push(connection.asks.counted(now));
        }
        let served = self.served.counted(now);
        if self.refusals.len() >= REFUSED_OVER {
            self.refusals.pop_front();
        }
        let since = (
            std::mem::take(&mut self.entered),
            std::mem::take(&mut self.refused),
        );
        self.refusals.push_back(since);
        let sum = |of: fn(&(u64, u64)) -> u64| self.refusals.iter().map(of).sum::<u64>();
        let (entered, refused) = (sum(|counts| counts.0), sum(|counts| counts.1));
        let part = refused as f64 / entered.max(refused).max(1) as f64;
        if !self.served.is_known(now) {
            return;
        }
        if self.lately.len() >= LOOKS {
            self.lately.pop_front();
        }
        self.lately.push_back(served);
        if part > TOO_MUCH {
            self.saturated = served;
        }
        let mut best: Vec<f64> = self.lately.iter().copied().collect();
        best.sort_by(f64::total_cmp);
        let capacity = best[(best.len() - 1) * 4 / 5].max(self.saturated).max(1.0);
        self.sharing = match self.sharing {
            _ if part > TOO_MUCH => Some(Sharing::of(capacity)),
            Some(sharing) => Some(sharing.next(in_flight, capacity, served, self.holds, self.planned)),
            None => None,
        };
        let Some(sharing) = self.sharing else {
            self.holds = false;
            self.groups
                .values_mut()
                .for_each(|group| group.limit = f64::INFINITY);
            return;
        };
        let mut asked: Vec<(f64, u128)> = self
            .groups
            .iter()
            .map(|(name, group)| (group.rates.iter().sum(), *name))
            .collect();
        // Those that ask for the least have all of it, as long as there is enough for all others to have as much.
        asked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut left = sharing.rate;
        let count = asked.len();
        let mut all_fit = true;
        for (place, (wanted, name)) in asked.into_iter().enumerate() {
            let share = left / (count - place) as f64;
            left -= wanted.min(share);
            all_fit &= wanted <= share;
            if let Some(group) = self.groups.get_mut(&name) {
                group.limit = match wanted <= share {
                    true => f64::INFINITY,
                    false => limit_for(&group.rates, share),
                };
            }
        }
        self.holds = !all_fit;
        if all_fit && sharing.rate > MOST_SHARED * capacity {
            self.sharing = None;
        }
    }
}

/// The limit with which connections of such rates are let in so often together.
fn limit_for(rates: &[f64], share: f64) -> f64 {
    let exempt = EXEMPT * share / rates.len().max(1) as f64;
    let let_in = |limit: f64| -> f64 {
        let of = |rate: &f64| rate * (limit / rate).min(1.0).powi(STEEPNESS);
        rates.iter().map(of).sum()
    };
    let (mut low, mut high) = (exempt, rates.iter().copied().fold(exempt, f64::max));
    // As near as makes no difference.
    for _ in 0..32 {
        let middle = (low + high) / 2.0;
        match let_in(middle) > share {
            true => high = middle,
            false => low = middle,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that serves so many requests a second, with some burst, and refuses the rest.
    struct Server {
        fair: Fair,
        room: f64,
        capacity: f64,
        now: Nanos,
    }

    /// A connection that asks at a rate, and what became of its requests.
    struct Client {
        source: Source,
        rate: f64,
        due: f64,
        asked: u64,
        served: u64,
        demand: u64,
    }

    fn client(group: u128, connection: u64, rate: f64) -> Client {
        Client {
            source: Source { group, connection },
            rate,
            due: connection as f64 / 97.0,
            asked: 0,
            served: 0,
            demand: 0,
        }
    }

    impl Client {
        fn part(&self) -> f64 {
            self.served as f64 / self.asked as f64
        }
    }

    impl Server {
        fn new(capacity: f64) -> Self {
            Server {
                fair: Fair::default(),
                room: 0.0,
                capacity,
                now: Nanos::ZERO,
            }
        }

        /// Lets clients ask for so many seconds; counts after the first.
        fn run(&mut self, clients: &mut [Client], seconds: u64) {
            self.run_for(clients, seconds * 1000);
        }

        fn run_for(&mut self, clients: &mut [Client], span_ms: u64) {
            let start = self.now;
            for ms in 0..span_ms {
                self.now = start + Nanos::from_millis(ms);
                self.room = (self.room + self.capacity / 1e3).min(self.capacity * 0.4);
                for client in &mut *clients {
                    client.due += client.rate / 1e3;
                    while client.due >= 1.0 {
                        client.due -= 1.0;
                        let counts = u64::from(ms >= 1000);
                        client.asked += counts;
                        match self.fair.ask(self.now, client.source, 0) {
                            Err(TooMany { is_demand }) => client.demand += counts * u64::from(is_demand),
                            Ok(()) => {
                                client.demand += counts;
                                let served = self.room >= 1.0;
                                self.room -= f64::from(u8::from(served));
                                client.served += counts * u64::from(served);
                                self.fair.ended(self.now, served, !served);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn who_asks_for_little_is_served_beside_those_who_flood() {
        for (floods, rate) in [(1, 3000.0), (8, 1000.0), (9, 1000.0), (9, 100.0), (9, 40.0)] {
            let mut server = Server::new(25.0);
            // All behind one address.
            let mut clients = vec![client(1, 1, 10.0)];
            clients.extend((0..floods).map(|n| client(1, 2 + n, rate)));
            server.run(&mut clients, 20);
            let good = clients[0].part();
            assert!(good >= 0.95, "{floods} floods of {rate}/s leave {good:.3}");
            let all: u64 = clients.iter().map(|c| c.served).sum();
            assert!(all as f64 >= 0.7 * 25.0 * 19.0, "what can be served is: {all}");
        }
    }

    #[test]
    fn an_address_with_many_connections_takes_no_more_than_one_with_few() {
        let mut server = Server::new(25.0);
        let mut clients = vec![client(1, 1, 10.0)];
        clients.extend((0..200).map(|n| client(2, 2 + n, 5.0)));
        server.run(&mut clients, 20);
        let good = clients[0].part();
        assert!(good >= 0.95, "{good:.3}");
    }

    #[test]
    fn where_all_ask_for_about_the_same_nobody_is_held_back() {
        let mut server = Server::new(100.0);
        let mut clients: Vec<Client> = (0..30).map(|n| client(1, n + 1, 5.0)).collect();
        server.run(&mut clients, 20);
        let all: u64 = clients.iter().map(|c| c.served).sum();
        assert!(all as f64 >= 0.97 * 100.0 * 19.0, "{all}");
        assert!(clients.iter().all(|c| c.demand == c.asked), "all of it is demand");
    }

    #[test]
    fn a_flood_is_no_demand_and_is_forgotten_when_it_is_over() {
        let mut server = Server::new(25.0);
        let mut clients = vec![client(1, 1, 10.0), client(1, 2, 2000.0)];
        server.run(&mut clients, 10);
        assert!(
            clients[1].demand < clients[1].asked / 4,
            "{} of {}",
            clients[1].demand,
            clients[1].asked
        );
        clients.truncate(1);
        server.run(&mut clients, 10);
        let mut later = vec![client(1, 1, 10.0), client(1, 3, 12.0)];
        server.run(&mut later, 5);
        assert!(later.iter().all(|c| c.part() > 0.98));
        // They, and what stands for new connections.
        assert!(server.fair.connections.len() <= 3);
    }

    #[test]
    fn an_overload_that_is_over_holds_nobody_back_later() {
        let mut server = Server::new(300.0);
        server.run(&mut [client(1, 1, 2000.0)], 3);
        server.run(&mut [client(1, 2, 2.0)], 20);
        let mut phones: Vec<Client> = (0..30).map(|n| client(1, n + 3, 1.0)).collect();
        phones.push(client(1, 99, 60.0));
        server.run(&mut phones, 5);
        assert!(phones.iter().all(|p| p.part() > 0.98), "all of it can be served");
        assert!(phones.iter().all(|p| p.demand == p.asked), "and is demand");
    }

    /// One who asks ten times a second beside a flood, before a server with a queue in which what waits for more than half a second is too
    /// late, which nobody knows before. It begins so many a second, each of which then takes a time. After so many seconds: the parts of his
    /// requests, and of what the server can do, that were served in the rest of a minute.
    fn beside_a_flood(per_second: impl Fn(u64) -> f64, takes: Nanos, from_s: u64) -> (f64, f64) {
        let mut fair = Fair::default();
        let mut clients = [client(1, 1, 10.0), client(1, 2, 7000.0)];
        let (mut queue, mut running) = (VecDeque::new(), VecDeque::new());
        let (mut room, mut could, mut did, mut good, mut asked) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
        for ms in 0..60_000 {
            let now = Nanos::from_millis(ms);
            let counts = ms >= from_s * 1000;
            let more = per_second(ms / 1000) / 1e3;
            room += more;
            could += if counts { more } else { 0.0 };
            while queue
                .front()
                .is_some_and(|(at, _)| now - *at > Nanos::from_millis(500))
            {
                fair.ended(now, false, true);
                queue.pop_front();
            }
            while room >= 1.0
                && let Some((_, is_good)) = queue.pop_front()
            {
                room -= 1.0;
                did += f64::from(u8::from(counts));
                running.push_back((now, is_good));
            }
            room = room.min(1.0);
            while running.front().is_some_and(|(at, _)| now - *at >= takes) {
                if let Some((_, true)) = running.pop_front() {
                    good += 1.0;
                }
                fair.ended(now, true, false);
            }
            for (number, client) in clients.iter_mut().enumerate() {
                client.due += client.rate / 1e3;
                while client.due >= 1.0 {
                    client.due -= 1.0;
                    // What is asked for at the end has no time to be answered.
                    let counted = number == 0 && counts && ms < 57_000;
                    asked += f64::from(u8::from(counted));
                    if fair.ask(now, client.source, queue.len() + running.len()).is_ok() {
                        queue.push_back((now, counted));
                    }
                }
            }
        }
        (good / asked, did / could)
    }

    #[test]
    fn a_flood_is_let_in_step_by_step_where_more_can_be_served_than_before() {
        // There are more workers after six seconds.
        let grows = |second: u64| if second < 6 { 12.0 } else { 60.0 };
        let (good, _) = beside_a_flood(grows, Nanos::ZERO, 4);
        assert!(good >= 0.97, "{good:.3}");
    }

    #[test]
    fn a_server_that_takes_long_is_used_when_it_can_serve_more() {
        let grows = |second: u64| if second < 15 { 20.0 } else { 200.0 };
        let (good, used) = beside_a_flood(grows, Nanos::from_millis(1_500), 40);
        assert!(
            good >= 0.95 && used >= 0.5,
            "{good:.3}; of what can be served {used:.2}"
        );
    }

    #[test]
    fn who_comes_after_a_flood_and_a_long_silence_is_served() {
        for silence_ms in [6_000, 30_000, 3_600_000] {
            let mut server = Server::new(100.0);
            server.run(&mut [client(1, 1, 10.0), client(1, 2, 3000.0)], 10);
            let (mut fair, start) = (server.fair, server.now + Nanos::from_millis(silence_ms));
            // Two hundred a second of fifty phones, all of which are answered after a tenth of a second.
            let (mut running, mut let_in) = (VecDeque::new(), 0);
            for number in 0..1_000u64 {
                let now = start + Nanos::from_millis(number * 5);
                while running
                    .front()
                    .is_some_and(|at| now - *at >= Nanos::from_millis(100))
                {
                    running.pop_front();
                    fair.ended(now, true, false);
                }
                let source = Source {
                    group: 1,
                    connection: 3 + number % 50,
                };
                if fair.ask(now, source, running.len()).is_ok() {
                    running.push_back(now);
                    let_in += 1;
                }
            }
            assert!(let_in >= 970, "after {silence_ms} ms: {let_in} of 1000");
        }
    }

    #[test]
    fn connections_of_one_request_each_are_served_beside_a_flood_from_elsewhere() {
        let mut server = Server::new(25.0);
        let mut clients = vec![client(2, 1, 1000.0)];
        let (mut served, mut asked) = (0, 0);
        for second in 0..20u64 {
            for eighth in 0..8u64 {
                let number = 10 + second * 8 + eighth;
                let source = Source {
                    group: 1,
                    connection: number,
                };
                let let_in = server.fair.ask(server.now, source, 0).is_ok();
                if second >= 3 {
                    asked += 1;
                    served += u64::from(let_in);
                }
                server.run_for(&mut clients, 125);
            }
        }
        assert!(served * 10 >= asked * 9, "{served} of {asked}");
    }
}
