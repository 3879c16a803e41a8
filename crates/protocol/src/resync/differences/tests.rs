use super::*;
use crate::resync::record::{Layout, SECTOR, sector};
use proptest::prelude::*;

const GRAIN: Grain = Grain { block: 512, blocks: 2 };
const SIZE: u64 = 512 * 12;
const P: Base = Base { term: Term(1), session: Session(1) };
const S: Base = Base { term: Term(2), session: Session(3) };

fn run(offset: u64, len: u64) -> Run {
    Run { disk: 0, offset, len }
}

fn write(map: &mut Differences, offset: u64, len: u64) {
    let missing = map.inactive(0, offset, len);
    map.list(&missing);
    map.activate(&missing);
    map.mark(0, offset, len);
}

/// As the file's keeper does.
fn save(map: &mut Differences) {
    let layout = Layout::new(GRAIN, &[SIZE]);
    for (disk, at) in map.unsaved(&layout) {
        let bytes: [u8; SECTOR] = sector(map, &layout, disk, crate::resync::record::Row::Saved, at);
        map.saved(&layout, disk, at, &bytes);
    }
}

#[test]
fn marks_go_when_their_epoch_is_acknowledged_and_not_before() {
    let mut map = Differences::new(GRAIN, &[SIZE], &[P]);
    write(&mut map, 0, 512);
    map.begin_session(S);
    write(&mut map, 2048, 512);
    map.cut(Epoch(1));
    write(&mut map, 4096, 512);
    map.propose(S);
    assert_eq!(map.bases(), [P, S], "good for both while nobody knows which of them the backup has");
    assert!(map.acknowledged(Epoch(1)));
    assert_eq!(map.bases(), [S]);
    map.cut(Epoch(2));
    assert!(!map.acknowledged(Epoch(1)), "a second time");
    map.forget(map.settled());
    assert_eq!(map.runs(), [run(4096, 512)]);
    map.end_session();
    write(&mut map, 0, 1);
    map.forget(map.settled());
    assert_eq!(map.runs(), [run(0, 512), run(4096, 512)], "what it writes alone stays marked");
    assert_eq!(map.marked_bytes(0), 1024);
}

#[test]
fn an_epoch_that_is_cut_again_covers_what_was_written_between() {
    let mut map = Differences::new(GRAIN, &[SIZE], &[P]);
    map.begin_session(S);
    map.cut(Epoch(1));
    write(&mut map, 0, 512);
    map.cut(Epoch(1));
    map.acknowledged(Epoch(1));
    map.forget(map.settled());
    assert_eq!(map.runs(), []);
}

#[test]
fn a_session_that_takes_anothers_place_begins_with_its_newest_cut() {
    let next = Base { session: Session(4), ..S };
    let mut map = Differences::new(GRAIN, &[SIZE], &[P]);
    map.begin_session(S);
    write(&mut map, 0, 512);
    map.cut(Epoch(7));
    map.propose(next);
    assert_eq!(map.bases(), [P, next], "the other host may have it");
    write(&mut map, 2048, 512);
    map.succeed(next);
    assert!(map.acknowledged(Epoch(1)));
    map.forget(map.settled());
    assert_eq!((map.bases(), map.runs()), (&[next][..], alloc::vec![run(2048, 512)]));
}

#[test]
fn an_acknowledgement_of_a_session_before_says_nothing_of_this_one() {
    let mut map = Differences::new(GRAIN, &[SIZE], &[P]);
    map.begin_session(S);
    write(&mut map, 0, 512);
    map.cut(Epoch(1));
    map.end_session();
    map.begin_session(Base { session: Session(4), ..S });
    map.acknowledged(Epoch(7));
    map.forget(map.settled());
    assert_eq!(map.runs(), [run(0, 512)]);
}

#[test]
fn after_a_crash_an_active_extent_is_marked_whole_and_a_retired_one_as_saved() {
    let mut map = Differences::new(GRAIN, &[SIZE], &[P]);
    write(&mut map, 0, 1);
    write(&mut map, 2048, 1);
    map.retire(0);
    assert_eq!(map.active(), 2, "nothing is saved yet");
    save(&mut map);
    map.retire(1);
    assert_eq!(map.active(), 1);
    assert_eq!(map.inactive(0, 0, 1), [Extent { disk: 0, at: 0 }], "it must be activated again");
    assert_eq!(map.clone().after_crash().runs(), [run(0, 512), run(2048, 1024)]);
}

#[test]
fn only_so_many_bases_are_kept_and_without_one_nothing_is_wanted() {
    let mut map = Differences::new(GRAIN, &[SIZE], &[]);
    assert!(!map.is_wanted());
    for session in 1..=6 {
        let base = Base { session: Session(session), ..S };
        map.begin_session(base);
        map.propose(base);
        map.end_session();
    }
    let kept: Vec<_> = map.bases().iter().map(|base| base.session.0).collect();
    assert_eq!(kept, [3, 4, 5, 6]);
    assert!(map.is_wanted());
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64),
    Cut,
    Acknowledge,
    Forget,
    Save,
    Retire(usize),
    NewSession,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SIZE, 1u64..1500).prop_map(|(offset, len)| Step::Write(offset, len)),
        3 => Just(Step::Cut),
        2 => Just(Step::Acknowledge),
        2 => Just(Step::Forget),
        1 => Just(Step::Save),
        1 => (0usize..5).prop_map(Step::Retire),
        1 => Just(Step::NewSession),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    /// The model: which blocks were written and are in no acknowledged epoch. All of them are marked, in memory and
    /// after a crash at any time.
    #[test]
    fn what_is_not_acknowledged_is_marked(steps in prop::collection::vec(step(), 0..60)) {
        let mut map = Differences::new(GRAIN, &[SIZE], &[P]);
        let (mut session, mut epoch) = (10, Epoch(0));
        map.begin_session(Base { session: Session(session), ..S });
        // Of each block the epoch of its last write in this session, if it is not acknowledged.
        let mut pending = [None; 12];
        for step in steps {
            match step {
                Step::Write(offset, len) => {
                    write(&mut map, offset, len);
                    let end = (offset + len).min(SIZE);
                    pending[(offset / 512) as usize..=((end - 1) / 512) as usize].fill(Some(epoch.next()));
                }
                Step::Cut => { epoch = epoch.next(); map.cut(epoch); }
                Step::Acknowledge => {
                    map.acknowledged(epoch);
                    for block in &mut pending { block.take_if(|of| *of <= epoch); }
                }
                Step::Forget => map.forget(map.settled()),
                Step::Save => save(&mut map),
                Step::Retire(keep) => map.retire(keep),
                Step::NewSession | Step::Crash => {
                    if matches!(step, Step::Crash) { map = map.after_crash(); } else { map.end_session(); }
                    (session, epoch) = (session + 1, Epoch(0));
                    map.begin_session(Base { session: Session(session), ..S });
                    // Whatever was written before belongs to the new session's first epoch.
                    for block in pending.iter_mut().flatten() { *block = Epoch(1); }
                }
            }
            for runs in [map.runs(), map.clone().after_crash().runs()] {
                for (at, _) in pending.iter().enumerate().filter(|(_, block)| block.is_some()) {
                    let at = at as u64 * 512;
                    prop_assert!(runs.iter().any(|run| run.offset <= at && at < run.offset + run.len), "block {at}");
                }
            }
        }
    }
}
