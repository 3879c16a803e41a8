//! Owns the virtio console: bytes both ways, without ports.

use super::queue::{Broken, length, scatter};
use super::{Queues, RECEIVE, Surroundings, hash_bytes};
use crate::machine::Output;
use alloc::{collections::VecDeque, vec::Vec};
use serde::{Deserialize, Serialize};

/// The most that is taken from the guest at once, and that waits for it; what is typed beyond that is lost.
const MOST: u64 = 64 << 10;

/// The console.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Terminal {
    waiting: VecDeque<u8>,
}

impl Terminal {
    pub fn reset(&mut self) {
        self.waiting.clear();
    }

    pub fn serve(
        &mut self,
        queue: usize,
        queues: &mut Queues,
        all: &mut Surroundings<'_>,
    ) -> Result<(), Broken> {
        if queue == RECEIVE {
            return self.fill(queues, all);
        }
        queues.send(all, MOST, |bytes| Some(Output::Terminal(bytes)))
    }

    /// Bytes were typed.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        queues: &mut Queues,
        all: &mut Surroundings<'_>,
    ) -> Result<(), Broken> {
        let room = (MOST as usize).saturating_sub(self.waiting.len());
        self.waiting.extend(bytes.iter().take(room));
        self.fill(queues, all)
    }

    fn fill(&mut self, queues: &mut Queues, all: &mut Surroundings<'_>) -> Result<(), Broken> {
        while !self.waiting.is_empty() {
            let Some(chain) = queues.take(RECEIVE, &all.memory)? else { break };
            let count = length(&chain.writable).min(self.waiting.len() as u64) as usize;
            let bytes: Vec<u8> = self.waiting.drain(..count).collect();
            scatter(&mut all.memory, &chain.writable, &bytes)?;
            queues.finish(RECEIVE, &mut all.memory, chain.head, count as u32)?;
        }
        Ok(())
    }

    /// Whether it can be what it is here.
    pub fn is_possible(&self) -> bool {
        self.waiting.len() as u64 <= MOST
    }

    pub fn words(&self, word: &mut dyn FnMut(u64)) {
        hash_bytes(self.waiting.iter().copied(), word);
    }
}
