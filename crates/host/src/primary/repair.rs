//! Owns protecting a VM again: hands the policy of `protocol::repair` what happened, and carries out its steps as commands,
//! as an operator would give them.

use super::{Engine, Request};
use crate::loops::now;
use crate::plan::Plan;
use api::types::{ApiError, ErrorCode, ProtectRequest, RepairStatus};
use protocol::HostName;
use protocol::notice::{LinkLoss, Notice};
use protocol::primary::{Command, CommandError, PhaseName};
use protocol::repair::{Situation, Step};
use protocol::wire::Refusal;

impl Engine {
    pub(super) fn on_request(&mut self, request: Request) {
        let (result, reply) = match request {
            Request::Protect(request, reply) => (self.ask_protection(request), reply),
            Request::Unprotect(reply) => (self.unprotect(), reply),
            Request::Stop(reply) => (self.told(Command::Stop), reply),
            Request::Failover(reply) => (self.told(Command::Failover), reply),
            Request::Migrate(request, reply) => (self.ask_migration(request), reply),
            Request::CancelMigration(reply) => (self.cancel_migration(), reply),
        };
        // Whoever asked sees what came of it at once.
        self.settle_migration();
        self.publish();
        let _ = reply.send(result);
    }

    /// An operator's command, with the answer in his words.
    fn told(&mut self, command: Command) -> Result<(), ApiError> {
        self.command(command).map_err(|error| self.refused(&error))
    }

    pub(super) fn refused(&self, error: &CommandError) -> ApiError {
        let message = format!("VM {} at {}: {error}", self.handle.name(), self.context.config.name);
        ApiError::new(ErrorCode::Refused, message)
    }

    /// An operator wants the VM protected: the first host is tried now, the others if it fails.
    fn ask_protection(&mut self, request: ProtectRequest) -> Result<(), ApiError> {
        let here = &self.context.config.name;
        let (first, plan) = (request.to.clone(), Plan::new(here, request));
        let peers = &self.context.config.peers;
        if let Some(stranger) = plan.others(here).find(|host| !peers.contains_key(host)) {
            let known: Vec<_> = peers.keys().map(|peer| peer.as_str()).collect();
            let message = format!("{stranger} is not among this host's peers ({})", known.join(", "));
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        if first == *here {
            let message = format!("VM {} cannot be protected by {here}, where it runs", self.handle.name());
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        let other = self.protocol.peer().is_some_and(|peer| *peer != first);
        if other && self.protocol.phase() == PhaseName::Protected && self.migration.is_none() {
            self.change_backup(&plan, &first, None)?;
            self.repair.ask_change(plan.wish());
        } else {
            self.protect(&plan, &first)?;
            self.repair.ask(plan.wish(), &first);
        }
        self.plan = Some(plan);
        Ok(())
    }

    /// An operator's word wins: the VM is not protected again by itself, even if it just was not protected.
    fn unprotect(&mut self) -> Result<(), ApiError> {
        if self.migration.is_some() {
            return Err(self.refused(&CommandError::Migrating));
        }
        let was_on = self.repair.off();
        match self.command(Command::Unprotect) {
            Err(CommandError::NotProtected) if was_on => Ok(()),
            result => result.map_err(|error| self.refused(&error)),
        }
    }

    /// What the protocol tells operators also tells the policy how its steps went.
    pub(super) fn learn(&mut self, notice: &Notice) {
        match notice {
            Notice::ProtectFailed { peer, why } | Notice::ChangeFailed { peer, why } => {
                let busy = matches!(why, LinkLoss::Refused(Refusal::Busy { .. }));
                self.repair.failed(now(), peer, &why.to_string(), busy);
            }
            Notice::MigrationFailed { peer, why } => self.repair.failed(now(), peer, &why.to_string(), false),
            Notice::Protected { peer, .. } => self.repair.protected(now(), peer),
            Notice::BackupLost { peer, why } => self.repair.lost(now(), peer, &why.to_string()),
            _ => {}
        }
    }

    /// The backup's host is being drained.
    pub(super) fn backup_leaves(&mut self) {
        let Some(peer) = self.protocol.peer().cloned() else { return };
        if self.repair.leaves(now(), &peer) {
            let text = format!("VM {}: backup {peer} is being drained", self.handle.name());
            let what = serde_json::json!({"event": "backup_leaves", "peer": peer});
            self.context.events.log(self.handle.name(), &what, text);
        }
    }

    /// Does what the policy wants done now.
    pub(super) fn mend(&mut self) {
        let peer = self.protocol.peer().cloned();
        let draining = self.context.drain.on();
        let changing = self.protocol.successor().is_some();
        let situation = Situation { phase: self.protocol.phase(), peer: peer.as_ref(), changing, draining };
        match self.repair.next(now(), situation) {
            Some(Step::Protect(host)) => self.protect_again(&host),
            Some(Step::Move) => self.ask_before_move(),
            Some(Step::Change(host)) => self.change_to(&host),
            Some(Step::Release) => {
                // What is refused now is tried again.
                let _ = self.command(Command::Unprotect);
            }
            Some(Step::Migrate(host)) => self.migrate_now(&host),
            None => {}
        }
        self.settle_migration();
        self.handle.set_repair(RepairStatus::of(&self.repair, now()));
    }

    fn protect_again(&mut self, host: &HostName) {
        let Some(plan) = self.plan.clone() else { return };
        let text = format!("VM {}: tries to be protected by {host}", self.handle.name());
        let what = serde_json::json!({"event": "protecting_again", "peer": host});
        self.context.events.log(self.handle.name(), &what, text);
        if let Err(error) = self.protect(&plan, host) {
            self.repair.failed(now(), host, &error.message, false);
        }
    }

    /// The backup leaves, or the VM shall run at this host.
    fn change_to(&mut self, host: &HostName) {
        let text =
            format!("VM {}: brings up {host} as its backup in the present one's place", self.handle.name());
        let what = serde_json::json!({"event": "changing_backup", "peer": host});
        self.context.events.log(self.handle.name(), &what, text);
        let Some(plan) = self.plan.clone() else { return };
        let rate = self.migration_rate();
        if let Err(error) = self.change_backup(&plan, host, rate) {
            self.fails_to_change(&error.message);
            self.repair.failed(now(), host, &error.message, false);
        }
    }

    /// A handover whose backup cannot ask the arbiter would stop the VM for nothing; asking may take long, and the VM's
    /// heartbeats must not wait for it.
    fn ask_before_move(&self) {
        let (arbiter, reply) = (std::sync::Arc::clone(&self.context.arbiter), self.moves.0.clone());
        let asked = std::thread::Builder::new().name("ud-move".into()).spawn(move || {
            if arbiter.identity().is_ok() {
                let _ = reply.send(());
            }
        });
        if let Err(error) = asked {
            tracing::warn!(%error, "cannot move a VM: no thread to ask the arbiter");
        }
    }

    /// The arbiter answers: the VM moves to its backup, if it still has one.
    pub(super) fn move_to_backup(&mut self) {
        let Some(peer) = self.protocol.peer().cloned() else { return };
        if self.command(Command::Failover).is_ok() {
            let text = format!("VM {}: moves to {peer} by itself", self.handle.name());
            let what = serde_json::json!({"event": "moving", "peer": peer});
            self.context.events.log(self.handle.name(), &what, text);
        }
    }
}
