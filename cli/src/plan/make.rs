//! Makes a plan.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use graft_certify::{Certificate, SEEDS, certify_each};
use graft_files::ReadFile;
use graft_plan::{Epoch, FormatFile, Plan};
use graft_planner::Threads;
use graft_planner_search::{Changes, GraftOptions, Problem, changes, explain, lower_bound};

use super::algorithm::Algorithm;
use super::check::summary;
use super::{Files, cost, rounded};
use crate::Verdict;
use crate::output::{can_be_written, line};

#[derive(Debug, Args)]
pub(crate) struct Make {
    /// How to plan
    #[arg(long, value_enum, default_value_t = Algorithm::Graft)]
    algorithm: Algorithm,
    /// How long to look for cheaper plans, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000, conflicts_with = "moves")]
    effort: u64,
    /// How many moves to make instead: the same number gives the same plan, byte for byte
    #[arg(long, value_name = "N")]
    moves: Option<u64>,
    /// Go on from this plan: change what must be changed, and what pays for it
    #[arg(long, value_name = "FILE")]
    running: Option<PathBuf>,
    /// Cost that a changed partition of the running plan must save: share, or price
    #[arg(long, value_name = "COST", default_value_t = 0.0)]
    change_costs: f64,
    /// Don't run the reference simulation on the plan
    #[arg(long)]
    no_certify: bool,
    /// Say for each group why it is as it is
    #[arg(long, conflicts_with = "json")]
    explain: bool,
    /// The plan as JSON on standard output, instead of a summary
    #[arg(long)]
    json: bool,
    /// Write the plan to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn make(files: &Files, arguments: &Make) -> anyhow::Result<Verdict> {
    let problem = files.read()?;
    let Problem {
        workload, hardware, ..
    } = &problem;
    let running = arguments.running.as_deref().map(Plan::read).transpose()?;
    let epoch = running
        .as_ref()
        .map_or(Epoch(1), |p| Epoch(p.epoch.0.saturating_add(1)));
    anyhow::ensure!(
        arguments.change_costs.is_finite() && arguments.change_costs >= 0.0,
        "--change-costs is {}; expected a cost of 0 or more",
        arguments.change_costs
    );
    let options = GraftOptions {
        change_costs: arguments.change_costs,
        ..GraftOptions::default()
    };
    if let Some(file) = &arguments.out {
        can_be_written(file)?;
    }
    let start = Instant::now();
    let effort = Duration::from_millis(arguments.effort);
    let mut moves = 0;
    let plan = arguments
        .algorithm
        .plan(&problem, epoch, running.as_ref(), options, &mut |progress| {
            moves = progress.moves;
            match arguments.moves {
                Some(most) => !progress.sound || progress.moves < most,
                None => start.elapsed() < effort,
            }
        })?;
    let took = start.elapsed();
    let fleet = hardware.fleet();
    let broken = plan.check(workload, &fleet);
    anyhow::ensure!(
        broken.is_empty(),
        "the plan breaks its own rules, which is a bug: {}",
        broken[0]
    );
    let certified = (!arguments.no_certify)
        .then(|| certify_each(&plan, workload, &fleet, &SEEDS, &Threads::of_machine()))
        .transpose()?;
    let (certificate, attained) = certified.unzip();
    if let Some(file) = &arguments.out {
        std::fs::write(file, plan.to_json()?).with_context(|| file.display().to_string())?;
    }
    if arguments.json {
        line(plan.to_json()?)?;
    } else {
        describe(&plan, &problem, certificate.as_ref(), took, moves)?;
        if let Some(running) = &running {
            let Changes {
                kept,
                moved,
                new,
                gone,
            } = changes(running, &plan);
            line(format_args!(
                "partitions: {} kept, {} moved, {} new, {} gone",
                kept.len(),
                moved.len(),
                new.len(),
                gone.len()
            ))?;
        }
        if arguments.explain {
            for cell in explain(&plan, workload, hardware, &attained.unwrap_or_default()) {
                line(format_args!("\n{}", cell.to_string().trim_end()))?;
            }
        }
    }
    // A plan that serves nothing, since nothing can be served, is what was asked for.
    let certified = certificate.is_none_or(|c| c.certified || c.requests == 0);
    Ok(if certified { Verdict::Yes } else { Verdict::No })
}

fn describe(
    plan: &Plan,
    problem: &Problem,
    certificate: Option<&Certificate>,
    took: Duration,
    moves: u64,
) -> anyhow::Result<()> {
    let bound = rounded(lower_bound(problem));
    let gap = if bound > 0.0 {
        (problem.hardware.fleet().cost(plan) / bound - 1.0) * 100.0
    } else {
        0.0
    };
    line(format_args!(
        "cost {} on {} partitions with {} stages; {}",
        cost(plan, &problem.hardware),
        plan.partitions.len(),
        plan.stages.len(),
        if plan.capacity_exhausted {
            format!("no plan for all costs less than {bound}")
        } else {
            format!("no plan costs less than {bound}: {gap:.0}% above that")
        }
    ))?;
    line(format_args!(
        "{} fragments routed, {} infeasible{}; {moves} moves in {}",
        plan.routes.len(),
        plan.infeasible.len(),
        if plan.capacity_exhausted {
            " (the devices ran out)"
        } else {
            ""
        },
        spoken(took)
    ))?;
    certificate.map_or(Ok(()), |c| line(summary(c)))
}

/// A time in words, to three digits.
fn spoken(time: Duration) -> String {
    let s = time.as_secs_f64();
    if s < 1.0 {
        format!("{:.0} ms", s * 1e3)
    } else {
        format!("{s:.1} s")
    }
}
