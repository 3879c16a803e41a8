//! Owns `undying arbiter`: making an arbiter in a directory, and reading what it granted.

use crate::cli::{ArbiterCommand, Output};
use crate::failure::{Failure, Kind};
use crate::{out, view};
use arbiter::Arbiter;
use arbiter::directory::{self, DirectoryArbiter};
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
        ArbiterCommand::Init { directory } => {
            let arbiter = directory::init(directory).map_err(Failure::failed)?;
            let identity = arbiter.identity().map_err(Failure::failed)?;
            match output {
                Output::Text => out::line(&format!("{} is arbiter {identity}", directory.display())),
                Output::Json => out::json(&serde_json::json!({"directory": directory, "identity": identity})),
            }
        }
        ArbiterCommand::Show { directory, vm } => show(output, directory, vm.as_ref()),
    }
}

fn show(output: Output, directory: &Path, vm: Option<&VmName>) -> Result<(), Failure> {
    let arbiter = DirectoryArbiter::new(directory);
    // Asked first, so that a directory that is no arbiter is not taken for one without VMs.
    arbiter.identity().map_err(Failure::failed)?;
    let names = vm.map_or_else(|| vms(directory), |vm| Ok(vec![vm.clone()]))?;
    let mut all = Vec::new();
    for name in names {
        match arbiter.current(&name).map_err(Failure::failed)? {
            Some(standing) => all.push(Owned {
                vm: name,
                term: standing.record.claim.term.0,
                owner: standing.record.claim.host,
                stopped: standing.stopped,
            }),
            None if vm.is_some() => {
                let message = format!("the arbiter {} has no VM {name}", directory.display());
                return Err(Failure::new(Kind::NotFound, message));
            }
            None => {}
        }
    }
    match output {
        Output::Text => out::line(&text(&all)),
        Output::Json => out::json(&all),
    }
}

fn vms(directory: &Path) -> Result<Vec<VmName>, Failure> {
    let failed = |error| Failure::failed(format!("cannot list {}: {error}", directory.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.extend(entry.file_name().to_str().and_then(|name| VmName::new(name).ok()));
        }
    }
    names.sort();
    Ok(names)
}

fn text(all: &[Owned]) -> String {
    let row = |owned: &Owned| {
        let state = if owned.stopped { "stopped" } else { "owned" };
        vec![owned.vm.to_string(), owned.term.to_string(), owned.owner.to_string(), state.into()]
    };
    view::table(&["VM", "TERM", "OWNER", "STATE"], &all.iter().map(row).collect::<Vec<_>>())
}
