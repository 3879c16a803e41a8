//! Owns the disks of the deterministic machine: served images, asked in this process.

use crate::disks::Disks;
use disk::Direct;
use rvrun::Medium;
use std::io;

/// A medium for each disk.
pub fn media(disks: &Disks) -> Vec<Box<dyn Medium>> {
    disks.direct().into_iter().map(|disk| Box::new(ServedDisk(disk)) as Box<dyn Medium>).collect()
}

struct ServedDisk(Direct);

impl Medium for ServedDisk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn is_read_only(&self) -> bool {
        self.0.is_read_only()
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, bytes).map_err(io::Error::other)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(io::Error::other)
    }
}
