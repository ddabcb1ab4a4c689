//! A planning problem.

use std::collections::BTreeSet;

use graft_plan::{Device, Hardware, Workload};

/// Models that devices lack: (device, model).
pub type Lacks = BTreeSet<(String, String)>;

/// A planning problem: load, costs and devices.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What must be served.
    pub workload: Workload,
    /// Devices that there are, and what running layers costs on each kind.
    pub hardware: Hardware,
    /// Models that devices lack, and that they are therefore not planned for.
    pub lacks: Lacks,
}

impl Problem {
    pub(crate) fn has(&self, device: &str, model: &str) -> bool {
        !self.lacks.contains(&(device.to_owned(), model.to_owned()))
    }

    /// Devices of the profiles' kinds.
    pub(crate) fn usable(&self) -> impl Iterator<Item = (usize, &Device)> {
        let devices = self.hardware.devices.devices.iter().enumerate();
        devices.filter(|(_, d)| self.hardware.profiles.of_kind(&d.kind).is_some())
    }
}
