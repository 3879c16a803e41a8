//! Owns a whole cluster in a lab: agents with their configuration, an arbiter, VMs, and waiting for what they do.

use crate::arbiters::{ArbiterKind, LabArbiter};
use crate::guest::console;
use crate::guest::linux::ON_DISK;
use crate::guest::postgres::PostgresGuest;
use crate::guest::pulse::{PULSE_PORT, PulseClient};
use crate::guest::redis::RedisGuest;
use crate::guest::riscv::RiscvGuest;
use crate::plain::Machine;
use crate::topology::{GuestAddress, Lab, LabError};
use api::client::{Client, ClientError};
use api::types::{EventRecord, ProtectRequest, Role, StartRequest, VmStatus};
use protocol::{HostName, VmName};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trust::{Lifetime, Store};

/// Port of the agents.
const PORT: u16 = 7400;
/// How long the agents and guests of a lab may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What went wrong in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// An agent's API.
    #[error("agent of {host}: {source}")]
    Api {
        /// The host.
        host: String,
        /// The error.
        source: ClientError,
    },
    /// The arbiter.
    #[error(transparent)]
    Arbiter(#[from] arbiter::ArbiterError),
    /// An identity, or trust in one.
    #[error(transparent)]
    Trust(#[from] trust::TrustError),
    /// The guest did not take the order.
    #[error("the guest cannot be told to reboot: {0}")]
    Reboot(std::io::Error),
    /// The guest did not take the order.
    #[error("the guest cannot be told to shut down: {0}")]
    ShutDown(std::io::Error),
    /// A program.
    #[error(transparent)]
    Command(#[from] crate::command::CommandError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// The guest did not say what was expected.
    #[error(transparent)]
    Console(#[from] console::ConsoleError),
    /// QEMU.
    #[error("the VM's QEMU at {host} cannot be killed: {source}")]
    Kill {
        /// The host.
        host: String,
        /// The error.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s; last seen: {last}", .waited.as_secs())]
    Late {
        /// What was awaited.
        what: String,
        /// How long.
        waited: Duration,
        /// What was seen instead.
        last: String,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] protocol::ids::NameError),
}

/// A VM's file and where its guest is reached.
#[derive(Debug, Clone)]
pub struct VmFile {
    /// Its name.
    pub name: VmName,
    /// The file's text.
    pub toml: String,
    /// The guest's addresses in the lab's LAN.
    pub address: GuestAddress,
}

/// What a VM of a test or a demonstration is.
#[derive(Debug, Clone, Copy)]
pub struct VmShape {
    /// Machine type.
    pub machine: Machine,
    /// Model of the network card, as the VM file names it; the machine's usual one if none.
    pub nic: Option<&'static str>,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of the guest in the LAN.
    pub number: u8,
}

impl Default for VmShape {
    fn default() -> Self {
        Self { machine: Machine::Q35, nic: None, cpus: 1, memory_mib: 512, number: 0 }
    }
}

impl VmFile {
    /// A VM with the Redis guest.
    ///
    /// # Errors
    /// If the name is none.
    pub fn redis(
        guest: &RedisGuest,
        name: &str,
        shape: VmShape,
        pulse: Option<&str>,
    ) -> Result<Self, ClusterError> {
        let append = guest.append(shape.machine, GuestAddress::of(shape.number), pulse);
        Self::linux(name, shape, &guest.kernel, &guest.initrd, &append)
    }

    /// A VM with the PostgreSQL guest; `image` is made on the host by [`Cluster::place_disk`] from the guest's own.
    ///
    /// # Errors
    /// If the name is none.
    pub fn postgres(
        guest: &PostgresGuest,
        name: &str,
        shape: VmShape,
        image: &str,
    ) -> Result<Self, ClusterError> {
        let append = guest.append(shape.machine, GuestAddress::of(shape.number));
        let mut file = Self::linux(name, shape, &guest.kernel, &guest.initrd, &append)?;
        file.toml.push_str(&format!("[[disk]]\nimage = {image:?}\n"));
        Ok(file)
    }

    /// A VM in the deterministic machine, with its Redis guest.
    ///
    /// # Errors
    /// If the name is none.
    pub fn deterministic(guest: &RiscvGuest, name: &str, shape: VmShape) -> Result<Self, ClusterError> {
        let append = guest.append(Some(GuestAddress::of(shape.number)), false);
        Self::booting(name, shape, "machine = \"rv\"", [&guest.kernel, &guest.initrd], &append)
    }

    fn linux(
        name: &str,
        shape: VmShape,
        kernel: &Path,
        initrd: &Path,
        append: &str,
    ) -> Result<Self, ClusterError> {
        let machine = shape.machine.name();
        let machine = format!("machine = \"{machine}\"\naccel = \"tcg\"\ncpus = {}", shape.cpus);
        Self::booting(name, shape, &machine, [kernel, initrd], append)
    }

    /// `machine` is what is said of the machine.
    fn booting(
        name: &str,
        shape: VmShape,
        machine: &str,
        [kernel, initrd]: [&Path; 2],
        append: &str,
    ) -> Result<Self, ClusterError> {
        let nic = shape.nic.map(|model| format!("model = \"{model}\"\n")).unwrap_or_default();
        let toml = format!(
            "name = \"{name}\"\n{machine}\nmemory = \"{}MiB\"\nkernel = {kernel:?}\ninitrd = {initrd:?}\n\
             append = {append:?}\n[[nic]]\nbridge = \"{}\"\n{nic}",
            shape.memory_mib,
            crate::topology::BRIDGE,
        );
        Ok(Self { name: VmName::new(name)?, toml, address: GuestAddress::of(shape.number) })
    }

    /// The same VM with a disk on which Redis keeps its data; `image` is made on the host by [`Cluster::make_disk`].
    #[must_use]
    pub fn on_disk(mut self, image: &str) -> Self {
        let line = format!("append = \"{} ", ON_DISK);
        self.toml = self.toml.replacen("append = \"", &line, 1);
        self.toml.push_str(&format!("[[disk]]\nimage = {image:?}\n"));
        self
    }

    /// The same with a qcow2 image, made by [`Cluster::make_qcow2_disk`].
    #[must_use]
    pub fn on_qcow2_disk(self, image: &str) -> Self {
        let mut this = self.on_disk(image);
        this.toml.push_str("format = \"qcow2\"\n");
        this
    }

    /// A bare-metal guest: firmware that counts and speaks on the serial line.
    ///
    /// # Errors
    /// If the name is none.
    pub fn firmware(firmware: &Path, name: &str, accel: &str) -> Result<Self, ClusterError> {
        let toml =
            format!("name = \"{name}\"\naccel = \"{accel}\"\nmemory = \"64MiB\"\nfirmware = {firmware:?}\n");
        Ok(Self { name: VmName::new(name)?, toml, address: GuestAddress::of(0) })
    }
}

/// Agents on the hosts of a lab.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts, the links and the client.
    pub lab: Lab,
    binary: PathBuf,
    hosts: Vec<String>,
    /// Hosts that are reached over both replication networks.
    on_two: Vec<String>,
    pub(crate) arbiter: LabArbiter,
}

impl Cluster {
    /// A lab with an arbiter in a directory and an agent (`binary`) on each of these hosts, which are one another's
    /// peers. `detection` is the text of the configuration's section of that name, or empty; other sections may follow
    /// in it.
    ///
    /// # Errors
    /// If anything of it cannot be made.
    pub fn start(tag: &str, binary: &Path, hosts: &[&str], detection: &str) -> Result<Self, ClusterError> {
        Self::start_with(tag, binary, hosts, detection, ArbiterKind::Directory)
    }

    /// The same with another kind of arbiter.
    ///
    /// # Errors
    /// If anything of it cannot be made.
    pub fn start_with(
        tag: &str,
        binary: &Path,
        hosts: &[&str],
        detection: &str,
        arbiter: ArbiterKind,
    ) -> Result<Self, ClusterError> {
        Self::start_over(tag, binary, hosts, detection, arbiter, &[])
    }

    /// The same; hosts of `on_two` are reached over both replication networks.
    ///
    /// # Errors
    /// If anything of it cannot be made.
    pub fn start_over(
        tag: &str,
        binary: &Path,
        hosts: &[&str],
        detection: &str,
        arbiter: ArbiterKind,
        on_two: &[&str],
    ) -> Result<Self, ClusterError> {
        let on_two = on_two.iter().map(|&host| host.to_owned()).collect();
        let lab = Lab::with_hosts(tag, hosts)?;
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut cluster =
            Self { lab, binary: binary.to_path_buf(), hosts, on_two, arbiter: LabArbiter::default() };
        cluster.introduce(&cluster.hosts)?;
        cluster.arbiter = cluster.make_arbiter(arbiter)?;
        for host in &cluster.hosts {
            cluster.configure(host, detection)?;
            cluster.start_agent(host)?;
        }
        Ok(cluster)
    }

    /// The arbiter's directory, if it is one.
    #[must_use]
    pub fn arbiter(&self) -> PathBuf {
        self.lab.directory().join("arbiter")
    }

    /// The program under test.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    fn state_dir(&self, host: &str) -> PathBuf {
        self.lab.directory().join(host)
    }

    /// The socket of a host's API.
    #[must_use]
    pub fn socket(&self, host: &str) -> PathBuf {
        self.lab.directory().join(format!("{host}.sock"))
    }

    /// Whom a host trusts, and as whom it is known.
    ///
    /// # Errors
    /// If the name is none.
    pub fn trust(&self, host: &str) -> Result<Store, ClusterError> {
        Ok(Store::new(&self.state_dir(host), &HostName::new(host)?))
    }

    /// Makes these hosts' identities, as far as they have none, and has them trust each other.
    pub(crate) fn introduce(&self, hosts: &[String]) -> Result<(), ClusterError> {
        let mut all = Vec::new();
        for host in hosts {
            let store = self.trust(host)?;
            let certificate = match store.identity() {
                Ok(identity) => identity.certificate().clone(),
                Err(_) => store.init(Lifetime::default())?,
            };
            all.push((store, certificate));
        }
        for (store, own) in &all {
            for (_, other) in all.iter().filter(|(_, other)| other != own) {
                store.trust(other.name(), other)?;
            }
        }
        Ok(())
    }

    /// The hosts with agents that run VMs.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    fn configure(&self, host: &str, detection: &str) -> Result<(), ClusterError> {
        let mut text = format!(
            "name = \"{host}\"\nlisten = {}\nstate_dir = {:?}\napi_socket = {:?}\n{}",
            self.addresses(host)?,
            self.state_dir(host),
            self.socket(host),
            self.arbiter.section,
        );
        text.push_str("[peers]\n");
        for peer in self.hosts.iter().filter(|peer| *peer != host) {
            text.push_str(&format!("{peer} = {}\n", self.addresses(peer)?));
        }
        text.push_str(detection);
        let path = self.config(host);
        std::fs::write(&path, text).map_err(|source| ClusterError::File { path, source })
    }

    /// Where a host listens, as its configuration says it.
    fn addresses(&self, host: &str) -> Result<String, ClusterError> {
        let first = format!("\"{}:{PORT}\"", self.lab.replication_address(host)?);
        if !self.on_two.iter().any(|on_two| on_two == host) {
            return Ok(first);
        }
        Ok(format!("[{first}, \"{}:{PORT}\"]", self.lab.second_address(host)?))
    }

    /// From now on a host reaches a peer at this address, as through a relay; its agent is started anew, and must
    /// know no VM.
    ///
    /// # Errors
    /// If the configuration cannot be written or the agent not be started.
    pub fn reroute(&self, host: &str, peer: &str, address: SocketAddr) -> Result<(), ClusterError> {
        let path = self.config(host);
        let failed = |source| ClusterError::File { path: path.clone(), source };
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        let old = format!("{peer} = \"{}:{PORT}\"\n", self.lab.replication_address(peer)?);
        std::fs::write(&path, text.replace(&old, &format!("{peer} = \"{address}\"\n"))).map_err(failed)?;
        self.lab.kill(host, crate::topology::AGENT)?;
        self.start_agent(host)
    }

    /// Where a host's agent listens for other hosts.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn replication_socket(&self, host: &str) -> Result<SocketAddr, ClusterError> {
        Ok(SocketAddr::new(self.lab.replication_address(host)?.into(), PORT))
    }

    /// A host's configuration.
    #[must_use]
    pub fn config(&self, host: &str) -> PathBuf {
        self.lab.directory().join(format!("{host}.toml"))
    }

    /// Starts a host's agent and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_agent(&self, host: &str) -> Result<(), ClusterError> {
        self.lab.start_agent(host, &self.binary, &self.config(host))?;
        self.wait_agent(host)
    }

    /// Waits until a host's agent, however it was started, answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_agent(&self, host: &str) -> Result<(), ClusterError> {
        wait_for(&format!("an answer of the agent of {host}"), PATIENCE, || {
            let answer = self.api(host)?.host_status();
            Ok(answer.map(|_| ()).map_err(|error| error.to_string()))
        })
        .map_err(|error| self.with_log(host, error))
    }

    fn with_log(&self, host: &str, error: ClusterError) -> ClusterError {
        let log = std::fs::read_to_string(self.lab.log(host, crate::topology::AGENT)).unwrap_or_default();
        match error {
            ClusterError::Late { what, waited, last } => {
                let last =
                    format!("{last}\n--- log of the agent of {host}:\n{}", crate::command::tail(&log, 30));
                ClusterError::Late { what, waited, last }
            }
            other => other,
        }
    }

    /// The API of a host's agent.
    ///
    /// # Errors
    /// If there is no way to ask.
    pub fn api(&self, host: &str) -> Result<Client, ClusterError> {
        Client::new(&self.socket(host)).map_err(|source| ClusterError::Api { host: host.to_owned(), source })
    }

    /// Asks a host's agent.
    ///
    /// # Errors
    /// What it answers.
    pub fn ask<T>(
        &self,
        host: &str,
        question: impl FnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, ClusterError> {
        question(&self.api(host)?).map_err(|source| ClusterError::Api { host: host.to_owned(), source })
    }

    /// Starts a VM on a host.
    ///
    /// # Errors
    /// If the agent refuses, or the VM does not start.
    pub fn start_vm(&self, host: &str, vm: &VmFile) -> Result<VmStatus, ClusterError> {
        let request = StartRequest {
            spec: vm.toml.clone(),
            base_dir: self.lab.directory().to_path_buf(),
            last_owner_is_dead: false,
            accept_older_disk: false,
        };
        self.ask(host, |api| api.start(&request))
    }

    /// Where a host has a disk image that VM files name `image`.
    #[must_use]
    pub fn disk(&self, host: &str, image: &str) -> PathBuf {
        self.state_dir(host).join("disks").join(image)
    }

    /// Makes a disk image with an empty ext4 at a host.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_disk(&self, host: &str, image: &str, mib: u64) -> Result<PathBuf, ClusterError> {
        let path = self.disk(host, image);
        let failed = |source| ClusterError::File { path: path.clone(), source };
        make_directory(path.parent().unwrap_or(&path))?;
        std::fs::File::create_new(&path).and_then(|file| file.set_len(mib << 20)).map_err(failed)?;
        crate::guest::ext4::format(&path)?;
        Ok(path)
    }

    /// Puts a copy of a guest's disk at a host, sparse as it is.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn place_disk(&self, host: &str, image: &str, from: &Path) -> Result<PathBuf, ClusterError> {
        let path = self.disk(host, image);
        make_directory(path.parent().unwrap_or(&path))?;
        let mut copy = std::process::Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto", "--no-clobber"]).arg(from).arg(&path);
        crate::command::run(&mut copy)?;
        Ok(path)
    }

    /// The same as a qcow2 image, with no more clusters than the empty file system needs.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_qcow2_disk(&self, host: &str, image: &str, mib: u64) -> Result<PathBuf, ClusterError> {
        let raw = self.make_disk(host, &format!("{image}.raw"), mib)?;
        let path = self.disk(host, image);
        let mut convert = std::process::Command::new("qemu-img");
        crate::command::run(convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &path]))?;
        std::fs::remove_file(&raw).map_err(|source| ClusterError::File { path: raw, source })?;
        Ok(path)
    }

    /// The committed console of a VM at a host.
    #[must_use]
    pub fn console(&self, host: &str, vm: &VmName) -> PathBuf {
        self.state_dir(host).join("vms").join(vm.as_str()).join("console.log")
    }

    /// Waits until the guest says that it serves.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_ready(&self, host: &str, vm: &VmName) -> Result<(), ClusterError> {
        console::wait_for(&self.console(host, vm), "READY", 1, PATIENCE)?;
        Ok(())
    }

    /// Resets a guest, which runs at `host` and is reached at `guest`, and waits until it serves again: its memory is
    /// gone then.
    ///
    /// # Errors
    /// If it does not.
    pub fn reboot(&self, host: &str, vm: &VmName, guest: IpAddr) -> Result<(), ClusterError> {
        let console = self.console(host, vm);
        let log =
            std::fs::read(&console).map_err(|source| ClusterError::File { path: console.clone(), source })?;
        let said = String::from_utf8_lossy(&log).matches("READY").count();
        let order = || PulseClient::connect(SocketAddr::new(guest, PULSE_PORT))?.reboot();
        self.lab.client().run(order)?.map_err(ClusterError::Reboot)?;
        console::wait_for(&console, "READY", said + 1, PATIENCE)?;
        Ok(())
    }

    /// Switches a guest off in order, which runs at `host` and is reached at `guest`: its server ends, its disk is
    /// unmounted. Waits until the VM has ended.
    ///
    /// # Errors
    /// If it does not, or the guest has no such order.
    pub fn shut_down(&self, host: &str, vm: &VmName, guest: IpAddr) -> Result<(), ClusterError> {
        let order = || PulseClient::connect(SocketAddr::new(guest, PULSE_PORT))?.shut_down();
        self.lab.client().run(order)?.map_err(ClusterError::ShutDown)?;
        self.wait_gone(host, vm)
    }

    /// Protects a VM and waits until its backup can take over.
    ///
    /// # Errors
    /// If that does not come about.
    pub fn protect(&self, vm: &VmName, from: &str, to: &str, interval: Duration) -> Result<(), ClusterError> {
        let interval_us = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        self.protect_as(vm, from, &ProtectRequest::even(HostName::new(to)?, interval_us))
    }

    /// The same with checkpoints as they are asked for.
    ///
    /// # Errors
    /// If that does not come about.
    pub fn protect_as(&self, vm: &VmName, from: &str, request: &ProtectRequest) -> Result<(), ClusterError> {
        let to = request.to.as_str();
        // Right after a failover the other host may still be clearing up its old copy, and refuses.
        wait_for(&format!("protection of {vm} by {to}"), PATIENCE, || {
            match self.ask(from, |api| api.vm(vm))?.phase.as_str() {
                "unprotected" => {
                    self.ask(from, |api| api.protect(vm, request))?;
                    Ok(Err("asked".into()))
                }
                "protected" if self.armed(to, vm) => Ok(Ok(())),
                other => Ok(Err(other.to_owned())),
            }
        })
        .map_err(|error| self.with_log(from, error))
    }

    /// Has the VM, which is protected at `from`, protected by the first of the request instead, and waits until it is.
    ///
    /// # Errors
    /// If that does not come about.
    pub fn change_backup(
        &self,
        vm: &VmName,
        from: &str,
        request: &ProtectRequest,
    ) -> Result<(), ClusterError> {
        self.ask(from, |api| api.protect(vm, request))?;
        wait_for(&format!("{} as the backup of {vm}", request.to), PATIENCE, || {
            let status = self.ask(from, |api| api.vm(vm))?;
            let changed = status.phase == "protected" && status.peer.as_ref() == Some(&request.to);
            Ok(if changed { Ok(()) } else { Err(status.phase) })
        })
        .map_err(|error| self.with_log(from, error))
    }

    /// Ends the protection of the VM at `from` by `to`, and waits until both hosts have.
    ///
    /// # Errors
    /// If that does not come about.
    pub fn unprotect(&self, vm: &VmName, from: &str, to: &str) -> Result<(), ClusterError> {
        self.ask(from, |api| api.unprotect(vm))?;
        self.wait_primary(from, vm, &["unprotected"])?;
        self.wait_gone(to, vm)
    }

    fn armed(&self, host: &str, vm: &VmName) -> bool {
        let status = self.ask(host, |api| api.vm(vm));
        status.is_ok_and(|status| status.phase == "armed")
    }

    /// Waits until a VM runs at a host as its owner, in one of these phases.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_primary(&self, host: &str, vm: &VmName, phases: &[&str]) -> Result<VmStatus, ClusterError> {
        let mut found = None;
        wait_for(&format!("VM {vm} as primary at {host}"), PATIENCE, || {
            let status = match self.ask(host, |api| api.vm(vm)) {
                Ok(status) => status,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let there = status.role == Role::Primary && phases.contains(&status.phase.as_str());
            let seen = format!("{:?} {}", status.role, status.phase);
            found = Some(status);
            Ok(if there { Ok(()) } else { Err(seen) })
        })
        .map_err(|error| self.with_log(host, error))?;
        found.ok_or_else(|| ClusterError::Late {
            what: "status".into(),
            waited: PATIENCE,
            last: String::new(),
        })
    }

    /// Waits until a host knows nothing of a VM any more.
    ///
    /// # Errors
    /// If it still does.
    pub fn wait_gone(&self, host: &str, vm: &VmName) -> Result<(), ClusterError> {
        wait_for(&format!("the end of VM {vm} at {host}"), PATIENCE, || {
            let vms = self.ask(host, Client::vms)?;
            let found = vms.into_iter().find(|status| status.name == *vm);
            Ok(found.map_or(Ok(()), |status| Err(format!("{:?} {}", status.role, status.phase))))
        })
        .map_err(|error| self.with_log(host, error))
    }

    /// Waits for an event of a host's log whose JSON names it (`"event": name`), behind the event numbered `after`.
    ///
    /// # Errors
    /// If it does not come.
    pub fn wait_event(&self, host: &str, name: &str, after: u64) -> Result<EventRecord, ClusterError> {
        let mut found = None;
        wait_for(&format!("event {name} at {host}"), PATIENCE, || {
            let events = self.ask(host, |api| api.events(after))?;
            found = events.into_iter().find(|event| event.what["event"] == name);
            Ok(found.as_ref().map(|_| ()).ok_or_else(|| "not there".to_owned()))
        })
        .map_err(|error| self.with_log(host, error))?;
        found.ok_or_else(|| ClusterError::Late { what: name.into(), waited: PATIENCE, last: String::new() })
    }

    /// A dead host comes back: links and agent; it knows nothing.
    ///
    /// # Errors
    /// If it does not.
    pub fn revive(&self, host: &str) -> Result<(), ClusterError> {
        self.lab.revive_host(host)?;
        self.start_agent(host)
    }
}

pub(crate) fn make_directory(path: &Path) -> Result<(), ClusterError> {
    std::fs::create_dir_all(path).map_err(|source| ClusterError::File { path: path.to_path_buf(), source })
}

/// Looks again and again until it is so: `Ok(Ok)` it is, `Ok(Err)` not yet, `Err` it never will be.
///
/// # Errors
/// [`ClusterError::Late`] after `patience`, with what was seen last.
pub fn wait_for(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Result<(), String>, ClusterError>,
) -> Result<(), ClusterError> {
    let until = Instant::now() + patience;
    loop {
        match look()? {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() >= until => {
                return Err(ClusterError::Late { what: what.to_owned(), waited: patience, last });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
