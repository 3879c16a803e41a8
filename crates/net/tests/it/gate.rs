//! The gate's bounds, its ports' deaths, its input, and its threads under load.

use crate::bench::{PATIENCE, console, frame, framed, nic};
use crossbeam_channel::Receiver;
use net::framing::FramingError;
use net::{ConsoleLog, Gate, GateError, GateEvent, GateLimits, PortConfig, PortFailure, Side};
use protocol::Epoch;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn a_full_gate_drops_the_newest_and_counts_it() {
    for limits in [
        GateLimits { max_frames: 3, ..GateLimits::default() },
        GateLimits { max_bytes: 3 * frame(&[0; 50]).len() + 10, ..GateLimits::default() },
    ] {
        let (port, mut nic) = nic("net0");
        let (gate, _events) = Gate::spawn("full", vec![port], limits).unwrap();
        for n in 0..5 {
            nic.guest_sends(&frame(&[n; 50]));
        }
        assert_eq!(gate.cut(Epoch(1)).unwrap().frames, 3);
        let stats = gate.stats();
        assert_eq!((stats.queued_frames, stats.high_water_frames, stats.ports[0].dropped_full), (3, 3, 2));
        assert!(stats.oldest_waiting_us.is_some());
        gate.release(Epoch(1)).unwrap();
        assert_eq!(nic.world_has(), [frame(&[0; 50]), frame(&[1; 50]), frame(&[2; 50])]);
        nic.guest_sends(&frame(&[9; 50]));
        gate.cut(Epoch(2)).unwrap();
        gate.release(Epoch(2)).unwrap();
        assert_eq!(nic.world_has(), [frame(&[9; 50])], "there is room again");
        let stats = gate.stats();
        assert_eq!((stats.queued_frames, stats.queued_bytes, stats.hold_us.count), (0, 0, 4));
        assert_eq!((stats.ports[0].frames_out, stats.ports[0].frames_from_guest), (4, 6));
        assert_eq!((stats.last_cut, stats.last_released), (Some(Epoch(2)), Some(Epoch(2))));
    }
}

/// The next event that is not of output that waits.
fn next_death(events: &Receiver<GateEvent>) -> GateEvent {
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            GateEvent::OutputWaits { .. } => {}
            death => return death,
        }
    }
}

#[test]
fn the_first_frame_of_each_epoch_that_waits_is_told() {
    let (port, mut nic) = nic("net0");
    let (gate, events) = Gate::spawn("waits", vec![port], GateLimits::default()).unwrap();
    let waits = || match events.recv_timeout(PATIENCE).unwrap() {
        GateEvent::OutputWaits { epoch, since_us } if since_us <= os::clock::now_us() => epoch,
        other => panic!("{other:?}"),
    };
    nic.guest_sends(&frame(b"one"));
    assert_eq!(waits(), Epoch(1));
    nic.guest_sends(&frame(b"two"));
    gate.cut(Epoch(4)).unwrap();
    assert!(events.try_recv().is_err(), "once, and a cut tells of nothing that it closes");
    nic.guest_sends(&frame(b"three"));
    assert_eq!(waits(), Epoch(5));
    gate.open().unwrap();
    nic.guest_sends(&frame(b"passes"));
    while nic.world_gets() != Some(frame(b"passes")) {}
    assert!(events.try_recv().is_err(), "nothing waits");
}

#[test]
fn nonsense_on_qemus_socket_closes_the_port_but_not_its_committed_output() {
    let (port, mut nic) = nic("net0");
    let limits = GateLimits { max_frame_len: 1514, ..GateLimits::default() };
    let (gate, events) = Gate::spawn("nonsense", vec![port], limits).unwrap();
    nic.guest_sends(&frame(b"good"));
    nic.guest.write_all(&1515u32.to_be_bytes()).unwrap();
    let reason = PortFailure::Framing(FramingError { length: 1515, limit: 1514 });
    let closed = GateEvent::PortClosed { port: "net0".into(), side: Side::Guest, reason };
    assert_eq!(next_death(&events), closed);
    assert_eq!(nic.guest.read(&mut [0; 1]).unwrap(), 0, "QEMU sees its socket closed");
    assert!(!gate.stats().ports[0].guest_alive);
    assert_eq!(gate.cut(Epoch(1)).unwrap().frames, 1);
    gate.release(Epoch(1)).unwrap();
    assert_eq!(nic.world_has(), [frame(b"good")]);
}

