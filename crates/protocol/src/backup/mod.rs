//! Owns the life of a standby at its backup: prepare, copy, stage and commit epochs, take over.
//!
//! ```text
//!            Hello             standby ready        epoch 1 committed
//!  ┌───────┐ ──────▶ ┌─────────┐ ─────────▶ ┌───────┐ ───────────────▶ ┌───────┐
//!  │ Empty │         │Preparing│            │Copying│                  │ Armed │ ⟲ commit, acknowledge
//!  └───────┘         └─────────┘            └───────┘                  └───────┘
//!                         │ any failure: thrown away │                     │ silence, end of connection, Yield
//!                         ▼                          ▼                     ▼
//!                      ┌──────┐    term t+1 lost, or End from owner   ┌────────┐
//!                      │ Done │ ◀──────────────────────────────────── │Claiming│
//!                      └──────┘ ◀──┐                                  └────────┘
//!                                  │   runs (a Primary is made          │ won term t+1
//!                                  └── of the grant), or failed ── ┌─────────┐
//!                                                                  │Promoting│
//!                                                                  └─────────┘
//! ```
//!
//! An epoch is committed whole or not at all: data is only staged until its Commit message came and every count
//! agrees; then it is *received*. It is *committed* once its disk changes are durable in this host's journal too,
//! and every epoch before it is committed:
//!
//! ```text
//!  ┌────┐ Commit, counts agree  ┌────────┐ its disk changes are durable, or it has none;  ┌─────────┐
//!  │open│ ────────────────────▶ │received│ ─────────────────────────────────────────────▶ │committed│ Ack
//!  └────┘       Persist         └────────┘        all before it are committed             └─────────┘
//!     │ loss of the connection, damage │ the same, or PersistFailed, or a claim
//!     ▼                                ▼
//!    thrown away: it was never acknowledged, so nothing that it led to has left the primary
//! ```
//!
//! From the moment the first epoch is committed the backup is entitled to claim the next term, once
//! its time-out has passed since it last heard the primary's clock. It gives that up by its own word only: asked to resign,
//! it says Resigned and is Done (`primary::change`).

mod claims;
mod copying;
mod durable;
mod epochs;
mod listening;

use crate::asking::{Asking, ClaimAnswer, Claimant};
use crate::detector::{Detector, Gaps};
use crate::ids::{Epoch, HostName, Session, Term};
use crate::notice::{Discard, LinkLoss, Notice};
use crate::ownership::{Claim, Grant};
use crate::resync::{DiskOffer, Offer};
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use crate::wire::compare::{Ask, Hashes};
use crate::wire::{Hello, Refusal, ToBackup, ToPrimary};
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use durable::Received;

/// A connection, numbered by the engine; never reused in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u64);

/// Something that happened at the backup.
#[derive(Debug)]
pub enum Event {
    /// A primary opened this session in this term.
    Hello(Conn, (Term, Session), Hello),
    /// A message came.
    Message(Conn, ToBackup),
    /// The connection ended, or ([`LinkLoss::Stream`]) its bytes make no sense while the primary is alive.
    Disconnected(Conn, LinkLoss),
    /// The standby process waits for memory, and this host has these copies of the disks.
    StandbyReady(Conn, Offer),
    /// The standby process could not be started.
    StandbyFailed(Conn, String),
    /// The standby process died.
    StandbyDied(String),
    /// The arbiter answered.
    Claimed(Claim, ClaimAnswer),
    /// The hashes that the oldest [`Action::Compare`] wants.
    Compared(Conn, Hashes),
    /// They cannot be had: a copy cannot be read.
    CompareFailed(Conn, String),
    /// All that came before the [`Action::Reach`] is in the image, and in the disks' copies on the media.
    Reached(Conn),
    /// It cannot be brought there.
    ReachFailed(Conn, String),
    /// The disk changes of this epoch, and of all before it, are durable in the journal of the session that this
    /// connection opened: an answer to [`Action::Persist`]. One answer may do for several.
    Persisted(Conn, Epoch),
    /// They are not and cannot be made so: the disk is full, or fails. The journal still holds what it said to be
    /// durable.
    PersistFailed(Conn, Epoch, String),
    /// The VM runs here under the grant that went out with [`Action::Promote`].
    Promoted,
    /// It does not, and will not in that term.
    PromotionFailed(String),
    /// The operator wants the standby gone.
    Discard,
    /// A deadline passed.
    Tick,
}

