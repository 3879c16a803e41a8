//! Owns whom a VM is protected by next, and when: what an operator would otherwise do by hand after each loss.
//!
//! ```text
//!            ask                    protected, repair wanted
//!  ┌─────┐ ───────▶ ┌───────┐ ────────────────────────────▶ ┌────┐
//!  │ Off │          │ Asked │                               │ On │ tries again for as long as the VM lives
//!  └─────┘ ◀─────── └───────┘                               └────┘
//!     ▲      every candidate failed once, or protected        │
//!     └───────── and repair not wanted ◀──────────────────────┘ `unprotect`
//! ```
//!
//! Nothing here decides on ownership: a step is a command like an operator's, and the primary's machine takes or refuses it.

mod candidate;

use candidate::after;
pub use candidate::{Candidate, Pauses};

use crate::ids::HostName;
use crate::primary::PhaseName;
use crate::time::{Instant, Micros};
use alloc::string::String;
use alloc::vec::Vec;

/// After a planned failover the old host alone is tried for so long: its memory and disks differ least, and it needs
/// a moment to let go of its copy.
const HEAD_START: Micros = Micros::from_millis(5_000);
/// So long that takes usually. One that takes longer is tried again after as long as it has taken.
const LETS_GO: Micros = Micros::from_millis(50);
/// A backup that says it will leave says it again within this time.
const LEAVES_FOR: Micros = Micros::from_millis(6_000);
/// A host that leaves is not tried for so long.
const LEFT: Micros = Micros::from_millis(30_000);
/// A move or a release that came to nothing is tried again after so long.
const AGAIN: Micros = Micros::from_millis(5_000);
/// A fail-back waits twice as long after each death of the preferred host, so often.
const MOST_DOUBLINGS: u32 = 6;

/// What an operator wants for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Hosts where the VM may stand by or run, the best first.
    pub hosts: Vec<HostName>,
    /// Protect it again after a loss.
    pub repair: bool,
    /// The host where it should run.
    pub prefer: Option<HostName>,
    /// The preferred host must have been the armed backup for so long before the VM moves there.
    pub settle: Micros,
    /// How often the preferred host died soon after the VM had moved there.
    pub relapses: u32,
    /// Failures and losses in a row of the link between this host and the one it got the VM from, as that one counted them.
    pub losses: u32,
    /// The times between tries.
    pub pauses: Pauses,
}

/// How a VM came to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Its old host was lost.
    Loss,
    /// Its old host gave it up in order, and lives.
    Planned,
    /// The same, because it shall run here: what was protected there stays protected.
    Moved,
}

/// Whether a VM is protected again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Will {
    /// No.
    Off,
    /// An operator asked for protection; each candidate is tried once.
    Asked,
    /// Yes.
    On,
}

/// How the VM stands, at its primary.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The primary's phase.
    pub phase: PhaseName,
    /// Its backup.
    pub peer: Option<&'a HostName>,
    /// Another backup is being brought up in its place.
    pub changing: bool,
    /// This host is being drained: its VMs shall run elsewhere.
    pub draining: bool,
}

/// What to do, as an operator would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Protect the VM on this host.
    Protect(HostName),
    /// Hand it to its backup, planned.
    Move,
    /// Change to this backup: the present one's host leaves; or the VM shall run there.
    Change(HostName),
    /// End this protection: the VM shall run at a third host, and be stopped before anything is copied.
    Release,
    /// Bring the VM, which nobody or this host protects now, to this host.
    Migrate(HostName),
}

/// The policy of one VM at its primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    here: HostName,
    wish: Option<Wish>,
    will: Will,
    candidates: Vec<Candidate>,
    pauses: Pauses,
    /// The host that gave the VM up, and when.
    head_start: Option<(HostName, Instant)>,
    /// The VM shall run at this host, which was not its backup.
    goal: Option<HostName>,
    /// Its backup is let go before.
    alone: bool,
    /// Not brought there before: who was to be its backup throws its copy away.
    goal_not_before: Instant,
    /// No move and no release before.
    rest_until: Instant,
}

impl Repair {
    /// Of a VM that nobody asked to protect yet.
    #[must_use]
    pub fn new(here: HostName) -> Self {
        let (candidates, rest_until) = (Vec::new(), Instant(0));
        let pauses = Pauses::default();
        Self {
            here,
            wish: None,
            will: Will::Off,
            candidates,
            pauses,
            head_start: None,
            goal: None,
            alone: false,
            goal_not_before: Instant(0),
            rest_until,
        }
    }

