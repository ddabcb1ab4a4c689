//! A planning problem.

use std::collections::BTreeSet;

use graft_plan::{Device, Devices, Profile, Workload};

/// Models that devices lack: (device, model).
pub type Lacks = BTreeSet<(String, String)>;

/// A planning problem: load, costs and devices.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What must be served.
    pub workload: Workload,
    /// What running layers costs.
    pub profile: Profile,
    /// Devices that there are.
    pub devices: Devices,
    /// Models that devices lack, and that they are therefore not planned for.
    pub lacks: Lacks,
}

impl Problem {
    pub(crate) fn has(&self, device: &str, model: &str) -> bool {
        !self.lacks.contains(&(device.to_owned(), model.to_owned()))
    }

    /// Devices of the profile's kind.
    pub(crate) fn usable(&self) -> impl Iterator<Item = (usize, &Device)> {
        let devices = self.devices.devices.iter().enumerate();
        devices.filter(|(_, d)| d.kind == self.profile.device_kind)
    }
}
