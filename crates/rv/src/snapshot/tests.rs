use super::*;
use crate::machine::{Input, Mode, RAM};
use alloc::vec;
use proptest::prelude::*;
use std::sync::LazyLock;

const LARGE: u64 = 2 << 20;

/// A machine in supervisor mode whose address 0 is the large page of this number.
fn mapped() -> Machine {
    let mut machine = Machine::new(8 << 20);
    map(&mut machine, 1);
    machine.ram_write(RAM + 0x1000, 8, ((RAM + 0x2000) >> 12) << 10 | 1).expect("in RAM");
    for page in 1..3 {
        machine.ram_write(RAM + page * LARGE, 8, 100 + page).expect("in RAM");
    }
    machine.csr.satp = 8 << 60 | (RAM + 0x1000) >> 12;
    machine.mode = Mode::Supervisor;
    open_memory(&mut machine, true);
    machine
}

/// Opens all memory to supervisor mode, or closes it again.
fn open_memory(machine: &mut Machine, open: bool) {
    machine.csr.write_rule_address(0, if open { u64::MAX } else { 0 });
    machine.csr.write_rules(0, if open { 0x1f } else { 0 });
}

fn map(machine: &mut Machine, page: u64) {
    let entry = ((RAM + page * LARGE) >> 12) << 10 | 0xcf;
    machine.ram_write(RAM + 0x2000, 8, entry).expect("in RAM");
}

#[test]
fn a_translation_that_the_guest_did_not_forget_is_not_forgotten() {
    let mut machine = mapped();
    assert_eq!(machine.load(0, 8), Ok(101));
    map(&mut machine, 2);
    let mut again = machine.save().machine().expect("memory");
    for machine in [&mut machine, &mut again] {
        assert_eq!(machine.load(8, 8), Ok(0));
        assert_eq!(machine.load(0, 8), Ok(101), "no fence was carried out");
        machine.store(0x18, 8, 5).expect("a store");
    }
    assert!(machine.save() == again.save());
    for machine in [&mut machine, &mut again] {
        machine.flush();
        assert_eq!((machine.load(0, 8), machine.load(0x18, 8)), (Ok(102), Ok(5)));
    }
}

#[test]
fn pages_are_dirty_if_and_only_if_they_were_written_since() {
    let mut machine = Machine::new(0x5800);
    machine.save();
    let changes = |machine: &mut Machine| machine.save_changes().pages;
    assert_eq!(changes(&mut machine), []);
    machine.store(RAM + 0x1ffe, 4, 0x707_0707).expect("a store over two pages");
    assert!(machine.put(RAM + 0x5700, &[1, 2]));
    assert_eq!(changes(&mut machine), [1, 2, 5]);
    // The fast path may store there no more, until it was marked again.
    assert!(!machine.is_direct(RAM + 0x1000, RAM + 0x1000, crate::mmu::Access::Store));
    machine.store(RAM + 0x1000, 8, 7).expect("a store");
    assert!(machine.is_direct(RAM + 0x1000, RAM + 0x1000, crate::mmu::Access::Store));
    assert_eq!(changes(&mut machine), [1]);
    assert!(machine.store(RAM + 0x57fc, 8, 7).is_err());
    assert_eq!(machine.save().pages, [1, 2, 5]);
}

#[test]
fn marks_that_were_taken_are_for_one_and_a_snapshot_after_that_is_whole() {
    let mut machine = mapped();
    machine.load(0, 8).expect("a load");
    machine.save();
    assert_eq!(machine.take_dirty(), [0; 0]);
    machine.store(0x18, 8, 5).expect("a store");
    // A second one goes the fast way; after the marks were taken it does not.
    let direct = |machine: &Machine| machine.is_direct(0x18, RAM + LARGE + 0x18, crate::mmu::Access::Store);
    assert!(direct(&machine));
    // The page, and its entry in the table, which is dirty now.
    assert_eq!(machine.take_dirty(), [512]);
    assert!(!direct(&machine));
    assert_eq!(machine.take_dirty(), [0; 0]);
    assert_eq!(machine.save_changes().base(), None);
    machine.mark_all();
    assert_eq!(machine.take_dirty().len(), 2048);
}

