//! Owns a machine that a host runs: on a thread of its own, stopped, looked into and gone on with by others.
//!
//! ```text
//!            ┌──────── cont ────────┐            the host's ends: the console's socket, a socket for each card,
//!            │                      ▼            a medium for each disk
//!        ┌────────┐            ┌────────┐            ▲
//!  new ─▶│ stands │            │  runs  │── beat ────┘
//!        └────────┘            └────────┘
//!          │ │  ▲                │  │  └─ the guest switches itself off: told; it is off, and may be stopped all the same
//!     load ┘ │  └───── stop ─────┘  └─ an end closes, or the like: told; ended
//!            └─ end
//! ```
//!
//! The machine lies under a lock that its thread holds for one slice of instructions at a time and gives to whoever waits
//! in between. So pages are counted and copied while it runs. While it **stands**, nothing of it changes but by its host,
//! nothing comes in, and nothing leaves: everything that left was carried out and answered, and every frame was taken by its
//! socket. What the console said and its socket did not take yet is a part of the state ([`Hosted::state`]).

mod ends;
mod line;
mod runner;
mod shared;

use crate::medium::Medium;
use crate::setup::{Parts, SetupError};
use crate::world::WorldError;
use ends::Ends;
use runner::Runner;
use rv::{Machine, RAM, SnapshotError};
use shared::{Bell, Shared};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// Bytes in a page.
pub const PAGE: usize = 0x1000;
/// The version of [`Hosted::state`]'s bytes: the console's unsaid bytes with their length before them, then the machine's.
const STATE: u8 = 1;
/// The version of the machine, with the form of its state: another one does not go on from it.
pub const VERSION: u32 = (STATE as u32) << 16 | rv::STATE_VERSION;
/// So many pages are copied at a time while the guest waits for the lock.
const TOGETHER: usize = 256;

/// What a hosted machine is connected to.
pub struct Wires {
    /// A connected Unix stream socket: bytes both ways.
    pub console: OwnedFd,
    /// One for each card: a connected Unix stream socket on which each frame follows its length (4 bytes, big-endian).
    pub nics: Vec<OwnedFd>,
    /// One for each disk.
    pub disks: Vec<Box<dyn Medium>>,
}

/// What a machine did by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The guest switched itself off.
    PowerOff,
    /// The guest began anew.
    Reboot,
    /// The machine is lost, for this reason.
    Failed(String),
}

/// Hears of what a machine does by itself, on its thread: not to wait in.
pub type Listener = Box<dyn Fn(Told) + Send>;

/// Why a hosted machine cannot do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// It cannot be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// What it is given does not fit.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The system gives no thread or descriptor.
    #[error("cannot {what} for the machine: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It has ended.
    #[error("the machine has ended: {0}")]
    Ended(String),
    /// It runs.
    #[error("the machine runs: stop it first")]
    Runs,
    /// It does not stop.
    #[error(
        "the machine did not stop within {0} s: does nobody read its network cards, or does a disk not answer?"
    )]
    DoesNotStop(u64),
    /// A state that cannot be used.
    #[error(transparent)]
    State(#[from] SnapshotError),
    /// Pages that it does not have.
    #[error("page {page} is not in the machine's RAM of {ram} bytes")]
    Page {
        /// The page.
        page: u64,
        /// Bytes of RAM.
        ram: u64,
    },
}

/// A machine on a thread of its own. It ends when dropped.
pub struct Hosted {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
    ram: u64,
}

impl Hosted {
    /// A machine that stands before its first instruction.
    ///
    /// # Errors
    /// It cannot be made, what it is connected to does not fit, or the system gives no thread.
    pub fn start(parts: Parts, wires: Wires, told: Listener) -> Result<Hosted, HostedError> {
        let machine = parts.first()?;
        Hosted::spawn(parts, machine, wires, told)
    }

    /// A machine that stands with nothing in its RAM, to be given the pages and the state of another that was made of the
    /// same. It has its files for when the guest begins anew.
    ///
    /// # Errors
    /// As with [`Hosted::start`].
    pub fn standby(parts: Parts, wires: Wires, told: Listener) -> Result<Hosted, HostedError> {
        let machine = parts.blank()?;
        Hosted::spawn(parts, machine, wires, told)
    }

    fn spawn(
        parts: Parts,
        mut machine: Machine,
        wires: Wires,
        told: Listener,
    ) -> Result<Hosted, HostedError> {
        let system = |what| move |source| HostedError::System { what, source };
        let bell = Arc::new(Bell::new().map_err(system("make an eventfd"))?);
        let ends = Ends::new(wires, parts.setup(), bell.clone())?;
        machine.set_horizon(0);
        let ram = machine.ram().len() as u64;
        let shared = Arc::new(Shared::new(machine, bell));
        let runner = Runner::new(parts, ends, shared.clone(), told);
        let (sender, ids) = sync_channel(1);
        let work = move || {
            // Fails only if nobody waits for it any more.
            let _ = sender.send(rustix::thread::gettid().as_raw_nonzero().get());
            runner.run();
        };
        let thread = std::thread::Builder::new().name("machine".to_owned()).spawn(work);
        let thread = thread.map_err(system("start a thread"))?;
        let tid = ids.recv().map_err(|_| HostedError::Ended("its thread died".to_owned()))?;
        Ok(Hosted { shared, thread: Some(thread), tid, ram })
    }

    /// Stops the guest: when this returns the machine stands, and nothing of what left before is on its way.
    ///
    /// # Errors
    /// It has ended, or does not stop. It will stand as soon as it can then.
    pub fn stop(&self) -> Result<(), HostedError> {
        self.shared.stop()
    }

