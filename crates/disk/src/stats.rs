//! Owns the counts of what was asked of a disk.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// What was asked of a disk since it is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Reads that were answered with data.
    pub reads: u64,
    /// Bytes in them.
    pub read_bytes: u64,
    /// Writes of data that reached the image.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// Writes of zeroes that reached the image.
    pub zeroes: u64,
    /// Bytes in them.
    pub zeroed_bytes: u64,
    /// Discards that were answered, also those that the medium ignored.
    pub discards: u64,
    /// Flushes that were answered well, whether they waited for the medium or not.
    pub flushes: u64,
    /// Times that something waited for the medium, and it came back well: flushes, and writes with FUA.
    pub syncs: u64,
    /// Requests that were refused or failed.
    pub errors: u64,
    /// Requests that were read and not answered yet.
    pub in_flight: u64,
    /// Clients that are connected now.
    pub connections: u64,
    /// Connections that were ended because the client broke the protocol, or died within a request.
    pub broken_connections: u64,
}

/// One count; may go down too.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one up until the guard is dropped.
    pub(crate) fn during(&self) -> During<'_> {
        self.one();
        During(self)
    }
}

/// See [`Count::during`].
#[must_use]
#[derive(Debug)]
pub(crate) struct During<'a>(&'a Count);

impl Drop for During<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The live counts behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: Count,
    pub(crate) read_bytes: Count,
    pub(crate) writes: Count,
    pub(crate) written_bytes: Count,
    pub(crate) zeroes: Count,
    pub(crate) zeroed_bytes: Count,
    pub(crate) discards: Count,
    pub(crate) flushes: Count,
    pub(crate) syncs: Count,
    pub(crate) errors: Count,
    pub(crate) in_flight: Count,
    pub(crate) connections: Count,
    pub(crate) broken_connections: Count,
}

impl Counters {
    /// Each count is right, but they are read one after another.
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            reads: self.reads.get(),
            read_bytes: self.read_bytes.get(),
            writes: self.writes.get(),
            written_bytes: self.written_bytes.get(),
            zeroes: self.zeroes.get(),
            zeroed_bytes: self.zeroed_bytes.get(),
            discards: self.discards.get(),
            flushes: self.flushes.get(),
            syncs: self.syncs.get(),
            errors: self.errors.get(),
            in_flight: self.in_flight.get(),
            connections: self.connections.get(),
            broken_connections: self.broken_connections.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_until_it_ends() {
        let counters = Counters::default();
        let one = counters.in_flight.during();
        let two = counters.in_flight.during();
        assert_eq!(counters.snapshot().in_flight, 2);
        drop((one, two));
        assert_eq!(counters.snapshot(), Stats::default());
    }

    #[test]
    fn a_snapshot_survives_json() {
        let stats = Stats { reads: 1, written_bytes: 2, errors: 3, ..Stats::default() };
        let text = serde_json::to_string(&stats).unwrap();
        assert!(text.contains(r#""reads":1"#), "{text}");
        assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
    }
}
