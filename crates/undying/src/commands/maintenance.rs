//! Owns `undying host drain`, `undrain` and `status`.

use crate::cli::{Cli, Output};
use crate::failure::{Failure, Kind};
use crate::maintenance::MaintenanceCommand;
use crate::out::{self, Progress};
use crate::view;
use api::client::Client;
use api::types::{HostStatus, Role, VmStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks.
const POLL: Duration = Duration::from_millis(200);
/// A drain in which nothing moves for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Carries out a command on a host.
pub fn run(cli: &Cli, command: &MaintenanceCommand) -> Result<(), Failure> {
    let client = Client::new(&cli.socket)?;
    match command {
        MaintenanceCommand::Drain { wait, no_wait } => drain(cli, &client, *wait, *no_wait),
        MaintenanceCommand::Undrain => {
            client.drain(false)?;
            done(cli, &client.host_status()?, "takes VMs again", &[])
        }
        MaintenanceCommand::Status => {
            let host = client.host_status()?;
            match cli.output {
                Output::Text => out::line(&view::host(&host)),
                Output::Json => out::json(&host),
            }
        }
    }
}

fn done(cli: &Cli, host: &HostStatus, text: &str, left: &[VmStatus]) -> Result<(), Failure> {
    match cli.output {
        Output::Text => out::line(&format!("host {} {text}", host.name)),
        Output::Json => out::json(&serde_json::json!({
            "host": host.name, "draining": host.draining, "vms": left,
        })),
    }
}

fn drain(cli: &Cli, client: &Client, wait: bool, no_wait: bool) -> Result<(), Failure> {
    client.drain(true)?;
    let host = client.host_status()?;
    if no_wait {
        return done(cli, &host, "is being drained", &client.vms()?);
    }
    let mut progress = Progress::default();
    let (mut last, mut moved) = (Vec::new(), Instant::now());
    loop {
        let left = client.vms()?;
        if left.is_empty() {
            drop(progress);
            return done(cli, &host, "is drained", &left);
        }
        let now: Vec<_> = left.iter().map(mark).collect();
        if now != last {
            (last, moved) = (now, Instant::now());
        }
        if !wait && moved.elapsed() >= STUCK {
            return Err(Failure::new(Kind::Refused, stuck(&host, &left)));
        }
        let names: Vec<_> = left.iter().map(|vm| format!("{} ({})", vm.name, stands(vm))).collect();
        progress.show(&left.len().to_string(), &format!("still here: {}", names.join(", ")));
        sleep(POLL);
    }
}

/// What changes of a VM while its drain goes on.
fn mark(vm: &VmStatus) -> (String, String, Option<(u32, u64)>) {
    let copied = vm.copy.map(|copy| (copy.round, copy.copied_bytes));
    // Candidates that are tried and refuse are no progress.
    let phase =
        if matches!(vm.phase.as_str(), "unprotected" | "opening") { "unprotected" } else { &vm.phase };
    (vm.name.to_string(), phase.to_owned(), copied)
}

fn stands(vm: &VmStatus) -> String {
    let role = match vm.role {
        Role::Primary => "runs here",
        Role::Backup => "stands by here",
    };
    format!("{role}, {}", vm.phase.replace('_', " "))
}

fn stuck(host: &HostStatus, left: &[VmStatus]) -> String {
    let say = |vm: &VmStatus| {
        let why = match vm.role {
            Role::Backup => format!(
                "its primary {} has not protected it elsewhere: look at `undying vm status {}` there",
                vm.peer.as_ref().map_or("?", |peer| peer.as_str()),
                vm.name
            ),
            Role::Primary if vm.repair.candidates.is_empty() => {
                format!("it has no host to go to: `undying vm protect {} --to HOST` gives it one", vm.name)
            }
            Role::Primary if !vm.repair.on && vm.peer.is_none() => {
                format!("it is not protected by itself: `undying vm protect {} --to HOST` moves it", vm.name)
            }
            Role::Primary => view::candidates(vm).join("; "),
        };
        format!("VM {} ({}): {why}", vm.name, stands(vm))
    };
    let vms: Vec<_> = left.iter().map(say).collect();
    format!(
        "host {} is not drained: for {} s nothing moved. {}. It goes on being drained; `undying host undrain` ends that",
        host.name,
        STUCK.as_secs(),
        vms.join(". ")
    )
}
