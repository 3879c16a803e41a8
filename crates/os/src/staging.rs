//! Owns memory to copy dirty pages into while a guest waits.
//!
//! Copying into memory that was never touched costs a page fault per page, some twenty times the copy itself.
//! So a [`PageBuffer`] is mapped and touched when it is made, and kept.

use crate::range::PAGE_SIZE;
use std::ptr::NonNull;

/// What kept a buffer from being made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set aside {bytes} bytes of staging memory: {source}; give the machine more memory or lower the limit"
)]
pub struct StagingError {
    /// Size asked for.
    pub bytes: u64,
    /// The kernel's reason.
    #[source]
    pub source: std::io::Error,
}

/// Page-aligned anonymous memory, mapped and touched beforehand.
#[derive(Debug)]
pub struct PageBuffer {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the buffer owns its mapping; nothing in it is tied to the thread that made it.
unsafe impl Send for PageBuffer {}
// SAFETY: a shared reference only gives shared slices of the bytes.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// A zeroed buffer of `pages` pages (at least one), every page present.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(pages: usize) -> Result<Self, StagingError> {
        let bytes = pages.max(1).saturating_mul(PAGE_SIZE as usize);
        let failed = |source| StagingError { bytes: bytes as u64, source };
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(failed(std::io::Error::last_os_error()));
        }
        let at = NonNull::new(at.cast()).expect("mmap succeeded at address 0");
        let mut buffer = Self { at, bytes };
        // MAP_POPULATE may stop early without an error (a memory limit): touching tells.
        for page in buffer.bytes_mut().chunks_mut(PAGE_SIZE as usize) {
            // A volatile write cannot be left out by the compiler, as a plain 0 over 0 could.
            // SAFETY: `page` is a valid, exclusively borrowed slice of at least one byte.
            unsafe { std::ptr::write_volatile(page.as_mut_ptr(), 0) };
        }
        Ok(buffer)
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.bytes / PAGE_SIZE as usize
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `at` and `bytes` describe a mapping that lives as long as `self` and that only `self` hands out.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    /// All bytes, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) }
    }

    /// The page with this index.
    #[must_use]
    pub fn page(&self, index: usize) -> &[u8] {
        &self.bytes()[index * PAGE_SIZE as usize..][..PAGE_SIZE as usize]
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no borrow of it can outlive `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_pages(buffer: &PageBuffer) -> usize {
        let mut states = vec![0_u8; buffer.pages()];
        // SAFETY: `states` has one byte for each page of the mapping.
        let rc = unsafe { libc::mincore(buffer.at.as_ptr().cast(), buffer.bytes, states.as_mut_ptr()) };
        assert_eq!(rc, 0);
        states.iter().filter(|s| **s & 1 == 1).count()
    }

    #[test]
    fn every_page_is_there_before_it_is_used() {
        let buffer = PageBuffer::new(100).unwrap();
        assert_eq!(resident_pages(&buffer), 100);
        assert!(buffer.bytes().iter().all(|b| *b == 0));
    }

    #[test]
    fn pages_are_apart_and_aligned() {
        let mut buffer = PageBuffer::new(3).unwrap();
        for (at, page) in buffer.bytes_mut().chunks_mut(4096).enumerate() {
            page.fill(u8::try_from(at).unwrap() + 1);
        }
        assert!((0..3).all(|i| buffer.page(i).iter().all(|b| usize::from(*b) == i + 1)));
        assert_eq!(buffer.bytes().as_ptr() as usize % 4096, 0);
    }

    #[test]
    fn too_much_is_an_error() {
        let error = PageBuffer::new(usize::MAX / 8192).unwrap_err();
        assert!(error.to_string().contains("staging memory"), "{error}");
    }
}
