//! Whole conversations over a pair of sockets: good ones, and any bytes at all.

use super::super::wire::{MAX_PAYLOAD, Request, option, request};
use super::*;
use crate::image::Image;
use crate::tap::{FlushUse, Observer, Pace, Unobserved};
use proptest::prelude::*;
use protocol::What;
use std::net::Shutdown;
use std::sync::Arc;

const SIZE: u64 = 1 << 20;

fn served(observer: Arc<dyn Observer>) -> (tempfile::TempDir, Served, ExportInfo) {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::create(&folder.path().join("disk"), SIZE).unwrap();
    (folder, Served::new(image, observer), ExportInfo { name: "vda".into(), size: SIZE, read_only: false })
}

/// Runs a conversation in which the client sends `bytes` at once and then no more, and reads all that comes.
fn converse(served: &Served, export: &ExportInfo, bytes: &[u8]) -> (Ending, Vec<u8>) {
    let (server, client) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| {
            // Owned here: the client sees the end when the conversation is over.
            let server = server;
            run(served, export, &server)
        });
        let reads = scope.spawn(|| {
            let mut got = Vec::new();
            // A reset is an end too: the server need not read all of the nonsense.
            let _ = (&client).read_to_end(&mut got);
            got
        });
        // Fails if the server has had enough.
        let _ = (&client).write_all(bytes);
        let _ = client.shutdown(Shutdown::Write);
        (ending.join().expect("the server panicked"), reads.join().unwrap())
    })
}

/// The client's part of a negotiation, of all that we know if `modern`.
fn negotiation(modern: bool) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 3];
    let mut put = |kind: u32, data: &[u8]| {
        out.extend_from_slice(b"IHAVEOPT");
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        out.extend_from_slice(data);
    };
    if modern {
        put(option::STRUCTURED_REPLY, b"");
        put(option::SET_META_CONTEXT, b"\0\0\0\x03vda\0\0\0\x01\0\0\0\x0fbase:allocation");
        put(option::GO, b"\0\0\0\x03vda\0\0");
    } else {
        put(option::EXPORT_NAME, b"vda");
    }
    out
}

fn ask(kind: u16, offset: u64, len: u32) -> Vec<u8> {
    Request { flags: 0, kind, cookie: 7, offset, len }.bytes()
}

#[test]
fn requests_that_were_read_are_answered_before_the_end() {
    let (_folder, served, export) = served(Arc::new(Unobserved));
    for modern in [false, true] {
        let disconnect = ask(request::DISC, 0, 0);
        let bytes = [negotiation(modern), ask(request::READ, 0, 512), ask(request::FLUSH, 0, 0), disconnect];
        let (ending, got) = converse(&served, &export, &bytes.concat());
        assert_eq!(ending, Ending::Orderly);
        // Greeting, size and flags; a read and a flush.
        let plain = 18 + 10 + 16 + 512 + 16;
        assert!(if modern { got.len() > plain } else { got.len() == plain }, "{}", got.len());
    }
    assert_eq!(served.counters().snapshot().in_flight, 0);
}

/// The chunks of a stream of structured replies: flags, kind and body.
fn parse_chunks(mut bytes: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..4], [0x66, 0x8e, 0x33, 0xef]);
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let len = u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize;
        found.push((short(4), short(6), bytes[20..20 + len].to_vec()));
        bytes = &bytes[20 + len..];
    }
    found
}

