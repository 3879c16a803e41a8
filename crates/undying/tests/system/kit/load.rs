//! Owns the clients of a Redis guest: writers on connections that stay open, and their verdict.

use super::look;
use lab::client::verify::verify;
use lab::client::writers::{PipelinedWriters, WriterConfig, WriterReport};
use lab::cluster::Cluster;
use std::net::SocketAddr;

/// Writers at work.
pub struct Load {
    pub target: SocketAddr,
    writers: PipelinedWriters,
}

impl Load {
    /// Connects four clients to a Redis; `prefix` begins the names of their lists, which must be new.
    pub fn start(cluster: &Cluster, target: SocketAddr, prefix: &str) -> Self {
        let config =
            WriterConfig { connections: 4, depth: 4, prefix: prefix.into(), ..WriterConfig::new(target) };
        let writers = PipelinedWriters::start(cluster.lab.client(), &config).expect("clients connect");
        Self { target, writers }
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
            (now.acknowledged >= before.acknowledged + 200).then_some(())
        };
        super::wait_for("progress of the clients", moved, || look::logs(cluster));
    }

    /// Stops the clients and checks what they saw against what the server has; gives what they saw.
    pub fn verdict(self, cluster: &Cluster) -> Vec<WriterReport> {
        self.progress(cluster);
        let logs = look::logs(cluster);
        let report = self.writers.stop().expect("clients end");
        let broken: Vec<_> = report.writers.iter().filter_map(|writer| writer.broken.as_ref()).collect();
        assert!(broken.is_empty(), "connections broke: {broken:?}\n{logs}");
        assert!(report.acknowledged() > 200, "the clients did next to nothing: {}", report.acknowledged());
        holds(cluster, self.target, &report.writers);
        look::assert_no_panic(cluster);
        report.writers
    }
}

/// Checks what clients saw against what the server has.
pub fn holds(cluster: &Cluster, target: SocketAddr, writers: &[WriterReport]) {
    let verification = verify(cluster.lab.client(), target, writers).expect("the lists");
    assert!(verification.holds(), "{verification:?}\n{}", look::logs(cluster));
}
