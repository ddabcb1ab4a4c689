//! What is fenced off of a device.

use std::fmt;

/// A device, or what is fenced off of it, as its kind counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionShape {
    /// Cores of a CPU, by their numbers.
    Cores(Vec<usize>),
    /// Units side by side, which their device numbers from 0: streaming multiprocessors of a GPU, or what an emulated
    /// device counts in.
    Units {
        /// Number of the first one.
        first: u32,
        /// How many there are.
        count: u32,
    },
}

impl PartitionShape {
    /// Cores of a CPU, by their numbers.
    pub fn cores(cores: &[usize]) -> Self {
        PartitionShape::Cores(cores.to_vec())
    }

    /// The first units of a device.
    pub fn units(count: u32) -> Self {
        PartitionShape::Units { first: 0, count }
    }

    /// How many units or cores there are.
    pub fn share(&self) -> u32 {
        match self {
            PartitionShape::Cores(cores) => u32::try_from(cores.len()).unwrap_or(u32::MAX),
            PartitionShape::Units { count, .. } => *count,
        }
    }

    /// So many of them, after the first `skipped`. `None`: there are not so many.
    pub fn part(&self, skipped: u32, count: u32) -> Option<Self> {
        if skipped.checked_add(count)? > self.share() {
            return None;
        }
        Some(match self {
            PartitionShape::Cores(cores) => {
                let from = skipped as usize;
                PartitionShape::Cores(cores[from..from + count as usize].to_vec())
            }
            PartitionShape::Units { first, .. } => PartitionShape::Units {
                first: first.saturating_add(skipped),
                count,
            },
        })
    }
}

impl fmt::Display for PartitionShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionShape::Cores(cores) => write!(f, "cores {cores:?}"),
            PartitionShape::Units { first, count } => write!(f, "{count} units from {first} on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_within_the_whole() {
        let cores = PartitionShape::cores(&[2, 3, 5]);
        assert_eq!(cores.part(1, 2), Some(PartitionShape::cores(&[3, 5])));
        assert_eq!(cores.part(2, 2), None);
        let units = PartitionShape::units(8);
        let part = units.part(2, 4).unwrap();
        assert_eq!(part, PartitionShape::Units { first: 2, count: 4 });
        assert_eq!(
            part.part(1, 3),
            Some(PartitionShape::Units { first: 3, count: 3 })
        );
        assert_eq!(units.part(u32::MAX, 2), None);
    }
}
