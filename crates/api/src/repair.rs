//! Owns what the API says of repair: what operators want, and how it stands.

use protocol::HostName;
use protocol::repair::{Repair, Will};
use protocol::{Instant, Micros};
use serde::{Deserialize, Serialize};

/// What shall happen behind the first protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepairRequest {
    /// Other hosts that may stand by or run the VM, the best first, behind the one that is asked for now.
    pub others: Vec<HostName>,
    /// Protect the VM again by itself after a loss.
    pub on: bool,
    /// The host where the VM should run: it moves there, planned, once that host has been its backup for a while.
    pub prefer: Option<HostName>,
    /// For so long, in microseconds.
    pub settle_us: u64,
}

impl RepairRequest {
    /// The usual time before a fail-back, in microseconds.
    pub const SETTLE_US: u64 = 60_000_000;

    /// An operator, or a test, does by hand what is to be done.
    #[must_use]
    pub fn by_hand() -> Self {
        Self { on: false, ..Self::default() }
    }
}

impl Default for RepairRequest {
    fn default() -> Self {
        Self { others: Vec::new(), on: true, prefer: None, settle_us: Self::SETTLE_US }
    }
}

/// Whether, and by whom, the VM is protected again after a loss (primary).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairStatus {
    /// It is protected again by itself; or, while `asked`, will be.
    pub on: bool,
    /// An operator's request is under way: each candidate is tried once.
    pub asked: bool,
    /// The host where the VM should run.
    pub prefer: Option<HostName>,
    /// The hosts that may stand by, the best first.
    pub candidates: Vec<CandidateStatus>,
}

/// A host that may stand by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// The host.
    pub host: HostName,
    /// Why it is not the backup: the newest failure or loss.
    pub why: Option<String>,
    /// Failures and losses in a row.
    pub failures: u32,
    /// It is not tried again for so long, in milliseconds.
    pub pause_ms: u64,
}

impl RepairStatus {
    /// As a VM's policy has it now.
    #[must_use]
    pub fn of(policy: &Repair, now: Instant) -> Self {
        let candidate = |candidate: &protocol::repair::Candidate| {
            let Micros(pause) = candidate.not_before.since(now);
            CandidateStatus {
                host: candidate.host.clone(),
                why: candidate.why.clone(),
                failures: candidate.failures,
                pause_ms: pause / 1_000,
            }
        };
        Self {
            on: policy.will() == Will::On,
            asked: policy.will() == Will::Asked,
            prefer: policy.wish().and_then(|wish| wish.prefer.clone()),
            candidates: policy.candidates().iter().map(candidate).collect(),
        }
    }
}
