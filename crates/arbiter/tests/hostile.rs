//! A witness that is spoken to by strangers goes on answering hosts.

mod support;

use arbiter::witness::server::MAX_CONNECTIONS;
use protocol::envelope::{HEADER_LEN, encode, expect};
use protocol::witness::{Answer, Question};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::place::{Place, Witness};
use support::trusting;
use support::{claim, host, until, vm};
use trust::{Connection, Purpose};

fn connect(place: &Witness) -> TcpStream {
    let stream = TcpStream::connect(place.at()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// As a host that the witness trusts.
fn trusted(place: &Witness) -> Connection {
    let mallory = trusting::trusted(place.files(), &host("mallory"));
    let until = Instant::now() + Duration::from_secs(60);
    let witness = host(trusting::WITNESS);
    let mut connection = trust::connect(connect(place), &mallory, &witness, Purpose::Witness, until).unwrap();
    connection.set_deadline(Some(until)).unwrap();
    connection
}

/// What comes back before the connection ends.
fn told(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Nothing but an alert of TLS comes back.
fn told_nothing(stream: TcpStream) {
    let told = told(stream);
    assert!(told.is_empty() || (told[0] == 21 && told.len() < 16), "{told:02x?}");
}

fn still_well(place: &Witness, term: u64) {
    let arbiter = place.client();
    let mine = claim("web", term, "alpha", term);
    assert_eq!(arbiter.claim(&mine).unwrap().claim, mine);
    assert_eq!(arbiter.vms().unwrap(), [vm("web")], "a stranger left nothing behind");
}

#[test]
fn noise_halves_and_lies_about_lengths_get_no_answer() {
    let place = Witness::new();
    let whole = encode(&Question::Claim(claim("victim", 1, "mallory", 1)));
    let mut lies = whole.clone();
    lies[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let place = &place;
    let mut nonsense = vec![whole[..20].to_vec(), whole[..whole.len() - 1].to_vec(), lies, vec![0; 100_000]];
    nonsense.extend((0..whole.len()).map(|at| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        damaged
    }));
    nonsense.push(b"GET / HTTP/1.1\r\nHost: witness\r\n\r\n".to_vec());
    for bytes in nonsense {
        let mut stream = connect(place);
        // It may close before all is said.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        told_nothing(stream);
        // The same of a host that it trusts, which ends its half behind it.
        let (receiver, mut sender) = trusted(place).split();
        let _ = sender.send(&bytes, &[]);
        drop(sender);
        assert_eq!(told(receiver), b"", "{bytes:02x?}");
    }
    // Of a host in another one's name, however well it is said.
    let (receiver, mut sender) = trusted(place).split();
    sender.send(&encode(&Question::Claim(claim("victim", 1, "alpha", 1))), &[]).unwrap();
    let told = told(receiver);
    let head = told[..HEADER_LEN].try_into().unwrap();
    let answer = expect::<Answer>(&head).unwrap().body(&told[HEADER_LEN..]).unwrap();
    assert!(
        matches!(&answer, Answer::Refused(why) if why.contains("in the name of host alpha")),
        "{answer:?}"
    );
    drop(sender);
    still_well(place, 1);
}

#[test]
fn a_question_that_comes_byte_by_byte_is_cut_off() {
    let place = Witness::new();
    let (receiver, mut sender) = trusted(&place).split();
    let question = encode(&Question::Identity);
    let began = std::time::Instant::now();
    // Each byte comes in good time, all of them do not.
    let sent = question.iter().cycle().take_while(|&&byte| {
        std::thread::sleep(Duration::from_millis(400));
        began.elapsed() < Duration::from_secs(60) && sender.send(&[byte], &[]).is_ok()
    });
    assert!(sent.count() < question.len(), "the whole question was taken");
    assert_eq!(told(receiver), b"");
    still_well(&place, 1);
}

#[test]
fn too_many_connections_are_closed_and_room_comes_back() {
    let place = Witness::new();
    let crowd: Vec<_> = (0..MAX_CONNECTIONS + 20).map(|_| connect(&place)).collect();
    // Those beyond the limit are told so by the end of their connection.
    crowd.last().unwrap().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(told(crowd.last().unwrap().try_clone().unwrap()), b"");
    let error = place.client().identity().unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    // The silent ones are cut off, and hosts are answered again.
    until("room comes back", || place.client().identity().is_ok());
    still_well(&place, 1);
    drop(crowd);
}
