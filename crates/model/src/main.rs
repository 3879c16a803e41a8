//! Owns the command line of the exhaustive check. `cargo xtask model` builds and runs it.

#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use model::{Begin, Bounds, Clocks, Outcome, check};
use std::process::ExitCode;

/// Check every behaviour of the ownership protocol within bounds
///
/// Two hosts (three where a backup is changed), an arbiter, connections and a VM are put through everything that may happen to them, by the product's own
/// state machines. See docs/design/model.md.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask model",
    after_help = "Example: cargo xtask model --depth 60 --faults 1 --commands 0 --output json\n         cargo xtask model --begin migration --depth 60 --faults 0 --commands 0"
)]
struct Cli {
    /// Steps of a behaviour, at most
    #[arg(long, default_value_t = Bounds::default().depth, value_name = "N")]
    depth: usize,
    /// Faults in a behaviour, at most
    #[arg(long, default_value_t = Bounds::default().faults, value_name = "N")]
    faults: u8,
    /// Requests of operators and guests in a behaviour, at most
    #[arg(long, default_value_t = Bounds::default().commands, value_name = "N")]
    commands: u8,
    /// Where a behaviour begins
    #[arg(long, value_enum, default_value = "protection")]
    begin: CliBegin,
    /// How the hosts' clocks are related
    #[arg(long, value_enum, default_value = "own")]
    clocks: CliClocks,
    /// Threads that search; with more than one it is not strictly by breadth, so only a search that ends as complete is
    /// exhaustive
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// How to print what was found
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// A bug to plant, to see how it is found
    #[cfg(feature = "planted")]
    #[arg(long, value_enum)]
    plant: Option<Bug>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CliClocks {
    /// Not at all
    Own,
    /// They show the same time
    Shared,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CliBegin {
    /// With a VM that is about to be protected, and with one that just was
    Protection,
    /// With a protected VM whose backup is about to be changed, with one that another host has a copy of, and with one whose
    /// checkpoint for both was just sent
    Change,
    /// With a VM that is about to be migrated, and with one whose last checkpoint, or Yield, was just sent
    Migration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[cfg(feature = "planted")]
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Bug {
    ReleaseEarly,
    PromoteWithoutGrant,
    ApplyPartial,
    StayAfterDeparture,
    SucceedUnresigned,
    ResignAndStay,
}

impl Cli {
    fn bounds(&self) -> Bounds {
        let clocks = match self.clocks {
            CliClocks::Own => Clocks::Own,
            CliClocks::Shared => Clocks::Shared,
        };
        let begin = match self.begin {
            CliBegin::Protection => Begin::Protection,
            CliBegin::Change => Begin::Change,
            CliBegin::Migration => Begin::Migration,
        };
        let (depth, faults, commands) = (self.depth, self.faults, self.commands);
        #[allow(unused_mut, reason = "only with the feature `planted`")]
        let mut bounds = Bounds { depth, faults, commands, clocks, begin, ..Bounds::default() };
        #[cfg(feature = "planted")]
        match self.plant {
            Some(Bug::ReleaseEarly) => bounds.planted.release_early = true,
            Some(Bug::PromoteWithoutGrant) => bounds.planted.promote_without_grant = true,
            Some(Bug::StayAfterDeparture) => bounds.planted.stay_after_departure = true,
            Some(Bug::SucceedUnresigned) => bounds.planted.succeed_unresigned = true,
            Some(Bug::ResignAndStay) => bounds.planted.resign_and_stay = true,
            Some(Bug::ApplyPartial) => bounds.planted.apply_partial = true,
            None => {}
        }
        bounds
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let outcome = check(cli.bounds(), cli.threads);
    match cli.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&outcome)?),
        Output::Text => print(&outcome),
    }
    Ok(if outcome.is_safe() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(outcome: &Outcome) {
    let Outcome { states, generated, depth, seconds, .. } = outcome;
    let end = if outcome.complete {
        "nothing is left within the bounds"
    } else {
        "there is more behind that depth"
    };
    println!("{states} states ({generated} steps taken) to depth {depth} in {seconds:.1} s; {end}");
    for promise in &outcome.promises {
        let verdict = match (promise.always, promise.holds) {
            (true, true) => "holds",
            (true, false) => "BROKEN",
            (false, true) => "happens",
            (false, false) => "did not happen",
        };
        println!("{verdict:>14}: {}", promise.name);
        if promise.always && !promise.holds {
            promise.steps.iter().enumerate().for_each(|(n, step)| println!("{:>18}. {step}", n + 1));
        }
    }
}
