//! Owns how far a check goes: how much may happen in one behaviour, and how the hosts' clocks run.

use protocol::pacing::Pacing;
use protocol::{Micros, Timing};

/// How the two hosts' clocks are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clocks {
    /// Not at all: each runs on whenever it likes. Data must be safe even so.
    Own,
    /// They show the same time. What is promised of an old owner's silence needs clocks that run alike.
    Shared,
}

/// Where a behaviour begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begin {
    /// The owner was just asked to protect its VM; or its backup is armed.
    Protection,
    /// The owner of a protected VM was just asked to have a third host protect it in the backup's place; or that has a first
    /// copy; or the checkpoint that is sent to both is on its way. Operators may ask for changes, and call them off.
    Change,
    /// The owner was just asked to bring a VM that nobody protects to the other host; or it has just sent the last
    /// checkpoint, or the word that gives the VM up, there. Operators may ask for migrations, and call them off.
    Migration,
}

/// How much may happen in one behaviour. Each number is what the whole behaviour may use up, at whatever times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Steps from the beginning, at most.
    pub depth: usize,
    /// Crashes, deaths of a VM, resets, cuts, failed checkpoints, silence of the arbiter and the like.
    pub faults: u8,
    /// What operators and guests ask: protect again, unprotect (which calls a migration off), planned failover, stop, shutdown;
    /// where a behaviour begins with a migration, migrations and moves too.
    pub commands: u8,
    /// Steps of the guest, each of which says something to the world.
    pub steps: u8,
    /// How often a clock runs on by [`UNIT`].
    pub waits: u8,
    /// How often a clock runs on by the whole time-out: a silence, or a process that was frozen.
    pub sleeps: u8,
    /// How clocks are related.
    pub clocks: Clocks,
    /// Where it begins.
    pub begin: Begin,
    /// Bugs to plant.
    #[cfg(feature = "planted")]
    pub planted: protocol::Planted,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            depth: 10,
            faults: 2,
            commands: 1,
            steps: 2,
            waits: 2,
            sleeps: 2,
            clocks: Clocks::Own,
            begin: Begin::Protection,
            #[cfg(feature = "planted")]
            planted: protocol::Planted::default(),
        }
    }
}

/// What a session's short times are: interval, grace, and the time between two tries at the arbiter.
pub const UNIT: Micros = Micros::from_millis(1);
const HEARTBEAT: Micros = Micros::from_millis(10);

/// The session's times, as few different ones as [`Timing::check`] lets through. Heartbeats are as rare as may be: no
/// number of waits within usual bounds comes to one, and each would be one more frame under way.
pub(crate) fn timing() -> Timing {
    Timing {
        interval: UNIT,
        pacing: Pacing::Even,
        heartbeat: HEARTBEAT,
        timeout: Micros(4 * HEARTBEAT.0),
        // Fixed: what is learnt of a link would be a part of every state, and decides nothing but when to ask.
        timeout_max: Micros(4 * HEARTBEAT.0),
        disconnect_grace: UNIT,
        // Never within a behaviour: an alive backup that does not acknowledge is the simulator's.
        stall: Micros(1_000 * HEARTBEAT.0),
        claim_retry: UNIT,
        max_in_flight: 2,
        // What is known of the link would be a part of every state.
        max_slowdown: 0,
    }
}

/// What a behaviour has left of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) faults: u8,
    pub(crate) commands: u8,
    pub(crate) steps: u8,
    pub(crate) waits: u8,
    pub(crate) sleeps: u8,
}

impl Left {
    pub(crate) fn all(bounds: &Bounds) -> Self {
        let &Bounds { faults, commands, steps, waits, sleeps, .. } = bounds;
        Self { faults, commands, steps, waits, sleeps }
    }
}
