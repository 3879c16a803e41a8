//! Owns part 3: a backup that has room for two standbys is asked for a third.

use super::fleet::{BACKUP, Fleet, INTERVAL, PRIMARIES};
use crate::bench::Run;
use crate::bench::figures::{Findings, Table};
use anyhow::{Context, Result, ensure};
use api::types::ProtectRequest;
use protocol::HostName;
use std::time::Instant;

/// Room for two guests of the fleet with their buffers, not for three.
const SECTIONS: &str = "[detection]\nheartbeat_ms = 100\ntimeout_ms = 5000\n[backup]\nmemory = \"700MiB\"\n";

/// Measures how soon a primary is told that there is no room, and what it is told.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = "Three VMs of 160 MiB at hosts of their own. The backup may use 700 MiB: two standbys with 128 MiB of buffers \
        each fit. The third host asks. The time is from the operator's request to the event at that host."
        .into();
    let fleet = Fleet::raise(run, 3, SECTIONS)?;
    for (vm, host) in fleet.each().take(2) {
        fleet.cluster.protect(&vm.name, host, BACKUP, INTERVAL)?;
    }
    let (third, host) = (&fleet.vms[2], PRIMARIES[2]);
    let mut table =
        Table::new("A standby too many", &[("try", "try"), ("ms", "refused after, ms"), ("why", "told")]);
    for number in 1..=run.times(5) {
        let mark = fleet.cluster.ask(host, |api| api.events(0))?.last().map_or(0, |event| event.seq);
        let request = ProtectRequest::even(HostName::new(BACKUP)?, 100_000);
        let asked = Instant::now();
        fleet.cluster.ask(host, |api| api.protect(&third.name, &request))?;
        let event = fleet.cluster.wait_event(host, "protect_failed", mark)?;
        let told = event.text.split("refused: ").nth(1).context("not a refusal")?.to_owned();
        table.row(number.to_string(), [(asked.elapsed().as_secs_f64() * 1e3).into(), told.as_str().into()]);
    }
    for (vm, host) in fleet.each().take(2) {
        let phase = fleet.cluster.ask(host, |api| api.vm(&vm.name))?.phase;
        ensure!(phase == "protected", "{} is {phase} after the refusal of another", vm.name);
    }
    found.notes.push("The two that were protected stayed so.".into());
    found.tables.push(table);
    Ok(())
}
