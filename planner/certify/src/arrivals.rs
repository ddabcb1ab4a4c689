//! When requests arrive: a Poisson process for each fragment, with a generator of its own.

use graft_model::SplitMix;
use graft_plan::BURST_WINDOW;

/// Numbers by chance, the same for the same seed and id.
#[derive(Debug, Clone)]
pub struct Generator(SplitMix);

impl Generator {
    /// A generator seeded by a run's seed and a fragment's id (FNV-1a).
    pub fn new(seed: u64, id: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in seed.to_le_bytes().into_iter().chain(id.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Generator(SplitMix(hash))
    }

    /// 64 uniformly distributed bits.
    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// A uniformly distributed number above 0 and up to 1.
    pub fn part(&mut self) -> f64 {
        self.0.part()
    }

    /// An exponentially distributed number with the given mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        // The part is above 0: the logarithm is finite.
        -self.part().ln() * mean
    }
}

/// A fragment's arrivals: a Poisson process, of single requests or of bursts.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    generator: Generator,
    /// Mean time between the beginnings of bursts, in nanoseconds.
    mean_ns: f64,
    /// Time at which the latest burst began, in nanoseconds from the start.
    burst_ns: f64,
    at_ns: f64,
    /// Mean number of requests of a burst; the number is geometrically distributed.
    size: f64,
    /// Requests of the latest burst that are still to come.
    left: u64,
}

impl Arrivals {
    /// The arrivals of a fragment. Bursts of geometrically many requests, m in the mean, have an index of dispersion of
    /// 2m - 1.
    pub fn new(seed: u64, id: &str, rate_rps: f64, burstiness: f64) -> Self {
        let size = ((burstiness + 1.0) / 2.0).max(1.0);
        Arrivals {
            generator: Generator::new(seed, id),
            mean_ns: 1e9 * size / rate_rps,
            burst_ns: 0.0,
            at_ns: 0.0,
            size,
            left: 0,
        }
    }

    /// The next arrival, in nanoseconds from the start.
    pub fn next(&mut self) -> u64 {
        if self.left > 0 {
            self.left -= 1;
            // The gap is such that a burst is mostly over within one window of those in which bursts are observed.
            let gap = BURST_WINDOW.0 as f64 / (4.0 * self.size);
            self.at_ns += self.generator.exponential(gap);
        } else {
            self.burst_ns += self.generator.exponential(self.mean_ns);
            self.at_ns = self.at_ns.max(self.burst_ns);
            if self.size > 1.0 {
                let more = self.generator.part().ln() / (1.0 - 1.0 / self.size).ln();
                self.left = more as u64;
            }
        }
        self.at_ns.round() as u64
    }
}

/// Approximate number of arrivals that are drawn at a time: few enough to stay in a cache.
const WINDOW: f64 = 1000.0;

/// The arrivals of many processes in the order of time, then of the processes.
#[derive(Debug)]
pub(crate) struct Merged {
    /// Processes, each with its next arrival.
    processes: Vec<(Arrivals, u64)>,
    /// Arrivals of the current window with their processes, ascending.
    drawn: Vec<(u64, u32)>,
    at: usize,
    /// Time at which the current window ends, in nanoseconds.
    until: u64,
    width: u64,
    end: u64,
}

impl Merged {
    /// Arrivals before `end`; `rate_rps` is that of all processes.
    pub fn new(processes: Vec<Arrivals>, rate_rps: f64, end: u64) -> Self {
        let with_first = |mut process: Arrivals| {
            let first = process.next();
            (process, first)
        };
        let mut merged = Merged {
            processes: processes.into_iter().map(with_first).collect(),
            drawn: vec![],
            at: 0,
            until: 0,
            // Without any process one window holds everything.
            width: (WINDOW / rate_rps.max(f64::MIN_POSITIVE) * 1e9).max(1.0) as u64,
            end,
        };
        merged.draw();
        merged
    }

    /// The next arrival and its process.
    pub fn peek(&self) -> Option<(u64, u32)> {
        self.drawn.get(self.at).copied()
    }

    pub fn advance(&mut self) {
        self.at += 1;
        if self.at >= self.drawn.len() {
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.drawn.clear();
        self.at = 0;
        while self.drawn.is_empty() && self.until < self.end {
            self.until = self.until.saturating_add(self.width).min(self.end);
            for (i, (process, next)) in self.processes.iter_mut().enumerate() {
                while *next < self.until {
                    self.drawn.push((*next, i as u32));
                    *next = process.next();
                }
            }
        }
        self.drawn.sort_unstable();
    }
}
