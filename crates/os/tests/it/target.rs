//! Owns the processes that the tests work on: how they are started, what they do, and how to talk to them.
//!
//! A target is told what to do by its environment and talks over its standard input and output, and through a page
//! of shared memory with counters. It leaves for `main_of_target` before the test harness starts, on its main thread.

use os::process::Exit;
use os::process_memory::mappings;
use os::tracker::Cooling;
use os::{Child, Memory, PAGE_SIZE, Range, Spawn, Tracker};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{ChildStdin, ChildStdout, Stdio};

const MODE: &str = "OS_TEST_TARGET";
const CONTROL: &str = "OS_TEST_CONTROL";
const MEMORY: &str = "OS_TEST_MEMORY";
const ARGUMENT: &str = "OS_TEST_ARGUMENT";

/// Counters in the control page, by their index.
pub const PROGRESS: u64 = 0;
pub const STOP: u64 = 1;
pub const SIGNALS: u64 = 2;
pub const INTERRUPTED: u64 = 3;
pub const BROKEN: u64 = 4;
/// Counters from here on: progress of one writer thread each.
const WRITERS: u64 = 8;
pub const WRITER_THREADS: u64 = 3;

/// Pages of private memory that the mode `write` writes to.
pub const PRIVATE_PAGES: u64 = 1024;
/// As its argument: maps the memory, but writes nothing.
pub const QUIET: &str = "quiet";
/// As its argument: each writer rests between its writes.
pub const SLOW: &str = "slow";
/// Name of the shared memory it writes to.
pub const SHARED_NAME: &str = "tracked-shared";

/// A running target; killed when dropped.
pub struct Target {
    pub child: Child,
    pub stdin: ChildStdin,
    pub stdout: BufReader<ChildStdout>,
    control: Memory,
    /// What it said when it was ready.
    pub greeting: String,
}

impl Target {
    pub fn start(mode: &str) -> Self {
        Self::start_with(mode, "", None)
    }

    pub fn start_with(mode: &str, argument: &str, memory: Option<&Memory>) -> Self {
        let control = Memory::create("control", PAGE_SIZE).unwrap();
        let mut spawn = Spawn::new(std::env::current_exe().unwrap());
        let number = spawn.inherit(control.fd().try_clone_to_owned().unwrap());
        spawn.env(MODE, mode).env(CONTROL, number.to_string()).env(ARGUMENT, argument);
        if let Some(memory) = memory {
            let number = spawn.inherit(memory.fd().try_clone_to_owned().unwrap());
            spawn.env(MEMORY, number.to_string());
        }
        spawn.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut target = Self { child, stdin, stdout, control, greeting: String::new() };
        target.greeting = target.line();
        target
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    /// Sends a line and returns the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.line()
    }

    pub fn counter(&self, index: u64) -> u64 {
        counter(&self.control, index)
    }

    pub fn set_counter(&self, index: u64, value: u64) {
        self.control.write_at(index * 8, &value.to_ne_bytes());
    }

    /// Writes that all writer threads together have made.
    pub fn writes(&self) -> u64 {
        (0..WRITER_THREADS).map(|thread| self.counter(WRITERS + thread)).sum()
    }

    /// Waits until a counter has reached a value.
    pub fn await_counter(&self, index: u64, value: u64) {
        while self.counter(index) < value {
            assert!(!self.child.pidfd().is_dead(), "the target died");
            std::thread::yield_now();
        }
    }

    /// Its mapping with this in its path.
    pub fn mapping_of(&self, path: &str) -> Range {
        let all = mappings(self.pid()).unwrap();
        all.iter().find(|m| m.path.contains(path) && m.writable).map(|m| m.range).unwrap()
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        entries.filter_map(|e| Some(std::fs::read_link(e.ok()?.path()).ok()?.display().to_string())).collect()
    }

    /// Stops all its threads, and waits until they have stopped.
    pub fn pause(&self) {
        self.child.pidfd().send_signal(rustix::process::Signal::STOP).unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        let options = rustix::process::WaitOptions::UNTRACED;
        let (_, status) = rustix::process::waitpid(pid, options).unwrap().unwrap();
        assert!(status.stopped(), "the target ended");
    }

