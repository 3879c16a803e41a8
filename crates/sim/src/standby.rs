//! Owns a backup's engine: it carries out what a backup's machine decides on a model standby.
//!
//! # Fault model
//! A standby may fail to start, die at any time, or refuse the devices when it is promoted. A remnant may be gone when it is wanted,
//! since others needed the room.

use crate::event::{HostId, Job, MachineId};
use crate::gate::Mode;
use crate::guest::{Devices, Guest, Page};
use crate::host::{Host, Incoming, Posted, Role};
use crate::network::ConnId;
use crate::owner::{Owner, Vm};
use crate::report::Count;
use crate::storage::Sector;
use crate::world::World;
use protocol::backup::{Action, Backup, BulkUse, Conn, Event as BackupEvent, PhaseName};
use protocol::notice::{LinkLoss, Notice};
use protocol::primary::{Event as PrimaryEvent, Primary};
use protocol::repair::{Arrival, Repair};
use protocol::resync::{MemoryOffer, Offer};
use protocol::wire::pages::{PAGE, PageData, read_batch};
use protocol::wire::{Hello, Kind, ToPrimary, YieldReason, disk};
use protocol::{Epoch, Grant, Session, Term};
use std::rc::Rc;

/// More pages than any guest of a run has.
pub(crate) const MAX_PAGES: u64 = 63;

/// Why the old owner is no more, as the backup sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Silence,
    Disconnect,
    Planned,
    Moved,
    VmDied,
}

impl Cause {
    fn arrival(self) -> Arrival {
        match self {
            Self::Planned => Arrival::Planned,
            Self::Moved => Arrival::Moved,
            Self::Silence | Self::Disconnect | Self::VmDied => Arrival::Loss,
        }
    }
}

/// What was received: an image of memory, devices, and all console output of the session.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) pages: Vec<Page>,
    pub(crate) devices: Option<Devices>,
    pub(crate) console: Vec<(u64, u64)>,
    /// What the VM would see of its disk; only when it is promoted, until then that is the host's.
    pub(crate) disk: Vec<Sector>,
}

#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) id: MachineId,
    pub(crate) machine: Backup,
    pub(crate) image: Image,
    /// Of the open epoch, and of those that are not committed yet.
    pub(crate) staged: Vec<(Epoch, Kind, Vec<u8>)>,
    /// The journal's sync that runs, up to this epoch; and the newest epoch that waits for one.
    pub(crate) sync: Option<(Conn, Epoch)>,
    pub(crate) appended: Epoch,
    /// The newest Hello.
    asked: (Conn, Term, Session),
    /// Term and session that it stands by for.
    pub(crate) of: (Term, Session),
    /// What was said of the copy of the disk, and of memory.
    offer: Offer,
    /// Of the process that holds the image.
    alive: bool,
    /// The devices are loaded.
    stands: bool,
    promotion: Option<(Grant, Epoch)>,
    pub(crate) cause: Cause,
}

impl Standby {
    fn new(id: MachineId, machine: Backup) -> Self {
        Self {
            id,
            machine,
            image: Image::default(),
            staged: Vec::new(),
            sync: None,
            appended: Epoch(0),
            asked: (Conn(0), Term(0), Session(0)),
            of: (Term(0), Session(0)),
            offer: Offer::default(),
            alive: false,
            stands: false,
            promotion: None,
            cause: Cause::Silence,
        }
    }
}

impl Image {
    /// With this memory, or blank.
    fn of(remnant: Option<Vec<Page>>) -> Self {
        let mut pages = remnant.unwrap_or_default();
        pages.resize(usize::try_from(MAX_PAGES).unwrap_or(0), Rc::new([0; PAGE]));
        Self { pages, ..Self::default() }
    }

