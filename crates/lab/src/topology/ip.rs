//! Owns the links of a lab: what is handed to `ip` (iproute2), one batch for each machine.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{BRIDGE, LabError, Namespace};
use crate::command;

/// No spanning tree and no delay: a port forwards as soon as it is up. No snooping: neighbour discovery is multicast.
const PLAIN_BRIDGE: &str = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";

/// Far longer than the kernel takes.
const CARRIER_PATIENCE: Duration = Duration::from_secs(10);

pub fn make_switch(switch: &Namespace) -> Result<(), LabError> {
    batch(
        switch,
        &format!(
            "link add lan {PLAIN_BRIDGE}\n\
             link add repl {PLAIN_BRIDGE}\n\
             link add repl2 {PLAIN_BRIDGE}\n\
             link set lan up\n\
             link set repl up\n\
             link set repl2 up\n"
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
    [replication, second]: [Ipv4Addr; 2],
) -> Result<(), LabError> {
    connect(switch, "lan", &Cable::uplink(name).port, host, "lan0")?;
    connect(switch, "repl", &Cable::replication(name).port, host, "repl0")?;
    connect(switch, "repl2", &Cable::second(name).port, host, "repl1")?;
    batch(
        host,
        &format!(
            "link set lo up\n\
             link add {BRIDGE} {PLAIN_BRIDGE}\n\
             link set {BRIDGE} up\n\
             link set lan0 master {BRIDGE} up\n\
             link set repl0 up\n\
             link set repl1 up\n\
             addr add {v4}/24 dev {BRIDGE}\n\
             addr add {v6}/64 dev {BRIDGE} nodad\n\
             addr add {replication}/24 dev repl0\n\
             addr add {second}/24 dev repl1\n"
        ),
    )
}

/// The ends of a host's cable: the switch's port and the host's interface.
pub struct Cable {
    port: String,
    interface: &'static str,
}

impl Cable {
    /// The uplink to the LAN.
    pub fn uplink(host: &str) -> Cable {
        Cable { port: format!("lan-{host}"), interface: "lan0" }
    }

    /// The replication link.
    pub fn replication(host: &str) -> Cable {
        Cable { port: format!("repl-{host}"), interface: "repl0" }
    }

    /// The link to the second replication network.
    pub fn second(host: &str) -> Cable {
        Cable { port: format!("rep2-{host}"), interface: "repl1" }
    }
}

/// Pulls cables at the switch's end; nothing passes from now on.
pub fn cut(switch: &Namespace, cables: &[Cable]) -> Result<(), LabError> {
    batch(switch, &set_lines(cables, "down"))
}

/// Puts cables back, and waits until both ends forward: the kernel may take a second to notice a carrier.
pub fn heal(switch: &Namespace, host: &Namespace, cables: &[Cable]) -> Result<(), LabError> {
    batch(switch, &set_lines(cables, "up"))?;
    let started = Instant::now();
    for cable in cables {
        while !(is_up(switch, &cable.port)? && is_up(host, cable.interface)?) {
            if started.elapsed() > CARRIER_PATIENCE {
                return Err(LabError::NoCarrier { port: cable.port.clone() });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// What this machine sends to `to` on the replication network goes to nobody from now on, silently; what comes from
/// there still comes.
pub fn misdirect(host: &Namespace, to: Ipv4Addr) -> Result<(), LabError> {
    // A locally administered address that no interface has.
    batch(host, &format!("neigh replace {to} lladdr 02:00:00:00:00:99 nud permanent dev repl0\n"))
}

/// It is found again.
pub fn redirect(host: &Namespace, to: Ipv4Addr) -> Result<(), LabError> {
    batch(host, &format!("neigh del {to} dev repl0\n"))
}

/// A machine asks anew for everybody's address on the LAN.
pub fn forget_neighbours(machine: &Namespace) -> Result<(), LabError> {
    batch(machine, "neigh flush dev lan0\n")
}

/// From now on a connection's packets leave this machine on the replication network as short as a cable carries them: the
/// kernel would hand on longer ones, for a network card to cut, and those pass a narrow port.
pub fn cut_packets(host: &Namespace) -> Result<(), LabError> {
    batch(host, "link set repl0 gso_max_segs 1\n")
}

/// The longest packet that a cable carries from now on; longer ones are lost without a word to whoever sent them.
pub fn narrow(switch: &Namespace, cable: &Cable, bytes: u32) -> Result<(), LabError> {
    batch(switch, &format!("link set {} mtu {bytes}\n", cable.port))
}

/// This machine sends at most so many bytes a second on the replication network; none: as fast as it goes.
pub fn limit(host: &Namespace, rate: Option<u64>) -> Result<(), LabError> {
    let mut order = Command::new("tc");
    match rate {
        Some(bytes) => {
            let rate = format!("{}bit", bytes * 8);
            order.args(["qdisc", "replace", "dev", "repl0", "root", "tbf", "rate", &rate]);
            // A packet of the longest kind that the kernel hands on, and a queue of a switch's usual length.
            order.args(["burst", "64kb", "latency", "50ms"])
        }
        None => order.args(["qdisc", "delete", "dev", "repl0", "root"]),
    };
    host.output(&mut order).map(drop)
}

fn set_lines(cables: &[Cable], state: &str) -> String {
    cables.iter().map(|cable| format!("link set {} {state}\n", cable.port)).collect()
}

/// Whether an interface has its carrier and, in a bridge, forwards.
fn is_up(machine: &Namespace, interface: &str) -> Result<bool, LabError> {
    let mut show = Command::new("ip");
    show.args(["-netns", machine.name(), "-details", "link", "show", "dev", interface]);
    let shown = command::run(&mut show)?;
    Ok(shown.contains("state UP") && (!shown.contains("bridge_slave") || shown.contains("state forwarding")))
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
