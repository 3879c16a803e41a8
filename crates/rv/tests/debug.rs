//! What a debugger sees and where it makes a machine stop, and that the machine is none the wiser.

#![forbid(unsafe_code)]

use rv::{Halt, Hotness, Machine, Mode, RAM, Stop, Stops, Watch};
use rvjit::Pieces;

fn i_type(opcode: u32, rd: u32, funct3: u32, rs1: u32, immediate: i32) -> u32 {
    (immediate as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn addi(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i_type(0x13, rd, 0, rs1, immediate)
}

fn store(rs2: u32, rs1: u32) -> u32 {
    rs2 << 20 | rs1 << 15 | 3 << 12 | 0x23
}

/// Where the loop below begins, where it stores, the data, and the handler.
const LOOP: u64 = RAM + 44;
const STORE: u64 = RAM + 48;
const LOAD: u64 = RAM + 52;
const DATA: u64 = RAM + 0x1000;
const HANDLER: u64 = RAM + 76;

/// A loop that counts in a0, stores that in memory, and adds up in a1 what it loads again; a timer interrupts it every
/// 300 instructions, and the handler counts in a2.
fn program() -> Machine {
    let words = [
        0x17 | 5 << 7,
        addi(5, 5, 76),
        i_type(0x73, 0, 1, 5, 0x305),
        // The timer is due at once.
        0x200_4000 | 6 << 7 | 0x37,
        store(0, 6),
        0x1000 | 9 << 7 | 0x17,
        addi(9, 9, -20),
        addi(8, 0, 0x80),
        i_type(0x73, 0, 1, 8, 0x304),
        addi(8, 0, 8),
        i_type(0x73, 0, 1, 8, 0x300),
        // The loop.
        addi(10, 10, 1),
        store(10, 9),
        i_type(0x03, 13, 3, 9, 0),
        0x00d5_85b3,
        // `amoadd.d zero, a0, (s2)` beside what is watched.
        addi(18, 9, 8),
        10 << 20 | 18 << 15 | 3 << 12 | 0x2f,
        // Back to its beginning.
        0xfe9f_f06f,
        addi(0, 0, 0),
        // The handler: the timer 30 ticks from now.
        i_type(0x73, 7, 2, 0, 0xc01_u32 as i32),
        addi(7, 7, 30),
        store(7, 6),
        addi(12, 12, 1),
        0x3020_0073,
    ];
    let mut machine = Machine::new(1 << 20);
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    assert!(machine.put(RAM, &bytes));
    machine
}

/// The same with machine code for nearly everything that is executed twice.
fn compiled() -> Machine {
    let mut machine = program();
    let pieces = Pieces::new().expect("a compiler for this host");
    machine.compile_with(Box::new(pieces), Hotness { between: 1, seen: 1 });
    machine
}

/// Interpreted, and compiled.
const WAYS: [fn() -> Machine; 2] = [program, compiled];

fn stops(breakpoints: &[u64], watches: &[Watch]) -> Stops {
    Stops { breakpoints: breakpoints.iter().copied().collect(), watches: watches.to_vec() }
}

/// All stops up to a count: where it stood, and why.
fn all_stops(machine: &mut Machine, until: u64) -> Vec<(u64, u64, Halt)> {
    let mut seen = Vec::new();
    while machine.run(until) == Stop::Halted {
        seen.push((machine.instructions(), machine.x(32), machine.halt().unwrap()));
        machine.leave_breakpoint();
    }
    seen
}

#[test]
fn a_machine_does_the_same_whatever_stops_are_set() {
    let mut plain = program();
    plain.run(5000);
    assert!(plain.x(10) > 500 && plain.x(12) > 10, "it loops and is interrupted");
    let watch = Watch { address: DATA, length: 8, loads: true, stores: true };
    let all = [stops(&[LOOP, HANDLER], &[]), stops(&[], &[watch]), stops(&[STORE], &[watch])];
    for (stops, begin) in all.iter().flat_map(|stops| WAYS.map(|begin| (stops, begin))) {
        let mut stopped = begin();
        // Set when the loop is known already, so that it has to be forgotten.
        stopped.run(1000);
        stopped.set_stops(stops);
        assert!(all_stops(&mut stopped, 4000).len() > 100);
        stopped.set_stops(&Stops::default());
        assert_eq!(stopped.run(5000), Stop::Reached);
        assert_eq!(stopped.hash(), plain.hash(), "{stops:?}");
    }
}

#[test]
fn every_passage_of_a_breakpoint_is_seen_also_the_first_of_a_handler() {
    let (mut fast, mut made, mut stepped) = (program(), compiled(), program());
    fast.set_stops(&stops(&[LOOP, HANDLER], &[]));
    made.set_stops(&stops(&[LOOP, HANDLER], &[]));
    let seen = all_stops(&mut fast, 3000);
    assert_eq!(all_stops(&mut made, 3000), seen);
    // One instruction after the other, by looking.
    let mut expected = Vec::new();
    for at in 0..3000 {
        stepped.run(at);
        stepped.settle();
        if [LOOP, HANDLER].contains(&stepped.x(32)) {
            expected.push((at, stepped.x(32), Halt::Breakpoint));
        }
    }
    assert_eq!(seen, expected);
    assert!(seen.iter().filter(|(_, at, _)| *at == HANDLER).count() > 5);
    assert_eq!(fast.hash(), {
        stepped.run(3000);
        stepped.hash()
    });
}

#[test]
fn watches_tell_loads_from_stores_and_one_place_from_its_neighbour() {
    let watch = |address, loads, stores| Watch { address, length: 4, loads, stores };
    let where_in = |watch: Watch, begin: fn() -> Machine| -> std::collections::BTreeSet<u64> {
        let mut machine = begin();
        machine.set_stops(&stops(&[], &[watch]));
        let seen = all_stops(&mut machine, 2000);
        assert!(seen.iter().all(|(_, _, halt)| *halt == Halt::Watched(watch)));
        // Every time, not only until the page is known.
        assert!(
            seen.is_empty() || seen.len() as u64 >= machine.x(10) - 1,
            "{} of {}",
            seen.len(),
            machine.x(10)
        );
        seen.iter().map(|(_, at, _)| *at).collect()
    };
    let where_to = |watch: Watch| {
        let [interpreted, compiled] = WAYS.map(|begin| where_in(watch, begin));
        assert_eq!(interpreted, compiled);
        interpreted
    };
    // The machine stands behind the instruction that did it.
    assert_eq!(where_to(watch(DATA, false, true)), [STORE + 4].into());
    assert_eq!(where_to(watch(DATA, true, false)), [LOAD + 4].into());
    assert_eq!(where_to(watch(DATA + 4, true, true)), [STORE + 4, LOAD + 4].into());
    assert_eq!(where_to(watch(DATA + 8, true, false)), [LOOP + 24].into());
    assert_eq!(where_to(watch(DATA + 16, true, true)), [].into());
}

#[test]
fn memory_is_read_where_it_is_and_nowhere_else() {
    let mut machine = program();
    machine.set_stops(&stops(&[LOOP + 16], &[]));
    machine.run(5000);
    let before = machine.hash();
    let mut bytes = [0; 8];
    assert_eq!(machine.peek(DATA, &mut bytes), 8);
    assert_eq!(u64::from_le_bytes(bytes), machine.x(13));
    // Half of it is behind the end of RAM; no device is touched.
    assert_eq!(machine.peek(RAM + (1 << 20) - 3, &mut bytes), 3);
    assert_eq!(machine.peek(0x1000_0000, &mut bytes), 0);
    assert_eq!(
        (machine.mode(), machine.csr(0x305), machine.csr(0x7c0)),
        (Mode::Machine, Some(HANDLER), None)
    );
    assert_eq!(machine.hash(), before);
}
