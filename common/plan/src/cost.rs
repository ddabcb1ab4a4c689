//! The cost of a run: the times of its chunks.

use graft_model::{CutPoint, StageRange};

use crate::profile::Profile;
use crate::units::{Nanos, Share, ms_to_nanos};

/// A part of a run, between two cut points, after which a more urgent batch may go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Layers of the chunk.
    pub range: StageRange,
    /// Time that it takes.
    pub time: Nanos,
}

/// Reason why a profile gives no cost for a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// The profile has no such model.
    #[error("the profile has no model {0}")]
    UnknownModel(String),
    /// The range goes beyond the last cut point.
    #[error("layers {range} of {model} go beyond its last cut point {last}")]
    BeyondLastCut {
        /// The model.
        model: String,
        /// The range asked for.
        range: StageRange,
        /// The model's last cut point.
        last: usize,
    },
    /// The share is not listed.
    #[error("share {0} is not listed in the profile")]
    UnlistedShare(Share),
    /// The batch is larger than the largest listed one.
    #[error("a batch of {0} is larger than the largest in the profile")]
    BatchTooLarge(u32),
    /// The device is not known, or of a kind that is not.
    #[error("no profile is of the kind of device {0}")]
    UnknownDevice(String),
}

impl Profile {
    fn row(
        &self,
        model: &str,
        range: StageRange,
        requests: u32,
        share: Share,
    ) -> Result<impl Iterator<Item = f64> + '_, CostError> {
        let profile = self
            .models
            .get(model)
            .ok_or_else(|| CostError::UnknownModel(model.to_owned()))?;
        let segments = profile
            .segments
            .get(range.segments())
            .ok_or_else(|| CostError::BeyondLastCut {
                model: model.to_owned(),
                range,
                last: profile.segments.len(),
            })?;
        let batch = self
            .batch_index(requests)
            .ok_or(CostError::BatchTooLarge(requests))?;
        let share = self.share_index(share).ok_or(CostError::UnlistedShare(share))?;
        Ok(segments.iter().map(move |s| s.ms[batch][share]))
    }

    /// The chunks of a run of `requests`. Each chunk takes as many segments as keep their time within `quantum_ms`, at
    /// least one; 0: the run is not cut. Each chunk's time includes the stage overhead once and is rounded to the
    /// nearest nanosecond.
    pub fn chunks(
        &self,
        model: &str,
        range: StageRange,
        requests: u32,
        share: Share,
        quantum_ms: f64,
    ) -> Result<Vec<Chunk>, CostError> {
        let mut chunks = vec![];
        let mut sum = 0.0;
        let mut from = range.from();
        let mut at = range.from();
        let mut end = |from, at, sum| {
            let time = ms_to_nanos(self.stage_overhead_ms + sum);
            chunks.extend(StageRange::new(from, at).map(|range| Chunk { range, time }));
        };
        for ms in self.row(model, range, requests, share)? {
            if quantum_ms > 0.0 && at > from && sum + ms > quantum_ms {
                end(from, at, sum);
                from = at;
                sum = 0.0;
            }
            sum += ms;
            at = CutPoint(at.0 + 1);
        }
        end(from, at, sum);
        Ok(chunks)
    }

    /// Time of a run of `requests`: the sum of its chunks, lat(stage, requests, partition) of the file formats.
    pub fn latency(
        &self,
        model: &str,
        range: StageRange,
        requests: u32,
        share: Share,
        quantum_ms: f64,
    ) -> Result<Nanos, CostError> {
        let chunks = self.chunks(model, range, requests, share, quantum_ms)?;
        Ok(chunks.iter().fold(Nanos::ZERO, |sum, c| sum + c.time))
    }
}
