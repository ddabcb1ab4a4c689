//! What was found, for people and programs.

use graft_model::CutPoint;
use serde_json::{Value, json};

use super::search::{AsJpeg, Found};
use crate::output::line;

/// Link by which the table says what sending takes, in Mbit/s.
const LINK_MBPS: f64 = 10.0;

pub(super) struct Report<'f> {
    pub model: String,
    pub last: CutPoint,
    pub found: &'f [Found],
    pub jpeg: AsJpeg,
    /// Requests that codings were held against.
    pub held: usize,
    pub file: String,
    pub file_bytes: usize,
}

fn sending_ms(bytes: usize) -> f64 {
    bytes as f64 * 8.0 / (LINK_MBPS * 1e3)
}

fn ratio(found: &Found) -> f64 {
    f64::from(found.coding.mean_bytes) / found.plain_bytes as f64
}

impl Report<'_> {
    fn mean_ratio(&self) -> f64 {
        self.found.iter().map(ratio).sum::<f64>() / self.found.len().max(1) as f64
    }

    /// Milliseconds for a megabyte of 32-bit floats, over all that was coded.
    fn encode_ms_per_mb(&self) -> f64 {
        let ms: f64 = self.found.iter().map(|f| f.encode_ms).sum();
        let bytes: usize = self.found.iter().map(|f| f.plain_bytes).sum();
        ms / (bytes.max(1) as f64 / 1e6)
    }

    pub fn print(&self) -> anyhow::Result<()> {
        line(format_args!(
            "{:>9} {:>11} {:>9} {:>7} {:>6} {:>7} {:>7} {:>10} {:>12}",
            "cut point", "fp32 bytes", "coded", "part", "step", "lost", "others", "coding ms", "at 10 Mbit/s"
        ))?;
        for found in self.found {
            let bytes = found.coding.mean_bytes as usize;
            line(format_args!(
                "{:>9} {:>11} {:>9} {:>7.3} {:>6.3} {:>6.2}% {:>6.1}% {:>10.3} {:>9.1} ms",
                found.point,
                found.plain_bytes,
                bytes,
                ratio(found),
                found.step,
                100.0 * found.answers.loss(),
                100.0 * found.answers.others(),
                found.encode_ms,
                found.encode_ms + sending_ms(bytes)
            ))?;
        }
        let jpeg = &self.jpeg;
        line(format_args!(
            "{:>9} {:>11} {:>9} {:>7} {:>6} {:>6.2}% {:>6.1}% {:>10.3} {:>9.1} ms",
            format!("JPEG {}", jpeg.quality),
            "",
            jpeg.bytes,
            "",
            "",
            100.0 * jpeg.answers.loss(),
            100.0 * jpeg.answers.others(),
            jpeg.encode_ms,
            jpeg.encode_ms + sending_ms(jpeg.bytes)
        ))?;
        line(format_args!(
            "in the mean {:.3} of fp32's bytes over {} cut points; lost: accuracy, if the network is right as often as it says; others: first labels of {} that are not those without coding; {:.2} ms for a megabyte of fp32",
            self.mean_ratio(),
            self.found.len(),
            self.held,
            self.encode_ms_per_mb()
        ))?;
        line(format_args!("{}: {} bytes", self.file, self.file_bytes))
    }

    pub fn json(&self) -> Value {
        let cuts = self.found.iter().map(|f| {
            json!({
                "cut_point": f.point, "fp32_bytes": f.plain_bytes, "coded_bytes": f.coding.mean_bytes, "part": ratio(f),
                "step": f.step, "loss": f.answers.loss(), "others": f.answers.others(), "encode_ms": f.encode_ms,
            })
        });
        json!({
            "model": self.model, "file": self.file, "file_bytes": self.file_bytes, "held_against": self.held,
            "mean_part": self.mean_ratio(), "encode_ms_per_mb": self.encode_ms_per_mb(), "cuts": cuts.collect::<Vec<_>>(),
            "jpeg": {
                "quality": self.jpeg.quality, "bytes": self.jpeg.bytes, "loss": self.jpeg.answers.loss(),
                "others": self.jpeg.answers.others(),
                "encode_ms": self.jpeg.encode_ms,
            },
        })
    }
}
