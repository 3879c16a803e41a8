//! Owns the taking of checkpoints of a VM's devices.
//!
//! One command does it: `xen-save-devices-state` stops the guest, which is a clean cut, writes all state but memory, and lets the
//! guest go on. `stop`, the same command and `cont` would be three, and cost two more turns of QEMU's main loop while the guest
//! stands still. What it writes goes into a pipe of ours that holds QEMU until the caller has copied memory (`held`). The three
//! are used for a guest that shall stay where it stops, and for one of whose states none was seen, or a very short one.
//! (QEMU migration/savevm.c `qmp_xen_save_devices_state`; softmmu/cpus.c `do_vm_stop`)

mod held;

use crate::Qemu;
use crate::device_state::{DeviceState, DeviceStateError};
use crate::launch::hurry;
use crate::qmp::{ANSWER_TIMEOUT, Command, Prepared, Qmp, QmpError, Ticket};
use held::Held;
use os::sched::Hurry;
use serde_json::json;
use std::time::{Duration, Instant};

/// Whether QEMU has refused, or is gone, is looked for that often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// First and longest wait for the first bytes of a state.
const FIRST_BYTES: (Duration, Duration) = (Duration::from_micros(30), Duration::from_millis(1));
/// A state that is longer than the pipe is read that often.
const NEXT_BYTES: Duration = Duration::from_millis(1);

/// What the guest does behind a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes on as soon as its state was taken, unless it stood still before.
    GoOn,
    /// It stays where it was stopped.
    Stay,
}

/// Takes device states of one VM, one after the other.
#[derive(Debug)]
pub struct DeviceSaver {
    qmp: Qmp,
    /// A conversation of its own, in which the next save is said but for its last byte.
    second: Qmp,
    next: Option<Prepared>,
    pipe: Held,
    filename: String,
    /// Of QEMU's main thread, which saves.
    pid: u32,
    /// Requests to them may be under way when the guest's processors stand still already.
    has_disks: bool,
}

impl DeviceSaver {
    /// Gives QEMU a pipe to write to: no path, no disk.
    ///
    /// # Errors
    /// If the pipe cannot be made, or QEMU does not take it.
    pub fn new(qemu: &Qemu) -> Result<Self, DeviceStateError> {
        let (qmp, second, pipe) = (qemu.qmp().clone(), qemu.prepared().clone(), Held::new()?);
        let answer = qmp.execute_with_fd(Command::new("add-fd"), pipe.writer())?;
        // By its number, as a pipe cannot be opened as one of a set of descriptors: QEMU would have it truncated.
        let fd = answer["fd"].as_u64().ok_or_else(|| QmpError::Unexpected {
            command: "add-fd".to_string(),
            answer: answer.to_string(),
        })?;
        let has_disks = !qemu.resolved().spec.disks.is_empty();
        let (filename, pid) = (format!("/dev/fd/{fd}"), qemu.pid());
        Ok(Self { qmp, second, next: None, pipe, filename, pid, has_disks })
    }

    fn save(&self) -> Command {
        // `live: false` keeps QEMU from giving up the disks of a stopped VM.
        Command::with("xen-save-devices-state", json!({ "filename": self.filename, "live": false }))
    }

    /// Stops the guest and has its device state saved. One that stands still already stays so.
    ///
    /// # Errors
    /// If the pipe fails; then nothing was sent and the guest runs on.
    pub fn begin(&mut self, then: Then) -> Result<Pending<'_>, DeviceStateError> {
        self.pipe.forget()?;
        let hurry = hurry(self.pid);
        // Of both conversations one may not have read all events of what was answered in the other.
        let runs = self.qmp.guest_runs() || self.second.guest_runs();
        let stops = self.qmp.stops().max(self.second.stops());
        // One that stands still makes no event of it, and is let go by nobody. If it stops by itself from here on, that is one.
        let then = if runs { then } else { Then::Stay };
        let held = then == Then::GoOn && self.can_hold() && self.pipe.close()?;
        let (stop, save) = if held {
            let save = self.next.take().unwrap_or_else(|| self.second.prepare(self.save()));
            (None, save.call())
        } else {
            self.pipe.open()?;
            let [stop, save] = self.qmp.send_all([Command::new("stop"), self.save()]);
            (Some(stop), save)
        };
        Ok(Pending { saver: self, hurry, stop, save: Some(save), stops, then, held, stopped: false })
    }

    /// Whether the next state is longer than the pipe, and its first bytes are to be seen where these must be waited for.
    fn can_hold(&self) -> bool {
        self.pipe.room().is_some_and(|room| room > 0 || !self.has_disks)
    }
}

