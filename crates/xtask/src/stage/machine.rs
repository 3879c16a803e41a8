//! Owns the choice of what runs the VM, and what follows from it.

use super::screen::Screen;
use anyhow::Result;
use clap::ValueEnum;
use lab::guest::cache::Cache;
use lab::guest::riscv::RiscvGuest;
use lab::nemesis::Blow;
use serde::Serialize;
use std::time::Instant;

/// What runs the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Machine {
    /// Stock QEMU, a process of its own.
    Qemu,
    /// The deterministic machine (RISC-V), within the agent.
    Rv,
}

impl Machine {
    /// The guest of the deterministic machine, if that is what was chosen: the usual one is among the props.
    pub fn guest(self, screen: &mut Screen) -> Result<Option<RiscvGuest>> {
        if self == Self::Qemu {
            return Ok(None);
        }
        let start = Instant::now();
        screen.live("the guest: Debian's kernel and Redis for riscv64, packed into an initramfs (kept for the next time)");
        let guest = RiscvGuest::build(&Cache::open()?)?;
        let seconds = start.elapsed().as_secs_f64();
        screen.done(&format!("guest: Debian 13 for riscv64, its kernel and Redis ({seconds:.0} s)"));
        Ok(Some(guest))
    }

    /// Those of these blows that can hit it.
    pub fn hit_by(self, blows: &[Blow]) -> Vec<Blow> {
        Blow::that_hit(blows, self == Self::Qemu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_qemu_can_die_alone() {
        assert_eq!(Machine::Qemu.hit_by(&Blow::ALL), Blow::ALL);
        assert_eq!(Machine::Rv.hit_by(&Blow::SINGLE), [Blow::Kill, Blow::Freeze, Blow::Link]);
    }
}
