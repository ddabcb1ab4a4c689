//! `graft plan`: makes plans, says whether they keep the rules, and what they would attain.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use graft_certify::{Certificate, certify};
use graft_plan::{Broken, Devices, Epoch, FormatFile, Plan, Profile, Workload};
use graft_planner_core::{Lacks, Options, Problem, plan, plan_accepted};
use serde_json::json;

use crate::Verdict;
use crate::output::line;

/// Make a plan, or check one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    make: Option<Make>,
}

#[derive(Debug, Args)]
pub(crate) struct Make {
    /// What must be served (workload.json)
    #[arg(long, value_name = "FILE")]
    workload: PathBuf,
    /// What stages cost (profiles.json)
    #[arg(long, value_name = "FILE")]
    profiles: PathBuf,
    /// What there is to run on (devices.json)
    #[arg(long, value_name = "FILE")]
    devices: PathBuf,
    /// How to plan
    #[arg(long, value_enum, default_value_t = Algorithm::Simple)]
    algorithm: Algorithm,
    /// Don't tighten the plan until the reference simulation certifies it
    #[arg(long)]
    no_certify: bool,
    /// The plan as JSON on standard output, instead of a summary
    #[arg(long)]
    json: bool,
    /// Write the plan to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Algorithm {
    /// Equal fragments merged, one re-partition point a model, first fit on devices
    Simple,
    /// The same without re-partition points
    SimpleApart,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Hold a plan against the rules, and simulate it if asked to
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// What must be served (workload.json)
    #[arg(long, value_name = "FILE")]
    workload: PathBuf,
    /// What stages cost (profiles.json)
    #[arg(long, value_name = "FILE")]
    profiles: PathBuf,
    /// What there is to run on (devices.json)
    #[arg(long, value_name = "FILE")]
    devices: PathBuf,
    /// The plan (plan.json)
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Run the reference simulation, with three seeds of 120 s each
    #[arg(long)]
    simulate: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    match (arguments.command, arguments.make) {
        (Some(Command::Check(arguments)), _) => check(&arguments),
        (None, Some(make)) => self::make(&make),
        (None, None) => {
            anyhow::bail!("give --workload, --profiles and --devices, or a subcommand: see --help")
        }
    }
}

fn make(arguments: &Make) -> anyhow::Result<Verdict> {
    let problem = Problem {
        workload: Workload::read(&arguments.workload)?,
        profile: Profile::read(&arguments.profiles)?,
        devices: Devices::read(&arguments.devices)?,
        lacks: Lacks::new(),
    };
    let options = Options {
        realign: matches!(arguments.algorithm, Algorithm::Simple),
    };
    let Problem {
        workload,
        profile,
        devices,
        ..
    } = &problem;
    let (plan, certificate) = if arguments.no_certify {
        (plan(&problem, Epoch(1), options), None)
    } else {
        certified(&problem, options)?
    };
    let broken = plan.check(workload, profile, devices);
    anyhow::ensure!(
        broken.is_empty(),
        "the plan breaks its own rules, which is a bug: {}",
        broken[0]
    );
    if let Some(file) = &arguments.out {
        std::fs::write(file, plan.to_json()?).with_context(|| file.display().to_string())?;
    }
    if arguments.json {
        line(plan.to_json()?)?;
    } else {
        line(format_args!(
            "cost {} on {} partitions with {} stages; {} fragments routed, {} infeasible{}",
            plan.total_share,
            plan.partitions.len(),
            plan.stages.len(),
            plan.routes.len(),
            plan.infeasible.len(),
            if plan.capacity_exhausted {
                " (the devices ran out)"
            } else {
                ""
            }
        ))?;
        if let Some(certificate) = &certificate {
            line(summary(certificate))?;
        }
    }
    let certified = certificate.is_none_or(|c| c.certified);
    Ok(if certified { Verdict::Yes } else { Verdict::No })
}

/// The cheapest plan that the simulation certifies; where it certifies none, the first with what it attains.
fn certified(problem: &Problem, options: Options) -> anyhow::Result<(Plan, Option<Certificate>)> {
    let Problem {
        workload, profile, ..
    } = problem;
    let mut outcome = Ok(None);
    let accepted = plan_accepted(problem, Epoch(1), options, |candidate| {
        outcome = certify(candidate, workload, profile).map(Some);
        // A plan that can't be simulated ends the search with its error.
        outcome
            .as_ref()
            .map_or(true, |c| c.as_ref().is_some_and(|c| c.certified))
    });
    match accepted {
        Some(plan) => Ok((plan, outcome?)),
        None => {
            let plan = plan(problem, Epoch(1), options);
            let certificate = certify(&plan, workload, profile)?;
            Ok((plan, Some(certificate)))
        }
    }
}

fn summary(c: &Certificate) -> String {
    format!(
        "{}: {:.4}% of {} requests in time, worst {:.3}% ({})",
        if c.certified { "certified" } else { "NOT certified" },
        c.attainment * 100.0,
        c.requests,
        c.worst_fragment * 100.0,
        c.worst
    )
}

fn check(arguments: &Check) -> anyhow::Result<Verdict> {
    let workload = Workload::read(&arguments.workload)?;
    let profile = Profile::read(&arguments.profiles)?;
    let devices = Devices::read(&arguments.devices)?;
    let plan = Plan::read(&arguments.plan)?;
    let broken = plan.check(&workload, &profile, &devices);
    // A plan that breaks the rules has nothing to be certified.
    let certificate = (arguments.simulate && broken.is_empty())
        .then(|| certify(&plan, &workload, &profile))
        .transpose()?;
    if arguments.json {
        line(as_json(&plan, &broken, certificate.as_ref()))?;
    } else {
        print_text(arguments, &plan, &broken, certificate.as_ref())?;
    }
    let certified = !arguments.simulate || certificate.is_some_and(|c| c.certified);
    Ok(if broken.is_empty() && certified {
        Verdict::Yes
    } else {
        Verdict::No
    })
}

fn as_json(plan: &Plan, broken: &[Broken], certificate: Option<&Certificate>) -> serde_json::Value {
    let mut object = json!({ "valid": broken.is_empty(), "broken": broken, "cost": plan.total_share });
    if let Some(c) = certificate {
        object["certified"] = c.certified.into();
        object["attainment"] = c.attainment.into();
        object["worst_fragment"] = c.worst_fragment.into();
        object["worst"] = c.worst.clone().into();
        object["requests"] = c.requests.into();
        object["late"] = c.late.into();
    } else {
        object["certified"] = serde_json::Value::Null;
    }
    object
}

fn print_text(
    arguments: &Check,
    plan: &Plan,
    broken: &[Broken],
    certificate: Option<&Certificate>,
) -> anyhow::Result<()> {
    for rule in broken {
        line(rule)?;
    }
    let shown = arguments.plan.display();
    if broken.is_empty() {
        line(format_args!("{shown} is valid; it costs {}", plan.total_share))?;
    } else {
        line(format_args!(
            "{shown} is NOT valid: {} rules broken",
            broken.len()
        ))?;
    }
    match certificate {
        None if arguments.simulate => line("not simulated: it is not valid"),
        None => Ok(()),
        Some(c) => line(summary(c)),
    }
}
