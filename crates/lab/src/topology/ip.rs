//! Owns the links of a lab: what is handed to `ip` (iproute2), one batch for each machine.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use super::{BRIDGE, LabError, Namespace};
use crate::command;

/// No spanning tree and no delay: a port forwards as soon as it is up. No snooping: neighbour discovery is multicast.
const PLAIN_BRIDGE: &str = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";

pub fn make_switch(switch: &Namespace) -> Result<(), LabError> {
    batch(
        switch,
        &format!(
            "link add lan {PLAIN_BRIDGE}\n\
             link add repl {PLAIN_BRIDGE}\n\
             link set lan up\n\
             link set repl up\n"
        ),
    )
}

pub fn connect_client(switch: &Namespace, client: &Namespace, [v4, v6]: [IpAddr; 2]) -> Result<(), LabError> {
    connect(switch, "lan", "lan-client", client, "lan0")?;
    batch(
        client,
        &format!(
            "link set lo up\n\
             link set lan0 up\n\
             addr add {v4}/24 dev lan0\n\
             addr add {v6}/64 dev lan0 nodad\n"
        ),
    )
}

pub fn connect_host(
    switch: &Namespace,
    host: &Namespace,
    name: &str,
    [v4, v6]: [IpAddr; 2],
    replication: Ipv4Addr,
) -> Result<(), LabError> {
    connect(switch, "lan", &lan_port(name), host, "lan0")?;
    connect(switch, "repl", &replication_port(name), host, "repl0")?;
    batch(
        host,
        &format!(
            "link set lo up\n\
             link add {BRIDGE} {PLAIN_BRIDGE}\n\
             link set {BRIDGE} up\n\
             link set lan0 master {BRIDGE} up\n\
             link set repl0 up\n\
             addr add {v4}/24 dev {BRIDGE}\n\
             addr add {v6}/64 dev {BRIDGE} nodad\n\
             addr add {replication}/24 dev repl0\n"
        ),
    )
}

/// The switch's end of a host's uplink.
pub fn lan_port(host: &str) -> String {
    format!("lan-{host}")
}

/// The switch's end of a host's replication link.
pub fn replication_port(host: &str) -> String {
    format!("repl-{host}")
}

pub fn set_ports(switch: &Namespace, ports: &[String], state: &str) -> Result<(), LabError> {
    let lines: String = ports.iter().map(|port| format!("link set {port} {state}\n")).collect();
    batch(switch, &lines)
}

pub fn add_tap(host: &Namespace, name: &str) -> Result<(), LabError> {
    batch(host, &format!("tuntap add dev {name} mode tap\nlink set {name} master {BRIDGE} up\n"))
}

/// A cable from a port of one of the switch's bridges to an interface of a machine.
fn connect(
    switch: &Namespace,
    bridge: &str,
    port: &str,
    machine: &Namespace,
    interface: &str,
) -> Result<(), LabError> {
    batch(
        switch,
        &format!(
            "link add {port} type veth peer name {interface} netns {}\n\
             link set {port} master {bridge} up\n",
            machine.name()
        ),
    )
}

fn batch(namespace: &Namespace, lines: &str) -> Result<(), LabError> {
    command::run_with_input(Command::new("ip").args(["-netns", namespace.name(), "-batch", "-"]), lines)?;
    Ok(())
}