#[test]
fn a_state_is_taken_by_a_machine_with_the_same_ram_and_by_no_other() {
    let mut machine = mapped();
    machine.load(0, 8).expect("a load");
    map(&mut machine, 2);
    machine.input(Input::Console(vec![7]));
    let state = machine.state();
    let mut copy = Machine::new(8 << 20);
    for page in machine.take_dirty() {
        let start = page as usize * PAGE;
        assert!(copy.put(RAM + start as u64, &machine.ram()[start..start + PAGE]));
    }
    copy.put_state(&state).expect("a state");
    assert!(copy.equals(&machine));
    assert_eq!(copy.load(0, 8), Ok(101), "no fence was carried out");
    let before = copy.hash();
    let mut later = state.clone();
    later[0] += 1;
    let other = Machine::new(4 << 20).put_state(&state);
    assert_eq!(other, Err(SnapshotError::OtherRam { has: 8 << 20, given: 4 << 20 }));
    assert_eq!(copy.put_state(&later), Err(SnapshotError::Version(2)));
    assert_eq!(copy.put_state(&state[..11]), Err(SnapshotError::NotASnapshot));
    for bytes in [&state[..state.len() - 1], &[&state[..], &[0]].concat()] {
        assert!(matches!(copy.put_state(bytes), Err(SnapshotError::Damaged(_))));
    }
    assert_eq!(copy.hash(), before);
}

#[test]
fn only_the_next_changes_are_taken() {
    let mut machine = Machine::new(0x4000);
    let first = machine.save();
    let mut standby = first.machine().expect("memory");
    assert!(machine.put(RAM, &[1]));
    let second = machine.save_changes();
    assert!(machine.put(RAM, &[2]));
    machine.input(Input::Console(vec![7]));
    let third = machine.save_changes();
    assert_eq!(second.machine().err(), Some(SnapshotError::NotNext));
    assert_eq!(standby.follow(&third), Err(SnapshotError::NotNext));
    standby.follow(&second).expect("the next one");
    let _ = standby.put(RAM, &[3]);
    assert_eq!(standby.follow(&third), Err(SnapshotError::NotNext));
    let mut standby = first.machine().expect("memory");
    standby.follow(&second).expect("the next one");
    standby.follow(&third).expect("the next one");
    assert!(standby.equals(&machine));
}

#[test]
fn what_is_merged_keeps_its_name_and_those_behind_it_follow_on_it() {
    let mut machine = Machine::new(0x5800);
    assert!(machine.put(RAM, &[1; 0x1800]));
    let first = machine.save();
    // What is zero now is in no whole snapshot.
    assert!(machine.put(RAM + 0x1000, &[0; 0x800]) && machine.put(RAM + 0x5700, &[2; 0x100]));
    machine.input(Input::Console(vec![7]));
    let second = machine.save_changes();
    assert!(machine.put(RAM + 0x2000, &[3]));
    let third = machine.save_changes();

    let mut standby = first.machine().expect("memory");
    assert_eq!(second.merged(&standby), Err(SnapshotError::NotNext));
    standby.follow(&second).expect("the next one");
    let merged = second.merged(&standby).expect("it stands there");
    assert_eq!((merged.id(), merged.base(), merged.pages()), (second.id(), None, &[0, 5][..]));
    let bytes = merged.to_bytes();
    let read = Snapshot::from_bytes(&bytes).expect("a snapshot");
    assert!(read == merged && read.to_bytes() == bytes);
    let mut again = read.machine().expect("memory");
    assert!(again.equals(&standby));
    again.follow(&third).expect("the next one");
    assert!(again.equals(&machine));
    // Once more, on what was merged; and a machine that went on does not stand there.
    let merged = third.merged(&again).expect("it stands there");
    assert!(merged.id() == third.id() && merged.machine().expect("memory").equals(&machine));
    assert!(again.put(RAM, &[9]));
    assert_eq!(third.merged(&again), Err(SnapshotError::NotNext));
}

#[test]
fn a_machine_goes_back_to_its_last_snapshot_and_to_no_other() {
    let mut machine = mapped();
    machine.load(0, 8).expect("a load");
    let mut mark = machine.save().machine().expect("memory");
    let change = |machine: &mut Machine| {
        machine.store(0x18, 8, 5).expect("a store");
        machine.x[7] = 7;
        machine.flush();
        machine.input(Input::Console(vec![1]));
    };
    change(&mut machine);
    machine.go_back(&mark).expect("the mark stands there");
    assert!(machine.equals(&mark));
    change(&mut machine);
    let changes = machine.save_changes();
    assert_eq!(machine.go_back(&mark), Err(SnapshotError::NotNext));
    mark.follow(&changes).expect("the next one");
    assert!(machine.equals(&mark));
    machine.store(0x4000, 8, 5).expect("a store");
    machine.go_back(&mark).expect("the mark stands there");
    assert!(machine.equals(&mark));
    change(&mut mark);
    assert_eq!(machine.go_back(&mark), Err(SnapshotError::NotNext));
}

