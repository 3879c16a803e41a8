//! Whatever bytes come from a stranger, reading them ends without a panic and without a large allocation.

use proptest::prelude::*;
use protocol::doctor;
use protocol::envelope::{Expected, HEADER_LEN, Message, encode, expect};
use protocol::witness::{Answer, Question};
use protocol::{Claim, HostName, Term, VmName};
use xxhash_rust::xxh3::xxh3_64;

/// A frame whose checksums are right around any body: what a hostile peer would send.
fn sealed<M: Message>(body: &[u8]) -> Vec<u8> {
    let mut bytes = M::MAGIC.to_vec();
    bytes.extend_from_slice(&M::VERSION.to_le_bytes());
    bytes.extend_from_slice(&M::KIND.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&xxh3_64(body).to_le_bytes());
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn read<M: Message>(bytes: &[u8]) -> Option<M> {
    let expected: Expected = expect::<M>(bytes.first_chunk()?).ok()?;
    assert!(expected.len() <= M::MAX_BODY_LEN as usize);
    expected.body(&bytes[HEADER_LEN..]).ok()
}

fn claims() -> impl Strategy<Value = Claim> {
    ("[a-z0-9_][a-z0-9._-]{0,47}", any::<u64>(), "[a-z0-9]{1,48}", any::<u64>()).prop_map(
        |(vm, term, host, nonce)| Claim {
            vm: VmName::new(&vm).unwrap(),
            term: Term(term),
            host: HostName::new(&host).unwrap(),
            nonce,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_header_is_read_or_refused(head in any::<[u8; HEADER_LEN]>()) {
        let _ = expect::<Question>(&head);
        let _ = expect::<Answer>(&head);
        let _ = expect::<doctor::Question>(&head);
        let _ = expect::<doctor::Answer>(&head);
    }

    #[test]
    fn any_body_behind_right_checksums_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Some(question) = read::<Question>(&sealed::<Question>(&body)) {
            // Numbers have more than one encoding; what was understood must mean the same again.
            prop_assert_eq!(read::<Question>(&encode(&question)), Some(question));
        }
        let _ = read::<Answer>(&sealed::<Answer>(&body));
        if let Some(question) = read::<doctor::Question>(&sealed::<doctor::Question>(&body)) {
            prop_assert_eq!(read::<doctor::Question>(&encode(&question)), Some(question));
        }
        let _ = read::<doctor::Answer>(&sealed::<doctor::Answer>(&body));
    }

    #[test]
    fn a_damaged_question_is_never_taken_for_another(claim in claims(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut bytes = encode(&Question::Claim(claim));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(read::<Question>(&bytes), None);
    }

    #[test]
    fn names_that_are_none_are_refused_inside_questions(name in "[^a-zA-Z0-9_]{1,40}") {
        // A look is variant 1, then the name's length and bytes.
        let mut body = vec![1, u8::try_from(name.len().min(127)).unwrap()];
        body.extend_from_slice(&name.as_bytes()[..name.len().min(127)]);
        prop_assert_eq!(read::<Question>(&sealed::<Question>(&body)), None);
    }
}
