//! Owns a VM's way from host to host under clients that stay connected: protected, its host killed, protected again.

use super::super::Run;
use super::super::bed::{Bed, until};
use super::kill::Failover;
use super::kinds::Kind;
use crate::stage::watch::boot_time;
use anyhow::{Context, Result, ensure};
use api::types::Role;
use lab::client::{Asked, Askers, Writers};
use protocol::HostName;
use std::time::Duration;

/// Three, so that the VM is protected again while the host that died is still dead.
pub const HOSTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// The VM is protected for so long, and somewhat more, before its host dies.
const REST: Duration = Duration::from_millis(600);

/// One kill, and what followed.
pub struct Killed {
    /// How the VM was protected.
    pub kind: Kind,
    /// The failover.
    pub failover: Failover,
    /// From the promotion until the VM was protected again by itself, if that was waited for.
    pub protected_ms: Option<f64>,
    /// UDP requests that were sent before the VM ran again, and not answered by then.
    pub caught: Vec<Asked>,
    /// Answers that came a second time.
    pub repeated: u64,
}

/// The VM and its clients.
pub struct Journey<'a> {
    /// The hosts.
    pub bed: &'a Bed,
    /// Clients by TCP.
    pub writers: &'a Writers,
    /// Clients by UDP.
    pub askers: &'a Askers,
    /// Where the VM runs.
    pub home: &'static str,
    /// How it is protected now, if it is.
    pub now: Option<Kind>,
    /// How often protection was lost by itself.
    pub lost: u64,
}

impl Journey<'_> {
    /// Kills the VM's host while it is protected in this way, and protects it in the way of the next kill, if there is one.
    pub fn kill(&mut self, run: &mut Run<'_>, kind: Kind, next: Option<Kind>, label: &str) -> Result<Killed> {
        let (from, to) = (self.home, self.guard(run, kind, label)?);
        drop(self.askers.take());
        let repeated = self.askers.repeated();
        run.screen.live(&format!("{label}: {from} dies"));
        let failover = Failover::kill(self.bed, self.writers, from, to)?;
        (self.home, self.now) = (to, None);
        let protected_ms = if kind.repairs() { Some(self.mended(kind, &failover)?) } else { None };
        self.bed.cluster.revive(from)?;
        if let Some(next) = next.filter(|&next| self.now != Some(next)) {
            self.protect(run, next, label)?;
        }
        // Who lost his request learns it late: meanwhile the VM was protected again.
        until("an answer to every UDP client after the failover", || {
            self.askers.all_answered_since(failover.promoted_us)
        })?;
        let caught = |asked: &Asked| {
            let early = asked.answered_us.is_some_and(|at_us| at_us < failover.promoted_us);
            asked.sent_us < failover.promoted_us && !early
        };
        let caught = self.askers.take().into_iter().filter(caught).collect();
        let repeated = self.askers.repeated() - repeated;
        Ok(Killed { kind, failover, protected_ms, caught, repeated })
    }

    /// Protects the VM in this way, and lets its clients go on for a while. Tells the backup.
    fn guard(&mut self, run: &mut Run<'_>, kind: Kind, label: &str) -> Result<&'static str> {
        for more in [137, 11, 73] {
            if self.now != Some(kind) {
                self.protect(run, kind, label)?;
            }
            // Not always at the same moment of an epoch.
            let off = Duration::from_micros(os::clock::now_us() % 1_000 * more);
            run.pass(&format!("{label}: protected"), REST + off);
            if let Some(backup) = self.backup()? {
                return Ok(backup);
            }
            self.lost += 1;
            self.now = None;
            self.home = self.owner()?;
        }
        anyhow::bail!("the VM does not stay protected, though nobody is killed")
    }

    fn protect(&mut self, run: &mut Run<'_>, kind: Kind, label: &str) -> Result<()> {
        let (bed, home) = (self.bed, self.home);
        run.screen.live(&format!("{label}: {home} is protected, {}", kind.name()));
        if let Some(old) = self.backup()? {
            bed.cluster.unprotect(&bed.vm, home, old)?;
        }
        bed.cluster.wait_primary(home, &bed.vm, &["unprotected"])?;
        let mut others = HOSTS.into_iter().filter(|host| *host != home).map(HostName::new);
        let to = others.next().context("there are three hosts")??;
        let request = kind.request(to, others.collect::<Result<_, _>>()?);
        bed.cluster.protect_as(&bed.vm, home, &request)?;
        self.now = Some(kind);
        Ok(())
    }

    /// Waits until the VM is protected again, without being asked. Tells how long that took.
    fn mended(&mut self, kind: Kind, failover: &Failover) -> Result<f64> {
        let protected = self.bed.cluster.wait_event(self.home, "protected", failover.mark)?;
        self.now = Some(kind);
        Ok(boot_time(protected.at_us).saturating_sub(failover.promoted_us) as f64 / 1e3)
    }

    /// Who protects the VM.
    fn backup(&self) -> Result<Option<&'static str>> {
        let status = self.bed.cluster.ask(self.home, |api| api.vms())?;
        let mine = status.into_iter().find(|vm| vm.name == self.bed.vm && vm.phase == "protected");
        let Some(peer) = mine.and_then(|vm| vm.peer) else { return Ok(None) };
        let peer = HOSTS.into_iter().find(|host| *host == peer.as_str());
        ensure!(peer.is_some(), "the backup is none of the hosts");
        Ok(peer)
    }

    /// Where the VM runs.
    fn owner(&self) -> Result<&'static str> {
        let mut owner = None;
        until("an owner of the VM", || {
            let owns = |host: &&str| {
                let status = self.bed.status(host);
                status.is_ok_and(|vm| vm.role == Role::Primary && vm.phase != "copying")
            };
            owner = HOSTS.into_iter().find(|host| owns(host));
            owner.is_some()
        })?;
        owner.context("it was found")
    }
}
