//! Owns part 5: the fixed part of the pause by machine and network card, with a guest that hardly dirties memory.

use super::Run;
use super::bare::Bare;
use super::bed::{self, start_cluster};
use super::figures::{Findings, Table};
use super::pause::pause_ms;
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::cluster::{Cluster, VmFile};
use lab::guest::cache::Cache;
use lab::guest::counter::{self, DELAY_TCG};
use lab::topology::{BRIDGE, GuestAddress};
use protocol::VmName;
use std::path::Path;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);

/// A name, the choice of the machine, and the model of the card: none for no card.
const MACHINES: [(&str, &str, Option<&str>); 6] = [
    ("q35, no card", "machine = \"q35\"", None),
    ("q35, modern virtio", "machine = \"q35\"", Some("virtio")),
    ("q35, legacy virtio", "machine = \"q35\"", Some("virtio-legacy")),
    ("lean (profile), its card", "profile = \"lean\"", Some("virtio-legacy")),
    ("microvm, no card", "machine = \"microvm\"", None),
    ("microvm, virtio", "machine = \"microvm\"", Some("virtio")),
];

/// The pause of each machine, in QEMU alone and under Undying.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let firmware = counter::firmware(&Cache::open()?, DELAY_TCG)?;
    let cluster = start_cluster(run.props, "machines")?;
    found.tables.push(Table::new(
        "Pause, ms: QEMU alone, and protected every 25 ms",
        &[
            ("machine", "machine"),
            ("stop_cont_ms", "QEMU alone: stop, continue"),
            ("stop_save_cont_ms", "QEMU alone: stop, save, continue"),
            ("undying_ms", "Undying"),
            ("state_bytes", "device state, bytes"),
        ],
    ));
    for (number, (what, machine, card)) in MACHINES.into_iter().enumerate() {
        run.screen.live(&format!("{what}: QEMU alone"));
        let toml = file(&format!("m{number}"), machine, card, &firmware);
        let times = run.times(150);
        let bare = Bare::boot(&toml, "START").with_context(|| format!("{what}, QEMU alone"))?;
        let plain = bare.stop_and_continue(times, INTERVAL / 2)?;
        let saved = bare.stop_save_continue(times, INTERVAL / 2)?;
        let state = bare.state_bytes()?;
        drop(bare);
        let pauses = protected(run, &cluster, what, &format!("m{number}"), toml).with_context(|| what)?;
        let ms = Summary::of_us_in_ms;
        found.tables[0].row(what, [ms(plain).into(), ms(saved).into(), pauses.into(), state.into()]);
        run.screen.done(&format!("{what}: median {:.2} ms under Undying", pauses.median));
    }
    Ok(())
}

const HOW: &str = "A bare-metal guest of 512 MiB that counts in 16 pages and speaks on the serial line, under TCG: what is left \
    of a pause when there is next to nothing to copy. A driver in the guest would add what its rings need, not more. \
    In the column of QEMU alone the three commands go in one write and nobody looks at the memory. The lean profile is \
    a `pc` without what a protected VM does not need; `microvm` is smaller still but has no clock that Linux can rely on \
    under TCG on a busy host.";

fn file(name: &str, machine: &str, card: Option<&str>, firmware: &Path) -> String {
    let nic = card
        .map(|model| format!("[[nic]]\nbridge = \"{BRIDGE}\"\nmodel = \"{model}\"\n"))
        .unwrap_or_default();
    format!(
        "name = \"{name}\"\n{machine}\naccel = \"tcg\"\nmemory = \"512MiB\"\nfirmware = {firmware:?}\n{nic}"
    )
}

fn protected(run: &mut Run<'_>, cluster: &Cluster, what: &str, name: &str, toml: String) -> Result<Summary> {
    let vm = VmFile { name: VmName::new(name)?, toml, address: GuestAddress::of(0) };
    cluster.start_vm(HOSTS[0], &vm)?;
    cluster.protect(&vm.name, HOSTS[0], HOSTS[1], INTERVAL)?;
    run.pass(&format!("{what}: protected, settling"), Duration::from_millis(700));
    let time = run.stretch(6);
    let epochs = bed::epochs(cluster, &vm.name, run, &format!("{what}: protected"), time)?;
    cluster.ask(HOSTS[0], |api| api.stop(&vm.name))?;
    for host in HOSTS {
        cluster.wait_gone(host, &vm.name)?;
    }
    Ok(pause_ms(&epochs))
}
