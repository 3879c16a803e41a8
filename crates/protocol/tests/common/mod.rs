//! Owns the harness that feeds a primary or a backup by hand: events in, actions out, time by request.

#![allow(dead_code, reason = "every test binary uses a part")]

use protocol::asking::{ClaimAnswer, Claimant};
use protocol::backup::{self, Backup, Conn};
use protocol::pacing::Taken;
use protocol::primary::{self, Action, Command, CommandError, PhaseName, Primary};
use protocol::resync::{DiskOffer, Offer};
use protocol::wire::{AckBody, Beat, Commit, Hello, Kind, ToBackup, ToPrimary};
use protocol::{Claim, Epoch, Grant, HostName, Instant, Micros, Session, Term, TermRecord, Timing, VmName};

pub const S1: Session = Session(1);

pub fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

pub fn vm() -> VmName {
    VmName::new("web").unwrap()
}

pub fn claimant(name: &str) -> Claimant {
    Claimant::new(vm(), host(name), 7)
}

pub fn grant(name: &str, term: Term) -> Grant {
    let claim = claimant(name).claim(term);
    Grant::from_record(&claim, &TermRecord { claim: claim.clone() }).unwrap()
}

/// The arbiter gives the claimed term to `name`.
pub fn given_to(name: &str, claim: &Claim) -> ClaimAnswer {
    let claim = if claim.host == host(name) { claim.clone() } else { claimant(name).claim(claim.term) };
    ClaimAnswer::Record(TermRecord { claim })
}

pub fn silence() -> ClaimAnswer {
    ClaimAnswer::Unreachable("no answer".into())
}

/// The owner, on host `alpha`, in term 1.
pub struct Owner {
    pub machine: Primary,
    pub now: Instant,
}

impl Owner {
    pub fn unprotected() -> Self {
        let machine = Primary::new(claimant("alpha"), grant("alpha", Term(1)));
        Self { machine, now: Instant(1_000_000) }
    }

    pub fn phase(&self) -> PhaseName {
        self.machine.phase()
    }

    pub fn feed(&mut self, event: primary::Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.machine.handle(self.now, event, &mut out);
        if let Some(deadline) = self.machine.deadline() {
            assert!(deadline > self.now, "a deadline in the past: the engine would spin");
        }
        out
    }

    pub fn command(&mut self, command: Command) -> Result<Vec<Action>, CommandError> {
        let mut out = Vec::new();
        self.machine.command(self.now, command, &mut out)?;
        Ok(out)
    }

    /// Lets time pass, calling the machine at each of its deadlines.
    pub fn pass(&mut self, time: Micros) -> Vec<Action> {
        let end = self.now + time;
        let mut out = Vec::new();
        while let Some(deadline) = self.machine.deadline().filter(|&deadline| deadline <= end) {
            assert!(deadline >= self.now);
            self.now = deadline;
            out.extend(self.feed(primary::Event::Tick));
        }
        self.now = end;
        out
    }

    pub fn hears_ack(&mut self, epoch: u64) -> Vec<Action> {
        let body = answer(self.now);
        self.feed(primary::Event::Message(S1, ToPrimary::Ack(Epoch(epoch), body)))
    }

    pub fn protect(&mut self, timing: Timing) -> Vec<Action> {
        self.command(Command::Protect { peer: host("beta"), timing, machine: vec![1] }).unwrap()
    }

    /// A checkpoint that was asked for is taken, without taking time.
    pub fn takes(&mut self, epoch: u64) -> Vec<Action> {
        let taken = Taken { cut_at: self.now, pause: Micros(0), busy: None, waited: false, pages: 0 };
        self.feed(primary::Event::CheckpointTaken { session: S1, epoch: Epoch(epoch), taken })
    }

    /// The VM was handed over with epoch 2, in order; the arbiter has not been asked.
    pub fn yielded(timing: Timing) -> Self {
        let mut owner = Self::protected(timing);
        owner.command(Command::Failover).unwrap();
        owner.pass(timing.interval);
        owner.takes(2);
        owner.hears_ack(2);
        assert_eq!(owner.phase(), PhaseName::Yielded);
        owner
    }

