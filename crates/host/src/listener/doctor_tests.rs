//! What another host may ask for `undying doctor`, over real connections.

use super::tests::{Bed, bed, name};
use super::*;
use proptest::prelude::*;
use protocol::VmName;
use protocol::doctor::{Answer, Burst, CHUNK, END, MORE, Question};
use protocol::envelope;
use std::io::Read;
use trust::exchange;

const PATIENCE: Duration = Duration::from_secs(60);
/// So much disturbs nobody.
const BURST: Burst = Burst { bytes: 3 * CHUNK as u64, within_us: 60_000_000, anyway: false };

fn call(bed: &Bed, host: &str) -> Connection {
    let until = Instant::now() + PATIENCE;
    let socket = TcpStream::connect(bed.address).expect("it listens");
    let called = trust::connect(socket, &bed.store(host), &name("beta"), Purpose::Doctor, until);
    let mut connection = called.expect("it is let in");
    connection.set_deadline(Some(until)).expect("set");
    connection
}

fn ask(connection: &mut Connection, question: &Question) -> Answer {
    exchange::write(connection.sender(), question).expect("said");
    exchange::read(connection.receiver()).expect("answered")
}

#[test]
fn a_peer_asks_for_the_time_a_token_and_bursts_in_one_conversation() {
    let (bed, before) = (bed(), os::clock::realtime_us());
    let mut to = call(&bed, "alpha");
    let Answer::Clock { came_us, goes_us } = ask(&mut to, &Question::Clock) else { panic!("no time") };
    assert!(before <= came_us && came_us <= goes_us && goes_us <= os::clock::realtime_us());
    // Alpha left nothing; beta does.
    assert_eq!(ask(&mut to, &Question::Token { leave: 7 }), Answer::Token { found: Ok(None), left: Ok(()) });
    assert_eq!(bed.context.arbiter.token(&name("beta")).expect("answers"), Some(7));
    bed.context.arbiter.leave_token(&name("alpha"), 9).expect("left");
    let found = ask(&mut to, &Question::Token { leave: 8 });
    assert_eq!(found, Answer::Token { found: Ok(Some(9)), left: Ok(()) });

    assert_eq!(ask(&mut to, &Question::Take(BURST)), Answer::Ready);
    for _ in 0..3 {
        to.sender().send(&[MORE], &[1; CHUNK]).expect("sent");
    }
    to.sender().send(&[END], &[]).expect("sent");
    let took = exchange::read(to.receiver()).expect("answered");
    assert!(matches!(took, Answer::Took { bytes, .. } if bytes == BURST.bytes), "{took:?}");

    assert_eq!(ask(&mut to, &Question::Give(BURST)), Answer::Ready);
    let mut given = vec![0; 3 * (CHUNK + 1) + 1];
    to.receiver().read_exact(&mut given).expect("it comes");
    assert_eq!((given[0], given[CHUNK + 1], given[given.len() - 1]), (MORE, MORE, END));
    assert!(matches!(ask(&mut to, &Question::Clock), Answer::Clock { .. }), "and it goes on");
}

#[test]
fn no_burst_disturbs_what_is_protected_unless_the_operator_insists() {
    let bed = bed();
    let _inputs = bed.stands_by("gamma", 1);
    let mut to = call(&bed, "alpha");
    let large = Burst { bytes: 1 << 20, ..BURST };
    for question in [Question::Take(large), Question::Give(large)] {
        let Answer::Refused(why) = ask(&mut to, &question) else { panic!("it may") };
        assert!(why.contains("VM web"), "{why}");
    }
    let anyway = Question::Give(Burst { anyway: true, ..large });
    assert_eq!(ask(&mut call(&bed, "alpha"), &anyway), Answer::Ready);
    assert_eq!(ask(&mut to, &Question::Give(BURST)), Answer::Ready, "it is small");
}

