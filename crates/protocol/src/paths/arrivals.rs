//! Owns the frames that came, until they are consumed in order.

use super::PathError;
use alloc::collections::BTreeMap;

/// What comes in.
#[derive(Debug)]
pub(super) struct Arrivals<F> {
    /// Came, and was not delivered.
    waiting: BTreeMap<u64, (u64, F)>,
    /// All before it came.
    received: u64,
    /// All before it were delivered.
    delivered: u64,
    /// All before it are done with.
    consumed: u64,
    held: u64,
    most: u64,
}

impl<F> Arrivals<F> {
    pub fn new(expected: u64, most: u64) -> Self {
        Self {
            waiting: BTreeMap::new(),
            received: expected,
            delivered: expected,
            consumed: expected,
            held: 0,
            most,
        }
    }

    /// Bytes held.
    #[cfg(test)]
    pub fn held(&self) -> u64 {
        self.held
    }

    pub fn take(&mut self, seq: u64, size: u64, frame: F) -> Result<bool, PathError> {
        if seq < self.received || self.waiting.contains_key(&seq) {
            return Ok(false);
        }
        // One frame is always allowed in flight, however long.
        if !self.waiting.is_empty() && self.held + size > self.most {
            return Err(PathError::Ahead(self.held + size));
        }
        self.held += size;
        self.waiting.insert(seq, (size, frame));
        while self.waiting.contains_key(&self.received) {
            self.received += 1;
        }
        Ok(true)
    }

    pub fn can_deliver(&self) -> bool {
        self.delivered < self.received
    }

    pub fn deliver(&mut self) -> Option<F> {
        let (size, frame) = self.waiting.remove(&self.delivered)?;
        self.held -= size;
        self.delivered += 1;
        Some(frame)
    }

    pub fn consumed(&mut self) {
        self.consumed = self.delivered;
    }

    pub fn progress(&self) -> (u64, u64) {
        (self.received, self.consumed)
    }
}
