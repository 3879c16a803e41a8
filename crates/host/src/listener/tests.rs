use super::*;
use crate::config::HostConfig;
use crate::door::Door;
use crate::drain::Drain;
use crate::events::EventLog;
use crate::room::Room;
use crate::vm::Snapshot;
use arbiter::Arbiter;
use arbiter::directory::DirectoryArbiter;
use crossbeam_channel::Receiver as Channel;
use proptest::prelude::*;
use protocol::wire::{HEADER_LEN, MAX_BODY_LEN, Outbound};
use protocol::{Claim, Session, Timing, VmId, VmName};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use trust::{Lifetime, Store};

/// Host beta with its listener; alpha and mallory are its peers, of which mallory was given nothing but `other`.
pub(super) struct Bed {
    place: tempfile::TempDir,
    pub(super) context: Arc<Context>,
    table: Arc<Table>,
    pub(super) address: SocketAddr,
}

pub(super) fn name(name: &str) -> HostName {
    HostName::new(name).expect("a name")
}

fn vm(name: &str) -> VmName {
    VmName::new(name).expect("a name")
}

pub(super) fn bed() -> Bed {
    let place = tempfile::tempdir().expect("a directory");
    let arbiter = place.path().join("arbiter");
    std::fs::create_dir(&arbiter).expect("made");
    let arbiter = arbiter::directory::init(&arbiter).expect("an arbiter");
    let text = format!(
        "name = 'beta'\nlisten = '127.0.0.1:0'\nstate_dir = {:?}\napi_socket = '/s'\n[peers]\nalpha = '127.0.0.1:1'\ngamma = \
         '127.0.0.1:1'\nmallory = {{ address = '127.0.0.1:1', vms = ['other'] }}\n[arbiter]\ndirectory = {:?}",
        place.path().join("beta"),
        place.path().join("arbiter"),
    );
    let config = HostConfig::parse(Path::new("beta.toml"), &text).expect("right");
    let beta = config.trust();
    beta.init(Lifetime::default()).expect("an identity");
    let events = Arc::new(EventLog::open(config.name.clone(), &config.state_dir).expect("a log"));
    let door = Door::start(beta, Arc::clone(&events)).expect("a door");
    let (room, drain) = (Room::of(&config), Drain::open(&config.state_dir));
    let context = Arc::new(Context {
        config,
        arbiter: Arc::new(arbiter),
        events,
        door,
        room,
        links: std::sync::Mutex::default(),
        drain,
    });
    let table = Arc::new(Table::default());
    let address = start(&context, &table).expect("a port")[0];
    let bed = Bed { place, context, table, address };
    ["alpha", "gamma", "mallory"].iter().for_each(|host| bed.introduce(host));
    bed
}

impl Bed {
    pub(super) fn store(&self, host: &str) -> Store {
        Store::new(&self.place.path().join(host), &name(host))
    }

    fn introduce(&self, host: &str) {
        let (beta, host) = (self.store("beta"), self.store(host));
        let certificate = host.init(Lifetime::default()).expect("an identity");
        beta.trust(host.host(), &certificate).expect("trusted");
        host.trust(beta.host(), beta.identity().expect("there").certificate()).expect("trusted");
    }

    /// Calls as this host, says this, and returns what is answered until the end.
    fn say(&self, host: &str, bytes: &[u8]) -> Vec<u8> {
        let until = Instant::now() + Duration::from_secs(60);
        let socket = TcpStream::connect(self.address).expect("it listens");
        let called = trust::connect(socket, &self.store(host), &name("beta"), Purpose::Replication, until);
        let mut connection = called.expect("it is let in");
        connection.set_deadline(Some(until)).expect("set");
        let (mut receiver, mut sender) = connection.split();
        // It may have been closed before all was said.
        let _ = sender.send(bytes, &[]);
        let mut answer = Vec::new();
        let _ = receiver.read_to_end(&mut answer);
        answer
    }

    fn ask(&self, host: &str, bytes: &[u8]) -> ToPrimary {
        let answer = self.say(host, bytes);
        let (head, body) = answer.split_at(HEADER_LEN);
        let header = Header::decode(head.try_into().expect("a header")).expect("a frame");
        header.check_body(body).expect("whole");
        ToPrimary::decode(header.kind, header.epoch, body).expect("a message")
    }

    pub(super) fn reasons(&self) -> Vec<String> {
        let events = self.context.events.after(0);
        events.iter().filter_map(|event| Some(event.what["reason"].as_str()?.to_owned())).collect()
    }

