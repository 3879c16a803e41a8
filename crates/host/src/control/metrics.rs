//! Owns the Prometheus text of `/metrics`: one table of metrics, each made from a VM's status.

use api::types::{HostStatus, Role, VmStatus};
use std::fmt::Write;

/// One metric of a VM.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&VmStatus) -> f64,
}

const METRICS: &[Metric] = &[
    gauge("undying_vm_primary", "1 if the VM runs here, 0 if this host stands by", |vm| {
        f64::from(u8::from(vm.role == Role::Primary))
    }),
    gauge("undying_vm_protected", "1 if a backup can take over now", |vm| {
        f64::from(u8::from(vm.phase == "protected"))
    }),
    gauge("undying_vm_term", "Number of the current ownership", |vm| vm.term as f64),
    gauge("undying_vm_epoch", "Newest epoch sent or committed", |vm| vm.epoch as f64),
    gauge("undying_vm_checkpoints_in_flight", "Checkpoints not yet acknowledged", |vm| {
        f64::from(vm.in_flight)
    }),
    gauge("undying_vm_throttled", "1 while the guest stands still because its backup is slow", |vm| {
        f64::from(u8::from(vm.throttled))
    }),
    counter("undying_vm_throttled_seconds_total", "The guest stood still so long for a slow backup", |vm| {
        vm.throttled_ms / 1e3
    }),
    gauge("undying_vm_slowed_ratio", "The part of its time that the guest loses for a slow backup", |vm| {
        f64::from(vm.slowed_percent) / 100.0
    }),
    gauge("undying_vm_pause_seconds_median", "Median pause of a checkpoint", |vm| {
        vm.measured.pause_ms.median / 1e3
    }),
    gauge("undying_vm_pause_seconds_p99", "99th percentile of a checkpoint's pause", |vm| {
        vm.measured.pause_ms.p99 / 1e3
    }),
    gauge("undying_vm_hold_seconds_p99", "99th percentile of a frame's wait in the gate", |vm| {
        vm.measured.hold_ms.p99 / 1e3
    }),
    counter("undying_vm_wire_bytes_total", "Bytes sent for checkpoints", |vm| vm.measured.wire_bytes as f64),
    counter("undying_vm_pages_total", "Pages sent for checkpoints", |vm| vm.measured.pages as f64),
    gauge("undying_gate_waiting_frames", "Frames that wait for their epoch", |vm| {
        vm.gate.waiting_frames as f64
    }),
    counter("undying_gate_released_frames_total", "Frames released", |vm| vm.gate.released_frames as f64),
    counter("undying_gate_dropped_frames_total", "Frames dropped by a full gate", |vm| {
        vm.gate.dropped_frames as f64
    }),
    gauge("undying_vm_agent_bytes", "Memory the agent holds beside the guest's RAM", |vm| {
        vm.agent_bytes as f64
    }),
];

const fn gauge(name: &'static str, help: &'static str, value: fn(&VmStatus) -> f64) -> Metric {
    Metric { name, kind: "gauge", help, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&VmStatus) -> f64) -> Metric {
    Metric { name, kind: "counter", help, value }
}

/// The metrics of a host. Names are checked at their making, so nothing in a label needs escaping.
pub(super) fn text(host: &HostStatus, vms: &[VmStatus]) -> String {
    let mut text = String::new();
    head(&mut text, "undying_arbiter_up", "gauge", "1 if the arbiter answers");
    line(&mut text, "undying_arbiter_up", &format!("host=\"{}\"", host.name), {
        f64::from(u8::from(host.arbiter_error.is_none()))
    });
    for metric in METRICS {
        head(&mut text, metric.name, metric.kind, metric.help);
        for vm in vms {
            let labels = format!("host=\"{}\",vm=\"{}\"", vm.host, vm.name);
            line(&mut text, metric.name, &labels, (metric.value)(vm));
        }
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes everything");
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    writeln!(text, "{name}{{{labels}}} {value}").expect("a String takes everything");
}
