//! Owns how the members of an etcd cluster are started, for tests against a real one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    /// The command that starts it, again too, in the foreground. It ends with the thread that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PROGRAM, "--name", &self.name, "--data-dir"]).arg(&self.data);
        command.args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url]);
        command.args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url]);
        command.args(["--initial-cluster", &self.cluster, "--initial-cluster-token", &self.cluster]);
        command
    }
}
