//! Owns how the members of an etcd cluster are started, for tests against a real one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The program, as Debian's `etcd-server` installs it.
pub const PROGRAM: &str = "/usr/bin/etcd";

/// One member of a cluster that is made for a test.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name in the cluster.
    pub name: String,
    /// Where clients reach it.
    pub client_url: String,
    /// Where its data are.
    pub data: PathBuf,
    peer_url: String,
    cluster: String,
}

/// As many members as there are ports, at one address; a member uses its port and the one after it. Their data go
/// below `directory`.
#[must_use]
pub fn plan(address: IpAddr, ports: &[u16], directory: &Path, scheme: &str) -> Vec<Member> {
    let peer_url = |port: u16| format!("http://{address}:{}", port + 1);
    let all: Vec<_> =
        ports.iter().enumerate().map(|(at, &port)| format!("m{at}={}", peer_url(port))).collect();
    let cluster = all.join(",");
    let member = |(at, &port): (usize, &u16)| Member {
        name: format!("m{at}"),
        client_url: format!("{scheme}://{address}:{port}"),
        data: directory.join(format!("m{at}")),
        peer_url: peer_url(port),
        cluster: cluster.clone(),
    };
    ports.iter().enumerate().map(member).collect()
}

impl Member {
    /// What [`PROGRAM`] is started with, the first time and again.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let data = self.data.display().to_string();
        let pairs = [
            ("--name", &self.name),
            ("--data-dir", &data),
            ("--listen-client-urls", &self.client_url),
            ("--advertise-client-urls", &self.client_url),
            ("--listen-peer-urls", &self.peer_url),
            ("--initial-advertise-peer-urls", &self.peer_url),
            ("--initial-cluster", &self.cluster),
            ("--initial-cluster-token", &self.cluster),
        ];
        pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value.clone()]).collect()
    }
}
