//! Owns the gate's handle and its thread.
//!
//! The state lies under a lock. The gate's thread polls the descriptors and serves them under the lock, a bounded
//! amount at a time; callers do their work themselves, on their own thread, under the same lock: a cut costs no
//! thread hop. A second lock (`turnstile`) makes the thread stand in line behind a waiting caller.

use crate::addresses::Addresses;
use crate::console::{ConsolePort, ConsoleSink};
use crate::event::{GateError, GateEvent, PortFailure};
use crate::framing::QEMU_MAX_FRAME;
use crate::nic::NicPort;
use crate::state::{CutReport, GuestWorks, InputObserver, Kind, Port, State, Watch};
use crate::stats::GateStats;
use crossbeam_channel::{Receiver, unbounded};
use os::clock::now_us;
use protocol::Epoch;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bounds of a gate. Past them see the policy in the crate's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateLimits {
    /// Most frames that wait, over all ports.
    pub max_frames: usize,
    /// Most bytes of frames that wait, over all ports.
    pub max_bytes: usize,
    /// Longest frame that QEMU may send, in bytes; at most [`QEMU_MAX_FRAME`].
    pub max_frame_len: usize,
    /// Most bytes of one console that wait; `cut` may exceed it by what QEMU's socket holds.
    pub max_console_bytes: usize,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self {
            max_frames: 1 << 16,
            max_bytes: 64 << 20,
            max_frame_len: QEMU_MAX_FRAME,
            max_console_bytes: 1 << 20,
        }
    }
}

/// A way out of the VM, to be attached to a gate.
pub struct PortConfig(Config);

enum Config {
    Nic { name: String, guest: UnixStream, tap: OwnedFd },
    Console { name: String, guest: UnixStream, start: u64, sink: Box<dyn ConsoleSink> },
}

impl PortConfig {
    /// A NIC: QEMU's `-netdev stream` socket and a TAP opened without packet information.
    #[must_use]
    pub fn nic(name: &str, guest: UnixStream, tap: OwnedFd) -> Self {
        Self(Config::Nic { name: name.to_owned(), guest, tap })
    }

    /// A console: the socket of QEMU's serial character device, the offset of the first byte that will come (0
    /// for a fresh VM, the end of the committed stream for a promoted one), and where released bytes go.
    #[must_use]
    pub fn console(name: &str, guest: UnixStream, start: u64, sink: Box<dyn ConsoleSink>) -> Self {
        Self(Config::Console { name: name.to_owned(), guest, start, sink })
    }

    fn into_port(self, limits: &GateLimits) -> std::io::Result<Port> {
        match self.0 {
            Config::Nic { name, guest, tap } => {
                guest.set_nonblocking(true)?;
                rustix::io::ioctl_fionbio(&tap, true)?;
                Ok(Port {
                    name,
                    kind: Kind::Nic(Box::new(NicPort::new(guest.into(), tap, limits.max_frame_len))),
                })
            }
            Config::Console { name, guest, start, sink } => {
                guest.set_nonblocking(true)?;
                let console = ConsolePort::new(guest.into(), start, sink, limits.max_console_bytes);
                Ok(Port { name, kind: Kind::Console(console) })
            }
        }
    }
}

struct Shared {
    name: String,
    state: Mutex<State>,
    turnstile: Mutex<()>,
    wake: OwnedFd,
    stop: AtomicBool,
}

/// Ends the gate's thread when the last handle is gone.
struct Owner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The handle of a gate; cheap to clone, usable from any thread. The gate ends when the last clone is dropped:
/// what is held then never leaves.
#[derive(Clone)]
pub struct Gate {
    owner: Arc<Owner>,
}

