//! Owns what is told of a first copy, once it is committed: how the disks were repaired, and what a remnant of memory spared.

use crate::disks::Meter;
use crate::link::CopyWire;
use api::types::CopyKind;
use protocol::{HostName, VmName};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A first copy under way.
#[derive(Debug)]
pub struct Copied {
    wire: Arc<CopyWire>,
    since: Instant,
}

/// The event: a backup's copies of the disks are the primary's, as of its first epoch.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "disks_copied")]
pub struct Report {
    /// The backup.
    pub peer: HostName,
    /// How.
    pub kind: CopyKind,
    /// Bytes of the disks that were looked at.
    pub examined_bytes: u64,
    /// Of those, bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes on the wire for them, and for what the guest wrote meanwhile.
    pub data_wire_bytes: u64,
    /// Bytes on the wire for hashes, both ways.
    pub hash_wire_bytes: u64,
    /// From the backup's offer to its first acknowledgement, memory included, in milliseconds.
    pub took_ms: u64,
}

/// The event: a backup had a remnant, which is the primary's memory now.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "memory_compared")]
pub struct MemoryReport {
    /// The backup.
    pub peer: HostName,
    /// Bytes of memory that were compared.
    pub compared_bytes: u64,
    /// Of those, bytes that differed.
    pub differing_bytes: u64,
    /// Bytes on the wire for pages, those that the guest wrote meanwhile included.
    pub wire_bytes: u64,
    /// Bytes on the wire for hashes, both ways.
    pub hash_wire_bytes: u64,
    /// From the backup's offer to its first acknowledgement, in milliseconds.
    pub took_ms: u64,
}

impl Copied {
    /// It begins.
    #[must_use]
    pub fn begin(wire: Arc<CopyWire>) -> Self {
        Self { wire, since: Instant::now() }
    }

    /// It is committed; nothing is told of memory that was blank.
    #[must_use]
    pub fn memory(&self, peer: &HostName) -> Option<MemoryReport> {
        let compared_bytes = self.bytes(|wire| &wire.compared);
        (compared_bytes > 0).then(|| MemoryReport {
            peer: peer.clone(),
            compared_bytes,
            differing_bytes: self.bytes(|wire| &wire.differing),
            wire_bytes: self.bytes(|wire| &wire.memory),
            hash_wire_bytes: self.bytes(|wire| &wire.hashes) - self.bytes(|wire| &wire.disk_hashes),
            took_ms: self.took_ms(),
        })
    }

    fn bytes(&self, of: impl Fn(&CopyWire) -> &AtomicU64) -> u64 {
        of(&self.wire).load(Ordering::Relaxed)
    }

    fn took_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It is committed; nothing is told of a VM without disks.
    #[must_use]
    pub fn report(self, peer: &HostName, meter: &Meter) -> Option<Report> {
        let copy = meter.copy()?;
        Some(Report {
            peer: peer.clone(),
            kind: copy.kind,
            examined_bytes: copy.done_bytes,
            sent_bytes: copy.sent_bytes,
            data_wire_bytes: self.bytes(|wire| &wire.data),
            hash_wire_bytes: self.bytes(|wire| &wire.disk_hashes),
            took_ms: self.took_ms(),
        })
    }
}

impl MemoryReport {
    /// For people.
    #[must_use]
    pub fn words(&self, vm: &VmName) -> String {
        format!(
            "VM {vm}: host {} had its memory from before: {:.1} MiB compared, {:.1} MiB differed; {:.1} MiB of pages and {:.1} MiB of hashes on the wire; {} ms",
            self.peer,
            mib(self.compared_bytes),
            mib(self.differing_bytes),
            mib(self.wire_bytes),
            mib(self.hash_wire_bytes),
            self.took_ms
        )
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Report {
    /// For people.
    #[must_use]
    pub fn words(&self, vm: &VmName) -> String {
        let how = match self.kind {
            CopyKind::Full => "copied whole",
            CopyKind::Comparison => "compared whole",
            CopyKind::Difference => "compared where they may differ",
        };
        format!(
            "VM {vm}: its disks at {} were {how}: {:.1} MiB looked at, {:.1} MiB sent; {:.1} MiB on the wire, {:.1} MiB of it for hashes; {} ms with the memory",
            self.peer,
            mib(self.examined_bytes),
            mib(self.sent_bytes),
            mib(self.data_wire_bytes + self.hash_wire_bytes),
            mib(self.hash_wire_bytes),
            self.took_ms
        )
    }
}
