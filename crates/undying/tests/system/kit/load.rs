//! Owns the clients of a guest's server: writers on connections that stay open, and their verdict.

use super::look;
use lab::client::{Server, WriterConfig, WriterReport, Writers};
use lab::cluster::Cluster;
use std::net::SocketAddr;

/// Writers at work.
pub struct Load {
    server: Server,
    pub target: SocketAddr,
    writers: Writers,
}

impl Load {
    /// Connects four clients to a server; `prefix` begins the names of their lists, which must be new.
    pub fn start(cluster: &Cluster, server: Server, target: SocketAddr, prefix: &str) -> Self {
        let usual = match server {
            Server::Redis => WriterConfig { connections: 4, ..WriterConfig::new(target) },
            Server::Postgres => WriterConfig::postgres(target),
        };
        let config = WriterConfig { prefix: prefix.into(), ..usual };
        let writers = Writers::start(cluster.lab.client(), &config).expect("clients connect");
        Self { server, target, writers }
    }

    /// So many new answers show that the server works: a transaction waits for several checkpoints, and each client
    /// has one at a time.
    fn many(&self) -> u64 {
        match self.server {
            Server::Redis => 200,
            Server::Postgres => 20,
        }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.writers.progress().acknowledged
    }

    /// Waits until the clients got many new answers: the VM lives, and what it says leaves it.
    pub fn progress(&self, cluster: &Cluster) {
        let before = self.writers.progress();
        let moved = || {
            let now = self.writers.progress();
            assert_eq!(now.broken, 0, "a connection broke\n{}", look::logs(cluster));
            (now.acknowledged >= before.acknowledged + self.many()).then_some(())
        };
        super::wait_for("progress of the clients", moved, || look::logs(cluster));
    }

    /// Stops the clients and checks what they saw against what the server has; gives what they saw.
    pub fn verdict(self, cluster: &Cluster) -> Vec<WriterReport> {
        self.progress(cluster);
        let (logs, many) = (look::logs(cluster), self.many());
        let report = self.writers.stop().expect("clients end");
        let broken: Vec<_> = report.writers.iter().filter_map(|writer| writer.broken.as_ref()).collect();
        assert!(broken.is_empty(), "connections broke: {broken:?}\n{logs}");
        assert!(report.acknowledged() > many, "the clients did next to nothing: {}", report.acknowledged());
        holds(cluster, self.server, self.target, &report.writers);
        look::assert_no_panic(cluster);
        report.writers
    }
}

/// Checks what clients saw against what the server has.
pub fn holds(cluster: &Cluster, server: Server, target: SocketAddr, writers: &[WriterReport]) {
    let verification = server.verify(cluster.lab.client(), target, writers).expect("the lists");
    assert!(verification.holds(), "{verification:?}\n{}", look::logs(cluster));
}
