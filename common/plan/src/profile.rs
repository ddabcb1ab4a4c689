//! `profiles.json`: what a stage costs on one kind of device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::file::{Checked, Wrong, not_negative, version, wrong};
use crate::units::Share;

/// What stages cost on one kind of device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Version of the format: 1.
    pub version: u32,
    /// Kind of device; devices and profile must agree.
    pub device_kind: String,
    /// Origin of the figures.
    pub source: Source,
    /// Share of a whole device.
    pub share_total: Share,
    /// Shares that may be used, ascending.
    pub shares: Vec<Share>,
    /// Batches that were measured, ascending.
    pub batches: Vec<u32>,
    /// Overhead that is added once for each chunk, in milliseconds.
    pub stage_overhead_ms: f64,
    /// Time of a hop, from a stage to the next and from arrival to the first, in milliseconds.
    pub hop_ms: f64,
    /// Figures of each model, by its name.
    pub models: BTreeMap<String, ModelProfile>,
}

/// Origin of a profile's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Measured on the device.
    Measured,
    /// Computed from a model of the device.
    Modelled,
}

/// One model's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelProfile {
    /// Bytes of one request's tensor at each cut point, with two bytes an element.
    pub cut_bytes: Vec<u64>,
    /// Figures of each segment: segment k lies between cut points k and k + 1.
    pub segments: Vec<SegmentProfile>,
}

/// One segment's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentProfile {
    /// Bytes of its weights.
    pub weights_bytes: u64,
    /// Floating-point operations of one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<u64>,
    /// Milliseconds that it takes: one row for each batch, one number for each share.
    pub ms: Vec<Vec<f64>>,
}

impl Profile {
    /// Place of a share in the list.
    pub fn share_index(&self, share: Share) -> Option<usize> {
        self.shares.iter().position(|&s| s == share)
    }

    /// Place of the smallest listed batch that holds `requests`.
    pub fn batch_index(&self, requests: u32) -> Option<usize> {
        self.batches.iter().position(|&b| b >= requests)
    }
}

impl Profile {
    /// The profile with the time of each model's runs multiplied, by the model's name and the batch.
    pub fn times(&self, multiple: impl Fn(&str, u32) -> f64) -> Self {
        let mut profile = self.clone();
        for (name, model) in &mut profile.models {
            let multiples: Vec<f64> = self.batches.iter().map(|&batch| multiple(name, batch)).collect();
            for segment in &mut model.segments {
                for (row, multiple) in segment.ms.iter_mut().zip(&multiples) {
                    row.iter_mut().for_each(|ms| *ms *= multiple);
                }
            }
        }
        profile
    }
}

impl Checked for Profile {
    fn verify(&self) -> Result<(), Wrong> {
        version(self.version)?;
        not_negative(
            || "stage_overhead_ms".to_owned(),
            self.stage_overhead_ms,
            "milliseconds",
        )?;
        not_negative(|| "hop_ms".to_owned(), self.hop_ms, "milliseconds")?;
        let ascending =
            |list: &[u32]| list.first().is_some_and(|&f| f > 0) && list.windows(2).all(|w| w[0] < w[1]);
        let shares: Vec<u32> = self.shares.iter().map(|s| s.0).collect();
        if !ascending(&shares) || shares.last() > Some(&self.share_total.0) {
            return wrong(
                "shares",
                format!(
                    "is {shares:?}; expected ascending shares from 1 to share_total ({})",
                    self.share_total
                ),
            );
        }
        if !ascending(&self.batches) || self.batches[0] != 1 {
            return wrong(
                "batches",
                format!(
                    "is {:?}; expected ascending batches that begin with 1",
                    self.batches
                ),
            );
        }
        for (name, model) in &self.models {
            let place = |rest: &str| format!("models[{name:?}].{rest}");
            if model.segments.is_empty() || model.cut_bytes.len() != model.segments.len() + 1 {
                return wrong(
                    place("cut_bytes"),
                    format!(
                        "has {} entries; expected one more than there are segments ({})",
                        model.cut_bytes.len(),
                        model.segments.len()
                    ),
                );
            }
            if model.segments.len() > usize::from(u16::MAX) {
                return wrong(place("segments"), "has more than 65535 entries");
            }
            for (k, segment) in model.segments.iter().enumerate() {
                if segment.ms.len() != self.batches.len() {
                    return wrong(
                        place(&format!("segments[{k}].ms")),
                        format!(
                            "has {} rows; expected one for each batch ({})",
                            segment.ms.len(),
                            self.batches.len()
                        ),
                    );
                }
                for (b, row) in segment.ms.iter().enumerate() {
                    if row.len() != self.shares.len() {
                        return wrong(
                            place(&format!("segments[{k}].ms[{b}]")),
                            format!(
                                "has {} numbers; expected one for each share ({})",
                                row.len(),
                                self.shares.len()
                            ),
                        );
                    }
                    for (s, &ms) in row.iter().enumerate() {
                        not_negative(
                            || place(&format!("segments[{k}].ms[{b}][{s}]")),
                            ms,
                            "milliseconds",
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}
