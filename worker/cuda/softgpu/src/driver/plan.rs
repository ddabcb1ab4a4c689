//! What the device is, and which faults it is to have.

/// A device and its faults, as `GRAFT_SOFTGPU` tells them: `key=value` with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Number of devices.
    pub devices: u32,
    /// Streaming multiprocessors of each.
    pub sms: u32,
    /// Compute capability: 90 is 9.0.
    pub capability: u32,
    /// Bytes of memory of each.
    pub memory: u64,
    /// Driver's version: 13000 is CUDA 13.0.
    pub driver: u32,
    /// Seed of the order of blocks and warps.
    pub seed: u64,
    /// Whether devices can be divided.
    pub green: bool,
    /// Allocations from now on until all fail, since memory is full.
    pub full_after: Option<u64>,
    /// Launches from now on until one fails, which spoils its context.
    pub fail_after: Option<u64>,
    /// Launches from now on until the device is lost.
    pub lose_after: Option<u64>,
    /// Nanoseconds that each launch takes longer.
    pub slow_ns: u64,
    /// What launches and copies take on the host's clock, as a multiple of what is modelled; 0: as long as it takes to work them out.
    pub stretch: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            devices: 1,
            sms: 16,
            capability: 90,
            memory: 8 << 30,
            driver: 13_000,
            seed: 1,
            green: true,
            full_after: None,
            fail_after: None,
            lose_after: None,
            slow_ns: 0,
            stretch: 0,
        }
    }
}

/// Why a plan is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "GRAFT_SOFTGPU: {0:?} is not understood; known are devices, sms, capability, memory, driver, seed, green, full_after, fail_after, lose_after, slow_ns, stretch, each with = and a number"
)]
pub struct PlanError(String);

impl Plan {
    /// Reads a plan; what is not told stays as it is here.
    pub fn with(&self, text: &str) -> Result<Plan, PlanError> {
        let mut plan = self.clone();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let wrong = || PlanError(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let number: u64 = value.trim().parse().map_err(|_| wrong())?;
            let small = || u32::try_from(number).map_err(|_| wrong());
            match key.trim() {
                "devices" => plan.devices = small()?.min(16),
                "sms" => plan.sms = small()?.clamp(2, 256),
                "capability" => plan.capability = small()?,
                "memory" => plan.memory = number,
                "driver" => plan.driver = small()?,
                "seed" => plan.seed = number,
                "green" => plan.green = number != 0,
                "full_after" => plan.full_after = Some(number).filter(|n| *n != u64::MAX),
                "fail_after" => plan.fail_after = Some(number),
                "lose_after" => plan.lose_after = Some(number),
                "slow_ns" => plan.slow_ns = number,
                "stretch" => plan.stretch = small()?,
                _ => return Err(wrong()),
            }
        }
        Ok(plan)
    }

    /// What it is for a device: faults that are told at the start are the first device's.
    pub fn of(&self, ordinal: u32) -> Plan {
        if ordinal == 0 {
            return self.clone();
        }
        Plan {
            full_after: None,
            fail_after: None,
            lose_after: None,
            ..self.clone()
        }
    }

    /// Streaming multiprocessors that are split off at once, at least.
    pub fn smallest_split(&self, alone: bool) -> u32 {
        match (self.capability / 10, alone) {
            (9.., false) => 8,
            (9.., true) => 2,
            (8, _) => 4,
            _ => 2,
        }
    }
}

/// Counts down to a fault that stays; `true`: it is there.
pub(super) fn reached(after: &mut Option<u64>) -> bool {
    match after {
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

/// Counts down to a fault; `true`: now.
pub(super) fn due(after: &mut Option<u64>) -> bool {
    match after {
        Some(0) => {
            *after = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_and_what_is_unknown_is_named() {
        let plan = Plan::default().with("sms=132, fail_after=3").unwrap();
        assert_eq!((plan.sms, plan.fail_after, plan.devices), (132, Some(3), 1));
        let error = Plan::default().with("smx=3").unwrap_err();
        assert!(error.to_string().contains("smx=3"), "{error}");
    }

    #[test]
    fn a_fault_comes_when_it_is_due_once_or_for_good() {
        let mut after = Some(2);
        assert_eq!([(); 4].map(|()| due(&mut after)), [false, false, true, false]);
        let mut after = Some(1);
        assert_eq!([(); 3].map(|()| reached(&mut after)), [false, true, true]);
        let lifted = Plan::default()
            .with("full_after=0")
            .unwrap()
            .with(&format!("full_after={}", u64::MAX));
        assert_eq!(lifted.unwrap().full_after, None);
    }
}
