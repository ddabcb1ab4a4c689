//! `graft evaluate`: measures the planner against its baselines, its ablations, the optimum and the bound.

mod experiments;
mod report;
mod scenarios;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use graft_files::ReadFile;
use graft_plan::{Devices, Hardware, Profile, Workload};
use graft_planner_search::{Lacks, Problem};

use crate::Verdict;
use crate::output::line;
use crate::scenario::{Files, Setting};

/// Measure the planner: share at full attainment, attainment at equal share, sensitivity, planning time, gaps.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder with profiles/NAME.json, devices/NAME.json (or others of the profile's kind) and workloads/*.json
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where report.md, results.json and the plots go
    #[arg(long, value_name = "DIR", default_value = "docs/evaluation")]
    out: PathBuf,
    /// Names of profiles to use, instead of all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    profiles: Vec<String>,
    /// Names of workloads to use, instead of all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Scenarios to play under each algorithm, beside the workloads
    #[arg(long, value_name = "FILE")]
    scenario: Vec<PathBuf>,
    /// Keep what results.json there has of other profiles and scenarios: an hour's campaign in parts
    #[arg(long)]
    keep: bool,
    /// Folder of bandwidth traces for them
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// How long Graft looks for cheaper plans, in milliseconds for a hundred phones; ten times as many take three
    /// times as long
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    effort: u64,
    /// Random small workloads that are compared with the optimum
    #[arg(long, value_name = "N", default_value_t = 60)]
    small: usize,
}

/// One kind of device with the workloads that its profile knows.
struct Bench {
    name: String,
    hardware: Hardware,
    workloads: Vec<(String, Workload)>,
}

impl Bench {
    fn problem(&self, workload: &Workload) -> Problem {
        Problem {
            workload: workload.clone(),
            hardware: self.hardware.clone(),
            lacks: Lacks::new(),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    let sites = sites(&arguments)?;
    std::fs::create_dir_all(&arguments.out).with_context(|| arguments.out.display().to_string())?;
    let effort = Duration::from_millis(arguments.effort);
    let stages: Vec<Setting> = arguments
        .scenario
        .iter()
        .map(|file| Files::of(file, arguments.traces.as_deref()).read())
        .collect::<anyhow::Result<_>>()?;
    let mut results = experiments::all(&sites, effort, arguments.small)?;
    for stage in &stages {
        results.lived.extend(scenarios::lived(stage)?);
    }
    let before = arguments.out.join("results.json");
    if arguments.keep && before.is_file() {
        let text = std::fs::read(&before).with_context(|| before.display().to_string())?;
        let kept = serde_json::from_slice(&text).with_context(|| before.display().to_string())?;
        let profiles: Vec<String> = sites.iter().map(|s| s.name.clone()).collect();
        results = results.beside(kept, &profiles);
    }
    let write = |name: &str, text: &str| {
        let path = arguments.out.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("results.json", &serde_json::to_string_pretty(&results)?)?;
    for (name, svg) in report::plots(&results) {
        write(&name, &svg)?;
    }
    write("report.md", &report::markdown(&results))?;
    line(format_args!(
        "wrote {}",
        arguments.out.join("report.md").display()
    ))?;
    Ok(Verdict::Yes)
}

/// Names of a folder's JSON files, by name.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut names = vec![];
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json")
            && let Some(stem) = path.file_stem()
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The devices of a profile's name, or else the first file with devices of its kind.
fn devices_of(profile_name: &str, profile: &Profile, folder: &Path) -> anyhow::Result<Devices> {
    let own = folder.join(format!("{profile_name}.json"));
    if own.is_file() {
        return Ok(Devices::read(&own)?);
    }
    for name in names(folder)? {
        let devices = Devices::read(&folder.join(format!("{name}.json")))?;
        if devices.devices.iter().any(|d| d.kind == profile.device_kind) {
            line(format_args!(
                "{profile_name}: devices of {name}.json, which are of its kind"
            ))?;
            return Ok(devices);
        }
    }
    anyhow::bail!(
        "{} has neither {profile_name}.json nor devices of the kind {}",
        folder.display(),
        profile.device_kind
    )
}

fn sites(arguments: &Arguments) -> anyhow::Result<Vec<Bench>> {
    let wanted = |list: &[String], name: &String| list.is_empty() || list.contains(name);
    let file = |kind: &str, name: &str| arguments.data.join(kind).join(format!("{name}.json"));
    let mut workloads = vec![];
    for name in names(&arguments.data.join("workloads"))? {
        if wanted(&arguments.workloads, &name) {
            let workload = Workload::read(&file("workloads", &name))?;
            workloads.push((name, workload));
        }
    }
    // Small ones first.
    workloads.sort_by_key(|(_, w)| w.fragments.len());
    let mut sites = vec![];
    for name in names(&arguments.data.join("profiles"))? {
        if !wanted(&arguments.profiles, &name) {
            continue;
        }
        let profile = Profile::read(&file("profiles", &name))?;
        let devices = devices_of(&name, &profile, &arguments.data.join("devices"))?;
        let known = |w: &Workload| w.fragments.iter().all(|f| profile.models.contains_key(&f.model));
        let workloads = workloads.iter().filter(|(_, w)| known(w)).cloned().collect();
        sites.push(Bench {
            name,
            hardware: Hardware {
                profiles: profile.into(),
                devices,
            },
            workloads,
        });
    }
    anyhow::ensure!(
        sites.iter().any(|s| !s.workloads.is_empty()) || !arguments.scenario.is_empty(),
        "{} has no profile with a workload whose models it knows",
        arguments.data.display()
    );
    Ok(sites)
}