/// Something to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Check the machine and start a standby process for it.
    Prepare(Conn, Hello),
    /// Send a message.
    Send(Conn, ToPrimary),
    /// Close the connection, behind what was sent on it.
    Close(Conn),
    /// Hash these parts of the disks' copies, in the order in which it is wanted.
    Compare(Conn, Ask),
    /// Bring all that came of the first copy into the image, and onto the media of the disks' copies, and tell.
    Reach(Conn),
    /// Make the disk changes staged for this epoch durable in the journal of the session that this connection
    /// opened; behind those of the epochs before it. Apply nothing yet. Before the first epoch of a session also the
    /// disks' first copy is made durable.
    Persist(Conn, Epoch),
    /// Apply everything staged for this epoch, and only this: what is staged of later ones stays. It is whole, and its
    /// disk changes are durable. The gate's memory of the epoch comes with it.
    Commit(Epoch, Vec<u8>),
    /// Bring the standby to where the newest committed epoch ended, as far as that needs no term: it was the session's last, so
    /// the standby goes on from there or is thrown away.
    Stand,
    /// Throw away what is staged and not committed, of every epoch. What the journal holds of it is never applied.
    DropStaged,
    /// Ask the arbiter.
    Claim(Claim),
    /// Finish applying, cut the journal behind this epoch, load the devices, run the VM under this grant, but not before
    /// this instant: until then the old owner may speak. The disk that the VM sees is the epoch's: what the journal holds
    /// of a later one was never acknowledged.
    Promote(Grant, Epoch, Instant),
    /// End the standby process and forget everything.
    Discard,
    /// Tell the operator.
    Notice(Notice),
}

/// What to do with a bulk frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkUse {
    /// Part of the first copy: apply it to the image at once; the image has no value yet.
    ApplyNow,
    /// Part of this epoch: keep it until the epoch is whole.
    Stage(Epoch),
    /// Not expected: drop it.
    Ignore,
}

/// What phase a standby is in, for status displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Nothing.
    Empty,
    /// The standby process is starting.
    Preparing,
    /// First copy.
    Copying,
    /// Can take over.
    Armed,
    /// The arbiter is asked.
    Claiming,
    /// Taking over.
    Promoting,
    /// Over: promoted or thrown away.
    Done,
}

/// What is staged of the open epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Staged {
    frames: u64,
    bytes: u64,
    /// Those of the frames that carry disk changes.
    disk_frames: u64,
}

