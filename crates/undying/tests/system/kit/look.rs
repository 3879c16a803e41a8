//! Owns looking at agents: who owns a VM, which process it is, what was logged.

use super::process::{Process, VmProcess};
use api::types::{EventRecord, Role, RoomStatus, VmStatus};
use lab::cluster::Cluster;
use lab::topology::AGENT;
use protocol::VmName;

/// What a host says of a VM, if it knows it.
pub fn status(cluster: &Cluster, host: &str, vm: &VmName) -> Option<VmStatus> {
    cluster
        .ask(host, |api| api.vms())
        .expect("the agent answers")
        .into_iter()
        .find(|status| status.name == *vm)
}

/// The VM's process at a host, running or standing by.
pub fn process(cluster: &Cluster, host: &str, vm: &VmName) -> VmProcess {
    let status = status(cluster, host, vm).unwrap_or_else(|| panic!("{host} knows nothing of {vm}"));
    VmProcess(status.pid.map(Process::of))
}

/// The agent of a host.
pub fn agent(cluster: &Cluster, host: &str) -> Process {
    Process::of(cluster.lab.process(host, AGENT).expect("the agent runs"))
}

/// Of these hosts, those that say that they own the VM.
pub fn owners(cluster: &Cluster, hosts: &[&str], vm: &VmName) -> Vec<String> {
    let owns = |host: &&&str| status(cluster, host, vm).is_some_and(|status| status.role == Role::Primary);
    hosts.iter().filter(owns).map(|host| (*host).to_string()).collect()
}

/// The number of the newest event at a host: what is logged from now on has a higher one.
pub fn mark(cluster: &Cluster, host: &str) -> u64 {
    let events = cluster.ask(host, |api| api.events(0)).expect("the agent answers");
    events.last().map_or(0, |event| event.seq)
}

/// Waits for an event behind the one numbered `after`.
pub fn event(cluster: &Cluster, host: &str, name: &str, after: u64) -> EventRecord {
    cluster.wait_event(host, name, after).expect("the event comes")
}

/// Whether an event is among those behind `after`.
pub fn has_event(cluster: &Cluster, host: &str, name: &str, after: u64) -> bool {
    let events = cluster.ask(host, |api| api.events(after)).expect("the agent answers");
    events.iter().any(|event| event.what["event"] == name)
}

/// What a host has for standbys, and what it keeps of VMs that left.
pub fn room(cluster: &Cluster, host: &str) -> RoomStatus {
    cluster.ask(host, |api| api.host_status()).expect("a status").room.expect("it runs VMs")
}

/// The end of every agent's log.
pub fn logs(cluster: &Cluster) -> String {
    let end = |host: &str| {
        let log = std::fs::read_to_string(cluster.lab.log(host, AGENT)).unwrap_or_default();
        format!("--- {host}\n{}", lab::command::tail(&log, 40))
    };
    ["alpha", "beta", "gamma"].map(end).join("\n")
}

/// No agent may ever panic, whatever others do to it.
pub fn assert_no_panic(cluster: &Cluster) {
    for host in ["alpha", "beta", "gamma"] {
        let log = std::fs::read_to_string(cluster.lab.log(host, AGENT)).unwrap_or_default();
        assert!(!log.contains("panicked"), "the agent of {host} panicked:\n{}", logs(cluster));
    }
}
