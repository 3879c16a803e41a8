//! How fast the machine is beside `qemu-system-riscv64`, whose deterministic mode is `-icount shift=auto`:
//! `speed [KERNEL INITRD]`. Both run the same programs; with a kernel and an initial file system that switches itself off,
//! they boot too, each way once in each round. Two times are compared: that of all processors in user mode, and that on the
//! wall, which others who use the machine make longer; of bare programs QEMU's own start is taken off. In the end it tells how
//! long the machine stands still for a snapshot.

#![forbid(unsafe_code)]

#[path = "../tests/conformance/asm.rs"]
#[allow(dead_code)]
mod asm;

use asm::*;
use rv::{Hotness, Machine, RAM, Stop};
use rvjit::Pieces;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MEMORY: usize = 64 << 20;
const QEMU: &str = "qemu-system-riscv64";
/// The words of the lab's guest: it shall switch itself off as soon as it is ready.
const LINE: &str = "console=ttyS0 earlycon=sbi ud.redis=no ud.off=yes";
/// Each way runs so often.
const ROUNDS: usize = 3;
type Failure = Box<dyn std::error::Error>;

/// How long something took, in seconds.
#[derive(Clone, Copy, Default)]
struct Took {
    /// In user mode, of all threads.
    processor: f64,
    /// From its beginning to its end.
    wall: f64,
}

impl Took {
    fn less(self, other: Took) -> Took {
        Took { processor: self.processor - other.processor, wall: self.wall - other.wall }
    }
}

/// One way to do a job in one round.
type Way<'a> = &'a mut dyn FnMut() -> Result<Took, Failure>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "| job | million instructions | rv, s | QEMU icount, s | QEMU, s | rv / icount | rv, wall s | QEMU icount, wall s | QEMU, wall s | rv / icount, wall |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, program) in [("integers", integers(40_000_000)), ("memory", memory(40))] {
        let mut count = 0;
        let mut ours = || bare(&program, &mut count);
        let mut with = || Ok(bare_on_qemu(&program, true)?.less(bare_on_qemu(&[], true)?));
        let mut without = || Ok(bare_on_qemu(&program, false)?.less(bare_on_qemu(&[], false)?));
        let rounds = rounds([&mut ours, &mut with, &mut without])?;
        row(name, count, &rounds);
    }
    if let [kernel, initrd] = arguments.as_slice() {
        let mut count = 0;
        let mut ours = || boot(kernel, initrd, &mut count);
        let mut with = || boot_on_qemu(kernel, initrd, true);
        let mut without = || boot_on_qemu(kernel, initrd, false);
        let rounds = rounds([&mut ours, &mut with, &mut without])?;
        row("boot", count, &rounds);
    }
    snapshots()
}