    /// Lets the guest go on. One that is off stays so.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn cont(&self) -> Result<(), HostedError> {
        self.shared.cont()
    }

    /// Whether the guest runs, or waits for something.
    pub fn runs(&self) -> bool {
        let core = self.shared.lock();
        core.runs() && !core.is_off
    }

    /// Whether the guest switched itself off.
    pub fn is_off(&self) -> bool {
        self.shared.lock().is_off
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.ram
    }

    /// Adds the numbers of the pages that were written since this was called last (or ever), in order. After the guest began
    /// anew that is all of them.
    pub fn take_dirty(&self, pages: &mut Vec<u32>) {
        let written = self.shared.lock().machine.take_dirty();
        pages.extend(written);
    }

    /// Copies pages, each as it is at one moment, one behind the other.
    ///
    /// # Errors
    /// One is not in RAM.
    ///
    /// # Panics
    /// `into` has not room for exactly so many pages.
    pub fn copy_out(&self, pages: &[u32], into: &mut [u8]) -> Result<(), HostedError> {
        assert_eq!(into.len(), pages.len() * PAGE, "room for so many pages");
        for (pages, into) in pages.chunks(TOGETHER).zip(into.chunks_mut(TOGETHER * PAGE)) {
            let core = self.shared.lock();
            for (&page, into) in pages.iter().zip(into.chunks_exact_mut(PAGE)) {
                let (from, length) = self.place(page)?;
                into[..length].copy_from_slice(&core.machine.ram()[from..from + length]);
                into[length..].fill(0);
            }
        }
        Ok(())
    }

    /// Puts a page into the RAM of a machine that stands.
    ///
    /// # Errors
    /// It runs, has ended, or has no such page.
    ///
    /// # Panics
    /// `bytes` are not those of one page.
    pub fn copy_in(&self, page: u32, bytes: &[u8]) -> Result<(), HostedError> {
        assert_eq!(bytes.len(), PAGE, "a page");
        self.change(page, |now| now.copy_from_slice(bytes))
    }

    /// Clears pages of a machine that stands. Those that are zero already cost no memory of this host.
    ///
    /// # Errors
    /// It runs, has ended, or has no such pages.
    pub fn zero(&self, first: u32, count: u32) -> Result<(), HostedError> {
        (first..first.saturating_add(count)).try_for_each(|page| self.change(page, |now| now.fill(0)))
    }

    /// Changes a page of a machine that stands.
    ///
    /// # Errors
    /// It runs, has ended, or has no such page.
    pub fn change(&self, page: u32, change: impl FnOnce(&mut [u8])) -> Result<(), HostedError> {
        let (from, length) = self.place(page)?;
        let mut bytes = [0; PAGE];
        let mut core = self.shared.standing()?;
        let old = &core.machine.ram()[from..from + length];
        bytes[..length].copy_from_slice(old);
        change(&mut bytes);
        let changed = old != &bytes[..length];
        let fits = !changed || core.machine.put(RAM + from as u64, &bytes[..length]);
        debug_assert!(fits, "the place is in RAM");
        Ok(())
    }

    /// All of a machine that stands but its RAM and what its disks hold.
    ///
    /// # Errors
    /// It runs, or has ended.
    pub fn state(&self) -> Result<Vec<u8>, HostedError> {
        let core = self.shared.standing()?;
        let mut bytes = vec![STATE];
        bytes.extend((core.unsaid.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&core.unsaid);
        bytes.extend(core.machine.state());
        Ok(bytes)
    }

    /// Makes a machine that stands be where another one was when its state was taken, whose RAM it has. Its wall clock is
    /// set when it goes on.
    ///
    /// # Errors
    /// It runs, has ended, or this is no state of such a machine. Nothing is changed then.
    pub fn load(&self, state: &[u8]) -> Result<(), HostedError> {
        let (unsaid, state) = decode(state)?;
        let mut core = self.shared.standing()?;
        core.machine.put_state(state)?;
        core.machine.set_horizon(0);
        core.unsaid = unsaid.to_vec();
        core.is_fresh = true;
        core.is_off = false;
        Ok(())
    }

    /// A hash over all of a machine that stands: two that are the same have the same.
    ///
    /// # Errors
    /// It runs, or has ended.
    pub fn hash(&self) -> Result<u64, HostedError> {
        Ok(self.shared.standing()?.machine.hash())
    }

    /// The machine's thread: it sleeps while the guest waits.
    pub fn thread(&self) -> i32 {
        self.tid
    }

    /// Ends the machine where it is: its thread is gone when this returns, and its sockets are closed.
    pub fn end(self) {
        drop(self);
    }

    /// Where a page is in RAM, and how much of it.
    fn place(&self, page: u32) -> Result<(usize, usize), HostedError> {
        let (from, ram) = (page as usize * PAGE, self.ram as usize);
        match ram.checked_sub(from) {
            None | Some(0) => Err(HostedError::Page { page: page.into(), ram: self.ram }),
            Some(rest) => Ok((from, rest.min(PAGE))),
        }
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.shared.end();
        // A listener that owns the last handle drops it on the machine's own thread: that one ends by itself.
        let thread = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id());
        if let Some(thread) = thread {
            // A thread that died has told so.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").field("tid", &self.tid).field("ram", &self.ram).finish_non_exhaustive()
    }
}

/// What a state says: the console's unsaid bytes, and the machine's state. The bytes may be anything.
fn decode(bytes: &[u8]) -> Result<(&[u8], &[u8]), SnapshotError> {
    let (&version, rest) = bytes.split_first().ok_or(SnapshotError::NotASnapshot)?;
    if version != STATE {
        return Err(SnapshotError::Version(version.into()));
    }
    let (length, rest) = rest.split_first_chunk().ok_or(SnapshotError::NotASnapshot)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    rest.split_at_checked(length).ok_or(SnapshotError::Damaged("the console's bytes are cut short"))
}
