//! Owns the source of entropy: what the guest asks for becomes an output, the bytes come back as an input.

use super::queue::{Broken, Piece, length, scatter};
use super::{Queues, Surroundings, numbered, pieces};
use crate::machine::Output;
use alloc::{collections::BTreeMap, vec::Vec};
use serde::{Deserialize, Serialize};

/// The most that is given at once.
const MOST: u64 = 4096;

/// The source.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Entropy {
    /// The number of the next request; never used twice.
    next: u64,
    flights: BTreeMap<u64, (u16, Vec<Piece>)>,
}

impl Entropy {
    pub fn reset(&mut self) {
        self.flights.clear();
    }

    pub fn serve(&mut self, queues: &mut Queues, all: &mut Surroundings<'_>) -> Result<(), Broken> {
        while let Some(chain) = queues.take(0, &all.memory)? {
            let wanted = length(&chain.writable).min(MOST) as u32;
            if wanted == 0 {
                return Err(Broken);
            }
            self.flights.insert(self.next, (chain.head, chain.writable));
            all.outputs.push(Output::Entropy { number: self.next, length: wanted });
            self.next += 1;
        }
        Ok(())
    }

    /// Bytes that were asked for.
    pub fn complete(
        &mut self,
        number: u64,
        bytes: &[u8],
        queues: &mut Queues,
        all: &mut Surroundings<'_>,
    ) -> Result<(), Broken> {
        let Some((head, target)) = self.flights.remove(&number) else { return Ok(()) };
        let count = length(&target).min(MOST).min(bytes.len() as u64);
        scatter(&mut all.memory, &target, &bytes[..count as usize])?;
        queues.finish(0, &mut all.memory, head, count as u32)
    }

    /// Whether it can be what it is here.
    pub fn is_possible(&self) -> bool {
        numbered(self.next, &self.flights) && self.flights.values().all(|(_, target)| pieces(target))
    }

    pub fn words(&self, word: &mut dyn FnMut(u64)) {
        word(self.next);
        word(self.flights.len() as u64);
        for (number, (head, target)) in &self.flights {
            [*number, u64::from(*head), target.len() as u64].into_iter().for_each(&mut *word);
            for &(address, length) in target {
                word(address);
                word(length.into());
            }
        }
    }
}
