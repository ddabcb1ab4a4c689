//! When requests arrive: a Poisson process for each fragment, with a generator of its own.

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    /// Seeded by a run's seed and a fragment's id (FNV-1a).
    pub fn new(seed: u64, id: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in seed.to_le_bytes().into_iter().chain(id.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Generator { state: hash }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An exponentially distributed time with the given mean, in the mean's unit.
    fn exponential(&mut self, mean: f64) -> f64 {
        // In (0, 1]: the logarithm is finite.
        let uniform = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -uniform.ln() * mean
    }
}

/// A fragment's arrivals.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    generator: Generator,
    mean_ns: f64,
    at_ns: f64,
}

impl Arrivals {
    pub fn new(seed: u64, id: &str, rate_rps: f64) -> Self {
        Arrivals {
            generator: Generator::new(seed, id),
            mean_ns: 1e9 / rate_rps,
            at_ns: 0.0,
        }
    }

    /// The next arrival, in nanoseconds from the start.
    pub fn next(&mut self) -> u64 {
        self.at_ns += self.generator.exponential(self.mean_ns);
        self.at_ns.round() as u64
    }
}
