//! When a client's requests begin.

use std::sync::Arc;

use graft_certify::Generator;
use graft_plan::Arrivals;

/// When a client's requests begin, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    kind: Arrivals,
    rate_rps: f64,
    /// From a nanosecond on, times the rate.
    load: Arc<[(f64, f64)]>,
    dice: Generator,
    at_ns: f64,
    /// Periodic: the time without jitter. Bursty: when the next burst begins.
    nominal_ns: Option<f64>,
    /// Requests of the present burst that are still to come.
    burst: u64,
    /// The next gap of a trace; none: it has not begun.
    place: Option<usize>,
}

/// Steps of the load over time, in nanoseconds.
pub(crate) fn load_steps(steps: &[(f64, f64)]) -> Arc<[(f64, f64)]> {
    steps.iter().map(|(at, times)| (at * 1e9, *times)).collect()
}

impl Process {
    pub fn new(kind: Arrivals, rate_rps: f64, load: Arc<[(f64, f64)]>, dice: Generator) -> Self {
        Process {
            kind,
            rate_rps,
            load,
            dice,
            at_ns: 0.0,
            nominal_ns: None,
            burst: 0,
            place: None,
        }
    }

    /// Goes on from a time: what would have come before is left out.
    pub fn skip_to(&mut self, at_ns: u64) {
        self.at_ns = self.at_ns.max(at_ns as f64);
        self.nominal_ns = None;
        self.burst = 0;
    }

    /// The rate's factor at a time, and until when.
    fn factor(&self, at_ns: f64) -> (f64, Option<f64>) {
        let next = self.load.partition_point(|s| s.0 <= at_ns);
        let factor = next.checked_sub(1).map_or(1.0, |i| self.load[i].1);
        (factor, self.load.get(next).map(|s| s.0))
    }

    /// The next event of a Poisson process of a part of the rate; `None`: there is none any more.
    fn poisson(&mut self, from_ns: f64, part: f64) -> Option<f64> {
        let mut at = from_ns;
        loop {
            let (factor, until) = self.factor(at);
            if factor > 0.0 {
                let step = self.dice.exponential(1e9 / (self.rate_rps * part * factor));
                match until {
                    // Nothing is remembered, so it may as well begin anew at the step.
                    Some(until) if at + step >= until => {}
                    _ => return Some(at + step),
                }
            }
            at = until?;
        }
    }

    fn periodic(&mut self, jitter: f64) -> Option<f64> {
        let mut at = self.nominal_ns.unwrap_or(self.at_ns);
        // The first one is anywhere in its period.
        let mut left = if self.nominal_ns.is_some() {
            1.0
        } else {
            self.dice.part()
        };
        loop {
            let (factor, until) = self.factor(at);
            if factor > 0.0 {
                let period = 1e9 / (self.rate_rps * factor);
                match until {
                    Some(until) if at + left * period >= until => left -= (until - at) / period,
                    _ => {
                        at += left * period;
                        self.nominal_ns = Some(at);
                        return Some(at + (self.dice.part() - 0.5) * jitter * period);
                    }
                }
            }
            at = until?;
        }
    }

    /// The next request of a trace; `None`: the load is nothing from now on, or the trace was not read.
    fn traced(&mut self, gaps: &[f64]) -> Option<f64> {
        let (mut left, place) = match self.place {
            Some(place) => (*gaps.get(place)?, place + 1),
            None => {
                // Somewhere in the trace, and within its gap.
                let place = (self.dice.part() * gaps.len() as f64) as usize % gaps.len().max(1);
                (gaps.get(place)? * self.dice.part(), place + 1)
            }
        };
        self.place = Some(place % gaps.len());
        let mut at = self.at_ns;
        loop {
            let (factor, until) = self.factor(at);
            if factor > 0.0 {
                let mean = 1e9 / (self.rate_rps * factor);
                match until {
                    Some(until) if at + left * mean >= until => left -= (until - at) / mean,
                    _ => return Some(at + left * mean),
                }
            }
            at = until?;
        }
    }

