//! Owns the answering side: what another host that is a peer may ask, within bounds.
//!
//! A conversation ends after a minute and a half, whatever it is about. Facts start one QEMU at a time. One burst at a time
//! is carried, of bounded size and time, and none while VMs are protected over the link unless the operator there
//! insists. Of a VM nothing is said to a host that was not given it.

use super::burst;
use super::facts::{HostFacts, Look, installed};
use super::vm::{Asked, VmFacts};
use crate::context::Context;
use crate::table::Table;
use api::types::Role;
use protocol::doctor::{Answer, Burst, MAX_JSON, MAX_TEXT, Question, SMALL_BURST};
use protocol::envelope::cut;
use protocol::{HostName, VmName};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};
use trust::Connection;
use trust::exchange::{self, ReadError};

/// So long a conversation may take.
const CONVERSATION: Duration = Duration::from_secs(90);
/// So long nothing may be said in it.
const QUIET: Duration = Duration::from_secs(20);

/// Held while a burst is carried: two would measure each other.
static BURSTING: Mutex<()> = Mutex::new(());

/// Answers until the other host ends the conversation, or it has taken too long.
///
/// # Errors
/// If the connection broke, or what came makes no sense.
pub fn attend(context: &Context, table: &Table, mut connection: Connection) -> Result<(), ReadError> {
    // What is asked here is never urgent.
    if let Err(error) = os::sched::ordinary_current_thread() {
        tracing::debug!(%error, "another host's questions are answered at the engine's priority");
    }
    let until = Instant::now() + CONVERSATION;
    let asker = connection.peer().name.clone();
    loop {
        connection.set_deadline(Some(until.min(Instant::now() + QUIET)))?;
        let question = match exchange::read(connection.receiver()) {
            Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let came_us = os::clock::realtime_us();
        let answer = match question {
            Question::Clock => Answer::Clock { came_us, goes_us: os::clock::realtime_us() },
            Question::Facts(vm) => facts(context, &asker, &vm),
            Question::Token { leave } => token(context, &asker, leave),
            Question::Take(burst) => carry(table, &mut connection, burst, |connection, burst| {
                let carried = burst::take(connection.receiver(), burst)?;
                let took = Answer::Took { bytes: carried.bytes, us: carried.us };
                exchange::write(connection.sender(), &took)
            })?,
            Question::Give(burst) => carry(table, &mut connection, burst, |connection, burst| {
                burst::send(connection.sender(), burst)
            })?,
        };
        if answer != Answer::Ready {
            exchange::write(connection.sender(), &answer)?;
        }
    }
}

/// Carries a burst behind `Ready`, which is returned once all is said; or says why not.
fn carry(
    table: &Table,
    connection: &mut Connection,
    burst: Burst,
    act: impl FnOnce(&mut Connection, Burst) -> std::io::Result<()>,
) -> std::io::Result<Answer> {
    let burst = burst.bounded();
    let large = burst.bytes > SMALL_BURST;
    let _alone = match large.then(|| BURSTING.try_lock()) {
        None => None,
        Some(Ok(alone)) => Some(alone),
        Some(Err(TryLockError::Poisoned(alone))) => Some(alone.into_inner()),
        Some(Err(TryLockError::WouldBlock)) => {
            return Ok(refused("another host measures a link now; ask again"));
        }
    };
    let busy = busy(table);
    if large && !burst.anyway && !busy.is_empty() {
        return Ok(refused(&format!("it would disturb {}", busy.join(", "))));
    }
    exchange::write(connection.sender(), &Answer::Ready)?;
    act(connection, burst)?;
    Ok(Answer::Ready)
}

fn refused(why: &str) -> Answer {
    Answer::Refused(cut(why, MAX_TEXT))
}

/// The VMs that are protected from this host, or stood by for.
#[must_use]
pub fn busy(table: &Table) -> Vec<String> {
    let vms = table.vms();
    let sessions = vms.values().filter(|entry| {
        let handle = &entry.handle;
        handle.role() == Role::Backup || handle.has_session()
    });
    sessions.map(|entry| format!("VM {}", entry.handle.name())).collect()
}

/// What this host is looked at with while its agent runs.
#[must_use]
pub fn look(context: &Context) -> Look<'_> {
    Look {
        config: Some(&context.config),
        arbiter: Some(&*context.arbiter),
        room: Some(&context.room),
        draining: context.drain.on(),
    }
}

fn facts(context: &Context, asker: &HostName, vm: &[u8]) -> Answer {
    let asked = match vm.is_empty() {
        true => None,
        false => match read_asked(vm) {
            Ok(asked) => Some(asked),
            Err(why) => return refused(&why),
        },
    };
    let given = asked
        .as_ref()
        .is_none_or(|(name, _)| context.config.peers.get(asker).is_some_and(|peer| peer.is_given(name)));
    let asked = asked.map(|(_, asked)| asked);
    let mut facts: HostFacts = look(context).gather(&installed(), asked.as_ref().filter(|_| given));
    if !given {
        facts.vm = Some(VmFacts { given, ..VmFacts::default() });
    }
    match serde_json::to_vec(&facts) {
        Ok(json) if json.len() <= MAX_JSON => Answer::Facts(json),
        Ok(_) => refused("what this host knows of itself is too long to be told"),
        Err(error) => refused(&error.to_string()),
    }
}

fn read_asked(vm: &[u8]) -> Result<(VmName, Asked), String> {
    let asked: Asked = serde_json::from_slice(vm).map_err(|error| error.to_string())?;
    let spec = asked.resolved.spec();
    spec.check("of another host").map_err(|error| error.to_string())?;
    let name = VmName::new(&spec.name).map_err(|error| error.to_string())?;
    Ok((name, asked))
}

fn token(context: &Context, asker: &HostName, leave: u64) -> Answer {
    let (arbiter, here) = (&context.arbiter, &context.config.name);
    Answer::Token {
        found: arbiter.token(asker).map_err(|error| cut(&error.to_string(), MAX_TEXT)),
        left: arbiter.leave_token(here, leave).map_err(|error| cut(&error.to_string(), MAX_TEXT)),
    }
}
