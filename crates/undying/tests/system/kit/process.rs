//! Owns processes as the tests see them: killed by their number, and told from a later one of the same number.

use rustix::process::{Pid, Signal, kill_process};

/// A process that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

/// The process of a VM. One in the deterministic machine has none of its own: it is a part of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmProcess(pub Option<Process>);

impl VmProcess {
    /// Whether there is one that still runs, or none is needed.
    pub fn is_there(self) -> bool {
        self.0.is_none_or(Process::is_alive)
    }

    /// Whether none runs any more.
    pub fn is_gone(self) -> bool {
        self.0.is_none_or(|process| !process.is_alive())
    }

    /// Waits until it is dead, if there is one.
    pub fn wait_gone(self) {
        if let Some(process) = self.0 {
            process.wait_gone();
        }
    }
}

impl Process {
    /// The process with this number, which must be alive.
    pub fn of(pid: u32) -> Self {
        let started = start_time(pid).unwrap_or_else(|| panic!("process {pid} is not alive"));
        Self { pid, started }
    }

    /// Whether it still runs. One that ended and was not waited for by its parent is dead.
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// SIGKILL, to this process alone.
    pub fn kill(self) {
        self.signal(Signal::KILL);
    }

    /// It stands still until it is thawed.
    pub fn freeze(self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn thaw(self) {
        self.signal(Signal::CONT);
    }

    fn signal(self, signal: Signal) {
        assert!(self.is_alive(), "process {} ended before it was sent {signal:?}", self.pid);
        let pid = Pid::from_raw(self.pid.cast_signed()).expect("a process number");
        kill_process(pid, signal).expect("our own process can be sent a signal");
    }

    /// Waits until it is dead.
    pub fn wait_gone(self) {
        let alive = || format!("process {} is still alive", self.pid);
        super::wait_for("the end of a process", || (!self.is_alive()).then_some(()), alive);
    }

    /// Its resident memory in bytes.
    pub fn resident(self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib =
            line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("the process is alive") << 10
    }
}

/// When a living process was started, in the kernel's ticks (proc(5), field 22 of `stat`).
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    (!matches!(fields[0], "Z" | "X")).then(|| fields[19].parse().ok())?
}
