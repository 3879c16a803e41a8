//! Owns what a primary measures: one record a checkpoint, and their distributions.

use crate::link::Written;
use api::types::{EpochRecord, Measured, Summary};
use std::collections::VecDeque;

/// Checkpoints kept: more than ten minutes at 40 a second.
const KEEP: usize = 30_000;

/// The measurements of one VM since protection began.
#[derive(Debug, Default)]
pub struct Measurements {
    records: VecDeque<EpochRecord>,
    total: Written,
}

impl Measurements {
    /// Forgets everything: a new session begins.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// A checkpoint was cut.
    pub fn cut(&mut self, record: EpochRecord) {
        if self.records.len() == KEEP {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// A checkpoint was written to the link.
    pub fn written(&mut self, written: &Written) {
        self.total.wire_bytes += written.wire_bytes;
        self.total.pages += written.pages;
        self.total.deltas += written.deltas;
        self.total.unchanged += written.unchanged;
        if let Some(record) = self.find(written.epoch.0) {
            record.wire_bytes = written.wire_bytes;
        }
    }

    /// A checkpoint was acknowledged at this time (microseconds since 1970).
    pub fn acknowledged(&mut self, epoch: u64, now_us: u64) {
        if let Some(record) = self.find(epoch)
            && record.ack_us == 0
        {
            record.ack_us = now_us.saturating_sub(record.at_us).max(1);
        }
    }

    fn find(&mut self, epoch: u64) -> Option<&mut EpochRecord> {
        self.records.iter_mut().rev().find(|record| record.epoch == epoch)
    }

    /// Records cut after this time.
    #[must_use]
    pub fn since(&self, at_us: u64) -> Vec<EpochRecord> {
        self.records.iter().filter(|record| record.at_us > at_us).copied().collect()
    }

    /// The distributions; the gate's hold times are the gate's.
    #[must_use]
    pub fn measured(&self, hold_ms: Summary) -> Measured {
        let column = |get: fn(&EpochRecord) -> u64, scale: f64| {
            summary(self.records.iter().map(get).filter(|&v| v > 0).map(|v| as_f64(v) / scale).collect())
        };
        Measured {
            pause_ms: column(|r| r.pause_us, 1e3),
            dirty_pages: column(|r| r.dirty_pages, 1.0),
            ack_ms: column(|r| r.ack_us, 1e3),
            hold_ms,
            wire_bytes: self.total.wire_bytes,
            pages: self.total.pages,
            delta_pages: self.total.deltas,
            unchanged_pages: self.total.unchanged,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// Minimum, median, 99th percentile and maximum of some values.
#[must_use]
pub fn summary(mut values: Vec<f64>) -> Summary {
    if values.is_empty() {
        return Summary::default();
    }
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    Summary {
        min: values[0],
        median: values[last / 2],
        p99: values[(last * 99).div_ceil(100)],
        max: values[last],
        count: values.len() as u64,
    }
}
