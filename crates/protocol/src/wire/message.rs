//! Owns the small messages of the replication link and their encoding (postcard).

use super::compare::{Ask, Hashes};
use super::header::Kind;
use crate::ids::{Epoch, HostName, Term, VmName};
use crate::resync::Offer;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A message that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body is not what its kind says.
    #[error("the body of a {0:?} frame cannot be read")]
    Malformed(Kind),
    /// A kind that does not go in this direction.
    #[error("a {0:?} frame came from the wrong side")]
    Direction(Kind),
}

/// Opens a session: everything that the backup must know to start the standby.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// The VM.
    pub vm: VmName,
    /// Who owns it in the frame's term.
    pub primary: HostName,
    /// Times by which both sides go; the primary's configuration decides.
    pub timing: Timing,
    /// The machine: its description and fingerprint, opaque to the protocol.
    pub machine: Vec<u8>,
}

/// The end of a checkpoint: what was sent for it, so that a partial epoch cannot pass for a whole one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Commit {
    /// Bulk frames (Pages, Device, Console, Disk) of the epoch.
    pub frames: u64,
    /// Their body bytes together.
    pub bytes: u64,
    /// The primary's clock when the checkpoint was cut; echoed in the acknowledgement.
    pub sent_at: Instant,
    /// The session ends with it, in a promotion or otherwise: no data come behind.
    pub last: bool,
    /// What the gate must know after a promotion, opaque to the protocol.
    pub gate: Vec<u8>,
}

/// Why a primary hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum YieldReason {
    /// The operator asked for it.
    Planned,
    /// The VM's process died under the primary.
    VmDied,
    /// The operator wants the VM to run at the backup's host, from where it shall be protected again if it was.
    Moved,
}

/// Why protection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// The operator unprotected the VM.
    Unprotected,
    /// The VM was stopped or shut itself down.
    Stopped,
}

/// Why a backup will not stand by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The host runs this VM itself, or stands by for another owner of it, in this or a higher term.
    #[error("it runs this VM itself, or stands by for another owner of it (term {term})")]
    Busy {
        /// The term it knows.
        term: Term,
    },
    /// The machine cannot be started here as it is there.
    #[error("{why}")]
    Machine {
        /// What differs or is missing, for people.
        why: String,
    },
    /// The host cannot hold one more standby. Nothing was done for it.
    #[error("{}", no_room(host, *lack, *needs, *left, *of))]
    NoRoom {
        /// The host.
        host: HostName,
        /// Of what it has too little.
        lack: Lack,
        /// How much the standby needs: bytes, or VMs.
        needs: u64,
        /// How much is left.
        left: u64,
        /// Of how much in all.
        of: u64,
    },
    /// The host has a copy of the VM's disks that is newer than the owner's term: the Hello is late, or the arbiter counts
    /// anew. Nothing was done for it.
    #[error(
        "host {host} has disks of this VM that only an owner of term {least} or later may overwrite; if they are of no use \
         (the arbiter was made anew), move their images and the directory vms/VM/disks of that host's state directory away"
    )]
    NewerCopy {
        /// The host.
        host: HostName,
        /// The lowest term that may.
        least: Term,
    },
}

/// What a host has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// Memory for standbys.
    Memory,
    /// Places: so many VMs may stand by.
    Vms,
    /// Room for replicas and the journal on their file system.
    Disk,
}

fn no_room(host: &HostName, lack: Lack, needs: u64, left: u64, of: u64) -> String {
    // What is left is not shown larger than it is, what is needed not smaller.
    let (needed, left, all) = (Size::above(needs), Size::below(left), Size::below(of));
    match lack {
        Lack::Memory => alloc::format!(
            "host {host} has {left} of {all} of memory left for standbys, and this VM needs {needed}: raise [backup] \
             memory there, or protect it elsewhere"
        ),
        Lack::Vms => alloc::format!(
            "host {host} may stand by for {of} VMs and does: raise [backup] vms there, or protect it elsewhere"
        ),
        Lack::Disk => alloc::format!(
            "host {host} has {left} left on the file system of this VM's replicas, and they need {needed}: make room \
             there, or protect it elsewhere"
        ),
    }
}

