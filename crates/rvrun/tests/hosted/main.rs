//! Machines that a host stops, looks into and lets go on, with small guests.

#![forbid(unsafe_code)]

mod assemble;
mod bench;
mod copied;
mod guest;

use bench::{Bench, Disk, Peer, RAM, await_peer, parts};
use guest::{DATA_AT, LONGEST, busy, clock, echo};
use rvrun::WorldError;
use rvrun::hosted::{Hosted, HostedError, PAGE, Told, Wires};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The frame of this number: of another length than the one before, and filled.
fn frame(number: usize) -> Vec<u8> {
    let mut frame = vec![number as u8; 60 + number * 37 % (LONGEST - 60)];
    frame[..8].copy_from_slice(&(number as u64).to_be_bytes());
    frame
}

/// The byte that is typed at this number: not one with a meaning, and so that its answer is none.
fn typed(number: usize) -> u8 {
    b'a' + (number % 24) as u8
}

/// Sends frames and types until it is enough, never more at once than the card has room for, and takes what comes back; how
/// many frames and bytes that were.
fn converse(peer: &Mutex<Peer>, enough: &AtomicBool) -> usize {
    const WINDOW: usize = 64;
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        await_peer(peer, |peer| peer.frames.len() + WINDOW > count);
        let peer = peer.lock().unwrap();
        peer.send(&frame(count));
        peer.type_in(&[typed(count)]);
        count += 1;
    }
    await_peer(peer, |peer| peer.frames.len() >= count && peer.said.len() > count);
    count
}

/// That everything came back, once and in order.
fn check(frames: &[Vec<u8>], said: &[u8], count: usize) {
    assert_eq!(said[0], b'#');
    let expected: Vec<u8> = (0..count).map(|number| typed(number) + 1).collect();
    assert_eq!(String::from_utf8_lossy(&said[1..]), String::from_utf8_lossy(&expected));
    for (number, came) in frames.iter().enumerate() {
        assert_eq!(*came, frame(number), "frame {number}");
    }
}

#[test]
fn stopped_all_the_time_it_loses_nothing_doubles_nothing_and_keeps_the_order() {
    let bench = Bench::start(&echo());
    let enough = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let conversation = scope.spawn(|| converse(&bench.peer, &enough));
        for _ in 0..500 {
            // The other thread reads its frames meanwhile.
            bench.machine.stop().unwrap();
            assert!(!bench.machine.runs());
            {
                let mut peer = bench.peer.lock().unwrap();
                peer.hear();
                peer.receive();
                // Every frame that left is whole, or this would not be where the next one begins.
                peer.begin_anew();
                let state = bench.machine.state().unwrap();
                std::thread::yield_now();
                assert!(!peer.receive() && !peer.hear(), "something left although it stands");
                assert!(bench.machine.state().unwrap() == state, "something changed although it stands");
            }
            bench.machine.cont().unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        enough.store(true, Ordering::Relaxed);
        conversation.join().unwrap()
    });
    let peer = bench.peer.lock().unwrap();
    assert_eq!(peer.frames.len(), count);
    check(&peer.frames, &peer.said, count);
}

#[test]
fn a_guest_that_waits_goes_on_waiting_where_it_was_however_often_it_is_stopped() {
    let bench = Bench::start(&clock());
    // A wait lasts 20 ms or more, and it is stopped each millisecond.
    for _ in 0..20_000 {
        std::thread::sleep(Duration::from_millis(1));
        bench.machine.stop().unwrap();
        bench.machine.cont().unwrap();
        let mut peer = bench.peer.lock().unwrap();
        peer.hear();
        if peer.said.len() > 5 {
            return;
        }
    }
    panic!("its timer is never due");
}

