//! Owns what operators are told: every change of a VM's protection, with its reason as a value.

use crate::ids::{Epoch, HostName, Session, Term};
use crate::wire::{EndReason, Refusal, YieldReason};
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Why a session ended or could not begin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LinkLoss {
    /// Could not connect.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Disconnected(String),
    /// Nothing was heard for the time-out.
    #[error("nothing was heard from the other host for {0} ms")]
    Silent(u64),
    /// The other side is heard, and says that it does not hear this one.
    #[error(
        "the backup is heard, but has heard nothing from this host for {0} ms: the link works in one direction only"
    )]
    Unheard(u64),
    /// Heartbeats come, acknowledgements do not.
    #[error("the backup is alive but has not acknowledged a checkpoint for {0} ms")]
    Stalled(u64),
    /// The other side refused.
    #[error("the backup refused: {0}")]
    Refused(Refusal),
    /// The other side found the stream damaged.
    #[error("the backup refused the stream: {0}")]
    Broken(String),
    /// This side gave it up: it would have taken too long, or stopped the VM for too long.
    #[error("given up: {0}")]
    GivenUp(String),
    /// This side found the stream damaged.
    #[error("the stream is not right: {0}")]
    Stream(String),
    /// The other side knows a higher term.
    #[error("the other host knows term {0}")]
    HigherTerm(Term),
    /// Checkpoints cannot be taken.
    #[error("checkpoints fail: {0}")]
    Checkpoint(String),
    /// The standby could not be kept.
    #[error("the standby failed: {0}")]
    Standby(String),
}

/// Something an operator should be able to read later. Serialised as it is into the event log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Notice {
    /// The first copy runs.
    Copying {
        /// The backup.
        peer: HostName,
        /// The session.
        session: Session,
    },
    /// The backup has a whole checkpoint: from now on it can take over.
    Protected {
        /// The backup.
        peer: HostName,
        /// The term.
        term: Term,
    },
    /// Another host could not become the backup; the present one stays it.
    ChangeFailed {
        /// The host.
        peer: HostName,
        /// Why.
        why: LinkLoss,
    },
    /// The backup gave its place to another, which protects the VM now.
    Resigned {
        /// The old backup.
        peer: HostName,
    },
    /// The VM's memory and disks are being copied to the host where it shall run.
    Migrating {
        /// The destination.
        peer: HostName,
        /// The session.
        session: Session,
    },
    /// A migration came to nothing before anything was decided; the VM runs on as before.
    MigrationFailed {
        /// The destination.
        peer: HostName,
        /// Why.
        why: LinkLoss,
    },
    /// The last state of a migrated VM is on its way: should this host die now, the destination goes on with the VM.
    Departing {
        /// The destination.
        peer: HostName,
    },
    /// Protection could not begin; the VM runs on as before.
    ProtectFailed {
        /// The backup asked.
        peer: HostName,
        /// Why.
        why: LinkLoss,
    },
    /// A checkpoint failed; its dirty pages are owed to the next.
    CheckpointFailed {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// The backup is lost; output is held until the arbiter has spoken.
    BackupLost {
        /// The backup.
        peer: HostName,
        /// Why.
        why: LinkLoss,
    },
    /// The arbiter does not answer; output stays held, both sides keep asking.
    ArbiterUnreachable {
        /// What it said.
        why: String,
    },
    /// The VM runs without a backup in this term: its host's death is its death.
    Unprotected {
        /// The term.
        term: Term,
    },
    /// Another host owns the VM; this copy is ended.
    Fenced {
        /// The owner.
        owner: HostName,
        /// Its term.
        term: Term,
    },
    /// The guest is slowed down: checkpoints are not acknowledged as fast as they are taken.
    Throttled {
        /// Checkpoints in flight.
        in_flight: u32,
    },
    /// The guest writes faster than its writes are carried away: from now on it loses a part of its time. The part changes
    /// with what it writes.
    Slowed {
        /// Of its time, at first.
        percent: u8,
        /// No more than this.
        most: u8,
    },
    /// The guest has all of its time again.
    FullSpeed,
    /// The last checkpoint of a planned failover was acknowledged; the backup takes over.
    HandedOver {
        /// The last epoch.
        epoch: Epoch,
        /// Why.
        reason: YieldReason,
    },
    /// A planned failover did not happen; the VM runs on here.
    HandoverFailed {
        /// Why.
        why: String,
    },
    /// The VM's process died.
    VmDied {
        /// What is known.
        why: String,
    },
    /// A standby is being prepared for this owner.
    StandbyPreparing {
        /// The owner.
        primary: HostName,
        /// Its term.
        term: Term,
    },
    /// There is no room for this owner's standby, or a newer copy in its place; nothing was done for it.
    StandbyRefused {
        /// The owner.
        primary: HostName,
        /// Its term.
        term: Term,
        /// What is missing, or in the way.
        why: Refusal,
    },
    /// The standby has a whole checkpoint.
    StandbyArmed {
        /// The owner.
        primary: HostName,
        /// Its term.
        term: Term,
    },
    /// The disk changes of an epoch cannot be made durable here: the standby takes no more, its primary is told.
    PersistFailed {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// The primary is lost; the next term is asked for.
    PrimaryLost {
        /// The owner that fell silent.
        primary: HostName,
        /// Newest committed epoch.
        epoch: Epoch,
        /// Why.
        why: LinkLoss,
    },
    /// The primary gave the VM up.
    TakingOver {
        /// The last epoch.
        epoch: Epoch,
        /// Why.
        reason: YieldReason,
    },
    /// The next term was granted: the VM goes on here.
    Promoting {
        /// The new term.
        term: Term,
        /// The epoch it goes on from.
        epoch: Epoch,
    },
    /// The VM could not be continued in a term that this host won.
    PromotionFailed {
        /// The term.
        term: Term,
        /// Why.
        why: String,
    },
    /// The standby was thrown away.
    StandbyDiscarded {
        /// Why.
        why: Discard,
    },
}

/// Why a standby was thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discard {
    /// The primary ended protection.
    Ended(EndReason),
    /// Another host owns the next term.
    LostClaim {
        /// The owner.
        owner: HostName,
        /// Its term.
        term: Term,
    },
    /// The first copy did not finish.
    Incomplete(LinkLoss),
    /// A newer session took its place.
    Replaced {
        /// The newer term.
        term: Term,
    },
    /// The primary has another backup, and asked this one to resign.
    Resigned,
    /// The operator asked.
    Operator,
}