#[test]
fn frames_that_are_no_ethernet_are_dropped_and_harm_nothing() {
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("runts", vec![port], GateLimits::default()).unwrap();
    for runt in [&b""[..], &[1], &[1; 13]] {
        nic.guest_sends(runt);
    }
    nic.guest_sends(&frame(b"good"));
    assert_eq!(gate.cut(Epoch(1)).unwrap().frames, 1);
    gate.release(Epoch(1)).unwrap();
    assert_eq!(nic.world_has(), [frame(b"good")]);
    assert_eq!(gate.stats().ports[0].dropped_refused, 3);
}

#[test]
fn the_death_of_qemu_is_an_event_and_its_name_is_free_again() {
    let (port, old) = nic("net0");
    let (gate, events) = Gate::spawn("death", vec![port], GateLimits::default()).unwrap();
    let (again, _ends) = nic("net0");
    assert!(matches!(gate.attach(again), Err(GateError::PortExists(_))), "a live port keeps its name");
    drop(old.guest);
    let closed =
        GateEvent::PortClosed { port: "net0".into(), side: Side::Guest, reason: PortFailure::HungUp };
    assert_eq!(next_death(&events), closed);
    let (port, mut new) = nic("net0");
    gate.attach(port).unwrap();
    gate.open().unwrap();
    new.guest_sends(&frame(b"hello"));
    assert_eq!(new.world_gets(), Some(frame(b"hello")));
    assert_eq!(gate.stats().ports.len(), 1);
}

#[test]
fn the_death_of_the_network_is_an_event_and_the_guest_is_still_read() {
    let (port, nic) = nic("net0");
    let (gate, events) = Gate::spawn("tap", vec![port], GateLimits::default()).unwrap();
    let (mut guest, world) = (nic.guest, nic.world);
    drop(world);
    let closed =
        GateEvent::PortClosed { port: "net0".into(), side: Side::Outside, reason: PortFailure::HungUp };
    assert_eq!(next_death(&events), closed);
    // More than a socket holds: it blocks for ever unless the gate reads.
    let bytes = framed(&frame(&[7; 1400]));
    for _ in 0..2000 {
        guest.write_all(&bytes).unwrap();
    }
    gate.cut(Epoch(1)).unwrap();
    gate.release(Epoch(1)).unwrap();
    assert_eq!((gate.queued(), gate.stats().ports[0].dropped_closed), ((0, 0), 2000));
}

#[test]
fn input_goes_straight_in_while_output_is_held() {
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("input", vec![port], GateLimits::default()).unwrap();
    rustix::io::write(&nic.world, &frame(b"in")).unwrap();
    assert_eq!(nic.guest_gets(), frame(b"in"));
    gate.pause_input();
    rustix::io::write(&nic.world, &frame(b"later")).unwrap();
    nic.guest.set_nonblocking(true).unwrap();
    // The pause holds from the call on: the gate's thread, were it to break it, is given every chance.
    for epoch in 1..100 {
        gate.cut(Epoch(epoch)).unwrap();
        std::thread::yield_now();
    }
    assert!(nic.guest.read(&mut [0; 100]).is_err(), "input came in although it is paused");
    nic.guest.set_nonblocking(false).unwrap();
    gate.resume_input();
    assert_eq!(nic.guest_gets(), frame(b"later"));
    assert_eq!((gate.stats().ports[0].frames_in, nic.world_has()), (2, Vec::<Vec<u8>>::new()));
}

#[test]
fn a_full_socket_delays_input_and_never_breaks_its_framing() {
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("slow", vec![port], GateLimits::default()).unwrap();
    const FRAMES: u32 = 3000;
    // Some are so large that the socket takes a part of them.
    let payload =
        |n: u32| n.to_be_bytes().repeat(if n.is_multiple_of(7) { 15_000 } else { 1 + n as usize % 350 });
    let world = nic.world.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for n in 0..FRAMES {
            rustix::io::write(&world, &frame(&payload(n))).unwrap();
        }
    });
    // The guest reads nothing until the gate had to wait.
    while gate.stats().ports[0].input_stalls == 0 {
        std::thread::yield_now();
    }
    for n in 0..FRAMES {
        assert_eq!(nic.guest_gets(), frame(&payload(n)), "frame {n}");
    }
    sender.join().unwrap();
}

