//! Owns what the demo and the torture begin with: everything needed is there and built, two hosts run, and a VM
//! with a server runs on one of them.

pub mod build;
pub mod field;
pub mod interval;
pub mod machine;
pub mod moments;
pub mod screen;
pub mod watch;

use anyhow::{Context, Result};
use interval::Interval;
use lab::client::{Server, WriterConfig, Writers};
use lab::cluster::{Cluster, VmFile, VmShape};
use lab::guest::cache::Cache;
use lab::guest::postgres::PostgresGuest;
use lab::guest::redis::RedisGuest;
use lab::guest::riscv::RiscvGuest;
use protocol::VmName;
use screen::Screen;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The hosts; the first is the VM's home.
pub const HOSTS: [&str; 2] = ["alpha", "beta"];
/// Name of the VM.
const VM: &str = "web";

/// What has to be there before anything can run.
pub struct Props {
    /// The program that is shown.
    pub binary: PathBuf,
    /// The guest's kernel and initramfs.
    pub guest: RedisGuest,
}

/// Name of the VM's disk image, and its size in MiB: Redis keeps every write of the longest torture in it.
const DISK: (&str, u64) = ("web.img", 4096);

/// What runs the VM, what serves in it, and where it keeps its data.
#[derive(Debug, Clone, Copy)]
pub enum Load<'a> {
    /// Redis.
    Redis {
        /// The guest of the deterministic machine, if that runs the VM and not QEMU.
        riscv: Option<&'a RiscvGuest>,
        /// On a disk, not in memory alone: no write is answered before it is there.
        on_disk: bool,
    },
    /// PostgreSQL in QEMU, on a disk.
    Postgres(&'a PostgresGuest),
}

impl Load<'_> {
    fn server(self) -> Server {
        match self {
            Load::Redis { .. } => Server::Redis,
            Load::Postgres(_) => Server::Postgres,
        }
    }

    /// The VM's file, and its disk on the first host.
    fn file(self, props: &Props, cluster: &Cluster, shape: VmShape) -> Result<VmFile> {
        let (image, mib) = DISK;
        match self {
            Load::Redis { riscv, on_disk } => {
                let file = match riscv {
                    Some(guest) => VmFile::deterministic(guest, VM, shape)?,
                    None => VmFile::redis(&props.guest, VM, shape, None)?,
                };
                if !on_disk {
                    return Ok(file);
                }
                cluster.make_disk(HOSTS[0], image, mib)?;
                Ok(file.on_disk(image))
            }
            Load::Postgres(guest) => {
                cluster.place_disk(HOSTS[0], image, &guest.disk)?;
                Ok(VmFile::postgres(guest, VM, shape, image)?)
            }
        }
    }
}

/// Two hosts and a VM on the first.
pub struct Stage {
    /// The hosts, the client, the agents.
    pub cluster: Cluster,
    /// The VM.
    pub vm: VmName,
    /// What serves in it.
    pub server: Server,
    /// Where that listens.
    pub target: SocketAddr,
}

/// The other host.
pub fn other(host: &str) -> &'static str {
    if host == HOSTS[0] { HOSTS[1] } else { HOSTS[0] }
}

/// Builds the PostgreSQL guest, which only some runs need.
pub fn postgres(screen: &mut Screen) -> Result<PostgresGuest> {
    let start = Instant::now();
    screen.live("the guest: Debian's PostgreSQL on an ext4 disk (kept for the next time)");
    let guest = PostgresGuest::build(&Cache::open()?)?;
    screen.done(&format!(
        "guest: PostgreSQL {}, as Debian ships it, on an ext4 disk ({:.0} s)",
        guest.manifest.postgres,
        start.elapsed().as_secs_f64()
    ));
    Ok(guest)
}

/// Installs what is missing (after saying so), builds the program and the guest.
pub fn gather(screen: &mut Screen) -> Result<Props> {
    gather_with(screen, build::undying)
}

/// The same with another program, which is built by `build`.
pub fn gather_with(screen: &mut Screen, build: impl FnOnce(&mut Screen) -> Result<PathBuf>) -> Result<Props> {
    let missing = lab::packages::missing();
    if missing.is_empty() {
        screen.done("all Debian packages that are needed are installed");
    } else {
        screen.say("These Debian packages are missing and are installed now:");
        screen.block(&lab::packages::explain(&missing));
        let start = Instant::now();
        screen.live("apt-get install");
        lab::packages::install(&missing)?;
        screen.done(&format!(
            "{} packages installed ({:.0} s)",
            missing.len(),
            start.elapsed().as_secs_f64()
        ));
    }
    let binary = build(screen)?;
    let start = Instant::now();
    screen.live("the guest: Debian's kernel and Redis, packed into an initramfs (kept for the next time)");
    let guest = RedisGuest::build(&Cache::open()?)?;
    screen.done(&format!(
        "guest: Debian kernel {}, redis-server {}, both as Debian ships them ({:.0} s)",
        guest.manifest.kernel,
        guest.manifest.redis,
        start.elapsed().as_secs_f64()
    ));
    Ok(Props { binary, guest })
}

impl Stage {
    /// Makes the hosts, starts their agents and the VM, and waits until its server serves.
    pub fn raise(props: &Props, tag: &str, load: Load<'_>, screen: &mut Screen) -> Result<Self> {
        let start = Instant::now();
        let cluster = Cluster::start(tag, &props.binary, &HOSTS, "")?;
        screen.done(&format!(
            "hosts alpha and beta, a switch and a client are network namespaces of this machine ({:.1} s)",
            start.elapsed().as_secs_f64()
        ));
        let shape = VmShape::default();
        let (file, server) = (load.file(props, &cluster, shape)?, load.server());
        let start = Instant::now();
        screen.live("the guest boots");
        let status = cluster.start_vm(HOSTS[0], &file)?;
        cluster.wait_ready(HOSTS[0], &file.name)?;
        screen.done(&format!(
            "VM \"{VM}\" runs on alpha and its {} answers: {}, {} MiB, {} CPU ({:.1} s)",
            server.name(),
            match load {
                Load::Redis { riscv: Some(_), .. } => "the deterministic machine".to_owned(),
                Load::Redis { riscv: None, .. } | Load::Postgres(_) =>
                    format!("stock QEMU, {}", status.machine),
            },
            shape.memory_mib,
            shape.cpus,
            start.elapsed().as_secs_f64()
        ));
        let target = SocketAddr::new(IpAddr::V4(file.address.v4), server.port());
        Ok(Self { cluster, vm: file.name, server, target })
    }

    /// Opens the writers' connections, once and for all.
    pub fn writers(&self, config: &WriterConfig) -> Result<Writers> {
        Writers::start(self.cluster.lab.client(), config).context("the clients cannot begin")
    }

    /// Protects the VM and waits until its backup can take over.
    pub fn protect(&self, from: &str, to: &str, interval: Interval) -> Result<()> {
        Ok(self.cluster.protect_as(&self.vm, from, &interval.request(to)?)?)
    }

    /// Keeps the agents' logs and events in a directory, for who wants to know more.
    pub fn keep_logs(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for host in HOSTS {
            let log = self.cluster.lab.log(host, lab::topology::AGENT);
            let events = self.cluster.lab.directory().join(host).join("events.jsonl");
            for (from, to) in [(log, format!("{host}.log")), (events, format!("{host}-events.jsonl"))] {
                // A host that never ran has none.
                if from.exists() {
                    std::fs::copy(&from, directory.join(to))
                        .with_context(|| format!("cannot copy {}", from.display()))?;
                }
            }
        }
        Ok(())
    }
}
