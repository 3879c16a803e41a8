//! Owns a VM between two hosts under the blows of a nemesis, looked at: protect, rest, hit, heal, and what was measured.

use super::interval::Interval;
use super::moments::Moments;
use super::watch::Watch;
use super::{HOSTS, Stage, other};
use anyhow::Result;
use lab::nemesis::{Blow, Nemesis};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Clients must have their answers after so long.
const ANSWERS: Duration = Duration::from_secs(60);

/// A blow that the VM survived: what was done and measured. All times are milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Survived {
    /// What was done.
    pub blow: Blow,
    /// Where the VM ran.
    pub from: &'static str,
    /// Where it went on.
    pub to: &'static str,
    /// The longest wait of any client; none if no client got an answer any more on its connection.
    pub outage_ms: Option<f64>,
    /// From the blow until it was noticed.
    pub detection_ms: Option<f64>,
    /// The promotion; none if the VM went on where it was.
    pub promotion_ms: Option<f64>,
}

impl Survived {
    /// Whether the VM went on at the other host.
    pub fn is_failover(&self) -> bool {
        self.from != self.to
    }

    /// For people.
    pub fn line(&self) -> String {
        let how = match self.promotion_ms {
            Some(ms) => format!("promoted in {ms:5.1} ms"),
            None => "went on in place   ".into(),
        };
        let outage = self.outage_ms.map_or("    ?".to_owned(), |ms| format!("{ms:>5.0}"));
        format!("{:<6}  {:<5} → {:<5}  outage {outage} ms, {how}", self.blow.name(), self.from, self.to)
    }
}

/// Where it happens.
pub struct Field<'a> {
    /// The hosts and the VM.
    pub stage: &'a Stage,
    /// Who looks on.
    pub watch: Watch<'a>,
    /// Where the VM runs now.
    pub home: &'static str,
    /// When checkpoints are taken.
    pub interval: Interval,
}

impl<'a> Field<'a> {
    /// The VM, unprotected at its first home.
    pub fn new(stage: &'a Stage, watch: Watch<'a>, interval: Interval) -> Self {
        Self { stage, watch, home: HOSTS[0], interval }
    }

    /// Protects the VM, wherever it runs, by the other host. Tells how long it took, in milliseconds.
    pub fn protect(&mut self) -> Result<f64> {
        let (stage, home, interval) = (self.stage, self.home, self.interval);
        let (start, by) = (Instant::now(), other(home));
        self.watch.ask_only(&HOSTS);
        self.watch.during(&format!("copy, {home} → {by}"), || stage.protect(home, by, interval))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// Lets the clients go on for a while. What they waited up to its end is no part of an outage.
    pub fn rest(&mut self, rest: Duration) {
        let home = self.home;
        self.watch.run_for(&format!("protected, {home} → {}", other(home)), rest);
        self.watch.take_longest_wait();
    }

    /// Hits the VM's home, waits until the clients have their answers, and makes the host that was hit whole again.
    pub fn blow(&mut self, blow: Blow) -> Result<Survived> {
        let (stage, from) = (self.stage, self.home);
        let nemesis = Nemesis { cluster: &stage.cluster, vm: &stage.vm, hosts: HOSTS };
        if blow.silences() {
            self.watch.ask_only(&[other(from)]);
        }
        let what = match blow {
            Blow::Kill => format!("{from} is dead"),
            Blow::Freeze => format!("{from} is frozen"),
            Blow::Link => "the replication link is cut".into(),
            Blow::Qemu => format!("QEMU at {from} is dead"),
            Blow::Dying => format!("{from} has lost its link and is dead"),
        };
        let hit = self.watch.during(&what, || nemesis.strike(from, blow))?;
        self.home = hit.to;
        self.watch.ask();
        let moments = Moments::read(&self.watch.seen().events, hit.to, hit.at_us);
        let since_us = moments.promoted_us.unwrap_or_else(os::clock::now_us);
        self.watch.until_all_answered(&format!("the VM runs at {}", hit.to), since_us, ANSWERS)?;
        let outage = self.watch.take_longest_wait();
        self.watch.during(&format!("{from} is made whole"), || nemesis.heal(hit))?;
        Ok(Survived {
            blow: hit.blow,
            from,
            to: hit.to,
            outage_ms: outage.map(|gap| gap.duration_us as f64 / 1e3),
            detection_ms: moments.suspected_us.map(|at_us| at_us.saturating_sub(hit.at_us) as f64 / 1e3),
            promotion_ms: moments.promotion_ms,
        })
    }
}
