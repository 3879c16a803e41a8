//! Owns saying where a benchmark ran, and how busy others kept that machine.

use crate::workspace;
use lab::command;
use lab::guest::redis::Manifest;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Others that use more than this much of all processors make a machine loaded.
pub const LOADED_PERCENT: f64 = 10.0;
/// How long one looks at the processors to know.
const LOOK: Duration = Duration::from_secs(2);

/// Name and value of everything worth knowing; what cannot be found out is left out.
pub fn facts(guest: &Manifest) -> Vec<(&'static str, String)> {
    let facts = [
        ("Date", output("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])),
        ("Machine", machine()),
        ("System", system()),
        ("Virtualisation", Some(virtualisation())),
        ("QEMU", output("qemu-system-x86_64", &["--version"])),
        ("Undying", commit()),
        ("Guest", Some(format!("Debian kernel {}, redis-server {}, unmodified", guest.kernel, guest.redis))),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// When hosts suspect each other in the benchmark of checkpoints.
pub fn detection() -> (&'static str, String) {
    let timing = protocol::Timing::default();
    let text = format!(
        "in part 3 heartbeats every {} ms, a host is suspected after {} ms of silence (the defaults); elsewhere after \
         5 s, so that a busy machine gives figures and not failovers",
        timing.heartbeat.0 / 1_000,
        timing.timeout.0 / 1_000
    );
    ("Failure detection", text)
}

fn machine() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = text.lines().find(|line| line.starts_with("model name"))?.split(':').nth(1)?.trim();
    let threads = text.lines().filter(|line| line.starts_with("processor")).count();
    let memory = os::facts::total_memory() >> 30;
    Some(format!(
        "{threads} processors ({model}), {memory} GiB of memory; both hosts, the guest and the clients share it"
    ))
}

fn system() -> Option<String> {
    let debian = fs::read_to_string("/etc/debian_version").ok()?;
    Some(format!("Debian {}, Linux {}", debian.trim(), os::facts::kernel_release()))
}

fn virtualisation() -> String {
    match (os::facts::kvm_opens(), os::facts::has_hardware_virtualization()) {
        (Err(error), _) => format!("no KVM ({error}): guests run under TCG"),
        (Ok(()), Ok(true)) => {
            "KVM with hardware virtualisation; the Linux guests here run under TCG all the same".into()
        }
        (Ok(()), _) => {
            "KVM without hardware virtualisation (an emulation): Linux guests run under TCG".into()
        }
    }
}

fn commit() -> Option<String> {
    let root = workspace::root().display().to_string();
    let commit = output("git", &["-C", &root, "rev-parse", "--short", "HEAD"]);
    let version = env!("CARGO_PKG_VERSION");
    Some(commit.map_or(version.to_owned(), |commit| format!("{version}, commit {commit}")))
}

pub(super) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let text = command::run(Command::new(program).args(arguments)).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// How busy the processors are now, in percent of all of them. While nothing of a benchmark runs, that is others'
/// doing; what a hypervisor below takes away counts too.
pub fn busy_percent() -> f64 {
    let before = processor_times();
    thread::sleep(LOOK);
    match (before, processor_times()) {
        (Some(before), Some(after)) => busy_between(before, after),
        _ => 0.0,
    }
}

/// Time spent at all, and idle, in ticks of all processors together since the boot.
fn processor_times() -> Option<(u64, u64)> {
    parse_times(&fs::read_to_string("/proc/stat").ok()?)
}

/// (Linux Documentation/filesystems/proc.rst: user nice system idle iowait irq softirq steal)
fn parse_times(text: &str) -> Option<(u64, u64)> {
    let numbers = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let times: Vec<u64> = numbers.take(8).filter_map(|number| number.parse().ok()).collect();
    Some((times.iter().sum(), times.get(3)? + times.get(4)?))
}

fn busy_between(before: (u64, u64), after: (u64, u64)) -> f64 {
    let (all, idle) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    if all == 0 { 0.0 } else { 100.0 * all.saturating_sub(idle) as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_that_is_not_idle_or_waiting() {
        let before = parse_times("cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 1 1 1 1\n").expect("times");
        let after = parse_times("cpu  30 0 10 160 10 0 0 10 0 0\n").expect("times");
        assert_eq!(before, (120, 100));
        assert!((busy_between(before, after) - 30.0).abs() < 1e-9);
        assert_eq!(parse_times("intr 1 2\n"), None);
    }
}
