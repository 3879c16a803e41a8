//! The three kinds of arbiter, as places that can be lost, found again, and put back in time.

use super::copy;
use super::etcd::Etcd;
use super::trusting::{self, Door, Hosts};
use arbiter::Arbiter;
use arbiter::directory::{self, DirectoryArbiter};
use arbiter::etcd::{EtcdArbiter, EtcdPlace, TlsFiles};
use arbiter::witness::server::Server;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An arbiter, from outside.
pub trait Place: Sync {
    /// How another process finds it, for [`client`].
    fn address(&self) -> String;
    /// It dies, or is cut off.
    fn lose(&mut self);
    /// It is there again, with its data.
    fn find(&mut self);
    /// Makes a backup of its data; it may be stopped for that.
    fn back_up(&mut self);
    /// Comes back with the data of the backup, which is made by that a second time.
    fn restore(&mut self);

    fn client(&self) -> Box<dyn Arbiter> {
        client(&self.address())
    }
}

/// A client of the arbiter at such an address.
pub fn client(address: &str) -> Box<dyn Arbiter> {
    let (kind, place) = address.split_once('=').unwrap();
    match kind {
        "directory" => Box::new(DirectoryArbiter::new(Path::new(place))),
        "witness" => {
            let (address, files) = place.split_once(',').unwrap();
            Box::new(Hosts::new(Path::new(files), address.parse().unwrap()))
        }
        "etcd" => {
            let endpoints = place.split(',').map(String::from).collect();
            let place = EtcdPlace { endpoints, prefix: "undying".into(), tls: TlsFiles::default() };
            Box::new(EtcdArbiter::new(&place).unwrap())
        }
        other => panic!("no arbiter is called {other}"),
    }
}

/// A directory, and two more for what is away.
pub struct Directory {
    guard: tempfile::TempDir,
}

impl Directory {
    pub fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        std::fs::create_dir(guard.path().join("here")).unwrap();
        directory::init(&guard.path().join("here")).unwrap();
        Self { guard }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.guard.path().join(name)
    }
}

impl Place for Directory {
    fn address(&self) -> String {
        format!("directory={}", self.at("here").display())
    }

    fn lose(&mut self) {
        std::fs::rename(self.at("here"), self.at("away")).unwrap();
    }

    fn find(&mut self) {
        std::fs::rename(self.at("away"), self.at("here")).unwrap();
    }

    fn back_up(&mut self) {
        copy(&self.at("here"), &self.at("backup"));
    }

    fn restore(&mut self) {
        std::fs::remove_dir_all(self.at("here")).unwrap();
        copy(&self.at("backup"), &self.at("here"));
    }
}

/// A witness in this process.
pub struct Witness {
    store: Directory,
    /// Of trust, its own and its hosts'.
    files: tempfile::TempDir,
    address: SocketAddr,
    server: Option<Server>,
}

impl Witness {
    pub fn new() -> Self {
        let (store, listener) = (Directory::new(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let files = tempfile::tempdir().unwrap();
        let mut witness = Self { store, files, address, server: None };
        witness.serve(listener);
        witness
    }

    fn serve(&mut self, listener: TcpListener) {
        let store = DirectoryArbiter::new(&self.store.at("here"));
        let door = Arc::new(Door(trusting::witness(self.files.path())));
        self.server = Some(Server::start(listener, store, door).unwrap());
    }

    /// Where it is, whoever asks.
    pub fn at(&self) -> SocketAddr {
        self.address
    }

    /// The files of trust of it and its hosts.
    pub fn files(&self) -> &Path {
        self.files.path()
    }
}

impl Place for Witness {
    fn address(&self) -> String {
        format!("witness={},{}", self.address, self.files.path().display())
    }

    fn lose(&mut self) {
        self.server = None;
    }

    fn find(&mut self) {
        self.serve(TcpListener::bind(self.address).unwrap());
    }

    fn back_up(&mut self) {
        self.store.back_up();
    }

    fn restore(&mut self) {
        self.lose();
        self.store.restore();
        self.find();
    }
}

impl Place for Etcd {
    fn address(&self) -> String {
        format!("etcd={}", self.urls().join(","))
    }

    fn lose(&mut self) {
        // Two of three: the last one is alive and may not decide.
        self.kill(0);
        self.kill(1);
    }

    fn find(&mut self) {
        self.raise(0);
        self.raise(1);
    }

    fn back_up(&mut self) {
        self.with_all_stopped(|data| {
            (0..3).for_each(|at| copy(&data.join(format!("m{at}")), &data.join(format!("backup{at}"))));
        });
    }

    fn restore(&mut self) {
        self.with_all_stopped(|data| {
            for at in 0..3 {
                let member = data.join(format!("m{at}"));
                std::fs::remove_dir_all(&member).unwrap();
                copy(&data.join(format!("backup{at}")), &member);
            }
        });
    }
}
