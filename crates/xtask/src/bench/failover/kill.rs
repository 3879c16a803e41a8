//! Owns one death of a host: the kill, and where the clients' wait went.

use super::super::bed::{Bed, until};
use crate::stage::moments::Moments;
use anyhow::{Context, Result, bail};
use api::summary::Summary;
use lab::client::{Clients, Writers};
use lab::report::OutageSplit;

/// A host died and the VM went on at another. Times are milliseconds, moments are on `os::clock`.
pub struct Failover {
    /// The longest wait of any one connection.
    pub outage_ms: f64,
    /// Its parts.
    pub split: OutageSplit,
    /// What the new owner said.
    pub moments: Moments,
    /// When the kill began.
    pub killed_us: u64,
    /// When the VM ran again.
    pub promoted_us: u64,
    /// The new owner's events behind the one numbered so are of this failover.
    pub mark: u64,
}

/// A figure of a failover: its name and how it is read.
pub type Figure = (&'static str, fn(&Failover) -> Option<f64>);

/// The outage as a whole.
pub const WHOLE: Figure = ("the whole outage, unluckiest client", |one| Some(one.outage_ms));
/// From the promotion on, until anybody heard of it.
pub const FIRST_PACKET: Figure = ("first packet: a reply to any client", |one| one.split.first_packet_ms);
/// From there on.
pub const LEFT: Figure = ("left: the unluckiest client's own wait behind that", Failover::left_ms);
/// The whole and its parts, in their order.
pub const PARTS: [Figure; 11] = [
    WHOLE,
    ("before the kill (since that client's last reply)", |one| one.split.before_kill_ms),
    ("detection", |one| one.split.detection_ms),
    ("grant", |one| one.split.grant_ms),
    ("promotion, as events show it", |one| one.split.promotion_ms),
    ("· by its own account", |one| one.moments.promotion_ms),
    ("· apply the last epoch", |one| one.moments.apply_ms),
    ("· device state into QEMU", |one| one.moments.load_ms),
    ("· resume", |one| one.moments.resume_ms),
    FIRST_PACKET,
    LEFT,
];

/// How the parts are to be read.
pub const READ_PARTS: &str = "The outage is the longest time that one connection waited between two replies. Its parts follow \
    each other: from the kill until the backup suspects the primary; until the arbiter has granted the next term; until the VM \
    runs (apply the last epoch, give QEMU the device state, resume); until the first reply has reached any client.";

impl Failover {
    /// Kills the host `from`, where the VM runs, and waits until `to` runs it and every writer has an answer from there.
    pub fn kill(bed: &Bed, writers: &Writers, from: &str, to: &str) -> Result<Self> {
        let mark = bed.newest_event(to)?;
        drop(writers.recent());
        let killed_us = bed.cluster.lab.kill_host(from)?;
        bed.cluster.wait_event(to, "promoted", mark)?;
        let events = bed.cluster.ask(to, |api| api.events(mark))?;
        let moments = Moments::read(&events, to, killed_us);
        let promoted_us = moments.promoted_us.context("the new primary does not say when it was promoted")?;
        until("an answer to every client after the failover", || {
            writers.all_answered_since(promoted_us) || writers.progress().broken > 0
        })?;
        if writers.progress().broken > 0 {
            bail!("a client's connection broke at the failover from {from} to {to}");
        }
        let recent = writers.recent();
        let outage = recent.longest_wait.context("nobody waited")?;
        let spoke_us = recent.samples.iter().map(|sample| sample.at_us).find(|&at_us| at_us >= promoted_us);
        let split = moments.split(outage, killed_us, spoke_us);
        Ok(Self { outage_ms: outage.duration_us as f64 / 1e3, split, moments, killed_us, promoted_us, mark })
    }

    fn left_ms(&self) -> Option<f64> {
        let split = &self.split;
        let parts = [
            split.before_kill_ms?,
            split.detection_ms?,
            split.grant_ms?,
            split.promotion_ms?,
            split.first_packet_ms?,
        ];
        Some((self.outage_ms - parts.iter().sum::<f64>()).max(0.0))
    }
}

/// A figure of many failovers.
pub fn spread<'a>(
    all: impl IntoIterator<Item = &'a Failover>,
    figure: impl Fn(&Failover) -> Option<f64>,
) -> Option<Summary> {
    Summary::of(all.into_iter().filter_map(figure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_outage_without_its_parts() {
        let split = OutageSplit {
            before_kill_ms: Some(5.0),
            detection_ms: Some(280.0),
            grant_ms: Some(3.0),
            promotion_ms: Some(12.0),
            first_packet_ms: Some(40.0),
        };
        let one = Failover {
            outage_ms: 400.0,
            split,
            moments: Moments::default(),
            killed_us: 0,
            promoted_us: 0,
            mark: 0,
        };
        assert_eq!(one.left_ms(), Some(60.0));
        let unknown = Failover { split: OutageSplit { grant_ms: None, ..one.split }, ..one };
        assert_eq!(unknown.left_ms(), None);
    }
}
