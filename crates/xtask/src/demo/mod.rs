//! Owns `cargo xtask demo`: a running VM outlives its host, before your eyes, measured by its clients.
//!
//! [`story`] carries it out, [`result`] makes a report of what was measured, [`facts`] says on what.

mod ending;
mod facts;
mod result;
mod story;

use crate::stage::interval::Interval;
use crate::stage::screen::Screen;
use crate::workspace;
use anyhow::Result;
use clap::{Args, ValueEnum};
use lab::report::DemoReport;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// The result as JSON on the standard output; the story goes to the standard error.
    Json,
}

/// Show that a running VM outlives its host: two hosts, a Redis under load, a kill, a verdict
///
/// Needs root and Debian. Installs the Debian packages that are missing (it says which), builds undying and a guest,
/// and makes two hosts, a switch and a client as network namespaces of this machine. Clients write to a Redis in a
/// protected VM; then the VM's host is killed. Ends with a verdict, report.html and result.json.
/// The exit status is 0 if no acknowledged write was lost and no connection broke, and 1 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cargo xtask demo --seconds 40 --interval 10ms --out /tmp/demo")]
pub struct DemoArgs {
    /// Folder for report.html, result.json and the agents' logs [default: target/demo]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seconds of load: two fifths of it protected up to the kill, a fifth each before, after, and protected again
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Time from one checkpoint to the next, or auto: as soon as output waits, seldom while none does
    #[arg(long, value_name = "TIME|auto", default_value = "auto")]
    interval: Interval,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Leave hosts and VM running at the end until Enter is pressed, to look around
    #[arg(long)]
    keep: bool,
}

/// Runs the demonstration.
///
/// # Errors
/// If it could not be carried out; a promise that did not hold is no error but the verdict.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let mut screen = Screen::new(args.output == Output::Json);
    let out = args.out.clone().unwrap_or_else(|| workspace::target().join("demo"));
    screen.say(
        "Undying keeps a virtual machine running when the machine under it dies. This shows it: a Redis server runs \
         in a VM on host alpha, clients write to it without a pause, alpha is killed, and the VM goes on at host beta: \
         same memory, same open connections, no acknowledged write lost. Then the clients' word is checked.",
    );
    let told = story::tell(args, &out, &mut screen)?;
    let report = result::of(&told)?;
    report.write(&out)?;
    ending::show(&mut screen, &told, &report, &out, start.elapsed());
    if args.output == Output::Json {
        println!("{:#}", report.to_json());
    }
    if args.keep {
        ending::keep(&mut screen, &told.stage)?;
    }
    Ok(verdict(&report))
}

fn verdict(report: &DemoReport) -> ExitCode {
    if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
