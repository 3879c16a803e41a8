use super::*;
use crate::digest::Digest;
use crate::saved::taker::{Taker, Where};
use crate::saved::tests::setup;
use crate::saved::{Saved, reader};
use crate::setup::Setup;
use crate::world::{Outside, World};
use crate::{Screen, saved::BLOCK};
use rv::{Machine, Output, RAM, Request};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BLOCKS: u64 = 700;

/// A run that is over: its snapshots, its disk as it was when it began and as it is, and what each snapshot has to restore.
struct Run {
    directory: tempfile::TempDir,
    first: Vec<u8>,
    last: Vec<u8>,
    wanted: BTreeMap<u64, Moment>,
}

#[derive(Clone)]
struct Moment {
    state: u64,
    id: u64,
    disk: Vec<u8>,
}

impl Run {
    /// One of nine snapshots, which reboots so that the snapshots of these numbers are whole; each moment writes over what was
    /// written, and where nothing was yet.
    fn new(reboots: &[u64]) -> Run {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk");
        let first: Vec<u8> = (0..BLOCKS).flat_map(|block| vec![block as u8; BLOCK]).collect();
        // The last block is not all on the disk.
        let first = first[..first.len() - 512].to_vec();
        fs::write(&image, &first).unwrap();
        let mut world = World::open(&[(image.clone(), false)], &[], Screen::new(io::sink()), None).unwrap();
        let mut run = Run { directory, first, last: Vec::new(), wanted: BTreeMap::new() };
        let mut setup = Setup { memory: 1 << 16, ..setup() };
        world.describe(&mut setup).unwrap();
        let mut taker = Taker::begin(&run.saved(), None, None, Arc::default()).unwrap();
        world.track();
        let mut machine = Machine::new(1 << 16);
        for number in 1..10 {
            if reboots.contains(&number) {
                machine = Machine::new(1 << 16);
            }
            assert!(machine.put(RAM + number % 3 * 4096, &[number as u8; 5000]));
            let digest = Digest::default();
            let at =
                Where { setup: &setup, before: number, reboots: 0, digest: &digest, entries: Some(number) };
            let write = |world: &mut World, block: u64, value: u8| {
                let request = Request::Write { sector: block * 8, data: vec![value; 512] };
                world.carry_out(&[Output::Disk { disk: 0, number, request }]).unwrap();
            };
            // Those of one snapshot are more than one piece of a file.
            let fresh = if number == 2 { 300..600 } else { 10 * number..10 * number + 3 };
            fresh
                .chain([0, BLOCKS - 1, number / 2])
                .for_each(|block| write(&mut world, block, 100 + number as u8));
            taker
                .take(&mut machine, &at, |all, directory, number| world.changes(all, directory, number))
                .unwrap();
            let (state, disk) = (machine.hash(), fs::read(&image).unwrap());
            run.wanted.insert(number, Moment { state, id: 0, disk });
        }
        taker.finish().unwrap();
        run.last = fs::read(&image).unwrap();
        let ids = run.wanted.keys().map(|&number| Saved::load(&run.place(number)).unwrap().id());
        let ids: Vec<u64> = ids.collect();
        run.wanted.values_mut().zip(ids).for_each(|(moment, id)| moment.id = id);
        run
    }

    /// The same once more, in a directory of its own.
    fn copy(&self) -> Run {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("saved")).unwrap();
        for entry in fs::read_dir(self.saved()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), directory.path().join("saved").join(entry.file_name())).unwrap();
        }
        Run { directory, first: self.first.clone(), last: self.last.clone(), wanted: self.wanted.clone() }
    }

    fn saved(&self) -> PathBuf {
        self.directory.path().join("saved")
    }

    fn place(&self, number: u64) -> PathBuf {
        self.saved().join(named(number, EXTENSION))
    }

    /// Restores everything that is there, and gives the numbers.
    fn check(&self) -> Vec<u64> {
        let there = numbers(&self.saved(), EXTENSION).unwrap();
        for &number in &there {
            let saved = Saved::load(&self.place(number)).unwrap();
            let wanted = &self.wanted[&number];
            assert_eq!((saved.machine.hash(), saved.id()), (wanted.state, wanted.id), "{number}");
            assert_eq!((saved.head().before, saved.head().entries), (number, Some(number)));
            let held = saved.disks().unwrap();
            for image in [&self.first, &self.last] {
                let mut disk = image.clone();
                for (&block, bytes) in &held[0] {
                    let place = block as usize * BLOCK;
                    let end = disk.len().min(place + BLOCK);
                    disk[place..end].copy_from_slice(&bytes[..end - place]);
                }
                assert!(disk == wanted.disk, "the disk at {number}");
            }
        }
        there
    }

    fn steps(&self, keep: usize) -> Vec<Step> {
        steps(&self.saved(), keep.try_into().unwrap()).unwrap()
    }
}

