//! Owns a running QEMU: its start, its handle, its end.
//!
//! Every QEMU starts stopped (`-S`): its memory is looked up before the guest can remap anything, and nothing runs
//! before someone with the right to says so with [`Qemu::cont`]. All channels are socket pairs that it inherits,
//! so no path is left behind, and it dies with this process.

mod args;
mod process;

pub use args::{InheritedFds, MAIN_MEMORY, build, disk_export};
pub use process::Process;

use crate::install::{Installation, ResolvedSpec};
use crate::qmp::{Command, Qmp, QmpError, REQUIRED_COMMANDS};
use crate::ram::{BlockKind, RamError, RamMap};
use crate::spec::Refusal;
use os::process::{Exit, PidFd, ProcessError};
use os::process_memory::{ProcessMemory, ProcessMemoryError};
use os::sched::Hurry;
use os::{Memory, Spawn};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Why QEMU could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// What the VM is made of cannot be protected.
    #[error("this VM cannot be protected: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Refusal>),
    /// The memory given is not of the VM's size.
    #[error("the VM has {wanted} bytes of memory, but {given} bytes were prepared for it")]
    MemorySize {
        /// The VM's.
        wanted: u64,
        /// What was given.
        given: u64,
    },
    /// There is not one connection for each disk.
    #[error("the VM has {wanted} disks, but {given} connections were prepared for them")]
    Disks {
        /// The VM's.
        wanted: usize,
        /// What was given.
        given: usize,
    },
    /// A socket pair could not be made.
    #[error("cannot make a channel to QEMU: {source}")]
    Channel {
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The process could not be started.
    #[error("cannot run QEMU: {0}; is qemu-system-x86 installed?")]
    Process(#[from] ProcessError),
    /// QEMU ended by itself.
    #[error("QEMU {how}; its last words: {messages}")]
    Died {
        /// How it ended.
        how: String,
        /// The end of its standard error.
        messages: String,
    },
    /// A command failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Its memory is not as it must be.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Its memory cannot be reached.
    #[error("cannot reach QEMU's memory: {0}")]
    Memory(#[from] ProcessMemoryError),
    /// QEMU says that the VM cannot be migrated, so it cannot be protected either.
    #[error("QEMU says that this VM cannot be saved: {}; remove what it names", .0.join("; "))]
    Blocked(Vec<String>),
}

/// Kernel memory that may hold what QEMU wrote to one channel and nobody has read. A serial console uses it up by
/// some 800 bytes for each character.
const CHANNEL_ROOM: usize = 8 << 20;

/// What a QEMU is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To boot the VM.
    Primary,
    /// To wait for a device state.
    Standby,
}

/// Our ends of QEMU's channels. The reader must always read: QEMU writes to them from its main loop, and what it
/// cannot write at once it may write while the VM is stopped, where it belongs to no epoch.
#[derive(Debug)]
pub struct Channels {
    /// The serial console, a stream of bytes. What the guest writes there is output like any other.
    pub console: UnixStream,
    /// One stream of frames for each NIC, in the order of the spec: four bytes of length (big-endian), then the
    /// frame. (QEMU net/stream.c)
    pub nics: Vec<UnixStream>,
}

/// A QEMU process with a VM in it. Dropping it kills it.
#[derive(Debug)]
pub struct Qemu {
    qmp: Qmp,
    /// For checkpoints only: what shall begin at once is prepared here.
    prepared: Qmp,
    process: Process,
    mem: ProcessMemory,
    memory: Arc<Memory>,
    ram: RamMap,
    resolved: ResolvedSpec,
}

impl Qemu {
    /// Starts QEMU, stopped, in the network namespace of the calling thread. `memory` becomes the VM's main
    /// memory; for a primary it is new, for a standby it may already be filled. `disks` are QEMU's ends of one
    /// conversation in the NBD protocol for each disk, about the export that [`disk_export`] names; somebody must
    /// serve them already, for QEMU asks while it starts.
    ///
    /// # Errors
    /// If the VM cannot be protected ([`LaunchError::Refused`], before anything is started), or QEMU does not
    /// start: then with its own messages.
    pub fn launch(
        installation: &Installation,
        resolved: &ResolvedSpec,
        role: Role,
        memory: Arc<Memory>,
        disks: Vec<OwnedFd>,
    ) -> Result<(Self, Channels), LaunchError> {
        resolved.spec.check_protectable().map_err(LaunchError::Refused)?;
        let wanted = resolved.spec.memory.0;
        if memory.len() != wanted {
            return Err(LaunchError::MemorySize { wanted, given: memory.len() });
        }
        let (wanted, given) = (resolved.spec.disks.len(), disks.len());
        if wanted != given {
            return Err(LaunchError::Disks { wanted, given });
        }
        let mut spawn = Spawn::new(installation.binary());
        let (fds, channels) = inherit_channels(&mut spawn, resolved, &memory, disks)
            .map_err(|source| LaunchError::Channel { source })?;
        spawn.args(args::build(resolved, role, &fds));
        let second = process::monitor(&mut spawn, "qmp-prepared")?;
        let (mut process, qmp) = Process::start(spawn, REQUIRED_COMMANDS)?;
        let found = look_up(&process, &qmp, &memory);
        let found = found.and_then(|found| Ok((found, Qmp::connect(second, &[])?)));
        let ((ram, mem), prepared) = found.map_err(|error| match error {
            LaunchError::Qmp(QmpError::Gone { .. }) => process.death(),
            other => other,
        })?;
        let qemu = Self { qmp, prepared, process, mem, memory, ram, resolved: resolved.clone() };
        Ok((qemu, channels))
    }

    /// The VM's description.
    #[must_use]
    pub fn resolved(&self) -> &ResolvedSpec {
        &self.resolved
    }

    /// The conversation with QEMU.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// A second one, for who takes checkpoints.
    pub(crate) fn prepared(&self) -> &Qmp {
        &self.prepared
    }

    /// When the guest stopped last and when it went on last, in microseconds since 1970. Up to date with every answer returned.
    #[must_use]
    pub fn last_pause(&self) -> Option<(u64, u64)> {
        let pause = |qmp: &Qmp| Some((qmp.last_event_us("RESUME")?, qmp.last_event_us("STOP")?));
        let (resumed, stopped) = pause(&self.qmp).max(pause(&self.prepared))?;
        Some((stopped, resumed))
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A descriptor that becomes readable when the process ends.
    #[must_use]
    pub fn pidfd(&self) -> &PidFd {
        self.process.pidfd()
    }

    /// The VM's main memory, shared with the process.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Where the process has the VM's memory.
    #[must_use]
    pub fn ram(&self) -> &RamMap {
        &self.ram
    }

    /// The memory of the process, for blocks other than main memory.
    #[must_use]
    pub fn process_memory(&self) -> &ProcessMemory {
        &self.mem
    }

    /// The last lines of QEMU's standard error.
    #[must_use]
    pub fn messages(&self) -> String {
        self.process.messages()
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// If QEMU refuses or is gone.
    pub fn cont(&self) -> Result<(), QmpError> {
        let _hurry = hurry(self.pid());
        self.qmp.execute(Command::new("cont")).map(drop)
    }

    /// Stops the guest. Every disk write and frame of it has left QEMU when this returns.
    ///
    /// # Errors
    /// If QEMU refuses or is gone.
    pub fn stop(&self) -> Result<(), QmpError> {
        self.qmp.execute(Command::new("stop")).map(drop)
    }

    /// QEMU's run state, such as `running`, `paused`, `prelaunch`, `inmigrate`, `shutdown`.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn run_state(&self) -> Result<String, QmpError> {
        let answer = self.qmp.execute(Command::new("query-status"))?;
        Ok(answer["status"].as_str().unwrap_or("unknown").to_string())
    }

    /// The ids of the threads that run the guest's processors.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn processor_threads(&self) -> Result<Vec<u32>, QmpError> {
        let answer = self.qmp.execute(Command::new("query-cpus-fast"))?;
        let id = |cpu: &serde_json::Value| u32::try_from(cpu["thread-id"].as_u64()?).ok();
        Ok(answer.as_array().into_iter().flatten().filter_map(id).collect())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// If QEMU refuses or is gone.
    pub fn reset(&self) -> Result<(), QmpError> {
        self.qmp.execute(Command::new("system_reset")).map(drop)
    }

    /// Whether QEMU could save the VM. To be asked again before each protection: devices may have changed.
    ///
    /// # Errors
    /// [`LaunchError::Blocked`] with QEMU's reasons.
    pub fn check_migratable(&self) -> Result<(), LaunchError> {
        let answer = self.qmp.execute(Command::new("query-migrate"))?;
        let reasons = answer["blocked-reasons"].as_array().into_iter().flatten();
        let reasons: Vec<String> = reasons.filter_map(|r| r.as_str()).map(str::to_string).collect();
        if reasons.is_empty() { Ok(()) } else { Err(LaunchError::Blocked(reasons)) }
    }

    /// The contents of the ROMs, each with its number in the layout. They never change while QEMU lives, and a
    /// standby does not have them by itself.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn read_roms(&self) -> Result<Vec<(usize, Vec<u8>)>, LaunchError> {
        let mut roms = Vec::new();
        for (index, shape) in self.ram.layout().blocks.iter().enumerate() {
            if shape.kind == BlockKind::Rom {
                let mut bytes = vec![0; usize::try_from(shape.used).expect("a 64-bit machine")];
                self.mem.read(self.ram.address(index, 0), &mut bytes)?;
                roms.push((index, bytes));
            }
        }
        Ok(roms)
    }

    /// Asks QEMU to end, and waits for it; kills it after `grace`.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn quit(mut self, grace: Duration) -> Result<Exit, LaunchError> {
        drop(self.qmp.send(Command::new("quit")));
        if let Some(exit) = self.process.wait(Some(grace))? {
            return Ok(exit);
        }
        self.kill()
    }

    /// Kills QEMU and waits for its end.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(mut self) -> Result<Exit, LaunchError> {
        self.process.kill()?;
        let exit = self.process.wait(None)?;
        Ok(exit.expect("waiting without a time-out ends with the process"))
    }

    /// Waits for QEMU's end, at most `timeout` (without one: for ever). `None` if it still runs.
    ///
    /// # Errors
    /// If someone else reaped it.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Exit>, LaunchError> {
        self.process.wait(timeout)
    }

    /// Turns the end of the conversation into the end of the process, with its last words.
    pub(crate) fn explain(&mut self, error: QmpError) -> LaunchError {
        match error {
            QmpError::Gone { .. } => self.process.death(),
            other => other.into(),
        }
    }
}

