//! Machines that go on somewhere else.

use crate::bench::{Bench, await_peer};
use crate::guest::echo;
use crate::{check, converse, typed};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_copy_made_while_it_runs_goes_on_where_the_original_stood_and_nobody_notices() {
    let mut bench = Bench::start(&echo());
    let (peer, enough) = (bench.peer.clone(), AtomicBool::new(false));
    let count = std::thread::scope(|scope| {
        let conversation = scope.spawn(|| converse(&peer, &enough));
        for _ in 0..20 {
            let standby = bench.standby();
            // What was there before is written over.
            standby.machine.copy_in(0, &[7; rvrun::hosted::PAGE]).unwrap();
            standby.machine.zero(0, 3).unwrap();
            for _ in 0..3 {
                bench.carry_to(&standby.machine);
            }
            bench = bench.move_to(standby);
        }
        enough.store(true, Ordering::Relaxed);
        conversation.join().unwrap()
    });
    let peer = peer.lock().unwrap();
    assert_eq!(peer.frames.len(), count);
    check(&peer.frames, &peer.said, count);
}

#[test]
fn what_the_console_said_and_nobody_took_is_said_by_the_copy() {
    const COUNT: usize = 100_000;
    let mut bench = Bench::start(&echo());
    bench.await_said(b"#");
    let text: Vec<u8> = (0..COUNT).map(typed).collect();
    bench.peer.lock().unwrap().type_in(&text);
    // Nobody listens, so that the guest waits at last. To stop it nobody has to listen.
    loop {
        bench.machine.stop().unwrap();
        if bench.unsaid() >= 64 << 10 {
            break;
        }
        bench.machine.cont().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let unsaid = bench.unsaid();
    for _ in 0..50 {
        bench.machine.cont().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        bench.machine.stop().unwrap();
    }
    assert_eq!(bench.unsaid(), unsaid, "it waits");
    bench.machine.cont().unwrap();
    for _ in 0..3 {
        let standby = bench.standby();
        bench = bench.move_to(standby);
    }
    assert!(bench.peer.lock().unwrap().said.len() + unsaid as usize <= COUNT, "most moved with it");
    await_peer(&bench.peer, |peer| peer.said.len() == COUNT + 1);
    check(&[], &bench.peer.lock().unwrap().said, COUNT);
}