#[test]
fn reads_are_one_chunk_and_holes_are_told_to_who_asks() {
    let (_folder, served, export) = served(Arc::new(Unobserved));
    served.write(1 << 16, &[9; 4096], false, &mut || ()).unwrap();
    // What comes before the answer to one request does not change: its length is seen without any.
    let (_, start) = converse(&served, &export, &negotiation(true));
    let answer = |kind, flags, offset, len| {
        let request = Request { flags, kind, cookie: 7, offset, len };
        let (_, got) = converse(&served, &export, &[negotiation(true), request.bytes()].concat());
        parse_chunks(&got[start.len()..])
    };
    let place = |offset: u64| offset.to_be_bytes().to_vec();
    let data = |offset: u64, bytes: &[u8]| [&place(offset), bytes].concat();
    let whole = [vec![0; 1 << 16], vec![9; 4096], vec![0; 0xf000]].concat();
    for flags in [0, 1 << 2] {
        assert_eq!(answer(request::READ, flags, 0, 1 << 17), [(1, 1, data(0, &whole))], "flags {flags}");
    }
    assert_eq!(answer(request::READ, 0, 512, 512), [(1, 1, data(512, &[0; 512]))], "small");
    assert_eq!(answer(request::READ, 0, 512, 0), [(1, 0, vec![])]);
    let status = |parts: &[(u32, u32)]| {
        let parts = parts.iter().flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()].concat());
        [1_u32.to_be_bytes().to_vec(), parts.collect()].concat()
    };
    let all = status(&[(1 << 15, 3), (4096, 0), (4096, 3)]);
    assert_eq!(answer(request::BLOCK_STATUS, 0, 1 << 15, (1 << 15) + 8192), [(1, 5, all)]);
    let one = status(&[(1 << 15, 3)]);
    assert_eq!(answer(request::BLOCK_STATUS, 1 << 3, 1 << 15, (1 << 15) + 8192), [(1, 5, one)]);
}

#[test]
fn long_reads_bring_what_was_written_wherever_they_begin() {
    let (_folder, served, export) = served(Arc::new(Unobserved));
    let pattern: Vec<u8> = (0..SIZE / 8).flat_map(|word| (word * 0x9e37_79b9).to_le_bytes()).collect();
    served.write(0, &pattern, false, &mut || ()).unwrap();
    let (_, start) = converse(&served, &export, &negotiation(true));
    let (_, plain_start) = converse(&served, &export, &negotiation(false));
    for (offset, len) in [(0, 1 << 20), (512, (1 << 20) - 512), (4096, 1 << 19), (1536, (1 << 16) + 512)] {
        let request = ask(request::READ, offset, len);
        let there = &pattern[usize::try_from(offset).unwrap()..][..len as usize];
        // Twice: what serves the first must serve the next.
        let (_, got) = converse(&served, &export, &[negotiation(true), request.repeat(2)].concat());
        let chunk = (1, 1, [&offset.to_be_bytes(), there].concat());
        assert!(parse_chunks(&got[start.len()..]) == [chunk.clone(), chunk], "{offset} {len}");
        let (_, got) = converse(&served, &export, &[negotiation(false), request].concat());
        assert!(got[plain_start.len() + 16..] == *there, "{offset} {len}, without chunks");
    }
}

#[test]
fn endings_are_told_apart() {
    let (_folder, served, export) = served(Arc::new(Unobserved));
    let good = negotiation(false);
    let broken = |bytes: &[&[u8]]| matches!(converse(&served, &export, &bytes.concat()).0, Ending::Broken(_));
    assert!(!broken(&[&good]), "the end between two requests");
    assert!(broken(&[&good, &ask(request::READ, 0, 512)[..27]]));
    assert!(broken(&[&good, &ask(request::WRITE, 0, 512), &[1; 511]]));
    assert!(broken(&[&good, &ask(request::WRITE, 0, u32::MAX), &[1; 511]]));
    assert!(broken(&[&good, b"not a request, but 28 bytes."]));
    assert!(broken(&[b"\0\0\0\x03IHAVEOPX\0\0\0\0\0\0\0\0"]));
    assert!(broken(&[b"\0\0\0\x07"]));
    assert!(broken(&[b""]));
    let too_long = [&b"\0\0\0\x03IHAVEOPT\0\0\0\x03\0\x02\0\0"[..], &vec![0; 0x20000]].concat();
    let abort = b"IHAVEOPT\0\0\0\x02\0\0\0\0";
    assert!(!broken(&[&too_long, abort]), "data too long is answered, and the negotiation goes on");
}

#[test]
fn a_write_that_is_too_long_is_refused_and_the_next_request_served() {
    let (_folder, served, export) = served(Arc::new(Unobserved));
    let payload = vec![1; MAX_PAYLOAD as usize + 1];
    let long = ask(request::WRITE, 0, MAX_PAYLOAD + 1);
    let bytes = [negotiation(false), long, payload, ask(request::READ, 0, 512)].concat();
    let (ending, got) = converse(&served, &export, &bytes);
    assert_eq!(ending, Ending::Orderly);
    assert_eq!(got.len(), 18 + 10 + 16 + 16 + 512);
    let stats = served.counters().snapshot();
    assert_eq!((stats.errors, stats.writes, stats.reads), (1, 0, 1));
}

