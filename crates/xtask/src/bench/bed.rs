//! Owns where most parts are measured: two hosts, a client, and a Redis guest whose load the benchmark steers.

use super::Run;
use crate::stage::{HOSTS, Props};
use anyhow::{Context, Result};
use api::types::{EpochRecord, ProtectRequest, VmStatus};
use lab::client::{WriterConfig, Writers};
use lab::cluster::{Cluster, PATIENCE, VmFile, VmShape, wait_for};
use lab::guest::pulse::{PULSE_PORT, PulseClient};
use lab::guest::redis::REDIS_PORT;
use lab::topology::Namespace;
use protocol::{HostName, VmName};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Name of the VM.
const VM: &str = "bench";
/// Where no failover is measured none shall happen, however busy the machine is: suspect late.
pub const LATE_SUSPICION: &str = "[detection]\nheartbeat_ms = 100\ntimeout_ms = 5000\n";
/// An acknowledgement that takes longer is late indeed.
pub const ACK_PATIENCE: Duration = Duration::from_millis(500);

/// Hosts with a VM on the first.
pub struct Bed {
    /// The hosts, the client, the agents.
    pub cluster: Cluster,
    /// The VM.
    pub vm: VmName,
    /// Where its servers are.
    pub reach: Reach,
}

/// Where a guest's servers are.
#[derive(Clone, Copy)]
pub struct Reach(Ipv4Addr);

impl Bed {
    /// Starts agents and the Redis guest, and waits until it serves. `lean` takes the machine with the fewest devices
    /// instead of a q35.
    pub fn raise(run: &mut Run<'_>, tag: &str, lean: bool) -> Result<Self> {
        let cluster = start_cluster(run.props, tag)?;
        Self::raise_on(cluster, run, lean)
    }

    /// The same on these hosts.
    pub fn raise_on(cluster: Cluster, run: &mut Run<'_>, lean: bool) -> Result<Self> {
        let mut file = VmFile::redis(&run.props.guest, VM, VmShape::default(), None)?;
        if lean {
            file.toml = file.toml.replace("machine = \"q35\"", "profile = \"lean\"");
        }
        Self::boot(cluster, run, file)
    }

    /// The same with a VM of the caller's.
    pub fn boot(cluster: Cluster, run: &mut Run<'_>, file: VmFile) -> Result<Self> {
        run.screen.live("a guest boots");
        let status = cluster.start_vm(HOSTS[0], &file)?;
        cluster.wait_ready(HOSTS[0], &file.name)?;
        let mib = status.memory_bytes >> 20;
        run.screen.done(&format!("a guest on {}, {mib} MiB, {}", status.machine, status.accel));
        Ok(Self { cluster, vm: file.name, reach: Reach(file.address.v4) })
    }

    /// Protects the VM at the first host by the second, and waits until that can take over.
    pub fn protect(&self, interval: Duration) -> Result<()> {
        Ok(self.cluster.protect(&self.vm, HOSTS[0], HOSTS[1], interval)?)
    }

    /// The same with checkpoints that follow the output, as is usual.
    pub fn protect_following(&self) -> Result<()> {
        let request = ProtectRequest::following(HostName::new(HOSTS[1])?);
        Ok(self.cluster.protect_as(&self.vm, HOSTS[0], &request)?)
    }

    /// Ends the protection and waits until both hosts have.
    pub fn unprotect(&self) -> Result<()> {
        Ok(self.cluster.unprotect(&self.vm, HOSTS[0], HOSTS[1])?)
    }

    /// What a host says of the VM.
    pub fn status(&self, host: &str) -> Result<VmStatus> {
        Ok(self.cluster.ask(host, |api| api.vm(&self.vm))?)
    }

    /// The number of the newest event at a host: what is logged from now on has a higher one.
    pub fn newest_event(&self, host: &str) -> Result<u64> {
        Ok(self.cluster.ask(host, |api| api.events(0))?.last().map_or(0, |event| event.seq))
    }