impl Gate {
    /// Starts a gate that holds (see [`hold`](Self::hold)), and its thread. Deaths of ports, and that output waits, come out
    /// of the receiver.
    ///
    /// # Errors
    /// If a port is refused, or the system gives no eventfd or thread.
    pub fn spawn(
        name: &str,
        ports: Vec<PortConfig>,
        limits: GateLimits,
    ) -> Result<(Self, Receiver<GateEvent>), GateError> {
        let io = |what| move |source| GateError::Io { gate: name.to_owned(), what, source };
        let (sender, events) = unbounded();
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|errno| io("create an eventfd")(errno.into()))?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            state: Mutex::new(State::new(limits, sender)),
            turnstile: Mutex::new(()),
            wake,
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("gate-{name}")).spawn(move || for_thread.run());
        let thread = Some(thread.map_err(io("start its thread"))?);
        let gate = Self { owner: Arc::new(Owner { shared, thread }) };
        for port in ports {
            gate.attach(port)?;
        }
        Ok((gate, events))
    }

    fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    /// Adds a port. It takes the place of a port of the same name whose QEMU is gone; what that one held is
    /// dropped.
    ///
    /// # Errors
    /// If the gate is fenced, the name is taken by a live port, or there are too many.
    pub fn attach(&self, port: PortConfig) -> Result<(), GateError> {
        let shared = self.shared();
        let limits = shared.lock().limits().clone();
        let port = port.into_port(&limits).map_err(|source| GateError::Io {
            gate: shared.name.clone(),
            what: "make a port's descriptor non-blocking",
            source,
        })?;
        shared.lock().attach(port)?;
        shared.wake();
        Ok(())
    }

    /// From now on output waits. Begins a new numbering of epochs: output that an earlier numbering cut but did
    /// not release belongs to the open epoch again.
    ///
    /// # Errors
    /// If the gate is fenced.
    pub fn hold(&self) -> Result<(), GateError> {
        self.shared().lock().hold(now_us())
    }

    /// Closes the open epoch. Called while the guest is stopped: reads QEMU's sockets until they are empty, on
    /// the caller's thread; everything read and not cut yet belongs to `epoch`. A frame belongs to the epoch in
    /// which its last byte was read.
    ///
    /// # Errors
    /// If the gate does not hold, or `epoch` is not after the last one cut. Nothing is cut then.
    pub fn cut(&self, epoch: Epoch) -> Result<CutReport, GateError> {
        let shared = self.shared();
        let mut state = shared.lock();
        state.cut(epoch, now_us())
    }

    /// Sends all output of epochs up to `up_to`, in order. Does nothing if the gate is open or none of them waits.
    ///
    /// # Errors
    /// If the gate is fenced.
    pub fn release(&self, up_to: Epoch) -> Result<(), GateError> {
        let shared = self.shared();
        let left = {
            let mut state = shared.lock();
            state.release(up_to, now_us())?;
            state.has_outgoing()
        };
        // The thread writes console bytes, and waits for a TAP that was full. Most epochs leave it nothing.
        if left {
            shared.wake();
        }
        Ok(())
    }

    /// Sends all that is held and lets output pass from now on: the VM runs unprotected.
    ///
    /// # Errors
    /// If the gate is fenced.
    pub fn open(&self) -> Result<(), GateError> {
        self.shared().lock().open(now_us())?;
        self.shared().wake();
        Ok(())
    }

    /// This host lost the VM: drops everything, closes the TAPs; nothing leaves from the moment this returns, for
    /// good. (A write of console bytes, committed ones, that a sink is busy with may still end.)
    pub fn discard(&self) {
        self.shared().lock().discard();
        self.shared().wake();
    }

    /// Leaves input in the TAP, whose queue the kernel bounds: for the time in which a promoted guest does not
    /// run yet.
    pub fn pause_input(&self) {
        self.shared().lock().pause_input(true);
    }

    /// Gives input to the guest again.
    pub fn resume_input(&self) {
        self.shared().lock().pause_input(false);
        self.shared().wake();
    }

    /// From now on `observer` sees the input that is given to the guest while output is held: what a backup must be
    /// told so that a promoted guest gets it as well, instead of its peers' retransmissions.
    pub fn observe_input(&self, observer: Option<InputObserver>) {
        self.shared().lock().observe_input(observer);
    }

    /// From now on an answer is not taken for whole as long as the guest is at work, but told of when its first frame has
    /// waited for `longest` (10 ms at most).
    pub fn linger(&self, longest: Duration, works: GuestWorks) {
        let longest_us = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        self.shared().lock().linger(longest_us, works);
    }

    /// Gives frames to the guest ahead of anything new from the TAP. Frames that no NIC could have are left out.
    pub fn inject(&self, port: &str, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.shared().lock().inject(port, frames);
        self.shared().wake();
    }

    /// The addresses that the guest was seen to use, and their version: it grows when something new is learned.
    #[must_use]
    pub fn addresses(&self) -> (Addresses, u64) {
        self.shared().lock().addresses()
    }

    /// Takes over addresses that another gate learned, for the ports attached here.
    pub fn learn(&self, addresses: &Addresses) {
        self.shared().lock().learn(addresses);
    }

    /// Announces the known addresses on the TAPs, at each time of `schedule` from now (at most 16; see
    /// [`USUAL_SCHEDULE`](crate::announce::USUAL_SCHEDULE)). It replaces an earlier schedule. Announcements do
    /// not wait for any epoch: they are the host's word, not the guest's.
    ///
    /// # Errors
    /// If the gate is fenced.
    pub fn announce(&self, schedule: &[Duration]) -> Result<(), GateError> {
        self.shared().lock().announce(schedule, now_us())?;
        self.shared().wake();
        Ok(())
    }

    /// Frames and bytes that wait now. Cheaper than [`stats`](Self::stats).
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        self.shared().lock().queued()
    }

    /// All counters.
    #[must_use]
    pub fn stats(&self) -> GateStats {
        self.shared().lock().stats(now_us())
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("name", &self.shared().name).finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        // A sink that owns the last handle drops it on the gate's own thread: that one ends by itself.
        let thread = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id());
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!(gate = %self.shared.name, "the gate's thread panicked");
        }
    }
}

