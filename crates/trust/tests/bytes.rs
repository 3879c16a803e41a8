//! What passes over a connection: all of it, in order, in both directions at once; and nothing that was not sent.

#![forbid(unsafe_code)]

mod support;

use proptest::prelude::*;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::{Certain, Host, certain, pair};
use trust::{Connection, Ended, Purpose, Receiver, accept};

fn connected() -> (Connection, Connection, [Host; 2]) {
    let (alpha, beta) = pair();
    let (out, into) = alpha.calls(&beta, &beta.anyone()).certain();
    (out, into, [alpha, beta])
}

/// Numbered bytes: a piece that is missing, repeated or elsewhere shows.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn expect(receiver: &mut Receiver, sizes: &[usize]) {
    let mut from = 0;
    for &len in sizes {
        let mut got = vec![0; len];
        certain(receiver.read_exact(&mut got));
        assert!(got == pattern(from, len), "bytes {from} to {}", from + len);
        from += len;
    }
    let mut rest = Vec::new();
    certain(receiver.read_to_end(&mut rest));
    assert!(rest.is_empty(), "nothing behind it");
}

#[test]
fn much_passes_in_both_directions_at_once_and_ends_in_order() {
    let (out, into, _hosts) = connected();
    let sizes: Vec<usize> = (0..400).map(|at| [1, 79, 80, 4_096, 16_384, 16_385, 300_000][at % 7]).collect();
    std::thread::scope(|scope| {
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for connection in [out, into] {
            let (mut receiver, mut sender) = connection.split();
            let sizes = &sizes;
            senders.push(scope.spawn(move || {
                let mut from = 0;
                for &len in sizes {
                    let bytes = pattern(from, len);
                    let (head, body) = bytes.split_at(len.min(80));
                    certain(sender.send(head, body));
                    from += len;
                }
                sender
            }));
            receivers.push(scope.spawn(move || {
                let mut from = 0;
                for &len in sizes {
                    let mut got = vec![0; len];
                    certain(receiver.read_exact(&mut got));
                    assert!(got == pattern(from, len), "bytes {from} to {}", from + len);
                    from += len;
                }
            }));
        }
        // A sender that is dropped ends both directions: not before all was read.
        receivers.into_iter().for_each(|receiver| receiver.join().expect("all came"));
        drop(senders);
    });
}

#[test]
fn dropping_the_sender_is_an_orderly_end_behind_what_was_sent() {
    let (out, into, _hosts) = connected();
    let (_, mut sender) = out.split();
    certain(sender.send(&pattern(0, 10), &pattern(10, 1_000_000 - 10)));
    drop(sender);
    expect(&mut into.split().0, &[1_000_000]);
}

#[test]
fn an_end_without_a_word_is_told_from_an_orderly_one() {
    let (out, into, _hosts) = connected();
    let handle = out.handle();
    handle.end_all(&Ended("gone".into()));
    let error = into.split().0.read(&mut [0; 10]).expect_err("cut off");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_connection_that_is_ended_says_why_and_nothing_more_is_read() {
    let (out, into, _hosts) = connected();
    let (handle, (mut receiver, mut sender)) = (into.handle(), into.split());
    let (mut other_receiver, mut other_sender) = out.split();
    certain(other_sender.send(b"one", b""));
    certain(receiver.read_exact(&mut [0; 3]));
    certain(other_sender.send(b"two", b""));
    let waiting = std::thread::spawn(move || {
        let mut all = Vec::new();
        (receiver.read_to_end(&mut all).expect_err("ended"), all)
    });
    handle.end_reading(&Ended("revoked".into()));
    let (error, all) = waiting.join().expect("no panic");
    assert!(all.is_empty() || all == b"two");
    assert_eq!(error.get_ref().and_then(|why| why.downcast_ref()), Some(&Ended("revoked".into())));
    // A last word can be said.
    certain(sender.send(b"bye", b""));
    drop(sender);
    let mut last = Vec::new();
    certain(other_receiver.read_to_end(&mut last));
    assert_eq!(last, b"bye");
    assert!(!handle.is_open());
}

#[test]
fn a_deadline_bounds_what_a_host_says_first() {
    let (_out, mut into, _hosts) = connected();
    certain(into.set_deadline(Some(Instant::now() + Duration::from_millis(100))));
    let error = into.receiver().read(&mut [0; 10]).expect_err("it says nothing");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

/// A relay that flips one bit of what the caller sends, at this byte behind its handshake.
fn damaged(at: usize, mask: u8) -> io::Result<Vec<u8>> {
    let (alpha, beta) = pair();
    let (front, back) =
        (certain(TcpListener::bind("127.0.0.1:0")), certain(TcpListener::bind("127.0.0.1:0")));
    let (address, target) = (certain(front.local_addr()), certain(back.local_addr()));
    let (go, gone) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (from, _) = certain(front.accept());
        let to = certain(TcpStream::connect(target));
        let (from_too, to_too) = (certain(from.try_clone()), certain(to.try_clone()));
        std::thread::spawn(move || io::copy(&mut &to_too, &mut &from_too));
        let (mut open, mut passed, mut buffer) = (false, 0, [0; 4_096]);
        while let Ok(len @ 1..) = (&from).read(&mut buffer) {
            open = open || gone.try_recv().is_ok();
            if open && (passed..passed + len).contains(&at) {
                buffer[at - passed] ^= mask;
            }
            passed += if open { len } else { 0 };
            if (&to).write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let until = Instant::now() + Duration::from_secs(30);
    let caller = std::thread::spawn(move || {
        let socket = certain(TcpStream::connect(address));
        let called = beta_name();
        let connection = certain(trust::connect(socket, &alpha.store, &called, Purpose::Replication, until));
        certain(go.send(()));
        let (_, mut sender) = connection.split();
        let _ = sender.send(&[7; 80], &[7; 1_000]);
    });
    let (socket, _) = certain(back.accept());
    let into = certain(accept(socket, &beta.store, beta.anyone(), &[Purpose::Replication], until));
    let mut got = Vec::new();
    let read = into.split().0.read_to_end(&mut got);
    caller.join().expect("no panic");
    read.map(|_| got)
}

/// Bytes before the encrypted part of a record.
const RECORD_HEAD: usize = 5;

fn beta_name() -> protocol::HostName {
    support::name("beta")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_never_taken_for_what_was_sent(at in 0usize..1_100, bit in 0u32..8) {
        match damaged(at, 1 << bit) {
            Err(_) => {}
            // The version in a record's head means nothing in TLS 1.3, and is not looked at.
            Ok(got) => prop_assert!(at < RECORD_HEAD && got == [7; 1_080], "byte {at} was flipped and nobody saw it"),
        }
    }

    #[test]
    fn no_bytes_before_or_in_a_handshake_do_more_than_end_it(
        begin in prop::sample::select(vec![&b""[..], &[22, 3, 1][..], &[22, 3, 3, 0, 100, 1, 0, 0, 96, 3, 3][..], &[21, 3, 3, 0, 2][..]]),
        noise in prop::collection::vec(any::<u8>(), 0..3_000),
    ) {
        let beta = Host::new("beta");
        let listener = certain(TcpListener::bind("127.0.0.1:0"));
        let mut stranger = certain(TcpStream::connect(certain(listener.local_addr())));
        certain(stranger.write_all(&[begin, &noise].concat()));
        certain(stranger.shutdown(std::net::Shutdown::Write));
        prop_assert!(beta.accepts_within(&listener, &beta.anyone(), Duration::from_secs(5)).is_err());
    }
}
