//! Owns a host's agent as far as both roles share it: sockets and their readers, the loop that takes what is
//! posted, the clock.
//!
//! # Fault model
//! A host may be *killed* (agent and VM gone, kernel alive), lose its *power* (everything gone, nobody told), or be
//! *frozen*, with its VM or without: its clock runs on, sockets and queues fill, and on waking everything comes at
//! once, in socket order, with timers before or after. A reader may be slow to post what it has read, so that events
//! of a session come long after its end. Clocks differ and run up to 3 % wrong.

use crate::event::{Boot, Event, HostId, Job, MachineId};
use crate::failure::Class;
use crate::guest::Page;
use crate::network::{ConnId, Item};
use crate::owner::Owner;
use crate::report::Count;
use crate::standby::{MAX_PAGES, Standby};
use crate::storage::{DISK_SIZES, Storage};
use crate::world::World;
use protocol::asking::{ClaimAnswer, Claimant};
use protocol::detector::Links;
use protocol::notice::LinkLoss;
use protocol::primary;
use protocol::wire::compare::Store;
use protocol::wire::pages::PAGE;
use protocol::wire::{
    HEADER_LEN, Header, Hello, Inbound, Kind, Outbound, Refusal, ToBackup, ToPrimary, WireError, disk,
};
use protocol::{Claim, Epoch, HostName, Instant, Session, Term};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(crate) enum Role {
    Idle,
    Owner(Box<Owner>),
    Standby(Box<Standby>),
}

/// What is posted to an agent's loop.
#[derive(Debug)]
pub(crate) enum Posted {
    ToPrimary(MachineId, primary::Event),
    ToBackup(MachineId, protocol::backup::Event),
    Incoming(ConnId, Incoming),
    Answer(MachineId, Claim, ClaimAnswer),
    Command(primary::Command),
}

/// What a reader of an accepted connection found.
#[derive(Debug)]
pub(crate) enum Incoming {
    Hello(Term, Session, Hello),
    Bulk(Kind, Epoch, Vec<u8>),
    Message(ToBackup),
    Ended(LinkLoss),
}

/// An agent's end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    /// None: the first frame, a Hello, says whose it is.
    inbound: Option<Inbound>,
    pub(crate) outbound: Option<Outbound>,
    /// The session, at the end that connected.
    opened: Option<(MachineId, Session)>,
    read: bool,
    /// Its reader is slow: until then what it has read is not posted.
    pub(crate) slow_until: u64,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: HostName,
    pub(crate) boot: Boot,
    pub(crate) up: bool,
    pub(crate) frozen: bool,
    pub(crate) guest_frozen: bool,
    pub(crate) role: Role,
    pub(crate) storage: Storage,
    /// Memory that outlived its VM's process.
    pub(crate) remnant: Option<Vec<Page>>,
    /// What the agent knows of its links.
    pub(crate) links: Links,
    pub(crate) kernel: VecDeque<(ConnId, Item)>,
    pub(crate) posted: VecDeque<Posted>,
    pub(crate) sockets: BTreeMap<ConnId, Socket>,
    pub(crate) deferred: Vec<Job>,
    reading: bool,
    running: bool,
    tick: u64,
    late_deadlines: u32,
    /// Until then the host or its arbiter was in trouble: no promise about its guest's speed.
    pub(crate) excused_until: u64,
}

impl Host {
    pub(crate) fn new(id: HostId) -> Self {
        let name = HostName::new(["alpha", "beta", "gamma"][id.0]).unwrap_or_else(|error| panic!("{error}"));
        Self {
            name,
            boot: Boot(1),
            up: true,
            frozen: false,
            guest_frozen: false,
            role: Role::Idle,
            storage: Storage::default(),
            remnant: None,
            links: Links::default(),
            kernel: VecDeque::new(),
            posted: VecDeque::new(),
            sockets: BTreeMap::new(),
            deferred: Vec::new(),
            reading: false,
            running: false,
            tick: 0,
            late_deadlines: 0,
            excused_until: 0,
        }
    }

    /// The reader was about to run when the host froze.
    pub(crate) fn stop_reading(&mut self) {
        self.reading = false;
    }

