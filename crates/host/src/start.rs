//! Owns the start of a VM: its description, its first term, its loop.

use crate::context::Context;
use crate::disks::{self, DiskError, Label};
use crate::machine::Machine;
use crate::primary::Engine;
use crate::table::{Entry, Table};
use crate::vm::VmHandle;
use api::types::{ApiError, ErrorCode, Role, StartRequest, VmStatus};
use arbiter::Standing;
use crossbeam_channel::{bounded, unbounded};
use protocol::asking::Claimant;
use protocol::journal::stamp::Content;
use protocol::{Epoch, Grant, Session, Term, TermRecord, VmName};
use qemu::VmSpec;
use std::sync::Arc;
use std::time::Duration;

/// Starting QEMU takes a fraction of a second; with a slow disk and a busy host, more.
const START_WITHIN: Duration = Duration::from_secs(60);

/// What the operator takes on himself.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    /// That no other host runs the VM.
    last_owner_is_dead: bool,
    /// That what was written at another host is lost.
    older_disk: bool,
}

/// Starts a VM at this host.
///
/// # Errors
/// If its description is not right, it cannot be protected, it runs or may run elsewhere, or QEMU does not start.
pub fn start(
    context: &Arc<Context>,
    table: &Arc<Table>,
    request: &StartRequest,
) -> Result<VmStatus, ApiError> {
    let (name, spec) = read_spec(request)?;
    if let Some(why) = context.drain.refusal(&context.config.name) {
        return Err(ApiError::new(ErrorCode::Refused, format!("VM {name} is not started: {why}")));
    }
    let (inputs, requests) = (unbounded(), unbounded());
    let handle = VmHandle::new(name.clone(), context.config.name.clone(), Role::Primary);
    {
        let mut vms = table.vms();
        if vms.contains_key(&name) {
            let message = format!("VM {name} is already at host {}", context.config.name);
            return Err(ApiError::new(ErrorCode::Refused, message));
        }
        let entry = Entry { handle: Arc::clone(&handle), requests: requests.0, inputs: inputs.0 };
        vms.insert(name.clone(), entry);
    }
    let (started, outcome) = bounded(1);
    let (context_too, table_too, handle_too) = (Arc::clone(context), Arc::clone(table), Arc::clone(&handle));
    let accepted =
        Accepted { last_owner_is_dead: request.last_owner_is_dead, older_disk: request.accept_older_disk };
    let memory = spec.memory.0;
    let body = move || {
        let _held = context_too.room.started(handle_too.name(), memory);
        let engine = match prepare(&context_too, &handle_too, spec, accepted) {
            Ok(engine) => engine,
            Err(error) => {
                // Before the operator hears of it: he may try again at once.
                table_too.remove(&handle_too);
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        drop(inputs.1);
        let ended = engine.run(&requests.1);
        table_too.end(&context_too, &handle_too, &ended);
    };
    // QEMU dies with the thread that started it, so this thread is the VM's loop.
    let spawned = std::thread::Builder::new().name(format!("vm-{name}")).spawn(body);
    let failed = |message: String| ApiError::new(ErrorCode::Failed, message);
    if let Err(error) = spawned {
        table.remove(&handle);
        return Err(failed(format!("no thread for VM {name}: {error}")));
    }
    match outcome.recv_timeout(START_WITHIN) {
        Ok(result) => result.map(|()| handle.status()),
        Err(_) => Err(failed(format!("VM {name} has not started within {} s", START_WITHIN.as_secs()))),
    }
}

fn read_spec(request: &StartRequest) -> Result<(VmName, VmSpec), ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::Invalid, message);
    let spec = VmSpec::parse_in(&request.spec, "the VM file", &request.base_dir)
        .map_err(|error| invalid(error.to_string()))?;
    let name = VmName::new(&spec.name).map_err(|error| invalid(error.to_string()))?;
    spec.check_protectable().map_err(|refusals| {
        let text: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        ApiError::new(ErrorCode::Refused, format!("VM {name} cannot be protected: {}", text.join("; ")))
    })?;
    Ok((name, spec))
}

