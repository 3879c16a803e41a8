//! Owns one round: a blow, the failover that follows, the check, and protection in the other direction.

use super::bank::Bank;
use crate::stage::field::{Field, Survived};
use anyhow::{Result, ensure};
use lab::client::Pgbench;
use lab::nemesis::Blow;
use serde::Serialize;
use std::time::Duration;

/// So many acknowledged writes of each client are read back after each kill.
const SPOT: u64 = 1_000;

/// What a round did and measured.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Its number, from 1.
    pub round: u32,
    /// The blow.
    #[serde(flatten)]
    pub survived: Survived,
    /// How long it took to be protected again.
    pub protected_after_ms: f64,
    /// Acknowledged writes that were not where they belong, among those that were looked at.
    pub wrong: u64,
}

impl Round {
    /// For people.
    pub fn line(&self, of: u32) -> String {
        let digits = of.to_string().len();
        format!(
            "{:>digits$}/{of}  {}, protected again after {:.1} s",
            self.round,
            self.survived.line(),
            self.protected_after_ms / 1e3
        )
    }
}

/// One round: a rest under load, a blow, and everything until the VM is protected again.
pub fn play(
    field: &mut Field<'_>,
    bank: Option<&mut Bank<'_>>,
    (round, blow, rest): (u32, Blow, Duration),
) -> Result<Round> {
    let stage = field.stage;
    let mut run = bank.as_ref().map(|bank| bank.open(stage)).transpose()?;
    field.rest(rest);
    let run_is_hit = run.as_mut().is_some_and(Pgbench::is_running);
    let survived = field.blow(blow)?;
    ensure!(survived.outage_ms.is_some(), "no client got a reply");
    let wrong = field.watch.spot_check(|standings| {
        stage.server.spot_check(stage.cluster.lab.client(), stage.target, standings, SPOT)
    })?;
    if let (Some(run), Some(bank)) = (run, bank) {
        field
            .watch
            .during("pgbench ends, its accounts are added up", || bank.close(stage, run, run_is_hit))?;
    }
    let protected_after_ms = field.protect()?;
    Ok(Round { round, survived, protected_after_ms, wrong })
}
