//! Owns the interrupt controller: 31 sources, each a level, for machine and supervisor mode.

use serde::{Deserialize, Serialize};

/// The controller.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plic {
    priority: [u32; 32],
    enabled: [u32; 2],
    threshold: [u32; 2],
    claimed: u32,
}

impl Plic {
    /// Which modes are interrupted while the devices raise these sources.
    pub fn lines(&self, raised: u32) -> [bool; 2] {
        [0, 1].map(|context| self.best(context, raised) != 0)
    }

    /// The source to be served first; 0 if there is none.
    fn best(&self, context: usize, raised: u32) -> u32 {
        let ready = raised & !self.claimed & self.enabled[context] & !1;
        let mut best = 0;
        for source in (1..32).filter(|source| ready >> source & 1 != 0) {
            let floor = if best == 0 { self.threshold[context] } else { self.priority[best] };
            if self.priority[source] > floor {
                best = source;
            }
        }
        best as u32
    }

    pub fn read(&mut self, offset: u64, raised: u32) -> u32 {
        match offset {
            0..0x80 => self.priority[offset as usize / 4],
            0x1000 => raised & !self.claimed,
            0x2000 | 0x2080 => self.enabled[(offset >> 7 & 1) as usize],
            0x20_0000 | 0x20_1000 => self.threshold[(offset >> 12 & 1) as usize],
            0x20_0004 | 0x20_1004 => {
                let source = self.best((offset >> 12 & 1) as usize, raised);
                self.claimed |= 1 << source & !1;
                source
            }
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            4..0x80 => self.priority[offset as usize / 4] = value & 7,
            0x2000 | 0x2080 => self.enabled[(offset >> 7 & 1) as usize] = value & !1,
            0x20_0000 | 0x20_1000 => self.threshold[(offset >> 12 & 1) as usize] = value & 7,
            0x20_0004 | 0x20_1004 if value < 32 => self.claimed &= !(1 << value),
            _ => {}
        }
    }

    /// Whether the guest can have made it so.
    pub fn is_possible(&self) -> bool {
        let levels = self.priority.iter().chain(&self.threshold).all(|&level| level < 8);
        let sources = self.enabled.iter().chain([&self.claimed]).all(|sources| sources & 1 == 0);
        levels && sources && self.priority[0] == 0
    }

    pub fn words(&self) -> impl Iterator<Item = u64> {
        let parts = self.priority.iter().chain(&self.enabled).chain(&self.threshold);
        parts.chain([&self.claimed]).map(|&part| part.into())
    }
}
