//! Owns the sentences of the event log.

use protocol::notice::{Discard, Notice};
use protocol::wire::{EndReason, YieldReason};
use protocol::{Micros, VmName};

/// A notice in words; `took` is the time since this host noticed what the notice answers.
#[must_use]
pub fn of(vm: &VmName, notice: &Notice, took: Option<Micros>) -> String {
    let after =
        |what: &str| took.map_or_else(String::new, |took| format!(", {:.1} ms {what}", took.as_millis_f64()));
    match notice {
        Notice::Copying { peer, session } => format!("VM {vm}: first copy to {peer} (session {session})"),
        Notice::Protected { peer, term } => {
            let alone = took.map_or_else(String::new, |took| {
                format!(", after {:.1} s without a backup", took.as_millis_f64() / 1e3)
            });
            format!("VM {vm}: PROTECTED by {peer} in term {term}{alone}")
        }
        Notice::ChangeFailed { peer, why } => {
            format!("VM {vm}: {peer} could not become its backup: {why}; it is protected as before")
        }
        Notice::Resigned { peer } => {
            format!(
                "VM {vm}: its backup {peer} resigned, having been relieved; the VM was protected all the while"
            )
        }
        Notice::Migrating { peer, session } => {
            format!("VM {vm}: is being migrated to {peer} (session {session})")
        }
        Notice::MigrationFailed { peer, why } => {
            format!("VM {vm}: could not be migrated to {peer}: {why}; it runs on here")
        }
        Notice::Departing { peer } => {
            format!("VM {vm}: stands still, and its last state is on its way to {peer}")
        }
        Notice::ProtectFailed { peer, why } => {
            format!("VM {vm}: could not be protected by {peer}: {}; it runs on unprotected", why)
        }
        Notice::CheckpointFailed { epoch, why } => {
            format!("VM {vm}: checkpoint {epoch} failed: {why}; its pages are owed to the next")
        }
        Notice::BackupLost { peer, why } => {
            format!(
                "VM {vm}: backup {peer} LOST: {why}; output is held, and this host asks the arbiter whether it may go on alone"
            )
        }
        Notice::ArbiterUnreachable { why } => {
            let asked = took
                .map_or_else(String::new, |took| format!(", asked for {:.1} ms now", took.as_millis_f64()));
            format!("VM {vm}: the arbiter has not decided{asked}: {why}; output stays held, asking again")
        }
        Notice::Unprotected { term } => {
            let granted = after("after the loss was noticed");
            let granted =
                if granted.is_empty() { granted } else { format!(", which the arbiter granted{granted}") };
            format!(
                "VM {vm}: runs UNPROTECTED in term {term}{granted}; `undying vm protect {vm} --to HOST` protects it again"
            )
        }
        Notice::Fenced { owner, term } => {
            format!(
                "VM {vm}: FENCED: the arbiter granted term {term} to {owner}{}; this copy is ended, and what it held back never \
                 leaves",
                after("after the loss was noticed here")
            )
        }
        Notice::Throttled { in_flight } => {
            format!("VM {vm}: stands still, {in_flight} checkpoints wait for their acknowledgement")
        }
        Notice::Slowed { percent, most } => format!(
            "VM {vm}: writes faster than its backup can follow: it loses {percent} % of its time, and {most} % at most"
        ),
        Notice::FullSpeed => format!("VM {vm}: has all of its time again"),
        Notice::HandedOver { epoch, reason } => {
            format!("VM {vm}: given up at epoch {epoch} ({})", yielded(*reason))
        }
        Notice::HandoverFailed { why } => format!("VM {vm}: planned failover called off: {why}"),
        Notice::VmDied { why } => format!("VM {vm}: what runs it DIED: {why}"),
        Notice::StandbyPreparing { primary, term } => {
            format!("VM {vm}: preparing a standby for {primary} (term {term})")
        }
        Notice::StandbyRefused { primary, term, why } => {
            format!("VM {vm}: NO STANDBY for {primary} (term {term}): {why}")
        }
        Notice::StandbyArmed { primary, term } => {
            format!("VM {vm}: this host can take over from {primary} (term {term})")
        }
        Notice::PersistFailed { epoch, why } => {
            format!(
                "VM {vm}: the disk changes of epoch {epoch} CANNOT BE KEPT here: {why}; its primary goes on without this host"
            )
        }
        Notice::PrimaryLost { primary, epoch, why } => format!(
            "VM {vm}: primary {primary} LOST: {why}; newest committed epoch is {epoch}, and this host asks the arbiter whether it \
             may take over"
        ),
        Notice::TakingOver { epoch, reason } => {
            format!("VM {vm}: taking over at epoch {epoch} ({})", yielded(*reason))
        }
        Notice::Promoting { term, epoch } => format!(
            "VM {vm}: the arbiter GRANTED term {term} to this host{}: the old owner is fenced; PROMOTING from epoch {epoch}",
            after("after it noticed")
        ),
        Notice::PromotionFailed { term, why } => format!("VM {vm}: promotion in term {term} FAILED: {why}"),
        Notice::StandbyDiscarded { why } => format!("VM {vm}: standby thrown away: {}", discarded(why)),
    }
}

fn yielded(reason: YieldReason) -> &'static str {
    match reason {
        YieldReason::Planned => "planned failover",
        YieldReason::Moved => "migration",
        YieldReason::VmDied => "the VM's process died",
    }
}

fn discarded(why: &Discard) -> String {
    match why {
        Discard::Ended(EndReason::Unprotected) => "the primary ended protection".into(),
        Discard::Ended(EndReason::Stopped) => "the VM was stopped".into(),
        Discard::LostClaim { owner, term } => format!("the arbiter granted term {term} to {owner}"),
        Discard::Incomplete(why) => format!("the first copy did not finish: {}", why),
        Discard::Replaced { term } => format!("a newer session of term {term} takes its place"),
        Discard::Resigned => "another host protects the VM now".into(),
        Discard::Operator => "the operator asked".into(),
    }
}