#[test]
fn one_that_never_waits_is_stopped_and_looked_into_all_the_same() {
    let bench = Bench::start(&busy());
    let page = ((DATA_AT - rv::RAM) / PAGE as u64) as u32;
    let read = || {
        let mut bytes = [0; PAGE];
        bench.machine.copy_out(&[page], &mut bytes).unwrap();
        let at = DATA_AT as usize % PAGE;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    let mut last = 0;
    for _ in 0..300 {
        // While it runs.
        let (before, mut pages) = (read(), Vec::new());
        assert!(before >= last);
        while read() == before {}
        bench.machine.take_dirty(&mut pages);
        assert!(pages.contains(&page));
        bench.machine.stop().unwrap();
        last = read();
        let (hash, mut none) = (bench.machine.hash().unwrap(), Vec::new());
        bench.machine.take_dirty(&mut none);
        none.clear();
        bench.machine.take_dirty(&mut none);
        assert_eq!((read(), bench.machine.hash().unwrap(), none.len()), (last, hash, 0));
        bench.machine.cont().unwrap();
    }
}

#[test]
fn what_the_guest_does_to_itself_is_told() {
    let bench = Bench::start(&echo());
    bench.await_said(b"#");
    bench.machine.take_dirty(&mut Vec::new());
    bench.peer.lock().unwrap().type_in(b"!");
    assert_eq!(bench.told.recv(), Ok(Told::Reboot));
    let mut pages = Vec::new();
    bench.machine.take_dirty(&mut pages);
    assert_eq!(pages.len() as u64, RAM / PAGE as u64, "all pages may be other ones");
    bench.await_said(b"##");
    assert!(bench.machine.runs() && !bench.machine.is_off());
    bench.peer.lock().unwrap().type_in(b"a.b");
    assert_eq!(bench.told.recv(), Ok(Told::PowerOff));
    bench.await_said(b"##b");
    for _ in 0..2 {
        assert!(bench.machine.is_off() && !bench.machine.runs());
        bench.machine.stop().unwrap();
        bench.machine.cont().unwrap();
    }
    // Off it is elsewhere too.
    let standby = bench.standby();
    bench.machine.stop().unwrap();
    standby.machine.load(&bench.machine.state().unwrap()).unwrap();
    assert!(!standby.machine.is_off());
    standby.machine.cont().unwrap();
    assert_eq!(standby.told.recv(), Ok(Told::PowerOff));
    bench.machine.end();
    assert!(bench.told.recv().is_err(), "its end was wanted");
}

#[test]
fn an_end_that_is_gone_ends_the_machine() {
    let bench = Bench::start(&echo());
    bench.await_said(b"#");
    bench.peer.lock().unwrap().hang_up();
    let Ok(Told::Failed(why)) = bench.told.recv() else { panic!("not told") };
    assert!(why.contains("network card 0 was closed"), "{why}");
    for failed in [bench.machine.stop(), bench.machine.cont(), bench.machine.state().map(drop)] {
        assert!(matches!(failed, Err(HostedError::Ended(said)) if said == why));
    }
    assert!(!bench.machine.runs());
    bench.machine.end();
    assert!(bench.told.recv().is_err(), "told once");
}

#[test]
fn what_does_not_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let make = |nics: usize, disks: usize| {
        let (peer, console, card) = Peer::new();
        let nics = [card].into_iter().take(nics).collect();
        let disks = (0..disks).map(|_| Box::new(Disk::new()) as _).collect();
        let wires = Wires { console, nics, disks };
        Hosted::start(parts(&echo(), &directory), wires, Box::new(drop)).map(|machine| (machine, peer))
    };
    for made in [make(0, 1), make(1, 0)] {
        assert!(matches!(made, Err(HostedError::World(WorldError::Number { has: 1, given: 0, .. }))));
    }
    let (machine, _peer) = make(1, 1).unwrap();
    assert_eq!(machine.ram_bytes(), RAM);
    let beyond = (RAM / PAGE as u64) as u32;
    assert!(matches!(machine.zero(beyond, 1), Err(HostedError::Page { .. })));
    assert!(matches!(machine.copy_out(&[0, beyond], &mut [0; 2 * PAGE]), Err(HostedError::Page { .. })));
    assert!(matches!(machine.load(b"\x01state"), Err(HostedError::State(_))));
    machine.cont().unwrap();
    assert!(matches!(machine.state(), Err(HostedError::Runs)));
    assert!(matches!(machine.copy_in(0, &[0; PAGE]), Err(HostedError::Runs)));
}
