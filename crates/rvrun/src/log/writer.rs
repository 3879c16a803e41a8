//! Owns writing a recording.

use super::{BLOCK, Entry, Event, MAGIC, VERSION, checksum};
use crate::setup::Setup;
use std::io::{self, Write};

/// A recording being written.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    /// Number of the next block.
    number: u64,
    block: Vec<u8>,
    at: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a recording of this machine.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(mut to: W, setup: &Setup) -> io::Result<Writer<W>> {
        to.write_all(&MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        let mut writer = Writer { to, number: 0, block: encode(setup)?, at: 0 };
        writer.flush()?;
        Ok(writer)
    }

    /// Adds what happened at this instruction count, which is never lower than before, but after a restart.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, at: u64, event: Event) -> io::Result<()> {
        let after = at.checked_sub(self.at).expect("counts of a recording never go back");
        self.at = if event == Event::Restart { 0 } else { at };
        self.block.extend(encode(&Entry { after, event })?);
        if self.block.len() >= BLOCK { self.flush() } else { Ok(()) }
    }

    /// Hands everything to the system: a reader sees it, and it outlives this program.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.block.len()).map_err(io::Error::other)?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&checksum(self.number, &self.block).to_le_bytes())?;
        self.to.write_all(&self.block)?;
        self.to.flush()?;
        self.number += 1;
        self.block.clear();
        Ok(())
    }
}

fn encode(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}