#[test]
fn an_open_gate_keeps_the_order_when_the_network_is_slow() {
    const FRAMES: u32 = 5000;
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("busy", vec![port], GateLimits::default()).unwrap();
    gate.open().unwrap();
    let mut guest = nic.guest.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for n in 0..FRAMES {
            guest.write_all(&framed(&frame(&n.to_be_bytes().repeat(50)))).unwrap();
        }
    });
    // The network takes nothing until frames wait for it.
    while gate.queued().0 == 0 {
        std::thread::yield_now();
    }
    for n in 0..FRAMES {
        assert_eq!(nic.world_gets(), Some(frame(&n.to_be_bytes().repeat(50))), "frame {n}");
    }
    writer.join().unwrap();
    let stats = gate.stats();
    assert_eq!((stats.hold_us.count, stats.ports[0].dropped_full), (0, 0));
    nic.guest.flush().unwrap();
}

#[test]
fn a_console_past_its_limit_waits_and_loses_nothing() {
    let (port, mut guest, sink) = console("serial", 1000);
    let limits = GateLimits { max_console_bytes: 10_000, ..GateLimits::default() };
    let (gate, _events) = Gate::spawn("console", vec![port], limits).unwrap();
    let text: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    let expected = text.clone();
    let writer = std::thread::spawn(move || guest.write_all(&text));
    let waiting = || gate.stats().ports[0].console_waiting;
    while waiting() < 10_000 {
        std::thread::yield_now();
    }
    for _ in 0..1000 {
        std::thread::yield_now();
        assert!(waiting() < 10_000 + 16 * 1024, "one read past the limit at most");
    }
    let (mut out, mut epoch) = (Vec::new(), 0);
    while out.len() < expected.len() {
        epoch += 1;
        let cut = gate.cut(Epoch(epoch)).unwrap().consoles.remove(0);
        assert_eq!(cut.offset, 1000 + out.len() as u64);
        assert!(expected[out.len()..].starts_with(&cut.bytes));
        // The writer is not stopped here, as a guest would be: `cut` has a bound of its own.
        // Bytes of the epoch before may still count: the sink has them, but has not come back yet.
        assert!(waiting() < 2 * (10_000 + (1 << 20) + 2 * 16 * 1024), "back pressure does not work");
        gate.release(Epoch(epoch)).unwrap();
        let end = out.len() + cut.bytes.len();
        while out.len() < end {
            let (offset, bytes) = sink.recv_timeout(PATIENCE).unwrap();
            assert_eq!(offset, 1000 + out.len() as u64);
            out.extend(bytes);
        }
    }
    assert_eq!(out, expected);
    writer.join().unwrap().unwrap();
}

#[test]
fn a_console_log_is_the_committed_stream_whoever_wrote_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let mut log = ConsoleLog::create(&path, 100).unwrap();
    log.append(100, b"abc").unwrap();
    // An epoch that is shipped again after a broken session brings known bytes.
    log.append(101, b"bcde").unwrap();
    log.append(100, b"ab").unwrap();
    assert_eq!(log.end(), 105);
    let error = log.append(106, b"x").unwrap_err();
    assert!(error.to_string().contains("byte 106"), "{error}");

    let (guest, gate_guest) = UnixStream::pair().unwrap();
    let end = log.end();
    let port = PortConfig::console("serial", gate_guest, end, Box::new(log));
    let (gate, _events) = Gate::spawn("log", vec![port], GateLimits::default()).unwrap();
    (&guest).write_all(b"fgh").unwrap();
    gate.cut(Epoch(1)).unwrap();
    (&guest).write_all(b"lost").unwrap();
    gate.release(Epoch(1)).unwrap();
    drop(gate);
    assert_eq!(std::fs::read(&path).unwrap(), b"abcdefgh");
}

#[test]
fn a_failing_sink_is_an_event_and_frames_go_on() {
    let (guest, gate_guest) = UnixStream::pair().unwrap();
    let sink = |_: u64, _: &[u8]| Err(std::io::Error::other("the disk is full"));
    let serial = PortConfig::console("serial", gate_guest, 0, Box::new(sink));
    let (port, mut nic) = nic("net0");
    let (gate, events) = Gate::spawn("sink", vec![serial, port], GateLimits::default()).unwrap();
    gate.open().unwrap();
    (&guest).write_all(b"x").unwrap();
    let reason = PortFailure::Sink("the disk is full".into());
    let closed = GateEvent::PortClosed { port: "serial".into(), side: Side::Outside, reason };
    assert_eq!(next_death(&events), closed);
    (&guest).write_all(b"y").unwrap();
    nic.guest_sends(&frame(b"hello"));
    assert_eq!(nic.world_gets(), Some(frame(b"hello")));
    assert!(events.try_recv().is_err(), "said once");
}