fn prepare(
    context: &Arc<Context>,
    handle: &Arc<VmHandle>,
    spec: VmSpec,
    accepted: Accepted,
) -> Result<Engine, ApiError> {
    let name = handle.name();
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::new(ErrorCode::Failed, format!("VM {name} at host {}: {error}", context.config.name))
    };
    let claimant = Claimant::new(name.clone(), context.config.name.clone(), crate::loops::random());
    let standing = context.arbiter.current(name);
    let standing = standing.map_err(|error| ApiError::new(ErrorCode::Refused, error.to_string()))?;
    let next = next_term(name, standing.as_ref(), accepted.last_owner_is_dead)?;
    let has_disks = spec.copied_disks().next().is_some();
    if has_disks {
        let record = standing.as_ref().map(|standing| &standing.record);
        ready_disks(context, name, &spec, record, accepted.older_disk)?;
    }
    // The term is claimed last: a VM that does not start leaves no record.
    let machine = Machine::launch(context, name, spec).map_err(|error| failed(&error))?;
    let grant = first_grant(context, &claimant, next)?;
    if has_disks {
        let label = Label::of(&context.config, name);
        if let Err(error) = label.write(Content::Running, grant.term(), Session(0), Epoch(0)) {
            // It never ran in this term.
            let _ = context.arbiter.mark_stopped(name, grant.term(), &context.config.name);
            return Err(failed(&error));
        }
    }
    handle.set_facts(machine.facts());
    handle.attach_disks(&machine.disks);
    machine.go_live(grant.permit(), &[]).map_err(|error| failed(&error))?;
    Ok(Engine::new(Arc::clone(context), Arc::clone(handle), machine, claimant, grant, None))
}

/// Makes sure that the disks here are the VM's newest, or that the operator knows that they are not; finishes what a
/// replica's journal still holds.
fn ready_disks(
    context: &Context,
    name: &VmName,
    spec: &VmSpec,
    record: Option<&TermRecord>,
    older_disk: bool,
) -> Result<(), ApiError> {
    let refused = |error: &dyn std::fmt::Display| {
        let message = format!("VM {name} at host {}: {error}", context.config.name);
        ApiError::new(ErrorCode::Refused, message)
    };
    let image =
        spec.copied_disks().next().map(|disk| context.config.disk_path(&disk.image)).unwrap_or_default();
    let newest = Label::of(&context.config, name).check_newest(record, &image);
    match newest {
        Err(error @ DiskError::Older { .. }) if older_disk => {
            context.events.log(name, &serde_json::json!({"event": "older_disk_accepted"}), error.to_string());
        }
        newest => newest.map_err(|error| refused(&error))?,
    }
    disks::finish_journal(&context.config, name, spec).map_err(|error| refused(&error))
}

/// The term to claim; none if the VM may be running elsewhere.
fn next_term(name: &VmName, standing: Option<&Standing>, last_owner_is_dead: bool) -> Result<Term, ApiError> {
    match standing {
        None => Ok(Term(1)),
        Some(standing) if standing.stopped || last_owner_is_dead => Ok(standing.record.claim.term.next()),
        Some(standing) => Err(ApiError::new(
            ErrorCode::Refused,
            format!(
                "VM {name} may be running at {}: that host owns term {} and did not stop it cleanly. If it is certain \
                 that no host runs it, start it with --last-owner-is-dead",
                standing.record.claim.host, standing.record.claim.term
            ),
        )),
    }
}

fn first_grant(context: &Context, claimant: &Claimant, term: Term) -> Result<Grant, ApiError> {
    let refused = |message: String| ApiError::new(ErrorCode::Refused, message);
    let claim = claimant.claim(term);
    let record = context.arbiter.claim(&claim).map_err(|error| refused(error.to_string()))?;
    Grant::from_record(&claim, &record).ok_or_else(|| {
        let owner = &record.claim.host;
        refused(format!(
            "VM {} was started by {owner} in term {} at the same time",
            claim.vm, record.claim.term
        ))
    })
}
