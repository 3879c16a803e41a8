//! Whole programs on the machine, and that nothing but inputs decides where it goes.

#![forbid(unsafe_code)]

mod copies;
mod late;

use rv::{Hotness, Input, Machine, Output, RAM, Stop};
use rvjit::Pieces;

fn addi(rd: u32, rs1: u32, immediate: i32) -> u32 {
    (immediate as u32) << 20 | rs1 << 15 | rd << 7 | 0x13
}

fn lui(rd: u32, upper: u32) -> u32 {
    upper << 12 | rd << 7 | 0x37
}

fn csrrw(rd: u32, number: u32, rs1: u32) -> u32 {
    number << 20 | rs1 << 15 | 1 << 12 | rd << 7 | 0x73
}

fn store(size: u32, rs2: u32, rs1: u32) -> u32 {
    rs2 << 20 | rs1 << 15 | size << 12 | 0x23
}

const WFI: u32 = 0x1050_0073;
/// `j .`
const STAY: u32 = 0x6f;
const PMPCFG0: u32 = 0x3a0;
const PMPADDR0: u32 = 0x3b0;
const MTVEC: u32 = 0x305;
const MIE: u32 = 0x304;
const MSTATUS: u32 = 0x300;
const MCAUSE: u32 = 0x342;

fn load(program: &[u32]) -> Machine {
    let mut machine = Machine::new(1 << 20);
    let bytes: Vec<u8> = program.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert!(machine.put(RAM, &bytes));
    machine
}

/// The same machine with machine code for nearly everything that is executed twice.
fn compiled(mut machine: Machine) -> Machine {
    let pieces = Pieces::new().expect("a compiler for this host");
    machine.compile_with(Box::new(pieces), Hotness { between: 1, seen: 1 });
    machine
}

/// A fixed sequence of words.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Opens all memory to the lower modes, by way of a register.
fn open_memory(register: u32) -> [u32; 4] {
    let put = |value: i32| addi(register, 0, value);
    [put(-1), csrrw(0, PMPADDR0, register), put(0x1f), csrrw(0, PMPCFG0, register)]
}

/// RAM full of words, most of them valid instructions of some class.
fn hostile(seed: u64) -> Machine {
    const OPCODES: [u32; 22] = [
        0x37, 0x17, 0x6f, 0x67, 0x63, 0x03, 0x23, 0x13, 0x1b, 0x33, 0x3b, 0x0f, 0x2f, 0x73, 0x07, 0x27, 0x43,
        0x47, 0x4b, 0x4f, 0x53, 0x73,
    ];
    let mut state = seed * 2 + 1;
    let words: Vec<u32> = (0..4096)
        .map(|at| match at {
            // Handlers in RAM, the floating-point unit on, pointers to RAM and to devices.
            0 => 0x17 | 5 << 7,
            1 => csrrw(0, MTVEC, 5),
            2 => lui(6, 6),
            3 => csrrw(0, MSTATUS, 6),
            4 => lui(10, 0x1_0000),
            5 => lui(11, 0x2004),
            6 => lui(12, 0xc200),
            7..11 => open_memory(7)[at - 7],
            _ => {
                let word = draw(&mut state) as u32;
                let opcode = OPCODES[(draw(&mut state) % 22) as usize];
                if word & 0x300 == 0 { word } else { word & !0x7f | opcode }
            }
        })
        .collect();
    load(&words)
}

#[test]
fn a_loop_counts() {
    // a0 = 0; a1 = 10; do { a0 += a1; a1 -= 1 } while (a1 != 0)
    let back = 0xfe05_9ce3;
    let mut machine = load(&[addi(10, 0, 0), addi(11, 0, 10), 0x00b5_0533, addi(11, 11, -1), back, STAY]);
    assert_eq!(machine.run(100), Stop::Reached);
    assert_eq!((machine.x(10), machine.x(32)), (55, RAM + 20));
}