    pub fn resume(&self) {
        self.child.pidfd().send_signal(rustix::process::Signal::CONT).unwrap();
    }

    /// State of its main thread: `S` sleeps, `R` runs, `T` is stopped.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    pub fn finish(mut self) -> Exit {
        self.set_counter(STOP, 1);
        drop(self.stdin);
        self.child.wait(None).unwrap().unwrap()
    }
}

fn counter(control: &Memory, index: u64) -> u64 {
    let mut bytes = [0; 8];
    control.read_at(index * 8, &mut bytes);
    u64::from_ne_bytes(bytes)
}

fn count(control: &Memory, index: u64) {
    control.write_at(index * 8, &(counter(control, index) + 1).to_ne_bytes());
}

/// A tracker of memory that is all cold, if that is allowed.
pub fn all_cold(pid: u32, range: Range) -> Tracker {
    let cooling = Cooling { from: 0, after: std::time::Duration::ZERO, most_told: u32::MAX };
    let mut tracker = Tracker::attach_cooling(pid, &[range], cooling).unwrap();
    while tracker.settle().unwrap() {}
    tracker
}

/// Random numbers that a seed repeats (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

// ---- from here on: inside the target ----

// SAFETY: the C library calls the functions of this section once, before `main`, with the process set up.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = become_target;

extern "C" fn become_target() {
    if let Ok(mode) = std::env::var(MODE) {
        main_of_target(&mode);
        std::process::exit(0);
    }
}

fn inherited(variable: &str, name: &str) -> Memory {
    let number = std::env::var(variable).unwrap().parse().unwrap();
    // SAFETY: the parent has passed this descriptor to us, and nobody else uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Memory::from_fd(name, fd).unwrap()
}

fn main_of_target(mode: &str) {
    let control = inherited(CONTROL, "control");
    match mode {
        "poll" => {
            ready("ready");
            poll(&control);
        }
        "busy" => busy(&control),
        "write" => write(&control),
        "filtered" => filtered(&control),
        "kvm" => kvm(&control),
        "agent" => agent(),
        "parent" => parent(),
        "one-byte" => inherited(MEMORY, "given").write_at(5, b"x"),
        other => panic!("no mode {other}"),
    }
}

fn ready(what: &str) {
    println!("{what}");
}

/// Echoes lines. Waits in `ppoll` as QEMU's main loop does; counts what it should never see.
fn poll(control: &Memory) {
    let mut line = Vec::new();
    loop {
        let mut fd = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd; no time-out and no mask are null.
        let rc = unsafe { libc::ppoll(&raw mut fd, 1, std::ptr::null(), std::ptr::null()) };
        count(control, PROGRESS);
        if rc < 0 {
            count(control, INTERRUPTED);
            continue;
        }
        let mut byte = [0];
        match rustix::io::read(std::io::stdin(), &mut byte) {
            Ok(0) | Err(_) => return,
            Ok(_) if byte[0] != b'\n' => line.push(byte[0]),
            Ok(_) => obey(&String::from_utf8(std::mem::take(&mut line)).unwrap()),
        }
    }
}

fn obey(line: &str) {
    if let Some(range) = line.strip_prefix("remap ") {
        let (start, len) = range.split_once(' ').unwrap();
        map_private(start.parse().unwrap(), len.parse().unwrap());
    }
    println!("{line}");
}

