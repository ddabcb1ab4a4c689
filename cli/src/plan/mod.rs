//! `graft plan`: makes plans, says whether they keep the rules, and what they would attain.

mod algorithm;
mod check;
mod diff;
mod log;
mod make;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use graft_files::ReadFile;
use graft_plan::{Devices, Hardware, Plan, Workload};
use graft_planner_search::{Lacks, Problem};

pub(crate) use algorithm::Algorithm;
pub(crate) use log::outcome;

use crate::Verdict;
use crate::scenario::read_profiles;

/// Make a plan, or check one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    files: Option<Files>,
    #[command(flatten)]
    make: make::Make,
}

/// What is planned for.
#[derive(Debug, Args)]
struct Files {
    /// What must be served (workload.json)
    #[arg(long, value_name = "FILE")]
    workload: PathBuf,
    /// What stages cost (profiles.json); once for each kind of device
    #[arg(long, value_name = "FILE", required = true)]
    profiles: Vec<PathBuf>,
    /// What there is to run on (devices.json)
    #[arg(long, value_name = "FILE")]
    devices: PathBuf,
}

impl Files {
    fn read(&self) -> anyhow::Result<Problem> {
        Ok(Problem {
            workload: Workload::read(&self.workload)?,
            hardware: Hardware {
                profiles: read_profiles(&self.profiles)?,
                devices: Devices::read(&self.devices)?,
            },
            lacks: Lacks::new(),
        })
    }
}

/// A plan's cost: its total share, or what it takes of the devices' prices.
fn cost(plan: &Plan, hardware: &Hardware) -> serde_json::Number {
    let priced = hardware.devices.devices.iter().any(|d| d.price.is_some());
    let price = serde_json::Number::from_f64(rounded(hardware.fleet().cost(plan)));
    price
        .filter(|_| priced)
        .unwrap_or_else(|| plan.total_share.into())
}

/// A cost to a millionth: what is beyond comes from adding up.
fn rounded(cost: f64) -> f64 {
    (cost * 1e6).round() / 1e6
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Hold a plan against the rules, and simulate it if asked to
    Check(check::Check),
    /// Say what a plan changes about another
    Diff(diff::Diff),
    /// Tell a planner's decisions: why, what was expected of them, and what came of them
    Log(log::Log),
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    match (arguments.command, arguments.files) {
        (Some(Command::Check(arguments)), _) => check::check(&arguments),
        (Some(Command::Diff(arguments)), _) => diff::diff(&arguments),
        (Some(Command::Log(arguments)), _) => log::log(&arguments),
        (None, Some(files)) => make::make(&files, &arguments.make),
        (None, None) => {
            anyhow::bail!("give --workload, --profiles and --devices, or a subcommand: see --help")
        }
    }
}
