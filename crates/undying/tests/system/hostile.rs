//! Strangers, and hosts that are trusted and talk nonsense, at the replication port: they get an error or silence, and
//! change nothing.

use crate::kit::{Loaded, Setup, look, possible};
use lab::cluster::Cluster;
use protocol::wire::{
    HEADER_LEN, Header, Hello, Inbound, Kind, MAX_BODY_LEN, Outbound, Refusal, ToBackup, ToPrimary,
};
use protocol::{Epoch, HostName, Session, Term, Timing, VmId, VmName};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use trust::Purpose;
use xxhash_rust::xxh3::xxh3_64;

/// The host that speaks to this one.
fn other(host: &str) -> &'static str {
    if host == "beta" { "alpha" } else { "beta" }
}

/// The bytes of a Hello to a host for `named`, in a frame of the VM `framed`.
fn hello(to: &str, named: &VmName, framed: &VmName, term: u64) -> Vec<u8> {
    let primary = HostName::new(other(to)).expect("a name");
    let hello = Hello { vm: named.clone(), primary, timing: Timing::default(), machine: b"{}".to_vec() };
    let (kind, epoch, body) = ToBackup::Hello(hello).encode();
    let header = Outbound::new(VmId::of(framed), Term(term), Session(1)).seal(kind, epoch, &body);
    [&header.encode()[..], &body].concat()
}

fn connect(cluster: &Cluster, to: &str) -> TcpStream {
    let target: SocketAddr = cluster.replication_socket(to).expect("the address");
    let namespace = cluster.lab.host(other(to)).expect("the host");
    let stream = namespace.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
    let stream = stream.expect("entered").expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    stream
}

/// Says this to a host's replication port as nobody in particular; returns what comes back until the end.
fn say_as_a_stranger(cluster: &Cluster, to: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(cluster, to);
    // It may have been closed before all was said.
    let _ = stream.write_all(bytes);
    until_the_end(&mut stream)
}

/// The same with the other host's key in hand.
fn say(cluster: &Cluster, to: &str, bytes: &[u8]) -> Vec<u8> {
    let from = cluster.trust(other(to)).expect("its files of trust");
    let until = Instant::now() + Duration::from_secs(30);
    let called = HostName::new(to).expect("a name");
    let connected = trust::connect(connect(cluster, to), &from, &called, Purpose::Replication, until);
    let mut connection = connected.expect("it is let in");
    connection.set_deadline(Some(until)).expect("a deadline");
    let (mut receiver, mut sender) = connection.split();
    let _ = sender.send(bytes, &[]);
    until_the_end(&mut receiver)
}

fn until_the_end(stream: &mut impl Read) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("it does not end"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it does not end"),
        _ => answer,
    }
}

/// The one message of an answer.
fn message(answer: &[u8]) -> ToPrimary {
    let (head, body) = answer.split_at(HEADER_LEN);
    let header = Header::decode(head.try_into().expect("a header")).expect("a frame");
    Inbound::new(header.vm, header.term, header.session).check(&header).expect("the first frame");
    header.check_body(body).expect("one whole frame");
    ToPrimary::decode(header.kind, header.epoch, body).expect("a message")
}

/// Nothing happened to the VM.
fn untouched(loaded: &Loaded, marks: [u64; 2]) {
    assert_eq!(loaded.status("alpha").phase, "protected");
    assert_eq!(loaded.status("alpha").term, 1);
    assert_eq!(loaded.status("beta").phase, "armed");
    for (host, mark) in ["alpha", "beta"].into_iter().zip(marks) {
        let events = loaded.cluster.ask(host, |api| api.events(mark)).expect("the agent answers");
        let about: Vec<_> = events
            .iter()
            .filter(|event| event.vm.as_ref() == Some(&loaded.vm))
            .map(|event| &event.text)
            .collect();
        assert!(about.is_empty(), "something happened at {host}: {about:?}");
    }
    loaded.progress();
}

#[test]
fn strangers_are_refused_and_change_nothing() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("hostile").start();
    let marks = ["alpha", "beta"].map(|host| look::mark(&loaded.cluster, host));
    let another = VmName::new("other").expect("a name");
    let good = hello("beta", &loaded.vm, &loaded.vm, 1);
    let mut noise: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut version = good.clone();
    version[4] = 99;
    let sum = xxh3_64(&version[..72]);
    version[72..80].copy_from_slice(&sum.to_le_bytes());
    let mut huge = Outbound::new(VmId::of(&loaded.vm), Term(1), Session(1)).seal(Kind::Hello, Epoch(0), b"");
    huge.len = MAX_BODY_LEN;
    let heartbeat =
        Outbound::new(VmId::of(&loaded.vm), Term(1), Session(1)).seal(Kind::Heartbeat, Epoch(0), b"");
    let silent: [(&str, Vec<u8>); 7] = [
        ("noise", noise.clone()),
        ("noise behind a header", {
            noise.truncate(MAX_BODY_LEN as usize);
            [&good[..HEADER_LEN], &noise[..good.len() - HEADER_LEN]].concat()
        }),
        ("an unknown version", version),
        ("a Hello for another VM than its frame's", hello("beta", &loaded.vm, &another, 1)),
        ("a frame that is no Hello", heartbeat.encode().to_vec()),
        ("a header without its body", huge.encode().to_vec()),
        ("nothing", Vec::new()),
    ];
    for host in ["alpha", "beta"] {
        for (what, bytes) in &silent {
            let answer = say_as_a_stranger(&loaded.cluster, host, bytes);
            let alert = answer.first() == Some(&21) && answer.len() < 16;
            assert!(answer.is_empty() || alert, "{what} at {host} was answered to a stranger");
            let answer = say(&loaded.cluster, host, bytes);
            assert!(answer.is_empty(), "{what} at {host} was answered");
        }
    }
    untouched(&loaded, marks);
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn a_hello_of_nobody_who_owns_the_vm_is_refused() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("hello").start();
    let marks = ["alpha", "beta"].map(|host| look::mark(&loaded.cluster, host));
    let ask =
        |host: &str, vm: &VmName, term: u64| message(&say(&loaded.cluster, host, &hello(host, vm, vm, term)));
    // At the backup: an older term is told so; this very term has its session already.
    assert_eq!(ask("beta", &loaded.vm, 0), ToPrimary::Fenced(Term(1)));
    assert_eq!(ask("beta", &loaded.vm, 1), ToPrimary::Refuse(Refusal::Busy { term: Term(1) }));
    // At the owner: likewise, and also for a term that nobody has.
    assert_eq!(ask("alpha", &loaded.vm, 0), ToPrimary::Fenced(Term(1)));
    assert_eq!(ask("alpha", &loaded.vm, 7), ToPrimary::Refuse(Refusal::Busy { term: Term(1) }));
    // A VM that nobody knows, with a description that says nothing.
    let another = VmName::new("other").expect("a name");
    let ToPrimary::Refuse(Refusal::Machine { why }) = ask("beta", &another, 1) else { panic!("not refused") };
    assert!(why.contains("cannot be read"), "{why}");
    loaded.cluster.wait_gone("beta", &another).expect("nothing is left of it");
    untouched(&loaded, marks);
    loaded.verdict();
}
