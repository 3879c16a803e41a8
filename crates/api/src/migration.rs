//! Owns what the API says of migrations: what operators want, and how it goes.

use protocol::migration::{GivenUp, Limits, Reason, Round};
use protocol::{HostName, Micros};
use serde::{Deserialize, Serialize};

/// How a VM is brought to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Copied in rounds while it runs, and stopped for the rest.
    #[default]
    Precopy,
    /// Stopped, then copied: the baseline.
    StopTheWorld,
}

/// Ask for a VM to be brought to another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateRequest {
    /// The destination, as named among the peers in the configuration.
    pub to: HostName,
    /// How.
    #[serde(default)]
    pub strategy: Strategy,
    /// Within which limits. Times are in microseconds.
    #[serde(default)]
    pub limits: Limits,
}

impl MigrateRequest {
    /// To this host, as usual.
    #[must_use]
    pub fn usual(to: HostName) -> Self {
        Self { to, strategy: Strategy::Precopy, limits: Limits::default() }
    }
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The VM's backup is being let go.
    #[default]
    Releasing,
    /// The destination prepares.
    Opening,
    /// Disks and memory are being copied; the VM runs on, unless it was stopped first.
    Copying,
    /// The VM stands still and is handed over.
    HandingOver,
}

/// How a migration goes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// The destination.
    pub to: Option<HostName>,
    /// How.
    pub strategy: Strategy,
    /// Within which limits.
    pub limits: Limits,
    /// Where it stands.
    pub stage: Stage,
    /// The rounds of the memory that are over.
    pub rounds: Vec<RoundStatus>,
    /// Bytes a second that were carried in the newest round that tells.
    pub carried: u64,
    /// Bytes a second that the guest dirtied in the newest round.
    pub written: u64,
    /// Bytes that must still be sent, as of the newest round.
    pub remaining_bytes: Option<u64>,
    /// How long the VM would stand still if it were stopped behind the newest round, in microseconds.
    pub expected_downtime_us: Option<u64>,
    /// The guest is slowed by so many percent of its time.
    pub slowdown: u8,
    /// It stood still for so long for that, in microseconds.
    pub slowed_us: u64,
    /// Why the rounds ended, once they have.
    pub ended: Option<RoundsEnd>,
}

/// Why the rounds of a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundsEnd {
    /// The VM is stopped.
    Stop(Reason),
    /// It is left alone.
    GivenUp(GivenUp),
}

/// A round of a migration that is over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Its number, from 1.
    pub number: u32,
    /// Pages and time.
    #[serde(flatten)]
    pub round: Round,
    /// Of the pages that are left, those that are written again and again and wait for the stop.
    pub hot: u64,
    /// Most bytes a second that it was allowed; none: as fast as it went.
    pub rate: Option<u64>,
    /// Bytes of memory on the wire in all rounds up to here.
    pub wire_bytes: u64,
}

impl MigrationStatus {
    /// Of a request that was just taken.
    #[must_use]
    pub fn of(request: &MigrateRequest, stage: Stage) -> Self {
        let MigrateRequest { to, strategy, limits } = request.clone();
        Self { to: Some(to), strategy, limits, stage, ..Self::default() }
    }

    /// A round is over.
    pub fn add(&mut self, round: RoundStatus, view: protocol::migration::View, slowed: Micros) {
        self.rounds.push(round);
        (self.carried, self.written, self.slowdown) = (view.carried, view.written, view.slowdown);
        self.remaining_bytes = Some(round.round.left * protocol::migration::PAGE);
        self.expected_downtime_us = view.downtime.map(|Micros(us)| us);
        self.slowed_us = slowed.0;
    }
}
