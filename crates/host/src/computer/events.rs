//! Owns what a VM's process does by itself, as events for its loop.

use crossbeam_channel::Sender;
use qemu::Qemu;

/// Something that a VM's process does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest shut down; the process is still there, paused.
    GuestShutdown,
    /// The process is gone.
    Died(String),
    /// Something that an operator should know.
    Warning(String),
}

/// Turns QEMU's events into the machine's, on a thread that ends with the process.
pub fn watch(qemu: &Qemu, events: Sender<MachineEvent>) {
    let incoming = qemu.qmp().subscribe_to(&["SHUTDOWN", "GUEST_PANICKED"]);
    let spawned = std::thread::Builder::new().name("ud-qmp-events".into()).spawn(move || {
        for event in incoming {
            let by_guest = event.data["guest"].as_bool() == Some(true);
            let told = match event.name.as_str() {
                "SHUTDOWN" if by_guest => events.send(MachineEvent::GuestShutdown),
                "GUEST_PANICKED" => events.send(MachineEvent::Warning("the guest's kernel panicked".into())),
                _ => Ok(()),
            };
            if told.is_err() {
                return;
            }
        }
        let _ = events.send(MachineEvent::Died("its process ended".into()));
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "QEMU's events are not watched");
    }
}
