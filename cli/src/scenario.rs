//! A scenario with the profile, devices and traces that it is played on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use graft_files::ReadFile;
use graft_plan::{Arrivals, Device, DeviceSource, Devices, Hardware, Profile, Profiles, Scenario};
use graft_simulator::Trace;

/// Memory, in bytes, of a device that a scenario only counts: 80 GB.
const MEMORY_BYTES: u64 = 80_000_000_000;
/// Most devices that a scenario may count.
const MOST_DEVICES: u32 = 100_000;

/// The files.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Who asks, over which links, and what goes wrong (scenario.json)
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
    /// What stages cost (profiles.json), instead of the scenario's own; once for each kind of device
    #[arg(long, value_name = "FILE")]
    profiles: Vec<PathBuf>,
    /// What there is to run on (devices.json), instead of the scenario's own
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
    /// Folder of bandwidth traces (CSV: time_s,bandwidth_mbps[,rtt_ms]); those that a scenario names and that are
    /// not there are made up
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
}

/// A scenario with what it is played on.
pub(crate) struct Setting {
    pub scenario: Scenario,
    pub hardware: Hardware,
    pub traces: Vec<Arc<Trace>>,
}

impl Files {
    /// A scenario on its own profile and devices.
    pub(crate) fn of(scenario: &Path, traces: Option<&Path>) -> Self {
        Files {
            scenario: scenario.to_owned(),
            profiles: vec![],
            devices: None,
            traces: traces.map(Path::to_owned),
        }
    }

    pub(crate) fn read(&self) -> anyhow::Result<Setting> {
        let mut stage = self.read_for_clients()?;
        let folder = self.folder();
        stage.hardware.devices = match (&self.devices, &stage.scenario.devices) {
            (Some(path), _) => Devices::read(path)?,
            (None, Some(DeviceSource::File(path))) => Devices::read(&folder.join(path))?,
            (None, Some(DeviceSource::Count(count))) => {
                anyhow::ensure!(
                    (1..=MOST_DEVICES).contains(count),
                    "{}: devices: is {count}; expected 1 to {MOST_DEVICES}, or a file",
                    self.scenario.display()
                );
                let [only] = stage.hardware.profiles.kinds() else {
                    anyhow::bail!(
                        "{}: devices: is a number, and there are several kinds of devices; give --devices FILE",
                        self.scenario.display()
                    );
                };
                counted(*count, only)
            }
            (None, None) => anyhow::bail!(
                "{}: devices: is not there; give a number or a file in the scenario, or --devices FILE",
                self.scenario.display()
            ),
        };
        Ok(stage)
    }

    /// Without devices: what clients need.
    pub(crate) fn read_for_clients(&self) -> anyhow::Result<Setting> {
        let mut scenario = Scenario::read(&self.scenario)?;
        let phones = scenario.phones.iter_mut().map(|g| &mut g.arrivals);
        for arrivals in phones.chain(scenario.fragments.iter_mut().map(|f| &mut f.arrivals)) {
            if let Arrivals::Trace { file, gaps } = arrivals {
                let path = self.folder().join(&*file);
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                *gaps = Arrivals::gaps(&text).with_context(|| path.display().to_string())?;
            }
        }
        if scenario.name.is_empty() {
            let stem = self.scenario.file_stem().unwrap_or_default();
            scenario.name = stem.to_string_lossy().into_owned();
        }
        let profiles = match (self.profiles.as_slice(), &scenario.profiles) {
            ([], Some(path)) => Profile::read(&self.folder().join(path))?.into(),
            (given @ [_, ..], _) => read_profiles(given)?,
            ([], None) => anyhow::bail!(
                "{}: profiles: is not there; name a profile in the scenario, or give --profiles FILE",
                self.scenario.display()
            ),
        };
        Ok(Setting {
            traces: self.traces.as_deref().map_or(Ok(vec![]), read_traces)?,
            scenario,
            hardware: Hardware {
                profiles,
                devices: Devices {
                    version: 1,
                    devices: vec![],
                },
            },
        })
    }

    fn folder(&self) -> &Path {
        self.scenario.parent().unwrap_or(Path::new("."))
    }
}

/// The profiles of one or several kinds of devices.
pub(crate) fn read_profiles(files: &[PathBuf]) -> anyhow::Result<Profiles> {
    let each = files.iter().map(|file| Profile::read(file));
    let profiles = Profiles::new(each.collect::<Result<_, _>>()?);
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    profiles.with_context(|| names.join(", "))
}

/// `count` whole devices of the profile's kind.
fn counted(count: u32, profile: &Profile) -> Devices {
    let device = |i: u32| Device {
        id: format!("gpu{i:03}"),
        kind: profile.device_kind.clone(),
        share_total: profile.share_total,
        memory_bytes: MEMORY_BYTES,
        price: None,
    };
    Devices {
        version: 1,
        devices: (0..count).map(device).collect(),
    }
}

/// All traces of a folder, by name.
pub(crate) fn read_traces(folder: &Path) -> anyhow::Result<Vec<Arc<Trace>>> {
    let mut paths = vec![];
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "csv") {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: PathBuf| -> anyhow::Result<Arc<Trace>> {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let trace = Trace::parse(&name, &text).with_context(|| path.display().to_string())?;
        Ok(Arc::new(trace))
    };
    paths.into_iter().map(read).collect()
}
