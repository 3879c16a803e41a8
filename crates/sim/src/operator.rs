//! Owns the operator: starts the VM where there is none, protects it, and sometimes has other wishes; and looks
//! whether all is well.

use crate::event::{Event, HostId};
use crate::failure::Class;
use crate::gate::Mode;
use crate::guest::{Guest, Life};
use crate::host::{Posted, Role};
use crate::report::Count;
use crate::storage::Stamp;
use crate::world::World;
use crate::{arbiter::Found, client::Client};
use protocol::backup::PhaseName as Backup;
use protocol::primary::{Command, PhaseName};
use protocol::repair::{Pauses, Repair, Situation, Step, Will, Wish};
use protocol::{Grant, Micros, Term};

const WATCH: u64 = 25_000;

impl World {
    /// Whether any host has, or may yet get, the VM.
    fn copy_exists(&self) -> bool {
        self.hosts.iter().any(|host| match &host.role {
            Role::Owner(owner) => owner.vm.is_some(),
            Role::Standby(standby) => {
                matches!(standby.machine.phase(), Backup::Armed | Backup::Claiming | Backup::Promoting)
            }
            Role::Idle => false,
        })
    }

    pub(crate) fn operate(&mut self) {
        if self.copy_exists() {
            for id in HostId::ALL {
                let Some(command) = self.wish(id) else { continue };
                let leaves = matches!(
                    command,
                    Command::Failover | Command::Unprotect | Command::Move | Command::Migrate { .. }
                );
                self.post(id, Posted::Command(command));
                // A guest may shut itself down just then.
                if leaves && self.rng.chance(25) {
                    self.shut_down_guest(id);
                }
            }
        } else {
            self.start_vm();
        }
        let after = self.rng.wait(self.plan.operator_gap);
        self.queue.put(self.now + after, Event::Operator);
    }

    /// Nobody has the VM any more: it begins anew, as after a power cut, from its newest disk; if it has none,
    /// somewhere.
    fn start_vm(&mut self) {
        if core::mem::take(&mut self.serving) {
            self.report.add(if self.on_purpose { Count::VmsEnded } else { Count::VmsLost }, 1);
        }
        let disk = match self.has_disk() {
            true => match self.newest_disk() {
                Some(found) => Some(found),
                None => return,
            },
            false => None,
        };
        let host = disk.map_or(HostId(self.rng.index(3)), |(host, _)| host);
        let state = &self.hosts[host.0];
        if !state.up || state.frozen || !matches!(state.role, Role::Idle) || self.arbiter_bad[host.0] > 0 {
            return;
        }
        let term = self.arbiter.newest().next();
        let claim = self.claimant(host).claim(term);
        let Found::Record(record) = self.arbiter.claim(&claim) else { return };
        let Some(grant) = Grant::from_record(&claim, &record) else { return };
        (self.serving, self.on_purpose) = (true, false);
        self.report.add(Count::Starts, 1);
        let life = self.checks.new_life();
        self.trace.line(self.now, || {
            format!("the operator starts the VM on {host:?} in term {term}, from the disk: {disk:?}")
        });
        let guest = match disk {
            Some((_, all)) => self.recover(host, all, life, term),
            None => self.install(host, life, term),
        };
        let policy = Repair::new(self.hosts[host.0].name.clone());
        self.become_owner(host, (grant, policy), guest, Mode::Open);
        self.learnt = Some(host);
    }

    /// A VM that never was: its client is new, too.
    fn install(&mut self, host: HostId, life: Life, term: Term) -> Guest {
        self.vms += 1;
        self.checks.begin(life, term);
        self.client = Client::default();
        self.client.progress_at = self.now;
        let (pages, sectors) = (self.plan.pages, self.plan.sectors);
        let storage = &mut self.host(host).storage;
        storage.forget(sectors);
        storage.stamp = (sectors > 0).then_some(Stamp::owner(term));
        Guest::boot(life, pages, &storage.disk)
    }

    fn wish(&mut self, id: HostId) -> Option<Command> {
        // In a trial he only protects.
        let calm = self.calm_since.is_some() || self.options.trial.is_some();
        let phase = match &self.hosts[id.0].role {
            Role::Owner(owner) if owner.vm.is_some() => owner.machine.phase(),
            _ => return None,
        };
        // Every other operator moves VMs: what is rare without it stays where it was found.
        let migrates = self.report.seed % 2 == 1;
        let changes = self.changes_backups();
        let wishes = |per_mille: u64, rng: &mut crate::rng::Rng| !calm && rng.chance(per_mille);
        match phase {
            PhaseName::Unprotected if wishes(5, &mut self.rng) => Some(Command::Stop),
            PhaseName::Unprotected if migrates && wishes(80, &mut self.rng) => Some(self.migrate(id)),
            PhaseName::Unprotected => self.protect(id),
            PhaseName::Opening | PhaseName::Copying => {
                wishes(10, &mut self.rng).then_some(Command::Unprotect)
            }
            PhaseName::Protected if wishes(60, &mut self.rng) => Some(Command::Failover),
            PhaseName::Protected if migrates && wishes(20, &mut self.rng) => Some(Command::Move),
            PhaseName::Protected if changes && wishes(250, &mut self.rng) => self.change(id),
            PhaseName::Protected if wishes(25, &mut self.rng) => Some(Command::Unprotect),
            PhaseName::Protected if wishes(6, &mut self.rng) => Some(Command::Stop),
            _ => None,
        }
    }