    /// A standby of `web` that does nothing, for this primary.
    pub(super) fn stands_by(&self, primary: &str, term: u64) -> Channel<BackupInput> {
        let handle = VmHandle::new(vm("web"), name("beta"), Role::Backup);
        let (peer, phase) = (Some(name(primary)), "armed".into());
        handle.publish(Snapshot { peer, term: Term(term), phase, ..Snapshot::default() });
        let (inputs, received) = unbounded();
        self.table.vms().insert(vm("web"), Entry { handle, requests: unbounded().0, inputs });
        received
    }

    fn owned_by(&self, host: &str, term: u64) {
        let arbiter = DirectoryArbiter::new(&self.place.path().join("arbiter"));
        arbiter
            .claim(&Claim { vm: vm("web"), term: Term(term), host: name(host), nonce: term })
            .expect("won");
    }
}

pub(super) fn hello_of(of: &str, primary: &str) -> Hello {
    Hello { vm: vm(of), primary: name(primary), timing: Timing::default(), machine: b"{}".to_vec() }
}

fn hello(of: &str, primary: &str, term: u64) -> Vec<u8> {
    let hello = hello_of(of, primary);
    let (kind, epoch, body) = ToBackup::Hello(hello).encode();
    let header = Outbound::new(VmId::of(&vm(of)), Term(term), Session(1)).seal(kind, epoch, &body);
    [&header.encode()[..], &body].concat()
}

fn refused(answer: ToPrimary) -> String {
    match answer {
        ToPrimary::Refuse(Refusal::Machine { why }) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_peer_speaks_in_its_own_name_and_of_what_it_was_given() {
    let bed = bed();
    let why = refused(bed.ask("mallory", &hello("other", "alpha", 1)));
    assert!(why.contains("in the name of host alpha"), "{why}");
    let why = refused(bed.ask("mallory", &hello("web", "mallory", 1)));
    assert!(why.contains("VM web is not given to host mallory") && why.contains("peers.mallory"), "{why}");
    assert!(bed.table.vms().is_empty(), "no loop was made for it");
    // What it was given is looked at, and found to be no machine.
    let why = refused(bed.ask("mallory", &hello("other", "mallory", 1)));
    assert!(why.contains("cannot be read"), "{why}");
    assert_eq!(bed.reasons(), ["wrong_name", "vm_not_given"]);
}

#[test]
fn whoever_comes_when_a_standbys_loop_just_ended_shall_come_again() {
    let bed = bed();
    drop(bed.stands_by("alpha", 1));
    let answer = bed.ask("alpha", &hello("web", "alpha", 2));
    assert_eq!(answer, ToPrimary::Refuse(Refusal::Busy { term: Term(2) }));
}

#[test]
fn the_word_of_another_peer_does_not_push_a_standby_aside() {
    let bed = bed();
    let opened = bed.stands_by("alpha", 3);
    bed.owned_by("alpha", 1);
    bed.owned_by("alpha", 2);
    bed.owned_by("alpha", 3);
    for term in [3, 4, 1_000_000] {
        let answer = bed.ask("gamma", &hello("web", "gamma", term));
        assert_eq!(answer, ToPrimary::Refuse(Refusal::Busy { term: Term(3) }), "term {term}");
    }
    // The host it stands by for is heard without the arbiter, and so is one that the arbiter names.
    bed.owned_by("gamma", 4);
    assert_eq!(bed.ask("gamma", &hello("web", "gamma", 3)), ToPrimary::Fenced(Term(4)));
    assert!(opened.try_recv().is_err(), "the loop was not troubled");
    for (host, term) in [("alpha", 3), ("gamma", 4)] {
        let bytes = hello("web", host, term);
        std::thread::scope(|scope| {
            let say = scope.spawn(|| bed.say(host, &bytes));
            let BackupInput::Opened { hello, term: opened_in, outbox, .. } =
                opened.recv_timeout(Duration::from_secs(60)).expect("it comes to the loop");
            assert_eq!((hello.primary.as_str(), opened_in), (host, Term(term)));
            drop(outbox);
            say.join().expect("no panic");
        });
    }
}

#[test]
fn without_an_arbiter_nobody_is_pushed_aside() {
    let bed = bed();
    let _opened = bed.stands_by("alpha", 3);
    std::fs::remove_dir_all(bed.place.path().join("arbiter")).expect("gone");
    let why = refused(bed.ask("gamma", &hello("web", "gamma", 4)));
    assert!(why.contains("cannot ask whether gamma owns VM web"), "{why}");
}

#[test]
fn those_who_say_nothing_are_bounded_and_then_cut_off() {
    let bed = bed();
    let crowd: Vec<_> =
        (0..places::MAX_OF_ONE).map(|_| TcpStream::connect(bed.address).expect("it listens")).collect();
    // The places may be taken a moment after the connection stands.
    let mut one_more = TcpStream::connect(bed.address).expect("it listens");
    let began = Instant::now();
    let _ = one_more.read(&mut [0; 64]);
    assert!(began.elapsed() < HELLO_WITHIN, "it is closed at once");
    assert_eq!(bed.reasons(), ["too_many"]);
    for mut silent in crowd {
        silent.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let _ = silent.read_to_end(&mut Vec::new());
    }
    let why = refused(bed.ask("mallory", &hello("web", "mallory", 1)));
    assert!(why.contains("not given"), "hosts are let in again: {why}");
}

/// Panics anywhere in this process; each test is a process of its own.
static PANICS: AtomicUsize = AtomicUsize::new(0);

pub(super) fn nobody_panics(act: impl FnOnce()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        hook(info);
    }));
    let before = PANICS.load(Ordering::SeqCst);
    act();
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "a thread panicked");
}