impl Shared {
    /// The state, ahead of the gate's thread. A panic elsewhere under the lock is no reason to panic here too:
    /// output that is held stays held, which is always safe.
    fn lock(&self) -> MutexGuard<'_, State> {
        let _turn = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It can only fail when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn run(&self) {
        let mut watches = Vec::new();
        let mut work = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            let (generation, idle) = {
                let state = self.lock();
                state.watches(&mut watches);
                (state.generation, state.idle_us(now_us()))
            };
            let ready = match self.wait(&watches, idle) {
                Ok(ready) => ready,
                Err(errno) => {
                    tracing::error!(gate = %self.name, %errno, "poll failed; the gate stays closed");
                    return;
                }
            };
            self.serve(generation, &watches, &ready);
            self.write_consoles(&mut work);
        }
        // What was released before the end still reaches its log.
        self.write_consoles(&mut work);
    }

    /// Waits for a descriptor, a wake-up or the time; returns each watch that is ready.
    fn wait(&self, watches: &[Watch], idle_us: Option<u64>) -> Result<Vec<(usize, PollFlags)>, Errno> {
        let mut fds = Vec::with_capacity(watches.len() + 1);
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        fds.extend(watches.iter().map(|watch| PollFd::new(&watch.fd, watch.flags)));
        let timeout = idle_us.map(|us| {
            let time = Duration::from_micros(us);
            Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: time.subsec_nanos().into(),
            }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if !fds[0].revents().is_empty() {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.wake, &mut count);
        }
        let ready = fds[1..].iter().enumerate().map(|(at, fd)| (at, fd.revents()));
        Ok(ready.filter(|(_, got)| !got.is_empty()).collect())
    }

    fn serve(&self, mut generation: u64, watches: &[Watch], ready: &[(usize, PollFlags)]) {
        for &(at, got) in ready {
            // The lock is given back between ports, so that a caller waits for one port at most.
            let mut state = self.lock();
            if state.generation != generation {
                return;
            }
            state.serve(watches[at].port, watches[at].side, got, now_us());
            generation = state.generation;
        }
        self.lock().do_due(now_us());
    }

    fn write_consoles(&self, work: &mut Vec<crate::console::SinkWork>) {
        self.lock().take_sink_work(work);
        for item in work.drain(..) {
            let mut sink = item.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let result = sink.write(item.offset, &item.bytes);
            drop(sink);
            let result = result.map_err(|error| PortFailure::Sink(error.to_string()));
            self.lock().sink_wrote(&item.port, item.bytes.len(), result);
        }
    }
}
