//! `graft`: Graft's command line.
//!
//! Exit codes: 0 = as asked, 1 = the answer is no (a wrong result, a check that fails), 2 = unusable input.

mod ask;
mod ca;
mod demo;
mod engines;
mod evaluate;
mod explain;
mod gpu;
mod infer;
mod load;
mod model;
mod output;
mod plan;
mod plot;
mod profile;
mod replay;
mod scenario;
mod simulate;
mod site;
mod top;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Hybrid inference: phones run the first layers of a DNN, Graft runs the rest in time.
#[derive(Debug, Parser)]
#[command(name = "graft", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run router, planner, worker and six simulated phones here, and show what they do
    Demo(demo::Arguments),
    /// Run router, planner and worker in one process, for a small site
    Up(up::Arguments),
    /// Send one picture or tensor through a router
    Infer(infer::Arguments),
    /// Look into a model, or prove its cut points
    #[command(subcommand)]
    Model(model::Command),
    /// Make plans, hold them against the rules, simulate them
    Plan(plan::Arguments),
    /// Say what a model's segments cost: measured here, or modelled for a GPU
    Profile(profile::Arguments),
    /// Play a scenario in virtual time: phones that move, plans that follow them, faults
    Simulate(simulate::Arguments),
    /// Hold phones' choice of where to hand over against an oracle, over traces of bandwidth
    Replay(replay::Arguments),
    /// Let the clients of a scenario ask real routers, open-loop
    Load(load::Arguments),
    /// Watch a site live
    Top(top::Arguments),
    /// Tell a request's life
    Explain(explain::Arguments),
    /// Measure the planner against others, and draw what comes out
    Evaluate(evaluate::Arguments),
    /// List this machine's devices, and what would be used
    Devices(gpu::devices::Arguments),
    /// Check a GPU: every kernel and whole networks against references on the processor
    GpuCheck(gpu::check::Arguments),
    /// Make certificates for routers, planners and workers
    #[command(subcommand)]
    Ca(ca::Command),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
}

fn main() -> ExitCode {
    graft_cuda::ask_for_connections();
    graft_engine::start_without_telemetry();
    let outcome = match Cli::parse().command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Up(arguments) => up::run(arguments),
        Command::Infer(arguments) => infer::run(arguments),
        Command::Model(command) => model::run(command),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Profile(arguments) => profile::run(arguments),
        Command::Simulate(arguments) => simulate::run(arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Load(arguments) => load::run(arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(arguments),
        Command::Devices(arguments) => gpu::devices::run(&arguments),
        Command::GpuCheck(arguments) => gpu::check::run(&arguments),
        Command::Ca(command) => ca::run(command),
    };
    match outcome {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Err(error) if output::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("graft: {error:#}");
            ExitCode::from(2)
        }
    }
}