/// Each way once in each round.
fn rounds(mut ways: [Way<'_>; 3]) -> Result<Vec<[Took; 3]>, Failure> {
    let mut rounds = vec![[Took::default(); 3]; ROUNDS];
    for round in &mut rounds {
        for (took, way) in round.iter_mut().zip(&mut ways) {
            *took = way()?;
        }
    }
    Ok(rounds)
}

/// How long it takes to save what changed, for 1,000 dirty pages of 256 MiB, and the whole machine.
fn snapshots() -> Result<(), Failure> {
    let (program, _) = with_ending(&touching(1000));
    let mut machine = Machine::new(256 << 20);
    if !machine.put(RAM, &program) {
        return Err("the program does not fit".into());
    }
    machine.run(10_000);
    let began = Instant::now();
    let whole = machine.save();
    let whole_took = began.elapsed();
    let mut times = Vec::new();
    for _ in 0..200 {
        machine.run(machine.instructions() + 10_000);
        let began = Instant::now();
        let changes = machine.save_changes();
        times.push(began.elapsed());
        // The pages of the data; the program does not write to its own.
        if changes.pages().len() != 1000 {
            return Err(format!("{} pages were dirty, not 1,000", changes.pages().len()).into());
        }
    }
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!();
    println!(
        "Snapshot of 256 MiB with 1,000 dirty pages: {:.2} ms (median of {}), {:.2} ms (fastest), {:.2} ms (slowest); whole, {} pages: {:.1} ms",
        millis(times[times.len() / 2]),
        times.len(),
        millis(times[0]),
        millis(times[times.len() - 1]),
        whole.pages().len(),
        millis(whole_took),
    );
    Ok(())
}

/// Stores to one word of each of so many pages, again and again.
fn touching(pages: i32) -> Vec<u32> {
    let mut program = vec![auipc(6, 0x1000)];
    program.extend(li(8, pages));
    program.extend(li(9, 0x3_0000));
    program.extend([sd(8, 6, 0), r(0x33, 0, 0, 6, 6, 9), addi(8, 8, -1), branch(1, 8, 0, -12)]);
    let distance = -4 * program.len() as i32;
    program.push(jal(0, distance));
    program
}

/// Medians, also of the ratios of rounds.
fn row(name: &str, count: u64, rounds: &[[Took; 3]]) {
    let millions = count / 1_000_000;
    let times = |of: fn(&Took) -> f64| {
        let median = |value: &dyn Fn(&[Took; 3]) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let [ours, icount, free] = [0, 1, 2].map(|way| median(&|round| of(&round[way])));
        let ratio = median(&|round| of(&round[0]) / of(&round[1]));
        format!("{ours:.2} | {icount:.2} | {free:.2} | {ratio:.2}")
    };
    println!("| {name} | {millions} | {} | {} |", times(|took| took.processor), times(|took| took.wall));
}

/// A word is stirred so many times: shifts, sums, a product, a branch by chance, a call.
fn integers(times: i32) -> Vec<u32> {
    let mut program = li(5, times).to_vec();
    program.extend(li(10, 88_172_645));
    program.extend([addi(11, 0, 0), addi(12, 0, 1)]);
    let again = program.len() as i32;
    program.extend([i(0x13, 1, 13, 10, 13), r(0x33, 4, 0, 10, 10, 13), i(0x13, 5, 13, 10, 7)]);
    program.extend([r(0x33, 4, 0, 10, 10, 13), i(0x13, 1, 13, 10, 17), r(0x33, 4, 0, 10, 10, 13)]);
    program.extend([i(0x13, 7, 14, 10, 64), branch(0, 14, 0, 8), r(0x33, 0, 0, 11, 11, 10)]);
    program.extend([r(0x33, 0, 1, 12, 12, 10), jal(1, 16), addi(5, 5, -1)]);
    let distance = 4 * (again - program.len() as i32);
    // Behind the loop stands what is called.
    program.extend([
        branch(1, 5, 0, distance),
        jal(0, 16),
        r(0x33, 4, 0, 11, 11, 12),
        addi(12, 12, 3),
        jalr(0, 1, 0),
    ]);
    program
}

/// 8 MiB are written, added up and copied so many times.
fn memory(times: i32) -> Vec<u32> {
    let mut program = li(5, times).to_vec();
    let outer = program.len() as i32;
    let mut pass = |inner: &[u32], step: i32| {
        program.extend([auipc(6, 0x1000), auipc(7, 0x2000), i(0x13, 7, 6, 6, -8), i(0x13, 7, 7, 7, -8)]);
        program.extend(li(8, (8 << 20) / step));
        let again = program.len() as i32;
        program.extend(inner);
        program.extend([addi(6, 6, step), addi(7, 7, step), addi(8, 8, -1)]);
        let distance = 4 * (again - program.len() as i32);
        program.push(branch(1, 8, 0, distance));
    };
    pass(&[sd(8, 6, 0), sd(6, 6, 8)], 16);
    pass(&[ld(9, 6, 0), r(0x33, 0, 0, 11, 11, 9)], 8);
    pass(&[ld(9, 6, 0), ld(10, 6, 8), sd(9, 7, 0), sd(10, 7, 8)], 16);
    program.push(addi(5, 5, -1));
    let distance = 4 * (outer - program.len() as i32);
    program.push(branch(1, 5, 0, distance));
    program
}

/// Behind a program: QEMU is told to end; the machine has nothing there and goes on to its end.
fn with_ending(program: &[u32]) -> (Vec<u8>, u64) {
    let mut all = program.to_vec();
    all.extend([
        auipc(26, 0),
        addi(26, 26, 28),
        csrw(0x305, 26),
        lui(26, 0x100),
        lui(27, 5),
        addi(27, 27, 0x555),
    ]);
    all.push(s(0x23, 2, 26, 27, 0));
    let end = RAM + 4 * all.len() as u64;
    all.push(jal(0, 0));
    (all.iter().flat_map(|word| word.to_le_bytes()).collect(), end)
}

fn compile(machine: &mut Machine) -> Result<(), Failure> {
    machine.compile_with(Box::new(Pieces::beside()?), Hotness::default());
    Ok(())
}

fn bare(program: &[u32], count: &mut u64) -> Result<Took, Failure> {
    let (bytes, end) = with_ending(program);
    let mut machine = Machine::new(MEMORY);
    compile(&mut machine)?;
    if !machine.put(RAM, &bytes) {
        return Err("the program does not fit".into());
    }
    let clock = Clock::begin(OWN)?;
    while machine.x(32) != end {
        machine.run(machine.instructions() + 1_000_000);
    }
    *count = machine.instructions();
    clock.took()
}

fn bare_on_qemu(program: &[u32], icount: bool) -> Result<Took, Failure> {
    let file = std::env::temp_dir().join(format!("rv-speed-{}", std::process::id()));
    std::fs::write(&file, with_ending(program).0)?;
    let loader = format!("loader,addr={RAM:#x},force-raw=on,file={}", file.display());
    let time = qemu(icount, &["-m", "64M", "-bios", "none", "-device", &loader]);
    std::fs::remove_file(&file)?;
    time
}

fn boot(kernel: &str, initrd: &str, count: &mut u64) -> Result<Took, Failure> {
    let (kernel, initrd) = (std::fs::read(kernel)?, std::fs::read(initrd)?);
    let clock = Clock::begin(OWN)?;
    let mut machine = Machine::with_kernel(256 << 20, &kernel, &initrd, LINE)?;
    compile(&mut machine)?;
    loop {
        match machine.run(machine.instructions() + 1_000_000) {
            Stop::Reached => machine.outputs(),
            Stop::PowerOff => break,
            stop => return Err(format!("the guest did not switch itself off: {stop:?}").into()),
        };
    }
    *count = machine.instructions();
    clock.took()
}

fn boot_on_qemu(kernel: &str, initrd: &str, icount: bool) -> Result<Took, Failure> {
    qemu(icount, &["-m", "256M", "-kernel", kernel, "-initrd", initrd, "-append", LINE])
}

/// What QEMU takes until the guest switches itself off.
fn qemu(icount: bool, arguments: &[&str]) -> Result<Took, Failure> {
    let clock = Clock::begin(CHILDREN)?;
    let mut command = Command::new(QEMU);
    command.args(["-machine", "virt", "-nographic", "-no-reboot"]).args(arguments);
    if icount {
        command.args(["-icount", "shift=auto"]);
    }
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("{QEMU} ended with {status}").into());
    }
    clock.took()
}

/// When something began, and what its processor time was then.
struct Clock {
    place: usize,
    used: f64,
    began: Instant,
}

impl Clock {
    fn begin(place: usize) -> Result<Clock, Failure> {
        Ok(Clock { place, used: used(place)?, began: Instant::now() })
    }

    fn took(&self) -> Result<Took, Failure> {
        let wall = self.began.elapsed().as_secs_f64();
        Ok(Took { processor: used(self.place)? - self.used, wall })
    }
}

/// Processor time of this process.
const OWN: usize = 11;
/// Processor time of those that this process waited for.
const CHILDREN: usize = 13;

/// Seconds in user mode, by the place in /proc/self/stat behind the program's name.
fn used(place: usize) -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The name, in parentheses, may have blanks.
    let behind = text.rsplit_once(") ").ok_or("no fields in /proc/self/stat")?.1;
    let ticks: f64 = behind.split(' ').nth(place).ok_or("too few fields in /proc/self/stat")?.parse()?;
    Ok(ticks / 100.0)
}
