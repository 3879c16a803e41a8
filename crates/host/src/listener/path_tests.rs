//! Sessions over several paths, with real connections.

use super::tests::{Bed, bed, hello_of, name};
use super::*;
use crate::backup::BackupInput;
use crate::link::paths::{Bundle, Teller, run};
use protocol::wire::{Commit, Outbound};
use protocol::{Epoch, Micros, Session, VmId, VmName};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::AtomicBool;

const PATIENCE: Duration = Duration::from_secs(60);

/// Carries bytes between a host and the bed's listener, until it swallows them.
struct Relay {
    address: SocketAddr,
    swallows: Arc<AtomicBool>,
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let swallows = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&swallows);
        std::thread::spawn(move || {
            let (near, _) = listener.accept().expect("called");
            let far = TcpStream::connect(target).expect("it listens");
            let pairs = [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())];
            for (from, to) in pairs {
                let (mut from, mut to, stop) =
                    (from.expect("a socket"), to.expect("a socket"), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut piece = vec![0; 64 << 10];
                    while let Ok(len @ 1..) = from.read(&mut piece) {
                        if !stop.load(Ordering::SeqCst) && to.write_all(&piece[..len]).is_err() {
                            return;
                        }
                    }
                    // That a connection ended is not swallowed: without it only detection would end the session.
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, swallows }
    }
}

const IDENTITY: (Term, Session) = (Term(1), Session(7));

fn identity() -> (VmId, Term, Session) {
    (VmId::of(&VmName::new("web").expect("a name")), IDENTITY.0, IDENTITY.1)
}

fn secret() -> PathHello {
    PathHello { secret: [9; 16], slot: 0, first: true, timeout: Micros::from_millis(300) }
}

/// Alpha's end of the session.
fn alpha(bed: &Bed) -> Arc<Bundle> {
    let events = Arc::clone(&bed.context.events);
    let teller = Teller { events, vm: VmName::new("web").expect("a name"), peer: name("beta") };
    Bundle::new(identity(), secret(), 0, teller)
}

/// `host` calls, and says that the connection is a path.
fn call(bed: &Bed, host: &str, address: SocketAddr, path: PathHello) -> Connection {
    let until = Instant::now() + PATIENCE;
    let socket = TcpStream::connect(address).expect("it listens");
    let called = trust::connect(socket, &bed.store(host), &name("beta"), Purpose::Replication, until);
    let mut connection = called.expect("it is let in");
    let body = path.encode();
    let (vm, term, session) = identity();
    let header = Outbound::new(vm, term, session).seal(Kind::Path, Epoch(0), &body);
    connection.sender().send(&header.encode(), &body).expect("said");
    connection
}

fn carry(bundle: &Arc<Bundle>, slot: usize, connection: Connection) {
    let (bundle, slot) = (Arc::clone(bundle), Slot::new(slot).expect("a slot"));
    std::thread::spawn(move || run(&bundle, slot, connection, format!("path {slot:?}"), 0));
}

/// A session that alpha opened with the bed's standby.
struct Opened {
    bundle: Arc<Bundle>,
    outbox: Outbox,
    /// What came to the standby.
    frames: crossbeam_channel::Receiver<Result<link::Frame, LinkLoss>>,
    /// The standby's way back.
    back: Outbox,
    _inputs: crossbeam_channel::Receiver<BackupInput>,
}

/// Opens it over a first path to `address`.
fn open_session(bed: &Bed, address: SocketAddr) -> Opened {
    let (inputs, bundle) = (bed.stands_by("alpha", 1), alpha(bed));
    let outbox = Outbox::start(Wire::Several(Arc::clone(&bundle)), identity(), |_| ()).expect("a thread");
    carry(&bundle, 0, call(bed, "alpha", address, secret()));
    outbox.to_backup(&ToBackup::Hello(hello_of("web", "alpha")));
    let opened = inputs.recv_timeout(PATIENCE).expect("opened");
    let BackupInput::Opened { frames, outbox: back, .. } = opened;
    Opened { bundle, outbox, frames, back, _inputs: inputs }
}

