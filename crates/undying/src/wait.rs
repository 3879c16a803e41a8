//! Owns waiting for what a request set going: protection and planned failover are accepted at once and take time.
//!
//! Both are judged from what the agent says: the VM's status, and the events since the request. The agent's word
//! for a phase is that of `protocol`'s machine.

use crate::failure::{Failure, Kind};
use crate::out::Progress;
use crate::view;
use api::client::{Client, ClientError};
use api::types::{ErrorCode, EventRecord, Role, VmStatus};
use protocol::VmName;
use std::thread::sleep;
use std::time::Duration;

/// How often the agent is asked.
const POLL: Duration = Duration::from_millis(100);
/// A request that shows no effect for so many polls was lost.
const PATIENCE: u32 = 100;

/// What there is to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// A backup can take over.
    Protected,
    /// The VM is gone from here.
    HandedOver,
    /// The same, by a migration.
    Migrated,
}

/// How it stands.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Reached.
    Done,
    /// Under way.
    Going,
    /// Nothing to be seen of it.
    Idle,
    /// It will not be reached.
    Failed(String),
}

/// Where the event log ends now; taken before the request, so that only its own events are judged.
pub fn log_end(client: &Client) -> Result<u64, Failure> {
    Ok(client.events(0)?.last().map_or(0, |event| event.seq))
}

