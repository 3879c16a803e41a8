//! Programs by chance, saved and restored wherever: nothing that follows may differ, to the last byte of the snapshots.

use crate::draw::Draw;
use crate::layout::*;
use crate::{Program, program};
use rv::{Machine, Snapshot};

/// A machine made of the bytes of another one.
fn restored(machine: &Machine, plain: bool) -> Machine {
    let whole = machine.clone().save();
    let read = Snapshot::from_bytes(&whole.to_bytes()).expect("what was written");
    assert!(read == whole);
    let mut machine = read.machine().expect("memory");
    if plain {
        machine.run_plainly();
    }
    machine
}

fn begin(program: &Program) -> Machine {
    let mut machine = Machine::new(SIZE);
    assert!(machine.put(RAM, &program.ram));
    machine
}

/// The pages in which two memories differ.
fn differing(before: &[u8], after: &[u8]) -> Vec<usize> {
    let pages = before.chunks(0x1000).zip(after.chunks(0x1000)).enumerate();
    pages.filter(|(_, (before, after))| before != after).map(|(page, _)| page).collect()
}

#[test]
fn a_run_that_is_saved_and_restored_is_the_run_that_it_was() {
    for seed in 1000..1003 {
        let program = program(seed);
        // Never saved; saved, and its changes followed by a standby; brought back each time from a snapshot of the standby.
        let (mut never, mut saved, mut back) = (begin(&program), begin(&program), begin(&program));
        let mut plain = begin(&program);
        plain.run_plainly();
        let first = saved.save();
        let mut standby = first.machine().expect("memory");
        plain.save();
        let mut draw = Draw::new(seed);
        while saved.x(32) != program.end && saved.instructions() < 1 << 26 {
            let before = saved.ram().to_vec();
            let until = saved.instructions() + 1 + u64::from(draw.below(200_000));
            for machine in [&mut never, &mut saved, &mut back, &mut plain] {
                machine.run(until);
            }
            let snapshot = saved.save_changes();
            let (hash, what) = (never.hash(), format!("seed {seed}, before {until}"));
            assert_eq!((hash, hash), (saved.hash(), back.hash()), "{what}");
            assert!(snapshot == plain.save_changes(), "the pages are those that were written, {what}");
            let told = Snapshot::from_bytes(&snapshot.to_bytes()).expect("what was written");
            assert!(told == snapshot);
            for page in differing(&before, saved.ram()) {
                assert!(told.pages().contains(&(page as u32)), "page {page} was written, {what}");
            }
            standby.follow(&told).expect("the next one");
            assert_eq!((standby.hash(), standby.x(32)), (hash, saved.x(32)), "{what}");
            back = restored(&standby, draw.once_in(3));
        }
    }
}
