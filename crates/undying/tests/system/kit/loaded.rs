//! Owns the usual beginning: a cluster whose first host runs a guest with a server, protected by the second, under load.

use super::load::{self, Load};
use super::process::{Process, VmProcess};
use super::{INTERVAL, binary, look, wait_for};
use api::types::{ProtectRequest, StartRequest, VmStatus};
use lab::arbiters::ArbiterKind;
use lab::client::{Server, WriterReport};
use lab::cluster::{Cluster, ClusterError, VmFile, VmShape};
use lab::guest::cache::Cache;
use lab::guest::postgres::PostgresGuest;
use lab::guest::pulse::{PULSE_PORT, PulseClient};
use lab::guest::redis::RedisGuest;
use lab::guest::riscv::RiscvGuest;
use protocol::{HostName, VmName};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What a test begins with.
pub struct Setup {
    tag: &'static str,
    hosts: &'static [&'static str],
    shape: VmShape,
    detection: &'static str,
    over_ipv6: bool,
    interval: Duration,
    lean: bool,
    deterministic: bool,
    arbiter: ArbiterKind,
    server: Server,
    on_two: &'static [&'static str],
}

/// Name of the disk image of a PostgreSQL guest.
const IMAGE: &str = "pg.img";

/// Two hosts, two QEMUs and the clients share two processors, perhaps with another run: who suspects whom shall follow
/// from what a test does, not from the scheduler.
const BUSY: &str = "[detection]\nheartbeat_ms = 50\ntimeout_ms = 1000\n";

impl Setup {
    /// Hosts alpha and beta, a guest of the usual shape, times for a busy machine; `tag` is a few letters.
    pub fn new(tag: &'static str) -> Self {
        let shape = VmShape { memory_mib: 256, ..VmShape::default() };
        Self {
            tag,
            hosts: &["alpha", "beta"],
            shape,
            detection: BUSY,
            over_ipv6: false,
            interval: INTERVAL,
            lean: false,
            deterministic: super::on_the_deterministic_machine(),
            arbiter: ArbiterKind::Directory,
            server: Server::Redis,
            on_two: &[],
        }
    }

    /// These hosts are reached over two replication networks.
    pub fn on_two(self, on_two: &'static [&'static str]) -> Self {
        Self { on_two, ..self }
    }

    /// Other hosts.
    pub fn hosts(self, hosts: &'static [&'static str]) -> Self {
        Self { hosts, ..self }
    }

    /// Another guest.
    pub fn shape(self, change: impl FnOnce(&mut VmShape)) -> Self {
        let mut shape = self.shape;
        change(&mut shape);
        Self { shape, ..self }
    }

    /// The section `[detection]` of the agents' configuration.
    pub fn detection(self, detection: &'static str) -> Self {
        Self { detection, ..self }
    }

    /// The clients use IPv6.
    pub fn over_ipv6(self) -> Self {
        Self { over_ipv6: true, ..self }
    }

    /// Another checkpoint interval.
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// The profile `lean` of the VM file.
    pub fn lean(self) -> Self {
        Self { lean: true, ..self }
    }

    /// The guest runs in the deterministic machine.
    pub fn deterministic(self) -> Self {
        Self { deterministic: true, ..self }
    }

    /// Another kind of arbiter.
    pub fn arbiter(self, arbiter: ArbiterKind) -> Self {
        Self { arbiter, ..self }
    }

    /// The cluster without a VM.
    pub fn cluster(&self) -> Cluster {
        let (tag, hosts, on_two) = (self.tag, self.hosts, self.on_two);
        Cluster::start_over(tag, binary(), hosts, self.detection, self.arbiter, on_two).expect("a cluster")
    }

    /// The VM's file.
    pub fn vm_file(&self) -> VmFile {
        let cache = Cache::open().expect("cache");
        if self.deterministic {
            let guest = RiscvGuest::build(&cache).expect("the guest of the deterministic machine");
            return VmFile::deterministic(&guest, "web", self.shape).expect("a VM file");
        }
        let guest = RedisGuest::build(&cache).expect("the Redis guest");
        let mut file = VmFile::redis(&guest, "web", self.shape, None).expect("a VM file");
        if self.lean {
            file.toml = file.toml.replace("machine = \"q35\"", "profile = \"lean\"");
            assert!(file.toml.contains("profile"));
        }
        file
    }

    /// Boots the guest at alpha, on a fresh cluster.
    pub fn boot(self) -> Guest {
        let cluster = self.cluster();
        self.boot_on(cluster)
    }

    /// Boots the guest at alpha, on a cluster that was made before.
    pub fn boot_on(self, cluster: Cluster) -> Guest {
        let file = self.vm_file();
        self.boot_file_on(cluster, file)
    }

    /// Boots a PostgreSQL guest with a disk at alpha, on a fresh cluster.
    pub fn boot_postgres(self, image: &PostgresGuest) -> Guest {
        let cluster = self.cluster();
        cluster.place_disk("alpha", IMAGE, &image.disk).expect("a disk image");
        let file = VmFile::postgres(image, "web", self.shape, IMAGE).expect("a VM file");
        Self { server: Server::Postgres, ..self }.boot_file_on(cluster, file)
    }

    /// The same, of a VM file that was changed.
    pub fn boot_file_on(self, cluster: Cluster, file: VmFile) -> Guest {
        cluster.start_vm("alpha", &file).expect("the VM starts");
        cluster.wait_ready("alpha", &file.name).expect("the guest serves");
        let address = if self.over_ipv6 { IpAddr::V6(file.address.v6) } else { IpAddr::V4(file.address.v4) };
        let (vm, server) = (file.name.clone(), self.server);
        Guest { cluster, vm, server, address, interval: self.interval, file }
    }

    /// Starts everything and waits until the guest, protected by beta, answers its writers.
    pub fn start(self) -> Loaded {
        let cluster = self.cluster();
        self.start_on(cluster)
    }

    /// The same, on a cluster that was made before.
    pub fn start_on(self, cluster: Cluster) -> Loaded {
        let loaded = self.boot_on(cluster).load("log");
        loaded.protect("alpha", "beta");
        loaded.progress();
        loaded
    }
}

