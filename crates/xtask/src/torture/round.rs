//! Owns one round: a blow, the failover that follows, the check, and protection in the other direction.

use super::bank::Bank;
use crate::stage::moments::Moments;
use crate::stage::watch::Watch;
use crate::stage::{self, HOSTS, Stage};
use anyhow::{Context, Result};
use host::api::client::ClientError;
use host::api::types::{ErrorCode, Role};
use lab::client::Pgbench;
use lab::cluster::{PATIENCE, wait_for};
use lab::topology::Link;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Phase of a VM that runs alone.
const ALONE: &str = "unprotected";
/// Clients must have their answers after so long.
const ANSWERS: Duration = Duration::from_secs(60);
/// A frozen host sleeps on for so long after it was replaced, while the clients go on.
const SLEEP_ON: Duration = Duration::from_millis(500);
/// So many acknowledged writes of each client are read back after each kill.
const SPOT: u64 = 1_000;

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// Its host dies.
    Kill,
    /// Its agent freezes, and wakes up when it is too late.
    Freeze,
    /// It loses its backup from sight, and the backup it.
    Link,
    /// Its QEMU dies.
    Qemu,
}

impl Blow {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Freeze, Self::Link, Self::Qemu];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Link => "link",
            Self::Qemu => "qemu",
        }
    }
}

/// What a round did and measured.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Its number, from 1.
    pub round: u32,
    /// What was done.
    pub blow: Blow,
    /// Where the VM ran.
    pub from: &'static str,
    /// Where it went on.
    pub to: &'static str,
    /// The longest wait of any client.
    pub outage_ms: f64,
    /// From the blow until it was noticed.
    pub detection_ms: Option<f64>,
    /// The promotion; none if the VM went on where it was.
    pub promotion_ms: Option<f64>,
    /// How long it took to be protected again.
    pub protected_after_ms: f64,
    /// Acknowledged writes that were not where they belong, among those that were looked at.
    pub wrong: u64,
}

impl Round {
    /// For people.
    pub fn line(&self, of: u32) -> String {
        let digits = of.to_string().len();
        let how = match self.promotion_ms {
            Some(ms) => format!("promoted in {ms:5.1} ms"),
            None => "went on in place   ".into(),
        };
        format!(
            "{:>digits$}/{of}  {:<6}  {:<5} → {:<5}  outage {:>5.0} ms, {how}, protected again after {:.1} s",
            self.round,
            self.blow.name(),
            self.from,
            self.to,
            self.outage_ms,
            self.protected_after_ms / 1e3
        )
    }
}

/// Where it happens.
pub struct Field<'a, 'g> {
    /// The hosts and the VM.
    pub stage: &'a Stage,
    /// Who looks on.
    pub watch: Watch<'a>,
    /// Where the VM runs now.
    pub home: &'static str,
    /// The checkpoint interval.
    pub interval: Duration,
    /// `pgbench` beside the writers, where there is a PostgreSQL.
    pub bank: Option<Bank<'g>>,
}

impl Field<'_, '_> {
    /// Protects the VM, wherever it runs.
    pub fn protect(&mut self, by: &'static str) -> Result<()> {
        let (stage, home, interval) = (self.stage, self.home, self.interval);
        self.watch.ask_only(&HOSTS);
        self.watch.during(&format!("copy, {home} → {by}"), || stage.protect(home, by, interval))
    }

    /// One round: a rest under load, a blow, and everything until the VM is protected again.
    pub fn round(&mut self, round: u32, blow: Blow, rest: Duration) -> Result<Round> {
        let from = self.home;
        let mut run = self.bank.as_ref().map(|bank| bank.open(self.stage)).transpose()?;
        self.watch.run_for(&format!("protected, {from} → {}", stage::other(from)), rest);
        self.watch.take_longest_wait();
        let run_is_hit = run.as_mut().is_some_and(Pgbench::is_running);
        let (hit_us, to) = self.strike(blow)?;
        self.watch.ask();
        let moments = Moments::read(&self.watch.seen().events, to, hit_us);
        let since_us = moments.promoted_us.unwrap_or_else(os::clock::now_us);
        self.watch.until_all_answered(&format!("the VM runs at {to}"), since_us, ANSWERS)?;
        let outage = self.watch.take_longest_wait().context("no client got a reply")?;
        self.heal(blow, from)?;
        self.home = to;
        let stage = self.stage;
        let wrong = self.watch.spot_check(|standings| {
            stage.server.spot_check(stage.cluster.lab.client(), stage.target, standings, SPOT)
        })?;
        if let (Some(run), Some(bank)) = (run, &mut self.bank) {
            self.watch
                .during("pgbench ends, its accounts are added up", || bank.close(stage, run, run_is_hit))?;
        }
        let start = Instant::now();
        self.protect(stage::other(to))?;
        Ok(Round {
            round,
            blow,
            from,
            to,
            outage_ms: outage.duration_us as f64 / 1e3,
            detection_ms: moments.suspected_us.map(|at_us| at_us.saturating_sub(hit_us) as f64 / 1e3),
            promotion_ms: moments.promotion_ms,
            protected_after_ms: start.elapsed().as_secs_f64() * 1e3,
            wrong,
        })
    }

