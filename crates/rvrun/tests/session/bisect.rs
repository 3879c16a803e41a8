//! Where two recordings differ is found to the instruction.

use crate::session;
use rv::Input;
use rvrun::bisect::{Difference, Verdict, What, bisect};
use rvrun::log::{Event, Reader, Writer};
use rvrun::setup::Setup;

/// The entries of a recording that has no reboots, and its setup.
fn entries(log: &[u8]) -> (Setup, Vec<(u64, Event)>) {
    let mut reader = Reader::open(log).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        entries.push(entry);
    }
    (reader.setup().clone(), entries)
}

fn written(setup: &Setup, entries: &[(u64, Event)]) -> Vec<u8> {
    let mut log = Vec::new();
    let mut writer = Writer::begin(&mut log, setup).unwrap();
    for (at, event) in entries {
        writer.add(*at, event.clone()).unwrap();
    }
    writer.flush().unwrap();
    log
}

fn is_typed(event: &Event, text: &[u8]) -> bool {
    matches!(event, Event::Input(Input::Console(bytes)) if bytes == text)
}

#[test]
fn an_input_that_comes_one_instruction_later_is_found() {
    let session = session(&[(1, "a"), (2, "b"), (3, "c"), (4, ".")]);
    let log = std::fs::read(session.log()).unwrap();
    let (setup, entries) = entries(&log);
    let place = entries.iter().position(|(_, event)| is_typed(event, b"b")).unwrap();
    let at = entries[place].0;
    let mut shifted = entries.clone();
    let (_, event) = shifted.remove(place);
    let later = shifted.iter().position(|(other, _)| *other > at).unwrap();
    shifted.insert(later, (at + 1, event));
    let verdict = bisect([&log[..], &written(&setup, &shifted)[..]], |_| {}, false).unwrap();
    let Verdict::Differs(found) = verdict else { panic!("{verdict:?}") };
    assert_eq!((found.what, found.instructions, found.reboots), (What::Inputs, at, 0));
    let [one, two] = &found.inputs;
    let typed = Input::Console(b"b".to_vec());
    assert!(one.contains(&typed) && !two.contains(&typed), "{found:?}");
    assert_eq!(found.pc[0], found.pc[1]);
    assert!(found.instruction[0].is_some() && found.instruction[0] == found.instruction[1]);
    assert_eq!(found.differences, [Difference::Part { name: "the serial port" }]);
}

#[test]
fn runs_that_are_the_same_are_so_over_reboots_however_they_are_carried_out() {
    let session = session(&[(1, "a"), (2, "!"), (3, "bc"), (5, ".")]);
    let log = std::fs::read(session.log()).unwrap();
    let instructions = session.summary.instructions;
    for plainly in [false, true] {
        let verdict = bisect([&log[..], &log[..]], |_| {}, plainly).unwrap();
        assert_eq!(verdict, Verdict::Same { instructions, longer: [false; 2] });
    }
    // One that breaks off is the same as far as it goes.
    let cut = &log[..log.len() - 20];
    let Verdict::Same { instructions: less, longer } = bisect([&log[..], cut], |_| {}, false).unwrap() else {
        panic!("they differ");
    };
    assert!(less <= instructions && !longer[1]);
}

#[test]
fn another_input_after_a_reboot_is_found_where_it_is_delivered() {
    let session = session(&[(1, "!"), (2, "xy"), (4, ".")]);
    let log = std::fs::read(session.log()).unwrap();
    let mut reader = Reader::open(&log[..]).unwrap();
    let mut changed = Vec::new();
    let mut writer = Writer::begin(&mut changed, reader.setup()).unwrap();
    let (mut before, mut place) = (0, 0);
    while let Some((at, mut event)) = reader.next().unwrap() {
        match &mut event {
            Event::Input(Input::Console(bytes)) if bytes.starts_with(b"x") => {
                bytes[0] = b'q';
                place = before + at;
            }
            Event::Restart => before += at,
            _ => {}
        }
        writer.add(at, event).unwrap();
    }
    writer.flush().unwrap();
    let verdict = bisect([&log[..], &changed[..]], |_| {}, true).unwrap();
    let Verdict::Differs(found) = verdict else { panic!("{verdict:?}") };
    assert_eq!((found.what, found.instructions, found.reboots), (What::Inputs, place, 1));
}

#[test]
fn another_machine_differs_at_the_beginning() {
    let session = session(&[(1, ".")]);
    let log = std::fs::read(session.log()).unwrap();
    let (mut setup, entries) = entries(&log);
    setup.command_line = "other".to_owned();
    let verdict = bisect([&log[..], &written(&setup, &entries)[..]], |_| {}, false).unwrap();
    let Verdict::Differs(found) = verdict else { panic!("{verdict:?}") };
    assert_eq!((found.what, found.instructions), (What::Beginning, 0));
    assert!(found.differences.iter().any(|difference| matches!(difference, Difference::Memory { .. })));
}
