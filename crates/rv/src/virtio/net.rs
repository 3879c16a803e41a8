//! Owns the network card: frames from its ring become outputs, frames that come in wait until the guest has room.

use super::queue::{Broken, length, scatter};
use super::{Queues, RECEIVE, Surroundings, hash_bytes};
use crate::machine::Output;
use alloc::{collections::VecDeque, vec::Vec};
use serde::{Deserialize, Serialize};

/// The card has an address of its own.
pub(crate) const FEATURES: u64 = 1 << 5;
/// Bytes before each frame; nothing in them is used without offloads but the number of buffers.
const HEADER: usize = 12;
/// The longest frame, with a VLAN tag: what fits a driver's smallest buffer. A longer one is lost.
const LONGEST: usize = 1518;
/// The longest that a guest may send.
const MOST: u64 = 65_536 + HEADER as u64;
/// So many frames wait; more are lost, as at any card.
const WAITING: usize = 256;

/// The card.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Net {
    card: u8,
    address: [u8; 6],
    waiting: VecDeque<Vec<u8>>,
}

impl Net {
    pub fn new(card: u8, address: [u8; 6]) -> Net {
        Net { card, address, waiting: VecDeque::new() }
    }

    pub fn is(&self, card: u8) -> bool {
        self.card == card
    }

    pub fn configuration(&self) -> Vec<u8> {
        self.address.to_vec()
    }

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
        // One that is too short is lost as well.
        let frame = |bytes: Vec<u8>| bytes.get(HEADER..).map(<[u8]>::to_vec);
        queues.send(all, MOST, |bytes| Some(Output::Frame { card: self.card, frame: frame(bytes)? }))
    }

    /// A frame came in.
    pub fn receive(
        &mut self,
        frame: &[u8],
        queues: &mut Queues,
        all: &mut Surroundings<'_>,
    ) -> Result<(), Broken> {
        if frame.len() <= LONGEST && self.waiting.len() < WAITING {
            self.waiting.push_back(frame.to_vec());
        }
        self.fill(queues, all)
    }

    fn fill(&mut self, queues: &mut Queues, all: &mut Surroundings<'_>) -> Result<(), Broken> {
        while !self.waiting.is_empty() {
            let Some(chain) = queues.take(RECEIVE, &all.memory)? else { break };
            let Some(frame) = self.waiting.pop_front() else { break };
            let mut bytes = [0; HEADER].to_vec();
            bytes[10] = 1;
            bytes.extend(frame);
            if length(&chain.writable) < bytes.len() as u64 {
                return Err(Broken);
            }
            scatter(&mut all.memory, &chain.writable, &bytes)?;
            queues.finish(RECEIVE, &mut all.memory, chain.head, bytes.len() as u32)?;
        }
        Ok(())
    }

    /// Whether it can be what it is here.
    pub fn is_possible(&self) -> bool {
        self.waiting.len() <= WAITING && self.waiting.iter().all(|frame| frame.len() <= LONGEST)
    }

    pub fn words(&self, word: &mut dyn FnMut(u64)) {
        word(self.waiting.len() as u64);
        self.waiting.iter().for_each(|frame| hash_bytes(frame.iter().copied(), word));
    }
}