#[test]
fn whatever_is_there_is_restored_wherever_thinning_ends() {
    for reboots in [&[][..], &[4], &[6], &[7]] {
        let over = Run::new(reboots);
        let mut done = 0;
        loop {
            let run = over.copy();
            let steps = run.steps(4);
            for step in &steps[..done] {
                step.carry_out().unwrap();
            }
            if let Some(Step::Merge(chain)) = steps.get(done) {
                fs::write(beside(&chain[0]), "half of it").unwrap();
            }
            let there = run.check();
            assert!(there.ends_with(&[6, 7, 8, 9]), "{there:?} after {done} of {steps:?}");
            if done == steps.len() {
                assert_eq!(there, [6, 7, 8, 9]);
                assert_eq!(numbers(&run.saved(), "before").unwrap(), [6, 7, 8, 9]);
                assert_eq!(fs::read_dir(run.saved()).unwrap().count(), 8);
                break;
            }
            done += 1;
        }
        // The merge (or that the whole one is flushed), the name, five snapshots and what the disks held.
        assert_eq!(done, if reboots == [6] { 11 } else { 12 });
    }
}

#[test]
fn what_was_merged_is_merged_again_and_nothing_is_done_too_early() {
    let run = Run::new(&[3]);
    assert!(run.steps(5).is_empty());
    for (keep, left) in [(4, 6..10), (2, 8..10), (1, 9..10)] {
        thin(&run.saved(), keep.try_into().unwrap()).unwrap();
        assert_eq!(run.check(), left.collect::<Vec<_>>());
        assert!(run.steps(keep).is_empty());
    }
    // What somebody put there is not touched.
    let run = Run::new(&[]);
    fs::write(run.saved().join("7.snapshot"), "mine").unwrap();
    thin(&run.saved(), 4.try_into().unwrap()).unwrap();
    assert_eq!(run.check(), [6, 7, 8, 9]);
}

#[test]
fn one_that_is_removed_while_it_is_read_is_told_of() {
    let run = Run::new(&[]);
    let old = Saved::load(&run.place(5)).unwrap();
    thin(&run.saved(), 4.try_into().unwrap()).unwrap();
    assert!(matches!(old.disks(), Err(SavedError::Missing { .. })));
    let gone = Saved::load(&run.place(5)).unwrap_err();
    assert!(gone.to_string().contains("--keep-snapshots"), "{gone}");
    // Removed by somebody who did not merge it.
    fs::remove_file(run.place(6)).unwrap();
    let broken = Saved::load(&run.place(8)).unwrap_err();
    assert!(broken.to_string().contains("0000006.snapshot, which it is built on, is not there"), "{broken}");
}

#[test]
fn one_that_is_kept_is_read_while_older_ones_are_merged_into_it() {
    let over = Run::new(&[]);
    for _ in 0..10 {
        let run = over.copy();
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while numbers(&run.saved(), EXTENSION).unwrap().len() > 4 {
                    let saved = Saved::load(&run.place(7)).unwrap();
                    assert_eq!(saved.machine.hash(), run.wanted[&7].state);
                    begun.store(true, Ordering::Relaxed);
                }
            });
            while !begun.load(Ordering::Relaxed) && !reader.is_finished() {
                std::thread::yield_now();
            }
            thin(&run.saved(), 4.try_into().unwrap()).unwrap();
        });
        assert_eq!(reader::chain(&run.place(7)).unwrap().len(), 2);
    }
}
