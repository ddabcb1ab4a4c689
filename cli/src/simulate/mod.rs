//! `graft simulate`: plays a scenario in virtual time and says what came of it.

pub(crate) mod page;
pub(crate) mod text;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use graft_files::ReadFile;
use graft_plan::{Epoch, Plan};
use graft_planner_search::{Carried, Problem};
use graft_simulator::{Planner, Planning, run as play};

use crate::Verdict;
use crate::output::{can_be_written, line};
use crate::plan::Algorithm;
use crate::scenario::Files;

/// Play a scenario in virtual time.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// How to plan, again and again
    #[arg(long, value_enum, default_value_t = Algorithm::Graft)]
    algorithm: Algorithm,
    /// Run this plan from start to end instead; it serves the scenario's `fragments`
    #[arg(long, value_name = "FILE", conflicts_with = "algorithm")]
    plan: Option<PathBuf>,
    /// Moves of Graft's search in each planning
    #[arg(long, value_name = "N", default_value_t = 20)]
    moves: u64,
    /// Seed of all that is drawn: the same seed gives the same report, byte for byte
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// An algorithm that plans whenever it is asked to.
pub(crate) struct Living {
    pub algorithm: Algorithm,
    /// Moves of Graft's search in each planning.
    pub moves: u64,
}

impl Planning for Living {
    fn plan(&mut self, problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Carried {
        let moves = self.moves;
        let go_on = &mut |p: graft_planner_search::Progress| !p.sound || p.moves < moves;
        let made = self.algorithm.plan_what_fits(problem, epoch, running, go_on);
        // Only the exact planner fails, and it is refused before.
        made.unwrap_or_else(|_| Carried {
            plan: Plan::empty(&self.algorithm.name(), epoch),
            workload: problem.workload.clone(),
            part: 0.0,
        })
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    anyhow::ensure!(
        arguments.algorithm != Algorithm::Exact,
        "--algorithm exact plans small inputs only; a scenario's mix is not one"
    );
    if let Some(file) = &arguments.html {
        can_be_written(file)?;
    }
    let stage = arguments.files.read()?;
    let fixed = arguments.plan.as_deref().map(Plan::read).transpose()?;
    let mut living = Living {
        algorithm: arguments.algorithm,
        moves: arguments.moves,
    };
    let planner = match &fixed {
        Some(plan) => Planner::Fixed(plan),
        None => Planner::Living {
            name: arguments.algorithm.name(),
            planning: &mut living,
        },
    };
    let shown = std::io::stderr().is_terminal();
    let whole = stage.scenario.duration_s.ceil() as u64;
    let mut progress = |second: u64| {
        if shown {
            let mut err = std::io::stderr();
            // Progress that can't be shown is no reason to stop.
            let _shown = write!(err, "\r{second} of {whole} s ").and_then(|()| err.flush());
        }
    };
    let report = play(
        &stage.scenario,
        &stage.hardware,
        &stage.traces,
        planner,
        arguments.seed,
        &mut progress,
    );
    if shown {
        eprint!("\r                    \r");
    }
    let report = report?;
    if let Some(path) = &arguments.html {
        std::fs::write(path, page::html(&report, &text::text(&report)))
            .with_context(|| path.display().to_string())?;
    }
    if arguments.json {
        line(serde_json::to_string(&report)?)?;
    } else {
        line(text::text(&report).trim_end())?;
        if let Some(path) = &arguments.html {
            line(format_args!("\nplots: {}", path.display()))?;
        }
    }
    Ok(Verdict::Yes)
}