    fn bursty(&mut self, size: f64, gap_ms: f64) -> Option<f64> {
        if self.burst > 0 {
            self.burst -= 1;
            return Some(self.at_ns + gap_ms * 1e6);
        }
        let from = self.nominal_ns.unwrap_or(self.at_ns);
        let start = self.poisson(from, 1.0 / size)?;
        self.nominal_ns = Some(start);
        if size > 1.0 {
            // Geometric, with the mean `size`.
            self.burst = (self.dice.part().ln() / (1.0 - 1.0 / size).ln()).floor() as u64;
        }
        Some(start)
    }

    /// The next request, in nanoseconds from the start; never before the one before.
    pub fn next(&mut self) -> Option<u64> {
        let at = match self.kind.clone() {
            Arrivals::Trace { gaps, .. } => self.traced(&gaps),
            Arrivals::Poisson => self.poisson(self.at_ns, 1.0),
            Arrivals::Periodic { jitter } => self.periodic(jitter),
            Arrivals::Bursty { size, gap_ms } => self.bursty(size, gap_ms),
        }?;
        self.at_ns = self.at_ns.max(at);
        Some(self.at_ns.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(kind: Arrivals, load: &[(f64, f64)]) -> Vec<f64> {
        let mut process = Process::new(kind, 50.0, load_steps(load), Generator::new(1, "a"));
        let mut times = vec![];
        while let Some(at) = process.next()
            && at < 200_000_000_000
        {
            times.push(at as f64 / 1e9);
        }
        times
    }

    /// Thirty requests at a time, then a pause, at another rate than the clients'.
    fn trace() -> Arrivals {
        let rows: String = (0..300).map(|i| format!("{}\n", i / 30)).collect();
        Arrivals::Trace {
            file: String::new(),
            gaps: Arrivals::gaps(&format!("time_s\n{rows}")).unwrap(),
        }
    }

    #[test]
    fn a_trace_that_is_none_is_named() {
        for (csv, what) in [
            ("time_s\n1\n", "fewer than two"),
            ("time_s\n1\nx\n", "line 3"),
            ("time_s\n2\n1\n", "ascending"),
            ("time_s\n1\n1\n", "same time"),
            ("time_s\nNaN\n1\n", "ascending"),
        ] {
            let error = Arrivals::gaps(csv).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    /// Variance over mean of the counts in windows of half a second.
    fn dispersion(times: &[f64]) -> f64 {
        let mut counts = vec![0.0; 400];
        times.iter().for_each(|t| counts[(t * 2.0) as usize] += 1.0);
        let mean = counts.iter().sum::<f64>() / 400.0;
        counts.iter().map(|c| (c - mean) * (c - mean)).sum::<f64>() / 400.0 / mean
    }

    #[test]
    fn all_kinds_keep_the_rate_and_differ_in_how_they_scatter() {
        let kinds = [
            (Arrivals::Periodic { jitter: 0.5 }, 0.0..0.2),
            (Arrivals::Poisson, 0.8..1.2),
            (
                Arrivals::Bursty {
                    size: 5.0,
                    gap_ms: 2.0,
                },
                6.0..12.0,
            ),
            (trace(), 3.0..20.0),
        ];
        for (kind, expected) in kinds {
            let times = times(kind.clone(), &[]);
            let rate = times.len() as f64 / 200.0;
            assert!((rate / 50.0 - 1.0).abs() < 0.1, "{kind:?}: {rate}");
            assert!(times.windows(2).all(|w| w[0] <= w[1]));
            assert!(
                expected.contains(&dispersion(&times)),
                "{kind:?}: {}",
                dispersion(&times)
            );
        }
    }

    #[test]
    fn the_load_follows_its_steps() {
        for kind in [
            Arrivals::Periodic { jitter: 0.1 },
            Arrivals::Poisson,
            Arrivals::Bursty {
                size: 2.0,
                gap_ms: 1.0,
            },
            trace(),
        ] {
            let times = times(kind.clone(), &[(50.0, 2.0), (100.0, 0.0), (150.0, 1.0)]);
            let count = |from: f64, to: f64| times.iter().filter(|t| (from..to).contains(*t)).count() as f64;
            assert!((count(0.0, 50.0) / 2500.0 - 1.0).abs() < 0.1, "{kind:?}");
            assert!((count(50.0, 100.0) / 5000.0 - 1.0).abs() < 0.1, "{kind:?}");
            assert!(
                count(100.2, 150.0) == 0.0 && count(150.0, 200.0) > 2000.0,
                "{kind:?}"
            );
        }
    }
}