#[test]
fn facts_of_a_vm_are_told_to_those_only_who_were_given_it() {
    let bed = bed();
    let file = "name = 'web'\nmemory = '64MiB'\nfirmware = '/nonexistent'\n";
    let spec = qemu::VmSpec::parse(file, "a test").expect("right");
    let resolved = crate::computer::Decided::Qemu(qemu::ResolvedSpec {
        spec,
        machine: "pc-q35-7.2".into(),
        accel: qemu::accel::Accel::Tcg,
        accel_why: String::new(),
        cpu_model: "max".into(),
    });
    let asked = serde_json::to_vec(&doctor::Asked { resolved, disk_sizes: vec![] }).expect("JSON");
    let told = |host: &str| {
        let Answer::Facts(json) = ask(&mut call(&bed, host), &Question::Facts(asked.clone())) else {
            panic!("nothing is told")
        };
        let facts: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!((&facts["wire"], &facts["draining"]), (&protocol::wire::VERSION.into(), &false.into()));
        facts["vm"].clone()
    };
    // Whether its files are there is nobody's business who was not given it.
    let mallory = told("mallory");
    assert_eq!((&mallory["given"], &mallory["fingerprint_error"]), (&false.into(), &"".into()));
    let alpha = told("alpha");
    assert_eq!(alpha["given"], true);
    assert_ne!(alpha["fingerprint_error"], "", "the file is not there, or QEMU is not");
    let nonsense = ask(&mut call(&bed, "alpha"), &Question::Facts(b"{}".to_vec()));
    assert!(matches!(nonsense, Answer::Refused(_)), "{nonsense:?}");
}

#[test]
fn who_is_trusted_and_no_peer_asks_nothing() {
    let bed = bed();
    let place = tempfile::tempdir().expect("a directory");
    let stranger = trust::Store::new(place.path(), &name("stranger"));
    let certificate = stranger.init(trust::Lifetime::default()).expect("an identity");
    bed.store("beta").trust(stranger.host(), &certificate).expect("trusted");
    stranger
        .trust(&name("beta"), bed.store("beta").identity().expect("there").certificate())
        .expect("trusted");
    let socket = TcpStream::connect(bed.address).expect("it listens");
    let called = trust::connect(socket, &stranger, &name("beta"), Purpose::Doctor, Instant::now() + PATIENCE);
    assert_eq!(called.expect_err("refused").reason(), "no_peer_there");
}

/// What a peer may say in a conversation: noise, envelopes around anything, questions, and damaged ones.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    let framed = prop::collection::vec(any::<u8>(), 0..300).prop_map(|body| {
        // A right envelope around what is a question by chance only.
        let mut bytes = envelope::encode(&Question::Clock)[..16].to_vec();
        bytes[8..12].copy_from_slice(&u32::try_from(body.len()).expect("short").to_le_bytes());
        bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&body).to_le_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        [bytes, body].concat()
    });
    let question = prop_oneof![
        Just(Question::Clock),
        any::<u64>().prop_map(|leave| Question::Token { leave }),
        (any::<u64>(), any::<bool>()).prop_map(|(bytes, anyway)| Question::Take(Burst {
            bytes,
            within_us: bytes,
            anyway
        })),
        Just(Question::Facts(b"[[[[".to_vec())),
    ];
    let question = question.prop_map(|question| envelope::encode(&question));
    let damaged =
        (question.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, mask)| {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            bytes
        });
    prop_oneof![noise, framed, question, damaged]
}

#[test]
fn whatever_a_peer_asks_nothing_breaks_and_nothing_happens() {
    let bed = bed();
    super::tests::nobody_panics(|| {
        let mut runner =
            proptest::test_runner::TestRunner::new(ProptestConfig { cases: 100, ..Default::default() });
        let said = runner.run(&prop::collection::vec(piece(), 1..5), |pieces| {
            let (mut receiver, mut sender) = call(&bed, "mallory").split();
            let _ = sender.send(&pieces.concat(), &[]);
            drop(sender);
            let _ = receiver.read_to_end(&mut Vec::new());
            prop_assert!(bed.context.arbiter.vms().expect("answers").is_empty());
            Ok(())
        });
        said.expect("nothing came of it");
    });
    assert!(matches!(ask(&mut call(&bed, "alpha"), &Question::Clock), Answer::Clock { .. }), "still there");
    let web = VmName::new("web").expect("a name");
    assert_eq!(bed.context.arbiter.current(&web).expect("answers"), None);
}
