//! Programs by chance, run by this machine and by `qemu-system-riscv64`: both must leave the same memory, in which the
//! programs put down their registers and every trap.
//!
//! `RV_CONFORMANCE_FIRST` and `RV_CONFORMANCE_SEEDS` choose the seeds; `cargo xtask rv-conformance` sets them.

#![forbid(unsafe_code)]

mod asm;
mod draw;
mod instructions;
mod layout;
mod qemu;
mod snapshots;
mod units;

use draw::Draw;
use layout::*;
use rv::{Hotness, Machine, Stop};
use rvjit::Pieces;
use units::Unit;

/// A program, and where its units begin.
struct Program {
    ram: Vec<u8>,
    units: Vec<(usize, Unit)>,
    end: u64,
}

fn program(seed: u64) -> Program {
    let mut draw = Draw::new(seed);
    let mut ram = frame(&mut draw);
    let mut units = Vec::new();
    let (mut at, mut logged) = (CODE, LOG);
    // Room for the longest unit, and for what it puts down at most.
    while at + 4096 < LOG && logged + 4096 < LOG_END {
        let unit = units::unit(&mut draw);
        ram[at..at + unit.bytes.len()].copy_from_slice(&unit.bytes);
        let end = at + unit.bytes.len();
        let all = unit.kind == units::Kind::Floating;
        let to = if all { PUT_DOWN_ALL } else { PUT_DOWN };
        // The routine may be further away than one instruction jumps.
        put(&mut ram, end, &call(to as i64 - end as i64));
        logged += 1024;
        units.push((at, unit));
        at = end + 8;
    }
    put(&mut ram, at, &ending());
    Program { ram, units, end: RAM + at as u64 + 28 }
}

fn call(distance: i64) -> [u32; 2] {
    let low = (distance as i32) << 20 >> 20;
    let upper = (distance as i32).wrapping_sub(low) as u32 >> 12;
    [asm::auipc(27, upper), asm::jalr(27, 27, low)]
}

/// The same machine, with machine code for what is executed some times.
fn compiled(mut machine: Machine) -> Machine {
    let pieces = Pieces::new().expect("a compiler for this host");
    machine.compile_with(Box::new(pieces), Hotness { between: 61, seen: 2 });
    machine
}

/// Runs a program on this machine; the RAM it leaves, and the count of instructions.
fn run_here(program: &Program) -> (Vec<u8>, u64) {
    let mut machine = compiled(Machine::new(SIZE));
    assert!(machine.put(RAM, &program.ram));
    let slice = 1 << 16;
    while machine.x(32) != program.end && machine.instructions() < 1 << 26 {
        if machine.run(machine.instructions() + slice) != Stop::Reached {
            break;
        }
    }
    if machine.x(32) != program.end {
        eprintln!("here the program did not come to its end: {}", describe(program, &machine));
    }
    (machine.ram().to_vec(), machine.instructions())
}

fn word(ram: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(ram[at..at + 8].try_into().expect("eight bytes"))
}

/// Says which unit put down what differs.
fn explain(seed: u64, program: &Program, ours: &[u8], theirs: &[u8]) -> String {
    let differs =
        |range: std::ops::Range<usize>| range.step_by(8).find(|&at| word(ours, at) != word(theirs, at));
    let place = differs(LOG..LOG_END).or_else(|| differs(0..COMPARED));
    let Some(place) = place else { return String::new() };
    let mut text = format!(
        "seed {seed}: at {place:#x} ours {:#x}, QEMU's {:#x}\n",
        word(ours, place),
        word(theirs, place)
    );
    if !(LOG..LOG_END).contains(&place) {
        return text;
    }
    // The unit whose end is put down next, on the side of this machine.
    let mut machine = Machine::new(SIZE);
    assert!(machine.put(RAM, &program.ram));
    while machine.x(31) <= RAM + place as u64 && machine.x(32) != program.end {
        machine.run(machine.instructions() + 1);
    }
    text += &describe(program, &machine);
    let start = place & !63;
    for at in ((start - 128).max(LOG)..start + 256).step_by(8) {
        let (a, b) = (word(ours, at), word(theirs, at));
        text += &format!("\n{at:#x} [{}] {a:16x} {b:16x}{}", at % 64 / 8, if a == b { "" } else { "  <" });
    }
    text
}

/// The unit that the machine is in.
fn describe(program: &Program, machine: &Machine) -> String {
    let end = machine.x(29).wrapping_sub(RAM) as usize;
    let Some((at, unit)) = program.units.iter().find(|(at, unit)| at + unit.bytes.len() == end) else {
        return format!("outside of all units, at {:#x}", machine.x(32));
    };
    let halves: Vec<String> =
        unit.bytes.chunks(2).map(|half| format!("{:02x}{:02x}", half[1], half[0])).collect();
    format!(
        "{:?} in {:?}, x30 {:#x}, begins at {:#x}, is at {:#x}:\n{}",
        unit.kind,
        unit.mode,
        machine.x(30),
        RAM + *at as u64,
        machine.x(32),
        halves.join(" ")
    )
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn neither_decoded_nor_compiled_instructions_nor_cuts_are_to_be_seen() {
    for seed in 1000..1002 {
        let program = program(seed);
        let (mut plain, mut fast, mut cut) = (Machine::new(SIZE), Machine::new(SIZE), Machine::new(SIZE));
        let (mut made, mut made_cut) = (compiled(Machine::new(SIZE)), compiled(Machine::new(SIZE)));
        plain.run_plainly();
        for machine in [&mut plain, &mut fast, &mut cut, &mut made, &mut made_cut] {
            assert!(machine.put(RAM, &program.ram));
        }
        let mut draw = Draw::new(seed);
        while fast.x(32) != program.end && fast.instructions() < 1 << 26 {
            let until = fast.instructions() + 1 + u64::from(draw.below(300_000));
            fast.run(until);
            plain.run(until);
            made.run(until);
            while cut.instructions() < until {
                let next = (cut.instructions() + 1 + u64::from(draw.below(300))).min(until);
                made_cut.run(next);
                if cut.run(next) != Stop::Reached {
                    break;
                }
            }
            let hashes = [&plain, &fast, &cut, &made, &made_cut].map(Machine::hash);
            assert_eq!(hashes, [hashes[0]; 5], "seed {seed}, before {until}");
        }
    }
}

#[test]
fn programs_leave_what_they_leave_on_qemu() {
    if !qemu::is_installed() {
        eprintln!("SKIPPED: qemu-system-riscv64 is not installed (Debian: qemu-system-misc)");
        return;
    }
    let first = from_environment("RV_CONFORMANCE_FIRST", 1);
    let mut instructions = 0;
    for seed in first..first + from_environment("RV_CONFORMANCE_SEEDS", 2) {
        let program = program(seed);
        let (theirs, ended) = qemu::run(&program.ram);
        let (ours, count) = run_here(&program);
        instructions += count;
        let same = ours[..COMPARED] == theirs[..COMPARED];
        assert!(same, "{}", explain(seed, &program, &ours, &theirs));
        assert!(ended, "seed {seed}: the program did not come to its end on QEMU");
    }
    eprintln!("{instructions} instructions, no difference");
}