    /// Does this, and tells for how much of its time, in percent, the VM stood still meanwhile for want of room at its backup.
    pub fn throttled<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let ms = || Ok::<_, anyhow::Error>(self.status(HOSTS[0])?.throttled_ms);
        let (began, before) = (Instant::now(), ms()?);
        let done = work()?;
        let stood = ms()? - before;
        Ok((done, stood / began.elapsed().as_secs_f64() / 10.0))
    }

    /// The client's namespace.
    pub fn client(&self) -> &Namespace {
        self.cluster.lab.client()
    }

    /// Orders the program in the guest.
    pub fn pulse<T: Send>(&self, order: impl FnOnce(&mut PulseClient) -> io::Result<T> + Send) -> Result<T> {
        self.reach.pulse(self.client(), order)
    }

    /// The checkpoints that are cut during the next `time`, with their acknowledgements.
    pub fn epochs(&self, run: &mut Run<'_>, label: &str, time: Duration) -> Result<Vec<EpochRecord>> {
        epochs(&self.cluster, &self.vm, run, label, time)
    }
}

/// Agents on two hosts that suspect each other late.
pub fn start_cluster(props: &Props, tag: &str) -> Result<Cluster> {
    start_on(props, tag, &HOSTS)
}

/// The same on these hosts.
pub fn start_on(props: &Props, tag: &str, hosts: &[&str]) -> Result<Cluster> {
    Cluster::start(tag, &props.binary, hosts, LATE_SUSPICION).context("the hosts cannot be set up")
}

/// The checkpoints of a VM on the first host that are cut during the next `time`.
pub fn epochs(
    cluster: &Cluster,
    vm: &VmName,
    run: &mut Run<'_>,
    label: &str,
    time: Duration,
) -> Result<Vec<EpochRecord>> {
    let from_us = os::clock::realtime_us();
    run.pass(label, time);
    let until_us = os::clock::realtime_us();
    thread::sleep(ACK_PATIENCE);
    let records = cluster.ask(HOSTS[0], |api| api.epochs(vm, from_us))?;
    let inside: Vec<EpochRecord> = records.into_iter().filter(|record| record.at_us < until_us).collect();
    anyhow::ensure!(!inside.is_empty(), "no checkpoint was taken in {} s", time.as_secs_f64());
    Ok(inside)
}

impl Reach {
    /// The guest at this address.
    pub fn new(address: Ipv4Addr) -> Self {
        Self(address)
    }

    /// Where its Redis listens.
    pub fn redis(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.0), REDIS_PORT)
    }

    /// Where the program in the guest gives datagrams back.
    pub fn datagrams(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.0), PULSE_PORT)
    }

    /// Orders the program in the guest, from the client's namespace.
    pub fn pulse<T: Send>(
        self,
        client: &Namespace,
        order: impl FnOnce(&mut PulseClient) -> io::Result<T> + Send,
    ) -> Result<T> {
        let address = SocketAddr::new(IpAddr::V4(self.0), PULSE_PORT);
        let work = move || order(&mut PulseClient::connect(address)?);
        client.run(work)?.context("the program in the guest does not do as told")
    }

    /// Starts 8 pipelined writers that each keep `depth` writes waiting, on lists of their own.
    pub fn writers(self, client: &Namespace, depth: usize) -> Result<Writers> {
        let usual = WriterConfig::new(self.redis());
        let config = WriterConfig { depth, prefix: new_prefix(), keep_samples: false, ..usual };
        Writers::start(client, &config).context("the writers cannot begin")
    }

    /// Starts so many writers that each send a write when the last is answered, and keep its time.
    pub fn closed_loops(self, client: &Namespace, connections: usize) -> Result<Writers> {
        let usual = WriterConfig::new(self.redis());
        let config = WriterConfig { connections, depth: 1, prefix: new_prefix(), ..usual };
        Writers::start(client, &config).context("the clients cannot begin")
    }
}

/// A name that no writers of this run had before.
fn new_prefix() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("bench{}", RUNS.fetch_add(1, Ordering::Relaxed))
}

/// Waits until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    Ok(wait_for(what, PATIENCE, || Ok(if so() { Ok(()) } else { Err("not yet".into()) }))?)
}
