//! `devices.json`: the devices that there are.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::file::{Checked, Wrong, version, wrong};
use crate::units::Share;

/// The devices that there are to run on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Devices {
    /// Version of the format: 1.
    pub version: u32,
    /// The devices.
    pub devices: Vec<Device>,
}

/// A GPU, or a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Id, unique in the file: `host/device`.
    pub id: String,
    /// Kind of device, as the profile names it.
    pub kind: String,
    /// Share of the whole device.
    pub share_total: Share,
    /// Memory for weights, in bytes.
    pub memory_bytes: u64,
}

impl Checked for Devices {
    fn verify(&self) -> Result<(), Wrong> {
        version(self.version)?;
        let mut seen = HashSet::new();
        for (i, d) in self.devices.iter().enumerate() {
            if d.id.is_empty() || !seen.insert(d.id.as_str()) {
                return wrong(
                    format!("devices[{i}].id"),
                    format!("is {:?}; expected an id that no other device has", d.id),
                );
            }
            if d.share_total.0 == 0 {
                return wrong(format!("devices[{i}].share_total"), "is 0; expected 1 or more");
            }
        }
        Ok(())
    }
}