    /// In the first copy of session 1.
    pub fn copying(timing: Timing) -> Self {
        let mut owner = Self::unprotected();
        owner.protect(timing);
        owner.feed(primary::Event::Connected(S1));
        owner.hears_in(S1, ToPrimary::Accept(DiskOffer::NoDisks.into()));
        owner
    }

    /// Protected in session 1, epoch 1 acknowledged, epoch 2 not yet due.
    pub fn protected(timing: Timing) -> Self {
        let mut owner = Self::copying(timing);
        let asked = owner.feed(primary::Event::Copied(S1));
        assert!(asks_for_checkpoint(&asked, 1, false), "{asked:?}");
        owner.takes(1);
        let released = owner.hears_ack(1);
        assert!(released.contains(&Action::Release(Epoch(1))), "{released:?}");
        assert_eq!(owner.phase(), PhaseName::Protected);
        owner
    }

    pub fn hears_in(&mut self, session: Session, message: ToPrimary) -> Vec<Action> {
        self.feed(primary::Event::Message(session, message))
    }

    /// The next epoch is due, taken and acknowledged.
    pub fn epoch(&mut self, number: u64, interval: Micros) {
        let asked = self.pass(interval);
        assert!(asks_for_checkpoint(&asked, number, false), "{asked:?}");
        self.takes(number);
        self.hears_ack(number);
    }

    /// The arbiter answers the claim found in `actions`.
    pub fn decided(&mut self, actions: &[Action], winner: &str) -> Vec<Action> {
        let claim = claim_in(actions);
        self.feed(primary::Event::Claimed(claim.clone(), given_to(winner, &claim)))
    }
}

pub fn asks_for_checkpoint(actions: &[Action], number: u64, is_last: bool) -> bool {
    actions.iter().any(|action| {
        matches!(action, Action::TakeCheckpoint { epoch, last, .. } if *epoch == Epoch(number) && *last == is_last)
    })
}

pub fn claim_in(actions: &[Action]) -> Claim {
    let claim = actions.iter().find_map(|action| match action {
        Action::Claim(claim) => Some(claim.clone()),
        _ => None,
    });
    claim.unwrap_or_else(|| panic!("no claim in {actions:?}"))
}

pub fn resumes(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Resume(_))).count()
}

pub fn short() -> Timing {
    Timing {
        max_in_flight: 2,
        stall: Micros::from_millis(2_000),
        // What the tests reckon with, whatever the defaults are.
        timeout: Micros::from_millis(300),
        timeout_max: Micros::from_millis(1_500),
        ..Timing::default()
    }
}

/// A backup on host `beta` that stands by for `alpha`.
pub struct Standby {
    pub machine: Backup,
    pub now: Instant,
}

pub const C1: Conn = Conn(1);

pub fn hello() -> Hello {
    Hello { vm: vm(), primary: host("alpha"), timing: short(), machine: vec![1] }
}

impl Standby {
    pub fn empty() -> Self {
        Self::with_copy((Term(0), Session(0)))
    }

    /// At a host whose copy of the disks may be overwritten from this term and session on.
    pub fn with_copy(least: (Term, Session)) -> Self {
        Self { machine: Backup::new(claimant("beta"), least), now: Instant(5_000_000) }
    }

    pub fn phase(&self) -> backup::PhaseName {
        self.machine.phase()
    }

    pub fn feed(&mut self, event: backup::Event) -> Vec<backup::Action> {
        let mut out = Vec::new();
        self.machine.handle(self.now, event, &mut out);
        if let Some(deadline) = self.machine.deadline() {
            assert!(deadline > self.now, "a deadline in the past: the engine would spin");
        }
        out
    }