    /// The loop was about to run when the host froze.
    pub(crate) fn stop_running(&mut self) {
        self.running = false;
    }

    /// Everything is gone but the disks; the next boot is another one.
    pub(crate) fn lose_everything(&mut self, id: HostId) {
        let (boot, excused_until) = (Boot(self.boot.0 + 1), self.excused_until);
        let mut storage = core::mem::take(&mut self.storage);
        storage.crash();
        *self = Self { boot, excused_until, storage, up: false, ..Self::new(id) };
    }
}

impl World {
    pub(crate) fn host(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0]
    }

    pub(crate) fn is_boot(&self, id: HostId, boot: Boot) -> bool {
        self.hosts[id.0].up && self.hosts[id.0].boot == boot
    }

    /// The host's own clock.
    pub(crate) fn clock(&self, id: HostId) -> Instant {
        Instant(self.clock_at(id, self.now))
    }

    fn clock_at(&self, id: HostId, time: u64) -> u64 {
        let drift = i128::from(time) * i128::from(self.plan.clock_ppm[id.0]) / 1_000_000;
        let at = i128::from(self.plan.clock_offset[id.0] + time) + drift;
        u64::try_from(at).unwrap_or(0)
    }

    /// When the host's clock will show `instant`.
    pub(crate) fn time_of(&self, id: HostId, instant: Instant) -> u64 {
        let ahead = instant.0.saturating_sub(self.clock(id).0);
        let ppm = u64::try_from(1_000_000 + self.plan.clock_ppm[id.0]).unwrap_or(1_000_000);
        let mut time = self.now + ahead * 1_000_000 / ppm;
        while self.clock_at(id, time) < instant.0 {
            time += 1;
        }
        time
    }

    pub(crate) fn claimant(&self, id: HostId) -> Claimant {
        let host = &self.hosts[id.0];
        let seed = crate::rng::mix(self.report.seed ^ (host.boot.0 << 8) ^ id.0 as u64);
        Claimant::new(self.vm.clone(), host.name.clone(), seed)
    }

    pub(crate) fn host_named(&self, name: &HostName) -> Option<HostId> {
        HostId::ALL.into_iter().find(|id| self.hosts[id.0].name == *name)
    }

    /// Posts something to the agent's loop, which runs a little later; not while it is frozen.
    pub(crate) fn post(&mut self, id: HostId, posted: Posted) {
        self.host(id).posted.push_back(posted);
        self.wake_loop(id);
    }

    fn wake_loop(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        if host.up && !host.frozen && !host.running {
            host.running = true;
            let at = self.now + self.rng.between(1, 120);
            self.queue.put(at, Event::Run(id, host.boot));
        }
    }

    pub(crate) fn job(&mut self, id: HostId, after: u64, job: Job) {
        let boot = self.host(id).boot;
        self.queue.put(self.now + after, Event::Job(id, boot, job));
    }

    /// A new connection's end at this host.
    pub(crate) fn open_socket(
        &mut self,
        id: HostId,
        conn: ConnId,
        opened: Option<(MachineId, Session, Inbound, Outbound)>,
    ) {
        let socket = match opened {
            Some((machine, session, inbound, outbound)) => Socket {
                inbound: Some(inbound),
                outbound: Some(outbound),
                opened: Some((machine, session)),
                read: true,
                slow_until: 0,
            },
            None => Socket { inbound: None, outbound: None, opened: None, read: true, slow_until: 0 },
        };
        self.host(id).sockets.insert(conn, socket);
    }

    /// Seals and sends a frame, if the connection still stands at this end.
    pub(crate) fn send_frame(&mut self, id: HostId, conn: ConnId, kind: Kind, epoch: Epoch, body: &[u8]) {
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn) else { return };
        let Some(outbound) = &mut socket.outbound else { return };
        let mut bytes = outbound.seal(kind, epoch, body).encode().to_vec();
        bytes.extend_from_slice(body);
        self.ambient_frame_fault(conn);
        let Self { now, net, rng, plan, queue, .. } = self;
        net.send(*now, conn, id, bytes, (rng, plan, queue));
    }

    pub(crate) fn send_to_primary(&mut self, id: HostId, conn: ConnId, message: &ToPrimary) {
        let (kind, epoch, body) = message.encode();
        self.send_frame(id, conn, kind, epoch, &body);
    }

    pub(crate) fn close_socket(&mut self, id: HostId, conn: ConnId, why: &'static str) {
        if self.host(id).sockets.remove(&conn).is_some() {
            let Self { now, net, rng, plan, queue, .. } = self;
            net.close(*now, conn, id, why, (rng, plan, queue));
        }
    }

    /// The network brought something to an end of a connection.
    pub(crate) fn arrive(&mut self, id: HostId, conn: ConnId, end: usize, items: Vec<Item>) {
        if items.is_empty() || !self.hosts[id.0].up {
            return;
        }
        if !self.net.knows(conn, end) {
            // The kernel answers what it does not know with a reset, if that gets through.
            let after = self.plan.delay.1;
            self.queue.put(self.now + after, Event::Reset(conn, 1 - end));
            return;
        }
        self.host(id).kernel.extend(items.into_iter().map(|item| (conn, item)));
        let host = &mut self.hosts[id.0];
        if !host.frozen && !host.reading {
            host.reading = true;
            let at = self.now + self.rng.between(1, 60);
            self.queue.put(at, Event::Read(id, host.boot));
        }
    }

    /// An end of a connection learns that it was reset; what waits in its socket is still there.
    pub(crate) fn reset(&mut self, conn: ConnId, end: usize) {
        let Some(ends) = self.net.ends(conn) else { return };
        if self.net.is_cut(ends[1 - end], ends[end]) || !self.net.knows(conn, end) {
            return;
        }
        self.arrive(ends[end], conn, end, vec![Item::End("reset by the network")]);
        self.net.forget(conn, end);
    }

    /// The readers take everything that waits in their sockets.
    pub(crate) fn read_sockets(&mut self, id: HostId) {
        self.host(id).reading = false;
        while let Some((conn, item)) = self.host(id).kernel.pop_front() {
            match item {
                Item::Frame { bytes, wrong } => self.read_frame(id, conn, &bytes, wrong),
                Item::End(why) => self.read_end(id, conn, LinkLoss::Disconnected(why.into())),
            }
        }
    }

    fn read_frame(&mut self, id: HostId, conn: ConnId, bytes: &[u8], wrong: bool) {
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn).filter(|socket| socket.read) else {
            return;
        };
        let slow_until = socket.slow_until;
        self.report.add(Count::Frames, 1);
        match understand(socket, bytes) {
            Ok(_) if wrong => {
                self.fail(
                    Class::DamageAccepted,
                    format!("a wrong frame on {conn:?} was taken: {:x?}", &bytes[..80]),
                );
            }
            Ok(Understood::FromBackup(machine, session, message)) => {
                let event = primary::Event::Message(session, message);
                self.post_read(id, slow_until, Posted::ToPrimary(machine, event));
            }
            Ok(Understood::Incoming(incoming)) => {
                self.post_read(id, slow_until, Posted::Incoming(conn, incoming));
            }
            Err(refused) => {
                self.report.add(refused.count(), 1);
                self.trace.line(self.now, || format!("{id:?} refuses a frame on {conn:?}: {refused:?}"));
                self.read_end(id, conn, LinkLoss::Stream(format!("{refused:?}")));
                // The agent closes what it cannot trust.
                let Self { now, net, rng, plan, queue, .. } = self;
                net.close(*now, conn, id, "refused", (rng, plan, queue));
            }
        }
    }

    fn read_end(&mut self, id: HostId, conn: ConnId, why: LinkLoss) {
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn).filter(|socket| socket.read) else {
            return;
        };
        socket.read = false;
        let slow_until = socket.slow_until;
        let posted = match socket.opened {
            Some((machine, session)) => {
                Posted::ToPrimary(machine, primary::Event::Disconnected(session, why))
            }
            None => Posted::Incoming(conn, Incoming::Ended(why)),
        };
        self.post_read(id, slow_until, posted);
    }

    /// A reader posts what it read; a slow one when it gets to it, even if the session is over by then.
    fn post_read(&mut self, id: HostId, slow_until: u64, posted: Posted) {
        // Not at that very instant: what waits for it comes first.
        if slow_until < self.now {
            return self.post(id, posted);
        }
        let boot = self.hosts[id.0].boot;
        self.queue.put(slow_until, Event::Late(id, boot, posted));
    }

    /// The agent's loop: everything posted, in order, then the timer is set.
    pub(crate) fn run_loop(&mut self, id: HostId) {
        self.host(id).running = false;
        while let Some(posted) = self.host(id).posted.pop_front() {
            self.take_posted(id, posted);
            if self.failure.is_some() {
                return;
            }
        }
        self.set_timer(id);
    }

    fn take_posted(&mut self, id: HostId, posted: Posted) {
        match posted {
            Posted::ToPrimary(machine, event) => self.drive_primary(id, Some(machine), event),
            Posted::ToBackup(machine, event) => self.drive_backup(id, Some(machine), event),
            Posted::Answer(machine, claim, answer) => match self.host(id).role {
                Role::Owner(_) => {
                    self.drive_primary(id, Some(machine), primary::Event::Claimed(claim, answer));
                }
                Role::Standby(_) => {
                    let event = protocol::backup::Event::Claimed(claim, answer);
                    self.drive_backup(id, Some(machine), event);
                }
                Role::Idle => {}
            },
            Posted::Incoming(conn, incoming) => self.take_incoming(id, conn, incoming),
            Posted::Command(command) => self.command_primary(id, command),
        }
    }

    fn take_incoming(&mut self, id: HostId, conn: ConnId, incoming: Incoming) {
        match (&self.host(id).role, incoming) {
            (Role::Owner(owner), Incoming::Hello(term, session, _)) => {
                let known = owner.machine.term();
                self.answer_on(id, conn, term, session);
                let no = match term < known {
                    true => ToPrimary::Fenced(known),
                    false => ToPrimary::Refuse(Refusal::Busy { term: known }),
                };
                self.report.add(Count::HellosRefused, 1);
                self.send_to_primary(id, conn, &no);
                self.close_socket(id, conn, "refused");
            }
            (_, Incoming::Hello(term, session, hello)) => {
                self.answer_on(id, conn, term, session);
                self.backup_hello(id, conn, term, session, hello);
            }
            (Role::Standby(_), incoming) => self.backup_incoming(id, conn, incoming),
            _ => {}
        }
    }

    fn answer_on(&mut self, id: HostId, conn: ConnId, term: Term, session: Session) {
        let vm = self.vm_id;
        if let Some(socket) = self.host(id).sockets.get_mut(&conn) {
            socket.outbound = Some(Outbound::new(vm, term, session));
        }
    }

    /// The timer goes off.
    pub(crate) fn tick(&mut self, id: HostId, number: u64) {
        if self.hosts[id.0].frozen || self.hosts[id.0].tick != number {
            return;
        }
        self.tick_machines(id);
        self.set_timer(id);
    }

    pub(crate) fn tick_machines(&mut self, id: HostId) {
        self.drive_primary(id, None, primary::Event::Tick);
        self.drive_backup(id, None, protocol::backup::Event::Tick);
    }

    fn deadline(&self, id: HostId) -> Option<Instant> {
        match &self.hosts[id.0].role {
            Role::Owner(owner) => owner.machine.deadline(),
            Role::Standby(standby) => standby.machine.deadline(),
            Role::Idle => None,
        }
    }

    pub(crate) fn set_timer(&mut self, id: HostId) {
        let Some(deadline) = self.deadline(id) else { return };
        let late = self.rng.between(0, 200);
        let at = self.time_of(id, deadline) + late;
        let host = &mut self.hosts[id.0];
        host.tick += 1;
        self.queue.put(at, Event::Tick(id, host.boot, host.tick));
    }

    /// A machine was driven: its next deadline must lie ahead.
    pub(crate) fn check_deadline(&mut self, id: HostId) {
        let late = self.deadline(id).is_some_and(|deadline| deadline <= self.clock(id));
        let host = self.host(id);
        host.late_deadlines = if late { host.late_deadlines + 1 } else { 0 };
        if host.late_deadlines > 3 {
            let role = format!("{:?}", self.hosts[id.0].role);
            self.fail(
                Class::BusyLoop,
                format!("{id:?} has a deadline in the past however often it is called: {role:.400}"),
            );
        }
    }

    /// The host wakes up: what waited comes at once, the timer first or last.
    pub(crate) fn thaw(&mut self, id: HostId) {
        let now = self.now;
        let host = self.host(id);
        (host.frozen, host.guest_frozen, host.excused_until) = (false, false, now);
        self.note_waking(id);
        let timer_first = self.rng.chance(500);
        self.flush_open_gate(id);
        if timer_first {
            self.tick_machines(id);
        }
        for job in core::mem::take(&mut self.host(id).deferred) {
            self.run_job(id, job);
        }
        self.read_sockets(id);
        self.run_loop(id);
        self.resume_steps(id);
    }
}

