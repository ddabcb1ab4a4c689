//! Rates that clients were promised, by their names.

use std::collections::HashMap;
use std::sync::Mutex;

use graft_plan::Nanos;

use crate::gate::Gate;

/// Clients whose rates are kept at most; of more, those that are owed nothing are forgotten.
const MOST_CLIENTS: usize = 16_384;

/// Rates of clients that have bounds of their own.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, (u64, Gate)>>);

impl Rates {
    /// Whether a client, who may ask so often a second, may ask now.
    pub fn pass(&self, now: Nanos, client: &str, rps: f64) -> bool {
        let mut clients = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let bits = rps.to_bits();
        let gate = match clients.get(client) {
            Some((of, _)) if *of == bits => None,
            // Another token of the same client: what it asked with the one before counts.
            Some((_, gate)) => Some(gate.at_rate(now, rps, 1.0)),
            None => {
                if clients.len() >= MOST_CLIENTS {
                    clients.retain(|_, (_, gate)| !gate.is_free(now));
                }
                if clients.len() >= MOST_CLIENTS {
                    return false;
                }
                Some(Gate::new(rps, 1.0))
            }
        };
        if let Some(gate) = gate {
            clients.insert(client.to_owned(), (bits, gate));
        }
        clients
            .get(client)
            .is_some_and(|(_, gate)| gate.pass(now, 1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_the_rate_that_it_was_promised() {
        let rates = Rates::default();
        let passed = |client: &str, rps: f64| {
            (0..10_000u64)
                .filter(|ms| rates.pass(Nanos::from_millis(*ms), client, rps))
                .count()
        };
        assert!((50..=53).contains(&passed("a", 5.0)));
        assert!((500..=521).contains(&passed("b", 50.0)));
        // Two tokens of one client, in turn, are no more than the larger allows.
        let in_turn = (30_000..40_000u64)
            .filter(|ms| {
                rates.pass(
                    Nanos::from_millis(*ms),
                    "two",
                    if ms % 2 == 0 { 5.0 } else { 6.0 },
                )
            })
            .count();
        assert!((48..=63).contains(&in_turn), "{in_turn}");
        // Who has a slow one, too, is not held to it with the fast one, and a fast one buys nothing for the slow.
        let at = |ms: u64| Nanos::from_millis(50_000 + ms);
        assert!(rates.pass(at(0), "both", 0.1) && rates.pass(at(1), "both", 0.1));
        let fast = (2..1_002u64)
            .filter(|ms| rates.pass(at(*ms), "both", 100.0))
            .count();
        assert!((99..=141).contains(&fast), "{fast}");
        let slow = (1_002..2_002u64)
            .filter(|ms| rates.pass(at(*ms), "both", 0.1))
            .count();
        assert_eq!(slow, 0, "what was asked for by the fast one is owed");
        // Many names don't make room for more than they are promised, nor take memory without end.
        for i in 0..2 * MOST_CLIENTS as u64 {
            rates.pass(Nanos::from_millis(20_000 + i), &i.to_string(), 1000.0);
        }
        assert!(rates.0.lock().unwrap().len() <= MOST_CLIENTS);
    }
}
