//! Owns `undying arbiter`: making an arbiter, and reading what it granted.
//!
//! The arbiter is named by its directory, or by the configuration of a host that has it or is it.

use crate::cli::{ArbiterCommand, Output};
use crate::failure::{Failure, Kind};
use crate::{out, view};
use arbiter::Arbiter;
use arbiter::directory::{self, DirectoryArbiter};
use host::config::Config;
use host::witness;
use protocol::{HostName, VmName};
use serde::Serialize;
use std::path::Path;

/// Who owns a VM.
#[derive(Serialize)]
struct Owned {
    vm: VmName,
    term: u64,
    owner: HostName,
    /// The owner said that it stopped the VM.
    stopped: bool,
}

/// Carries out an arbiter command.
pub fn run(output: Output, command: &ArbiterCommand) -> Result<(), Failure> {
    match command {
        ArbiterCommand::Init { place } => {
            let arbiter = init(place)?;
            let identity = arbiter.identity().map_err(Failure::failed)?;
            match output {
                Output::Text => out::line(&format!("{} is arbiter {identity}", arbiter.describe())),
                Output::Json => {
                    out::json(&serde_json::json!({"arbiter": arbiter.describe(), "identity": identity}))
                }
            }
        }
        ArbiterCommand::Show { place, vm } => show(output, &*client(place)?, vm.as_ref()),
    }
}

fn config(place: &Path) -> Result<Option<Config>, Failure> {
    if !place.is_file() {
        return Ok(None);
    }
    Config::load(place).map(Some).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))
}

fn init(place: &Path) -> Result<Box<dyn Arbiter>, Failure> {
    match config(place)? {
        None => Ok(Box::new(directory::init(place).map_err(Failure::failed)?)),
        Some(Config::Host(config)) => config.arbiter.init(&config.trust()).map_err(Failure::failed),
        Some(Config::Witness(config)) => Ok(Box::new(witness::init(&config).map_err(Failure::failed)?)),
    }
}

fn client(place: &Path) -> Result<Box<dyn Arbiter>, Failure> {
    match config(place)? {
        None => Ok(Box::new(DirectoryArbiter::new(place))),
        Some(Config::Host(config)) => config.arbiter.client(&config.trust()).map_err(Failure::failed),
        Some(Config::Witness(config)) => Ok(Box::new(DirectoryArbiter::new(&config.store()))),
    }
}

fn show(output: Output, arbiter: &dyn Arbiter, vm: Option<&VmName>) -> Result<(), Failure> {
    let names = vm.map_or_else(|| arbiter.vms(), |vm| Ok(vec![vm.clone()])).map_err(Failure::failed)?;
    let mut all = Vec::new();
    for name in names {
        match arbiter.current(&name).map_err(Failure::failed)? {
            Some(standing) => all.push(Owned {
                vm: name,
                term: standing.record.claim.term.0,
                owner: standing.record.claim.host,
                stopped: standing.stopped,
            }),
            None => {
                let message = format!("the arbiter {} has no VM {name}", arbiter.describe());
                return Err(Failure::new(Kind::NotFound, message));
            }
        }
    }
    match output {
        Output::Text => out::line(&text(&all)),
        Output::Json => out::json(&all),
    }
}

fn text(all: &[Owned]) -> String {
    let row = |owned: &Owned| {
        let state = if owned.stopped { "stopped" } else { "owned" };
        vec![owned.vm.to_string(), owned.term.to_string(), owned.owner.to_string(), state.into()]
    };
    view::table(&["VM", "TERM", "OWNER", "STATE"], &all.iter().map(row).collect::<Vec<_>>())
}
