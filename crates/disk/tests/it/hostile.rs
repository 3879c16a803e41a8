//! Clients that lie, stop in the middle or never read: afterwards a good client still works.

use crate::client::{Client, READ, TRIM, WRITE, WRITE_ZEROES, header};
use crate::support::{Fixture, Random};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

const SIZE: u64 = 4 << 20;
const BYTES: [u8; 4096] = [0x5a; 4096];

/// Waits until the server has ended the connection. What it says until then does not matter.
fn wait_for_end(mut stream: UnixStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
}

/// A good client finds what it wrote, and can write and read.
fn check(fixture: &Fixture) {
    let mut good = Client::connect(&fixture.socket());
    assert_eq!(good.size, SIZE);
    assert_eq!(good.read(0, 4096), BYTES);
    assert_eq!(good.write(8192, &BYTES), 0);
    assert_eq!(good.read(8192, 4096), BYTES);
}

fn fixture() -> Fixture {
    let fixture = Fixture::new(SIZE);
    assert_eq!(Client::connect(&fixture.socket()).write(0, &BYTES), 0);
    fixture
}

#[test]
fn garbage_before_and_after_the_negotiation() {
    let fixture = fixture();
    let mut random = Random(7);
    for _ in 0..20 {
        let mut garbage = vec![0; 5000];
        random.fill(&mut garbage);
        let stream = UnixStream::connect(fixture.socket()).unwrap();
        // The server may have had enough before all is sent.
        let _ = (&stream).write_all(&garbage);
        wait_for_end(stream);
        let client = Client::connect(&fixture.socket());
        let _ = (&client.stream).write_all(&garbage);
        wait_for_end(client.stream);
    }
    check(&fixture);
    assert!(fixture.export().stats().broken_connections >= 40);
}

#[test]
fn ends_in_the_middle_of_requests_change_nothing() {
    let fixture = fixture();
    for sent in [1, 27, 28, 29, 28 + 4095] {
        let client = Client::connect(&fixture.socket());
        let request = [header(WRITE, 1, 0, 4096), vec![1; 4096]].concat();
        (&client.stream).write_all(&request[..sent]).unwrap();
        wait_for_end(client.stream);
    }
    // The whole of a lie about the length, and nothing of what it announces.
    let client = Client::connect(&fixture.socket());
    (&client.stream).write_all(&header(WRITE, 1, 0, 32 << 20)).unwrap();
    wait_for_end(client.stream);
    check(&fixture);
    assert_eq!(fixture.export().stats().broken_connections, 6);
}

#[test]
fn huge_lengths_and_offsets_are_refused_and_the_connection_goes_on() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket());
    const INVALID: u32 = 22;
    const NO_SPACE: u32 = 28;
    for (kind, offset, len, error) in [
        (READ, 0, u32::MAX, INVALID),
        (READ, u64::MAX, 4096, INVALID),
        (READ, SIZE - 4095, 4096, INVALID),
        (TRIM, 0, u32::MAX, INVALID),
        (TRIM, u64::MAX - 10, u32::MAX, INVALID),
        (WRITE_ZEROES, 4096, u32::MAX, NO_SPACE),
        (WRITE_ZEROES, u64::MAX, 1, NO_SPACE),
        (77, 0, 0, INVALID),
    ] {
        client.send(kind, 9, offset, len, &[]);
        assert_eq!(client.reply(), (error, 9), "{kind} {offset} {len}");
    }
    assert_eq!(client.write(SIZE - 4095, &BYTES), NO_SPACE);
    assert_eq!(client.write(u64::MAX, &BYTES), NO_SPACE);
    assert_eq!(client.read(0, 4096), BYTES);
    check(&fixture);
}

#[test]
fn one_that_never_reads_harms_nobody_and_the_export_ends_all_the_same() {
    let mut fixture = fixture();
    let stuck: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::connect(&fixture.socket());
            client.stream.set_nonblocking(true).unwrap();
            let request = header(READ, 1, 0, 1 << 20);
            loop {
                match client.stream.write(&request) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            client
        })
        .collect();
    check(&fixture);
    // It would wait forever for workers that write to clients which do not read.
    fixture.end();
    drop(stuck);
}
