//! Owns the sum of all rounds, and whether the promises held.

use super::TortureArgs;
use super::bank::Ledger;
use super::round::Round;
use crate::stage::machine::Machine;
use crate::stage::screen::{Screen, count, spread};
use api::summary::Summary;
use lab::client::{Server, Verification, WritersReport};
use serde::Serialize;

/// What came of it.
#[derive(Debug, Serialize)]
pub struct TortureResult {
    /// The seed.
    pub seed: u64,
    /// What served in the VM.
    pub server: Server,
    /// What ran the VM.
    pub machine: Machine,
    /// How hosts were hit.
    pub mode: String,
    /// How many kills were asked for.
    pub kills: u32,
    /// How many of them the VM survived.
    pub survived: u32,
    /// Writes that the clients saw acknowledged.
    pub acknowledged_writes: u64,
    /// Of these, how many were not there at the end.
    pub lost_acknowledged_writes: u64,
    /// Connections that were opened at the beginning.
    pub connections: u64,
    /// Of these, how many broke.
    pub connections_broken: u64,
    /// The longest wait of a client at each kill.
    pub outage_ms: Option<Summary>,
    /// From the kill until it was noticed.
    pub detection_ms: Option<Summary>,
    /// The promotions.
    pub promotion_ms: Option<Summary>,
    /// Everything that was read back at the end.
    pub verification: Verification,
    /// The same, from the disk after a reboot; none for a VM without one.
    pub on_disk: Option<Verification>,
    /// What `pgbench` did beside the writers of a PostgreSQL.
    pub pgbench: Option<Ledger>,
    /// Every round.
    pub rounds: Vec<Round>,
}

impl TortureResult {
    /// Sums up.
    pub fn of(
        (seed, args, server): (u64, &TortureArgs, Server),
        rounds: Vec<Round>,
        report: &WritersReport,
        (verification, on_disk): (Verification, Option<Verification>),
        pgbench: Option<Ledger>,
    ) -> Self {
        let lost = |found: &Verification| found.lost_acknowledged;
        Self {
            seed,
            server,
            machine: args.machine,
            mode: format!("{:?}", args.mode).to_lowercase(),
            kills: args.kills,
            survived: rounds.len() as u32,
            acknowledged_writes: report.acknowledged(),
            lost_acknowledged_writes: lost(&verification).max(on_disk.as_ref().map_or(0, lost)),
            connections: report.writers.len() as u64,
            connections_broken: report.broken(),
            outage_ms: Summary::of(rounds.iter().filter_map(|round| round.survived.outage_ms)),
            detection_ms: Summary::of(rounds.iter().filter_map(|round| round.survived.detection_ms)),
            promotion_ms: Summary::of(rounds.iter().filter_map(|round| round.survived.promotion_ms)),
            verification,
            on_disk,
            pgbench,
            rounds,
        }
    }

    /// Whether every kill was survived with nothing lost and no connection broken.
    pub fn held(&self) -> bool {
        self.survived == self.kills
            && self.acknowledged_writes > 0
            && self.lost_acknowledged_writes == 0
            && self.connections_broken == 0
            && self.verification.holds()
            && self.on_disk.as_ref().is_none_or(Verification::holds)
    }

    /// Shows the sum.
    pub fn show(&self, screen: &mut Screen) {
        screen.chapter("Verdict");
        let kept = self.connections - self.connections_broken;
        let writes = match self.server {
            Server::Redis => "acknowledged writes",
            Server::Postgres => "acknowledged commits",
        };
        let rows = [
            ("server", self.server.name().to_owned()),
            ("kills survived", format!("{} of {}", self.survived, self.kills)),
            (writes, count(self.acknowledged_writes)),
            ("of these lost", count(self.lost_acknowledged_writes)),
            ("connections kept", format!("{kept} of {}", self.connections)),
            ("outage", spread(self.outage_ms)),
            ("detection", spread(self.detection_ms)),
            ("promotion", spread(self.promotion_ms)),
        ];
        for (name, value) in rows {
            screen.block(&format!("{name:<22} {value}"));
        }
        if let Some(found) = &self.on_disk {
            let text = format!("{} entries read back after a reset", count(found.entries));
            screen.block(&format!("{:<22} {text}", "on the disk"));
        }
        if let Some(ledger) = &self.pgbench {
            let (transactions, runs) = (count(ledger.transactions), ledger.runs);
            let text = format!(
                "{transactions} transactions, all in its history, in {runs} runs ({} hit)",
                ledger.runs_hit
            );
            screen.block(&format!("{:<22} {text}, accounts balanced", "pgbench"));
        }
        let found = [Some(&self.verification), self.on_disk.as_ref()];
        if let Some(problem) = found.into_iter().flatten().find_map(|found| found.first_problem.as_ref()) {
            screen.bad(problem);
        }
        screen.gap();
        let verdict = if self.held() { "HELD: every kill survived, nothing lost." } else { "BROKEN." };
        screen.strong(verdict, self.held());
    }
}
