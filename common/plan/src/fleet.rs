//! Devices with what stages cost on each of them.

use std::collections::HashMap;

use crate::cost::CostError;
use crate::devices::{Device, Devices};
use crate::plan::Plan;
use crate::profile::Profile;
use crate::profiles::Profiles;

/// Devices, and what stages cost on each kind of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Hardware {
    /// What stages cost.
    pub profiles: Profiles,
    /// The devices.
    pub devices: Devices,
}

impl Hardware {
    /// To look devices up by their ids.
    pub fn fleet(&self) -> Fleet<'_> {
        Fleet::new(&self.profiles, &self.devices)
    }
}

/// Devices with what stages cost on each of them: each device has the profile of its kind.
#[derive(Debug, Clone)]
pub struct Fleet<'a> {
    profiles: &'a Profiles,
    devices: &'a Devices,
    by_id: HashMap<&'a str, (&'a Device, Option<&'a Profile>)>,
}

impl<'a> Fleet<'a> {
    /// Of these devices.
    pub fn new(profiles: &'a Profiles, devices: &'a Devices) -> Self {
        let kinds: HashMap<&str, &Profile> = profiles
            .kinds()
            .iter()
            .map(|p| (p.device_kind.as_str(), p))
            .collect();
        let of = |d: &'a Device| (d.id.as_str(), (d, kinds.get(d.kind.as_str()).copied()));
        Fleet {
            profiles,
            devices,
            by_id: devices.devices.iter().map(of).collect(),
        }
    }

    /// A device by its id.
    pub fn device(&self, id: &str) -> Option<&'a Device> {
        self.by_id.get(id).map(|(device, _)| *device)
    }

    /// The profile of a device's kind. Where there is one profile, devices that are not listed, or are of another kind,
    /// are taken to be of its kind.
    pub fn profile(&self, device: &str) -> Option<&'a Profile> {
        let of_kind = self.by_id.get(device).and_then(|(_, profile)| *profile);
        match self.profiles.kinds() {
            [only] => Some(only),
            _ => of_kind,
        }
    }

    /// The profile of a device's kind, or why there is none.
    pub fn profile_of(&self, device: &str) -> Result<&'a Profile, CostError> {
        let unknown = || CostError::UnknownDevice(device.to_owned());
        self.profile(device).ok_or_else(unknown)
    }

    /// The profiles.
    pub fn profiles(&self) -> &'a Profiles {
        self.profiles
    }

    /// Cost of a unit of share of a device: its part of the device's price, or 1 where devices have no prices.
    pub fn unit_cost(&self, device: &str) -> f64 {
        self.device(device).map_or(1.0, Device::unit_cost)
    }

    /// Cost of a unit of share of devices of a kind, or 1 where devices have no prices.
    pub fn unit_cost_of_kind(&self, kind: &str) -> f64 {
        let mut of_kind = self.devices.devices.iter().filter(|d| d.kind == kind);
        of_kind.next().map_or(1.0, Device::unit_cost)
    }

    /// Cost of a plan: what its partitions take of the devices' prices, or the total share where devices have no prices.
    pub fn cost(&self, plan: &Plan) -> f64 {
        let each = plan.partitions.iter();
        each.map(|p| f64::from(p.share.0) * self.unit_cost(&p.device))
            .sum()
    }
}