/// Bytes for people, with tenths.
struct Size {
    tenths: u128,
    unit: &'static str,
}

impl Size {
    /// Cut off behind the tenths.
    fn below(bytes: u64) -> Self {
        let (shift, unit) = if bytes >> 30 > 0 { (30, "GiB") } else { (20, "MiB") };
        Self { tenths: (u128::from(bytes) * 10) >> shift, unit }
    }

    /// The next tenth.
    fn above(bytes: u64) -> Self {
        let (shift, unit) = if bytes >> 30 > 0 { (30, "GiB") } else { (20, "MiB") };
        Self { tenths: (u128::from(bytes) * 10).div_ceil(1 << shift), unit }
    }
}

impl core::fmt::Display for Size {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{} {}", self.tenths / 10, self.tenths % 10, self.unit)
    }
}

/// What a primary says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToBackup {
    /// Opens the session.
    Hello(Hello),
    /// The epoch is whole.
    Commit(Epoch, Commit),
    /// I am alive.
    Heartbeat(Beat),
    /// I will not run the VM again in this term; the newest committed epoch must be this one or, if the VM died,
    /// may be any.
    Yield(Epoch, YieldReason),
    /// Protection is over.
    End(EndReason),
    /// What are the hashes of these parts of your copies?
    Ask(Ask),
    /// Tell me when all that I sent of the first copy is in your copy, on the media as far as it is of disks.
    Mark,
    /// Another host protects the VM as well: throw the standby away, and say so.
    Resign,
}

/// A heartbeat of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// The primary's clock.
    pub at: Instant,
    /// The time-out that the backup should go by at least: what the primary hears of it is that late.
    pub wish: Micros,
}

/// What every answer of a backup says besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AckBody {
    /// The newest clock reading that came from the primary: the backup has promised not to claim before the
    /// session's shortest time-out has passed since it heard that.
    pub echo: Instant,
    /// For so long it has heard nothing. A primary that is not heard learns it here before its backup asks.
    pub silence: Micros,
    /// The time-out that it goes by now. Nothing is promised by it.
    pub timeout: Micros,
}

/// What a backup says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToPrimary {
    /// The standby is there, send memory, and of the disks what these copies lack.
    Accept(Offer),
    /// No.
    Refuse(Refusal),
    /// The epoch, and every one before it, is committed: memory, devices, console; its disk changes are durable.
    Ack(Epoch, AckBody),
    /// I am alive.
    Pulse(AckBody),
    /// I refuse what you sent.
    Broken(String),
    /// I own this term but could not run the VM, and never will in it.
    Declined(Term),
    /// This term exists: you are not the owner any more.
    Fenced(Term),
    /// The hashes that the oldest Ask without an answer wants.
    Hashes(Hashes),
    /// This host is being drained: protect the VM elsewhere, if you can. Until then I stand by.
    Leaving,
    /// What was sent before the Mark is in this host's copy.
    Reached,
    /// I was asked to resign, and will not claim the VM, whatever happens.
    Resigned,
}

impl ToBackup {
    /// Kind, epoch and body for a frame.
    #[must_use]
    pub fn encode(&self) -> (Kind, Epoch, Vec<u8>) {
        match self {
            Self::Hello(hello) => (Kind::Hello, Epoch(0), bytes_of(hello)),
            Self::Commit(epoch, commit) => (Kind::Commit, *epoch, bytes_of(commit)),
            Self::Heartbeat(beat) => (Kind::Heartbeat, Epoch(0), bytes_of(beat)),
            Self::Yield(epoch, reason) => (Kind::Yield, *epoch, bytes_of(reason)),
            Self::End(reason) => (Kind::End, Epoch(0), bytes_of(reason)),
            Self::Ask(ask) => (Kind::Ask, Epoch(0), bytes_of(ask)),
            Self::Mark => (Kind::Mark, Epoch(0), Vec::new()),
            Self::Resign => (Kind::Resign, Epoch(0), Vec::new()),
        }
    }

