//! Owns the checkers. They see what no host can, every execution of the VM and everything that left a host, and
//! use nothing that the machines say of themselves.

use crate::event::{Event, HostId};
use crate::failure::Class;
use crate::gate::Mode;
use crate::guest::{Guest, Life, Output, Said, Snapshot};
use crate::report::Count;
use crate::standby::Image;
use crate::world::World;
use protocol::{Epoch, Session, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What is known of one execution of the VM.
#[derive(Debug)]
struct Execution {
    term: Term,
    /// Newest step of which output left.
    released: u64,
    /// The execution that goes on from a checkpoint of this one, and from which step.
    successor: Option<(Life, u64)>,
    /// Said anything to the world.
    spoke: bool,
}

/// What the world has seen of the VM that is served now.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    executions: BTreeMap<Life, Execution>,
    pub(crate) snapshots: BTreeMap<(Term, Session, Epoch), Snapshot>,
    /// Sessions whose backups had a whole checkpoint.
    armed: BTreeSet<(Term, Session)>,
    /// Digest of every packet number seen.
    packets: BTreeMap<u64, u64>,
    console: Vec<u64>,
    lives: u64,
    /// The host on which the VM ran last, and how many writes it has stored there.
    pub(crate) last_ran: Option<(HostId, u64)>,
}

impl Checks {
    pub(crate) fn new_life(&mut self) -> Life {
        self.lives += 1;
        Life(self.lives)
    }

    /// A VM ran a step.
    pub(crate) fn note_stored(&mut self, host: HostId, stored: u64) {
        if let Some((_, last)) = self.last_ran.as_mut().filter(|(ran, _)| *ran == host) {
            *last = stored;
        }
    }

    /// A VM is started: what was before is over.
    pub(crate) fn begin(&mut self, life: Life, term: Term) {
        *self = Self { lives: self.lives, last_ran: self.last_ran, ..Self::default() };
        let execution = Execution { term, released: 0, successor: None, spoke: false };
        self.executions.insert(life, execution);
    }
}

impl World {
    /// Output leaves a host.
    pub(crate) fn emit(&mut self, host: HostId, outputs: Vec<Output>, mode: Mode) {
        for output in outputs {
            self.report.add(Count::Outputs, 1);
            self.check_output(host, output, mode);
            if let Said::Packet { stored, digest, .. } = output.said {
                self.trace.fold(digest);
                // Switches learn where the VM is from what it sends.
                self.learnt = Some(host);
                let lost = self.rng.chance(5);
                let at = self.now + self.rng.between(50, 600);
                if !lost {
                    self.queue.put(at, Event::ToClient(self.vms, stored));
                }
            }
        }
    }

    fn check_output(&mut self, host: HostId, output: Output, mode: Mode) {
        let Some(execution) = self.checks.executions.get_mut(&output.life) else {
            return self.fail(
                Class::Ownership,
                format!("{host:?} releases output of a VM that was over: {output:?}"),
            );
        };
        execution.released = execution.released.max(output.step);
        execution.spoke = true;
        let (term, successor) = (execution.term, execution.successor);
        // In an execution the term may have grown since.
        let holds = self.owner(host).map(|owner| owner.machine.term()).unwrap_or(term);
        if mode == Mode::Open && (self.arbiter.newest() != holds || !self.owns_newest(host)) {
            let newest = self.arbiter.newest();
            let what = format!("{host:?} lets output pass in term {holds}, but term {newest} is granted");
            return self.fail(Class::Ownership, what);
        }
        if let Some((life, step)) = successor {
            if output.step > step {
                let what = format!("{output:?} left, but {life:?} goes on from step {step}");
                return self.fail(Class::OutputLost, what);
            }
            self.check_silence(host, output, life);
        }
        self.check_said(output);
    }

    fn owns_newest(&self, host: HostId) -> bool {
        self.arbiter.owner(self.arbiter.newest()) == Some(&self.hosts[host.0].name)
    }

    /// An old owner must be silent once its successor spoke.
    fn check_silence(&mut self, host: HostId, output: Output, successor: Life) {
        if self.checks.executions.get(&successor).is_some_and(|execution| execution.spoke) {
            let what = format!("{host:?} lets {output:?} leave after {successor:?} spoke");
            self.fail(Class::OldHostSpoke, what);
        }
    }

    /// What any client could notice: two different packets with one number, two words at one place.
    fn check_said(&mut self, output: Output) {
        match output.said {
            Said::Packet { number, digest, .. } => {
                let seen = *self.checks.packets.entry(number).or_insert(digest);
                if seen != digest {
                    let what = format!("packet {number} left twice with different contents ({output:?})");
                    self.fail(Class::OutputLost, what);
                }
            }
            Said::Console { at, word } => self.check_console(at, word),
        }
    }

    fn check_console(&mut self, at: u64, word: u64) {
        let console = &mut self.checks.console;
        let index = usize::try_from(at).unwrap_or(usize::MAX);
        if index == console.len() {
            console.push(word);
        }
        match console.get(index) {
            Some(&seen) if seen == word => {}
            Some(_) => self.fail(Class::OutputLost, format!("the console said two things at {at}")),
            None => {
                let what = format!("the console goes on at {at}, {} words were seen", console.len());
                self.fail(Class::OutputLost, what);
            }
        }
    }

