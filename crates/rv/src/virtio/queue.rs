//! Owns a split ring of virtio: taking chains of buffers that the guest offers, giving them back.
//!
//! The ring lies in guest memory and may hold anything. What breaks the rules ends as [`Broken`]: the device then
//! asks for a reset and touches its rings no more.

use crate::dma::Memory;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The longest ring.
pub(crate) const LONGEST: u16 = 256;
const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const NO_INTERRUPT: u16 = 1;

/// The guest broke the rules of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// A piece of guest memory: address and length.
pub(crate) type Piece = (u64, u32);

/// Buffers that the guest offers as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub head: u16,
    pub readable: Vec<Piece>,
    pub writable: Vec<Piece>,
}

/// How many bytes are in these pieces.
pub(crate) fn length(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|&(_, length)| u64::from(length)).sum()
}

/// The pieces' bytes, if they are no more than `most`.
pub(crate) fn gather(memory: &Memory<'_>, pieces: &[Piece], most: u64) -> Result<Option<Vec<u8>>, Broken> {
    if length(pieces) > most {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(length(pieces) as usize);
    for &(address, length) in pieces {
        bytes.extend_from_slice(memory.read(address, length as usize).ok_or(Broken)?);
    }
    Ok(Some(bytes))
}

/// Fills the pieces with bytes, as far as both go.
pub(crate) fn scatter(memory: &mut Memory<'_>, pieces: &[Piece], mut bytes: &[u8]) -> Result<(), Broken> {
    for &(address, length) in pieces {
        let (now, later) = bytes.split_at(bytes.len().min(length as usize));
        memory.write(address, now).ok_or(Broken)?;
        bytes = later;
    }
    Ok(())
}

/// One ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Queue {
    pub size: u16,
    pub ready: bool,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next_available: u16,
    next_used: u16,
    /// Chains taken and not given back.
    outstanding: u16,
}

impl Queue {
    /// Whether a ring may have this length.
    pub fn allows(size: u16) -> bool {
        size.is_power_of_two() && size <= LONGEST
    }

    /// Whether a guest can have brought it here.
    pub fn is_possible(&self) -> bool {
        (!self.ready || Queue::allows(self.size)) && self.outstanding <= LONGEST
    }

    /// The next chain that the guest offers.
    pub fn take(&mut self, memory: &Memory<'_>) -> Result<Option<Chain>, Broken> {
        if !self.ready {
            return Ok(None);
        }
        let offered = memory.half(self.available.wrapping_add(2)).ok_or(Broken)?;
        let waiting = offered.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size || self.outstanding >= self.size {
            return Err(Broken);
        }
        let slot = u64::from(self.next_available % self.size);
        let head = memory.half(self.available.wrapping_add(4 + 2 * slot)).ok_or(Broken)?;
        let chain = self.follow(head, memory)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.outstanding += 1;
        Ok(Some(chain))
    }

    fn follow(&self, head: u16, memory: &Memory<'_>) -> Result<Chain, Broken> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut at = head;
        // No chain is longer than the ring: one that is goes in a circle.
        for _ in 0..self.size {
            if at >= self.size {
                return Err(Broken);
            }
            let place = self.descriptors.wrapping_add(16 * u64::from(at));
            let bytes = memory.read(place, 16).ok_or(Broken)?;
            let field = |from: usize, to: usize| {
                bytes[from..to].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
            };
            let (piece, flags) = ((field(0, 8), field(8, 12) as u32), field(12, 14) as u16);
            if flags & !(NEXT | WRITABLE) != 0 {
                return Err(Broken);
            }
            match flags & WRITABLE != 0 {
                true => chain.writable.push(piece),
                false if chain.writable.is_empty() => chain.readable.push(piece),
                false => return Err(Broken),
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            at = field(14, 16) as u16;
        }
        Err(Broken)
    }

    /// Gives a chain back with so many bytes written; tells whether the guest wants an interrupt.
    pub fn give_back(&mut self, memory: &mut Memory<'_>, head: u16, written: u32) -> Result<bool, Broken> {
        if !self.ready {
            return Err(Broken);
        }
        let slot = u64::from(self.next_used % self.size);
        let element = (u64::from(written) << 32 | u64::from(head)).to_le_bytes();
        memory.write(self.used.wrapping_add(4 + 8 * slot), &element).ok_or(Broken)?;
        self.next_used = self.next_used.wrapping_add(1);
        memory.write(self.used.wrapping_add(2), &self.next_used.to_le_bytes()).ok_or(Broken)?;
        self.outstanding = self.outstanding.saturating_sub(1);
        Ok(memory.half(self.available).ok_or(Broken)? & NO_INTERRUPT == 0)
    }

    pub fn words(&self) -> [u64; 5] {
        let counters = u64::from(self.next_available)
            | u64::from(self.next_used) << 16
            | u64::from(self.outstanding) << 32
            | u64::from(self.ready) << 48;
        [u64::from(self.size), self.descriptors, self.available, self.used, counters]
    }
}
