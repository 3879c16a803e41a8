//! Owns the disk: requests from its ring become outputs, their completions come back as inputs.
//!
//! A request is remembered from the moment it leaves until its completion: that list is part of the state, so a
//! machine can be saved and restored with requests under way.

use super::queue::{Broken, Piece, gather, length, scatter};
use super::{Queues, Surroundings, numbered, pieces};
use crate::machine::{Answer, Output, Request};
use alloc::{collections::BTreeMap, vec::Vec};
use serde::{Deserialize, Serialize};

/// Bytes in a sector.
pub(crate) const SECTOR: u64 = 512;
/// The longest request.
const MOST: u64 = 4 << 20;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
/// A ring's length without the header's and the status's places.
const SEGMENTS: u32 = super::queue::LONGEST as u32 - 2;
const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A request under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flight {
    head: u16,
    /// Where what was read goes.
    target: Vec<Piece>,
    status: u64,
}

/// The disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Block {
    disk: u8,
    sectors: u64,
    read_only: bool,
    /// The number of the next request; never used twice, so that an answer cannot meet a later request.
    next: u64,
    flights: BTreeMap<u64, Flight>,
}

impl Block {
    pub fn new(disk: u8, sectors: u64, read_only: bool) -> Block {
        Block { disk, sectors, read_only, next: 0, flights: BTreeMap::new() }
    }

    pub fn is(&self, disk: u8) -> bool {
        self.disk == disk
    }

    pub fn features(&self) -> u64 {
        SEG_MAX | BLOCK_SIZE | FLUSH | if self.read_only { READ_ONLY } else { 0 }
    }

    pub fn configuration(&self) -> Vec<u8> {
        let mut bytes = self.sectors.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(SEGMENTS.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((SECTOR as u32).to_le_bytes());
        bytes
    }

    pub fn reset(&mut self) {
        self.flights.clear();
    }

    pub fn serve(&mut self, queues: &mut Queues, all: &mut Surroundings<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.take(0, &all.memory)? {
            // The last writable byte is the status.
            let last = chain.writable.last_mut().filter(|last| last.1 > 0).ok_or(Broken)?;
            last.1 -= 1;
            let status = last.0.wrapping_add(last.1.into());
            let readable = gather(&all.memory, &chain.readable, MOST + 16)?;
            let flight = Flight { head: chain.head, target: chain.writable, status };
            match readable.ok_or(FAILED).and_then(|bytes| self.understand(&bytes, &flight.target)) {
                Ok(request) => {
                    self.flights.insert(self.next, flight);
                    all.outputs.push(Output::Disk { disk: self.disk, number: self.next, request });
                    self.next += 1;
                }
                Err(status) => answer(queues, all, &flight, status, 0)?,
            }
        }
        Ok(())
    }

    /// The request in these bytes, or the status with which it is refused.
    fn understand(&self, bytes: &[u8], target: &[Piece]) -> Result<Request, u8> {
        let (header, data) = bytes.split_at_checked(16).ok_or(FAILED)?;
        let field = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let (kind, sector) = (field(&header[..4]), field(&header[8..]));
        let fits = |length: u64| {
            let end = sector.checked_add(length / SECTOR);
            length.is_multiple_of(SECTOR) && length <= MOST && end.is_some_and(|end| end <= self.sectors)
        };
        match kind {
            0 if fits(length(target)) => Ok(Request::Read { sector, length: length(target) as u32 }),
            1 if fits(data.len() as u64) && !self.read_only => {
                Ok(Request::Write { sector, data: data.to_vec() })
            }
            4 => Ok(Request::Flush),
            0 | 1 => Err(FAILED),
            _ => Err(UNSUPPORTED),
        }
    }

    /// A request was carried out.
    pub fn complete(
        &mut self,
        number: u64,
        result: &Answer,
        queues: &mut Queues,
        all: &mut Surroundings<'_>,
    ) -> Result<(), Broken> {
        // Asked before a reset.
        let Some(flight) = self.flights.remove(&number) else { return Ok(()) };
        match result {
            Answer::Done => answer(queues, all, &flight, OK, 0),
            Answer::Data(data) if data.len() as u64 == length(&flight.target) => {
                scatter(&mut all.memory, &flight.target, data)?;
                answer(queues, all, &flight, OK, data.len() as u32)
            }
            Answer::Data(_) | Answer::Failed => answer(queues, all, &flight, FAILED, 0),
        }
    }

    /// Whether it can be what it is here.
    pub fn is_possible(&self) -> bool {
        numbered(self.next, &self.flights) && self.flights.values().all(|flight| pieces(&flight.target))
    }

    pub fn words(&self, word: &mut dyn FnMut(u64)) {
        word(self.next);
        word(self.flights.len() as u64);
        for (number, flight) in &self.flights {
            [*number, flight.head.into(), flight.status, flight.target.len() as u64]
                .into_iter()
                .for_each(&mut *word);
            for &(address, length) in &flight.target {
                word(address);
                word(length.into());
            }
        }
    }
}

fn answer(
    queues: &mut Queues,
    all: &mut Surroundings<'_>,
    flight: &Flight,
    status: u8,
    read: u32,
) -> Result<(), Broken> {
    all.memory.write(flight.status, &[status]).ok_or(Broken)?;
    queues.finish(0, &mut all.memory, flight.head, read + 1)
}
