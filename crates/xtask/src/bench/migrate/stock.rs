//! Owns QEMU's own migrations: precopy, with its compression by difference, and over several connections.

use super::super::Run;
use super::super::bare::listen;
use super::{Migrated, clock};
use anyhow::{Context, Result, bail};
use lab::cluster::VmFile;
use os::Memory;
use qemu::qmp::Command;
use qemu::{Installation, Qemu, Role, VmSpec};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Migrations of each kind.
const TIMES: usize = 3;
/// How long one may take: a guest that is never caught up with would go on for ever.
const PATIENCE: Duration = Duration::from_secs(60);
const BOOT: Duration = Duration::from_secs(120);

/// Name, capability, and downtime limit in milliseconds.
const KINDS: [(&str, Option<&str>, u64); 4] = [
    ("QEMU, precopy", None, 300),
    ("QEMU, precopy, 100 ms allowed", None, 100),
    ("QEMU, xbzrle", Some("xbzrle"), 300),
    ("QEMU, multifd", Some("multifd"), 300),
];

/// By kind, plain precopy first.
pub fn measure(
    run: &mut Run<'_>,
    what: &str,
    file: &VmFile,
    link: Option<u64>,
) -> Result<Vec<(&'static str, Vec<Migrated>)>> {
    let mut all = Vec::new();
    for (name, capability, limit_ms) in KINDS {
        let mut found = Vec::new();
        for number in 1..=run.times(TIMES) {
            run.screen.live(&format!("{what}: {name}, {number}"));
            let one = migrate(file, capability, limit_ms, link).with_context(|| format!("{what}: {name}"))?;
            match one {
                Some(one) => {
                    run.screen.done(&format!("{what}: {name}, {}", one.said()));
                    found.push(one);
                }
                None => run.screen.bad(&format!("{what}: {name} did not end in {} s", PATIENCE.as_secs())),
            }
        }
        all.push((name, found));
    }
    Ok(all)
}

fn migrate(
    file: &VmFile,
    capability: Option<&str>,
    limit_ms: u64,
    link: Option<u64>,
) -> Result<Option<Migrated>> {
    let installation = Installation::probe(Path::new(qemu::install::DEFAULT_BINARY))?;
    let resolved = installation.resolve(VmSpec::parse(&file.toml, "the benchmark's VM")?)?;
    let memory = || Memory::create("bench-migrate", resolved.spec.memory.0).map(Arc::new);
    let (source, channels) = Qemu::launch(&installation, &resolved, Role::Primary, memory()?, Vec::new())?;
    let said = listen(channels, "READY");
    source.cont()?;
    if said.ready.recv_timeout(BOOT).is_err() {
        bail!("the guest does not serve: {}", source.messages());
    }
    let (target, channels) = Qemu::launch(&installation, &resolved, Role::Standby, memory()?, Vec::new())?;
    let says = listen(channels, "READY");
    // It dirties as it will.
    sleep(Duration::from_secs(2));
    let place = tempfile::tempdir()?;
    let uri = format!("unix:{}", place.path().join("migrate").display());
    for qemu in [&source, &target] {
        let on = |name: &str| json!({ "capability": name, "state": true });
        let wanted: Vec<Value> = std::iter::once("events").chain(capability).map(on).collect();
        let arguments = json!({ "capabilities": wanted });
        qemu.qmp().execute(Command::with("migrate-set-capabilities", arguments))?;
    }
    // No bound is said by a large one.
    let bandwidth = link.unwrap_or(10 << 30);
    let bounds = json!({ "max-bandwidth": bandwidth, "downtime-limit": limit_ms });
    source.qmp().execute(Command::with("migrate-set-parameters", bounds))?;
    target.qmp().execute(Command::with("migrate-incoming", json!({ "uri": uri })))?;
    let arrived = target.qmp().subscribe();
    let (began, began_us) = (Instant::now(), os::clock::realtime_us());
    source.qmp().execute(Command::with("migrate", json!({ "uri": uri })))?;
    loop {
        let Some(left) = PATIENCE.checked_sub(began.elapsed()) else { return Ok(None) };
        let Ok(event) = arrived.recv_timeout(left) else { return Ok(None) };
        match (event.name.as_str(), event.data["status"].as_str()) {
            ("MIGRATION", Some("completed")) => break,
            ("MIGRATION", Some("failed")) => bail!("it failed: {}", target.messages()),
            _ => {}
        }
    }
    target.cont()?;
    let at = |qemu: &Qemu, event| qemu.qmp().last_event_us(event).context("QEMU sent no event");
    let (stopped_us, runs_us) = (at(&source, "STOP")?, at(&target, "RESUME")?);
    let told = ended(&source)?;
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    sleep(clock::AFTERWARDS);
    Ok(Some(Migrated {
        total_ms: runs_us.saturating_sub(began_us) as f64 / 1e3,
        downtime_ms: runs_us.saturating_sub(stopped_us) as f64 / 1e3,
        guest_ms: clock::lost_ms(&said.text(), &says.text()),
        reported_ms: told["downtime"].as_f64(),
        client_ms: None,
        wire_mib: number(&told["ram"]["transferred"]) / f64::from(1 << 20),
        rounds: number(&told["ram"]["dirty-sync-count"]),
        steps_ms: None,
    }))
}

/// What the source says of it once it knows that it is over.
fn ended(source: &Qemu) -> Result<Value> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let told = source.qmp().execute(Command::new("query-migrate"))?;
        if told["status"] == "completed" {
            return Ok(told);
        }
        if Instant::now() >= until {
            bail!("the source does not say that it is over: {told}");
        }
        sleep(Duration::from_millis(1));
    }
}
