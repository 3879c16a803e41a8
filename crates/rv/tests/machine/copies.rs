//! Copies of running machines: pages as they are written, the rest at the end.

use crate::{compiled, draw, hostile, looping, over_the_end_of_a_page};
use proptest::prelude::*;
use rv::{Input, Machine, Output, RAM};

const PAGE: usize = 0x1000;

/// A machine by number: random instructions, or a loop that stores, interpreted or compiled.
fn machine(seed: u64) -> Machine {
    let made = match seed % 3 {
        0 => hostile(seed),
        1 => looping(seed),
        _ => over_the_end_of_a_page(),
    };
    if seed & 8 == 0 { compiled(made) } else { made }
}

/// Brings pages of a copy to what they are.
fn carry(from: &Machine, to: &mut Machine, pages: &[u32]) {
    for &page in pages {
        let start = page as usize * PAGE;
        assert!(to.put(RAM + start as u64, &from.ram()[start..start + PAGE]));
    }
}

/// Goes on to a count with an input before, and gives what left.
fn go_on(machine: &mut Machine, until: u64, byte: u8) -> Vec<Output> {
    machine.input(Input::Console(vec![byte]));
    machine.input(Input::Waited(machine.clock() + u64::from(byte)));
    machine.run(until);
    machine.outputs()
}

/// A copy that is brought on at each of these counts by what was written up to it; `forget` may take from each list.
/// At how many of them it was not what it shall be.
fn follow(seed: u64, counts: &[u64], mut forget: impl FnMut(&Machine, &Machine, &mut Vec<u32>)) -> usize {
    let (mut machine, mut copy) = (machine(seed), Machine::new(1 << 20));
    let mut wrong = 0;
    for (at, &count) in counts.iter().enumerate() {
        let until = machine.instructions() + count;
        go_on(&mut machine, until, at as u8);
        let mut pages = machine.take_dirty();
        assert!(pages.is_sorted_by(|one, next| one < next));
        forget(&machine, &copy, &mut pages);
        carry(&machine, &mut copy, &pages);
        copy.put_state(&machine.state()).expect("a state");
        wrong += usize::from(copy.hash() != machine.hash());
    }
    wrong
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// RAM and state are all that a machine is: a fresh one that has both does the same from there on.
    #[test]
    fn a_fresh_machine_with_ram_and_state_goes_on_in_the_same_way(seed in 0_u64..400, first in 1_u64..4000, bytes in prop::collection::vec(any::<u8>(), 1..6)) {
        let mut one = machine(seed);
        go_on(&mut one, first, 1);
        let mut two = Machine::new(1 << 20);
        let all: Vec<u32> = (0..(one.ram().len() / PAGE) as u32).collect();
        carry(&one, &mut two, &all);
        two.put_state(&one.state()).expect("a state");
        prop_assert_eq!(one.state(), two.state());
        for byte in bytes {
            let until = one.instructions() + 700 + u64::from(byte);
            prop_assert_eq!(go_on(&mut one, until, byte), go_on(&mut two, until, byte));
            prop_assert_eq!(one.hash(), two.hash());
        }
    }

    /// What is said to be written is all that was.
    #[test]
    fn a_copy_that_is_brought_on_by_what_was_written_is_the_same_at_each_cut(seed in 0_u64..400, counts in prop::collection::vec(1_u64..1500, 1..12)) {
        prop_assert_eq!(follow(seed, &counts, |_, _, _| {}), 0);
    }
}

#[test]
fn a_page_that_was_not_said_to_be_written_is_seen() {
    let mut state = 9;
    for seed in 0..30 {
        let counts: Vec<u64> = (0..6).map(|_| 1 + draw(&mut state) % 900).collect();
        let mut forgotten = false;
        let wrong = follow(seed, &counts, |machine, copy, pages| {
            let differs = |page: &&u32| {
                let place = **page as usize * PAGE..(**page as usize + 1) * PAGE;
                machine.ram()[place.clone()] != copy.ram()[place]
            };
            let missed = pages.iter().find(differs).copied().filter(|_| !forgotten);
            pages.retain(|&page| Some(page) != missed);
            forgotten |= missed.is_some();
        });
        assert!(forgotten && wrong > 0, "seed {seed}");
    }
}