/// A VM with a server, which has served.
pub struct Guest {
    pub cluster: Cluster,
    pub vm: VmName,
    pub file: VmFile,
    server: Server,
    address: IpAddr,
    interval: Duration,
}

impl Guest {
    /// Starts the VM again at a host, since the last owner is certainly dead.
    pub fn start_again(&self, host: &str, accept_older_disk: bool) -> Result<VmStatus, ClusterError> {
        let request = StartRequest {
            spec: self.file.toml.clone(),
            base_dir: self.cluster.lab.directory().to_path_buf(),
            last_owner_is_dead: true,
            accept_older_disk,
        };
        self.cluster.ask(host, |api| api.start(&request))
    }

    /// Protects the VM, which runs at `from`, and waits until `to` can take over.
    pub fn protect(&self, from: &str, to: &str) {
        self.cluster.protect(&self.vm, from, to, self.interval).expect("the VM is protected");
    }

    /// The same with checkpoints that follow the output, as is usual for who does not say otherwise.
    pub fn protect_following(&self, from: &str, to: &str) {
        let request = ProtectRequest::following(HostName::new(to).expect("a name"));
        self.cluster.protect_as(&self.vm, from, &request).expect("the VM is protected");
    }

    /// Asks for protection and waits for nothing but the agent's answer.
    pub fn ask_protect(&self, from: &str, to: &str) -> Result<(), ClusterError> {
        self.ask_protect_slowly(from, to, None)
    }

    /// The same, with a first copy of at most so many bytes a second.
    pub fn ask_protect_slowly(
        &self,
        from: &str,
        to: &str,
        copy_rate: Option<u64>,
    ) -> Result<(), ClusterError> {
        let to = HostName::new(to)?;
        let interval_us = u64::try_from(self.interval.as_micros()).expect("a short time");
        let request = ProtectRequest { copy_rate, ..ProtectRequest::even(to, interval_us) };
        self.cluster.ask(from, |api| api.protect(&self.vm, &request))
    }

    /// Waits until the VM is at `host`, unprotected.
    pub fn is_at(&self, host: &str) -> VmStatus {
        self.cluster.wait_primary(host, &self.vm, &["unprotected"]).expect("the VM runs there")
    }

    /// Puts it under load; `prefix` begins the names of the writers' lists.
    pub fn load(self, prefix: &str) -> Loaded {
        let load = self.writers(prefix);
        Loaded { guest: self, load }
    }

    /// Writers to this guest, to be stopped before it reboots.
    pub fn writers(&self, prefix: &str) -> Load {
        Load::start(&self.cluster, self.server, self.target(), prefix)
    }

