//! Recordings gone through in both directions, and live machines that a debugger stops.

use crate::guest::{EAGER, FIRST, NOTE, Session, Text, begin, session, type_in};
use rv::{Stops, Watch};
use rvrun::Screen;
use rvrun::debug::{LiveSubject, Subject, Timeline, Way, Why};
use rvrun::live::End;
use rvrun::replay::{Reached, Replay};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What is stopped at: the first instruction, and the `wfi` before which each wait begins.
const WAIT: u64 = FIRST + 4 * (13 + 7);

pub fn timeline(session: &Session, distance: u64, room: usize) -> Timeline<File> {
    let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(io::sink()), &[]).unwrap();
    replay.set_hotness(EAGER);
    Timeline::with_moments(replay, distance, room).unwrap()
}

fn breakpoints(addresses: &[u64]) -> Stops {
    Stops { breakpoints: addresses.iter().copied().collect(), watches: Vec::new() }
}

fn watch(loads: bool, stores: bool) -> Stops {
    Stops { watches: vec![Watch { address: NOTE, length: 8, loads, stores }], ..Stops::default() }
}

/// Program counter, note and hash at each position of a recording, by going on one instruction at a time.
fn every_state(session: &Session) -> Vec<(u64, u64, u64)> {
    let mut timeline = timeline(session, u64::MAX, 0);
    let mut states = Vec::new();
    loop {
        states.push(state(&timeline));
        if timeline.go(Way::Step, &mut || false).unwrap() != Why::Stepped {
            return states;
        }
    }
}

fn state(timeline: &Timeline<File>) -> (u64, u64, u64) {
    let machine = timeline.machine();
    let mut note = [0; 8];
    machine.peek(NOTE, &mut note);
    (machine.x(32), u64::from_le_bytes(note), machine.hash())
}

fn recorded() -> (Session, Vec<(u64, u64, u64)>) {
    let session = session(&[(1, "a"), (2, "!"), (3, "bc"), (5, "z"), (6, ".")]);
    let states = every_state(&session);
    assert_eq!(states.len() as u64, session.summary.instructions + 1, "{}", session.text.seen());
    assert!(states.len() > 100);
    (session, states)
}

#[test]
fn a_step_back_leads_to_the_state_that_was() {
    let (session, states) = recorded();
    // Many moments; one alone; room for hardly any.
    for (distance, room) in [(17, 1 << 30), (u64::MAX, 1 << 30), (5, 5 << 20)] {
        let mut timeline = timeline(&session, distance, room);
        assert_eq!(timeline.go(Way::On, &mut || false).unwrap(), Why::End);
        for (position, expected) in states.iter().enumerate().rev().skip(1) {
            assert_eq!(timeline.go(Way::StepBack, &mut || false).unwrap(), Why::Stepped);
            assert_eq!(timeline.position(), position as u64);
            assert_eq!(state(&timeline), *expected, "at {position}");
        }
        assert_eq!(timeline.go(Way::StepBack, &mut || false).unwrap(), Why::Begin);
        // And all of it once more; what was recorded is compared again.
        assert_eq!(timeline.finish().unwrap().state, session.summary.state);
    }
}

#[test]
fn going_back_stops_where_going_on_did() {
    let (session, states) = recorded();
    let stops = [FIRST, WAIT];
    let expected: Vec<u64> =
        (0..).zip(&states).filter(|(_, state)| stops.contains(&state.0)).map(|(at, _)| at).collect();
    assert!(expected.len() > 6 && expected[0] == 1, "{expected:?}");
    for distance in [7, 64, u64::MAX] {
        let mut timeline = timeline(&session, distance, 1 << 30);
        timeline.set_stops(&breakpoints(&stops));
        let mut on = Vec::new();
        while timeline.go(Way::On, &mut || false).unwrap() == Why::Breakpoint {
            on.push(timeline.position());
        }
        assert_eq!(on, expected);
        let mut back = Vec::new();
        while timeline.go(Way::Back, &mut || false).unwrap() == Why::Breakpoint {
            back.push(timeline.position());
            assert_eq!(state(&timeline), states[timeline.position() as usize]);
        }
        back.reverse();
        assert_eq!(back, expected);
        assert_eq!(timeline.position(), 0);
    }
}

#[test]
fn a_watch_stops_behind_a_store_and_going_back_before_it() {
    let (session, states) = recorded();
    let changes: Vec<u64> =
        (1..).zip(states.windows(2)).filter(|(_, pair)| pair[0].1 != pair[1].1).map(|(at, _)| at).collect();
    // The second boot begins with empty memory.
    assert_eq!(changes.len(), 5, "four bytes and a reboot: {changes:?}");
    let mut timeline = timeline(&session, 50, 1 << 30);
    timeline.set_stops(&watch(false, true));
    let mut on = Vec::new();
    while let Why::Watched(_) = timeline.go(Way::On, &mut || false).unwrap() {
        on.push(timeline.position());
    }
    assert!(on.len() == 4 && on.iter().all(|at| changes.contains(at)), "{on:?} {changes:?}");
    let mut back = Vec::new();
    while let Why::Watched(_) = timeline.go(Way::Back, &mut || false).unwrap() {
        back.push(timeline.position() + 1);
    }
    back.reverse();
    assert_eq!(back, on);
    timeline.set_stops(&watch(true, false));
    assert_eq!(timeline.go(Way::On, &mut || false).unwrap(), Why::End, "nobody reads it");
}

#[test]
fn a_live_machine_that_was_stopped_again_and_again_is_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let text = Text::default();
    let (reader, writer) = io::pipe().unwrap();
    let live = begin(directory.path(), &text, reader);
    let (debugger, _silent) = io::pipe().unwrap();
    let mut subject = LiveSubject::new(live, debugger.into(), Arc::new(AtomicBool::new(false)));
    let mut stopped = 0;
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| type_in(writer, &text, &[(1, "abc"), (4, "!"), (5, "xyz"), (8, ".")]));
        subject.set_stops(&Stops { breakpoints: [FIRST, WAIT].into(), ..watch(true, true) });
        while subject.go(Way::On, &mut || false).unwrap() != Why::Over {
            stopped += 1;
            assert_eq!(subject.go(Way::Step, &mut || false).unwrap(), Why::Stepped);
        }
        subject.finish().unwrap()
    });
    assert!(stopped > 10, "{stopped}");
    assert_eq!((summary.end, text.seen().as_str()), (End::PowerOff, "#bcd#yz{"));
    let log = File::open(directory.path().join("log")).unwrap();
    let mut replay = Replay::begin(log, |_| {}, Screen::new(io::sink()), &[]).unwrap();
    let again = replay.run(None).unwrap();
    assert_eq!((again.reached, again.state), (Reached::End, summary.state));
}