#[test]
fn an_illegal_instruction_goes_to_the_handler() {
    let handler = [0, 0, 0, csrrw(10, MCAUSE, 0), STAY];
    let mut program = vec![0x17 | 5 << 7, addi(5, 5, 24), csrrw(0, MTVEC, 5)];
    program.extend(handler);
    let mut machine = load(&program);
    machine.run(20);
    assert_eq!((machine.x(10), machine.x(32)), (2, RAM + 28));
}

#[test]
fn waiting_goes_to_the_timer_or_ends_the_run() {
    // The timer's interrupt allowed in `mie`, not taken: `wfi` ends all the same.
    let allow = [addi(5, 0, 0x80), csrrw(0, MIE, 5)];
    let mut machine = load(&[allow[0], allow[1], WFI, STAY]);
    assert_eq!(machine.run(100), Stop::Idle);
    assert_eq!(machine.instructions(), 3);
    let mut machine = load(&[
        allow[0],
        allow[1],
        lui(6, 0x2004),
        addi(7, 0, 1000),
        store(3, 7, 6),
        WFI,
        csrrw(10, 0xc01, 0) & !0xf_8000 | 2 << 12,
        STAY,
    ]);
    assert_eq!(machine.run(9), Stop::Reached);
    assert_eq!(machine.x(10), 1000, "the clock stands where the timer was set to");
    // So far ahead that the clock would overflow: as if there were none.
    let mut machine = load(&[allow[0], allow[1], lui(6, 0x2004), addi(7, 0, -2), store(3, 7, 6), WFI, STAY]);
    assert_eq!(machine.run(1000), Stop::Idle);
}

#[test]
fn the_serial_port_sends_and_receives() {
    // Reads what was received, adds one, sends it.
    let mut machine =
        load(&[lui(6, 0x1_0000), 6 << 15 | 4 << 12 | 7 << 7 | 3, addi(7, 7, 1), store(0, 7, 6), STAY]);
    machine.input(Input::Console(b"a".to_vec()));
    machine.run(10);
    assert_eq!(machine.outputs(), [Output::Console(b'b')]);
}

#[test]
fn where_a_run_is_cut_does_not_matter() {
    for seed in 1..40 {
        let (mut whole, mut cut) = (compiled(hostile(seed)), hostile(seed));
        if seed & 1 != 0 {
            cut = compiled(cut);
        }
        let mut state = seed;
        let (mut told, mut told_cut) = (Vec::new(), Vec::new());
        for until in [500, 1000, 5000] {
            let stop = whole.run(until);
            told.extend(whole.outputs());
            while cut.instructions() < whole.instructions() {
                let next = (cut.instructions() + 1 + draw(&mut state) % 100).min(whole.instructions());
                cut.run(next);
                told_cut.extend(cut.outputs());
            }
            cut.run(until);
            told_cut.extend(cut.outputs());
            assert_eq!(whole.hash(), cut.hash(), "seed {seed}, {stop:?} before {until}");
            for machine in [&mut whole, &mut cut] {
                machine.input(Input::Console(vec![seed as u8]));
            }
        }
        assert_eq!(told, told_cut);
    }
}

/// A loop that a timer interrupts each time after another while; the handler counts in a2 and keeps the time in a3.
fn interrupted(step: i32) -> Machine {
    let read_time = csrrw(13, 0xc01, 0) & !0x7000 | 2 << 12;
    let program = [
        0x17 | 5 << 7,
        addi(5, 5, 48),
        csrrw(0, MTVEC, 5),
        lui(6, 0x2004),
        addi(7, 0, step),
        store(3, 7, 6),
        addi(8, 0, 0x80),
        csrrw(0, MIE, 8),
        addi(8, 0, 8),
        csrrw(0, MSTATUS, 8),
        addi(10, 10, 1),
        // Back to the line before.
        0xffdf_f06f,
        // The handler.
        read_time,
        addi(12, 12, 1),
        // The next time is later by what the loop has counted, modulo 64.
        addi(7, 13, step),
        0x03f5_7713,
        0x00e3_83b3,
        store(3, 7, 6),
        0x3020_0073,
    ];
    load(&program)
}