#[test]
fn a_fenced_gate_closes_its_taps_and_refuses_everything() {
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("fenced", vec![port], GateLimits::default()).unwrap();
    nic.guest_sends(&frame(b"lost"));
    gate.cut(Epoch(1)).unwrap();
    gate.discard();
    assert_eq!((gate.queued(), gate.stats().ports[0].dropped_closed), ((0, 0), 1));
    let (another, _ends) = crate::bench::nic("net1");
    let refusals = [
        gate.open(),
        gate.hold(),
        gate.release(Epoch(1)),
        gate.cut(Epoch(2)).map(drop),
        gate.announce(&net::announce::USUAL_SCHEDULE),
        gate.attach(another),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(GateError::Fenced { .. })), "{refusal:?}");
    }
    assert_eq!(nic.world_gets(), None, "the TAP is closed, with nothing said");
    // QEMU can still write: it must not hang while it is being stopped.
    for _ in 0..1000 {
        nic.guest_sends(&frame(&[1; 1400]));
    }
}

/// Frame numbers: a guest that writes all the time except when it is stopped, a protocol that cuts and commits,
/// and a network that checks that no number is out before the commit of its epoch.
#[test]
fn nothing_leaves_early_under_load() {
    const EPOCHS: u64 = 2000;
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("load", vec![port], GateLimits::default()).unwrap();
    let running = Mutex::new((nic.guest.try_clone().unwrap(), 0u64));
    let (committed, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let mut guest = running.lock().unwrap();
                let bytes = framed(&frame(&guest.1.to_be_bytes()));
                guest.1 += 1;
                guest.0.write_all(&bytes).unwrap();
                drop(guest);
                std::thread::yield_now();
            }
        });
        let network = scope.spawn(|| {
            let mut next = 0;
            while let Some(frame) = nic.world_gets() {
                let number = u64::from_be_bytes(*frame.last_chunk().unwrap());
                assert_eq!(number, next, "in order, none lost");
                assert!(
                    number < committed.load(Ordering::Acquire),
                    "frame {number} is out before its commit"
                );
                next += 1;
            }
            next
        });
        let mut ends = std::collections::VecDeque::new();
        for epoch in 1..=EPOCHS {
            let stopped = running.lock().unwrap();
            gate.cut(Epoch(epoch)).unwrap();
            ends.push_back((Epoch(epoch), stopped.1));
            drop(stopped);
            std::thread::yield_now();
            if ends.len() > 3 {
                let (epoch, end) = ends.pop_front().unwrap();
                committed.store(end, Ordering::Release);
                gate.release(epoch).unwrap();
            }
        }
        done.store(true, Ordering::Release);
        // Closing the gate's end ends the network's wait.
        gate.discard();
        network.join().unwrap()
    });
    assert!(seen > 0 && seen <= committed.load(Ordering::Acquire), "{seen}");
    assert_eq!(gate.stats().hold_us.count, seen);
    nic.guest.flush().unwrap();
}

#[test]
fn input_is_observed_only_while_output_is_held_with_the_epoch_that_is_open() {
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("observe", vec![port], GateLimits::default()).unwrap();
    let (seen_tx, seen) = std::sync::mpsc::channel();
    gate.observe_input(Some(Box::new(move |input| {
        seen_tx.send((input.port.to_owned(), input.epoch, input.bytes.to_vec())).unwrap();
    })));
    nic.world_sends(&frame(b"first"));
    assert_eq!(nic.guest_gets(), frame(b"first"));
    gate.cut(Epoch(1)).unwrap();
    nic.world_sends(&frame(b"second"));
    assert_eq!(nic.guest_gets(), frame(b"second"));
    gate.open().unwrap();
    nic.world_sends(&frame(b"unheld"));
    assert_eq!(nic.guest_gets(), frame(b"unheld"));
    let expected =
        [("net0".to_owned(), Epoch(1), frame(b"first")), ("net0".to_owned(), Epoch(2), frame(b"second"))];
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn injected_frames_reach_the_guest_before_new_ones() {
    let (port, mut nic) = nic("net0");
    let (gate, _events) = Gate::spawn("inject", vec![port], GateLimits::default()).unwrap();
    gate.pause_input();
    nic.world_sends(&frame(b"new"));
    gate.inject("net0", [frame(b"old 1"), vec![1; 3], frame(b"old 2")]);
    gate.inject("no such port", [frame(b"nowhere")]);
    gate.resume_input();
    let got: Vec<_> = (0..3).map(|_| nic.guest_gets()).collect();
    assert_eq!(got, [frame(b"old 1"), frame(b"old 2"), frame(b"new")]);
}
