//! Owns the closed-loop clients of part 2: several connections, each with one write at a time.

use super::Run;
use super::bed::Reach;
use super::figures::{Cell, Table, Target};
use anyhow::Result;
use api::summary::Summary;
use lab::topology::Namespace;
use std::thread;
use std::time::Duration;

/// So many connections; what is added to their median latency at most, ms; and the least ratio of throughput.
const CLIENTS: [(usize, f64, Option<f64>); 2] = [(8, 5.0, None), (50, 8.0, Some(0.5))];
/// Until they run evenly.
const SETTLE: Duration = Duration::from_millis(500);

/// What the clients of one state of the VM saw, for each of [`CLIENTS`].
#[derive(Clone, Default)]
pub struct Closed([Loops; 2]);

#[derive(Clone, Default)]
struct Loops {
    latency_us: Vec<u64>,
    /// Seconds that these were measured for.
    seconds: f64,
}

impl Loops {
    fn writes(&self) -> f64 {
        self.latency_us.len() as f64 / self.seconds
    }

    fn median_ms(&self) -> Option<f64> {
        Summary::of_us_in_ms(self.latency_us.iter().copied()).map(|latency| latency.median)
    }
}

/// The table that a state of the VM is a row of.
pub fn table() -> Table {
    Table::new(
        "Closed loops: several connections, one write at a time each",
        &[
            ("what", "what"),
            ("added_8_ms", "8 connections: added to their unprotected median, ms"),
            ("writes_8", "writes/s"),
            ("ratio_8", "ratio"),
            ("added_50_ms", "50 connections: added to their unprotected median, ms"),
            ("writes_50", "writes/s"),
            ("ratio_50", "ratio"),
        ],
    )
}

impl Closed {
    /// Lets the clients write.
    pub fn see(run: &mut Run<'_>, client: &Namespace, reach: Reach, label: &str) -> Result<Self> {
        let mut seen = Self::default();
        for (loops, (connections, ..)) in seen.0.iter_mut().zip(CLIENTS) {
            let writers = reach.closed_loops(client, connections)?;
            thread::sleep(SETTLE);
            let from_us = os::clock::now_us();
            let time = run.stretch(4);
            run.pass(&format!("{label}: {connections} connections, one write at a time each"), time);
            let until_us = os::clock::now_us();
            let report = writers.stop()?;
            anyhow::ensure!(report.broken() == 0, "a client's connection broke");
            let samples = report.writers.iter().flat_map(|writer| &writer.samples);
            let inside = samples.filter(|sample| (from_us..until_us).contains(&sample.at_us));
            loops.latency_us = inside.map(|sample| sample.latency_us).collect();
            loops.seconds = (until_us - from_us) as f64 / 1e6;
        }
        Ok(seen)
    }

    /// Both together.
    pub fn pooled(&self, other: &Self) -> Self {
        let pool = |at: usize| Loops {
            latency_us: [self.0[at].latency_us.as_slice(), &other.0[at].latency_us].concat(),
            seconds: self.0[at].seconds + other.0[at].seconds,
        };
        Self([pool(0), pool(1)])
    }

    /// The row, beside the unprotected VM.
    pub fn cells(&self, unprotected: &Self) -> [Cell; 6] {
        let [[added_8, writes_8, ratio_8], [added_50, writes_50, ratio_50]] = [0, 1].map(|at| {
            let (loops, base) = (&self.0[at], &unprotected.0[at]);
            let median = base.median_ms().unwrap_or_default();
            let added = Summary::of(loops.latency_us.iter().map(|us| *us as f64 / 1e3 - median));
            [added.into(), loops.writes().into(), (loops.writes() / base.writes()).into()]
        });
        [added_8, writes_8, ratio_8, added_50, writes_50, ratio_50]
    }

    /// What is aimed at.
    pub fn targets(&self, unprotected: &Self) -> Vec<Target> {
        let mut targets = Vec::new();
        for (at, (connections, most_added, least_ratio)) in CLIENTS.into_iter().enumerate() {
            let (loops, base) = (&self.0[at], &unprotected.0[at]);
            if let (Some(median), Some(unprotected)) = (loops.median_ms(), base.median_ms()) {
                let what = format!("auto: added latency of {connections} connections, median");
                targets.push(Target::at_most(what, "ms", most_added, median - unprotected));
            }
            if let Some(least) = least_ratio {
                let what = format!("auto: throughput of {connections} connections, of unprotected");
                targets.push(Target::at_least(what, "", least, loops.writes() / base.writes()));
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_clients_is_compared_with_itself() {
        let loops = |latency_us, count| Loops { latency_us: vec![latency_us; count], seconds: 2.0 };
        let unprotected = Closed([loops(1_000, 100), loops(2_000, 400)]);
        let auto = Closed([loops(5_000, 50), loops(9_000, 160)]);
        let drawn = auto.cells(&unprotected).map(|cell| super::super::page::drawn_cell(&cell));
        assert_eq!(drawn[1..3], ["25.0", "0.500"]);
        assert_eq!(drawn[4..6], ["80.0", "0.400"]);
        let found: Vec<_> =
            auto.targets(&unprotected).iter().map(|target| (target.found, target.reached)).collect();
        assert_eq!(found, [(4.0, true), (7.0, true), (0.4, false)]);
        let pooled = auto.pooled(&unprotected);
        assert!((pooled.0[0].writes() - 37.5).abs() < 1e-9);
    }
}