    /// Reads a message from a frame whose checksum was found right.
    ///
    /// # Errors
    /// If the body is malformed or the kind is not a primary's message.
    pub fn decode(kind: Kind, epoch: Epoch, body: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            Kind::Hello => Self::Hello(read(kind, body)?),
            Kind::Commit => Self::Commit(epoch, read(kind, body)?),
            Kind::Heartbeat => Self::Heartbeat(read(kind, body)?),
            Kind::Yield => Self::Yield(epoch, read(kind, body)?),
            Kind::End => Self::End(read(kind, body)?),
            Kind::Ask => Self::Ask(read(kind, body)?),
            Kind::Mark => read(kind, body).map(|()| Self::Mark)?,
            Kind::Resign => read(kind, body).map(|()| Self::Resign)?,
            _ => return Err(MessageError::Direction(kind)),
        })
    }
}

impl ToPrimary {
    /// Kind, epoch and body for a frame.
    #[must_use]
    pub fn encode(&self) -> (Kind, Epoch, Vec<u8>) {
        match self {
            Self::Accept(offer) => (Kind::Accept, Epoch(0), bytes_of(offer)),
            Self::Refuse(why) => (Kind::Refuse, Epoch(0), bytes_of(why)),
            Self::Ack(epoch, body) => (Kind::Ack, *epoch, bytes_of(body)),
            Self::Pulse(body) => (Kind::Pulse, Epoch(0), bytes_of(body)),
            Self::Broken(why) => (Kind::Broken, Epoch(0), bytes_of(why)),
            Self::Declined(term) => (Kind::Declined, Epoch(0), bytes_of(term)),
            Self::Fenced(term) => (Kind::Fenced, Epoch(0), bytes_of(term)),
            Self::Hashes(hashes) => (Kind::Hashes, Epoch(0), hashes.encode()),
            Self::Leaving => (Kind::Leaving, Epoch(0), Vec::new()),
            Self::Reached => (Kind::Reached, Epoch(0), Vec::new()),
            Self::Resigned => (Kind::Resigned, Epoch(0), Vec::new()),
        }
    }

    /// Reads a message from a frame whose checksum was found right.
    ///
    /// # Errors
    /// If the body is malformed or the kind is not a backup's message.
    pub fn decode(kind: Kind, epoch: Epoch, body: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            Kind::Accept => Self::Accept(read(kind, body)?),
            Kind::Refuse => Self::Refuse(read(kind, body)?),
            Kind::Ack => Self::Ack(epoch, read(kind, body)?),
            Kind::Pulse => Self::Pulse(read(kind, body)?),
            Kind::Broken => Self::Broken(read(kind, body)?),
            Kind::Declined => Self::Declined(read(kind, body)?),
            Kind::Fenced => Self::Fenced(read(kind, body)?),
            Kind::Hashes => Self::Hashes(Hashes::decode(body).map_err(|_| MessageError::Malformed(kind))?),
            Kind::Leaving => read(kind, body).map(|()| Self::Leaving)?,
            Kind::Reached => read(kind, body).map(|()| Self::Reached)?,
            Kind::Resigned => read(kind, body).map(|()| Self::Resigned)?,
            _ => return Err(MessageError::Direction(kind)),
        })
    }
}

pub(super) fn bytes_of<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing plain data into a growing vector has no way to fail.
    postcard::to_allocvec(value).unwrap_or_default()
}

pub(super) fn read<'a, T: Deserialize<'a>>(kind: Kind, body: &'a [u8]) -> Result<T, MessageError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(MessageError::Malformed(kind)),
    }
}