    pub fn pass(&mut self, time: Micros) -> Vec<backup::Action> {
        let end = self.now + time;
        let mut out = Vec::new();
        while let Some(deadline) = self.machine.deadline().filter(|&deadline| deadline <= end) {
            self.now = deadline;
            out.extend(self.feed(backup::Event::Tick));
        }
        self.now = end;
        out
    }

    pub fn hears(&mut self, message: ToBackup) -> Vec<backup::Action> {
        self.feed(backup::Event::Message(C1, message))
    }

    pub fn bulk(&mut self, epoch: u64, len: usize) -> (backup::BulkUse, Vec<backup::Action>) {
        self.bulk_of(Kind::Pages, epoch, len)
    }

    pub fn bulk_of(&mut self, kind: Kind, epoch: u64, len: usize) -> (backup::BulkUse, Vec<backup::Action>) {
        let mut out = Vec::new();
        let used = self.machine.bulk(self.now, C1, kind, Epoch(epoch), len, &mut out);
        (used, out)
    }

    /// A frame of pages, one of disk changes, and the Commit of an epoch.
    pub fn receives_disk(&mut self, epoch: u64) -> Vec<backup::Action> {
        assert_eq!(self.bulk(epoch, 100).0, backup::BulkUse::Stage(Epoch(epoch)));
        assert_eq!(self.bulk_of(Kind::Disk, epoch, 50).0, backup::BulkUse::Stage(Epoch(epoch)));
        self.hears(commit(epoch, 2, 150))
    }

    pub fn persisted(&mut self, epoch: u64) -> Vec<backup::Action> {
        self.feed(backup::Event::Persisted(C1, Epoch(epoch)))
    }

    /// One frame of 100 bytes and the Commit of an epoch.
    pub fn receives(&mut self, epoch: u64) -> Vec<backup::Action> {
        assert_eq!(self.bulk(epoch, 100).0, backup::BulkUse::Stage(Epoch(epoch)));
        self.hears(commit(epoch, 1, 100))
    }

    pub fn copying() -> Self {
        Self::copying_with(DiskOffer::NoDisks.into())
    }

    /// The standby of a VM of whose disks this is here.
    pub fn copying_with(offer: Offer) -> Self {
        let mut standby = Self::empty();
        standby.feed(backup::Event::Hello(C1, (Term(1), S1), hello()));
        let accepted = standby.feed(backup::Event::StandbyReady(C1, offer.clone()));
        assert!(accepted.contains(&backup::Action::Send(C1, ToPrimary::Accept(offer))), "{accepted:?}");
        standby
    }

    pub fn armed() -> Self {
        let mut standby = Self::copying();
        standby.receives(1);
        assert_eq!(standby.phase(), backup::PhaseName::Armed);
        standby
    }

    pub fn decided(&mut self, actions: &[backup::Action], winner: &str) -> Vec<backup::Action> {
        let claim = backup_claim(actions);
        self.feed(backup::Event::Claimed(claim.clone(), given_to(winner, &claim)))
    }
}

/// What a backup says that hears its primary well.
pub fn answer(echo: Instant) -> AckBody {
    AckBody { echo, silence: Micros(0), timeout: short().timeout }
}

/// What a primary says that hears its backup well.
pub fn beat(at: Instant) -> Beat {
    Beat { at, wish: short().timeout }
}

pub fn commit(epoch: u64, frames: u64, bytes: u64) -> ToBackup {
    ToBackup::Commit(Epoch(epoch), Commit { frames, bytes, sent_at: Instant(9), last: false, gate: vec![3] })
}

/// The same of a session's last epoch.
pub fn last_commit(epoch: u64, frames: u64, bytes: u64) -> ToBackup {
    ToBackup::Commit(Epoch(epoch), Commit { frames, bytes, sent_at: Instant(9), last: true, gate: vec![3] })
}

pub fn backup_claim(actions: &[backup::Action]) -> Claim {
    let claim = actions.iter().find_map(|action| match action {
        backup::Action::Claim(claim) => Some(claim.clone()),
        _ => None,
    });
    claim.unwrap_or_else(|| panic!("no claim in {actions:?}"))
}
