//! Owns bringing a VM to another host because an operator wants it there: which way it takes, and what is told of it.
//!
//! | the VM is | it is migrated by |
//! |---|---|
//! | protected by nobody | copying in rounds, then one checkpoint, the last |
//! | protected by the destination | a planned promotion: one epoch |
//! | protected by a third host | a change of its backup to the destination, then a planned promotion |
//! | that, and it shall be stopped before anything is copied | letting its backup go, then as if protected by nobody |
//!
//! All of it is the primary's machine and the policy of repair; there is no second stream. The point of no return is the
//! destination's won claim, as in a planned failover (`docs/design/migration.md`).

use super::precopy::RoundTold;
use super::{Approach, Engine, RoundsEnd};
use crate::plan::Plan;
use api::migration::{MigrateRequest, MigrationStatus, Stage, Strategy};
use api::types::{ApiError, ErrorCode};
use protocol::HostName;
use protocol::migration::Migration;
use protocol::notice::Notice;
use protocol::primary::{Command, PhaseName};
use protocol::repair::Will;
use std::time::Instant;

/// A migration under way.
pub struct Migrating {
    request: MigrateRequest,
    status: MigrationStatus,
    since: Instant,
    /// The way to the destination itself has begun; before, its backup is being changed or let go.
    begun: bool,
    /// When the VM was stopped for good here, in microseconds since 1970.
    stopped_at_us: Option<u64>,
    /// Why it came to nothing.
    why: Option<String>,
}

impl Engine {
    /// An operator wants the VM elsewhere.
    pub(super) fn ask_migration(&mut self, request: MigrateRequest) -> Result<(), ApiError> {
        let error = |code, message: String| Err(ApiError::new(code, message));
        let (name, here) = (self.handle.name().clone(), self.context.config.name.clone());
        if let Err(why) = request.limits.check() {
            return error(ErrorCode::Invalid, format!("VM {name}: {why}"));
        }
        if request.to == here {
            return error(ErrorCode::Invalid, format!("VM {name} runs at {here} already"));
        }
        if let Some(under_way) = &self.migration {
            let to = &under_way.request.to;
            let message = format!(
                "VM {name} is being migrated to {to}; `undying vm migrate {name} --cancel` ends that"
            );
            return error(ErrorCode::Refused, message);
        }
        self.check_peer(&request.to)?;
        let stage = match (self.protocol.phase(), self.protocol.peer()) {
            (PhaseName::Protected, Some(peer)) if *peer == request.to => {
                self.command(Command::Move).map_err(|error| self.refused(&error))?;
                Stage::HandingOver
            }
            (PhaseName::Protected, _) => {
                let alone = request.strategy == Strategy::StopTheWorld;
                self.repair.relocate(request.to.clone(), alone);
                if alone { Stage::Releasing } else { Stage::Opening }
            }
            _ => {
                self.begin_migration(&request)?;
                Stage::Opening
            }
        };
        let status = MigrationStatus::of(&request, stage);
        let begun = self.repair.goal().is_none();
        self.migration =
            Some(Migrating { request, status, since: Instant::now(), begun, stopped_at_us: None, why: None });
        Ok(())
    }

    /// The VM is protected by nobody: begins to copy it.
    fn begin_migration(&mut self, request: &MigrateRequest) -> Result<(), ApiError> {
        // Who was protected, or shall be, takes his plan along.
        let plan: Option<Plan> = self.plan.clone().filter(|_| self.repair.will() != Will::Off);
        let Approach { timing, machine, proofs } = self.approach(&request.to, plan.as_ref(), None)?;
        let stop_first = request.strategy == Strategy::StopTheWorld;
        let peer = request.to.clone();
        self.open(Command::Migrate { peer, timing, machine, stop_first }, proofs)?;
        let mut limits = request.limits;
        let configured = self.context.config.copy_rate.map(|rate| rate.0).filter(|&rate| rate > 0);
        limits.rate_ceiling = limits.rate_ceiling.or(configured);
        limits.rate_floor = limits.rate_floor.map(|floor| floor.min(limits.rate_ceiling.unwrap_or(floor)));
        self.policy = Some(Box::new(Migration::new(limits, stop_first)));
        // The policy sets the rate of the memory; the disks go as fast as they may.
        self.copy_rate = limits.rate_ceiling.filter(|_| !stop_first);
        Ok(())
    }

    /// The VM's backup is gone: the migration that waited for it goes on.
    pub(super) fn migrate_now(&mut self, to: &HostName) {
        let Some(request) = self.migration.as_ref().map(|migrating| migrating.request.clone()) else {
            return;
        };
        debug_assert_eq!(request.to, *to, "one migration at a time");
        let (begun, stage) = match self.protocol.phase() {
            PhaseName::Protected => {
                (self.command(Command::Move).map_err(|error| self.refused(&error)), Stage::HandingOver)
            }
            _ => (self.begin_migration(&request), Stage::Opening),
        };
        if let Some(migrating) = &mut self.migration {
            (migrating.begun, migrating.status.stage) = (true, stage);
            migrating.why = begun.err().map(|error| error.message);
        }
    }