#[test]
fn a_timer_interrupts_at_the_same_count_however_a_run_is_cut_and_cached() {
    for step in 1..60 {
        let (mut plain, mut fast, mut cut) = (interrupted(step), interrupted(step), interrupted(step));
        let mut made = compiled(interrupted(step));
        plain.run_plainly();
        let mut state = step as u64;
        for _ in 0..40 {
            let until = fast.instructions() + 1 + draw(&mut state) % 500;
            plain.run(until);
            fast.run(until);
            made.run(until);
            while cut.instructions() < until {
                cut.run((cut.instructions() + 1 + draw(&mut state) % 90).min(until));
            }
            let hashes = [&plain, &fast, &cut, &made].map(Machine::hash);
            assert_eq!(hashes, [hashes[0]; 4], "step {step}, before {until}");
        }
        assert!(fast.x(12) > 3, "interrupts came");
    }
}

#[test]
fn instructions_written_by_stores_that_are_known_already_are_seen() {
    // The page is written before anything is executed in it, so that stores to it are on the fast path; then it is
    // executed, and only the upper half of its first instruction, the immediate, is written again.
    let program = [
        0x1000 | 5 << 7 | 0x17,
        lui(6, 0x150),
        addi(6, 6, 0x513),
        store(2, 6, 5),
        lui(7, 0x8),
        addi(7, 7, 0x67),
        store(2, 7, 5) | 4 << 7,
        5 << 15 | 1 << 7 | 0x67,
        addi(8, 0, 0x70),
        store(1, 8, 5) | 2 << 7,
        5 << 15 | 1 << 7 | 0x67,
        STAY,
    ];
    let (mut fast, mut plain, mut made) = (load(&program), load(&program), compiled(load(&program)));
    plain.run_plainly();
    for machine in [&mut fast, &mut plain, &mut made] {
        machine.run(100);
        // `addi a0, a0, 1` and return; then `addi a0, zero, 7`.
        assert_eq!(machine.x(10), 7);
    }
    assert_eq!((plain.hash(), plain.hash()), (fast.hash(), made.hash()));
}

#[test]
fn a_reservation_ends_with_a_trap() {
    let conditional = |trap: u32| {
        let program = [
            0x17 | 5 << 7,
            addi(5, 5, 40),
            csrrw(0, MTVEC, 5),
            0x1000 | 6 << 7 | 0x17,
            6 << 15 | 2 << 12 | 2 << 27 | 7 << 7 | 0x2f,
            trap,
            // `sc.w a0, t2, (t1)`
            3 << 27 | 7 << 20 | 6 << 15 | 2 << 12 | 10 << 7 | 0x2f,
            STAY,
            STAY,
            STAY,
            // The handler goes back behind the call.
            0x341 << 20 | 2 << 12 | 8 << 7 | 0x73,
            addi(8, 8, 4),
            csrrw(0, 0x341, 8),
            0x3020_0073,
        ];
        let mut machine = load(&program);
        machine.run(30);
        machine.x(10)
    };
    assert_eq!((conditional(addi(0, 0, 0)), conditional(0x73)), (0, 1));
}