/// Computes without a pause, twice over, and counts every difference. Counts real-time signals.
fn busy(control: &Memory) {
    static SEEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    extern "C" fn on_signal(_: libc::c_int) {
        SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    // SAFETY: the handler only touches an atomic.
    unsafe { libc::signal(libc::SIGRTMIN(), on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    ready("ready");
    let (mut one, mut two) = (Random(1), Random(1));
    while counter(control, STOP) == 0 {
        let (mut a, mut b) = (0, 0);
        for _ in 0..1000 {
            a ^= std::hint::black_box(one.next());
        }
        for _ in 0..1000 {
            b ^= std::hint::black_box(two.next());
        }
        if a != b {
            count(control, BROKEN);
        }
        count(control, PROGRESS);
        let seen = SEEN.load(std::sync::atomic::Ordering::Relaxed);
        control.write_at(SIGNALS * 8, &seen.to_ne_bytes());
    }
}

fn map_private(at: usize, len: usize) -> usize {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    // SAFETY: a new mapping, or one in place of memory that the test names and nothing here refers to.
    let at = unsafe { libc::mmap(at as *mut _, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at as usize
}

/// Several threads write at random to shared and to private memory, by themselves and through the kernel.
fn write(control: &Memory) {
    let shared = inherited(MEMORY, SHARED_NAME);
    let private = map_private(0, (PRIVATE_PAGES * PAGE_SIZE) as usize);
    let argument = std::env::var(ARGUMENT).unwrap();
    let threads = if argument == QUIET { 0 } else { WRITER_THREADS };
    let rest = std::time::Duration::from_micros(if argument == SLOW { 50 } else { 0 });
    ready(&format!("{private}"));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let shared = &shared;
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                while counter(control, STOP) == 0 {
                    write_once(&mut random, shared, private as u64);
                    count(control, WRITERS + thread);
                    if !rest.is_zero() {
                        std::thread::sleep(rest);
                    }
                }
            });
        }
        poll(control);
    });
}

fn write_once(random: &mut Random, shared: &Memory, private: u64) {
    let (is_shared, value) = (random.below(2) == 0, random.next().to_ne_bytes());
    let pages = if is_shared { shared.len() / PAGE_SIZE } else { PRIVATE_PAGES };
    // Half of the writes go to a few hot pages.
    let page = if random.below(2) == 0 { random.below(16) } else { random.below(pages) };
    let whole = random.below(16) == 0;
    let offset = page * PAGE_SIZE + if whole { 0 } else { random.below(PAGE_SIZE - 8) };
    let bytes = if whole { &[value[0]; 4096][..] } else { &value[..] };
    if is_shared {
        return shared.write_at(offset, bytes);
    }
    let to = (private + offset) as *mut u8;
    if random.below(8) == 0 {
        // By the kernel: it copies random bytes to us.
        // SAFETY: the bytes are inside the private mapping, which nothing refers to.
        unsafe { libc::getrandom(to.cast(), bytes.len(), 0) };
    } else {
        // SAFETY: as above; other threads may write at the same time, and nobody here reads.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
}

/// Like `poll`, under a seccomp filter that allows everything.
fn filtered(control: &Memory) {
    let mut allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
    // SAFETY: the program is one live instruction; the kernel copies it.
    let rc = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(rc, 0);
    ready("ready");
    poll(control);
}

/// Makes a KVM virtual machine and waits.
fn kvm(control: &Memory) {
    const KVM_CREATE_VM: libc::c_ulong = 0xae01;
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
    // SAFETY: the ioctl takes a number.
    let vm = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&device), KVM_CREATE_VM, 0) };
    assert!(vm >= 0, "{}", std::io::Error::last_os_error());
    ready("ready");
    poll(control);
}

/// Tracks some memory of the process named in the argument, until it is killed. All of it is cold, if that is allowed.
fn agent() {
    let argument = std::env::var(ARGUMENT).unwrap();
    let numbers: Vec<u64> = argument.split(' ').map(|n| n.parse().unwrap()).collect();
    let range = Range::new(numbers[1], numbers[2]);
    let pid = u32::try_from(numbers[0]).unwrap();
    let _tracker = all_cold(pid, range);
    ready("tracking");
    std::io::stdin().lines().count();
}

/// Spawns a child and tells its number.
fn parent() {
    let mut spawn = Spawn::new("sleep");
    spawn.arg("1000").stdout(Stdio::null());
    let child = spawn.spawn().unwrap();
    ready(&child.pid().to_string());
    std::io::stdin().lines().count();
}