/// A checkpoint under way. The guest is stopped, or is being stopped, and is held.
///
/// Dropping it throws away what was saved; the guest may run again or not.
#[derive(Debug)]
pub struct Pending<'a> {
    saver: &'a mut DeviceSaver,
    hurry: Option<Hurry>,
    stop: Option<Ticket>,
    save: Option<Ticket>,
    /// So often it was stopped before.
    stops: u64,
    then: Then,
    /// QEMU waits for the pipe, and lets the guest go on by itself.
    held: bool,
    stopped: bool,
}

impl Pending<'_> {
    /// Waits until the guest is stopped: from here on its memory is still, and all it sent and wrote before has left
    /// QEMU.
    ///
    /// # Errors
    /// If QEMU refuses, hangs or is gone.
    pub fn wait_stopped(&mut self) -> Result<(), DeviceStateError> {
        if !std::mem::replace(&mut self.stopped, true) {
            match self.stop.take() {
                Some(stop) => drop(stop.wait()?),
                None => self.wait_held()?,
            }
        }
        Ok(())
    }

    /// The event comes when the processors and the network cards stand still. Requests to disks may go on until QEMU begins to
    /// save, and write what they read into memory.
    fn wait_held(&mut self) -> Result<(), DeviceStateError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let (mut told, mut pause) = (false, FIRST_BYTES.0);
        loop {
            if (told && !self.saver.has_disks) || self.saver.pipe.waiting()? > 0 {
                return Ok(());
            }
            if told {
                std::thread::sleep(pause);
                pause = (pause * 2).min(FIRST_BYTES.1);
            } else {
                told = self.saver.second.wait_stops(self.stops, LOOK_AGAIN);
            }
            let answer = self.save.as_ref().and_then(|save| save.answered(Duration::ZERO));
            if let Some(answer) = answer {
                self.save = None;
                answer?;
                return Ok(());
            }
            in_time(deadline)?;
        }
    }

    /// Lets the guest go on, if it was to, and returns the device state.
    ///
    /// # Errors
    /// If QEMU refuses, hangs or is gone; what was saved is not a device state; or [`DeviceStateError::NotHeld`].
    pub fn take(mut self) -> Result<DeviceState, DeviceStateError> {
        self.wait_stopped()?;
        let before = self.finish()?;
        if self.then == Then::GoOn && !self.held {
            self.saver.qmp.execute(Command::new("cont"))?;
        }
        self.hurry = None;
        let state = self.saver.pipe.take()?;
        if self.saver.next.is_none() {
            self.saver.next = Some(self.saver.second.prepare(self.saver.save()));
        }
        if self.held && before >= state.len() {
            return Err(DeviceStateError::NotHeld(state.len()));
        }
        DeviceState::from_bytes(state)
    }

    /// Lets QEMU write the rest, and waits until it has. Returns how much of the state had been written before: all of it means
    /// that the guest may have gone on.
    fn finish(&mut self) -> Result<usize, DeviceStateError> {
        let pipe = &mut self.saver.pipe;
        let before = pipe.waiting()?;
        pipe.open()?;
        let Some(save) = self.save.take() else { return Ok(before) };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            if let Some(answer) = save.answered(NEXT_BYTES) {
                answer?;
                return Ok(before);
            }
            in_time(deadline)?;
            pipe.read()?;
        }
    }
}

fn in_time(deadline: Instant) -> Result<(), QmpError> {
    let late = QmpError::TimedOut { command: "xen-save-devices-state".into(), waited: ANSWER_TIMEOUT };
    if Instant::now() < deadline { Ok(()) } else { Err(late) }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // QEMU is never left waiting for the pipe.
        if self.save.is_some()
            && let Err(error) = self.finish()
        {
            tracing::debug!(%error, "a checkpoint that nobody waits for ended badly");
        }
    }
}
