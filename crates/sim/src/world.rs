//! Owns a run: the parts of the world, the loop that lets one thing after another happen, and the arbiter's line.

use crate::arbiter::{Arbiter, Found};
use crate::checks::Checks;
use crate::client::Client;
use crate::event::{Event, HOSTS, HostId, Job, MachineId, Queue, Undo};
use crate::failure::{Class, Failure};
use crate::host::{Host, Posted};
use crate::network::{ConnId, Network, Way};
use crate::plan::{Options, Plan};
use crate::report::{Count, Report};
use crate::rng::Rng;
use crate::trace::Trace;
use protocol::asking::ClaimAnswer;
use protocol::wire::pages::PageBatch;
use protocol::{Claim, VmId, VmName};

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) options: Options,
    pub(crate) queue: Queue,
    pub(crate) net: Network,
    pub(crate) arbiter: Arbiter,
    /// How many faults keep each host from the arbiter.
    pub(crate) arbiter_bad: [u32; HOSTS],
    pub(crate) hosts: [Host; HOSTS],
    pub(crate) client: Client,
    pub(crate) checks: Checks,
    pub(crate) report: Report,
    pub(crate) trace: Trace,
    pub(crate) failure: Option<Failure>,
    pub(crate) vm: VmName,
    pub(crate) vm_id: VmId,
    /// Where the switch believes the VM to be.
    pub(crate) learnt: Option<HostId>,
    /// VMs started so far: packets of an earlier one are not for the client of this one.
    pub(crate) vms: u64,
    /// A VM was started and not yet found to be over.
    pub(crate) serving: bool,
    /// It was ended on purpose.
    pub(crate) on_purpose: bool,
    pub(crate) calm_since: Option<u64>,
    /// In a trial: when the owner died.
    pub(crate) died_at: Option<u64>,
    /// So many looks in a row found everything well in the last phase.
    pub(crate) well: u32,
    pub(crate) done: bool,
    pub(crate) batch: PageBatch,
    machines: u64,
    #[cfg(feature = "planted")]
    pub(crate) planted: protocol::Planted,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options, trace_lines: usize) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let vm = VmName::new("model").unwrap_or_else(|error| panic!("{error}"));
        Self {
            now: 0,
            rng,
            plan,
            options: options.clone(),
            queue: Queue::default(),
            net: Network::default(),
            arbiter: Arbiter::default(),
            arbiter_bad: [0; HOSTS],
            hosts: HostId::ALL.map(Host::new),
            client: Client::default(),
            checks: Checks::default(),
            report: Report::new(seed),
            trace: Trace::new(trace_lines),
            failure: None,
            vm_id: VmId::of(&vm),
            vm,
            learnt: None,
            vms: 0,
            serving: false,
            on_purpose: false,
            calm_since: None,
            died_at: None,
            well: 0,
            done: false,
            batch: PageBatch::new(),
            machines: 0,
            #[cfg(feature = "planted")]
            planted: options.planted,
        }
    }

    /// Runs to the end, or to the first broken promise.
    pub(crate) fn run(&mut self) {
        if !self.options.faults {
            self.plan.calm();
        }
        if let Some(trial) = self.options.trial.clone() {
            self.plan.try_out(&trial);
            self.queue.put(0, Event::Doze);
            if let Some(at) = trial.owner_dies_at {
                self.queue.put(at.0, Event::OwnerDies);
            }
        }
        for event in [Event::Operator, Event::ClientTimer, Event::Watch] {
            self.queue.put(0, event);
        }
        if self.options.faults {
            let first = self.rng.wait(self.plan.fault_gap);
            self.queue.put(first, Event::Fault);
        }
        self.queue.put(self.options.safety_ms * 1_000, Event::Calm);
        while !self.done && self.failure.is_none() {
            let Some((at, event)) = self.queue.take() else { break };
            self.now = at;
            self.trace.fold(at);
            self.trace.fold(event.tag());
            self.happen(event);
        }
        self.report.trace_hash = self.trace.hash();
        self.report.virtual_us = self.now;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(conn, way) => {
                if let Some((host, end, items)) = self.net.deliver(self.now, conn, way) {
                    self.arrive(host, conn, end, items);
                }
            }
            Event::Reset(conn, end) => self.reset(conn, end),
            Event::Read(host, boot) if self.is_boot(host, boot) => match self.hosts[host.0].frozen {
                true => self.host(host).stop_reading(),
                false => self.read_sockets(host),
            },
            Event::Run(host, boot) if self.is_boot(host, boot) => match self.hosts[host.0].frozen {
                true => self.host(host).stop_running(),
                false => self.run_loop(host),
            },
            Event::Tick(host, boot, number) if self.is_boot(host, boot) => self.tick(host, number),
            Event::Job(host, boot, job) if self.is_boot(host, boot) => match self.hosts[host.0].frozen {
                true => self.host(host).deferred.push(job),
                false => self.run_job(host, job),
            },
            Event::Late(host, boot, posted) if self.is_boot(host, boot) => self.post(host, posted),
            Event::Step(host, machine) => self.step(host, machine),
            Event::Asked(host, boot, machine, claim) => self.asked(host, boot, machine, claim),
            Event::Answered(host, boot, machine, claim, answer) if self.is_boot(host, boot) => {
                self.post(host, Posted::Answer(machine, claim, answer));
            }
            Event::ToGuest(vm, host, write) => self.deliver_write(vm, host, write),
            Event::ToClient(vm, stored) => self.deliver_answer(vm, stored),
            Event::ClientTimer => self.client_timer(),
            Event::Operator => self.operate(),
            Event::Watch => self.watch(),
            Event::Fault => self.inject(),
            Event::AllDie => self.crash_everyone(),
            Event::Undo(undo) => self.undo(undo),
            Event::Flap(one, other, times, half) => self.flap(one, other, times, half),
            Event::Doze => self.doze(),
            Event::OwnerDies => self.owner_dies(),
            Event::Calm => self.calm(),
            // Of a boot that is over.
            Event::Read(..)
            | Event::Run(..)
            | Event::Tick(..)
            | Event::Job(..)
            | Event::Late(..)
            | Event::Answered(..) => {}
        }
    }

    pub(crate) fn run_job(&mut self, host: HostId, job: Job) {
        match job {
            Job::Connect(id, session, peer) => self.connected(host, id, session, &peer),
            Job::Copy(id, session, round) => self.copy_round(host, id, session, round),
            Job::Cut(id, number) => self.cut(host, id, number),
            Job::CutDone(id, number) => self.cut_done(host, id, number),
            Job::Compare(id, conn, ask) => self.hashed(host, id, conn, &ask),
            Job::Reach(id, conn) => self.reached(host, id, conn),
            Job::Clean(id) => self.clean(host, id),
            Job::StartStandby(id, conn) => self.standby_started(host, id, conn),
            Job::Sync(id, conn, epoch) => self.sync_done(host, id, conn, epoch),
            Job::Promote(id) => {
                self.promote(host, id);
                self.set_timer(host);
            }
        }
    }

    pub(crate) fn new_machine(&mut self) -> MachineId {
        self.machines += 1;
        MachineId(self.machines)
    }

    /// A promise is broken; the first one counts.
    pub(crate) fn fail(&mut self, class: Class, what: String) {
        if self.failure.is_none() {
            let (seed, at_us) = (self.report.seed, self.now);
            self.failure = Some(Failure { seed, class, what, at_us, trace: self.trace.take_lines() });
        }
    }

    /// Asks the arbiter. Every question is answered once, if only by "not reachable": the agent's own time-out.
    pub(crate) fn ask_arbiter(&mut self, host: HostId, claim: Claim) {
        let machine = self.owner(host).map(|owner| owner.id).or(self.standby(host).map(|standby| standby.id));
        let (Some(machine), boot) = (machine, self.host(host).boot) else { return };
        let after = self.rng.wait(self.plan.arbiter_delay);
        self.queue.put(self.now + after, Event::Asked(host, boot, machine, claim));
    }

    /// # Fault model of the arbiter
    /// A question or its answer may be lost, late, or made while the host cannot reach it. An answer that is lost
    /// may have written a record. A question outlives the host that asked it.
    fn asked(&mut self, host: HostId, boot: crate::event::Boot, machine: MachineId, claim: Claim) {
        let unreachable = ClaimAnswer::Unreachable("no answer in time".into());
        let mut answer = unreachable.clone();
        let mut after = self.plan.arbiter_timeout;
        let reached = self.arbiter_bad[host.0] == 0 && !self.rng.chance(self.plan.arbiter_loss);
        if reached {
            let found = self.arbiter.claim(&claim);
            self.trace.line(self.now, || format!("arbiter: {claim:?} by {host:?} finds {found:?}"));
            if !self.rng.chance(self.plan.arbiter_loss) {
                after = self.rng.wait(self.plan.arbiter_delay);
                answer = match found {
                    Found::Record(record) => ClaimAnswer::Record(record),
                    Found::Gap => ClaimAnswer::Unreachable("the term before it is missing".into()),
                };
            }
        }
        self.report.add(Count::ClaimsRepeated, u64::from(answer == unreachable));
        self.queue.put(self.now + after, Event::Answered(host, boot, machine, claim, answer));
    }

    fn client_timer(&mut self) {
        let writes = self.client.due(self.now);
        if let Some(host) = self.learnt {
            for write in writes {
                let (lost, after) = (self.rng.chance(10), self.rng.between(50, 900));
                if !lost {
                    self.queue.put(self.now + after, Event::ToGuest(self.vms, host, write));
                }
            }
        }
        self.queue.put(self.now + 4_000, Event::ClientTimer);
    }

    fn deliver_write(&mut self, vm: u64, host: HostId, write: u64) {
        if vm != self.vms || self.hosts[host.0].frozen {
            return;
        }
        if let Some(vm) = self.owner(host).and_then(|owner| owner.vm.as_mut())
            && vm.input.len() < 32
        {
            vm.input.push(write);
        }
    }

    fn deliver_answer(&mut self, vm: u64, stored: u64) {
        if vm != self.vms {
            return;
        }
        match self.client.acknowledged(self.now, stored) {
            Ok(new) => self.report.add(Count::AcknowledgedWrites, new),
            Err(what) => self.fail(Class::WriteLost, what),
        }
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Restart(host) => self.hosts[host.0].up = true,
            Undo::Thaw(host, boot) => {
                if self.is_boot(host, boot) && self.hosts[host.0].frozen {
                    self.trace.line(self.now, || format!("{host:?} wakes up"));
                    self.thaw(host);
                }
            }
            Undo::Heal(from, to) => {
                self.trace.line(self.now, || format!("{from:?} -> {to:?} heals"));
                let Self { now, net, queue, .. } = self;
                net.heal(*now, from, to, queue);
            }
            Undo::Widen(from, to) => {
                let Self { now, net, queue, .. } = self;
                net.widen(*now, from, to, queue);
            }
            Undo::Speed(from, to) => self.net.slow(from, to, 1),
            Undo::Arbiter(host) => self.arbiter_bad[host.0] = self.arbiter_bad[host.0].saturating_sub(1),
            Undo::DiskFull(host) => {
                let full = &mut self.host(host).storage.full;
                *full = full.saturating_sub(1);
            }
            Undo::DiskError(host) => {
                let failing = &mut self.host(host).storage.failing;
                *failing = failing.saturating_sub(1);
            }
            Undo::DiskSpeed(host) => self.host(host).storage.slow = 1,
            Undo::Unblock(conn, way) => self.queue.put(self.now, Event::Deliver(conn, way)),
        }
    }

    /// Stalls or resets a connection, as a lost frame does.
    pub(crate) fn lose_frame(&mut self, conn: ConnId, way: Way) {
        let until = self.now + self.rng.between(5_000, 900_000);
        let Self { net, queue, .. } = self;
        net.block(conn, way, until, queue);
        if self.rng.chance(300) {
            self.reset_soon(conn);
        }
    }

    pub(crate) fn reset_soon(&mut self, conn: ConnId) {
        for end in 0..2 {
            let after = self.rng.wait(20_000);
            self.queue.put(self.now + after, Event::Reset(conn, end));
        }
    }
}