    /// Of a VM that was promoted here, with what its old primary was asked for.
    #[must_use]
    pub fn inherit(now: Instant, here: HostName, wish: Wish, from: &HostName, arrival: Arrival) -> Self {
        let mut this = Self::new(here);
        this.will = if wish.repair || arrival == Arrival::Moved { Will::On } else { Will::Off };
        this.take(wish);
        match arrival {
            // It counts on where its old primary stopped: a link that flaps moves the VM to and fro ever more seldom.
            Arrival::Loss => {
                let losses = this.wish.as_ref().map_or(0, |wish| wish.losses);
                this.candidate(from).into_iter().for_each(|candidate| candidate.failures = losses);
                this.lost(now, from, "the VM ran there and was lost there");
            }
            Arrival::Planned | Arrival::Moved => {
                this.head_start = Some((from.clone(), now));
                let lets_go = now + LETS_GO;
                this.candidate(from)
                    .into_iter()
                    .for_each(|candidate| candidate.waits(lets_go, "it lets go of its VM"));
            }
        }
        this
    }

    /// The VM, which is protected by another host, shall run at this one and stay protected: this one becomes its backup, and then
    /// its owner. With `alone` its backup is let go, the VM migrates, and is protected again from there; if that fails it is
    /// protected again from here, at least once.
    pub fn relocate(&mut self, to: HostName, alone: bool) {
        self.goal = Some(to);
        self.alone = alone;
        self.rest_until = Instant(0);
        if alone {
            self.will = Will::On;
        }
    }

    /// The VM shall stay. What was let go for its sake is protected again.
    pub fn stay(&mut self) {
        self.goal = None;
    }

    /// Where the VM shall run, as long as its backup is not let go.
    #[must_use]
    pub fn goal(&self) -> Option<&HostName> {
        self.goal.as_ref()
    }

    /// An operator asked for protection, and the first candidate is being tried.
    pub fn ask(&mut self, wish: Wish, first: &HostName) {
        self.will = Will::Asked;
        self.head_start = None;
        self.take(wish);
        self.begun(first);
    }

    /// An operator asked for another backup than the one that protects the VM, and it is being brought up.
    pub fn ask_change(&mut self, wish: Wish) {
        self.will = if wish.repair { Will::On } else { Will::Off };
        self.take(wish);
    }

    fn take(&mut self, wish: Wish) {
        let mut hosts: Vec<_> = wish.hosts.iter().filter(|host| **host != self.here).cloned().collect();
        // The preferred host first, the others as they were given.
        hosts.sort_by_key(|host| Some(host) != wish.prefer.as_ref());
        self.candidates = hosts.into_iter().map(Candidate::new).collect();
        self.pauses = wish.pauses;
        self.wish = Some(wish);
    }

    /// An operator wants the VM unprotected. Says whether it would have been protected again.
    pub fn off(&mut self) -> bool {
        self.goal = None;
        core::mem::replace(&mut self.will, Will::Off) != Will::Off
    }

    /// Whether the VM is protected again by itself.
    #[must_use]
    pub fn will(&self) -> Will {
        self.will
    }

    /// What an operator wants; none before anybody asked.
    #[must_use]
    pub fn wish(&self) -> Option<&Wish> {
        self.wish.as_ref()
    }

    /// The hosts that may stand by, the best first, with what became of each.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Failures and losses in a row of this host, which the next owner must know if the VM goes on there.
    #[must_use]
    pub fn losses(&self, host: &HostName) -> u32 {
        self.candidates.iter().find(|candidate| candidate.host == *host).map_or(0, |found| found.failures)
    }

