//! Owns a relay between a primary and its backup that damages one frame, or carries only so many bytes a second.
//!
//! It runs in the primary's namespace and reads frames on the way to the backup, so that the damage is done to a
//! frame of a known kind; what comes back is passed on as it is. Nobody in between could do that without the keys: the relay
//! answers with the backup's identity and calls with the primary's, both of which lie on this machine.

use lab::cluster::Cluster;
use protocol::wire::{HEADER_LEN, Header, Kind};
use protocol::{Session, Term, VmId};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use trust::{Purpose, Receiver, Sender, Store, Wanted};
use xxhash_rust::xxh3::xxh3_64;

/// What is done to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One bit of the header.
    FlipHeader,
    /// One bit of the body.
    FlipBody,
    /// It comes twice.
    Replay,
    /// It does not come.
    Skip,
    /// It does not come, and the following frames are numbered as if it had never been.
    SkipAndRenumber,
    /// It is another VM's.
    OtherVm,
    /// It is of the term before.
    LowerTerm,
    /// It is of another session.
    OtherSession,
    /// It is of a version to come.
    Version,
    /// It claims a body of 2 MiB.
    TooLong,
    /// It is no frame at all.
    Noise,
    /// Its checksums are right, but it names pages that the VM does not have.
    ForeignPages,
    /// Half of it comes, then the connection ends. The primary does not see the end.
    TruncateInTheDark,
}

#[derive(Debug)]
struct Shared {
    /// Identity and trust of the two hosts.
    primary: Store,
    backup: Store,
    fault: Mutex<Option<(Kind, Fault)>>,
    /// Bytes a second; 0 is as fast as it goes.
    rate: AtomicU64,
    /// Nothing passes; what was sent waits.
    stalled: AtomicBool,
    stop: AtomicBool,
}

