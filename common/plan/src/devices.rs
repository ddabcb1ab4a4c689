//! `devices.json`: the devices that there are.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::file::{Checked, Wrong, positive, version, wrong};
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Id, unique in the file: `host/device`.
    pub id: String,
    /// Kind of device, as the profile names it.
    pub kind: String,
    /// Share of the whole device, in the units of its kind: streaming multiprocessors, percent, cores.
    pub share_total: Share,
    /// Memory for weights, in bytes.
    pub memory_bytes: u64,
    /// Price of the whole device, in a unit that is the same for all devices. `None`, then of all: a plan costs its total
    /// share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<f64>,
}

/// Prices that a device may have, in whatever unit.
pub const PRICES: RangeInclusive<f64> = 1e-6..=1e6;

impl Device {
    /// Cost of a unit of its share: its part of the price, or 1 where there is none.
    pub fn unit_cost(&self) -> f64 {
        self.price
            .map_or(1.0, |price| price / f64::from(self.share_total.0))
    }
}

impl Checked for Devices {
    fn verify(&self) -> Result<(), Wrong> {
        version(self.version)?;
        let mut seen = HashSet::new();
        let mut kinds: HashMap<&str, &Device> = HashMap::new();
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
            let price = || format!("devices[{i}].price");
            if let Some(price_of_it) = d.price {
                positive(price, price_of_it, "the prices' unit")?;
                if !PRICES.contains(&price_of_it) {
                    let (least, most) = PRICES.into_inner();
                    return wrong(
                        price(),
                        format!("is {price_of_it}; expected {least} to {most}, in a suitable unit"),
                    );
                }
            }
            // A unit of share costs the same on all devices of a kind, so that a plan's cost does not depend on places.
            let like = *kinds.entry(d.kind.as_str()).or_insert(d);
            let all_or_none = d.price.is_some() == self.devices[0].price.is_some();
            let alike = (d.unit_cost() - like.unit_cost()).abs() <= 1e-9 * like.unit_cost();
            if !all_or_none || !alike {
                return wrong(
                    price(),
                    format!(
                        "is {}; expected a price for all devices or for none, and the same price of a unit of share for all of kind {:?}",
                        d.price.map_or("missing".to_owned(), |price| price.to_string()),
                        d.kind
                    ),
                );
            }
        }
        Ok(())
    }
}
