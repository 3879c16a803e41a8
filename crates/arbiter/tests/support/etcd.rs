//! A real etcd cluster on the loopback interface, whose members die, freeze and come back.

use super::until;
use arbiter::etcd::members::{self, Member};
use arbiter::etcd::{EtcdPlace, TlsFiles, init};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};

/// Whether there is an etcd to test with; says loudly if not.
pub fn possible() -> bool {
    let there = Path::new(members::PROGRAM).exists();
    if !there {
        eprintln!("SKIPPED: this test needs the Debian package etcd-server");
    }
    there
}

pub struct Etcd {
    directory: tempfile::TempDir,
    members: Vec<Member>,
    running: Vec<Option<Child>>,
    tls: TlsFiles,
    arguments: Vec<String>,
}

/// An address that no other process of this machine uses: all of 127.0.0.0/8 is local.
pub fn own_address() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 128 | a & 0x7f, b, c))
}

impl Etcd {
    /// Starts three members and makes them an arbiter.
    pub fn start() -> Self {
        Self::start_with("http", TlsFiles::default(), vec![])
    }

    pub fn start_with(scheme: &str, tls: TlsFiles, arguments: Vec<String>) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(2379);
        let ports = [(); 3].map(|()| PORT.fetch_add(2, Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        let members = members::plan(own_address(), &ports, directory.path(), scheme);
        let mut etcd = Self { directory, members, running: vec![None, None, None], tls, arguments };
        (0..3).for_each(|at| etcd.raise(at));
        let place = etcd.place();
        until("the cluster is an arbiter", || init(&place).is_ok());
        etcd
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    pub fn place(&self) -> EtcdPlace {
        EtcdPlace { endpoints: self.urls(), prefix: "undying".into(), tls: self.tls.clone() }
    }

    pub fn log(&self, at: usize) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("{at}.log"))).unwrap()
    }

    /// Starts a member that does not run.
    pub fn raise(&mut self, at: usize) {
        let log = self.directory.path().join(format!("{at}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        // A test that is killed takes its members with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", members::PROGRAM]).args(self.members[at].arguments());
        command.args(&self.arguments).stdout(log.try_clone().unwrap()).stderr(log);
        self.running[at] = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub fn kill(&mut self, at: usize) {
        let mut child = self.running[at].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn signal(&self, at: usize, signal: Signal) {
        let child = self.running[at].as_ref().expect("it runs");
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Stops all, puts copies of other data in the place of theirs, starts all.
    pub fn with_all_stopped(&mut self, change: impl FnOnce(&Path)) {
        (0..3).for_each(|at| self.kill(at));
        change(self.directory.path());
        (0..3).for_each(|at| self.raise(at));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let end = |text: String| text.lines().rev().take(5).map(String::from).collect::<Vec<_>>();
            (0..3).for_each(|at| eprintln!("member {at}, newest first: {:#?}", end(self.log(at))));
        }
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