    /// A VM is about to go on from what a backup holds: that must be the checkpoint, and nothing that left may
    /// be younger.
    pub(crate) fn check_promotion(
        &mut self,
        host: HostId,
        from: (Term, Session, Epoch),
        image: &Image,
        term: Term,
    ) -> Option<Guest> {
        let Some(snapshot) = self.checks.snapshots.get(&from).cloned() else {
            self.fail(Class::ImageDiffers, format!("{host:?} promotes {from:?}, which was never cut"));
            return None;
        };
        if let Some(what) = difference(&snapshot, image) {
            self.fail(Class::ImageDiffers, format!("{host:?} promotes {from:?}: {what}"));
            return None;
        }
        let life = self.checks.new_life();
        let parent = self.checks.executions.get_mut(&snapshot.life)?;
        if let Some(other) = parent.successor {
            let what =
                format!("two executions go on from {:?}: {other:?} and one on {host:?}", snapshot.life);
            self.fail(Class::Ownership, what);
            return None;
        }
        parent.successor = Some((life, snapshot.devices.step));
        if parent.released > snapshot.devices.step {
            let (released, step) = (parent.released, snapshot.devices.step);
            self.fail(
                Class::OutputLost,
                format!("output of step {released} left, {host:?} goes on from {step}"),
            );
        }
        self.checks.executions.insert(life, Execution { term, released: 0, successor: None, spoke: false });
        let guest = Guest::restore(life, snapshot.pages, snapshot.devices);
        self.check_writes(&guest);
        Some(guest)
    }

    /// The promoted host announces the VM's addresses and writes the console output that came with the epochs.
    pub(crate) fn announce(&mut self, host: HostId, console: &[(u64, u64)]) {
        let newest = self.owner(host).and_then(|owner| Some(owner.vm.as_ref()?.guest.life));
        if let Some(execution) = newest.and_then(|life| self.checks.executions.get_mut(&life)) {
            execution.spoke = true;
        }
        self.learnt = Some(host);
        console.iter().for_each(|&(at, word)| self.check_console(at, word));
    }

    /// Promise 5: what the client saw acknowledged is stored, and everything stored is stored once.
    pub(crate) fn check_writes(&mut self, guest: &Guest) {
        let (stored, acked) = (guest.stored(), self.client.acked);
        if stored < acked {
            self.fail(Class::WriteLost, format!("{acked} writes are acknowledged, {stored} are stored"));
        }
        if let Some(cell) = guest.wrong_cell() {
            self.fail(
                Class::WriteLost,
                format!("cell {cell} does not hold the sum of the {stored} stored writes"),
            );
        }
    }

    /// A standby has its first whole checkpoint.
    pub(crate) fn note_armed(&mut self, of: (Term, Session)) {
        self.checks.armed.insert(of);
    }

    /// A copy that could go on is thrown away only if a later term was granted, or another backup had all that it has.
    pub(crate) fn check_discard(&mut self, host: HostId, of: (Term, Session)) {
        let behind = (Bound::Excluded(of), Bound::Included((of.0, Session(u64::MAX))));
        if self.arbiter.newest() <= of.0 && self.checks.armed.range(behind).next().is_none() {
            let what = format!("{host:?} throws its standby away, and term {} is the newest", of.0);
            self.fail(Class::CopyThrownAway, what);
        }
    }

    /// Nobody ends his VM for another owner's sake if he is the owner.
    pub(crate) fn check_fence(&mut self, host: HostId) {
        if self.owns_newest(host) {
            self.fail(Class::CopyThrownAway, format!("{host:?} fences itself and owns the newest term"));
        }
    }

    /// Promise 6, looked at from time to time: a healthy guest runs, and what it says leaves.
    pub(crate) fn check_patience(&mut self, host: HostId) {
        let (now, patience) = (self.now, self.plan.patience());
        if self.hosts[host.0].frozen || self.arbiter_bad[host.0] > 0 {
            self.host(host).excused_until = now;
        }
        let excused = self.hosts[host.0].excused_until;
        let Some(vm) = self.owner(host).and_then(|owner| owner.vm.as_ref()) else { return };
        let waits = |since: u64| now.saturating_sub(since.max(excused)) > patience;
        let stands = !vm.runs && waits(vm.stopped_at);
        let mute = vm.gate.oldest().is_some_and(waits);
        if stands || mute {
            let phase = self.owner(host).map(|owner| owner.machine.phase());
            let what = if stands { "stands still" } else { "cannot be heard" };
            let what = format!("the VM on {host:?} {what} for {} ms, phase {phase:?}", patience / 1_000);
            self.fail(Class::GuestStopped, what);
        }
    }
}

fn difference(snapshot: &Snapshot, image: &Image) -> Option<String> {
    if image.devices != Some(snapshot.devices) {
        return Some(format!("devices {:?} instead of {:?}", image.devices, snapshot.devices));
    }
    let pages = snapshot.pages.iter().zip(&image.pages);
    if let Some((page, _)) = (0..).zip(pages).find(|(_, (cut, held))| cut != held) {
        return Some(format!("page {page} differs"));
    }
    let sectors = snapshot.disk.iter().zip(&image.disk);
    if let Some((sector, _)) = (0..).zip(sectors).find(|(_, (cut, held))| cut != held) {
        return Some(format!("sector {sector} of the disk differs"));
    }
    if snapshot.disk.len() != image.disk.len() {
        return Some("the disk has another length".into());
    }
    let end = image.console.last().map(|&(at, _)| at + 1);
    (end.is_some_and(|end| end != snapshot.devices.console_at))
        .then(|| format!("the console ends at {end:?} instead of {}", snapshot.devices.console_at))
}
