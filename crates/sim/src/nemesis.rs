//! Owns the faults: which, when, to whom; and the end of them.

use crate::event::{Event, HostId, Undo};
use crate::host::{Posted, Role};
use crate::network::{ConnId, FrameFault, Item, Way};
use crate::report::Count;
use crate::world::World;
use protocol::primary::PhaseName;

/// Kinds of faults with their weights.
const FAULTS: &[(u64, Count)] = &[
    (7, Count::FaultKill),
    (5, Count::FaultPower),
    (6, Count::FaultBothDie),
    (9, Count::FaultFreeze),
    (12, Count::FaultFreezeAgent),
    (9, Count::FaultCut),
    (7, Count::FaultCutOneWay),
    (5, Count::FaultFlap),
    (5, Count::FaultNarrow),
    (9, Count::FaultReset),
    (8, Count::FaultStall),
    (8, Count::FaultSlow),
    (10, Count::FaultFrame),
    (6, Count::FaultSlowReader),
    (8, Count::FaultArbiter),
    (4, Count::FaultVmDeath),
    (3, Count::FaultStandbyDeath),
    (4, Count::FaultDiskFull),
    (4, Count::FaultDiskError),
    (6, Count::FaultDiskSlow),
    (1, Count::GuestShutdowns),
];

impl World {
    /// Injects a fault, and sometimes the next one right behind it.
    pub(crate) fn inject(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let mut at = self.rng.below(FAULTS.iter().map(|(weight, _)| weight).sum());
        let (_, fault) = *FAULTS
            .iter()
            .find(|(weight, _)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            })
            .unwrap_or(&FAULTS[0]);
        let host = self.victim();
        if fault != Count::GuestShutdowns {
            self.report.add(fault, 1);
        }
        self.trace.line(self.now, || format!("{fault:?} {host:?}"));
        self.inflict(fault, host);
        let again = self.rng.chance(250);
        let gap = if again { self.rng.wait(8_000) } else { self.rng.wait(self.plan.fault_gap) };
        self.queue.put(self.now + gap, Event::Fault);
    }

    /// Mostly someone who matters.
    fn victim(&mut self) -> HostId {
        let owner = HostId::ALL.into_iter().find(|id| matches!(self.hosts[id.0].role, Role::Owner(_)));
        let standby = HostId::ALL.into_iter().find(|id| matches!(self.hosts[id.0].role, Role::Standby(_)));
        let any = HostId(self.rng.index(3));
        match self.rng.below(10) {
            0..5 => owner.unwrap_or(any),
            5..8 => standby.unwrap_or(any),
            _ => any,
        }
    }

    fn inflict(&mut self, fault: Count, host: HostId) {
        let long = self.rng.wait(200_000);
        match fault {
            Count::FaultKill => self.crash(host, true),
            Count::FaultPower => self.crash(host, false),
            Count::FaultBothDie => self.crash_everyone(),
            Count::FaultFreeze => self.freeze(host, true),
            Count::FaultFreezeAgent => self.freeze(host, false),
            Count::FaultCut | Count::FaultCutOneWay => {
                let other = self.other(host);
                let backwards = self.rng.chance(500);
                let (from, to) = if backwards { (host, other) } else { (other, host) };
                self.cut_link(from, to, long);
                if fault == Count::FaultCut {
                    self.cut_link(to, from, long);
                }
            }
            Count::FaultFlap => {
                let (other, times) = (self.other(host), self.rng.between(2, 12));
                let half = self.rng.between(10_000, 600_000);
                self.flap(host, other, times, half);
            }
            Count::FaultNarrow => {
                let other = self.other(host);
                for (from, to) in [(host, other), (other, host)] {
                    self.net.narrow(from, to);
                    self.queue.put(self.now + 2 * long, Event::Undo(Undo::Widen(from, to)));
                }
            }
            Count::FaultSlow => {
                let (other, factor) = (self.other(host), self.rng.pick(&[10, 100, 1_000]));
                self.net.slow(host, other, factor);
                self.queue.put(self.now + long, Event::Undo(Undo::Speed(host, other)));
            }
            Count::FaultArbiter => {
                let all = self.rng.chance(500);
                for id in HostId::ALL.into_iter().filter(|&id| all || id == host) {
                    self.arbiter_bad[id.0] += 1;
                    self.queue.put(self.now + long, Event::Undo(Undo::Arbiter(id)));
                }
            }
            Count::FaultDiskFull => {
                self.host(host).storage.full += 1;
                self.queue.put(self.now + long, Event::Undo(Undo::DiskFull(host)));
            }
            Count::FaultDiskError => {
                self.host(host).storage.failing += 1;
                self.queue.put(self.now + long, Event::Undo(Undo::DiskError(host)));
            }
            Count::FaultDiskSlow => {
                self.host(host).storage.slow = self.rng.pick(&[10, 100, 1_000]);
                self.queue.put(self.now + long, Event::Undo(Undo::DiskSpeed(host)));
            }
            Count::FaultVmDeath => self.kill_vm(host),
            Count::FaultStandbyDeath => self.kill_standby(host),
            Count::GuestShutdowns => self.shut_down_guest(host),
            _ => self.harm_connection(fault),
        }
    }

    fn harm_connection(&mut self, fault: Count) {
        let alive = self.net.alive();
        if alive.is_empty() {
            return;
        }
        let conn = alive[self.rng.index(alive.len())];
        match fault {
            Count::FaultSlowReader => {
                let end = self.rng.index(2);
                self.slow_reader(conn, end);
            }
            Count::FaultReset => {
                // Who connected, the owner, may learn of it well after what came before.
                if self.rng.chance(800) {
                    self.slow_reader(conn, 0);
                }
                self.reset_soon(conn);
            }
            Count::FaultStall => {
                let way = Way(self.rng.index(2));
                self.lose_frame(conn, way);
            }
            _ => self.net.next_fault = Some(self.frame_fault()),
        }
    }

    fn slow_reader(&mut self, conn: ConnId, end: usize) {
        let until = self.now + self.rng.wait(150_000);
        let host = self.net.ends(conn).map(|ends| ends[end]);
        if let Some(socket) = host.and_then(|host| self.host(host).sockets.get_mut(&conn)) {
            socket.slow_until = socket.slow_until.max(until);
        }
    }

    fn frame_fault(&mut self) -> FrameFault {
        use FrameFault::{Flip, Foreign, LeaveOut, Repeat, Swap};
        self.rng.pick(&[Flip, Repeat, LeaveOut, Swap, Foreign])
    }

    /// Under some plans any frame may be lost or damaged.
    pub(crate) fn ambient_frame_fault(&mut self, conn: ConnId) {
        if self.plan.frame_fault == 0 || !self.rng.chance(self.plan.frame_fault) {
            return;
        }
        if self.rng.chance(800) {
            self.net.next_fault = Some(self.frame_fault());
            self.report.add(Count::FaultFrame, 1);
        } else {
            self.report.add(Count::FaultStall, 1);
            let way = Way(self.rng.index(2));
            self.lose_frame(conn, way);
        }
    }

    fn other(&mut self, host: HostId) -> HostId {
        HostId((host.0 + 1 + self.rng.index(2)) % 3)
    }

    fn cut_link(&mut self, from: HostId, to: HostId, time: u64) {
        self.net.cut(from, to);
        self.queue.put(self.now + time, Event::Undo(Undo::Heal(from, to)));
    }

    /// Down for a while, and up for as long, so many times.
    pub(crate) fn flap(&mut self, one: HostId, other: HostId, times: u64, half: u64) {
        if self.calm_since.is_some() || times == 0 {
            return;
        }
        self.cut_link(one, other, half);
        self.cut_link(other, one, half);
        self.queue.put(self.now + 2 * half, Event::Flap(one, other, times - 1, half));
    }

    fn crash(&mut self, host: HostId, kernel_lives: bool) {
        if !self.hosts[host.0].up {
            return;
        }
        let Self { now, net, rng, plan, queue, .. } = self;
        net.die(*now, host, kernel_lives, (rng, plan, queue));
        if !kernel_lives {
            let Self { hosts, rng, report, .. } = self;
            report.add(Count::RecordsLost, hosts[host.0].storage.lose_power(rng));
        }
        self.host(host).lose_everything(host);
        let after = self.rng.wait(300_000);
        self.queue.put(self.now + after, Event::Undo(Undo::Restart(host)));
    }

    /// Whoever has the VM dies, all at once, or almost. They come back one after the other.
    pub(crate) fn crash_everyone(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        for host in HostId::ALL {
            if !matches!(self.hosts[host.0].role, Role::Idle) {
                let kernel_lives = self.rng.chance(100);
                self.crash(host, kernel_lives);
            }
        }
    }

    fn freeze(&mut self, host: HostId, with_guest: bool) {
        // Around the time-out, where it is hardest, or well past it.
        let mean = self.plan.timing.timeout.0;
        let after = if self.rng.chance(500) {
            self.rng.between(mean / 4, mean * 3 / 2)
        } else {
            self.rng.wait(mean * 3)
        };
        self.freeze_for(host, with_guest, after);
    }

    fn freeze_for(&mut self, host: HostId, with_guest: bool, after: u64) {
        let boot = self.host(host).boot;
        if !self.hosts[host.0].up || self.hosts[host.0].frozen {
            return;
        }
        let host_state = self.host(host);
        (host_state.frozen, host_state.guest_frozen) = (true, with_guest);
        self.queue.put(self.now + after, Event::Undo(Undo::Thaw(host, boot)));
    }

    /// In a trial: a busy host's agent does not run for a while.
    pub(crate) fn doze(&mut self) {
        let Some(stalls) = self.options.trial.as_ref().and_then(|trial| trial.stalls) else { return };
        let (host, time) = (self.victim(), self.rng.between(0, stalls.longest.0));
        self.freeze_for(host, false, time);
        let gap = self.rng.wait(stalls.gap.0);
        self.queue.put(self.now + gap, Event::Doze);
    }

    /// In a trial: who has the VM is gone without a word.
    pub(crate) fn owner_dies(&mut self) {
        let owner = HostId::ALL.into_iter().find(|id| matches!(self.hosts[id.0].role, Role::Owner(_)));
        if let Some(owner) = owner {
            self.died_at = Some(self.now);
            self.crash(owner, false);
        }
    }

    /// A frozen owner wakes up: is it one whose VM goes on elsewhere?
    pub(crate) fn note_waking(&mut self, host: HostId) {
        const ACK: [u8; 2] = [protocol::wire::Kind::Ack as u8, 0];
        let ack = |item: &(ConnId, Item)| matches!(&item.1, Item::Frame { bytes, .. } if bytes[6..8] == ACK);
        let acks = self.hosts[host.0].kernel.iter().any(ack)
            || self.hosts[host.0].posted.iter().any(|posted| {
                use protocol::wire::ToPrimary::Ack;
                matches!(posted, Posted::ToPrimary(_, protocol::primary::Event::Message(_, Ack(..))))
            });
        let newest = self.arbiter.newest();
        let Some(owner) = self.owner(host) else { return };
        let old = owner.machine.term() < newest && owner.machine.phase() == PhaseName::Protected;
        if old && self.arbiter.owner(newest) != Some(&self.hosts[host.0].name) {
            self.report.add(Count::FrozenOwnersWoke, 1);
            self.report.add(Count::FrozenOwnersWithAcks, u64::from(acks));
        }
    }

    /// The last phase begins: whatever is broken is mended, nothing breaks any more.
    pub(crate) fn calm(&mut self) {
        self.trace.line(self.now, || "faults stop".to_string());
        self.plan.calm();
        self.net.next_fault = None;
        self.calm_since = Some(self.now);
        self.arbiter_bad = [0; 3];
        for id in HostId::ALL {
            self.undo(Undo::Restart(id));
            let boot = self.host(id).boot;
            self.undo(Undo::Thaw(id, boot));
            let storage = &mut self.host(id).storage;
            (storage.full, storage.failing, storage.slow) = (0, 0, 1);
            for other in HostId::ALL {
                self.undo(Undo::Heal(id, other));
                self.undo(Undo::Widen(id, other));
                self.undo(Undo::Speed(id, other));
            }
        }
    }
}