/// Waits for the goal and shows how it goes. Returns the last status; none if the VM left this host.
pub fn wait(client: &Client, vm: &VmName, goal: Goal, after: u64) -> Result<Option<VmStatus>, Failure> {
    let mut progress = Progress::default();
    let (mut begun, mut idle) = (false, 0);
    loop {
        let status = match client.vm(vm) {
            Ok(status) => Some(status),
            Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut events = client.events(after)?;
        events.retain(|event| event.vm.as_ref() == Some(vm));
        match judge(goal, status.as_ref(), &events) {
            Verdict::Done => return Ok(status),
            Verdict::Failed(why) => return Err(Failure::new(Kind::Failed, why)),
            Verdict::Going => begun = true,
            Verdict::Idle => idle += 1,
        }
        // What had begun and is not to be seen any more has failed, whatever became of its event.
        if idle > if begun { 0 } else { PATIENCE } {
            return Err(Failure::failed(format!(
                "VM {vm}: nothing came of the request; see `undying events`"
            )));
        }
        if let Some(status) = &status {
            show(&mut progress, status);
        }
        sleep(POLL);
    }
}

fn show(progress: &mut Progress, vm: &VmStatus) {
    let phase = vm.phase.replace('_', " ");
    let round = vm.copy.map_or(0, |copy| copy.round);
    let copy = view::progress(vm).map_or(String::new(), |copy| format!(", {copy}"));
    let migration = vm
        .migration
        .as_ref()
        .map_or(String::new(), |migration| format!(", {}", view::migration(migration).join("; ")));
    progress.show(&format!("{phase} {round}"), &format!("VM {}: {phase}{copy}{migration}", vm.name));
}

fn judge(goal: Goal, status: Option<&VmStatus>, events: &[EventRecord]) -> Verdict {
    if goal == Goal::Migrated {
        return judge_migration(status, events);
    }
    let said = |name: &str| events.iter().rev().find(|event| event.what["event"] == name);
    let failure =
        ["protect_failed", "handover_failed", "vm_died", "promotion_failed"].into_iter().find_map(said);
    if let Some(event) = said("change_failed").filter(|_| goal == Goal::Protected) {
        return Verdict::Failed(event.text.clone());
    }
    // While a request is under way a candidate that refuses is not the last.
    let protected = status.is_some_and(|vm| vm.role == Role::Primary && vm.phase == "protected");
    let others = status.is_some_and(|vm| vm.repair.asked) && said("vm_died").is_none();
    if let Some(event) = failure.filter(|_| !(goal == Goal::Protected && (others || protected))) {
        return Verdict::Failed(event.text.clone());
    }
    let Some(vm) = status else {
        return match goal {
            Goal::Protected => Verdict::Failed(ended(events)),
            _ => Verdict::Done,
        };
    };
    match (goal, vm.role, vm.phase.as_str()) {
        (Goal::Protected, Role::Primary, "protected") if vm.successor.is_some() => Verdict::Going,
        (Goal::HandedOver, Role::Backup, _) | (Goal::Protected, Role::Primary, "protected") => Verdict::Done,
        (Goal::HandedOver, Role::Primary, "fenced" | "ended") => Verdict::Done,
        (Goal::Protected, Role::Primary, "fenced" | "ended" | "yielded")
        | (Goal::Protected, Role::Backup, _) => Verdict::Failed(ended(events)),
        // Before the request has shown an effect, or after a failure whose event is not in the log any more.
        (Goal::Protected, _, "unprotected") | (Goal::HandedOver, _, "protected" | "unprotected") => {
            Verdict::Idle
        }
        _ => Verdict::Going,
    }
}

/// The agent says in one event that a VM stays, whatever the reason; a VM that is protected may be let go in between.
fn judge_migration(status: Option<&VmStatus>, events: &[EventRecord]) -> Verdict {
    let over = |event: &&EventRecord| event.what["event"] == "stays" || event.what["event"] == "vm_died";
    if let Some(event) = events.iter().rev().find(over) {
        return Verdict::Failed(event.text.clone());
    }
    match status {
        None => Verdict::Done,
        Some(vm) if vm.role == Role::Backup || vm.phase == "fenced" => Verdict::Done,
        Some(vm) if vm.migration.is_some() => Verdict::Going,
        Some(_) => Verdict::Idle,
    }
}

fn ended(events: &[EventRecord]) -> String {
    let last = events.last().map_or("see `undying events`", |event| event.text.as_str());
    format!("the VM does not run here any more: {last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(role: &str, phase: &str) -> VmStatus {
        let summary = serde_json::json!({"min": 0.0, "median": 0.0, "p99": 0.0, "max": 0.0, "count": 0});
        let value = serde_json::json!({
            "name": "web", "host": "alpha", "role": role, "phase": phase, "term": 1, "peer": null, "epoch": 0,
            "acked_epoch": 0, "in_flight": 0, "interval_us": 0, "throttled": false, "throttled_ms": 0.0,
            "pid": null, "machine": "", "accel": "", "cpus": 1, "memory_bytes": 0, "copy": null,
            "measured": {"pause_ms": summary, "dirty_pages": summary, "ack_ms": summary, "hold_ms": summary,
                "wire_bytes": 0, "pages": 0},
            "gate": {"waiting_frames": 0, "waiting_bytes": 0, "released_frames": 0, "dropped_frames": 0,
                "input_frames": 0},
            "agent_bytes": 0, "warnings": [],
        });
        serde_json::from_value(value).unwrap()
    }

    fn event(name: &str, text: &str) -> EventRecord {
        let value = serde_json::json!({
            "seq": 1, "at_us": 0, "host": "alpha", "vm": "web", "what": {"event": name}, "text": text,
        });
        serde_json::from_value(value).unwrap()
    }

    /// Event names are the protocol's: this fails when one is renamed.
    #[test]
    fn events_that_are_looked_for_exist() {
        use protocol::notice::{LinkLoss, Notice};
        let why = || String::from("because");
        let peer = "beta".parse().unwrap();
        let notices = [
            (Notice::ProtectFailed { peer, why: LinkLoss::Silent(1) }, Goal::Protected),
            (Notice::HandoverFailed { why: why() }, Goal::HandedOver),
            (Notice::VmDied { why: why() }, Goal::Protected),
        ];
        for (notice, goal) in notices {
            let mut record = event("", "told");
            record.what = serde_json::to_value(&notice).unwrap();
            let verdict = judge(goal, Some(&vm("primary", "unprotected")), &[record]);
            assert_eq!(verdict, Verdict::Failed("told".into()), "{notice:?}");
        }
    }

    #[test]
    fn protection_is_done_when_a_backup_can_take_over_and_not_before() {
        let judge = |phase| judge(Goal::Protected, Some(&vm("primary", phase)), &[]);
        assert_eq!(judge("unprotected"), Verdict::Idle);
        for going in ["opening", "copying", "claiming"] {
            assert_eq!(judge(going), Verdict::Going, "{going}");
        }
        assert_eq!(judge("protected"), Verdict::Done);
        assert!(matches!(judge("fenced"), Verdict::Failed(_)));
    }

    #[test]
    fn a_candidate_that_refuses_is_not_the_end_while_there_are_others() {
        let refused = [event("protect_failed", "no room")];
        let mut vm = vm("primary", "opening");
        vm.repair.asked = true;
        assert_eq!(judge(Goal::Protected, Some(&vm), &refused), Verdict::Going);
        vm.phase = "protected".into();
        (vm.repair.asked, vm.repair.on) = (false, true);
        assert_eq!(judge(Goal::Protected, Some(&vm), &refused), Verdict::Done);
        vm.phase = "unprotected".into();
        assert_eq!(judge(Goal::Protected, Some(&vm), &refused), Verdict::Failed("no room".into()));
    }

    #[test]
    fn a_migration_is_done_when_the_vm_is_gone_and_failed_when_it_stays() {
        let judge = |vm: Option<&VmStatus>, events: &[EventRecord]| judge(Goal::Migrated, vm, events);
        let mut here = vm("primary", "unprotected");
        assert_eq!(judge(Some(&here), &[]), Verdict::Idle);
        here.migration = Some(api::migration::MigrationStatus::default());
        assert_eq!(judge(Some(&here), &[]), Verdict::Going, "its backup was let go");
        assert_eq!(
            judge(Some(&here), &[event("backup_lost", "lost")]),
            Verdict::Going,
            "the arbiter decides"
        );
        let stays = [event("stays", "called off")];
        assert_eq!(judge(Some(&here), &stays), Verdict::Failed("called off".into()));
        assert_eq!(judge(None, &[]), Verdict::Done);
        assert_eq!(judge(Some(&vm("backup", "copying")), &[]), Verdict::Done);
    }

    #[test]
    fn a_vm_that_vanished_was_handed_over_but_not_protected() {
        let last = [event("fenced", "fenced by beta")];
        assert_eq!(judge(Goal::HandedOver, None, &[]), Verdict::Done);
        assert_eq!(judge(Goal::HandedOver, Some(&vm("backup", "copying")), &[]), Verdict::Done);
        assert_eq!(judge(Goal::HandedOver, Some(&vm("primary", "yielded")), &[]), Verdict::Going);
        let Verdict::Failed(why) = judge(Goal::Protected, None, &last) else { panic!("not failed") };
        assert!(why.contains("fenced by beta"));
    }
}
