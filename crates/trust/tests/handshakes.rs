//! Who is let in and who is not, on both sides, over real sockets.

#![forbid(unsafe_code)]

mod support;

use rustls::pki_types::UnixTime;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Certain, Host, certain, name, pair, refusals};
use trust::{HandshakeError, Identity, Lifetime, Purpose, Wanted, judge};

#[test]
fn hosts_that_trust_each_other_know_each_other_by_name() {
    let (alpha, beta) = pair();
    let (out, into) = alpha.calls(&beta, &beta.anyone()).certain();
    assert_eq!((out.peer().name.as_str(), into.peer().name.as_str()), ("beta", "alpha"));
    assert_eq!(into.peer().fingerprint, alpha.certificate().fingerprint());
}

#[test]
fn a_stranger_is_refused_on_both_sides_and_both_hear_why() {
    let (alpha, beta, stranger) = (Host::new("alpha"), Host::new("beta"), Host::new("alpha"));
    beta.trusts(&alpha);
    alpha.trusts(&beta);
    stranger.trusts(&beta);
    // Its certificate says that it is alpha.
    assert_eq!(refusals(stranger.calls(&beta, &beta.anyone())), ("unknown_there", "unknown"));
    // The one who calls is the one who does not know.
    let unknowing = Host::new("alpha");
    assert_eq!(refusals(unknowing.calls(&beta, &beta.anyone())), ("unknown", "unknown_there"));
}

#[test]
fn certificates_are_valid_only_in_their_time() {
    for (from, until, there, here) in
        [(-7_200, -3_600, "expired_there", "expired"), (3_600, 7_200, "expired_there", "not_yet_valid")]
    {
        let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
        alpha.trusts(&beta);
        alpha.becomes(&Identity::make(&name("alpha"), Lifetime::between(from, until)).expect("made"));
        beta.trusts_by_hand(&alpha);
        assert_eq!(refusals(alpha.calls(&beta, &beta.anyone())), (there, here));
        // And when it is the one that is called.
        let expected = (here, there);
        assert_eq!(refusals(beta.calls(&alpha, &alpha.anyone())), expected);
    }
}

#[test]
fn a_revoked_certificate_is_refused_at_once_on_both_sides() {
    let (alpha, beta) = pair();
    alpha.calls(&beta, &beta.anyone()).certain();
    beta.store.distrust(&name("alpha"), None).expect("revoked");
    assert_eq!(refusals(alpha.calls(&beta, &beta.anyone())), ("revoked_there", "revoked"));
    assert_eq!(refusals(beta.calls(&alpha, &alpha.anyone())), ("revoked", "revoked_there"));
}

#[test]
fn being_revoked_wins_over_being_trusted() {
    let (alpha, beta) = pair();
    beta.store.distrust(&name("alpha"), None).expect("revoked");
    beta.trusts_by_hand(&alpha);
    assert_eq!(refusals(alpha.calls(&beta, &beta.anyone())), ("revoked_there", "revoked"));
}

#[test]
fn a_trusted_host_is_not_another_one_and_not_a_peer_by_that_alone() {
    let (alpha, beta) = pair();
    let gamma = Host::new("gamma");
    alpha.trusts(&gamma);
    gamma.trusts(&alpha);
    // Gamma answers where beta was called.
    let answered = alpha.calls_as("beta", &gamma, &gamma.anyone());
    assert_eq!(refusals(answered), ("wrong_host", "wrong_host_there"));
    let others = Wanted::OneOf(vec![name("delta")]);
    assert_eq!(refusals(alpha.calls(&beta, &others)), ("no_peer_there", "no_peer"));
}

#[test]
fn the_wrong_port_is_named() {
    let (alpha, beta) = pair();
    let (there, here) = alpha.meets("beta", &beta, &beta.anyone(), Purpose::Witness, Purpose::Replication);
    assert!(matches!(there, Err(HandshakeError::Strange(_))), "{there:?}");
    assert!(matches!(here, Err(HandshakeError::Strange(_))), "{here:?}");
}

