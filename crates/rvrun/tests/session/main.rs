//! Sessions of a small guest, recorded, replayed and debugged.

#![forbid(unsafe_code)]

mod bisect;
mod debug;
mod fixture;
mod guest;
mod snapshots;
mod wire;

use guest::{EAGER, Text, begin, kernel, session, session_with, type_in};
use rvrun::live::{End, Summary};
use rvrun::log::{Event, Reader, Writer};
use rvrun::replay::{Reached, Replay, ReplayError};
use rvrun::{Screen, World};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

#[test]
fn what_was_typed_is_done_again() {
    let session = session(&[(1, "a"), (2, "bcd"), (5, "!"), (6, "xy"), (8, ".")]);
    assert_eq!((session.summary.end, session.summary.reboots), (End::PowerOff, 1));
    assert_eq!(session.text.seen(), "#bcde#yz");
    let again = Text::default();
    let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(again.clone()), &[]).unwrap();
    let summary = replay.run(None).unwrap();
    assert_eq!(again.seen(), "#bcde#yz");
    assert_eq!(summary.reached, Reached::End);
    assert!(summary.compared >= 3, "{summary:?}");
    let Summary { instructions, reboots, state, outputs, .. } = session.summary;
    assert_eq!(
        (summary.instructions, summary.reboots, summary.state, summary.outputs),
        (instructions, reboots, state, outputs)
    );
}

#[test]
fn what_was_recorded_compiled_is_replayed_interpreted_and_the_other_way_round() {
    for (recorded, replayed) in [(EAGER, None), (None, EAGER)] {
        let typed = [(1, "abc"), (4, "!"), (5, "defghi"), (11, ".")];
        let session = session_with(&kernel(), recorded, &typed);
        let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(io::sink()), &[]).unwrap();
        replay.set_hotness(replayed);
        let summary = replay.run(None).unwrap();
        assert_eq!((summary.reached, summary.state), (Reached::End, session.summary.state));
    }
}

#[test]
fn a_replay_stops_where_it_is_asked_to_and_at_a_log_s_break() {
    let session = session(&[(1, "abc"), (4, "def"), (7, ".")]);
    let half = session.summary.instructions / 2;
    let replay = |log: &[u8], until| {
        Replay::begin(log, |_| {}, Screen::new(io::sink()), &[]).unwrap().run(until).unwrap()
    };
    let log = std::fs::read(session.log()).unwrap();
    let [one, two] = [replay(&log, Some(half)), replay(&log, Some(half))];
    assert_eq!((one, one.reached, one.instructions), (two, Reached::Until, half));
    let broken = replay(&log[..log.len() - 1], None);
    assert_eq!(broken.reached, Reached::BrokenOff);
    assert!(broken.instructions <= session.summary.instructions);
}

#[test]
fn an_input_that_differs_is_found() {
    let session = session(&[(1, "abc"), (4, ".")]);
    let mut reader = Reader::open(session.open()).unwrap();
    let mut changed = Vec::new();
    let mut writer = Writer::begin(&mut changed, reader.setup()).unwrap();
    while let Some((at, mut event)) = reader.next().unwrap() {
        if let Event::Input(rv::Input::Console(bytes)) = &mut event
            && bytes.starts_with(b"a")
        {
            bytes[0] = b'q';
        }
        writer.add(at, event).unwrap();
    }
    writer.flush().unwrap();
    let mut replay = Replay::begin(&changed[..], |_| {}, Screen::new(io::sink()), &[]).unwrap();
    assert!(matches!(replay.run(None), Err(ReplayError::Differs { boot: 1, .. })));
}

#[test]
fn a_replay_goes_on_live() {
    let session = session(&[(1, "abc"), (4, "\u{1}x")]);
    assert_eq!(session.summary.end, End::Quit);
    let text = Text::default();
    let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(text.clone()), &[]).unwrap();
    replay.run(None).unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let mut live =
        replay.go_live(|screen| Ok(World::open(&[], &[], screen, Some(OwnedFd::from(reader)))?)).unwrap();
    writer.write_all(b"mno.").unwrap();
    let summary = live.run(&AtomicBool::new(false)).unwrap();
    assert_eq!((summary.end, text.seen().as_str()), (End::PowerOff, "#bcdnop"));
    assert!(summary.instructions > session.summary.instructions);
}
