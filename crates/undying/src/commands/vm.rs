//! Owns `undying vm`: each command asks the agent and shows its answer.

use crate::cli::{Cli, Output, VmCommand};
use crate::failure::{Failure, Kind};
use crate::interval::Interval;
use crate::wait::{self, Goal};
use crate::{out, view};
use api::client::Client;
use api::types::{FollowOutput, ProtectRequest, RepairRequest, StartRequest, VmStatus};
use protocol::VmName;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Between two looks of `--watch`.
const WATCH: Duration = Duration::from_millis(500);

/// Carries out a VM command.
pub fn run(cli: &Cli, command: &VmCommand) -> Result<(), Failure> {
    let client = Client::new(&cli.socket)?;
    match command {
        VmCommand::Start { spec, last_owner_is_dead, accept_older_disk } => {
            start(cli, &client, spec, (*last_owner_is_dead, *accept_older_disk))
        }
        VmCommand::List => show(cli, &client.vms()?, view::vms),
        VmCommand::Status { name: Some(name), watch: false } => one(cli, &client.vm(name)?),
        VmCommand::Status { name: None, watch: false } => show(cli, &client.vms()?, view::statuses),
        VmCommand::Status { name, watch: true } => watch(cli, &client, name.as_ref()),
        VmCommand::Protect {
            name,
            to,
            no_repair,
            prefer,
            settle,
            interval,
            max_overhead,
            max_latency,
            max_in_flight,
            max_slowdown,
            copy_rate,
            no_input_replay,
            no_wait,
        } => {
            let bounds = FollowOutput { max_overhead_percent: *max_overhead, max_latency_us: max_latency.0 };
            let request = ProtectRequest {
                to: to
                    .first()
                    .cloned()
                    .ok_or_else(|| Failure::new(Kind::Invalid, "protect it on which host?"))?,
                interval_us: interval.longest().0,
                follow: (*interval == Interval::Auto).then_some(bounds),
                max_in_flight: *max_in_flight,
                max_slowdown: Some(*max_slowdown),
                copy_rate: copy_rate.map(|rate| rate.0),
                input_replay: !no_input_replay,
                repair: RepairRequest {
                    others: to.iter().skip(1).cloned().collect(),
                    on: !no_repair,
                    prefer: prefer.clone(),
                    settle_us: settle.0,
                },
            };
            protect(cli, &client, name, &request, *no_wait)
        }
        VmCommand::Unprotect { name } => {
            client.unprotect(name)?;
            done(cli, name, "unprotect", "runs on without a backup")
        }
        VmCommand::Stop { name } => {
            client.stop(name)?;
            done(cli, name, "stop", "is stopped")
        }
        VmCommand::Failover { name, no_wait } => failover(cli, &client, name, *no_wait),
        VmCommand::Migrate(args) => super::migrate::run(cli, &client, args),
        VmCommand::Epochs { name, since_at_us } => {
            show(cli, &client.epochs(name, *since_at_us)?, view::epochs)
        }
    }
}

/// Prints a list, as JSON or as the text that `view` makes of it.
fn show<T: serde::Serialize>(cli: &Cli, list: &[T], view: fn(&[T]) -> String) -> Result<(), Failure> {
    match cli.output {
        Output::Text => out::line(&view(list)),
        Output::Json => out::json(&list),
    }
}

/// Says that something was done.
pub fn done(cli: &Cli, vm: &VmName, did: &str, text: &str) -> Result<(), Failure> {
    match cli.output {
        Output::Text => out::line(&format!("VM {vm} {text}")),
        Output::Json => out::json(&serde_json::json!({"vm": vm, "done": did})),
    }
}

/// The text of a VM file, and the folder from which its paths are taken.
pub(super) fn read_file(path: &Path) -> Result<(String, PathBuf), Failure> {
    let unreadable =
        |error| Failure::new(Kind::Invalid, format!("cannot read the VM file {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let file = std::path::absolute(path).map_err(unreadable)?;
    Ok((text, file.parent().unwrap_or(Path::new("/")).to_path_buf()))
}

fn start(
    cli: &Cli,
    client: &Client,
    spec: &Path,
    (last_owner_is_dead, accept_older_disk): (bool, bool),
) -> Result<(), Failure> {
    let (spec, base_dir) = read_file(spec)?;
    let request = StartRequest { spec, base_dir, last_owner_is_dead, accept_older_disk };
    let vm = client.start(&request)?;
    one(cli, &vm)
}

fn one(cli: &Cli, vm: &VmStatus) -> Result<(), Failure> {
    match cli.output {
        Output::Text => out::line(&view::status(vm)),
        Output::Json => out::json(vm),
    }
}

fn watch(cli: &Cli, client: &Client, name: Option<&VmName>) -> Result<(), Failure> {
    if cli.output == Output::Text {
        out::clear()?;
    }
    loop {
        match (name, cli.output) {
            (Some(name), Output::Text) => out::redraw(&view::status(&client.vm(name)?))?,
            (Some(name), Output::Json) => out::json_line(&client.vm(name)?)?,
            (None, Output::Text) => out::redraw(&view::statuses(&client.vms()?))?,
            (None, Output::Json) => out::json_line(&client.vms()?)?,
        }
        sleep(WATCH);
    }
}

fn protect(
    cli: &Cli,
    client: &Client,
    name: &VmName,
    request: &ProtectRequest,
    no_wait: bool,
) -> Result<(), Failure> {
    let log_end = wait::log_end(client)?;
    client.protect(name, request)?;
    if no_wait {
        return one(cli, &client.vm(name)?);
    }
    match (wait::wait(client, name, Goal::Protected, log_end)?, cli.output) {
        (Some(vm), Output::Json) => out::json(&vm),
        (vm, _) => {
            // The first that took it.
            let by = vm.and_then(|vm| vm.peer).unwrap_or_else(|| request.to.clone());
            out::line(&format!("VM {name} is protected by host {by}"))
        }
    }
}

fn failover(cli: &Cli, client: &Client, name: &VmName, no_wait: bool) -> Result<(), Failure> {
    let log_end = wait::log_end(client)?;
    client.failover(name)?;
    if no_wait {
        return done(cli, name, "failover_accepted", "is being handed over");
    }
    wait::wait(client, name, Goal::HandedOver, log_end)?;
    done(cli, name, "failover", "was handed over to its backup")
}
