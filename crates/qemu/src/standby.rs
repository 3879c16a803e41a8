//! Owns the standby: a QEMU that was built like the primary and waits for its device state.
//!
//! Its memory is filled from outside while it waits: main memory through the shared memfd, other blocks through
//! the process's memory, its ROMs too, since QEMU leaves them empty when it expects a migration. At the failover it
//! loads one device state, once: [`Standby::load`] takes the standby and gives the VM, stopped, or nothing.
//! Memory must be complete before that, because devices check their rings in it while they load.

use crate::device_state::{DeviceState, DeviceStateError};
use crate::install::{Installation, ResolvedSpec};
use crate::launch::{Channels, LaunchError, Qemu, Role, hurry};
use crate::qmp::{Command, Event, QmpError, wait_event};
use crate::ram::BlockKind;
use os::process_memory::ProcessMemoryError;
use os::{Memory, PidFd};
use serde_json::json;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long QEMU may take to load a device state; it takes milliseconds.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// By then a QEMU that was started has given back what it does not need.
const START_TO_REST: Duration = Duration::from_millis(250);
/// How long a QEMU that refused a state may take to end.
const END_GRACE: Duration = Duration::from_secs(2);

/// Why a standby cannot be had or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// QEMU does not start, or died.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A command failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Its memory cannot be written.
    #[error("cannot fill the standby's memory: {0}")]
    Memory(#[from] ProcessMemoryError),
    /// The device state is none.
    #[error(transparent)]
    State(#[from] DeviceStateError),
    /// The connection for the state failed.
    #[error("cannot hand the device state to the standby: {source}")]
    Channel {
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// QEMU did not accept the state.
    #[error("the standby refused the device state ({why}); its last words: {messages}")]
    Rejected {
        /// What QEMU reported.
        why: String,
        /// The end of its standard error.
        messages: String,
    },
    /// Bytes for a block do not fit it.
    #[error("{len} bytes for memory block {name:?} at {offset:#x} do not fit its {used} bytes")]
    Misfit {
        /// The block.
        name: String,
        /// Its length.
        used: u64,
        /// Where the bytes should begin.
        offset: u64,
        /// How many there are.
        len: usize,
    },
    /// No such block, or one that is only compared.
    #[error("the standby has no memory block number {0} that could be filled")]
    NoBlock(usize),
}

/// A QEMU that waits.
#[derive(Debug)]
pub struct Standby {
    qemu: Qemu,
    incoming: Incoming,
    /// None if there was no thread for it.
    heap: Option<HeapMapping>,
}

impl Standby {
    /// Starts QEMU with `memory` as its main memory. The guest cannot run in it before [`Standby::load`].
    ///
    /// # Errors
    /// As [`Qemu::launch`].
    pub fn start(
        installation: &Installation,
        resolved: &ResolvedSpec,
        memory: Arc<Memory>,
        disks: Vec<OwnedFd>,
    ) -> Result<(Self, Channels), StandbyError> {
        let (mut qemu, channels) = Qemu::launch(installation, resolved, Role::Standby, memory, disks)?;
        // Without it QEMU does not tell when the load is done.
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        let set = qemu.qmp().execute(Command::with("migrate-set-capabilities", events));
        set.map_err(|e| qemu.explain(e))?;
        let incoming = Incoming::open(&mut qemu)?;
        let heap = HeapMapping::begin(qemu.pid());
        Ok((Self { qemu, incoming, heap }, channels))
    }

    /// The waiting QEMU: its number, its memory map, its end.
    #[must_use]
    pub fn qemu(&self) -> &Qemu {
        &self.qemu
    }

    /// Puts `bytes` into a block at `offset`: a ROM, or memory other than main memory (which is written through
    /// its [`Memory`]; here it works too).
    ///
    /// # Errors
    /// If there is no such block, the bytes do not fit, or the process is gone.
    pub fn fill(&self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), StandbyError> {
        let ram = self.qemu.ram();
        let shape = ram.layout().blocks.get(block).filter(|b| b.kind != BlockKind::Rebuilt);
        let shape = shape.ok_or(StandbyError::NoBlock(block))?;
        let (used, len) = (shape.used, bytes.len());
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= used);
        match (shape.kind, fits) {
            (_, false) => Err(StandbyError::Misfit { name: shape.name.clone(), used, offset, len }),
            (_, true) if bytes.is_empty() => Ok(()),
            (BlockKind::Main, true) => {
                self.qemu.memory().write_at(offset, bytes);
                Ok(())
            }
            _ => Ok(self.qemu.process_memory().write(ram.address(block, offset), bytes)?),
        }
    }

    /// Loads the device state. On success the VM stands exactly where it was saved, stopped: [`Qemu::cont`] lets it
    /// run, then [`announce`] tells the network. On failure QEMU is killed: a second load into the same process is
    /// never safe.
    ///
    /// # Errors
    /// If the state is none, or QEMU does not accept it.
    pub fn load(self, state: &DeviceState) -> Result<Qemu, StandbyError> {
        let Self { mut qemu, incoming, heap } = self;
        if let Some(heap) = heap {
            heap.end();
        }
        match incoming.feed(&qemu, state) {
            Ok(()) => Ok(qemu),
            // A QEMU that cannot load a state says so on its standard error and ends.
            Err(StandbyError::Qmp(error @ QmpError::Gone { .. })) => {
                Err(rejected(&mut qemu, error.to_string()))
            }
            Err(StandbyError::Rejected { why, .. }) => Err(rejected(&mut qemu, why)),
            Err(other) => Err(other),
        }
    }
}

/// A device state goes to memory that QEMU allocated, and gave back to the kernel at the end of its start (`malloc_trim` in
/// util/rcu.c): some 500 faults while the VM stands still, a fifth of the time that a load takes (`examples/load.rs`). They are
/// taken beforehand, once QEMU has been at rest for a while, for some 11 MiB of memory. Without that a load only takes longer.
#[derive(Debug)]
struct HeapMapping {
    waiting: Sender<()>,
    thread: JoinHandle<()>,
}

impl HeapMapping {
    fn begin(pid: u32) -> Option<Self> {
        let process = PidFd::open(pid).ok()?;
        let (waiting, ended) = channel();
        let map = move || {
            if ended.recv_timeout(START_TO_REST) == Err(RecvTimeoutError::Timeout)
                && let Err(error) = os::heap::populate(&process)
            {
                tracing::debug!(%error, "the standby's heap is not mapped beforehand: its load takes longer");
            }
        };
        let thread = std::thread::Builder::new().name("heap".to_owned()).spawn(map).ok()?;
        Some(Self { waiting, thread })
    }

    /// Behind this it does nothing any more: who wants to stop the process next finds no other tracer.
    fn end(self) {
        drop(self.waiting);
        // A panic in there was told when it came.
        let _ = self.thread.join();
    }
}

fn rejected(qemu: &mut Qemu, why: String) -> StandbyError {
    let _ = qemu.wait(Some(END_GRACE));
    StandbyError::Rejected { why, messages: qemu.messages() }
}

/// Our end of the connection through which QEMU is given its device state. It is opened when QEMU starts, which then waits for
/// the first byte: the commands for it, which QEMU reads byte by byte, would take a millisecond while the VM stands still.
#[derive(Debug)]
struct Incoming(UnixStream);

impl Incoming {
    fn open(qemu: &mut Qemu) -> Result<Self, StandbyError> {
        let (ours, theirs) = UnixStream::pair().map_err(unhanded)?;
        ours.set_write_timeout(Some(LOAD_TIMEOUT)).map_err(unhanded)?;
        let qmp = qemu.qmp();
        let given =
            qmp.execute_with_fd(Command::with("getfd", json!({ "fdname": "incoming" })), theirs.as_fd());
        let waits = given
            .and_then(|_| qmp.execute(Command::with("migrate-incoming", json!({ "uri": "fd:incoming" }))));
        waits.map_err(|error| qemu.explain(error))?;
        Ok(Self(ours))
    }

    fn feed(mut self, qemu: &Qemu, state: &DeviceState) -> Result<(), StandbyError> {
        let stream = state.to_stream(&qemu.resolved().machine)?;
        let _hurry = hurry(qemu.pid());
        let events = qemu.qmp().subscribe();
        // If QEMU rejects the beginning, it closes its end; what it reports is the better error.
        let written = self.0.write_all(&stream).and_then(|()| self.0.shutdown(std::net::Shutdown::Write));
        let status = |event: &Event| event.data["status"].as_str().map(str::to_string);
        let ended = |event: &Event| {
            event.name == "MIGRATION" && matches!(status(event).as_deref(), Some("completed" | "failed"))
        };
        let end = wait_event(&events, "migrate-incoming", LOAD_TIMEOUT, ended)?;
        if status(&end).as_deref() != Some("completed") {
            return Err(StandbyError::Rejected { why: end.data.to_string(), messages: String::new() });
        }
        written.map_err(unhanded)
    }
}

fn unhanded(source: std::io::Error) -> StandbyError {
    StandbyError::Channel { source }
}

/// Announces the VM's addresses to the network, some times in growing distances, so that switches learn its place.
///
/// # Errors
/// If QEMU refuses or is gone.
pub fn announce(qemu: &Qemu) -> Result<(), QmpError> {
    let pace = json!({ "initial": 50, "max": 550, "rounds": 5, "step": 100 });
    qemu.qmp().execute(Command::with("announce-self", pace)).map(drop)
}