/// Why a reader gives its connection up.
#[derive(Debug)]
enum Refused {
    Wire(WireError),
    Message(#[expect(dead_code, reason = "for the trace")] protocol::wire::MessageError),
    NotHello,
    Pages(#[expect(dead_code, reason = "for the trace")] protocol::wire::pages::PagesError),
    Disk(#[expect(dead_code, reason = "for the trace")] protocol::wire::disk::DiskError),
    Ask(#[expect(dead_code, reason = "for the trace")] protocol::wire::compare::AskError),
}

impl Refused {
    fn count(&self) -> Count {
        match self {
            Self::Wire(WireError::Replay { .. } | WireError::Gap { .. }) => Count::RefusedOrder,
            Self::Wire(WireError::StaleTerm { .. } | WireError::Session { .. } | WireError::Vm { .. })
            | Self::Message(_)
            | Self::NotHello => Count::RefusedForeign,
            Self::Wire(_) | Self::Pages(_) | Self::Disk(_) | Self::Ask(_) => Count::RefusedDamaged,
        }
    }
}

enum Understood {
    FromBackup(MachineId, Session, ToPrimary),
    Incoming(Incoming),
}

fn understand(socket: &mut Socket, bytes: &[u8]) -> Result<Understood, Refused> {
    let head = bytes.first_chunk::<HEADER_LEN>().ok_or(Refused::NotHello)?;
    let header = Header::decode(head).map_err(Refused::Wire)?;
    let body = &bytes[HEADER_LEN..];
    let first = socket.inbound.is_none();
    if first && header.kind != Kind::Hello {
        return Err(Refused::NotHello);
    }
    let inbound = socket.inbound.get_or_insert_with(|| Inbound::new(header.vm, header.term, header.session));
    inbound.check(&header).map_err(Refused::Wire)?;
    header.check_body(body).map_err(Refused::Wire)?;
    if let Some((machine, session)) = socket.opened {
        let message = ToPrimary::decode(header.kind, header.epoch, body).map_err(Refused::Message)?;
        return Ok(Understood::FromBackup(machine, session, message));
    }
    if matches!(header.kind, Kind::Pages | Kind::Device | Kind::Console | Kind::Disk) {
        if header.kind == Kind::Disk {
            let records = disk::unpack(body).map_err(Refused::Disk)?;
            disk::read_batch(&records, &DISK_SIZES, |_| ()).map_err(Refused::Disk)?;
        }
        if header.kind == Kind::Pages {
            let layout = [crate::standby::MAX_PAGES];
            protocol::wire::pages::read_batch(body, &layout, |_, _, _| ()).map_err(Refused::Pages)?;
        }
        return Ok(Understood::Incoming(Incoming::Bulk(header.kind, header.epoch, body.to_vec())));
    }
    let message = ToBackup::decode(header.kind, header.epoch, body).map_err(Refused::Message)?;
    if let ToBackup::Ask(ask) = &message {
        let sizes = match ask.of {
            Store::Disks => DISK_SIZES,
            Store::Memory => [MAX_PAGES * PAGE as u64],
        };
        ask.check(&sizes).map_err(Refused::Ask)?;
    }
    Ok(Understood::Incoming(match message {
        ToBackup::Hello(hello) if first => Incoming::Hello(header.term, header.session, hello),
        message => Incoming::Message(message),
    }))
}
