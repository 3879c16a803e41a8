//! Owns gdb's view of a machine: registers, memory, breakpoints, watchpoints, steps in both directions. It may look and
//! not touch: what a debugger wrote would be no part of the recording.

use super::registers;
use super::subject::{Subject, SubjectError, Way, Why};
use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::outputln;
use gdbstub::stub::SingleThreadStopReason;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::reverse_exec::{
    ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::riscv::Riscv64;
use gdbstub_arch::riscv::reg::RiscvCoreRegs;
use gdbstub_arch::riscv::reg::id::RiscvRegId;
use rv::{Stops, Watch};
use std::marker::PhantomData;
use std::net::TcpStream;

/// A machine under gdb.
pub(super) struct Debuggee<S> {
    pub subject: S,
    stops: Stops,
    way: Way,
    description: String,
}

impl<S: Subject> Debuggee<S> {
    pub fn new(subject: S) -> Debuggee<S> {
        let (stops, description) = (Stops::default(), registers::description());
        Debuggee { subject, stops, way: Way::On, description }
    }

    fn set_breakpoint(&mut self, address: u64, there: bool) {
        if there {
            self.stops.breakpoints.insert(address);
        } else {
            self.stops.breakpoints.remove(&address);
        }
        self.subject.set_stops(&self.stops);
    }

    /// Goes the way that was asked for, as far as it is or until gdb says something.
    fn go(&mut self, connection: &mut TcpStream) -> Result<Event<SingleThreadStopReason<u64>>, Failed> {
        let mut heard = || !matches!(connection.peek(), Ok(None));
        let why = self.subject.go(self.way, &mut heard).map_err(WaitForStopReasonError::Target)?;
        let reason = match why {
            Why::Stepped | Why::Asked => SingleThreadStopReason::DoneStep,
            Why::Breakpoint => SingleThreadStopReason::SwBreak(()),
            Why::Watched(watch) => {
                SingleThreadStopReason::Watch { tid: (), kind: kind_of(&watch), addr: watch.address }
            }
            Why::Begin => SingleThreadStopReason::ReplayLog { tid: None, pos: ReplayLogPosition::Begin },
            Why::End => SingleThreadStopReason::ReplayLog { tid: None, pos: ReplayLogPosition::End },
            Why::Over => SingleThreadStopReason::Exited(0),
            Why::Interrupted => {
                let byte = connection.read().map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
        };
        Ok(Event::TargetStopped(reason))
    }
}

type Failed = WaitForStopReasonError<SubjectError, std::io::Error>;

fn kind_of(watch: &Watch) -> WatchKind {
    match (watch.loads, watch.stores) {
        (true, true) => WatchKind::ReadWrite,
        (true, false) => WatchKind::Read,
        (false, _) => WatchKind::Write,
    }
}

fn watch_of(address: u64, length: u64, kind: WatchKind) -> Watch {
    Watch { address, length, loads: kind != WatchKind::Write, stores: kind != WatchKind::Read }
}

/// Between gdb's commands.
pub(super) struct Loop<S>(PhantomData<S>);

impl<S: Subject> BlockingEventLoop for Loop<S> {
    type Target = Debuggee<S>;
    type Connection = TcpStream;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        target: &mut Debuggee<S>,
        connection: &mut TcpStream,
    ) -> Result<Event<SingleThreadStopReason<u64>>, Failed> {
        target.go(connection)
    }

    fn on_interrupt(_: &mut Debuggee<S>) -> Result<Option<SingleThreadStopReason<u64>>, SubjectError> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}

impl<S: Subject> Target for Debuggee<S> {
    type Arch = Riscv64;
    type Error = SubjectError;

    fn base_ops(&mut self) -> BaseOps<'_, Riscv64, SubjectError> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl<S: Subject> TargetDescriptionXmlOverride for Debuggee<S> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let text = self.description.as_bytes();
        let rest = &text[usize::try_from(offset).unwrap_or(usize::MAX).min(text.len())..];
        let count = rest.len().min(length).min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl<S: Subject> SingleThreadBase for Debuggee<S> {
    fn read_registers(&mut self, registers: &mut RiscvCoreRegs<u64>) -> TargetResult<(), Self> {
        let machine = self.subject.machine();
        registers.x = std::array::from_fn(|register| machine.x(register));
        registers.pc = machine.x(32);
        Ok(())
    }

    fn write_registers(&mut self, _: &RiscvCoreRegs<u64>) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, (), Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, address: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        match self.subject.machine().peek(address, data) {
            0 if !data.is_empty() => Err(TargetError::NonFatal),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, _: u64, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl<S: Subject> SingleRegisterAccess<()> for Debuggee<S> {
    fn read_register(
        &mut self,
        (): (),
        register: RiscvRegId<u64>,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let machine = self.subject.machine();
        let bytes = match register {
            RiscvRegId::Gpr(number) => machine.x(number.into()).to_le_bytes().to_vec(),
            RiscvRegId::Fpr(number) => machine.f(number.into()).to_le_bytes().to_vec(),
            RiscvRegId::Pc => machine.x(32).to_le_bytes().to_vec(),
            RiscvRegId::Csr(number) => registers::control(machine, number).ok_or(TargetError::NonFatal)?,
            RiscvRegId::Priv => vec![machine.mode() as u8],
            _ => return Err(TargetError::NonFatal),
        };
        buffer.get_mut(..bytes.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, (): (), _: RiscvRegId<u64>, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }
}

impl<S: Subject> SingleThreadResume for Debuggee<S> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), SubjectError> {
        self.way = Way::On;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Self>> {
        if self.subject.goes_back() { Some(self) } else { None }
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Self>> {
        if self.subject.goes_back() { Some(self) } else { None }
    }
}

impl<S: Subject> SingleThreadSingleStep for Debuggee<S> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), SubjectError> {
        self.way = Way::Step;
        Ok(())
    }
}

impl<S: Subject> ReverseStep<()> for Debuggee<S> {
    fn reverse_step(&mut self, (): ()) -> Result<(), SubjectError> {
        self.way = Way::StepBack;
        Ok(())
    }
}

impl<S: Subject> ReverseCont<()> for Debuggee<S> {
    fn reverse_cont(&mut self) -> Result<(), SubjectError> {
        self.way = Way::Back;
        Ok(())
    }
}

impl<S: Subject> Breakpoints for Debuggee<S> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl<S: Subject> SwBreakpoint for Debuggee<S> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.set_breakpoint(address, true);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.set_breakpoint(address, false);
        Ok(true)
    }
}

/// Both kinds are the same here: neither changes memory.
impl<S: Subject> HwBreakpoint for Debuggee<S> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.set_breakpoint(address, true);
        Ok(true)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.set_breakpoint(address, false);
        Ok(true)
    }
}

impl<S: Subject> HwWatchpoint for Debuggee<S> {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        self.stops.watches.push(watch_of(address, length, kind));
        self.subject.set_stops(&self.stops);
        Ok(true)
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let wanted = watch_of(address, length, kind);
        let found = self.stops.watches.iter().position(|watch| *watch == wanted);
        if let Some(number) = found {
            self.stops.watches.remove(number);
        }
        self.subject.set_stops(&self.stops);
        Ok(found.is_some())
    }
}

impl<S: Subject> MonitorCmd for Debuggee<S> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), SubjectError> {
        match command {
            b"position" => outputln!(out, "{}", self.subject.position()),
            b"hash" => outputln!(out, "{:016x}", self.subject.machine().hash()),
            _ => {
                outputln!(out, "position: instructions so far, over all boots\nhash: of the machine's state")
            }
        }
        Ok(())
    }
}