    /// An operator wants the VM to stay.
    pub(super) fn cancel_migration(&mut self) -> Result<(), ApiError> {
        let name = self.handle.name().clone();
        let Some(migrating) = &mut self.migration else {
            return Err(ApiError::new(ErrorCode::Refused, format!("VM {name} is not being migrated")));
        };
        let before = migrating.why.replace("an operator called it off".into());
        if !migrating.begun {
            let kept = match self.protocol.successor() {
                Some(_) => self.command(Command::KeepBackup),
                None => Ok(()),
            };
            if kept.is_ok() {
                self.repair.stay();
            } else if let Some(migrating) = &mut self.migration {
                migrating.why = before;
            }
            return kept.map_err(|error| self.refused(&error));
        }
        // Refused behind the last checkpoint: what follows is the arbiter's word.
        let cancelled = self.command(Command::Unprotect);
        if let (Err(_), Some(migrating)) = (&cancelled, &mut self.migration) {
            migrating.why = before;
        }
        cancelled.map_err(|error| self.refused(&error))
    }

    /// A round of its memory is over.
    pub(super) fn on_round(&mut self, told: RoundTold) {
        let RoundTold { round, view, slowed, ended } = told;
        let name = self.handle.name().clone();
        let Some(migrating) = &mut self.migration else { return };
        migrating.status.add(round, view, slowed);
        migrating.status.ended = ended;
        let mib = |pages: u64| pages as f64 * 4096.0 / f64::from(1 << 20);
        let mut text = format!(
            "VM {name}: round {} of its migration: {:.1} MiB sent in {:.1} ms, {:.1} MiB left ({:.1} MiB of it written again and again)",
            round.number,
            mib(round.round.sent),
            round.round.took.as_millis_f64(),
            mib(round.round.left),
            mib(round.hot)
        );
        if view.slowdown > 0 {
            text.push_str(&format!("; the guest is slowed by {} %", view.slowdown));
        }
        if let Some(RoundsEnd::Stop(reason)) = ended {
            text.push_str(&format!("; stopped: {reason:?}"));
        }
        let what = serde_json::json!({"event": "migration_round", "round": round, "ended": ended});
        self.context.events.log(&name, &what, text);
    }

    /// What the protocol tells operators is also a stage of a migration.
    pub(super) fn learn_of_migration(&mut self, notice: &Notice) {
        let Some(migrating) = &mut self.migration else { return };
        match notice {
            Notice::Migrating { .. } | Notice::Copying { .. } => migrating.status.stage = Stage::Copying,
            Notice::ChangeFailed { why, .. } => {
                migrating.why.get_or_insert(why.to_string());
            }
            Notice::Departing { .. } => migrating.status.stage = Stage::HandingOver,
            Notice::MigrationFailed { why, .. } | Notice::BackupLost { why, .. } if migrating.begun => {
                migrating.why.get_or_insert(why.to_string());
            }
            Notice::HandoverFailed { why } | Notice::VmDied { why } => {
                migrating.why.get_or_insert(why.clone());
            }
            Notice::HandedOver { .. } => self.tell_departure(),
            _ => {}
        }
    }

    /// Most bytes a second that the operator wants.
    pub(super) fn migration_rate(&self) -> Option<u64> {
        self.migration.as_ref().and_then(|migrating| migrating.request.limits.rate_ceiling)
    }

    /// The destination cannot become the backup.
    pub(super) fn fails_to_change(&mut self, why: &str) {
        if let Some(migrating) = &mut self.migration {
            migrating.why.get_or_insert(why.to_string());
        }
    }

    /// A checkpoint was cut; the last one is the end of the VM here.
    pub(super) fn stopped_for_migration(&mut self, at_us: u64) {
        if let Some(migrating) = &mut self.migration {
            migrating.stopped_at_us = Some(at_us);
        }
    }

    /// The destination has everything; it claims the VM now.
    fn tell_departure(&self) {
        let Some(Migrating { status, since, stopped_at_us, .. }) = &self.migration else { return };
        let name = self.handle.name();
        let Some(to) = &status.to else { return };
        let wire_bytes = status.rounds.last().map_or(0, |round| round.wire_bytes);
        let total_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let what = serde_json::json!({
            "event": "migrated", "to": to, "strategy": status.strategy, "rounds": status.rounds.len(),
            "wire_bytes": wire_bytes, "total_ms": total_ms, "slowed_us": status.slowed_us, "ended": status.ended,
            "stopped_at_us": stopped_at_us,
        });
        let text = format!(
            "VM {name}: everything is at {to} after {total_ms} ms and {} rounds, {:.1} MiB on the wire before the stop",
            status.rounds.len(),
            wire_bytes as f64 / f64::from(1 << 20)
        );
        self.context.events.log(name, &what, text);
    }

    /// A migration that is over and did not take the VM away has come to nothing.
    pub(super) fn settle_migration(&mut self) {
        let Some(migrating) = &self.migration else { return };
        let stays = match self.protocol.phase() {
            PhaseName::Unprotected => migrating.begun || self.repair.goal().is_none(),
            // Called off before its backup was let go, or a handover that failed.
            PhaseName::Protected => self.repair.goal().is_none(),
            _ => false,
        };
        if stays && let Some(Migrating { request, why, .. }) = self.migration.take() {
            let (name, here, to) = (self.handle.name(), &self.context.config.name, request.to);
            let why = why.unwrap_or_else(|| "see the events before".into());
            let text = format!("VM {name}: STAYS at {here}, it was not migrated to {to}: {why}");
            self.context.events.log(name, &serde_json::json!({"event": "stays", "to": to, "why": why}), text);
            self.policy = None;
        }
        self.handle.set_migration(self.migration.as_ref().map(|migrating| migrating.status.clone()));
    }
}