/// While the guest stands still for what QEMU's main thread does, that must not wait for a processor: where there are two it did
/// for half of each pause, behind threads of the agent that pack and send. None if it is not allowed.
pub(crate) fn hurry(pid: u32) -> Option<Hurry> {
    Hurry::of(pid)
        .inspect_err(|error| tracing::debug!(%error, "QEMU saves and loads at its own priority"))
        .ok()
}

fn look_up(process: &Process, qmp: &Qmp, memory: &Memory) -> Result<(RamMap, ProcessMemory), LaunchError> {
    let ram = RamMap::discover(qmp, process.pid(), memory)?;
    Ok((ram, ProcessMemory::open(process.pid())?))
}

fn inherit_channels(
    spawn: &mut Spawn,
    resolved: &ResolvedSpec,
    memory: &Memory,
    disks: Vec<OwnedFd>,
) -> std::io::Result<(InheritedFds, Channels)> {
    let mut pair = || {
        let (ours, theirs) = UnixStream::pair()?;
        make_room(&theirs)?;
        Ok::<_, std::io::Error>((ours, spawn.inherit(OwnedFd::from(theirs))))
    };
    let (console, console_fd) = pair()?;
    let mut nics = Vec::new();
    let mut nic_fds = Vec::new();
    for _ in &resolved.spec.nics {
        let (ours, theirs) = pair()?;
        nics.push(ours);
        nic_fds.push(theirs);
    }
    let disks = disks.into_iter().map(|fd| spawn.inherit(fd)).collect();
    let memory = spawn.inherit(memory.fd().try_clone_to_owned()?);
    let fds = InheritedFds { memory, console: console_fd, nics: nic_fds, disks };
    Ok((fds, Channels { console, nics }))
}

/// Gives QEMU room to write while our reader is late. Without room a device keeps its byte or frame and sends it
/// when it can, which may be while the VM is stopped: after the cut of a checkpoint, yet before its state is saved.
fn make_room(theirs: &UnixStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    // The forced way goes beyond the system's limit, and needs CAP_NET_ADMIN.
    let forced = sockopt::set_socket_send_buffer_size_force(theirs, CHANNEL_ROOM);
    forced.or_else(|_| sockopt::set_socket_send_buffer_size(theirs, CHANNEL_ROOM)).map_err(Into::into)
}
