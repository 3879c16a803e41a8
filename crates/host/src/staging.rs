//! Owns the buffers that dirty pages are copied into: a fixed number, touched beforehand, given back by drop.
//!
//! Copying into memory that was never touched runs at a twentieth of the speed (a page fault for each page), and
//! a bound on buffers is the bound on what a slow backup can make this host remember.

use crossbeam_channel::{Receiver, Sender, bounded};
use os::staging::{PageBuffer, StagingError};

/// A pool of equal buffers.
#[derive(Debug, Clone)]
pub struct Pool {
    free: Receiver<PageBuffer>,
    back: Sender<PageBuffer>,
    bytes: u64,
}

impl Pool {
    /// A pool of `count` buffers of `pages` pages each.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(count: usize, pages: usize) -> Result<Self, StagingError> {
        let (back, free) = bounded(count);
        for _ in 0..count {
            // There is room: the channel was made for this many.
            let _ = back.send(PageBuffer::new(pages)?);
        }
        Ok(Self { free, back, bytes: (count * pages) as u64 * os::range::PAGE_SIZE })
    }

    /// Memory of the pool in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A buffer if one is free.
    #[must_use]
    pub fn try_take(&self) -> Option<PooledBuffer> {
        self.free.try_recv().ok().map(|buffer| self.pooled(buffer))
    }

    /// Where free buffers come from, to be selected on; what is received goes through [`Pool::adopt`].
    #[must_use]
    pub fn free(&self) -> &Receiver<PageBuffer> {
        &self.free
    }

    /// Makes a received buffer go back to the pool when dropped.
    #[must_use]
    pub fn adopt(&self, buffer: PageBuffer) -> PooledBuffer {
        self.pooled(buffer)
    }

    fn pooled(&self, buffer: PageBuffer) -> PooledBuffer {
        PooledBuffer { buffer: Some(buffer), back: self.back.clone() }
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    buffer: Option<PageBuffer>,
    back: Sender<PageBuffer>,
}

impl PooledBuffer {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], PageBuffer::bytes)
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], PageBuffer::bytes_mut)
    }

    /// How many pages it holds.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.buffer.as_ref().map_or(0, PageBuffer::pages)
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let _ = self.back.send(buffer);
        }
    }
}
