//! Owns `pgbench` beside the writers of a PostgreSQL: a run around each kill, and its accounts after it.

use crate::stage::Stage;
use anyhow::{Context, Result, ensure};
use lab::client::{Accounts, Length, Pgbench, PgbenchConfig};
use lab::guest::postgres::PostgresGuest;
use serde::Serialize;

/// Clients of a run, and the transactions of each: at the usual interval it takes longer than a kill is waited for.
const RUN: (u32, u32) = (2, 60);

/// What `pgbench` did, and what came of it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Ledger {
    /// Runs, each of which kept its connections and had its accounts balanced to the end.
    pub runs: u32,
    /// Of these, how many were at work when the host was hit.
    pub runs_hit: u32,
    /// Transactions whose commit was acknowledged, all of which are in the history.
    pub transactions: u64,
}

/// The bank.
pub struct Bank<'a> {
    guest: &'a PostgresGuest,
    /// What was done so far.
    pub ledger: Ledger,
}

impl<'a> Bank<'a> {
    /// Nothing done yet.
    pub fn new(guest: &'a PostgresGuest) -> Self {
        Self { guest, ledger: Ledger::default() }
    }

    /// Begins a run.
    pub fn open(&self, stage: &Stage) -> Result<Pgbench> {
        let (clients, each) = RUN;
        let config = PgbenchConfig { target: stage.target, clients, length: Length::Transactions(each) };
        Pgbench::start(stage.cluster.lab.client(), self.guest, config).context("pgbench cannot begin")
    }

    /// Waits for the end of a run and looks through the accounts; `hit` tells whether it was at work at the kill.
    pub fn close(&mut self, stage: &Stage, run: Pgbench, hit: bool) -> Result<()> {
        let report = run.finish()?;
        self.ledger.runs += 1;
        self.ledger.runs_hit += u32::from(hit);
        self.ledger.transactions += report.transactions;
        self.audit(stage)
    }

    /// Looks through the accounts: what was acknowledged is in the history, and all sums are the same.
    pub fn audit(&self, stage: &Stage) -> Result<()> {
        let accounts = Accounts::read(stage.cluster.lab.client(), stage.target)?;
        let acknowledged = self.ledger.transactions;
        ensure!(
            accounts.balanced() && accounts.transactions == acknowledged,
            "pgbench had {acknowledged} transactions acknowledged, and its accounts are {accounts:?}"
        );
        Ok(())
    }
}