    /// Where its server listens.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.server.port())
    }

    /// Checks again that the server has what clients were told.
    pub fn still_holds(&self, reports: &[WriterReport]) {
        load::holds(&self.cluster, self.server, self.target(), reports);
    }

    /// The VM's process at a host, if it has one.
    pub fn process(&self, host: &str) -> VmProcess {
        look::process(&self.cluster, host, &self.vm)
    }

    /// The VM's QEMU at a host, which the VM must have.
    pub fn qemu(&self, host: &str) -> Process {
        self.process(host).0.expect("the VM has a process")
    }

    /// What a host that knows the VM says of it.
    pub fn status(&self, host: &str) -> VmStatus {
        look::status(&self.cluster, host, &self.vm)
            .unwrap_or_else(|| panic!("{host} knows nothing of the VM"))
    }

    /// Where a host has the disk of a PostgreSQL guest.
    pub fn disk(&self, host: &str) -> PathBuf {
        self.cluster.disk(host, IMAGE)
    }

    /// Stops the VM, which runs at `host`, and waits until nothing is left of it there.
    pub fn stop(&self, host: &str) {
        self.cluster.ask(host, |api| api.stop(&self.vm)).expect("it stops");
        self.cluster.wait_gone(host, &self.vm).expect("it ends");
    }

    /// The host `dies` under load and the VM goes on at `survivor`; with what its clients saw. `prefix` begins the names
    /// of their lists.
    pub fn survives(self, prefix: &str, dies: &str, survivor: &str) -> (Guest, Vec<WriterReport>) {
        let loaded = self.load(prefix);
        loaded.progress();
        loaded.fails_over(dies, survivor);
        loaded.verdict_and_reports()
    }

    /// Reboots the guest, which runs at `host`, and waits until it serves again.
    pub fn reboot(&self, host: &str) {
        self.cluster.reboot(host, &self.vm, self.address).expect("the guest serves again");
    }

    /// Switches the guest, which runs at `host`, off in order.
    pub fn shut_down(&self, host: &str) {
        self.cluster.shut_down(host, &self.vm, self.address).expect("the guest shuts down");
    }

    /// Talks to the pulse program in the guest, from the client's place.
    pub fn pulse<T: Send>(&self, talk: impl FnOnce(PulseClient) -> T + Send) -> T {
        let target = SocketAddr::new(self.address, PULSE_PORT);
        let client = self.cluster.lab.client();
        client
            .run(|| talk(PulseClient::connect(target).expect("the pulse program listens")))
            .expect("the client")
    }

    /// Has the guest fill whole pages in order, so many a second, and waits until it has filled `least` of them: only what it wrote
    /// can be looked through.
    pub fn fills(&self, pages: u64, rate: &str, least: u64) {
        let dirtied = || self.pulse(|mut pulse| pulse.stats()).expect("statistics").dirtied;
        let before = dirtied();
        self.pulse(|mut pulse| pulse.dirty(pages, rate, "seq+page")).expect("an order");
        wait_for("pages filled", || (dirtied() > before + least).then_some(()), || look::logs(&self.cluster));
    }

    /// The host among alpha and beta, both alive, at which the VM goes on, and the other, which has given it up.
    pub fn winner(&self) -> (&'static str, &'static str) {
        let decided = || {
            let seen = ["alpha", "beta"].map(|host| look::status(&self.cluster, host, &self.vm));
            match seen.each_ref().map(|status| status.as_ref().map(|status| status.phase.as_str())) {
                [Some("unprotected"), None] => Some(("alpha", "beta")),
                [None, Some("unprotected")] => Some(("beta", "alpha")),
                _ => None,
            }
        };
        super::wait_for("a decision between the hosts", decided, || look::logs(&self.cluster))
    }
}

/// A VM under load.
pub struct Loaded {
    guest: Guest,
    load: Load,
}

impl std::ops::Deref for Loaded {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Loaded {
    /// Waits until the clients got many new answers.
    pub fn progress(&self) {
        self.load.progress(&self.cluster);
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.load.acknowledged()
    }

    /// Waits until the VM runs at `host`, unprotected, and answers its clients.
    pub fn runs_at(&self, host: &str) -> VmStatus {
        let status = self.is_at(host);
        self.progress();
        status
    }

    /// The host `dies`, and the VM goes on at `survivor`, where it answers its clients.
    pub fn fails_over(&self, dies: &str, survivor: &str) -> VmStatus {
        self.cluster.lab.kill_host(dies).expect("the host dies");
        self.runs_at(survivor)
    }

    /// Stops the clients and checks what they saw; the guest goes on.
    pub fn verdict(self) -> Guest {
        self.verdict_and_reports().0
    }

    /// The same; with what they saw, to be checked again later.
    pub fn verdict_and_reports(self) -> (Guest, Vec<WriterReport>) {
        let reports = self.load.verdict(&self.guest.cluster);
        (self.guest, reports)
    }
}
