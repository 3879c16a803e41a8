//! Owns one stop of another process's main thread: from the attachment to the resumption.

use super::{InjectError, status_field};
use crate::process::PidFd;
use crate::process_memory::{ProcessMemory, mappings};
use std::io;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// How long a main thread may take to stop. It stops at its next return from the kernel: normally microseconds, on
/// a loaded machine milliseconds.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// The bytes of the `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Code segment of 64-bit programs.
const CS_64: u64 = 0x33;
/// Bytes below the stack pointer that a function may use without telling (System V ABI).
const RED_ZONE: u64 = 128;

/// A stopped and attached process; let go when dropped.
pub(super) struct Stopped<'a> {
    target: &'a PidFd,
    tid: libc::pid_t,
    /// ptrace works only on the thread that attached.
    _this_thread: PhantomData<*const ()>,
}

impl<'a> Stopped<'a> {
    /// Attaches to the main thread of `target` and waits until it has stopped.
    pub(super) fn stop(target: &'a PidFd) -> Result<Self, InjectError> {
        let tid = libc::pid_t::try_from(target.pid()).map_err(|_| InjectError::Gone { pid: target.pid() })?;
        // No PTRACE_O_EXITKILL: our end must not be the target's.
        ptrace(libc::PTRACE_SEIZE, tid, 0, 0).map_err(|e| cannot_attach(target, e))?;
        let stopped = Self { target, tid, _this_thread: PhantomData };
        // The number could have changed its owner before the attachment; from now on it cannot.
        if target.is_dead() {
            return Err(InjectError::Gone { pid: target.pid() });
        }
        stopped.request("interrupt", libc::PTRACE_INTERRUPT, 0, 0)?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            match stopped.wait(Some(deadline))? {
                Stop::Event => return Ok(stopped),
                // A signal was on its way already: let it through, the interruption stays pending.
                Stop::Signal(signal) => stopped.request("continue", libc::PTRACE_CONT, 0, signal as usize)?,
            };
        }
    }

    fn pid(&self) -> u32 {
        self.target.pid()
    }

    /// Waits for the next stop. Never reaps the target's death: that is its parent's.
    fn wait(&self, deadline: Option<Instant>) -> Result<Stop, InjectError> {
        for round in 0_u32.. {
            if let Some(stop) = self.poll_stop()? {
                return Ok(stop);
            }
            if self.target.is_dead() {
                return Err(InjectError::Gone { pid: self.pid() });
            }
            if deadline.is_some_and(|d| Instant::now() > d) {
                return Err(InjectError::Stuck { pid: self.pid(), millis: STOP_LIMIT.as_millis() });
            }
            // There is no descriptor for ptrace stops, and SIGCHLD is the program's. A stop takes microseconds.
            if round < 200 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        unreachable!("the loop above has no end")
    }

    fn poll_stop(&self) -> Result<Option<Stop>, InjectError> {
        // SAFETY: all-zero is a valid siginfo_t, and waitid writes to it only.
        let (rc, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = libc::id_t::from(self.pid());
            let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
            (libc::waitid(libc::P_PID, id, &raw mut info, options), info)
        };
        if rc == -1 {
            return Err(self.failed("wait for", io::Error::last_os_error()));
        }
        // SAFETY: after a successful waitid these fields are set, or zero if nothing has happened.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let stop =
            if status >> 8 == libc::PTRACE_EVENT_STOP { Stop::Event } else { Stop::Signal(status & 0x7f) };
        Ok((pid != 0).then_some(stop))
    }

    fn registers(&self) -> Result<libc::user_regs_struct, InjectError> {
        // SAFETY: all-zero is a valid value of this structure of integers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        self.request("read the registers of", libc::PTRACE_GETREGS, 0, (&raw mut registers) as usize)?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<(), InjectError> {
        let at = std::ptr::from_ref(registers) as usize;
        self.request("set the registers of", libc::PTRACE_SETREGS, 0, at)
    }

    fn signal_mask(&self) -> Result<u64, InjectError> {
        let mut mask = 0_u64;
        self.request("read the signal mask of", libc::PTRACE_GETSIGMASK, 8, (&raw mut mask) as usize)?;
        Ok(mask)
    }

    fn set_signal_mask(&self, mask: u64) -> Result<(), InjectError> {
        self.request("set the signal mask of", libc::PTRACE_SETSIGMASK, 8, (&raw const mask) as usize)
    }

    fn request(
        &self,
        action: &'static str,
        request: libc::c_uint,
        address: usize,
        data: usize,
    ) -> Result<(), InjectError> {
        ptrace(request, self.tid, address, data).map_err(|e| self.failed(action, e))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> InjectError {
        // A tracee that is killed leaves its stop, and ptrace then says that there is no such process.
        match source.raw_os_error() {
            Some(libc::ESRCH | libc::ECHILD) => InjectError::Gone { pid: self.pid() },
            _ => InjectError::System { action, pid: self.pid(), source },
        }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // Fails if the target is dead or (after a time-out) not stopped; the end of this thread detaches then.
        let _ = ptrace(libc::PTRACE_DETACH, self.tid, 0, 0);
    }
}

enum Stop {
    /// Stopped by our interruption, or by a group-stop.
    Event,
    /// About to get this signal.
    Signal(i32),
}

/// A stopped process in which system calls can be run. Its registers and its signal mask are put back at the end.
pub struct Session<'a> {
    stopped: Stopped<'a>,
    memory: ProcessMemory,
    /// Where a `syscall` instruction is.
    instruction: u64,
    saved: libc::user_regs_struct,
    saved_mask: u64,
    /// Signals that arrived meanwhile and could not be blocked: sent again afterwards.
    deferred: Vec<i32>,
    released: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(stopped: Stopped<'a>) -> Result<Self, InjectError> {
        let saved = stopped.registers()?;
        let (memory, instruction) = borrow_instruction(stopped.pid(), &saved).or_else(|error| {
            // A target that was killed meanwhile has no memory; but then it has left its stop as well.
            stopped.registers()?;
            Err(error)
        })?;
        let saved_mask = stopped.signal_mask()?;
        stopped.set_signal_mask(!synchronous_signals())?;
        Ok(Self { stopped, memory, instruction, saved, saved_mask, deferred: Vec::new(), released: false })
    }

    /// Runs one system call. It must be one that does not block: the target stands still.
    ///
    /// # Errors
    /// [`InjectError::Call`] if it failed; else what kept it from being run.
    pub fn system_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, InjectError> {
        let mut registers = self.saved;
        registers.rip = self.instruction;
        registers.rax = number.cast_unsigned();
        // Not in a system call, so the kernel must not restart the one that was interrupted.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = arguments;
        self.stopped.set_registers(&registers)?;
        let answer = self.step_over_instruction()?.cast_signed();
        if (-4095..0).contains(&answer) {
            let errno = i32::try_from(-answer).expect("at most 4095");
            let source = io::Error::from_raw_os_error(errno);
            return Err(InjectError::Call { pid: self.stopped.pid(), number, source });
        }
        Ok(answer.cast_unsigned())
    }

    /// An address of `len` writable bytes below the target's stack, aligned to 64; theirs to use until the end of
    /// the session.
    #[must_use]
    pub fn scratch(&self, len: u64) -> u64 {
        (self.saved.rsp - RED_ZONE - len) & !63
    }

    /// The target's memory.
    #[must_use]
    pub fn memory(&self) -> &ProcessMemory {
        &self.memory
    }

    /// Returns when the trap of the step has been taken. A stop or a continuation that arrives meanwhile makes the target
    /// report *before* it, with the instruction behind it (Linux kernel/signal.c, get_signal): the trap, left
    /// pending, would kill it after the detachment.
    fn step_over_instruction(&mut self) -> Result<u64, InjectError> {
        let mut answer = None;
        loop {
            self.stopped.request("step", libc::PTRACE_SINGLESTEP, 0, 0)?;
            // Without a limit: to give up now would leave it with foreign registers.
            let stop = self.stopped.wait(None)?;
            let now = self.stopped.registers()?;
            if now.rip != self.instruction {
                answer = answer.or(Some(now.rax));
            }
            match (stop, answer) {
                (Stop::Signal(libc::SIGTRAP), Some(answer)) => return Ok(answer),
                (Stop::Signal(libc::SIGTRAP) | Stop::Event, _) => {}
                (Stop::Signal(signal), _) => self.deferred.push(signal),
            }
        }
    }

    /// Puts everything back and lets the target run.
    pub(super) fn release(mut self) -> Result<(), InjectError> {
        self.restore()
    }

    fn restore(&mut self) -> Result<(), InjectError> {
        if std::mem::replace(&mut self.released, true) {
            return Ok(());
        }
        self.stopped.set_registers(&self.saved)?;
        self.stopped.set_signal_mask(self.saved_mask)?;
        self.stopped.request("detach from", libc::PTRACE_DETACH, 0, 0)?;
        for signal in self.deferred.drain(..) {
            // SAFETY: kill takes numbers. The target is a tracee of ours or was a moment ago; if it is dead and its
            // number reused within that moment the signal would be misdirected, which its pidfd rules out.
            if !self.stopped.target.is_dead() && unsafe { libc::kill(self.stopped.tid, signal) } == -1 {
                return Err(self.stopped.failed("signal", io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Only after a panic or an error is anything left to do; its own error has nowhere to go.
        let _ = self.restore();
    }
}

/// Signals that the kernel forces on a thread for what it does itself. Blocked, they would kill; SIGTRAP is the
/// single step's own.
fn synchronous_signals() -> u64 {
    [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS]
        .iter()
        .fold(0, |set, signal| set | 1 << (signal - 1))
}

/// The target's memory, and in it the address of two bytes that mean `syscall`. The vDSO has some for its fall-backs;
/// they need not be an instruction of its own, only one when executed.
fn borrow_instruction(
    pid: u32,
    registers: &libc::user_regs_struct,
) -> Result<(ProcessMemory, u64), InjectError> {
    let memory = ProcessMemory::open(pid)?;
    let all = mappings(pid)?;
    let vdso = all.iter().find(|m| m.path == "[vdso]" && m.executable && registers.cs == CS_64);
    let start = vdso.map_or(0, |m| m.range.start);
    let mut code = vec![0; vdso.map_or(0, |m| usize::try_from(m.range.len).expect("a vDSO is small"))];
    memory.read(start, &mut code)?;
    let at = code.windows(2).position(|bytes| bytes == SYSCALL);
    let offset = at.ok_or(InjectError::NoInstruction { pid })?;
    Ok((memory, start + offset as u64))
}

fn cannot_attach(target: &PidFd, source: io::Error) -> InjectError {
    let pid = target.pid();
    // A zombie, too, is refused with EPERM.
    if source.raw_os_error() == Some(libc::ESRCH) || target.is_dead() {
        return InjectError::Gone { pid };
    }
    let tracer =
        status_field(pid, "TracerPid").ok().flatten().and_then(|t| t.parse().ok()).filter(|t| *t != 0);
    InjectError::NotAllowed { pid, tracer, source }
}

/// One ptrace request. `data` is a number, or the address of a live value of the type that the request wants.
fn ptrace(request: libc::c_uint, tid: libc::pid_t, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: every caller in this file passes as `data` either a number, for requests that take one, or the
    // address of a local of the right type and size; the kernel checks everything else.
    let rc = unsafe { libc::ptrace(request, tid, address, data) };
    if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
