//! Owns what an operator asked for a VM: it travels to the backup in the machine's description, so that a promoted VM is
//! protected as it was.

use api::types::ProtectRequest;
use protocol::repair::{Arrival, Pauses, Repair, Wish};
use protocol::{HostName, Instant, Micros};
use serde::{Deserialize, Serialize};

/// A VM that is kept at a host for so long has not relapsed.
const STAYED: Micros = Micros::from_millis(3_600_000);

/// What an operator asked, and what followed that the next owner must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The request: times and limits of every session, and what shall happen after a loss.
    pub request: ProtectRequest,
    /// Hosts where the VM may stand by or run, the best first; the one where it was asked is among them.
    hosts: Vec<HostName>,
    /// How often the preferred host died soon after the VM had come there.
    relapses: u32,
    /// How often in a row the link between the two hosts of a session was lost, when it began.
    losses: u32,
}

impl Plan {
    /// Of a request that was made at `here`.
    #[must_use]
    pub fn new(here: &HostName, request: ProtectRequest) -> Self {
        let mut hosts = vec![here.clone()];
        for host in std::iter::once(&request.to).chain(&request.repair.others).chain(&request.repair.prefer) {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        Self { request, hosts, relapses: 0, losses: 0 }
    }

    /// The hosts other than `here`.
    pub fn others<'a>(&'a self, here: &'a HostName) -> impl Iterator<Item = &'a HostName> {
        self.hosts.iter().filter(move |host| *host != here)
    }

    /// As it goes to a host whose link was lost so often in a row.
    #[must_use]
    pub fn after_losses(self, losses: u32) -> Self {
        Self { losses, ..self }
    }

    /// What the policy must know of it.
    #[must_use]
    pub fn wish(&self) -> Wish {
        Wish {
            hosts: self.hosts.clone(),
            repair: self.request.repair.on,
            prefer: self.request.repair.prefer.clone(),
            settle: Micros(self.request.repair.settle_us),
            relapses: self.relapses,
            losses: self.losses,
            pauses: Pauses::default(),
        }
    }
}

/// What a promotion hands on.
#[derive(Debug, Clone)]
pub struct Inheritance {
    /// What the old primary was asked.
    pub plan: Plan,
    /// The old primary.
    pub from: HostName,
    /// How the VM came here from it.
    pub arrival: Arrival,
    /// This host had been its armed backup for so long.
    pub stood_by: Micros,
}

impl Inheritance {
    /// The plan and the policy that go on here.
    #[must_use]
    pub fn take(self, now: Instant, here: &HostName) -> (Plan, Repair) {
        let Self { mut plan, from, arrival, stood_by } = self;
        if arrival == Arrival::Loss && plan.request.repair.prefer.as_ref() == Some(&from) {
            plan.relapses = if stood_by >= STAYED { 0 } else { plan.relapses.saturating_add(1) };
        }
        if stood_by >= Pauses::default().steady {
            plan.losses = 0;
        }
        let policy = Repair::inherit(now, here.clone(), plan.wish(), &from, arrival);
        (plan, policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::types::RepairRequest;

    fn host(name: &str) -> HostName {
        HostName::new(name).expect("a name")
    }

    fn plan() -> Plan {
        let others = vec![host("gamma"), host("beta")];
        let repair = RepairRequest { others, prefer: Some(host("alpha")), ..RepairRequest::default() };
        Plan::new(&host("alpha"), ProtectRequest { repair, ..ProtectRequest::even(host("beta"), 25_000) })
    }

    #[test]
    fn the_old_primary_is_a_candidate_of_the_new_one() {
        let (plan, beta) = (plan(), host("beta"));
        assert_eq!(plan.wish().hosts, ["alpha", "beta", "gamma"].map(host));
        assert_eq!(plan.others(&beta).cloned().collect::<Vec<_>>(), ["alpha", "gamma"].map(host));
        let text = serde_json::to_string(&plan).expect("JSON");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("a plan"), plan);
    }

    #[test]
    fn a_backup_that_was_kept_for_long_begins_to_count_anew() {
        let failures = |stood_by| {
            let plan = plan().after_losses(3);
            let inheritance = Inheritance { plan, from: host("alpha"), arrival: Arrival::Loss, stood_by };
            inheritance.take(Instant(0), &host("beta")).1.losses(&host("alpha"))
        };
        assert_eq!((failures(Micros(1)), failures(Pauses::default().steady)), (4, 1));
    }

    #[test]
    fn a_preferred_host_that_dies_soon_has_relapsed() {
        let after = |plan: Plan, arrival, stood_by| {
            let inheritance = Inheritance { plan, from: host("alpha"), arrival, stood_by };
            inheritance.take(Instant(0), &host("beta")).0
        };
        let once = after(plan(), Arrival::Loss, Micros(1));
        let twice = after(once.clone(), Arrival::Loss, Micros(1));
        assert_eq!((once.relapses, twice.relapses), (1, 2));
        assert_eq!(
            after(twice.clone(), Arrival::Planned, Micros(1)).relapses,
            2,
            "a planned failover is no relapse"
        );
        assert_eq!(after(twice, Arrival::Loss, STAYED).relapses, 0);
    }
}