/// What the backup knows of its primary.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
struct Primary {
    host: HostName,
    term: Term,
    session: Session,
    /// The connection that opened the session; also its name, when the connection is over.
    opened: Conn,
    conn: Option<Conn>,
    detector: Detector,
    /// What was learnt of the link, if time-outs follow it, and the time-out that the primary would have this host go by.
    gaps: Option<Gaps>,
    wish: Micros,
    /// The connection ended at a time from which on the grace counts.
    claim_at: Option<(Instant, LinkLoss)>,
    next_pulse: Instant,
    echo: Instant,
    /// Until then the old owner may hold a lease from the newest echo: this host's VM says nothing before.
    leased_until: Instant,
    timing: Timing,
    staged: Staged,
    /// Asks without an answer.
    asks: u32,
    /// A mark without an answer.
    marked: bool,
    /// The first copy is also one of disks, even if nothing of them had to be sent: that must be durable before the
    /// first epoch is.
    copies_disks: bool,
    /// Whole and not committed, oldest first: the epochs right behind the committed one.
    received: VecDeque<Received>,
    /// The last epoch of the session was received.
    complete: bool,
    /// Its VM died while the first epoch was received and not yet committed: take over once it is.
    vm_died: bool,
    committed: Epoch,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
enum Phase {
    Empty,
    Preparing(Primary),
    Copying(Primary),
    Armed(Primary),
    Claiming(Primary, Asking),
    Promoting(Primary, Term),
    Done,
}

/// The state machine of a VM at the host that stands by.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
pub struct Backup {
    claimant: Claimant,
    /// Only a session of this term that is not older than this one, or one of a later term, may overwrite the copy of the disks
    /// that this host has.
    least: (Term, Session),
    phase: Phase,
    /// What is known of the link to a primary from earlier sessions, or from wherever.
    known: Option<(HostName, Gaps)>,
    #[cfg(feature = "planted")]
    planted: crate::Planted,
}

impl Backup {
    /// A backup that knows nothing yet but what this host's copy of the disks says: a session before `least` may not
    /// overwrite it ([`crate::journal::Stamp::least`]; 0 without a copy).
    #[must_use]
    pub fn new(claimant: Claimant, least: (Term, Session)) -> Self {
        Self {
            claimant,
            least,
            phase: Phase::Empty,
            known: None,
            #[cfg(feature = "planted")]
            planted: crate::Planted::default(),
        }
    }

    /// Plants a bug, to show that the checkers find it.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, planted: crate::Planted) {
        self.planted = planted;
    }

    /// The phase, for displays.
    #[must_use]
    pub fn phase(&self) -> PhaseName {
        match self.phase {
            Phase::Empty => PhaseName::Empty,
            Phase::Preparing(_) => PhaseName::Preparing,
            Phase::Copying(_) => PhaseName::Copying,
            Phase::Armed(_) => PhaseName::Armed,
            Phase::Claiming(..) => PhaseName::Claiming,
            Phase::Promoting(..) => PhaseName::Promoting,
            Phase::Done => PhaseName::Done,
        }
    }

    /// The primary it stands by for, its term and the newest committed epoch.
    #[must_use]
    pub fn standing_by(&self) -> Option<(&HostName, Term, Epoch)> {
        self.primary().map(|p| (&p.host, p.term, p.committed))
    }

