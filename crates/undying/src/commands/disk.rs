//! Owns `undying disk`: the disks of VMs, as the agent has them.

use crate::cli::{Cli, DiskCommand, Output};
use crate::failure::Failure;
use crate::{out, view};
use api::client::Client;
use api::types::DiskStatus;
use protocol::VmName;
use serde::Serialize;

/// The disks of one VM.
#[derive(Debug, Serialize)]
struct Disks<'a> {
    vm: &'a VmName,
    disks: &'a [DiskStatus],
}

/// Carries out a disk command.
pub fn run(cli: &Cli, command: &DiskCommand) -> Result<(), Failure> {
    let client = Client::new(&cli.socket)?;
    let DiskCommand::Status { name } = command;
    let vms = match name {
        Some(name) => vec![client.vm(name)?],
        None => client.vms()?,
    };
    match cli.output {
        Output::Text => out::line(&view::disks(&vms)),
        Output::Json => {
            let disks = vms.iter().map(|vm| Disks { vm: &vm.name, disks: &vm.disks });
            out::json(&disks.collect::<Vec<_>>())
        }
    }
}