struct Dies;

impl Observer for Dies {
    fn written(&self, _: u64, _: What<'_>) -> Pace {
        panic!("on purpose");
    }

    fn flush(&self) -> FlushUse {
        FlushUse::Sync
    }
}

#[test]
fn a_worker_that_dies_takes_its_client_along_and_nobody_else() {
    let (_folder, served, export) = served(Arc::new(Dies));
    let (server, client) = UnixStream::pair().unwrap();
    let write = [negotiation(false), ask(request::WRITE, 0, 512), vec![1; 512]].concat();
    let died = std::thread::scope(|scope| {
        let conversation = scope.spawn(|| run(&served, &export, &server));
        (&client).write_all(&write).unwrap();
        // The client does not end it: it waits for its reply.
        (&client).read_to_end(&mut Vec::new()).unwrap();
        conversation.join().is_err()
    });
    assert!(died, "the panic was swallowed");
    let bytes = [negotiation(false), ask(request::READ, 0, 512)].concat();
    assert_eq!(converse(&served, &export, &bytes).0, Ending::Orderly);
}

#[test]
fn a_client_that_does_not_read_is_not_read_any_more() {
    let (_folder, served, export) = served(Arc::new(Unobserved));
    let (server, client) = UnixStream::pair().unwrap();
    (&client).write_all(&negotiation(false)).unwrap();
    std::thread::scope(|scope| {
        let conversation = scope.spawn(|| run(&served, &export, &server));
        client.set_nonblocking(true).unwrap();
        let request = ask(request::READ, 0, 1 << 20);
        // Sent until the socket is full. With a reader that never stops this would not end.
        let mut sent = 0;
        loop {
            match (&client).write(&request) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock && is_stuck(&served) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent > 0);
        assert_eq!(served.counters().snapshot().in_flight, WORKERS as u64);
        server.shutdown(Shutdown::Both).unwrap();
        conversation.join().unwrap();
    });
    assert_eq!(served.counters().snapshot().in_flight, 0);
}

fn is_stuck(served: &Served) -> bool {
    served.counters().snapshot().in_flight == WORKERS as u64
}

/// Requests that are nearly good, and garbage.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![Just(0), 0..2 * SIZE, any::<u64>()];
    let len = || prop_oneof![Just(0), 0..100_000_u32, any::<u32>()];
    let request = (0u16..9, prop_oneof![Just(0), 0u16..64], number(), len(), 0..5000_usize).prop_map(
        |(kind, flags, offset, len, payload)| {
            let mut bytes = Request { flags, kind, cookie: 1, offset, len }.bytes();
            if kind == request::WRITE {
                bytes.resize(bytes.len() + payload.min(len as usize), 3);
            }
            bytes
        },
    );
    let option = (0u32..13, prop::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(
        |(kind, data, honest)| {
            let len = if honest { u32::try_from(data.len()).unwrap() } else { 1 << 17 };
            [&b"IHAVEOPT"[..], &kind.to_be_bytes(), &len.to_be_bytes(), &data].concat()
        },
    );
    prop_oneof![4 => request, 1 => option, 1 => prop::collection::vec(any::<u8>(), 0..60)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_survived_and_every_conversation_ends(
        start in prop_oneof![
            2 => any::<bool>().prop_map(negotiation),
            1 => Just(vec![0, 0, 0, 3]),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ],
        pieces in prop::collection::vec(piece(), 0..12),
    ) {
        let (_folder, served, export) = served(Arc::new(Unobserved));
        converse(&served, &export, &[start, pieces.concat()].concat());
        let stats = served.counters().snapshot();
        prop_assert_eq!(stats.in_flight, 0);
        prop_assert_eq!(served.image().size(), SIZE);
        prop_assert_eq!(std::fs::metadata(served.image().path()).unwrap().len(), SIZE, "the file changed its size");
    }
}
