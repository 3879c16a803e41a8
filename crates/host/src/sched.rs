//! Owns the priority of the engine's threads.

/// Lets the current thread run before ordinary ones: it guards a pause or a heartbeat, and its work is short.
pub fn prefer() {
    if let Err(error) = os::sched::raise_current_thread() {
        tracing::debug!(%error, "the engine's threads run at ordinary priority");
    }
}