    /// The session that it stands by in.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        self.primary().map(|p| p.session)
    }

    /// The newest term that this host knows of.
    #[must_use]
    pub fn known_term(&self) -> Term {
        match &self.phase {
            Phase::Promoting(_, term) => *term,
            _ => self.primary().map_or(Term(0), |p| p.term),
        }
    }

    /// Takes an event and appends what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Hello(conn, of, hello) => self.on_hello(now, conn, of, hello, out),
            Event::Message(conn, message) => self.on_message(now, conn, message, out),
            Event::Disconnected(conn, why) => self.on_disconnected(now, conn, why, out),
            Event::StandbyReady(conn, offer) => self.on_standby_ready(now, conn, offer, out),
            Event::StandbyFailed(conn, why) => self.on_standby_failed(conn, why, out),
            Event::StandbyDied(why) => self.on_standby_died(&why, out),
            Event::Claimed(claim, answer) => self.on_claimed(now, &claim, answer, out),
            Event::Compared(conn, hashes) => self.on_compared(conn, hashes, out),
            Event::CompareFailed(conn, why) => self.on_compare_failed(conn, why, out),
            Event::Reached(conn) => self.on_reached(conn, out),
            Event::ReachFailed(conn, why) => self.on_reach_failed(conn, &why, out),
            Event::Persisted(conn, epoch) => self.on_persisted(now, conn, epoch, out),
            Event::PersistFailed(conn, epoch, why) => self.on_persist_failed(conn, epoch, why, out),
            Event::Promoted => {
                self.remember();
                self.phase = Phase::Done;
            }
            Event::PromotionFailed(why) => self.on_promotion_failed(why, out),
            Event::Discard => self.discard(Discard::Operator, out),
            Event::Tick => {}
        }
        self.drive(now, out);
    }

    /// A frame came on this connection that needs no decision: the primary is alive. False if the connection is
    /// not the session's.
    pub fn heard(&mut self, now: Instant, conn: Conn) -> bool {
        let current = self.is_current(conn);
        if current {
            self.hear(now);
        }
        current
    }

    /// Whether a Hello would be taken: what a standby needs is to be had before anything of the old state goes.
    #[must_use]
    pub fn takes(&self, of: (Term, Session), hello: &Hello) -> bool {
        self.refuse_hello(of, hello).is_none()
    }

    /// When to call [`Backup::handle`] with a [`Event::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let primary = self.primary()?;
        let pulse = primary.conn.filter(|_| self.pulses()).map(|_| primary.next_pulse);
        let (silence, asking) = match &self.phase {
            Phase::Claiming(_, asking) => (None, asking.deadline()),
            Phase::Promoting(..) => (None, None),
            _ => (Some(primary.detector.deadline()), None),
        };
        let grace = primary.claim_at.as_ref().map(|&(at, _)| at).filter(|_| silence.is_some());
        [pulse, silence, asking, grace].into_iter().flatten().min()
    }

    fn primary(&self) -> Option<&Primary> {
        match &self.phase {
            Phase::Preparing(p)
            | Phase::Copying(p)
            | Phase::Armed(p)
            | Phase::Claiming(p, _)
            | Phase::Promoting(p, _) => Some(p),
            Phase::Empty | Phase::Done => None,
        }
    }

    fn primary_mut(&mut self) -> Option<&mut Primary> {
        match &mut self.phase {
            Phase::Preparing(p)
            | Phase::Copying(p)
            | Phase::Armed(p)
            | Phase::Claiming(p, _)
            | Phase::Promoting(p, _) => Some(p),
            Phase::Empty | Phase::Done => None,
        }
    }

    fn is_current(&self, conn: Conn) -> bool {
        self.primary().is_some_and(|p| p.conn == Some(conn))
    }

    fn on_hello(
        &mut self,
        now: Instant,
        conn: Conn,
        of: (Term, Session),
        hello: Hello,
        out: &mut Vec<Action>,
    ) {
        let (term, session) = of;
        if let Some(refusal) = self.refuse_hello(of, &hello) {
            if let ToPrimary::Refuse(why @ Refusal::NewerCopy { .. }) = &refusal {
                let (primary, why) = (hello.primary, why.clone());
                out.push(Action::Notice(Notice::StandbyRefused { primary, term, why }));
            }
            out.push(Action::Send(conn, refusal));
            out.push(Action::Close(conn));
            return;
        }
        self.least = self.least.max(of);
        if !matches!(self.phase, Phase::Empty | Phase::Done) {
            self.discard(Discard::Replaced { term }, out);
        }
        let primary = hello.primary.clone();
        out.push(Action::Notice(Notice::StandbyPreparing { primary: primary.clone(), term }));
        self.phase = Phase::Preparing(Primary {
            host: primary,
            term,
            session,
            opened: conn,
            conn: Some(conn),
            // The primary is silent until the standby is there.
            detector: Detector::new(now, hello.timing.stall),
            gaps: None,
            wish: Micros(0),
            claim_at: None,
            next_pulse: now,
            echo: Instant(0),
            leased_until: now,
            timing: hello.timing,
            staged: Staged::default(),
            asks: 0,
            marked: false,
            copies_disks: false,
            received: VecDeque::new(),
            complete: false,
            vm_died: false,
            committed: Epoch(0),
        });
        out.push(Action::Prepare(conn, hello));
    }

    fn refuse_hello(&self, of: (Term, Session), hello: &Hello) -> Option<ToPrimary> {
        let (term, known) = (of.0, self.known_term());
        if term < known {
            return Some(ToPrimary::Fenced(known));
        }
        let machine = |why: String| Some(ToPrimary::Refuse(Refusal::Machine { why }));
        if hello.vm != *self.claimant.vm() || hello.primary == *self.claimant.host() {
            return machine("a host cannot stand by for itself or for another VM's name".into());
        }
        if let Err(error) = hello.timing.check() {
            return machine(error.to_string());
        }
        let busy = match self.phase {
            Phase::Empty | Phase::Done => false,
            // A term has one owner: another host that names the same one is not it, or the first one was not.
            Phase::Preparing(ref primary) | Phase::Copying(ref primary) => {
                term == known && primary.host != hello.primary
            }
            // Armed in this very term, the primary would have had to win the next one before it opened another.
            Phase::Armed(_) => term == known,
            Phase::Claiming(..) | Phase::Promoting(..) => true,
        };
        if busy {
            return Some(ToPrimary::Refuse(Refusal::Busy { term: known }));
        }
        let newer = || Refusal::NewerCopy { host: self.claimant.host().clone(), least: self.least.0 };
        (of < self.least).then(|| ToPrimary::Refuse(newer()))
    }

    fn on_standby_ready(&mut self, now: Instant, conn: Conn, offer: Offer, out: &mut Vec<Action>) {
        self.phase = match core::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Preparing(mut primary) if primary.conn == Some(conn) => {
                primary.copies_disks = offer.disks != DiskOffer::NoDisks;
                let timing = &primary.timing;
                primary.detector = Detector::new(now, timing.timeout);
                let known = self.known.as_ref().filter(|(host, _)| *host == primary.host);
                primary.gaps = timing.adapts().then(|| match known {
                    Some((_, gaps)) => gaps.clone().resume(now, timing.heartbeat),
                    None => Gaps::new(now, timing.heartbeat),
                });
                primary.adapt();
                out.push(Action::Send(conn, ToPrimary::Accept(offer)));
                Phase::Copying(primary)
            }
            phase => phase,
        };
    }

    fn on_standby_failed(&mut self, conn: Conn, why: String, out: &mut Vec<Action>) {
        if self.is_current(conn) && matches!(self.phase, Phase::Preparing(_)) {
            out.push(Action::Send(conn, ToPrimary::Refuse(Refusal::Machine { why: why.clone() })));
            self.discard(Discard::Incomplete(LinkLoss::Standby(why)), out);
        }
    }

    /// A standby process that died before it was needed ends the session; the primary finds out and decides.
    fn on_standby_died(&mut self, why: &str, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Preparing(_) | Phase::Copying(_) | Phase::Armed(_)) {
            return;
        }
        if let Some(conn) = self.primary().and_then(|p| p.conn) {
            out.push(Action::Send(conn, ToPrimary::Broken(alloc::format!("the standby failed: {why}"))));
        }
        self.discard(Discard::Incomplete(LinkLoss::Standby(why.into())), out);
    }

    fn on_message(&mut self, now: Instant, conn: Conn, message: ToBackup, out: &mut Vec<Action>) {
        if !self.is_current(conn) {
            return;
        }
        self.hear(now);
        match message {
            ToBackup::Hello(_) => self.refuse_stream("Hello came twice".into(), out),
            ToBackup::Heartbeat(beat) => {
                self.take_echo(now, beat.at);
                self.take_wish(beat.wish);
                self.pulse(now, true, out);
            }
            ToBackup::Ask(ask) => self.on_ask(conn, ask, out),
            ToBackup::Mark => self.on_mark(conn, out),
            ToBackup::Commit(epoch, commit) => self.on_commit(now, epoch, commit, out),
            ToBackup::Yield(epoch, reason) => self.on_yield(epoch, reason, out),
            ToBackup::Resign => self.resign(conn, out),
            ToBackup::End(reason) => {
                if !matches!(self.phase, Phase::Claiming(..) | Phase::Promoting(..)) {
                    self.discard(Discard::Ended(reason), out);
                }
            }
        }
    }

    /// Another backup has what this one has. One that has asked for the term goes on asking, and the arbiter decides.
    fn resign(&mut self, conn: Conn, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Claiming(..) | Phase::Promoting(..)) {
            return;
        }
        out.push(Action::Send(conn, ToPrimary::Resigned));
        #[cfg(feature = "planted")]
        if self.planted.resign_and_stay {
            return;
        }
        self.discard(Discard::Resigned, out);
    }

    fn on_disconnected(&mut self, now: Instant, conn: Conn, why: LinkLoss, out: &mut Vec<Action>) {
        if !self.is_current(conn) {
            return;
        }
        if let LinkLoss::Stream(why) = why {
            return self.refuse_stream(why, out);
        }
        match &mut self.phase {
            Phase::Preparing(_) | Phase::Copying(_) => self.discard(Discard::Incomplete(why), out),
            Phase::Armed(primary) => {
                primary.conn = None;
                primary.claim_at = Some((now + primary.timing.disconnect_grace, why));
                self.drop_staged(out);
            }
            Phase::Claiming(primary, _) | Phase::Promoting(primary, _) => primary.conn = None,
            Phase::Empty | Phase::Done => {}
        }
    }

    /// What came cannot be trusted: nothing of the open epoch is used, what is committed stays.
    fn refuse_stream(&mut self, why: String, out: &mut Vec<Action>) {
        if let Some(conn) = self.primary().and_then(|p| p.conn) {
            out.push(Action::Send(conn, ToPrimary::Broken(why.clone())));
            out.push(Action::Close(conn));
        }
        match &mut self.phase {
            // The primary is alive and told: it has the whole time-out to claim first.
            Phase::Armed(primary) => {
                primary.conn = None;
                self.drop_staged(out);
            }
            Phase::Preparing(_) | Phase::Copying(_) => {
                self.discard(Discard::Incomplete(LinkLoss::Stream(why)), out);
            }
            _ => {}
        }
    }

    fn discard(&mut self, why: Discard, out: &mut Vec<Action>) {
        self.remember();
        if let Some(conn) = self.primary().and_then(|p| p.conn) {
            out.push(Action::Close(conn));
        }
        if !matches!(self.phase, Phase::Empty | Phase::Done) {
            out.push(Action::Discard);
            out.push(Action::Notice(Notice::StandbyDiscarded { why }));
        }
        self.phase = Phase::Done;
    }

    fn drive(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.suspect(now, out);
        self.pulse(now, false, out);
        self.ask_again(now, out);
    }

    /// Whether the primary expects pulses: not before the standby was accepted.
    fn pulses(&self) -> bool {
        !matches!(self.phase, Phase::Preparing(_))
    }

    /// Sends the pulse that is due. One that will be before long goes with a heartbeat that was `heard`, and the next is left to the
    /// next heartbeat, if that comes: this host need not wake once more for each.
    fn pulse(&mut self, now: Instant, heard: bool, out: &mut Vec<Action>) {
        if !self.pulses() {
            return;
        }
        let Some(primary) = self.primary_mut() else { return };
        let heartbeat = primary.timing.heartbeat.0;
        let (ahead, next) = if heard { (heartbeat / 2, heartbeat * 5 / 4) } else { (0, heartbeat) };
        if let Some(conn) = primary.conn
            && now + Micros(ahead) >= primary.next_pulse
        {
            primary.next_pulse = now + Micros(next);
            out.push(Action::Send(conn, ToPrimary::Pulse(primary.answer(now))));
        }
    }
}

fn silent(silence: Micros) -> LinkLoss {
    LinkLoss::Silent(silence.0 / 1_000)
}
