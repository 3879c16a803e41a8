//! Owns a capture of the frames that a guest sends out of its host's uplink.

use lab::cluster::Cluster;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;

/// Ports of the marks, on which nobody listens.
const FIRST_MARK: u16 = 40_001;

/// A running capture of one guest's frames at one host, outgoing ones only.
pub struct Capture {
    host: String,
    log: PathBuf,
    mac: String,
    mark: u16,
}

impl Capture {
    /// Starts capturing, and returns when it does.
    pub fn start(cluster: &Cluster, host: &str, mac: &str) -> Self {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", "lan0", "-Q", "out", "-n", "-e", "-l", "--immediate-mode", "-Z", "root"]);
        tcpdump.arg(format!("ether src {mac} or udp dst portrange {FIRST_MARK}-{}", FIRST_MARK + 100));
        cluster.lab.start(host, "tcpdump", &mut tcpdump).expect("tcpdump starts");
        let log = cluster.lab.log(host, "tcpdump");
        let capture = Self { host: host.into(), log, mac: mac.into(), mark: FIRST_MARK };
        let listens = || capture.text().contains("listening on").then_some(());
        super::wait_for("tcpdump", listens, || capture.text());
        capture
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many frames the guest has sent out of this host since the start.
    ///
    /// The host sends a frame of its own and waits until it is captured: what went before it is counted.
    pub fn frames(&mut self, cluster: &Cluster) -> usize {
        let namespace = cluster.lab.host(&self.host).expect("the host");
        let wanted = format!("10.78.0.100.{}:", self.mark);
        let target = format!("10.78.0.100:{}", self.mark);
        self.mark += 1;
        namespace
            .run(|| UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"mark", target)))
            .expect("the namespace")
            .expect("a datagram is sent");
        let text = super::wait_for(
            "the mark in the capture",
            || Some(self.text()).filter(|text| text.contains(&wanted)),
            || lab::command::tail(&self.text(), 10),
        );
        let sent = format!(" {} > ", self.mac);
        text.lines().take_while(|line| !line.contains(&wanted)).filter(|line| line.contains(&sent)).count()
    }
}
