//! Owns saying on what a demonstration ran, and how its numbers came about.

use crate::stage::interval::Interval;
use crate::stage::{Props, Stage};
use crate::workspace;
use lab::command;
use std::process::Command;

/// Name and value of everything worth knowing; what cannot be found out is left out.
pub fn gather(stage: &Stage, props: &Props, interval: Interval) -> Vec<(String, String)> {
    let timing = protocol::Timing::default();
    let status = stage.cluster.ask("beta", |api| api.vm(&stage.vm)).ok();
    let mut facts = vec![
        ("Machine", machine()),
        ("System", system()),
        (
            "QEMU",
            output("qemu-system-x86_64", &["--version"])
                .and_then(|text| text.lines().next().map(str::to_owned)),
        ),
        ("Undying", commit()),
        (
            "VM",
            status.as_ref().map(|vm| {
                format!("{}, {}; {} CPU, {} MiB", vm.machine, vm.accel, vm.cpus, vm.memory_bytes >> 20)
            }),
        ),
        (
            "Guest",
            Some(format!(
                "Debian kernel {}, redis-server {}, unmodified",
                props.guest.manifest.kernel, props.guest.manifest.redis
            )),
        ),
        ("Checkpoints", Some(format!("{}, at most {} in flight", interval.when(), timing.max_in_flight))),
        (
            "Failure detection",
            Some(format!(
                "heartbeats every {} ms; a host is suspected after {} ms of silence, on a link known to be late after up to {} ms",
                timing.heartbeat.0 / 1_000,
                timing.timeout.0 / 1_000,
                timing.timeout_max.0 / 1_000
            )),
        ),
    ];
    if let Some(vm) = &status {
        let mib = vm.agent_bytes as f64 / f64::from(1 << 20);
        facts.push((
            "Agent's memory for the VM",
            Some(format!("{mib:.1} MiB beside the guest's own at the primary")),
        ));
    }
    facts.push(("Added latency", Some(
        "one connection, one SET or GET at a time, nobody else asking: each latency under protection less the median \
         without".into(),
    )));
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn machine() -> Option<String> {
    let processors = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = processors.lines().find(|line| line.starts_with("model name"))?.split(':').nth(1)?.trim();
    let threads = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = memory.lines().next()?.split_whitespace().nth(1)?.parse().ok()?;
    Some(format!(
        "{threads} CPUs ({model}), {:.0} GiB of memory; both hosts and the client share it",
        kib as f64 / f64::from(1 << 20)
    ))
}

fn system() -> Option<String> {
    let debian = std::fs::read_to_string("/etc/debian_version").ok()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(format!("Debian {}, Linux {}", debian.trim(), kernel.trim()))
}

fn commit() -> Option<String> {
    let version = env!("CARGO_PKG_VERSION");
    let root = workspace::root().display().to_string();
    let commit = output("git", &["-C", &root, "rev-parse", "--short", "HEAD"]);
    Some(commit.map_or(version.to_owned(), |commit| format!("{version}, commit {}", commit.trim())))
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    command::run(Command::new(program).args(arguments)).ok()
}
