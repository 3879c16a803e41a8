//! Owns what is done to the primary of a VM between two hosts, waiting until the VM goes on somewhere, and making the
//! host that was hit whole again. When and what is up to [`Chance`], so that a seed tells it.

mod chance;

pub use chance::Chance;

use crate::cluster::{Cluster, ClusterError, PATIENCE, wait_for};
use crate::topology::Link;
use api::client::ClientError;
use api::types::{ErrorCode, Role};
use protocol::VmName;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Phase of a VM that runs alone.
const ALONE: &str = "unprotected";
/// A frozen host sleeps on for so long after it was replaced, while the clients go on.
const SLEEP_ON: Duration = Duration::from_millis(500);

/// A dying host lives on for so long after its link was cut: longer than a checkpoint interval, and much shorter than
/// it takes to ask the arbiter for sole ownership.
const DYING: Duration = Duration::from_millis(30);
/// On a busy machine that may have taken longer. After so long the host might already own the VM alone, and its death
/// be the second failure, which nobody survives.
const TOO_LATE_TO_DIE: Duration = Duration::from_millis(100);

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// Its host dies.
    Kill,
    /// Its agent freezes, and wakes up when it is too late.
    Freeze,
    /// It loses its backup from sight, and the backup it.
    Link,
    /// Its QEMU dies.
    Qemu,
    /// It loses its backup from sight, as by [`Blow::Link`], and dies a moment later: what it said in between must not
    /// have been heard by anybody.
    Dying,
}

impl Blow {
    /// Those that are a single fault.
    pub const SINGLE: [Self; 4] = [Self::Kill, Self::Freeze, Self::Link, Self::Qemu];
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Kill, Self::Freeze, Self::Link, Self::Qemu, Self::Dying];

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Link => "link",
            Self::Qemu => "qemu",
            Self::Dying => "dying",
        }
    }

    /// Those of these blows that can hit a VM which is a process of its own, as one in QEMU is, or is a part of its agent, as
    /// the deterministic machine.
    #[must_use]
    pub fn that_hit(blows: &[Self], has_a_process: bool) -> Vec<Self> {
        blows.iter().copied().filter(|&blow| has_a_process || blow != Self::Qemu).collect()
    }

    /// Whether the agent of the host that is hit cannot be asked any more: a dead one does not answer, and a frozen one
    /// never would.
    #[must_use]
    pub fn silences(self) -> bool {
        self != Self::Link
    }
}

/// A blow that has fallen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// What was done.
    pub blow: Blow,
    /// When it was begun, on `os::clock`.
    pub at_us: u64,
    /// Where the VM ran.
    pub from: &'static str,
    /// Where it goes on. The same host, if only the link was cut and its owner won.
    pub to: &'static str,
}

/// Whoever strikes at a VM that two hosts have between them.
#[derive(Debug, Clone, Copy)]
pub struct Nemesis<'a> {
    /// The hosts and the links.
    pub cluster: &'a Cluster,
    /// The VM.
    pub vm: &'a VmName,
    /// The two hosts.
    pub hosts: [&'static str; 2],
}

impl Nemesis<'_> {
    fn other(&self, host: &str) -> &'static str {
        if host == self.hosts[0] { self.hosts[1] } else { self.hosts[0] }
    }

    /// Hits the VM's home, where it is protected, and waits until the VM goes on somewhere, unprotected. A host that was to
    /// die a moment after its link was cut, and could not in time, is left with its link cut: [`Hit::blow`] tells.
    ///
    /// # Errors
    /// If it goes on nowhere, or the blow cannot be dealt.
    pub fn strike(&self, home: &'static str, blow: Blow) -> Result<Hit, ClusterError> {
        let (lab, to) = (&self.cluster.lab, self.other(home));
        let hit = Hit { blow, at_us: os::clock::now_us(), from: home, to };
        match blow {
            Blow::Kill => drop(lab.kill_host(home)?),
            Blow::Freeze => lab.freeze(home)?,
            Blow::Qemu => self.kill_qemu(home)?,
            Blow::Link => {
                lab.cut_link(Link::Replication(home))?;
                return Ok(Hit { to: self.sole_owner()?, ..hit });
            }
            Blow::Dying => {
                let cut_at = Instant::now();
                lab.cut_link(Link::Replication(home))?;
                std::thread::sleep(DYING);
                if cut_at.elapsed() > TOO_LATE_TO_DIE {
                    return Ok(Hit { to: self.sole_owner()?, blow: Blow::Link, ..hit });
                }
                lab.kill_host(home)?;
            }
        }
        self.cluster.wait_primary(to, self.vm, &[ALONE])?;
        Ok(hit)
    }

    /// Makes the host that was hit whole again: it knows nothing of the VM then, unless the VM goes on there.
    ///
    /// # Errors
    /// If it does not come back, or keeps its old copy.
    pub fn heal(&self, hit: Hit) -> Result<(), ClusterError> {
        match hit.blow {
            Blow::Kill | Blow::Dying => self.cluster.revive(hit.from),
            Blow::Freeze => {
                std::thread::sleep(SLEEP_ON);
                self.cluster.lab.thaw(hit.from)?;
                self.cluster.wait_gone(hit.from, self.vm)
            }
            Blow::Link => Ok(self.cluster.lab.heal_link(Link::Replication(hit.from))?),
            Blow::Qemu => self.cluster.wait_gone(hit.from, self.vm),
        }
    }

    fn kill_qemu(&self, host: &str) -> Result<(), ClusterError> {
        let status = self.cluster.ask(host, |api| api.vm(self.vm))?;
        let pid = status.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let failed = |source| ClusterError::Kill { host: host.to_owned(), source };
        let pid = pid.ok_or_else(|| failed(std::io::Error::other("its agent does not know it")))?;
        kill_process(pid, Signal::KILL).map_err(|error| failed(error.into()))
    }

    /// Waits until one host runs the VM alone and the other has nothing of it.
    fn sole_owner(&self) -> Result<&'static str, ClusterError> {
        let mut owner = self.hosts[0];
        wait_for("one owner of the VM", PATIENCE, || {
            let roles = self.hosts.map(|host| match self.cluster.api(host)?.vm(self.vm) {
                Ok(status) => Ok(Some((status.role, status.phase))),
                Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => Ok(None),
                Err(source) => Err(ClusterError::Api { host: host.to_owned(), source }),
            });
            let [first, second] = roles;
            let found = [first?, second?];
            let alone = |&at: &usize| {
                found[1 - at].is_none()
                    && matches!(&found[at], Some((Role::Primary, phase)) if phase.as_str() == ALONE)
            };
            let Some(at) = (0..2).find(alone) else { return Ok(Err(format!("{found:?}"))) };
            owner = self.hosts[at];
            Ok(Ok(()))
        })?;
        Ok(owner)
    }
}