    fn candidate(&mut self, host: &HostName) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|candidate| candidate.host == *host)
    }

    fn begun(&mut self, host: &HostName) {
        if let Some(candidate) = self.candidate(host) {
            candidate.tried = true;
        }
    }

    /// A host could not become the backup. `busy`: it still lets go of an old copy.
    pub fn failed(&mut self, now: Instant, host: &HostName, why: &str, busy: bool) {
        // One that the VM shall run at, and that cannot be its backup: the VM stays.
        self.goal.take_if(|goal| goal == host && !self.alone);
        let since = self.first(now).filter(|(first, _)| *first == host).map(|(_, since)| since);
        if since.is_some() && !busy {
            self.head_start = None;
        }
        let pauses = self.pauses;
        let Some(candidate) = self.candidate(host) else { return };
        match since.filter(|_| busy) {
            Some(since) => candidate.waits(now + now.since(since).max(LETS_GO), why),
            None => candidate.failed(now, &pauses, why),
        }
    }

    /// A host became the backup.
    pub fn protected(&mut self, now: Instant, host: &HostName) {
        self.head_start = None;
        if let Some(candidate) = self.candidate(host) {
            candidate.armed(now);
        }
        // Also of a VM that was moved: it is protected again once, whatever shall follow losses.
        if self.will != Will::Off && self.goal.is_none() {
            let again = self.wish.as_ref().is_some_and(|wish| wish.repair);
            self.will = if again { Will::On } else { Will::Off };
        }
    }

    /// The backup is lost.
    pub fn lost(&mut self, now: Instant, host: &HostName, why: &str) {
        let pauses = self.pauses;
        if self.goal.is_some() {
            self.goal_not_before = now + pauses.first;
        }
        if let Some(candidate) = self.candidate(host) {
            candidate.lost(now, &pauses, why);
        }
    }

    /// The backup's host is being drained: it says so again and again. True when it is news.
    pub fn leaves(&mut self, now: Instant, host: &HostName) -> bool {
        let Some(candidate) = self.candidate(host) else { return false };
        let news = !candidate.leaves(now);
        candidate.leaves_until = now + LEAVES_FOR;
        candidate.not_before = candidate.not_before.max(now + LEFT);
        candidate.why = Some(String::from("it is being drained"));
        news
    }

    /// What to do now, if anything. What is returned counts as begun.
    pub fn next(&mut self, now: Instant, situation: Situation<'_>) -> Option<Step> {
        match (situation.phase, situation.peer) {
            (PhaseName::Protected, Some(_)) if situation.changing => None,
            (PhaseName::Protected, Some(peer)) => self.next_protected(now, peer, situation.draining),
            (PhaseName::Unprotected, _) if self.goal.is_some() => {
                self.goal.take_if(|_| now >= self.goal_not_before).map(Step::Migrate)
            }
            (PhaseName::Unprotected, _) if self.will != Will::Off => {
                let found = self.best(now).cloned();
                match &found {
                    Some(host) => self.begun(host),
                    None if self.will == Will::Asked => self.will = Will::Off,
                    None => {}
                }
                found.map(Step::Protect)
            }
            _ => None,
        }
    }

    fn next_protected(&mut self, now: Instant, peer: &HostName, draining: bool) -> Option<Step> {
        if let Some(there) = self.goal.take_if(|goal| goal == peer) {
            return Some(Step::Migrate(there));
        }
        if now < self.rest_until {
            return None;
        }
        if let Some(goal) = &self.goal {
            self.rest_until = now + AGAIN;
            return Some(if self.alone { Step::Release } else { Step::Change(goal.clone()) });
        }
        let leaving =
            self.candidates.iter().any(|candidate| candidate.host == *peer && candidate.leaves(now));
        let step = if leaving {
            // Not to a host that leaves; and not away from it without another.
            let other = |other: &&Candidate| other.host != *peer && other.promises(now, &self.pauses);
            let other = self.candidates.iter().find(other).filter(|_| self.will == Will::On);
            other.map(|other| Step::Change(other.host.clone()))
        } else if draining || self.may_return(now, peer) {
            Some(Step::Move)
        } else {
            self.preferred(now, peer).map(Step::Change)
        };
        if step.is_some() {
            self.rest_until = now + AGAIN;
        }
        step
    }

    /// The host where the VM should run, if it could stand by in place of its backup: the first half of the way there.
    fn preferred(&self, now: Instant, peer: &HostName) -> Option<HostName> {
        let prefer = self.wish.as_ref()?.prefer.as_ref().filter(|prefer| *prefer != peer)?;
        let found = self.candidates.iter().find(|candidate| candidate.host == *prefer);
        let may = found.is_some_and(|candidate| candidate.promises(now, &self.pauses));
        (may && self.will == Will::On).then(|| prefer.clone())
    }

    fn may_return(&self, now: Instant, peer: &HostName) -> bool {
        let Some(wish) = self.wish.as_ref().filter(|wish| wish.prefer.as_ref() == Some(peer)) else {
            return false;
        };
        let settle = Micros(wish.settle.0.saturating_mul(1 << wish.relapses.min(MOST_DOUBLINGS)));
        let armed_at = self.candidates.iter().find(|c| c.host == *peer).and_then(|c| c.armed_at);
        armed_at.is_some_and(|at| after(at, settle) <= now)
    }

    /// The host that alone is tried now, and when it gave the VM up.
    fn first(&self, now: Instant) -> Option<(&HostName, Instant)> {
        let head_start = self.head_start.as_ref().filter(|(_, since)| now < *since + HEAD_START);
        head_start.map(|(host, since)| (host, *since))
    }

    /// When that host, which still lets go of its old copy, shall be tried again; none if nothing is waited for.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let (first, _) = self.first(now)?;
        let at = self.candidates.iter().find(|candidate| candidate.host == *first)?.not_before;
        (at > now && self.will == Will::On).then_some(at)
    }

    /// The first of the candidates that may be tried now.
    fn best(&self, now: Instant) -> Option<&HostName> {
        let only = self.first(now).map(|(host, _)| host);
        let may = |candidate: &&Candidate| match self.will {
            Will::Off => false,
            Will::Asked => !candidate.tried,
            Will::On => candidate.not_before <= now && only.is_none_or(|only| candidate.host == *only),
        };
        self.candidates.iter().find(may).map(|candidate| &candidate.host)
    }
}

#[cfg(test)]
mod tests;
