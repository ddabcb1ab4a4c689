//! `graft plan check`: says whether a plan keeps the rules, and what it would attain.

use std::path::PathBuf;

use clap::Args;
use graft_certify::{Certificate, SEEDS, certify_each};
use graft_files::ReadFile;
use graft_plan::{Broken, Plan};
use graft_planner::Threads;
use graft_planner_search::Problem;
use serde_json::{Number, json};

use super::{Files, cost};
use crate::Verdict;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    files: Files,
    /// The plan (plan.json)
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Run the reference simulation, for 120 s with each seed
    #[arg(long)]
    simulate: bool,
    /// Seeds of the runs; a certificate's are 1, 2 and 3
    #[arg(long, value_name = "SEED", value_delimiter = ',', default_values_t = SEEDS, requires = "simulate")]
    seeds: Vec<u64>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn summary(c: &Certificate) -> String {
    if c.requests == 0 {
        return "NOT certified: the plan serves nothing".to_owned();
    }
    format!(
        "{}: {:.4}% of {} requests in time, worst {:.3}% ({})",
        if c.certified { "certified" } else { "NOT certified" },
        c.attainment * 100.0,
        c.requests,
        c.worst_fragment * 100.0,
        c.worst
    )
}

pub(super) fn check(arguments: &Check) -> anyhow::Result<Verdict> {
    let Problem {
        workload, hardware, ..
    } = arguments.files.read()?;
    let plan = Plan::read(&arguments.plan)?;
    let fleet = hardware.fleet();
    let broken = plan.check(&workload, &fleet);
    // A plan that breaks the rules has nothing to be certified.
    let certificate = (arguments.simulate && broken.is_empty())
        .then(|| {
            certify_each(&plan, &workload, &fleet, &arguments.seeds, &Threads::of_machine()).map(|(c, _)| c)
        })
        .transpose()?;
    if arguments.json {
        line(as_json(cost(&plan, &hardware), &broken, certificate.as_ref()))?;
    } else {
        print_text(arguments, &cost(&plan, &hardware), &broken, certificate.as_ref())?;
    }
    let certified = !arguments.simulate || certificate.is_some_and(|c| c.certified);
    Ok(if broken.is_empty() && certified {
        Verdict::Yes
    } else {
        Verdict::No
    })
}

fn as_json(cost: Number, broken: &[Broken], certificate: Option<&Certificate>) -> serde_json::Value {
    let mut object = json!({ "valid": broken.is_empty(), "broken": broken, "cost": cost });
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
    cost: &Number,
    broken: &[Broken],
    certificate: Option<&Certificate>,
) -> anyhow::Result<()> {
    for rule in broken {
        line(rule)?;
    }
    let shown = arguments.plan.display();
    if broken.is_empty() {
        line(format_args!("{shown} is valid; it costs {cost}"))?;
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
