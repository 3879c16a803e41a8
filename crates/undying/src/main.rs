//! The one binary of Undying: the agent of a host, and the command line that asks it.
//!
//! Holds no logic of replication: it reads arguments, asks the agent through `api::client`, and shows what
//! came back.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod deterministic;
mod doctor;
mod duration;
mod failure;
mod interval;
mod maintenance;
mod migration;
mod out;
mod view;
mod wait;

use clap::Parser;
use cli::{Cli, Command, HostCommand};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.output),
    }
}

fn run(cli: &Cli) -> Result<(), failure::Failure> {
    match &cli.command {
        Command::Host { command: Some(HostCommand::Identity(command)), .. } => {
            commands::identity::run(cli.output, command)
        }
        Command::Host { command: Some(HostCommand::Maintenance(command)), .. } => {
            commands::maintenance::run(cli, command)
        }
        Command::Host { config, command: None } => commands::agent::run(config.as_deref()),
        Command::Vm { command } => commands::vm::run(cli, command),
        Command::Disk { command } => commands::disk::run(cli, command),
        Command::Events { follow, after } => commands::events::run(cli, *follow, *after),
        Command::Arbiter { command } => commands::arbiter::run(cli.output, command),
        Command::Rv { command } => commands::rv::run(cli.output, command),
        Command::Doctor(args) => commands::doctor::run(cli, args),
        Command::Completions { shell } => commands::completions(*shell),
    }
}
