//! A witness's door, and hosts that it trusts, made when they are first needed.

use arbiter::witness::WitnessArbiter;
use arbiter::witness::server::Doorkeeper;
use arbiter::{Arbiter, ArbiterError, View};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;
use trust::{Connection, HandshakeError, Lifetime, Purpose, Store, Wanted};

/// The witness's name.
pub const WITNESS: &str = "gamma";

pub fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// Longer than the clocks of these tests jump.
fn lifetime() -> Lifetime {
    const CENTURY: i64 = 100 * 365 * 86_400;
    Lifetime::between(-CENTURY / 2, CENTURY)
}

fn files(place: &Path, name: &HostName) -> Store {
    Store::new(&place.join(name.as_str()), name)
}

/// The files of the witness.
pub fn witness(place: &Path) -> Store {
    with(place, || {
        let files = files(place, &host(WITNESS));
        if files.identity().is_err() {
            files.init(lifetime()).unwrap();
        }
        files
    })
}

/// The files of a host that the witness trusts.
pub fn trusted(place: &Path, name: &HostName) -> Store {
    let witness = witness(place);
    with(place, || {
        let files = files(place, name);
        if files.identity().is_err() {
            let certificate = files.init(lifetime()).unwrap();
            witness.trust(name, &certificate).unwrap();
            let of_witness = witness.identity().unwrap().certificate().clone();
            files.trust(witness.host(), &of_witness).unwrap();
        }
        files
    })
}

/// Alone, also among processes.
fn with<T>(place: &Path, act: impl FnOnce() -> T) -> T {
    let lock = File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();
    act()
}

/// Lets in whom the witness trusts.
pub struct Door(pub Store);

impl Doorkeeper for Door {
    fn let_in(&self, socket: TcpStream, until: Instant) -> Result<Connection, HandshakeError> {
        trust::accept(socket, &self.0, Wanted::Anyone, &[Purpose::Witness], until)
    }

    fn refused(&self, _: SocketAddr, _: &HostName, _: &str) {}
}

/// A witness as all hosts use it, each in its own name.
pub struct Hosts {
    place: PathBuf,
    address: SocketAddr,
}

impl Hosts {
    pub fn new(place: &Path, address: SocketAddr) -> Self {
        Self { place: place.to_path_buf(), address }
    }

    fn of(&self, name: &HostName) -> WitnessArbiter {
        WitnessArbiter::new(host(WITNESS), self.address, trusted(&self.place, name))
    }

    fn any(&self) -> WitnessArbiter {
        self.of(&host("any"))
    }
}

impl Arbiter for Hosts {
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError> {
        self.of(&claim.host).claim(claim)
    }

    fn look(&self, vm: &VmName) -> Result<View, ArbiterError> {
        self.any().look(vm)
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        self.of(host).mark_stopped(vm, term, host)
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        self.any().identity()
    }

    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError> {
        self.of(host).leave_token(host, token)
    }

    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError> {
        self.any().token(host)
    }

    fn vms(&self) -> Result<Vec<VmName>, ArbiterError> {
        self.any().vms()
    }

    fn describe(&self) -> String {
        self.any().describe()
    }
}
