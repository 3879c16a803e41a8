//! Machines that go on somewhere else.

use crate::bench::Bench;
use crate::guest::echo;
use crate::{check, converse};

#[test]
fn a_copy_made_while_it_runs_goes_on_where_the_original_stood_and_nobody_notices() {
    const COUNT: usize = 1500;
    let mut bench = Bench::start(&echo());
    let peer = bench.peer.clone();
    let (mut moves, mut unsaid) = (0, 0);
    std::thread::scope(|scope| {
        let conversation = scope.spawn(|| converse(&peer, COUNT));
        while !conversation.is_finished() {
            let standby = bench.standby();
            // What was there before is written over.
            standby.machine.copy_in(0, &[7; rvrun::hosted::PAGE]).unwrap();
            standby.machine.zero(0, 3).unwrap();
            for _ in 0..3 {
                bench.carry_to(&standby.machine);
            }
            let (next, kept) = bench.move_to(standby);
            bench = next;
            moves += 1;
            unsaid += kept;
        }
    });
    let peer = peer.lock().unwrap();
    check(&peer.frames, &peer.said, COUNT);
    assert!(moves > 3 && unsaid > 0, "{moves} moves, {unsaid} bytes that moved with it");
}
