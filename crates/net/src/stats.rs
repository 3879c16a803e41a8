//! Owns the shape of what a gate counts.

use crate::histogram::Summary;
use crate::ledger::Mode;
use protocol::Epoch;
use serde::Serialize;

/// Counters of one port since it was attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PortStats {
    /// Name of the port.
    pub port: String,
    /// QEMU's socket is open.
    pub guest_alive: bool,
    /// The TAP or the console's sink is open.
    pub outside_alive: bool,
    /// Frames read from the VM (0 for a console).
    pub frames_from_guest: u64,
    /// Bytes read from the VM.
    pub bytes_from_guest: u64,
    /// Frames sent out (0 for a console). Announcements are not counted.
    pub frames_out: u64,
    /// Bytes sent out.
    pub bytes_out: u64,
    /// Frames given to the VM.
    pub frames_in: u64,
    /// Bytes given to the VM.
    pub bytes_in: u64,
    /// Output frames dropped because the gate was full.
    pub dropped_full: u64,
    /// Output frames dropped because they were too short for Ethernet or the TAP refused them.
    pub dropped_refused: u64,
    /// Output frames dropped because the gate is fenced, the TAP is gone, or the port was replaced.
    pub dropped_closed: u64,
    /// How often input had to wait because QEMU's socket was full.
    pub input_stalls: u64,
    /// Console bytes that wait.
    pub console_waiting: usize,
}

/// Counters of a gate. Times are in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GateStats {
    /// What the gate does.
    pub mode: Mode,
    /// Each port.
    pub ports: Vec<PortStats>,
    /// Frames that wait now.
    pub queued_frames: usize,
    /// Bytes that wait now.
    pub queued_bytes: usize,
    /// Most frames that ever waited.
    pub high_water_frames: usize,
    /// Most bytes that ever waited.
    pub high_water_bytes: usize,
    /// Age of the oldest frame that waits.
    pub oldest_waiting_us: Option<u64>,
    /// How long held frames waited from arrival to being sent.
    pub hold_us: Summary,
    /// Last epoch cut since the last `hold`.
    pub last_cut: Option<Epoch>,
    /// Last epoch released since the last `hold`.
    pub last_released: Option<Epoch>,
}
