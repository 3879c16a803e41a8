//! Owns what the gate tells its owner: refusals, and the deaths of ports.

use crate::framing::FramingError;
use protocol::Epoch;

/// Why the gate refused a call.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The gate was closed for good by `discard`.
    #[error("cannot {wish}: the gate is fenced, this host no longer owns the VM")]
    Fenced {
        /// What was asked.
        wish: &'static str,
    },
    /// A cut was asked of an open gate.
    #[error("cannot cut an epoch: the gate is open, nothing is held (call hold first)")]
    NotHolding,
    /// Epochs are cut in rising order within one numbering.
    #[error("cannot cut epoch {epoch}: epoch {last} was cut already (a new session begins with hold)")]
    EpochNotAfter {
        /// The epoch asked for.
        epoch: Epoch,
        /// The last epoch cut.
        last: Epoch,
    },
    /// Epochs were cut again and again but none released.
    #[error("cannot cut another epoch: {0} are waiting for their release")]
    TooManyEpochs(usize),
    /// A port of that name is attached and alive.
    #[error("cannot attach port {0:?}: a live port has that name")]
    PortExists(String),
    /// The gate has all the ports it may have.
    #[error("cannot attach port {name:?}: a gate has at most {limit} ports")]
    TooManyPorts {
        /// The port refused.
        name: String,
        /// The limit.
        limit: usize,
    },
    /// A system call on behalf of the gate failed.
    #[error("gate {gate}: cannot {what}: {source}")]
    Io {
        /// Name of the gate.
        gate: String,
        /// What was tried.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

/// One side of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// QEMU's socket.
    Guest,
    /// The TAP device or the console's sink.
    Outside,
}

/// Why one side of a port is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortFailure {
    /// The other end was closed (QEMU ended, the TAP was deleted).
    #[error("the other end is gone")]
    HungUp,
    /// QEMU's socket carried nonsense.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The system reported an error.
    #[error("{0}")]
    System(rustix::io::Errno),
    /// The console's sink refused bytes; the rest of the stream is not written.
    #[error("the console's sink failed: {0}")]
    Sink(String),
}

/// Something that happened to a gate and needs its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateEvent {
    /// One side of a port is closed. Its other side goes on: what was held may still be released.
    PortClosed {
        /// Name of the port.
        port: String,
        /// Which side.
        side: Side,
        /// Why.
        reason: PortFailure,
    },
    /// An answer waits in an epoch that is still open.
    OutputWaits {
        /// The epoch.
        epoch: Epoch,
        /// When its first frame arrived, on [`os::clock`], in microseconds.
        since_us: u64,
    },
}
