//! Owns what a demonstration leaves behind: `result.json` for programs and `report.html` for people.
//!
//! Everything in it was measured; what was not measured is absent, never zero. Times named `at_ms` count from the
//! start of the writers.

mod chart;
mod html;
mod page;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::client::{BenchmarkRow, Bucket, Sample, Verification};
use api::summary::Summary;

/// A report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub struct ReportError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// All that a demonstration measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// Writes that the clients saw acknowledged.
    pub acknowledged_writes: u64,
    /// Of these, how many were not there afterwards.
    pub lost_acknowledged_writes: u64,
    /// Connections that the writers opened at the beginning.
    pub connections: u64,
    /// Of these, how many broke.
    pub connections_broken: u64,
    /// The longest time that any connection waited for a reply around the kill.
    pub outage_ms: f64,
    /// Where that time went.
    pub outage: OutageSplit,
    /// Checkpoints that were committed.
    pub epochs: u64,
    /// The interval between checkpoints that was asked for; none if they followed the output.
    pub interval_ms: Option<f64>,
    /// How long the VM stood still for each checkpoint, by QEMU's own events.
    pub pause_ms: Summary,
    /// Request/response latency under protection, minus the median without.
    pub added_latency_ms: Summary,
    /// Request/response latency before protection.
    pub latency_unprotected_ms: Option<Summary>,
    /// Request/response latency under protection.
    pub latency_protected_ms: Option<Summary>,
    /// How long what the VM sent waited for its checkpoint to be acknowledged.
    pub gate_hold_ms: Option<Summary>,
    /// What the lists on the server held afterwards.
    pub verification: Verification,
    /// What was killed, and when.
    pub kill: Kill,
    /// Stretches of the run, such as "unprotected", "protected", "after the failover".
    pub phases: Vec<Phase>,
    /// What the writers saw, in buckets of `timeline_bucket_ms`.
    pub timeline: Vec<Bucket>,
    /// The width of the buckets of `timeline`.
    pub timeline_bucket_ms: f64,
    /// The same around the kill, in buckets of `around_kill_bucket_ms`; times as in `timeline`.
    pub around_kill: Vec<Bucket>,
    /// The width of the buckets of `around_kill`.
    pub around_kill_bucket_ms: f64,
    /// Every checkpoint.
    pub epoch_series: Vec<EpochPoint>,
    /// Runs of `redis-benchmark`.
    pub benchmarks: Vec<Benchmark>,
    /// The machine, the guest and the versions of everything: name and value.
    pub facts: Vec<(String, String)>,
    /// The commands that were run, for who wants to do it by hand.
    pub commands: Vec<String>,
}

/// Where the time of an outage went; what is unknown is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutageSplit {
    /// From the last reply before the kill to the kill.
    pub before_kill_ms: Option<f64>,
    /// From the kill until the backup asked for ownership.
    pub detection_ms: Option<f64>,
    /// Until the arbiter had granted it.
    pub grant_ms: Option<f64>,
    /// Until the promoted VM ran.
    pub promotion_ms: Option<f64>,
    /// Until its first packet left.
    pub first_packet_ms: Option<f64>,
}

/// The moment for which everything else was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// When.
    pub at_ms: f64,
    /// What was done, for people.
    pub what: String,
}

/// A named stretch of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Its beginning.
    pub from_ms: f64,
    /// Its end.
    pub to_ms: f64,
}

/// One checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochPoint {
    /// Its number.
    pub epoch: u64,
    /// When the VM was stopped for it.
    pub at_ms: f64,
    /// How long it stood still.
    pub pause_us: u64,
    /// Pages that were dirty.
    pub dirty_pages: u64,
    /// Bytes sent for it.
    pub bytes_wire: u64,
}

/// One run of `redis-benchmark`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Benchmark {
    /// In which phase, such as "unprotected".
    pub phase: String,
    /// Its table.
    pub rows: Vec<BenchmarkRow>,
}

/// The latencies of a protected VM, each less the unprotected median: what protection adds to a request.
pub fn added_latency_ms(protected: &[Sample], unprotected: Summary) -> Option<Summary> {
    Summary::of(protected.iter().map(|sample| sample.latency_us as f64 / 1000.0 - unprotected.median))
}

impl DemoReport {
    /// Whether the promise was kept: something was written, nothing acknowledged was lost, no connection broke.
    pub fn held(&self) -> bool {
        self.acknowledged_writes > 0
            && self.lost_acknowledged_writes == 0
            && self.connections > 0
            && self.connections_broken == 0
            && self.verification.holds()
    }

    /// The verdict in one sentence.
    pub fn verdict(&self) -> String {
        let kept = self.connections.saturating_sub(self.connections_broken);
        format!(
            "{}: {} of {} acknowledged writes lost, {kept} of {} connections kept, {:.0} ms outage",
            if self.held() { "HELD" } else { "BROKEN" },
            self.lost_acknowledged_writes,
            self.acknowledged_writes,
            self.connections,
            self.outage_ms
        )
    }

    /// The report as JSON, with `verdict_held` and `verdict` beside the fields of this structure.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("numbers and strings are always JSON");
        json["verdict_held"] = self.held().into();
        json["verdict"] = self.verdict().into();
        json
    }

    /// The report as one HTML page that needs nothing else.
    pub fn to_html(&self) -> String {
        page::render(self)
    }

    /// Writes `result.json` and `report.html` into a directory, which is made if it is not there.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), ReportError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ReportError { path, source }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let json = directory.join("result.json");
        fs::write(&json, format!("{:#}\n", self.to_json())).map_err(failed(&json))?;
        let html = directory.join("report.html");
        fs::write(&html, self.to_html()).map_err(failed(&html))
    }
}