/// A loop without end, of instructions by chance: sums, products, quotients, branches, calls whose return address is kept, loads and
/// stores around the end of a page.
fn looping(seed: u64) -> Machine {
    let mut state = seed * 2 + 1;
    let mut program = vec![0x9000 | 5 << 7 | 0x17, addi(5, 5, -4), addi(8, 8, 1)];
    for _ in 0..24 {
        let word = draw(&mut state) as u32;
        let [rd, rs1, rs2] = [word & 7, word >> 3 & 7, word >> 6 & 7].map(|register| 8 + register);
        let (funct3, near) = (word >> 9 & 7, (word >> 12 & 63) as i32 - 32);
        let registers = rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7;
        match word >> 18 & 7 {
            0 => program.push(registers | 0x33),
            1 => program.push(1 << 25 | registers | 0x33),
            2 => program.push(1 << 25 | registers & !0x7000 | (4 | funct3 & 3) << 12 | 0x3b),
            3 => program.push(addi(rd, rs1, near)),
            4 => program.push((near as u32) << 20 | 5 << 15 | funct3.min(6) << 12 | rd << 7 | 0x03),
            5 => program.push((near as u32 >> 5) << 25 | store(funct3 & 3, rs2, 5) | (near as u32 & 31) << 7),
            // Over the next instruction, or not.
            6 => program.extend([
                registers & !(7 << 12 | 31 << 7) | (funct3 & 1) << 12 | 8 << 7 | 0x63,
                addi(rd, rs1, 3),
            ]),
            // Over the next instruction, which is where it would go on.
            _ => program.extend([7 << 7 | 0x17, 12 << 20 | 7 << 15 | rd << 7 | 0x67, addi(rd, rs1, 5)]),
        }
    }
    let back = -4 * (program.len() as i32 - 2);
    let back = back as u32;
    program.push(
        (back >> 20 & 1) << 31
            | (back >> 1 & 0x3ff) << 21
            | (back >> 11 & 1) << 20
            | (back & 0xf_f000)
            | 0x6f,
    );
    load(&program)
}

#[test]
fn loops_by_chance_do_the_same_compiled_also_when_they_are_written_over() {
    for seed in 1..40 {
        let (mut plain, mut made) = (looping(seed), compiled(looping(seed)));
        plain.run_plainly();
        for round in 1..6 {
            for until in [900 * round - 1, 900 * round] {
                plain.run(until);
                made.run(until);
                assert_eq!(plain.hash(), made.hash(), "seed {seed}, before {until}");
            }
            // The first instruction of the loop, and one in its middle.
            for (place, register) in [(2, 8), (14, 9)] {
                let written = addi(register, register, round as i32).to_le_bytes();
                assert!(plain.put(RAM + 4 * place, &written) && made.put(RAM + 4 * place, &written));
            }
        }
        assert!(plain.x(32) < RAM + 0x1000, "seed {seed}: still in the loop");
    }
}

/// A loop that loads and stores 8 bytes, by turns within a page and over its end, where the next virtual page is another
/// physical one: machine mode with the supervisor's translations for data.
fn over_the_end_of_a_page() -> Machine {
    let (satp, r) = (0x180, |f3: u32, f7: u32, rd: u32, rs1: u32, rs2: u32| {
        f7 << 25 | rs2 << 20 | rs1 << 15 | f3 << 12 | rd << 7 | 0x33
    });
    let program = [
        addi(5, 0, 8),
        addi(5, 5, 60) | 1 << 12, // slli
        lui(6, 0x80),
        addi(6, 6, 0x10),
        r(6, 0, 5, 5, 6), // or
        csrrw(0, satp, 5),
        lui(6, 0x21),
        addi(6, 6, -0x800), // MPRV, and the supervisor in MPP
        csrrw(0, MSTATUS, 6),
        lui(10, 2),
        addi(10, 10, -4),
        addi(11, 0, 2000),
        addi(12, 10, 0) & !0x7f | 3 | 3 << 12, // ld x12, (x10)
        r(0, 0, 13, 13, 12),
        addi(12, 12, 3),
        store(3, 12, 10),
        addi(10, 10, 0xc) | 4 << 12, // xori
        addi(11, 11, -1),
        0xfe05_94e3, // bnez x11, to the load
        STAY,
    ];
    let mut machine = load(&[&open_memory(5)[..], &program].concat());
    let entry = |at: u64, to: u64, marks: u64| (RAM + at, ((RAM + to) >> 12 << 10 | marks).to_le_bytes());
    let words = [
        entry(0x1_0000, 0x1_1000, 1),
        entry(0x1_1000, 0x1_2000, 1),
        entry(0x1_2008, 0x2_0000, 0xc7),
        entry(0x1_2010, 0x3_0000, 0xc7),
        (RAM + 0x2_0ff8, 0x8899_aabb_ccdd_eeff_u64.to_le_bytes()),
        (RAM + 0x2_1000, [0x55; 8]),
        (RAM + 0x3_0000, 0x0102_0304_0506_0708_u64.to_le_bytes()),
    ];
    assert!(words.iter().all(|(address, bytes)| machine.put(*address, bytes)));
    machine
}

