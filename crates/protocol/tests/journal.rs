//! Journal records survive their encoding; no bytes make a decoder panic; no flipped bit goes unseen.

use proptest::prelude::*;
use protocol::journal::{HEADER_LEN, Header, Identity, Kind, RecordError, Scan, Stamp, Totals, body};
use protocol::{Change, Epoch, Session, Term, VmId, What};

fn identity() -> Identity {
    Identity { vm: VmId(42), session: Session(7) }
}

fn header(kind: Kind, seq: u64, body: &[u8]) -> Header {
    let (term, epoch, applied) = (Term(3), Epoch(5), Epoch(4));
    Header { kind, identity: identity(), term, epoch, seq, synced: 1, applied, life: 1, len: 0, body_sum: 0 }
        .of_body(body)
}

fn read(bytes: &[u8]) -> Result<Change<'_>, RecordError> {
    let head = bytes.first_chunk::<HEADER_LEN>().ok_or(RecordError::Magic)?;
    let header = Header::decode(head, identity())?;
    header.check_body(&bytes[HEADER_LEN..])?;
    Change::decode(&bytes[HEADER_LEN..])
}

fn record(change: &Change<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    change.encode(&mut body);
    [&header(Kind::Change, 9, &body).encode()[..], &body[..]].concat()
}

prop_compose! {
    fn range()(offset in 0_u64..1 << 62, len in 1_u64..1 << 62) -> (u64, u64) { (offset, len) }
}

proptest! {
    #[test]
    fn changes_survive_and_no_flipped_bit_goes_unseen(
        disk: u8,
        (offset, len) in range(),
        data in prop::collection::vec(any::<u8>(), 1..300),
        kind in 0..3,
        flip: prop::sample::Index,
    ) {
        let what = [What::Data(&data), What::Zeroes(len), What::Discard(len)][kind as usize];
        let change = Change { disk, offset, what };
        let mut bytes = record(&change);
        prop_assert_eq!(read(&bytes), Ok(change));
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), life: u32) {
        let _ = read(&bytes);
        let _ = Change::decode(&bytes);
        let _ = Totals::decode(&bytes);
        let _ = body::segment_number(&bytes);
        let _ = body::Shape::decode(&bytes);
        let _ = Stamp::decode(&bytes, VmId(42));
        let mut scan = Scan::new();
        scan.mark(&Ok(header(Kind::Applied, 0, &[])));
        scan.begin(&header(Kind::Head, 9, &bytes));
        for kind in Kind::ALL {
            let header = Header { life, ..header(kind, 9, &bytes) };
            scan.record(Ok((&header, &bytes)));
            scan.witness(&header);
        }
        let _ = scan.facts(Epoch(1));
    }
}
