//! Owns how a promotion came about, as far as the VM's next owner must know it.

use crate::plan::{Inheritance, Plan};
use protocol::notice::Notice;
use protocol::repair::Arrival;
use protocol::wire::YieldReason;
use protocol::{HostName, Instant};

/// What happened to this standby until now.
#[derive(Debug, Default)]
pub struct Story {
    primary: Option<HostName>,
    armed_at: Option<Instant>,
    arrival: Option<Arrival>,
}

impl Story {
    /// Remembers what matters of what operators are told.
    pub fn learn(&mut self, now: Instant, notice: &Notice) {
        match notice {
            Notice::StandbyPreparing { primary, .. } => {
                *self = Self { primary: Some(primary.clone()), ..Self::default() };
            }
            Notice::StandbyArmed { .. } => self.armed_at = Some(now),
            Notice::TakingOver { reason, .. } => {
                self.arrival = Some(match reason {
                    YieldReason::Planned => Arrival::Planned,
                    YieldReason::Moved => Arrival::Moved,
                    YieldReason::VmDied => Arrival::Loss,
                });
            }
            _ => {}
        }
    }

    /// What the promoted VM goes on with; nothing if its primary did not tell.
    #[must_use]
    pub fn inheritance(&self, now: Instant, plan: Option<&Plan>) -> Option<Inheritance> {
        Some(Inheritance {
            plan: plan?.clone(),
            from: self.primary.clone()?,
            arrival: self.arrival.unwrap_or(Arrival::Loss),
            stood_by: now.since(self.armed_at.unwrap_or(now)),
        })
    }
}
