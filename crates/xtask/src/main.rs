//! What a developer runs: the demonstration, the torture, the check of histories, the benchmark, tests and checks, the simulator. `cargo xtask test` is what CI runs.

#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod demo;
mod hygiene;
mod jepsen;
mod model;
mod process;
mod simulate;
mod stage;
mod step;
mod test;
mod tiers;
mod torture;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of the Undying project
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Demo(demo::DemoArgs),
    Torture(torture::TortureArgs),
    Jepsen(jepsen::JepsenArgs),
    /// Measure what protection costs, beside its absence
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run every check and test, as CI does: stops at the first failure
    Test,
    /// Check which crate may depend on which, and that `protocol` needs no operating system
    Tiers,
    /// Check lengths of files and functions, links, markers and other habits
    Hygiene,
    /// Run the protocol in the simulator, many seeds at a time
    Sim(simulate::SimArgs),
    /// Check every behaviour of the ownership protocol within bounds
    #[command(disable_help_flag = true)]
    Model(model::ModelArgs),
    RvConformance(conformance::ConformanceArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Torture(args) => torture::run(&args),
        Task::Jepsen(args) => jepsen::run(&args),
        Task::Bench(bench) => bench::run(&bench),
        Task::Test => test::run().map(|()| ExitCode::SUCCESS),
        Task::Tiers => tiers::run().map(|()| ExitCode::SUCCESS),
        Task::Hygiene => hygiene::run().map(|()| ExitCode::SUCCESS),
        Task::Sim(args) => simulate::run(&args),
        Task::Model(args) => model::run(&args),
        Task::RvConformance(args) => conformance::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_holds_together() {
        Cli::command().debug_assert();
    }
}
