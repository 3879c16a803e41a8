//! Owns `cargo xtask bench all`: measures all suites that the evaluation needs, or takes what was measured before, and writes
//! `docs/evaluation.md` with its pictures.

mod chart;
pub mod kept;
mod sections;
mod write;

use super::{BenchArgs, CHECKPOINT, COMPARISON, MANY, MIGRATE, Suite};
use crate::demo::Output;
use crate::stage::screen::Screen;
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The whole evaluation: measure, then write docs/evaluation.md with plots (50 minutes, as root)
///
/// Figures of each part are kept in target/bench; what is not measured now is taken from there, so that the parts can be
/// measured in several sittings.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench all --only comparison,migrate\n  cargo xtask bench checkpoint --only 1,2 && cargo xtask bench all --kept"
)]
pub struct AllArgs {
    /// Measure shortly, to see that everything works; written to target/bench/quick, beside the figures of other quick runs
    #[arg(long)]
    quick: bool,
    /// Measure these only
    #[arg(long, value_enum, value_name = "SUITE,SUITE", value_delimiter = ',')]
    only: Vec<Measured>,
    /// Measure nothing: write the document from what earlier runs kept
    #[arg(long, conflicts_with = "only")]
    kept: bool,
    /// Measure this `undying` instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Leave parts out of this `undying`, built with the feature `ablation`, instead of building one
    #[arg(long, value_name = "FILE")]
    ablated: Option<PathBuf>,
    /// What is printed on standard output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What the evaluation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measured {
    Comparison,
    Migrate,
    Checkpoint,
    Many,
}

impl Measured {
    /// That which nobody else measures first.
    const ALL: [Self; 4] = [Self::Comparison, Self::Migrate, Self::Checkpoint, Self::Many];

    fn suite(self) -> &'static Suite {
        match self {
            Self::Comparison => &COMPARISON,
            Self::Migrate => &MIGRATE,
            Self::Checkpoint => &CHECKPOINT,
            Self::Many => &MANY,
        }
    }
}

/// Measures what was asked for and writes the document. Fails if a part could not be measured, though it is written then, too.
pub fn run(args: &AllArgs) -> Result<ExitCode> {
    let began = Instant::now();
    let mut screen = Screen::new(args.output == Output::Json);
    let mut failed = Vec::new();
    if !args.kept {
        let suite_args = BenchArgs {
            quick: args.quick,
            only: Vec::new(),
            binary: args.binary.clone(),
            output: args.output,
            ablated: args.ablated.clone(),
        };
        super::only_root()?;
        screen.chapter("What is needed");
        let props = super::props(&suite_args, &mut screen)?;
        let wanted = |measured: &Measured| args.only.is_empty() || args.only.contains(measured);
        for measured in Measured::ALL.into_iter().filter(wanted) {
            let suite = measured.suite();
            screen.say(&format!("{}: `cargo xtask bench {}`", suite.title, suite.name));
            failed.extend(super::suite(suite, &suite_args, &mut screen, &props)?.failed());
        }
    }
    screen.chapter("The document");
    let composed = sections::compose(|suite, number| kept::read(args.quick, suite, number))?;
    let files = write::document(&composed, args.quick)?;
    for path in &files {
        screen.done(&format!("written: {}", workspace::relative(path)));
    }
    for section in composed.iter().filter(|section| section.source.is_none()) {
        let again = kept::again(section.plan.suite, section.plan.number);
        screen.bad(&format!("not measured yet: {} (`{again}`)", section.plan.title));
    }
    screen.say(&format!("Done in {:.0} s.", began.elapsed().as_secs_f64()));
    if args.output == Output::Json {
        let files: Vec<String> = files.iter().map(|path| workspace::relative(path)).collect();
        let sections: Vec<_> = composed.iter().map(sections::Section::to_json).collect();
        let told = json!({ "files": files, "sections": sections, "failed": failed });
        println!("{}", serde_json::to_string_pretty(&told).context("figures are JSON")?);
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}
