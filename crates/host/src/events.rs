//! Owns the agent's event log: in memory for the API, in a file for later.

use api::types::{EventRecord, Happened};
use protocol::{HostName, VmName};
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events kept for the API; the file keeps all.
const KEEP: usize = 10_000;

/// The log of one agent.
#[derive(Debug)]
pub struct EventLog {
    host: HostName,
    inner: Mutex<Inner>,
    grown: Condvar,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    recent: VecDeque<EventRecord>,
    file: File,
}

impl EventLog {
    /// Opens `events.jsonl` in the state directory, for appending.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(host: HostName, state_dir: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(state_dir.join("events.jsonl"))?;
        let inner = Inner { next: 1, recent: VecDeque::new(), file };
        Ok(Self { host, inner: Mutex::new(inner), grown: Condvar::new() })
    }

    /// Logs an event of a VM.
    pub fn log(&self, vm: &VmName, what: &impl Serialize, text: String) {
        self.append(Some(vm), what, text);
    }

    /// Logs an event that is no VM's.
    pub fn log_host(&self, what: &impl Serialize, text: String) {
        self.append(None, what, text);
    }

    fn append(&self, vm: Option<&VmName>, what: &impl Serialize, text: String) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let record = EventRecord {
            seq: inner.next,
            at_us: os::clock::realtime_us(),
            host: self.host.clone(),
            vm: vm.cloned(),
            what: serde_json::to_value(what).unwrap_or_default(),
            text,
        };
        inner.next += 1;
        match vm {
            Some(vm) => tracing::info!(vm = %vm, "{}", record.text),
            None => tracing::warn!("{}", record.text),
        }
        if let Ok(mut line) = serde_json::to_vec(&record) {
            line.push(b'\n');
            // A full disk must not stop a healthy guest; the event is still in memory.
            if let Err(error) = inner.file.write_all(&line) {
                tracing::warn!(%error, "cannot write the event log");
            }
        }
        if inner.recent.len() == KEEP {
            inner.recent.pop_front();
        }
        inner.recent.push_back(record);
        self.grown.notify_all();
    }

    /// Events behind the one numbered `seq`, oldest first.
    #[must_use]
    pub fn after(&self, seq: u64) -> Vec<EventRecord> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.recent.iter().filter(|record| record.seq > seq).cloned().collect()
    }

    /// The newest events of a VM, at most so many, oldest first.
    #[must_use]
    pub fn lately(&self, vm: &VmName, many: usize) -> Vec<Happened> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = inner.recent.iter().rev().filter(|record| record.vm.as_ref() == Some(vm)).take(many);
        let mut lately: Vec<_> =
            mine.map(|record| Happened { at_us: record.at_us, text: record.text.clone() }).collect();
        lately.reverse();
        lately
    }

    /// The same, waiting for the first one at most `timeout`.
    #[must_use]
    pub fn wait_after(&self, seq: u64, timeout: Duration) -> Vec<EventRecord> {
        let until = Instant::now() + timeout;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.next <= seq + 1 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner = self.grown.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.recent.iter().filter(|record| record.seq > seq).cloned().collect()
    }
}