#[test]
fn a_host_rolls_over_to_a_new_identity_without_a_gap() {
    let (alpha, beta) = pair();
    let new = alpha.store.renew(Lifetime::default()).expect("made");
    beta.store.trust(&name("alpha"), &new).expect("taken in beside the old one");
    let (_, before) = alpha.calls(&beta, &beta.anyone()).certain();
    assert_ne!(before.peer().fingerprint, new.fingerprint());
    let old = before.peer().fingerprint;
    alpha.store.switch().expect("switched");
    let (_, after) = alpha.calls(&beta, &beta.anyone()).certain();
    assert_eq!(after.peer().fingerprint, new.fingerprint());
    beta.store.distrust(&name("alpha"), Some(old)).expect("the old one is of no use any more");
    alpha.calls(&beta, &beta.anyone()).certain();
}

#[test]
fn who_was_let_in_stays_so_past_the_end_of_its_certificate_but_not_past_its_revocation() {
    let (alpha, beta) = pair();
    let (_, into) = alpha.calls(&beta, &beta.anyone()).certain();
    judge::still(&beta.store, into.peer()).expect("still trusted");
    let der = alpha.certificate().der().clone();
    let late = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX / 2));
    assert!(judge::judge(&beta.store, &Wanted::Anyone, &der, late).is_err(), "a new one would be refused");
    beta.store.distrust(&name("alpha"), None).expect("revoked");
    assert_eq!(judge::still(&beta.store, into.peer()).expect_err("ended").reason(), "revoked");
}

#[test]
fn a_file_removed_by_hand_ends_trust_too() {
    let (alpha, beta) = pair();
    let (_, into) = alpha.calls(&beta, &beta.anyone()).certain();
    std::fs::remove_file(beta.directory().join("trusted/alpha.pem")).expect("removed");
    assert_eq!(judge::still(&beta.store, into.peer()).expect_err("ended").reason(), "unknown");
    assert_eq!(refusals(alpha.calls(&beta, &beta.anyone())), ("unknown_there", "unknown"));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (_, beta) = pair();
    let listener = certain(std::net::TcpListener::bind("127.0.0.1:0"));
    let address = certain(listener.local_addr());
    let client =
        std::thread::spawn(move || support::without_certificate(certain(TcpStream::connect(address))));
    let refused = beta.accepts(&listener, &beta.anyone(), Purpose::Replication);
    assert_eq!(refused.expect_err("refused").reason(), "no_certificate");
    assert!(client.join().expect("no panic").is_err(), "it was not welcomed");
}

#[test]
fn silence_slowness_and_plain_text_are_bounded_and_refused() {
    let (_, beta) = pair();
    let listener = certain(std::net::TcpListener::bind("127.0.0.1:0"));
    let address = certain(listener.local_addr());
    let began = Instant::now();
    let silent = certain(TcpStream::connect(address));
    let refused = beta.accepts_within(&listener, &beta.anyone(), Duration::from_millis(200));
    assert_eq!(refused.expect_err("refused").reason(), "silent");
    drop(silent);
    // One byte at a time, each within any time-out of a single read.
    let slow = std::thread::spawn(move || {
        let mut slow = certain(TcpStream::connect(address));
        // A record that says it is long.
        let bytes = [&[22, 3, 1, 16, 0][..], &[1; 4_096]].concat();
        for byte in bytes {
            if slow.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let refused = beta.accepts_within(&listener, &beta.anyone(), Duration::from_millis(200));
    assert_eq!(refused.expect_err("refused").reason(), "silent");
    slow.join().expect("no panic");
    assert!(began.elapsed() < Duration::from_secs(60), "both were given up");
    for text in [
        &b"UDYF and then eighty bytes of a frame that is not encrypted at all, as it was once"[..],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut plain = certain(TcpStream::connect(address));
        certain(plain.write_all(text));
        let refused = beta.accepts(&listener, &beta.anyone(), Purpose::Replication);
        assert_eq!(refused.expect_err("refused").reason(), "no_host");
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(answer.len() < 16, "an alert at the most: {answer:?}");
    }
}