/// The console's offsets among the next `many` frames.
fn offsets(frames: &crossbeam_channel::Receiver<Result<link::Frame, LinkLoss>>, many: u64) -> Vec<u64> {
    let offset = |_| {
        let frame = frames.recv_timeout(PATIENCE).expect("a frame").expect("no end");
        u64::from_le_bytes(frame.body[..8].try_into().expect("an offset"))
    };
    (0..many).map(offset).collect()
}

#[test]
fn a_session_goes_on_over_its_second_path_when_the_first_one_swallows_everything() {
    let bed = bed();
    let relay = Relay::to(bed.address);
    let Opened { bundle, outbox, frames, back, .. } = open_session(&bed, relay.address);
    let second = PathHello { slot: 1, first: false, ..secret() };
    carry(&bundle, 1, call(&bed, "alpha", bed.address, second));
    let both = Instant::now() + PATIENCE;
    while bundle.status().iter().filter(|path| path.up).count() < 2 {
        assert!(Instant::now() < both, "{:?}", bundle.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    let (answers, came) = unbounded();
    let deliver = Arc::clone(&bundle);
    std::thread::spawn(move || {
        deliver.deliver(|frame| answers.send(frame.header.kind).map_err(|_| LinkError::Closed))
    });
    // 40 MiB: more than the window, and more than the sockets take.
    let send = |from: u64| (from..from + 80).for_each(|at| outbox.console(Epoch(1), at, &vec![1; 500_000]));
    send(0);
    assert_eq!(offsets(&frames, 40), (0..40).collect::<Vec<_>>());
    relay.swallows.store(true, Ordering::SeqCst);
    let cut = Instant::now();
    send(80);
    assert_eq!(offsets(&frames, 120), (40..160).collect::<Vec<_>>());
    println!("120 frames of 500 kB after {} ms", cut.elapsed().as_millis());
    back.to_primary(&ToPrimary::Leaving);
    assert_eq!(came.recv_timeout(PATIENCE), Ok(Kind::Leaving));
    let told = bed.context.events.after(0);
    assert!(told.iter().any(|event| event.what["event"] == "path_silent"), "{told:?}");
    outbox.close();
    let end = frames.recv_timeout(PATIENCE).expect("the end");
    assert!(matches!(end, Err(LinkLoss::Disconnected(_))), "{end:?}");
}

#[test]
fn nobody_joins_a_session_without_its_secret_or_in_another_hosts_name() {
    let bed = bed();
    let Opened { outbox, frames, back, .. } = open_session(&bed, bed.address);
    let join = PathHello { slot: 1, first: false, ..secret() };
    let strangers = [
        ("alpha", PathHello { secret: [8; 16], ..join }),
        ("gamma", join),
        ("alpha", PathHello { slot: 200, ..join }),
    ];
    for (host, path) in strangers {
        let mut connection = call(&bed, host, bed.address, path);
        connection.set_deadline(Some(Instant::now() + PATIENCE)).expect("set");
        let mut said = Vec::new();
        let _ = connection.receiver().read_to_end(&mut said);
        assert_eq!(said, Vec::<u8>::new(), "{host}");
    }
    assert!(bed.reasons().contains(&"no_secret".to_owned()));
    // The session does not mind.
    outbox.console(Epoch(1), 5, b"still here");
    assert_eq!(offsets(&frames, 1), [5]);
    drop(back);
}

#[test]
fn what_a_guest_was_given_is_told_before_the_end_of_its_epoch_and_soon_in_any_case() {
    let bed = bed();
    let Opened { outbox, frames, back: _back, .. } = open_session(&bed, bed.address);
    let next = || {
        let frame = frames.recv_timeout(PATIENCE).expect("a frame").expect("no end");
        (frame.header.kind, frame.header.epoch, frame.body)
    };
    for epoch in 1..50 {
        outbox.input(Epoch(epoch), 0, b"one");
        outbox.input(Epoch(epoch), 1, b"two");
        outbox.commit(Epoch(epoch), Commit::default());
        assert_eq!(next(), (Kind::Input, Epoch(epoch), b"\0one".to_vec()));
        assert_eq!(next(), (Kind::Input, Epoch(epoch), b"\x01two".to_vec()));
        assert_eq!(next().0, Kind::Commit);
    }
    outbox.input(Epoch(50), 0, b"the last");
    assert_eq!(next(), (Kind::Input, Epoch(50), b"\0the last".to_vec()));
}
