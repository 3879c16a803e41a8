//! Owns the machines of an experiment: hosts, a switch and a client, as network namespaces of this one machine.
//!
//! ```text
//!   client ──────────┐
//!   10.78.0.100      │ LAN: bridge `lan` in the namespace of the switch
//!                    │
//!   alpha: br0 ──────┤        replication network: bridge `repl` in the switch
//!   10.78.0.1   repl0 ───────┐ 10.77.0.1
//!                    │       │
//!   beta:  br0 ──────┘       │
//!   10.78.0.2   repl0 ───────┘ 10.77.0.2
//! ```
//!
//! A second replication network is built as the first, bridge `repl2`, interfaces `repl1`, addresses 10.79.0.0/24; agents
//! use it if their configuration names it.
//!
//! A guest's TAP device joins its host's bridge `br0`. A link is cut at the switch's end, as when a cable is pulled:
//! the host keeps its addresses and routes, and nothing that it sends arrives. Names are unique to the process and
//! the lab, so many labs run side by side; addresses are the same in each. Dropping a [`Lab`] ends every process in
//! it and removes its namespaces; those of a lab whose process died are removed when the next lab is made.

mod ip;
mod namespace;
mod process;
mod stale;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

pub use namespace::Namespace;
pub use process::ProcessId;

use self::process::Processes;
use crate::command::CommandError;