/// A piece of what a hostile peer says.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..600);
    let framed = (0u16..30, any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
        |(kind, epoch, body)| {
            // A frame whose checksums are right, of any kind there is or is not.
            let mut head = Outbound::new(VmId::of(&vm("web")), Term(1), Session(1))
                .seal(Kind::Hello, protocol::Epoch(epoch), &body)
                .encode();
            head[6..8].copy_from_slice(&kind.to_le_bytes());
            let sum = xxhash_rust::xxh3::xxh3_64(&head[..72]);
            head[72..].copy_from_slice(&sum.to_le_bytes());
            [&head[..], &body].concat()
        },
    );
    let lies = any::<u64>().prop_map(|term| {
        let mut header = Outbound::new(VmId::of(&vm("web")), Term(term), Session(1)).seal(
            Kind::Hello,
            protocol::Epoch(0),
            b"",
        );
        header.len = MAX_BODY_LEN;
        header.encode().to_vec()
    });
    let names = prop::sample::select(vec!["web", "other", "third"]);
    let primaries = prop::sample::select(vec!["mallory", "alpha", "beta", "gamma"]);
    let hellos = (names, primaries, any::<u64>()).prop_map(|(of, primary, term)| hello(of, primary, term));
    let damaged =
        (hellos.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, mask)| {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            bytes
        });
    prop_oneof![noise, framed, lies, hellos, damaged]
}

#[test]
fn what_a_hostile_peer_says_neither_breaks_the_agent_nor_reaches_another_vm() {
    let bed = bed();
    let opened = bed.stands_by("alpha", 1);
    bed.owned_by("alpha", 1);
    nobody_panics(|| {
        let mut runner =
            proptest::test_runner::TestRunner::new(ProptestConfig { cases: 150, ..Default::default() });
        let said = runner.run(&prop::collection::vec(piece(), 1..4), |pieces| {
            // It stops speaking behind it: what waits for more hears the end.
            let until = Instant::now() + Duration::from_secs(60);
            let socket = TcpStream::connect(bed.address).expect("it listens");
            let called =
                trust::connect(socket, &bed.store("mallory"), &name("beta"), Purpose::Replication, until);
            let (_, mut sender) = called.expect("it is let in").split();
            let _ = sender.send(&pieces.concat(), &[]);
            drop(sender);
            prop_assert!(opened.try_recv().is_err(), "it reached the loop of web");
            let vms: Vec<_> = bed.table.vms().keys().cloned().collect();
            prop_assert!(!vms.contains(&vm("third")), "{vms:?}");
            Ok(())
        });
        said.expect("nothing came of it");
    });
    // Still there, for those who belong here.
    let bytes = hello("web", "alpha", 1);
    std::thread::scope(|scope| {
        let say = scope.spawn(|| bed.say("alpha", &bytes));
        let BackupInput::Opened { outbox, .. } =
            opened.recv_timeout(Duration::from_secs(60)).expect("alpha reaches it");
        drop(outbox);
        say.join().expect("no panic");
    });
}

#[test]
fn what_strangers_say_before_they_are_known_goes_nowhere() {
    let bed = bed();
    nobody_panics(|| {
        for bytes in [
            hello("web", "alpha", 1),
            hello("other", "mallory", 1),
            vec![0; 70_000],
            vec![22, 3, 1, 255, 255],
        ] {
            let mut stranger = TcpStream::connect(bed.address).expect("it listens");
            let _ = stranger.write_all(&bytes);
            let _ = stranger.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stranger.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer[0] == 21, "nothing but an alert: {answer:02x?}");
        }
    });
    assert!(bed.table.vms().is_empty());
    assert_eq!(bed.reasons()[0], "no_host");
}
