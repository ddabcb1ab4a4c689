//! The same launches on two devices: what one computed is kept, and compared with what the other computes.

use serde::{Deserialize, Serialize};

use super::kernels::WITHIN;

/// What cases of kernels computed on a device, in their order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Recording {
    cases: Vec<Recorded>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Recorded {
    label: String,
    /// All elements of the outputs, as bits of 32-bit floats: JSON has no infinity.
    values: Vec<u32>,
    /// FNV-1a over the outputs' bytes on the device.
    bits: u64,
}

/// Two recordings side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// Cases that both have.
    pub cases: usize,
    /// Those whose bytes are the same.
    pub bits_equal: usize,
    /// Largest max|a − b| / max|b| among them.
    pub worst: f64,
    /// Whether all are within what a kernel may be apart from its reference.
    pub ok: bool,
    /// What is further apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

/// Differences that are told at most.
const MAX_WRONG: usize = 8;

impl Recording {
    pub(super) fn add(&mut self, label: &str, bytes: &[u8], values: &[f64]) {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let bits = bytes
            .iter()
            .fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        self.cases.push(Recorded {
            label: label.to_owned(),
            values: values.iter().map(|&x| (x as f32).to_bits()).collect(),
            bits,
        });
    }

    /// Compares with what another device computed of the same cases, as far as both go.
    pub fn against(&self, other: &Recording) -> Replay {
        let mut replay = Replay {
            cases: 0,
            bits_equal: 0,
            worst: 0.0,
            ok: true,
            wrong: vec![],
        };
        for (one, other) in self.cases.iter().zip(&other.cases) {
            replay.cases += 1;
            if one.label == other.label && one.bits == other.bits {
                replay.bits_equal += 1;
                continue;
            }
            let apart = match one.label == other.label && one.values.len() == other.values.len() {
                true => apart(&one.values, &other.values),
                false => f64::MAX,
            };
            replay.worst = replay.worst.max(apart);
            if apart > WITHIN && replay.wrong.len() < MAX_WRONG {
                replay.wrong.push(format!("{}: {apart:.1e}", one.label));
            }
        }
        replay.ok = replay.cases > 0 && replay.worst <= WITHIN;
        replay
    }
}

fn apart(one: &[u32], other: &[u32]) -> f64 {
    let value = |bits: &u32| f64::from(f32::from_bits(*bits));
    let most = other.iter().fold(1e-6f64, |most, x| most.max(value(x).abs()));
    let differences = one.iter().zip(other).map(|(a, b)| (value(a) - value(b)).abs());
    let apart = differences.fold(0.0f64, |all, d| if d.is_nan() { f64::MAX } else { all.max(d) });
    (apart / most).min(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_measured_and_named() {
        let mut one = Recording::default();
        one.add("same", &[1, 2], &[1.0]);
        one.add("near", &[1], &[1.0, 2.0]);
        let mut other = one.clone();
        other.cases[1] = Recorded {
            label: "near".to_owned(),
            values: vec![1f32.to_bits(), 2.002f32.to_bits()],
            bits: 0,
        };
        let replay = one.against(&other);
        assert_eq!((replay.cases, replay.bits_equal, replay.ok), (2, 1, true));
        assert!((replay.worst - 0.001).abs() < 1e-5, "{}", replay.worst);
        other.cases[1].values[1] = 3f32.to_bits();
        let replay = one.against(&other);
        assert!(!replay.ok && replay.wrong[0].starts_with("near"), "{replay:?}");
        assert!(
            !Recording::default().against(&one).ok,
            "nothing compared is nothing shown"
        );
    }
}