#[test]
fn an_access_over_the_end_of_a_page_goes_to_the_next_virtual_one_compiled_too() {
    let (mut plain, mut fast, mut made) =
        (over_the_end_of_a_page(), over_the_end_of_a_page(), compiled(over_the_end_of_a_page()));
    plain.run_plainly();
    for machine in [&mut plain, &mut fast, &mut made] {
        assert_eq!(machine.run(20_000), Stop::Reached);
        assert_eq!((machine.x(11), machine.x(32)), (0, RAM + 23 * 4), "the loop came to its end");
        assert_eq!(machine.ram()[0x2_1000..0x2_1008], [0x55; 8], "that page is not the next one");
    }
    assert_eq!([fast.hash(), made.hash()], [plain.hash(); 2]);
}

/// Machine code that ended at the count with a jump out of RAM had the jump's trap carried out too, so that what came at that
/// count came an instruction late.
#[test]
fn machine_code_that_jumps_out_of_ram_ends_at_its_count() {
    let far_before = 0xe74e_73ef; // jal x7
    let mut machine = compiled(load(&[0x17 | 5 << 7, csrrw(0, MTVEC, 5), addi(6, 6, 1), far_before]));
    for until in 1..100 {
        machine.run(until);
        assert_eq!(machine.instructions(), until);
    }
    assert!(machine.x(6) > 15, "it went round");
}

#[test]
fn machine_code_that_takes_too_much_room_is_forgotten_and_made_anew() {
    for seed in 1..6 {
        let (mut plain, mut made) = (hostile(seed), hostile(seed));
        // Less than the first piece takes.
        let pieces = Pieces::with_room(1).expect("a compiler for this host");
        made.compile_with(Box::new(pieces), Hotness { between: 1, seen: 1 });
        plain.run_plainly();
        plain.run(3000);
        made.run(3000);
        assert_eq!(plain.hash(), made.hash(), "seed {seed}");
        // From here on without, and again with it.
        made.interpret();
        made.run(3500);
        made = compiled(made);
        for machine in [&mut plain, &mut made] {
            machine.run(4000);
        }
        assert_eq!(plain.hash(), made.hash(), "seed {seed}");
    }
}

/// When code is there, it is: nobody waits for it.
#[test]
fn machine_code_that_another_thread_makes_changes_nothing() {
    for seed in 1..30 {
        let (mut plain, mut made) = (hostile(seed), hostile(seed));
        let pieces = Pieces::beside().expect("a compiler for this host");
        made.compile_with(Box::new(pieces), Hotness { between: 1, seen: 1 });
        plain.run_plainly();
        for until in (500..8_000).step_by(500) {
            plain.run(until);
            made.run(until);
            assert_eq!(plain.hash(), made.hash(), "seed {seed}, {until}");
        }
    }
}

#[test]
fn an_input_changes_the_state() {
    let (mut with, mut without) = (hostile(3), hostile(3));
    with.input(Input::Console(b"x".to_vec()));
    with.run(1);
    without.run(1);
    assert_ne!(with.hash(), without.hash());
}

#[test]
fn no_program_makes_the_machine_panic() {
    for seed in 1..300 {
        hostile(seed).run(5000);
        compiled(hostile(seed)).run(2000);
    }
}
