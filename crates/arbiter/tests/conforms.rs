//! Every arbiter against the same checks: sound, away, slow, and put back in time.

mod support;

use arbiter::{Arbiter, conformance};
use protocol::Grant;
use rustix::process::Signal;
use std::time::Duration;
use support::etcd::{Etcd, possible};
use support::faults::{back_in_time, gone_and_back, persist};
use support::place::{Directory, Place, Witness, client};
use support::relay::Relay;
use support::trusting::Hosts;
use support::{claim, until, vm};

#[test]
fn the_directory_conforms() {
    let place = Directory::new();
    conformance::run(&|| place.client());
}

#[test]
fn the_witness_conforms() {
    let place = Witness::new();
    conformance::run(&|| place.client());
}

#[test]
fn etcd_conforms_with_all_members_with_one_dead_and_with_one_frozen() {
    if !possible() {
        return;
    }
    let mut place = Etcd::start();
    conformance::run(&|| place.client());
    place.kill(0);
    until("the others have a leader", || place.client().identity().is_ok());
    conformance::run(&|| place.client());
    place.raise(0);
    until("all three hear each other", || client(&format!("etcd={}", place.urls()[0])).identity().is_ok());
    // It takes connections and says nothing.
    place.signal(1, Signal::STOP);
    until("the others have a leader", || place.client().identity().is_ok());
    conformance::one_winner(&|| place.client());
    place.signal(1, Signal::CONT);
}

#[test]
fn gone_nobody_wins_and_back_again_one_does() {
    gone_and_back(&mut Directory::new());
    gone_and_back(&mut Witness::new());
    if possible() {
        gone_and_back(&mut Etcd::start());
    }
}

#[test]
fn an_arbiter_with_old_data_is_not_believed_by_who_saw_more() {
    back_in_time(&mut Directory::new());
    back_in_time(&mut Witness::new());
    if possible() {
        back_in_time(&mut Etcd::start());
    }
}

#[test]
fn an_etcd_with_old_data_is_refused_for_vms_that_were_never_seen_too() {
    if !possible() {
        return;
    }
    let mut place = Etcd::start();
    let living = place.client();
    place.back_up();
    persist(&*place.client(), &claim("other", 1, "alpha", 1));
    // It hears of the newer revision, and of no VM.
    let mut identity = None;
    until("etcd answers", || {
        identity = living.identity().ok();
        identity.is_some()
    });
    place.restore();
    let mut error = None;
    until("etcd answers", || {
        error = living.look(&vm("other")).err().filter(|error| !error.is_unreachable());
        error.is_some()
    });
    let error = error.unwrap().to_string();
    assert!(error.contains("revision") && error.contains("old"), "{error}");
    // The same cluster's id: it does not tell.
    assert_eq!(place.client().identity().ok(), identity);
}

/// Answers come, late: still one winner, and everybody is told. One that comes too late counts as none, and the claim
/// may have been written all the same.
fn slow(address: impl Fn(&Relay) -> String, relay: &Relay) {
    let place = address(relay);
    relay.delay(Duration::from_millis(100));
    conformance::first_and_next(&|| client(&place));
    let name = "slow-race";
    let claims = [("alpha", 1), ("beta", 2)].map(|(by, nonce)| claim(name, 1, by, nonce));
    let records = std::thread::scope(|scope| {
        let place = &place;
        let ask = |claim| scope.spawn(move || persist(&*client(place), claim));
        claims.each_ref().map(ask).map(|thread| thread.join().unwrap())
    });
    assert_eq!(records[0], records[1]);
    relay.delay(Duration::from_secs(4));
    let second = claim(name, 2, "alpha", 3);
    let error = client(&place).claim(&second).unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    relay.delay(Duration::ZERO);
    let record = persist(&*client(&place), &second);
    assert!(Grant::from_record(&second, &record).is_some(), "nobody else asked");
}

#[test]
fn a_slow_witness_is_waited_for_and_not_for_ever() {
    let place = Witness::new();
    let files = place.files().display();
    slow(|relay| format!("witness={},{files}", relay.address), &Relay::to(place.at()));
}

#[test]
fn a_slow_etcd_is_waited_for_and_not_for_ever() {
    if !possible() {
        return;
    }
    let place = Etcd::start();
    let target = place.urls()[2].strip_prefix("http://").unwrap().parse().unwrap();
    slow(|relay| format!("etcd=http://{}", relay.address), &Relay::to(target));
}

#[test]
fn a_member_without_quorum_and_another_cluster_decide_nothing() {
    if !possible() {
        return;
    }
    let (mut one, other) = (Etcd::start(), Etcd::start());
    let both = client(&format!("etcd={},{}", one.urls()[0], other.urls()[0]));
    let mine = claim("web", 1, "alpha", 1);
    persist(&*both, &mine);
    one.kill(1);
    one.kill(2);
    // Alive and without a quorum: it must not even read.
    let lone = client(&format!("etcd={}", one.urls()[0]));
    assert!(lone.look(&vm("web")).unwrap_err().is_unreachable());
    // The other cluster answers, and is not the one that did before.
    let error = both.look(&vm("web")).unwrap_err();
    assert!(!error.is_unreachable() && error.to_string().contains("cluster"), "{error}");
    assert_ne!(other.client().identity().unwrap(), "", "the other cluster is well");
}

#[test]
fn a_witness_that_is_something_else_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n");
        }
    });
    let files = tempfile::tempdir().unwrap();
    let error = Hosts::new(files.path(), address).identity().unwrap_err();
    assert!(error.to_string().contains("is the port right?"), "{error}");
}