    fn apply(&mut self, kind: Kind, body: &[u8]) {
        match kind {
            Kind::Pages => {
                let pages = &mut self.pages;
                let done = read_batch(body, &[MAX_PAGES], |_, first, data| {
                    let first = usize::try_from(first).unwrap_or(0);
                    match data {
                        PageData::Page(page) => pages[first] = Rc::new(*page),
                        PageData::Delta(delta) => {
                            let changed = |at: usize| pages[first][at] ^ delta[at];
                            pages[first] = Rc::new(core::array::from_fn(changed));
                        }
                        PageData::Zeros(count) => {
                            let count = usize::try_from(count).unwrap_or(0);
                            pages[first..first + count].fill(Rc::new([0; PAGE]));
                        }
                    }
                });
                assert!(done.is_ok(), "the reader let a bad batch pass");
            }
            Kind::Device => self.devices = Devices::decode(body),
            // The journal's and the disk's, not the image's.
            Kind::Disk => {}
            _ => {
                let words = body.as_chunks::<8>().0.as_chunks::<2>().0;
                self.console
                    .extend(words.iter().map(|&[at, w]| (u64::from_le_bytes(at), u64::from_le_bytes(w))));
            }
        }
    }
}

impl World {
    pub(crate) fn standby(&mut self, host: HostId) -> Option<&mut Standby> {
        match &mut self.hosts[host.0].role {
            Role::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    /// A Hello came to a host that does not own the VM.
    pub(crate) fn backup_hello(
        &mut self,
        host: HostId,
        conn: ConnId,
        term: Term,
        session: Session,
        hello: Hello,
    ) {
        if matches!(self.host(host).role, Role::Idle) {
            let id = self.new_machine();
            #[allow(unused_mut, reason = "only with the feature `planted`")]
            let mut machine = Backup::new(self.claimant(host), self.hosts[host.0].storage.least());
            #[cfg(feature = "planted")]
            machine.plant(self.planted);
            self.host(host).role = Role::Standby(Box::new(Standby::new(id, machine)));
        }
        if let Some(gaps) = self.hosts[host.0].links.of(&hello.primary)
            && let Some(standby) = self.standby(host)
        {
            standby.machine.recall(&hello.primary, gaps);
        }
        let machine = self.standby(host).map(|standby| standby.id);
        if let Some(standby) = self.standby(host) {
            standby.asked = (Conn(conn.0), term, session);
        }
        self.drive_backup(host, machine, BackupEvent::Hello(Conn(conn.0), (term, session), hello));
        let accepted = self.standby(host).is_some_and(|standby| standby.of == (term, session));
        self.report.add(Count::HellosRefused, u64::from(!accepted));
    }

    pub(crate) fn backup_incoming(&mut self, host: HostId, conn: ConnId, incoming: Incoming) {
        let Some(id) = self.standby(host).map(|standby| standby.id) else { return };
        let conn = Conn(conn.0);
        match incoming {
            Incoming::Message(message) => {
                self.drive_backup(host, Some(id), BackupEvent::Message(conn, message))
            }
            Incoming::Ended(why) => self.drive_backup(host, Some(id), BackupEvent::Disconnected(conn, why)),
            Incoming::Bulk(kind, epoch, body) => self.bulk(host, conn, kind, epoch, body),
            Incoming::Hello(..) => {}
        }
    }

    fn bulk(&mut self, host: HostId, conn: Conn, kind: Kind, epoch: Epoch, body: Vec<u8>) {
        let now = self.clock(host);
        let mut out = Vec::new();
        let Host { role: Role::Standby(standby), storage, .. } = self.host(host) else { return };
        standby.machine.wake(now);
        match standby.machine.bulk(now, conn, kind, epoch, body.len(), &mut out) {
            BulkUse::ApplyNow if kind == Kind::Disk => {
                disk::unpack(&body).iter().for_each(|records| storage.copy(records));
            }
            BulkUse::ApplyNow => standby.image.apply(kind, &body),
            BulkUse::Stage(epoch) => standby.staged.push((epoch, kind, body)),
            BulkUse::Ignore => {}
        }
        self.carry_out_backup(host, out);
    }

    /// Hands an event to the host's backup, if it (still) has that machine.
    pub(crate) fn drive_backup(&mut self, host: HostId, machine: Option<MachineId>, event: BackupEvent) {
        use PhaseName::{Armed, Claiming, Promoting};
        let now = self.clock(host);
        let Some(standby) = self.standby(host) else { return };
        if machine.is_some_and(|machine| machine != standby.id) {
            return;
        }
        let before = standby.machine.phase();
        let (mut armed, of) = (matches!(before, Armed | Claiming | Promoting) && standby.alive, standby.of);
        armed &= !matches!(event, BackupEvent::PromotionFailed(_) | BackupEvent::Promoted);
        let line = (self.trace.on() && !matches!(event, BackupEvent::Tick)).then(|| format!("{event:?}"));
        let Some(standby) = self.standby(host) else { return };
        let mut out = Vec::new();
        standby.machine.wake(now);
        standby.machine.handle(now, event, &mut out);
        let after = standby.machine.phase();
        if let Some(line) = line {
            self.trace.line(self.now, || format!("{host:?} backup <- {line:.150}"));
        }
        if before != after {
            self.note_link(host);
            self.trace.fold(64 + after as u64);
            self.trace.line(self.now, || format!("{host:?} backup {before:?} -> {after:?}"));
        }
        if armed && out.contains(&Action::Discard) {
            self.check_discard(host, of);
        }
        self.carry_out_backup(host, out);
        self.check_deadline(host);
        self.drop_done_standby(host);
    }

    fn drop_done_standby(&mut self, host: HostId) {
        if self.standby(host).is_some_and(|standby| standby.machine.phase() == PhaseName::Done) {
            self.host(host).role = Role::Idle;
        }
    }

    fn carry_out_backup(&mut self, host: HostId, actions: Vec<Action>) {
        for action in actions {
            if !matches!(action, Action::Send(_, ToPrimary::Pulse(_))) {
                self.trace.line(self.now, || format!("{host:?} backup -> {:.150}", format!("{action:?}")));
            }
            self.backup_action(host, action);
        }
    }

    fn backup_action(&mut self, host: HostId, action: Action) {
        match action {
            Action::Prepare(conn, _) => self.prepare(host, conn),
            Action::Send(conn, message) => {
                if let ToPrimary::Ack(epoch, _) = &message {
                    self.check_acknowledged(host, *epoch);
                }
                self.send_to_primary(host, ConnId(conn.0), &message);
            }
            Action::Compare(conn, ask) => self.compare(host, conn, ask),
            Action::Reach(conn) => self.reach(host, conn),
            Action::Persist(conn, epoch) => self.persist(host, conn, epoch),
            Action::Close(conn) => self.close_socket(host, ConnId(conn.0), "closed by the backup"),
            Action::Commit(epoch, _) => self.commit_epoch(host, epoch),
            Action::Stand => {
                let standby = self.standby(host);
                standby.into_iter().for_each(|standby| standby.stands = true);
            }
            Action::DropStaged => {
                let torn = self.standby(host).is_some_and(|s| !core::mem::take(&mut s.staged).is_empty());
                self.report.add(Count::TornEpochs, u64::from(torn));
            }
            Action::Claim(claim) => self.ask_arbiter(host, claim),
            Action::Promote(grant, epoch, not_before) => {
                let leased = self.time_of(host, not_before) - self.now;
                let ready = self.rng.between(1_000, 30_000);
                self.report.add(Count::WaitedForLease, u64::from(leased > ready));
                let after = ready.max(leased);
                if let Some(standby) = self.standby(host) {
                    standby.promotion = Some((grant, epoch));
                    let id = standby.id;
                    self.job(host, after, Job::Promote(id));
                }
            }
            Action::Discard => {
                let Host { role: Role::Standby(standby), remnant, .. } = self.host(host) else { return };
                let pages = core::mem::take(&mut standby.image).pages;
                *remnant = Some(pages).filter(|_| standby.alive);
                standby.alive = false;
            }
            Action::Notice(notice) => self.note_backup(host, &notice),
        }
    }

    /// What came of the first copy is in the image already; the disk's copy is flushed in some time.
    fn reach(&mut self, host: HostId, conn: Conn) {
        let after = self.rng.between(100, 10_000);
        if let Some(standby) = self.standby(host) {
            let id = standby.id;
            self.job(host, after, Job::Reach(id, conn));
        }
    }

    pub(crate) fn reached(&mut self, host: HostId, id: MachineId, conn: Conn) {
        let storage = &mut self.host(host).storage;
        let event = match storage.trouble().filter(|_| storage.failing > 0) {
            Some(why) => BackupEvent::ReachFailed(conn, why.into()),
            None => {
                storage.disk.flush();
                self.report.add(Count::MarksReached, 1);
                BackupEvent::Reached(conn)
            }
        };
        self.post(host, Posted::ToBackup(id, event));
    }

    fn prepare(&mut self, host: HostId, conn: Conn) {
        let (after, sectors) = (self.rng.between(1_000, 60_000), self.plan.sectors);
        let wanted = self.rng.chance(200);
        let Host { role: Role::Standby(standby), remnant, .. } = self.host(host) else { return };
        let remnant = remnant.take().filter(|_| !wanted);
        let memory = if remnant.is_some() { MemoryOffer::Remnant } else { MemoryOffer::Blank };
        (standby.image, standby.alive, standby.stands) = (Image::of(remnant), false, false);
        standby.staged.clear();
        (standby.sync, standby.appended) = (None, Epoch(0));
        assert_eq!(conn, standby.asked.0, "only who asked can be stood by for");
        standby.of = (standby.asked.1, standby.asked.2);
        let (id, standby_of, term) = (standby.id, standby.of, standby.of.0);
        self.check_overwrite(host, standby_of);
        let disks = self.offer(host, sectors, term);
        self.report.add(Count::Remnants, u64::from(memory == MemoryOffer::Remnant));
        if let Some(standby) = self.standby(host) {
            standby.offer = Offer { disks, memory };
        }
        self.job(host, after, Job::StartStandby(id, conn));
    }

    fn commit_epoch(&mut self, host: HostId, epoch: Epoch) {
        let trims = self.rng.chance(100);
        let Host { role: Role::Standby(standby), storage, .. } = self.host(host) else { return };
        assert!(!standby.stands, "an epoch is committed into a standby that stands where it goes on");
        let behind = standby.staged.partition_point(|(of, ..)| *of <= epoch);
        let (image, staged) = (&mut standby.image, standby.staged.drain(..behind));
        let disk = staged.fold(0, |disk, (_, kind, body)| {
            image.apply(kind, &body);
            disk + u64::from(kind == Kind::Disk)
        });
        let later = standby.staged.len() as u64;
        storage.commit(epoch);
        if trims {
            storage.trim();
        }
        self.report.add(Count::Epochs, 1);
        self.report.add(Count::EpochsWithDisk, u64::from(disk > 0));
        self.report.add(Count::CommitsWithLaterStaged, u64::from(later > 0));
    }

    fn note_backup(&mut self, host: HostId, notice: &Notice) {
        if let (Notice::PrimaryLost { .. }, Some(at)) = (notice, self.died_at) {
            self.report.detection_us.get_or_insert(self.now - at);
        }
        let cause = match notice {
            Notice::PrimaryLost { why: LinkLoss::Silent(_), .. } => Cause::Silence,
            Notice::PrimaryLost { .. } => Cause::Disconnect,
            Notice::TakingOver { reason: YieldReason::Planned, .. } => Cause::Planned,
            Notice::TakingOver { reason: YieldReason::Moved, .. } => Cause::Moved,
            Notice::TakingOver { reason: YieldReason::VmDied, .. } => Cause::VmDied,
            Notice::StandbyArmed { .. } => {
                let of = self.standby(host).map(|standby| standby.of);
                return of.into_iter().for_each(|of| self.note_armed(of));
            }
            Notice::PromotionFailed { .. } => return self.report.add(Count::PromotionsFailed, 1),
            Notice::ArbiterUnreachable { .. } => return self.report.add(Count::ArbiterSilent, 1),
            Notice::StandbyDiscarded { why: protocol::notice::Discard::LostClaim { .. } } => {
                return self.report.add(Count::ClaimsLost, 1);
            }
            _ => return,
        };
        if let Some(standby) = self.standby(host) {
            standby.cause = cause;
        }
    }

    pub(crate) fn standby_started(&mut self, host: HostId, id: MachineId, conn: Conn) {
        let fails = self.rng.chance(self.plan.standby_failure);
        let Some(standby) = self.standby(host).filter(|standby| standby.id == id) else { return };
        standby.alive = !fails;
        let event = match fails {
            true => BackupEvent::StandbyFailed(conn, "no memory".into()),
            false => BackupEvent::StandbyReady(conn, standby.offer.clone()),
        };
        self.post(host, Posted::ToBackup(id, event));
    }

    pub(crate) fn kill_standby(&mut self, host: HostId) {
        if let Some(standby) = self.standby(host)
            && core::mem::take(&mut standby.alive)
        {
            let id = standby.id;
            self.post(host, Posted::ToBackup(id, BackupEvent::StandbyDied("killed".into())));
        }
    }

    /// The devices are loaded and the VM goes on here, or it cannot.
    pub(crate) fn promote(&mut self, host: HostId, id: MachineId) {
        let fails = self.rng.chance(self.plan.promotion_failure);
        let Some(standby) = self.standby(host).filter(|standby| standby.id == id) else { return };
        let Some((grant, epoch)) = standby.promotion.take() else { return };
        let alive = standby.alive;
        let broken = self.hosts[host.0].storage.failing > 0 && self.plan.sectors > 0;
        let Some(standby) = self.standby(host) else { return };
        if fails || broken || !alive {
            let why = if broken { "the journal cannot be read" } else { "the devices could not be loaded" };
            let event = BackupEvent::PromotionFailed(why.into());
            return self.post(host, Posted::ToBackup(id, event));
        }
        let (mut image, of, cause) = (core::mem::take(&mut standby.image), standby.of, standby.cause);
        let peer = standby.machine.standing_by().map(|(name, ..)| name.clone());
        self.check_owner(host, grant.term(), "continued the VM");
        let storage = &mut self.hosts[host.0].storage;
        let cut = storage.promote(epoch, of, grant.term());
        image.disk = storage.disk.sectors().to_vec();
        self.report.add(Count::JournalsCut, u64::from(cut > 0));
        let Some(guest) = self.check_promotion(host, (of.0, of.1, epoch), &image, grant.term()) else {
            return;
        };
        // The host's loop learns of it now: nothing else runs between this and the first step.
        self.drive_backup(host, Some(id), BackupEvent::Promoted);
        self.count_promotion(peer.as_ref().and_then(|name| self.host_named(name)), cause);
        let (now, here, wish) = (self.clock(host), self.hosts[host.0].name.clone(), self.repair_wish());
        let policy = match &peer {
            Some(from) => Repair::inherit(now, here, wish, from, cause.arrival()),
            None => Repair::new(here),
        };
        self.become_owner(host, (grant, policy), guest, Mode::Open);
        self.announce(host, &image.console);
    }

    fn count_promotion(&mut self, from: Option<HostId>, cause: Cause) {
        self.report.add(Count::Promotions, 1);
        let count = match cause {
            Cause::Silence => Count::PromotionsAfterSilence,
            Cause::Disconnect => Count::PromotionsAfterDisconnect,
            Cause::Planned => Count::PlannedFailovers,
            Cause::Moved => Count::Migrations,
            Cause::VmDied => Count::PromotionsAfterVmDeath,
        };
        self.report.add(count, 1);
        self.trace.line(self.now, || format!("promoted, the old owner was {from:?}, {cause:?}"));
    }

    /// From now on the host owns the VM.
    pub(crate) fn become_owner(
        &mut self,
        host: HostId,
        (grant, policy): (Grant, Repair),
        guest: Guest,
        mode: Mode,
    ) {
        let id = self.new_machine();
        self.checks.last_ran = Some((host, guest.stored()));
        let shut_down = guest.devices.shut_down;
        let permit = grant.permit();
        #[allow(unused_mut, reason = "only with the feature `planted`")]
        let mut machine = Primary::new(self.claimant(host), grant);
        #[cfg(feature = "planted")]
        machine.plant(self.planted);
        self.check_owner(host, permit.term(), "began to run the VM");
        self.host(host).role = Role::Owner(Box::new(Owner::new(id, machine, policy, Vm::new(guest, mode))));
        self.resume(host);
        if shut_down {
            self.post(host, Posted::ToPrimary(id, PrimaryEvent::GuestShutdown));
        }
    }
}
