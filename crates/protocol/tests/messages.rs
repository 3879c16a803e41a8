//! Messages survive their encoding; no bytes make a decoder panic.

mod common;

use common::{host, vm};
use proptest::prelude::*;
use protocol::resync::{Base, DiskOffer, MemoryOffer, Offer, Run};
use protocol::wire::compare::{Ask, Hashes, Seed, Store};
use protocol::wire::{
    AckBody, Beat, Commit, EndReason, HEADER_LEN, Header, Hello, Kind, Lack, Refusal, ToBackup, ToPrimary,
    YieldReason,
};
use protocol::{Epoch, Instant, Micros, Session, Term, Timing};

fn run() -> impl Strategy<Value = Run> {
    any::<(u8, u64, u64)>().prop_map(|(disk, offset, len)| Run { disk, offset, len })
}

fn offer() -> impl Strategy<Value = Offer> {
    let base =
        any::<(u64, u64)>().prop_map(|(term, session)| Base { term: Term(term), session: Session(session) });
    let (bases, marked) = (prop::collection::vec(base, 0..3), prop::collection::vec(run(), 0..5));
    let copies = (bases, marked).prop_map(|(bases, marked)| DiskOffer::Copies { bases, marked });
    let disks = prop_oneof![Just(DiskOffer::NoDisks), Just(DiskOffer::Blank), copies];
    let memory = prop_oneof![Just(MemoryOffer::Blank), Just(MemoryOffer::Remnant)];
    (disks, memory).prop_map(|(disks, memory)| Offer { disks, memory })
}

fn to_backup() -> impl Strategy<Value = ToBackup> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..50);
    let hello = |machine| Hello { vm: vm(), primary: host("alpha"), timing: Timing::default(), machine };
    let commit = |((epoch, frames, bytes), at, last, gate)| {
        ToBackup::Commit(Epoch(epoch), Commit { frames, bytes, sent_at: Instant(at), last, gate })
    };
    let store = prop_oneof![Just(Store::Disks), Just(Store::Memory)];
    let reason = prop_oneof![Just(YieldReason::Planned), Just(YieldReason::VmDied), Just(YieldReason::Moved)];
    prop_oneof![
        bytes().prop_map(move |machine| ToBackup::Hello(hello(machine))),
        (any::<(u64, u64, u64)>(), any::<u64>(), any::<bool>(), bytes()).prop_map(commit),
        any::<(u64, u64)>()
            .prop_map(|(at, wish)| ToBackup::Heartbeat(Beat { at: Instant(at), wish: Micros(wish) })),
        (any::<u64>(), reason).prop_map(|(epoch, reason)| ToBackup::Yield(Epoch(epoch), reason)),
        prop_oneof![Just(EndReason::Unprotected), Just(EndReason::Stopped)].prop_map(ToBackup::End),
        (store, any::<u64>(), prop::collection::vec(run(), 0..5))
            .prop_map(|(of, seed, runs)| ToBackup::Ask(Ask { of, seed: Seed(seed), runs })),
        Just(ToBackup::Mark),
        Just(ToBackup::Resign),
    ]
}

fn to_primary() -> impl Strategy<Value = ToPrimary> {
    let refusal = prop_oneof![
        any::<u64>().prop_map(|term| Refusal::Busy { term: Term(term) }),
        any::<u64>().prop_map(|least| Refusal::NewerCopy { host: host("gamma"), least: Term(least) }),
        ".{0,20}".prop_map(|why| Refusal::Machine { why }),
        any::<(u64, u64, u64)>().prop_map(|(needs, left, of)| Refusal::NoRoom {
            host: host("gamma"),
            lack: Lack::Disk,
            needs,
            left,
            of
        }),
    ];
    let body = |echo, (silence, timeout)| AckBody {
        echo: Instant(echo),
        silence: Micros(silence),
        timeout: Micros(timeout),
    };
    prop_oneof![
        offer().prop_map(ToPrimary::Accept),
        prop::collection::vec(any::<u128>(), 0..5).prop_map(|sums| ToPrimary::Hashes(Hashes { sums })),
        refusal.prop_map(ToPrimary::Refuse),
        any::<(u64, u64, (u64, u64))>()
            .prop_map(move |(epoch, echo, rest)| ToPrimary::Ack(Epoch(epoch), body(echo, rest))),
        any::<(u64, (u64, u64))>().prop_map(move |(echo, rest)| ToPrimary::Pulse(body(echo, rest))),
        ".{0,20}".prop_map(ToPrimary::Broken),
        any::<u64>().prop_map(|term| ToPrimary::Declined(Term(term))),
        any::<u64>().prop_map(|term| ToPrimary::Fenced(Term(term))),
        Just(ToPrimary::Leaving),
        Just(ToPrimary::Reached),
        Just(ToPrimary::Resigned),
    ]
}

proptest! {
    #[test]
    fn a_message_to_a_backup_is_read_back_and_only_whole(message in to_backup()) {
        let (kind, epoch, body) = message.encode();
        prop_assert_eq!(ToBackup::decode(kind, epoch, &body), Ok(message));
        let mut longer = body.clone();
        longer.push(0);
        prop_assert!(ToBackup::decode(kind, epoch, &longer).is_err());
        if let Some((_, shorter)) = body.split_last() {
            prop_assert!(ToBackup::decode(kind, epoch, shorter).is_err());
        }
        prop_assert!(ToPrimary::decode(kind, epoch, &body).is_err(), "from the wrong side");
    }

    #[test]
    fn a_message_to_a_primary_is_read_back_and_only_whole(message in to_primary()) {
        let (kind, epoch, body) = message.encode();
        prop_assert_eq!(ToPrimary::decode(kind, epoch, &body), Ok(message));
        let mut longer = body.clone();
        longer.push(0);
        prop_assert!(ToPrimary::decode(kind, epoch, &longer).is_err());
        prop_assert!(ToBackup::decode(kind, epoch, &body).is_err(), "from the wrong side");
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200), epoch in any::<u64>()) {
        for &kind in Kind::ALL {
            let _ = ToBackup::decode(kind, Epoch(epoch), &body);
            let _ = ToPrimary::decode(kind, Epoch(epoch), &body);
        }
        let mut head = [0; HEADER_LEN];
        head.iter_mut().zip(&body).for_each(|(to, from)| *to = *from);
        prop_assert!(Header::decode(&head).is_err());
    }
}