/// A running relay.
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    /// Puts a relay between two hosts of a cluster without VMs.
    pub fn between(cluster: &Cluster, primary: &str, backup: &str) -> Self {
        let target = cluster.replication_socket(backup).expect("the backup's address");
        let namespace = cluster.lab.host(primary).expect("the primary's host");
        let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0")).expect("entered").expect("a port");
        let address = listener.local_addr().expect("an address");
        let [primary_store, backup_store] =
            [primary, backup].map(|host| cluster.trust(host).expect("the host's files of trust"));
        let shared = Arc::new(Shared {
            primary: primary_store,
            backup: backup_store,
            fault: Mutex::default(),
            rate: AtomicU64::default(),
            stalled: AtomicBool::default(),
            stop: AtomicBool::default(),
        });
        let relay = Arc::clone(&shared);
        namespace.spawn(move || serve(&listener, target, &relay));
        cluster.reroute(primary, backup, address).expect("the primary is led through the relay");
        Self { shared }
    }

    /// Damages the next frame of this kind.
    pub fn damage(&self, kind: Kind, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, fault));
    }

    /// Whether the fault that was ordered is still to come.
    pub fn is_armed(&self) -> bool {
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Carries only so many bytes a second to the backup; 0 is as fast as it goes.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Relaxed);
    }

    /// From now on nothing reaches the backup, and the primary is not told.
    pub fn stall(&self) {
        self.shared.stalled.store(true, Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

fn serve(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    listener.set_nonblocking(true).expect("a socket option");
    while !shared.stop.load(Relaxed) {
        let Ok((primary, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        primary.set_nonblocking(false).expect("a socket option");
        let shared = Arc::clone(shared);
        // A thread inherits the network namespace of the one that starts it.
        std::thread::spawn(move || {
            // Whatever ends it, both connections end with it.
            let _ = relay(primary, target, &shared);
        });
    }
}

fn relay(primary: TcpStream, target: SocketAddr, shared: &Shared) -> io::Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    let backup = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    for socket in [&primary, &backup] {
        socket.set_nodelay(true)?;
    }
    let backup = trust::connect(backup, &shared.primary, shared.backup.host(), Purpose::Replication, until);
    let backup = backup.map_err(io::Error::other)?;
    let primary = trust::accept(primary, &shared.backup, Wanted::Anyone, &[Purpose::Replication], until);
    let primary = primary.map_err(io::Error::other)?;
    let (mut from_primary, mut to_primary) = primary.split();
    let (mut from_backup, mut to_backup) = backup.split();
    let (dark, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (dark, over) = (&dark, &over);
        scope.spawn(move || {
            like_a_wire();
            let mut buffer = vec![0; 64 << 10];
            while let Ok(len @ 1..) = from_backup.read(&mut buffer) {
                if to_primary.send(&buffer[..len], &[]).is_err() {
                    break;
                }
            }
            // The primary does not hear of the end.
            while dark.load(Relaxed) && !over.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        like_a_wire();
        let ended = forward(&mut from_primary, &mut to_backup, shared, dark);
        drop(to_backup);
        if dark.load(Relaxed) {
            // What the primary still says goes nowhere.
            let _ = io::copy(&mut from_primary, &mut io::sink());
        }
        over.store(true, Relaxed);
        ended
    })
}

/// A wire does not wait for a processor: agents run at real-time priority, and so does what carries their frames.
fn like_a_wire() {
    // Where this is not allowed it is not allowed to the agents either.
    let _ = os::sched::raise_current_thread();
}

fn forward(
    primary: &mut Receiver,
    backup: &mut Sender,
    shared: &Shared,
    dark: &AtomicBool,
) -> io::Result<()> {
    let mut missing = 0;
    loop {
        let mut head = [0; HEADER_LEN];
        primary.read_exact(&mut head)?;
        let mut header = Header::decode(&head).map_err(io::Error::other)?;
        let mut body = vec![0; header.len as usize];
        primary.read_exact(&mut body)?;
        header.seq -= missing;
        let fault = take_fault(shared, header.kind);
        if fault == Some(Fault::SkipAndRenumber) {
            missing += 1;
        }
        let bytes = frame(header, body, fault);
        write_throttled(backup, &bytes, shared)?;
        if fault == Some(Fault::TruncateInTheDark) {
            dark.store(true, Relaxed);
            return Ok(());
        }
    }
}

fn take_fault(shared: &Shared, kind: Kind) -> Option<Fault> {
    let mut fault = shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
    fault.take_if(|(wanted, _)| *wanted == kind).map(|(_, fault)| fault)
}

/// A frame's bytes, damaged or not.
fn frame(mut header: Header, mut body: Vec<u8>, fault: Option<Fault>) -> Vec<u8> {
    match fault {
        Some(Fault::OtherVm) => header.vm = VmId(header.vm.0 ^ 1),
        Some(Fault::LowerTerm) => header.term = Term(header.term.0 - 1),
        Some(Fault::OtherSession) => header.session = Session(header.session.0 + 1),
        Some(Fault::ForeignPages) => {
            // A page index far beyond the end, in the first record's bits 0 to 47.
            body[5] |= 0x40;
            header.body_sum = xxh3_64(&body);
        }
        _ => {}
    }
    let mut head = header.encode();
    match fault {
        Some(Fault::FlipHeader) => head[50] ^= 0x10,
        Some(Fault::FlipBody) => {
            let at = body.len() / 2;
            body[at] ^= 0x01;
        }
        Some(Fault::Version) => reseal(&mut head, |head| head[4] = 200),
        Some(Fault::TooLong) => {
            reseal(&mut head, |head| head[56..60].copy_from_slice(&(2u32 << 20).to_le_bytes()))
        }
        Some(Fault::Noise) => head = std::array::from_fn(|at| (at as u8).wrapping_mul(151).wrapping_add(7)),
        _ => {}
    }
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(&body);
    match fault {
        Some(Fault::Replay) => bytes.extend_from_within(..),
        Some(Fault::Skip | Fault::SkipAndRenumber) => bytes.clear(),
        Some(Fault::TruncateInTheDark) => bytes.truncate(HEADER_LEN + body.len() / 2),
        _ => {}
    }
    bytes
}

/// Changes a header and makes its checksum right again.
fn reseal(head: &mut [u8; HEADER_LEN], change: impl FnOnce(&mut [u8; HEADER_LEN])) {
    change(head);
    let sum = xxh3_64(&head[..72]);
    head[72..].copy_from_slice(&sum.to_le_bytes());
}

fn write_throttled(backup: &mut Sender, bytes: &[u8], shared: &Shared) -> io::Result<()> {
    for chunk in bytes.chunks(16 << 10) {
        while shared.stalled.load(Relaxed) && !shared.stop.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        backup.send(chunk, &[])?;
        let took = (chunk.len() as u64 * 1_000_000).checked_div(shared.rate.load(Relaxed));
        std::thread::sleep(Duration::from_micros(took.unwrap_or(0)));
    }
    Ok(())
}
