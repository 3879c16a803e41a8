use super::*;
use crate::setup::{FileId, Setup};
use proptest::prelude::*;
use rv::Answer;

fn setup() -> Setup {
    Setup {
        memory: 1 << 28,
        command_line: "quiet".into(),
        kernel: FileId { path: "/k".into(), length: 5, digest: 6 },
        initrd: None,
        disks: vec![(64, false)],
        cards: vec![[2, 0, 0, 0, 0, 1]],
        seed: vec![1, 2],
        from: None,
        firmware: None,
        terminal: false,
    }
}

fn write(entries: &[(u64, Event)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::begin(&mut bytes, &setup()).unwrap();
    let mut at = 0;
    for (index, (after, event)) in entries.iter().enumerate() {
        at += after;
        writer.add(at, event.clone()).unwrap();
        if *event == Event::Restart {
            at = 0;
        }
        if index % 3 == 2 {
            writer.flush().unwrap();
        }
    }
    writer.flush().unwrap();
    bytes
}

/// Everything up to the end, or the first error.
fn read(bytes: &[u8]) -> Result<Vec<(u64, Event)>, LogError> {
    let mut reader = Reader::open(bytes)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    prop_oneof![
        bytes.clone().prop_map(|bytes| Event::Input(Input::Console(bytes))),
        bytes.clone().prop_map(|frame| Event::Input(Input::Frame { card: 1, frame })),
        (any::<u64>(), bytes).prop_map(|(number, data)| {
            Event::Input(Input::Disk { disk: 0, number, answer: Answer::Data(data) })
        }),
        any::<u64>().prop_map(|clock| Event::Input(Input::Waited(clock))),
        any::<u64>().prop_map(Event::Outputs),
        any::<u64>().prop_map(Event::State),
        Just(Event::Restart),
    ]
}

fn entries() -> impl Strategy<Value = Vec<(u64, Event)>> {
    prop::collection::vec((0_u64..1 << 40, event()), 0..20)
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in entries()) {
        let mut at = 0;
        let expected: Vec<(u64, Event)> = entries.iter().map(|(after, event)| {
            let here = at + after;
            at = if *event == Event::Restart { 0 } else { here };
            (here, event.clone())
        }).collect();
        prop_assert_eq!(read(&write(&entries)).unwrap(), expected);
    }

    /// A log cut anywhere is a log that ends earlier: what was written before is there.
    #[test]
    fn a_log_cut_short_ends_earlier(entries in entries(), cut in any::<prop::sample::Index>()) {
        let whole = write(&entries);
        let all = read(&whole).unwrap();
        match read(&whole[..cut.index(whole.len())]) {
            Ok(some) => prop_assert_eq!(&some[..], &all[..some.len()]),
            Err(error) => prop_assert!(matches!(error, LogError::NotALog), "{}", error),
        }
    }

    /// A changed byte is found, unless it only makes the log shorter.
    #[test]
    fn a_changed_log_tells_nothing_false(entries in entries(), place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let whole = write(&entries);
        let all = read(&whole).unwrap();
        let mut changed = whole;
        let place = place.index(changed.len());
        changed[place] ^= 1_u8 << bit;
        if let Ok(some) = read(&changed) {
            prop_assert_eq!(&some[..], &all[..some.len()]);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), sealed in any::<bool>()) {
        let _ = read(&bytes);
        let mut log = write(&[]);
        if sealed && !bytes.is_empty() {
            log.extend((bytes.len() as u32).to_le_bytes());
            log.extend(checksum(1, &bytes).to_le_bytes());
        }
        log.extend(&bytes);
        let _ = read(&log);
    }
}

#[test]
fn the_bytes_are_a_contract() {
    let log = write(&[
        (300, Event::Input(Input::Frame { card: 0, frame: vec![9, 8] })),
        (0, Event::Input(Input::Waited(5))),
        (1, Event::Outputs(7)),
        (0, Event::End),
    ]);
    let setup = [
        &b"\x80\x80\x80\x80\x01\x05quiet\x02/k\x05\x06\x00\x00\x00\x01\x40\x00\x01"[..],
        &[2, 0, 0, 0, 0, 1, 2, 1, 2, 0],
    ]
    .concat();
    let blocks: [&[u8]; 3] = [&setup, &[0xac, 2, 0, 4, 0, 2, 9, 8, 0, 0, 2, 5, 1, 1, 7], &[0, 4]];
    let mut golden = b"UDRVLOG\0\x02\0\0\0".to_vec();
    for (number, block) in (0..).zip(blocks) {
        golden.extend((block.len() as u32).to_le_bytes());
        golden.extend(checksum(number, block).to_le_bytes());
        golden.extend(block);
    }
    assert_eq!(log, golden);
    assert!(matches!(read(b"UDRVLOG\0\x03\0\0\0"), Err(LogError::Version(3))));
}
