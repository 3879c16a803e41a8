//! Owns tracking what a guest in a QEMU process writes.

#[cfg(feature = "ablation")]
use crate::ablation::{Piece, without};
use crate::computer::{MachineError, PageTracker};
use os::range::Range;
use os::tracker::Tracker;

/// A tracker that knows whether the target is a hypervisor with page tables of its own.
pub struct QemuTracker {
    tracker: Tracker,
    kvm: bool,
}

impl QemuTracker {
    pub fn attach(pid: u32, ranges: &[Range], kvm: bool) -> Result<Self, MachineError> {
        let tracker = Tracker::attach(pid, ranges)?;
        #[cfg(feature = "ablation")]
        let tracker = if without(Piece::Walkers) { tracker.walking_alone() } else { tracker };
        Ok(Self { tracker, kvm })
    }
}

impl PageTracker for QemuTracker {
    /// Under KVM protecting all memory in one step would drop the guest's whole second-level page table; TCG has none, and one
    /// step is cheaper.
    fn scan(&mut self, open: &[Range], dirty: &mut Vec<Range>) -> Result<(), MachineError> {
        let two_steps = self.kvm || !open.is_empty();
        let tracker = &mut self.tracker;
        Ok(if two_steps { tracker.scan_but(open, dirty) } else { tracker.scan_live(dirty) }?)
    }

    fn costs_writes(&self) -> bool {
        true
    }

    fn scan_live(&mut self, dirty: &mut Vec<Range>) -> Result<(), MachineError> {
        Ok(self.tracker.scan_live(dirty)?)
    }

    fn give_back(&mut self, ranges: &[Range]) {
        self.tracker.give_back(ranges);
    }

    fn settle(&mut self) -> Result<bool, MachineError> {
        Ok(self.tracker.settle()?)
    }
}