    /// To one of the other hosts, sometimes the naive way.
    fn migrate(&mut self, id: HostId) -> Command {
        let to = HostId((id.0 + 1 + self.rng.index(2)) % 3);
        let (peer, timing) = (self.hosts[to.0].name.clone(), self.plan.timing);
        Command::Migrate { peer, timing, machine: vec![7; 20], stop_first: self.rng.chance(200) }
    }

    /// Every other pair of operators changes backups.
    pub(crate) fn changes_backups(&self) -> bool {
        self.report.seed / 2 % 2 == 1
    }

    /// To the host that is neither the owner nor its backup. Sometimes he changes his mind.
    fn change(&mut self, id: HostId) -> Option<Command> {
        let called_off = self.rng.chance(30);
        let owner = self.owner(id)?;
        if owner.machine.successor().is_some() {
            return called_off.then_some(Command::KeepBackup);
        }
        let taken = owner.machine.peer()?.clone();
        let other = self.hosts.iter().enumerate().find(|&(at, host)| at != id.0 && host.name != taken);
        let timing = self.plan.timing;
        other.map(|(_, host)| Command::Change { peer: host.name.clone(), timing, machine: vec![7; 20] })
    }

    /// The VM's policy protects it again, unless nobody asked yet or the operator ended it: then he asks, now or later.
    fn protect(&mut self, id: HostId) -> Option<Command> {
        let (now, timing) = (self.clock(id), self.plan.timing);
        let first = HostId((id.0 + 1 + self.rng.index(2)) % 3);
        let (first, asks) = (self.hosts[first.0].name.clone(), self.rng.chance(800));
        let wish = self.repair_wish();
        let owner = self.owner(id)?;
        let peer = if owner.policy.will() == Will::Off {
            if !asks {
                return None;
            }
            owner.policy.ask(wish, &first);
            first
        } else {
            let situation =
                Situation { phase: PhaseName::Unprotected, peer: None, changing: false, draining: false };
            let Some(Step::Protect(peer)) = owner.policy.next(now, situation) else { return None };
            self.report.add(Count::Repairs, 1);
            peer
        };
        Some(Command::Protect { peer, timing, machine: vec![7; 20] })
    }

    /// What the operator wants of repair: faults are as close here as its pauses are short.
    pub(crate) fn repair_wish(&self) -> Wish {
        Wish {
            hosts: self.hosts.iter().map(|host| host.name.clone()).collect(),
            repair: true,
            prefer: None,
            settle: Micros(0),
            relapses: 0,
            losses: 0,
            pauses: Pauses {
                first: Micros::from_millis(20),
                longest: Micros::from_millis(500),
                steady: Micros::from_millis(500),
            },
        }
    }

    /// Looks at everything from time to time.
    pub(crate) fn watch(&mut self) {
        for id in HostId::ALL {
            self.check_patience(id);
        }
        if let Some(since) = self.calm_since {
            let well = self.all_is_well(since);
            self.well = if well { self.well + 1 } else { 0 };
            if self.well >= 4 {
                self.finish();
            } else if self.now > since + self.options.liveness_ms * 1_000 {
                let phases: Vec<_> =
                    self.hosts.iter().map(|host| format!("{:.300}", format!("{:?}", host.role))).collect();
                let what = format!(
                    "not protected and served {} ms after the last fault: {phases:#?}",
                    self.options.liveness_ms
                );
                self.fail(Class::NotProtectedAgain, what);
            }
        }
        self.queue.put(self.now + WATCH, Event::Watch);
    }

    /// Protected by a backup that knows it, and the client was served since the faults stopped.
    fn all_is_well(&self, since: u64) -> bool {
        self.hosts.iter().any(|host| {
            let Role::Owner(owner) = &host.role else { return false };
            let peer = owner.machine.peer().and_then(|name| self.host_named(name));
            let armed = peer.is_some_and(|peer| match &self.hosts[peer.0].role {
                Role::Standby(standby) => {
                    let (phase, by) = (standby.machine.phase(), standby.machine.standing_by());
                    phase == Backup::Armed && by.is_some_and(|(_, term, _)| term == owner.machine.term())
                }
                _ => false,
            });
            let served = self.client.progress_at > since && self.client.progress_at + 8 * WATCH > self.now;
            armed && served && owner.machine.phase() == PhaseName::Protected
        })
    }

    fn finish(&mut self) {
        self.done = true;
        let newest = self.arbiter.newest();
        for id in HostId::ALL {
            let owner = self.owner(id).filter(|owner| owner.machine.term() == newest);
            if let Some(vm) = owner.and_then(|owner| owner.vm.take()) {
                self.check_writes(&vm.guest);
            }
        }
    }
}