    /// Hits the VM's home and waits until the VM goes on somewhere. Tells when it was hit, and where the VM runs.
    fn strike(&mut self, blow: Blow) -> Result<(u64, &'static str)> {
        let (stage, from) = (self.stage, self.home);
        let (lab, to) = (&stage.cluster.lab, stage::other(from));
        if blow == Blow::Link {
            let hit_us = os::clock::now_us();
            self.watch.during("the replication link is cut", || lab.cut_link(Link::Replication(from)))?;
            let owner = self.watch.during("the arbiter decides", || sole_owner(stage))?;
            return Ok((hit_us, owner));
        }
        // A dead host does not answer, and a frozen one never would.
        self.watch.ask_only(&[to]);
        let hit_us = os::clock::now_us();
        match blow {
            Blow::Kill => drop(self.watch.during(&format!("{from} dies"), || lab.kill_host(from))?),
            Blow::Freeze => lab.freeze(from)?,
            Blow::Qemu => kill_qemu(stage, from)?,
            Blow::Link => {}
        }
        self.watch
            .during(&format!("{from} is gone"), || stage.cluster.wait_primary(to, &stage.vm, &[ALONE]))?;
        Ok((hit_us, to))
    }

    /// Makes the host that was hit whole again: it knows nothing of the VM then.
    fn heal(&mut self, blow: Blow, hit: &'static str) -> Result<()> {
        let stage = self.stage;
        match blow {
            Blow::Kill => {
                self.watch.during(&format!("{hit} is switched on"), || stage.cluster.revive(hit))?
            }
            Blow::Freeze => {
                self.watch.run_for(&format!("{hit} is frozen"), SLEEP_ON);
                stage.cluster.lab.thaw(hit)?;
                self.watch.during(&format!("{hit} wakes up"), || stage.cluster.wait_gone(hit, &stage.vm))?;
            }
            Blow::Link => stage.cluster.lab.heal_link(Link::Replication(hit))?,
            Blow::Qemu => {
                self.watch.during(&format!("{hit} clears up"), || stage.cluster.wait_gone(hit, &stage.vm))?;
            }
        }
        Ok(())
    }
}

fn kill_qemu(stage: &Stage, host: &str) -> Result<()> {
    let status = stage.cluster.ask(host, |api| api.vm(&stage.vm))?;
    let pid = status.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.with_context(|| format!("the agent of {host} does not know its QEMU"))?;
    kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill QEMU at {host}"))
}

/// Waits until one host runs the VM alone and the other has nothing of it.
fn sole_owner(stage: &Stage) -> Result<&'static str> {
    let mut owner = None;
    wait_for("one owner of the VM", PATIENCE, || {
        let roles = HOSTS.map(|host| match stage.cluster.api(host)?.vm(&stage.vm) {
            Ok(status) => Ok(Some((status.role, status.phase))),
            Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => Ok(None),
            Err(source) => Err(lab::cluster::ClusterError::Api { host: host.to_owned(), source }),
        });
        let [first, second] = roles;
        let found = [first?, second?];
        let alone = |at: usize| {
            found[1 - at].is_none()
                && matches!(&found[at], Some((Role::Primary, phase)) if phase.as_str() == ALONE)
        };
        owner = (0..HOSTS.len()).find(|&at| alone(at));
        Ok(if owner.is_some() { Ok(()) } else { Err(format!("{found:?}")) })
    })?;
    Ok(HOSTS[owner.context("nobody owns the VM")?])
}