/// The bridge of every host, which its guests' TAP devices join.
pub const BRIDGE: &str = "br0";
/// Hosts have the addresses below those of the guests.
pub const MOST_HOSTS: usize = 49;
/// The name under which [`Lab::start_agent`] starts an agent.
pub const AGENT: &str = "agent";

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces need root.
    #[error("a lab is made of network namespaces, and only root may make them: run this as root")]
    NotRoot,
    /// `ip` failed.
    #[error("cannot set up the network: {0}")]
    Network(#[from] CommandError),
    /// A namespace could not be entered.
    #[error("cannot {what} the network namespace {name}: {source}")]
    Namespace {
        /// What was tried.
        what: &'static str,
        /// The namespace.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {command} on {host}: {source}")]
    Start {
        /// The program and its arguments.
        command: String,
        /// Where.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no host of this name.
    #[error("there is no host `{0}` in this lab")]
    UnknownHost(String),
    /// Its addresses are used up.
    #[error("a lab has room for {MOST_HOSTS} hosts, and there is none for `{0}`")]
    TooManyHosts(String),
    /// There is no such process on the host.
    #[error("no process `{process}` is running on {host}")]
    NotRunning {
        /// Where.
        host: String,
        /// Its name in the lab.
        process: String,
    },
    /// A cable was put back and does not carry.
    #[error("the switch's port {port} does not forward: the kernel did not see its carrier")]
    NoCarrier {
        /// The switch's port.
        port: String,
    },
    /// A file of the lab could not be made.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A cable that can be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// The host's replication link.
    Replication(&'a str),
    /// The host's link to the second replication network.
    Second(&'a str),
    /// The host's uplink to the LAN, over which its guests talk to clients.
    Uplink(&'a str),
    /// All links of the host.
    All(&'a str),
}

/// Addresses of a guest in the lab's LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestAddress {
    /// Its IPv4 address, in 10.78.0.0/24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in fd78::/64.
    pub v6: Ipv6Addr,
}

impl GuestAddress {
    /// Addresses of the guest with this number, below 40.
    pub fn of(number: u8) -> GuestAddress {
        assert!(number < 40, "the LAN has room for 40 guests");
        GuestAddress { v4: lan_v4(50 + number), v6: lan_v6(50 + number) }
    }

    /// For the guest's kernel command line: `10.78.0.50/24`.
    pub fn v4_with_prefix(&self) -> String {
        format!("{}/24", self.v4)
    }

    /// For the guest's kernel command line: `fd78::50/64`.
    pub fn v6_with_prefix(&self) -> String {
        format!("{}/64", self.v6)
    }
}

fn lan_v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, last)
}

fn lan_v6(last: u8) -> Ipv6Addr {
    // Written as the IPv4 address is: 10.78.0.50 is fd78::50.
    let last = u16::from_str_radix(&last.to_string(), 16).expect("decimal digits are hexadecimal digits");
    Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, last)
}

#[derive(Debug)]
struct Host {
    namespace: Namespace,
    number: u8,
}

/// Hosts, a switch and a client.
#[derive(Debug)]
pub struct Lab {
    // Declared, and so dropped, in this order: processes end before their namespaces go.
    processes: Processes,
    hosts: Mutex<BTreeMap<String, Host>>,
    client: Namespace,
    switch: Namespace,
    prefix: String,
    directory: tempfile::TempDir,
}

static LABS: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// A lab with the hosts `alpha` and `beta`.
    ///
    /// # Errors
    /// As [`Lab::with_hosts`].
    pub fn new(tag: &str) -> Result<Lab, LabError> {
        Lab::with_hosts(tag, &["alpha", "beta"])
    }

    /// A lab with these hosts, whose names are at most 10 characters long; `tag` (a few letters) shows in the names of
    /// its namespaces.
    ///
    /// # Errors
    /// Not root, too many hosts, or the namespaces or links cannot be made.
    pub fn with_hosts(tag: &str, names: &[&str]) -> Result<Lab, LabError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        stale::remove()?;
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{}-{number}-{tag}", stale::PREFIX, std::process::id());
        let directory =
            tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir().map_err(|source| {
                LabError::File { what: "create a directory in", path: std::env::temp_dir(), source }
            })?;
        let switch = Namespace::create(format!("{prefix}-switch"))?;
        ip::make_switch(&switch)?;
        let client = Namespace::create(format!("{prefix}-client"))?;
        ip::connect_client(&switch, &client, [IpAddr::V4(lan_v4(100)), IpAddr::V6(lan_v6(100))])?;
        let hosts = Mutex::default();
        let lab = Lab { processes: Processes::default(), hosts, client, switch, prefix, directory };
        for name in names {
            lab.add_host(name)?;
        }
        Ok(lab)
    }

    /// Adds a host, connected as the others are. Names are at most 10 characters long.
    ///
    /// # Errors
    /// Too many hosts, or the namespace or its links cannot be made.
    pub fn add_host(&self, name: &str) -> Result<(), LabError> {
        let mut hosts = self.hosts();
        let number = match u8::try_from(hosts.len() + 1) {
            Ok(number) if usize::from(number) <= MOST_HOSTS => number,
            _ => return Err(LabError::TooManyHosts(name.to_owned())),
        };
        let namespace = Namespace::create(format!("{}-{name}", self.prefix))?;
        let addresses = [IpAddr::V4(lan_v4(number)), IpAddr::V6(lan_v6(number))];
        ip::connect_host(
            &self.switch,
            &namespace,
            name,
            addresses,
            [replication_v4(number), second_v4(number)],
        )?;
        hosts.insert(name.to_owned(), Host { namespace, number });
        Ok(())
    }

    /// The lab's directory for configuration, sockets and logs; it goes with the lab.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The client's namespace.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// A host's namespace.
    ///
    /// # Errors
    /// There is no such host.
    pub fn host(&self, name: &str) -> Result<Namespace, LabError> {
        self.with_host(name, |host| host.namespace.share())
    }

    /// The address at which a host's agent is reached by other agents.
    ///
    /// # Errors
    /// There is no such host.
    pub fn replication_address(&self, host: &str) -> Result<Ipv4Addr, LabError> {
        self.with_host(host, |host| replication_v4(host.number))
    }

    /// The same on the second replication network.
    ///
    /// # Errors
    /// There is no such host.
    pub fn second_address(&self, host: &str) -> Result<Ipv4Addr, LabError> {
        self.with_host(host, |host| second_v4(host.number))
    }

    /// A host's own address in the LAN.
    ///
    /// # Errors
    /// There is no such host.
    pub fn lan_address(&self, host: &str) -> Result<Ipv4Addr, LabError> {
        self.with_host(host, |host| lan_v4(host.number))
    }

    /// Pulls a cable. Cutting one that is cut changes nothing.
    ///
    /// # Errors
    /// There is no such host, or `ip` fails.
    pub fn cut_link(&self, link: Link<'_>) -> Result<(), LabError> {
        self.cut_links(&[link])
    }

    /// Pulls several cables at once.
    ///
    /// # Errors
    /// As [`Lab::cut_link`].
    pub fn cut_links(&self, links: &[Link<'_>]) -> Result<(), LabError> {
        let mut all = Vec::new();
        for &link in links {
            all.extend(self.cables(link)?.1);
        }
        ip::cut(&self.switch, &all)
    }

    /// Puts a cable back, and waits until it carries.
    ///
    /// # Errors
    /// There is no such host, or `ip` fails.
    pub fn heal_link(&self, link: Link<'_>) -> Result<(), LabError> {
        let (host, cables) = self.cables(link)?;
        ip::heal(&self.switch, &host, &cables)
    }

    /// Nothing that `from` sends on the replication network reaches `to` any more; the other direction works.
    ///
    /// # Errors
    /// There is no such host, or `ip` fails.
    pub fn mute(&self, from: &str, to: &str) -> Result<(), LabError> {
        ip::misdirect(&self.host(from)?, self.replication_address(to)?)
    }

    /// It reaches it again.
    ///
    /// # Errors
    /// There is no such host, it was not muted, or `ip` fails.
    pub fn unmute(&self, from: &str, to: &str) -> Result<(), LabError> {
        ip::redirect(&self.host(from)?, self.replication_address(to)?)
    }

    /// The client asks anew for everybody's address: who has another card than before is found at once.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn forget_neighbours(&self) -> Result<(), LabError> {
        ip::forget_neighbours(&self.client)
    }

    /// Connections that a host makes or takes from now on can be harmed by [`Lab::narrow_link`].
    ///
    /// # Errors
    /// There is no such host, or `ip` fails.
    pub fn cut_packets(&self, host: &str) -> Result<(), LabError> {
        ip::cut_packets(&self.host(host)?)
    }

    /// A host's replication link carries to it packets of at most so many bytes (1,500 is all): longer ones are lost.
    ///
    /// # Errors
    /// There is no such host, or `ip` fails.
    pub fn narrow_link(&self, host: &str, bytes: u32) -> Result<(), LabError> {
        self.host(host)?;
        ip::narrow(&self.switch, &ip::Cable::replication(host), bytes)
    }

    /// A host sends at most so many bytes a second to other hosts from now on; none: as fast as it goes again.
    ///
    /// # Errors
    /// There is no such host, or `tc` fails.
    pub fn limit_link(&self, host: &str, rate: Option<u64>) -> Result<(), LabError> {
        ip::limit(&self.host(host)?, rate)
    }

    fn cables(&self, link: Link<'_>) -> Result<(Namespace, Vec<ip::Cable>), LabError> {
        let (host, cables) = match link {
            Link::Replication(host) => (host, vec![ip::Cable::replication(host)]),
            Link::Second(host) => (host, vec![ip::Cable::second(host)]),
            Link::Uplink(host) => (host, vec![ip::Cable::uplink(host)]),
            Link::All(host) => {
                (host, vec![ip::Cable::replication(host), ip::Cable::second(host), ip::Cable::uplink(host)])
            }
        };
        Ok((self.host(host)?, cables))
    }

    /// Adds a TAP device on a host's bridge, for a QEMU without an agent.
    ///
    /// # Errors
    /// There is no such host, or `ip` fails.
    pub fn add_tap(&self, host: &str, name: &str) -> Result<(), LabError> {
        ip::add_tap(&self.host(host)?, name)
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn with_host<T>(&self, name: &str, look: impl FnOnce(&Host) -> T) -> Result<T, LabError> {
        self.hosts().get(name).map(look).ok_or_else(|| LabError::UnknownHost(name.to_owned()))
    }
}

fn replication_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn second_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, 0, number)
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Whatever the lab's processes started goes too, before the namespaces lose their names.
        self.processes.end_all();
        for host in self.hosts().values() {
            stale::end_processes_in(&host.namespace);
        }
        stale::end_processes_in(&self.client);
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the lab's logs are kept in {}", self.directory.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_have_readable_addresses_in_both_families() {
        let address = GuestAddress::of(3);
        assert_eq!(address.v4_with_prefix(), "10.78.0.53/24");
        assert_eq!(address.v6_with_prefix(), "fd78::53/64");
    }
}
