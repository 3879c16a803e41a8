//! Runs that go on from snapshots, and recordings that begin there.

use crate::{Text, begin, type_in};
use rvrun::live::{End, Live, Recorder, Summary};
use rvrun::replay::{Reached, Replay, ReplayError};
use rvrun::saved::{Saved, Taker};
use rvrun::setup::Origin;
use rvrun::{Screen, World};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A recorded session of which snapshots were taken all the time.
fn session(directory: &Path, parts: &[(usize, &str)]) -> (Summary, Vec<PathBuf>) {
    thinned_session(directory, None, parts)
}

/// The same, of which so many of the last snapshots are kept.
fn thinned_session(
    directory: &Path,
    keep: Option<usize>,
    parts: &[(usize, &str)],
) -> (Summary, Vec<PathBuf>) {
    let text = Text::default();
    let (reader, writer) = io::pipe().unwrap();
    let mut live = begin(directory, &text, reader);
    let saved = directory.join("saved");
    let keep = keep.map(|keep| keep.try_into().unwrap());
    let taker = Taker::begin(&saved, Some(Duration::ZERO), keep, Arc::new(AtomicBool::new(false))).unwrap();
    live.take_snapshots(taker);
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| type_in(writer, &text, parts));
        live.run(&AtomicBool::new(false)).unwrap()
    });
    let mut files: Vec<PathBuf> = std::fs::read_dir(&saved)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some("snapshot".as_ref()))
        .collect();
    files.sort();
    (summary, files)
}

/// Replays a recording from each of its snapshots to its end; gives how many were of the first boot, and of the second.
fn replay_from_each(directory: &Path, ended: &Summary, files: &[PathBuf]) -> [u32; 2] {
    let mut boots = [0; 2];
    for path in files {
        let log = File::open(directory.join("log")).unwrap();
        let mut replay = Replay::begin(log, |_| {}, Screen::new(io::sink()), &[]).unwrap();
        let saved = Saved::load(path).unwrap();
        boots[saved.head().reboots as usize] += 1;
        replay.go_to(saved).unwrap();
        let summary = replay.run(None).unwrap();
        assert_eq!(
            (summary.reached, summary.instructions, summary.reboots, summary.state, summary.outputs),
            (Reached::End, ended.instructions, ended.reboots, ended.state, ended.outputs),
            "{path:?}"
        );
    }
    boots
}

#[test]
fn a_replay_begins_at_any_snapshot_and_ends_where_the_run_did() {
    let directory = tempfile::tempdir().unwrap();
    let (ended, files) = session(directory.path(), &[(1, "abc"), (4, "!"), (5, "de"), (7, ".")]);
    assert!(files.len() > 3, "{files:?}");
    let boots = replay_from_each(directory.path(), &ended, &files);
    assert!(boots[0] > 0 && boots[1] > 0, "{boots:?}");
    // Not of another run.
    let other = tempfile::tempdir().unwrap();
    session(other.path(), &[(1, ".")]);
    let log = File::open(other.path().join("log")).unwrap();
    let mut replay = Replay::begin(log, |_| {}, Screen::new(io::sink()), &[]).unwrap();
    assert!(matches!(replay.go_to(Saved::load(&files[3]).unwrap()), Err(ReplayError::Saved(_))));
}

#[test]
fn of_a_run_that_keeps_its_last_snapshots_each_is_restored() {
    let typed: Vec<(usize, &str)> =
        [(1, "a"), (2, "b"), (3, "!")].into_iter().chain((4..12).map(|said| (said, "c"))).collect();
    for keep in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let parts = [&typed[..], &[(12, ".")]].concat();
        let (ended, files) = thinned_session(directory.path(), Some(keep), &parts);
        assert!((keep..2 * keep).contains(&files.len()), "{files:?}");
        assert!(!files[0].ends_with("0000001.snapshot"));
        assert_eq!(replay_from_each(directory.path(), &ended, &files)[0], 0);
        for path in &files {
            assert!(files[0] == *path || path.metadata().unwrap().len() < files[0].metadata().unwrap().len());
        }
    }
}

#[test]
fn a_recording_whose_snapshot_was_removed_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (_, files) = session(directory.path(), &[(1, "a"), (2, ".")]);
    let saved = Saved::load(&files[0]).unwrap();
    let mut setup = saved.head().setup.clone();
    setup.from = Some(Origin { path: files[0].clone(), id: saved.id() });
    let log = directory.path().join("second");
    Recorder::create(&log, &setup.load().unwrap()).unwrap();
    std::fs::remove_file(&files[0]).unwrap();
    let replay = Replay::begin(File::open(&log).unwrap(), |_| {}, Screen::new(io::sink()), &[]);
    let error = replay.err().unwrap().to_string();
    assert!(error.contains("0000001.snapshot, which is not there") && error.contains("--origin"), "{error}");
}

#[test]
fn a_run_goes_on_from_a_snapshot_and_its_recording_begins_there() {
    let directory = tempfile::tempdir().unwrap();
    let (_, files) = session(directory.path(), &[(1, "a"), (2, "b"), (3, "c"), (4, "\u{1}x")]);
    assert!(files.len() > 1, "{files:?}");
    let last = files.last().unwrap();
    let saved = Saved::load(last).unwrap();
    let mut setup = saved.head().setup.clone();
    setup.from = Some(Origin { path: last.clone(), id: saved.id() });
    let text = Text::default();
    let (reader, mut keyboard) = io::pipe().unwrap();
    let mut world = World::open(&[], &[], Screen::new(text.clone()), Some(OwnedFd::from(reader))).unwrap();
    world.restore(&saved).unwrap();
    let parts = setup.load().unwrap();
    let log = directory.path().join("second");
    let recorder = Recorder::create(&log, &parts).unwrap();
    let mut live = Live::begin(parts, world, Some(recorder)).unwrap();
    keyboard.write_all(b"mn!").unwrap();
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !text.seen().contains('#') {
                std::thread::sleep(Duration::from_millis(1));
            }
            keyboard.write_all(b"z.").unwrap();
        });
        live.run(&AtomicBool::new(false)).unwrap()
    });
    // It does not begin anew, but after the reboot.
    let said = text.seen();
    assert_eq!((ended.end, ended.reboots), (End::PowerOff, 1));
    // What was typed just before the snapshot may have been answered just behind it.
    assert!(said.ends_with("no#{") && "bcdno#{".ends_with(&said), "{said}");
    let again = Text::default();
    let mut replay =
        Replay::begin(File::open(&log).unwrap(), |_| {}, Screen::new(again.clone()), &[]).unwrap();
    let summary = replay.run(None).unwrap();
    assert_eq!((summary.reached, summary.state, summary.outputs), (Reached::End, ended.state, ended.outputs));
    assert_eq!(again.seen(), said);
    // The snapshot may be somewhere else, but it is this one.
    let replay = |path: &Path| {
        let elsewhere = |setup: &mut rvrun::setup::Setup| setup.from.as_mut().unwrap().path = path.to_owned();
        Replay::begin(File::open(&log).unwrap(), elsewhere, Screen::new(io::sink()), &[]).is_ok()
    };
    assert!(replay(last) && !replay(&files[0]));
}
