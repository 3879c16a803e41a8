//! Owns what the whole-system tests share: a protected Redis under load, and the verdict of its clients.

use lab::client::verify::verify;
use lab::client::writers::{PipelinedWriters, WriterConfig};
use lab::cluster::{Cluster, VmFile, VmShape};
use lab::guest::cache::Cache;
use lab::guest::redis::{REDIS_PORT, RedisGuest};
use protocol::VmName;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

pub const INTERVAL: Duration = Duration::from_millis(25);

/// Whether real clusters can be made here; says loudly why not.
pub fn possible() -> bool {
    let missing: Vec<_> = lab::packages::missing().iter().map(|package| package.name).collect();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: whole-system tests need root");
        return false;
    }
    if !missing.is_empty() {
        eprintln!("SKIPPED: whole-system tests need the Debian packages {}", missing.join(" "));
        return false;
    }
    true
}

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_undying"))
}

/// A cluster whose first host runs a Redis guest under load.
pub struct Loaded {
    pub cluster: Cluster,
    pub vm: VmName,
    pub target: SocketAddr,
    writers: PipelinedWriters,
}

impl Loaded {
    /// Starts everything and waits until the guest, protected by `beta`, answers its writers.
    pub fn start(tag: &str, shape: VmShape) -> Self {
        Self::start_with(tag, shape, "", false)
    }

    pub fn start_with(tag: &str, shape: VmShape, detection: &str, over_ipv6: bool) -> Self {
        let guest = RedisGuest::build(&Cache::open().expect("cache")).expect("the Redis guest");
        let cluster = Cluster::start(tag, binary(), &["alpha", "beta"], detection).expect("a cluster");
        let file = VmFile::redis(&guest, "web", shape, None).expect("a VM file");
        cluster.start_vm("alpha", &file).expect("the VM starts");
        cluster.wait_ready("alpha", &file.name).expect("Redis serves");
        let address = if over_ipv6 { IpAddr::V6(file.address.v6) } else { IpAddr::V4(file.address.v4) };
        let target = SocketAddr::new(address, REDIS_PORT);
        let config = WriterConfig { connections: 4, depth: 4, ..WriterConfig::new(target) };
        let writers = PipelinedWriters::start(cluster.lab.client(), &config).expect("clients connect");
        let loaded = Self { cluster, vm: file.name, target, writers };
        loaded.protect("alpha", "beta");
        loaded.progress();
        loaded
    }

    pub fn protect(&self, from: &str, to: &str) {
        self.cluster.protect(&self.vm, from, to, INTERVAL).expect("the VM is protected");
    }

    /// Waits until clients got many new answers: the VM lives, and what it says leaves it.
    pub fn progress(&self) {
        let before = self.writers.progress();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let now = self.writers.progress();
            assert_eq!(now.broken, 0, "a connection broke");
            if now.acknowledged >= before.acknowledged + 200 {
                return;
            }
            assert!(Instant::now() < until, "no progress: {before:?}, then {now:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.writers.progress().acknowledged
    }

    /// Waits until the VM runs at `host`, alone.
    pub fn runs_at(&self, host: &str) {
        self.cluster.wait_primary(host, &self.vm, &["unprotected"]).expect("the VM runs there");
        self.progress();
    }

    fn logs(&self) -> String {
        let log = |host| std::fs::read_to_string(self.cluster.lab.log(host, "agent")).unwrap_or_default();
        format!("--- alpha\n{}\n--- beta\n{}", lab::command::tail(&log("alpha"), 40), lab::command::tail(&log("beta"), 40))
    }

    /// Stops the clients and checks what they saw against what the server has.
    pub fn verdict(self) {
        self.progress();
        let logs = self.logs();
        let report = self.writers.stop().expect("clients end");
        let broken: Vec<_> = report.writers.iter().filter_map(|writer| writer.broken.as_ref()).collect();
        assert!(broken.is_empty(), "connections broke: {broken:?}\n{logs}");
        let verification = verify(self.cluster.lab.client(), self.target, &report.writers).expect("the lists");
        assert!(verification.holds(), "{verification:?}\n{logs}");
        assert!(report.acknowledged() > 400, "the clients did next to nothing: {}", report.acknowledged());
    }
}