/// A whole snapshot, one of changes, and that one merged with the first, as bytes.
static THREE: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let [whole, changes] = two(true);
    let read = |bytes: &[u8]| Snapshot::from_bytes(bytes).expect("a snapshot");
    let mut machine = read(&whole).machine().expect("memory");
    let next = read(&changes);
    machine.follow(&next).expect("the next one");
    let merged = next.merged(&machine).expect("it stands there").to_bytes();
    [whole, changes, merged]
});

/// With all memory open in what is saved, or closed.
fn two(open: bool) -> [Vec<u8>; 2] {
    let mut machine = mapped();
    machine.load(0, 8).expect("a load");
    open_memory(&mut machine, open);
    let whole = machine.save();
    open_memory(&mut machine, true);
    machine.store(0x18, 8, 5).expect("a store");
    machine.ram_write(RAM + 0x2000, 8, 0).expect("in RAM");
    open_memory(&mut machine, open);
    [whole.to_bytes(), machine.save_changes().to_bytes()]
}

#[test]
fn the_bytes_are_a_contract() {
    let digests = two(false).each_ref().map(|bytes| (bytes.len(), xxhash_rust::xxh3::xxh3_64(bytes)));
    assert_eq!(digests, [(16_656, 18_349_323_398_980_987_906), (4_373, 4_386_277_678_393_018_855)]);
    let later = [b"UDRVSNP\0".as_slice(), &[2, 0, 0, 0]].concat();
    assert_eq!(Snapshot::from_bytes(&later), Err(SnapshotError::Version(2)));
    // More RAM than any host has.
    let mut large = Machine::new(0x1000).save();
    large.ram = 1 << 60;
    let read = Snapshot::from_bytes(&large.to_bytes()).expect("a snapshot");
    assert_eq!(read.machine().err(), Some(SnapshotError::Memory));
}

/// Blocks of bytes as a snapshot's, with right checksums.
fn seal(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut all = [b"UDRVSNP\0".as_slice(), &[1, 0, 0, 0]].concat();
    for (number, block) in (0..).zip(blocks) {
        all.extend((block.len() as u32).to_le_bytes());
        all.extend(xxh3_64_with_seed(block, number).to_le_bytes());
        all.extend(block);
    }
    all
}

/// The blocks of a snapshot.
fn blocks(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut blocks) = (&bytes[12..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (block, behind) = behind[8..].split_at(u32::from_le_bytes(*length) as usize);
        blocks.push(block.to_vec());
        rest = behind;
    }
    blocks
}

/// What a reader makes of bytes: nothing, or a machine that can run, and be told of what happens.
fn use_it(bytes: &[u8]) -> bool {
    let Ok(snapshot) = Snapshot::from_bytes(bytes) else { return false };
    assert!(snapshot.to_bytes() == bytes, "a snapshot has one form");
    if snapshot.ram() > 64 << 20 {
        return true;
    }
    let mut machine = match snapshot.base() {
        None => snapshot.machine().expect("memory"),
        Some(_) => {
            let mut machine = Machine::new(snapshot.ram() as usize);
            machine.saved = snapshot.base();
            machine.follow(&snapshot).expect("what was read can be taken");
            machine
        }
    };
    assert!(machine.save().machine().expect("memory").hash() == machine.hash());
    for input in
        [Input::Console(vec![1; 9]), Input::Wall(u64::MAX), Input::Frame { card: 0, frame: vec![5; 60] }]
    {
        machine.input(input);
        machine.run(machine.instructions() + 300);
        machine.hash();
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// A changed or cut snapshot is refused.
    #[test]
    fn what_is_damaged_is_found(which in 0_usize..3, place in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let mut bytes = THREE[which].clone();
        let place = place.index(bytes.len());
        if cut { bytes.truncate(place) } else { bytes[place] ^= 1 << bit }
        prop_assert!(Snapshot::from_bytes(&bytes).is_err());
    }

    /// Bytes with right checksums that say anything: refused, or a machine that can run.
    #[test]
    fn no_state_makes_the_machine_panic(
        which in 0_usize..3,
        changes in prop::collection::vec((0_usize..2, any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut blocks = blocks(&THREE[which]);
        for (block, place, value) in changes {
            let place = place.index(blocks[block].len());
            blocks[block][place] = value;
        }
        use_it(&seal(&blocks));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4)) {
        use_it(&blocks.concat());
        use_it(&seal(&blocks));
    }
}

#[test]
fn what_can_be_read_is_used() {
    assert!(THREE.iter().all(|bytes| use_it(bytes)));
}
