//! Owns memory that is shared with another process: a memfd and our mapping of it.
//!
//! The other side (a QEMU, or the standby's QEMU) writes to it while we read. So no `&[u8]` of the mapping is
//! ever made: bytes are copied in and out through raw pointers, and what is copied while the other side writes
//! may be torn. Callers that need a consistent copy stop the writer first.

use crate::range::{PAGE_SIZE, Range};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

const PAGE: usize = PAGE_SIZE as usize;

/// What went wrong with shared memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A system call failed.
    #[error("cannot {action} shared memory {name:?} of {len} bytes: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The memory's name.
        name: String,
        /// The memory's length.
        len: u64,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The length cannot be mapped as pages.
    #[error(
        "shared memory {name:?} cannot have {len} bytes: the length must be a multiple of {PAGE_SIZE}, and not 0"
    )]
    Length {
        /// The memory's name.
        name: String,
        /// The length asked for.
        len: u64,
    },
}

/// A memfd of a fixed size, mapped shared and writable.
#[derive(Debug)]
pub struct Memory {
    name: String,
    fd: OwnedFd,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the value; it is only accessed by copies through raw pointers, from any thread.
unsafe impl Send for Memory {}
// SAFETY: as above; concurrent copies may tear each other, which the module states and other processes do anyway.
unsafe impl Sync for Memory {}

impl Memory {
    /// A new memfd of `len` bytes, all holes. The descriptor is close-on-exec (hand it to a child with
    /// [`crate::Spawn::inherit`]) and sealed, so that nobody can change its size under a mapping.
    ///
    /// # Errors
    /// If `len` is not a positive multiple of the page size, or the kernel refuses.
    pub fn create(name: &str, len: u64) -> Result<Self, MemoryError> {
        check_length(name, len)?;
        let failed = |action| move |e: Errno| system(action, name, len, e);
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(failed("create"))?;
        rustix::fs::ftruncate(&fd, len).map_err(failed("size"))?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(failed("seal"))?;
        Self::map(name, fd, len)
    }

    /// Maps memory that someone else made. Its size must not shrink while it is mapped.
    ///
    /// # Errors
    /// If it is not a memory of whole pages, or cannot be mapped shared and writable.
    pub fn from_fd(name: &str, fd: OwnedFd) -> Result<Self, MemoryError> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| system("inspect", name, 0, e))?;
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        check_length(name, len)?;
        Self::map(name, fd, len)
    }

    fn map(name: &str, fd: OwnedFd, len: u64) -> Result<Self, MemoryError> {
        let bytes = usize::try_from(len).expect("a 64-bit machine");
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no other memory.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(MemoryError::System { action: "map", name: name.to_string(), len, source });
        }
        let at = NonNull::new(at.cast()).expect("mmap succeeded at address 0");
        Ok(Self { name: name.to_string(), fd, at, len: bytes })
    }

    /// Its name, as shown in `/proc/PID/maps`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// The memfd.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Copies the bytes at `offset` to `dst`. Reading a hole allocates it: see [`Memory::populated`].
    ///
    /// # Panics
    /// If the bytes are not all inside the memory.
    pub fn read_at(&self, offset: u64, dst: &mut [u8]) {
        let from = self.checked(offset, dst.len());
        // SAFETY: `checked` returned a pointer to `dst.len()` mapped bytes; `dst` is ours alone and cannot
        // overlap the mapping, of which no reference is ever made. A concurrent writer can tear the copy, not more.
        unsafe { std::ptr::copy_nonoverlapping(from, dst.as_mut_ptr(), dst.len()) };
    }

    /// Copies `src` to the bytes at `offset`.
    ///
    /// # Panics
    /// If the bytes are not all inside the memory.
    pub fn write_at(&self, offset: u64, src: &[u8]) {
        let to = self.checked(offset, src.len());
        // SAFETY: `checked` returned a pointer to `src.len()` mapped, writable bytes, which cannot overlap `src`:
        // no reference into the mapping is ever made.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), to, src.len()) };
    }

    /// Copies the 4 KiB pages at `offsets` one after the other to `dst`.
    ///
    /// # Panics
    /// If `dst` has not exactly room for them, or a page is not inside the memory.
    pub fn copy_pages_out(&self, offsets: &[u64], dst: &mut [u8]) {
        assert_eq!(dst.len(), offsets.len() * PAGE, "the destination does not fit the pages");
        for (offset, page) in offsets.iter().zip(dst.chunks_exact_mut(PAGE)) {
            self.read_at(*offset, page);
        }
    }

    /// Whether the page at `offset` is all zero. Asking about a hole allocates it.
    ///
    /// # Panics
    /// If the page is not inside the memory.
    #[must_use]
    pub fn is_zero_page(&self, offset: u64) -> bool {
        let mut page = [0_u8; PAGE];
        self.read_at(offset, &mut page);
        is_zero(&page)
    }

    /// Gives the pages of `range` back to the system: they are holes, and read as zeros, from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If the range is not whole pages inside the memory.
    pub fn discard(&self, range: Range) -> Result<(), MemoryError> {
        assert!(range.is_pages() && range.end() <= self.len(), "{range:?} is not pages of {}", self.name);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.fd, mode, range.start, range.len)
            .map_err(|e| system("discard pages of", &self.name, self.len(), e))
    }

    /// The ranges that have pages (in memory or swapped out), in order; everything between them is a hole.
    /// Holes read as zeros, but reading one allocates it.
    #[must_use]
    pub fn populated(&self) -> Populated<'_> {
        self.populated_in(Range::new(0, self.len()))
    }

    /// The same, of a part of it.
    #[must_use]
    pub fn populated_in(&self, part: Range) -> Populated<'_> {
        Populated { memory: self, next: part.start, end: part.end().min(self.len()) }
    }

    fn checked(&self, offset: u64, len: usize) -> *mut u8 {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let inside = start.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "{len} bytes at {offset:#x} are not inside memory {:?} of {:#x}",
            self.name, self.len
        );
        // SAFETY: `start` is at most `self.len`, so the pointer stays in, or one past, the mapping.
        unsafe { self.at.as_ptr().add(start) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; no pointer into it outlives a method call.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// See [`Memory::populated`].
#[derive(Debug)]
pub struct Populated<'a> {
    memory: &'a Memory,
    next: u64,
    end: u64,
}

impl Iterator for Populated<'_> {
    type Item = Result<Range, MemoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let memory = self.memory;
        // lseek to a given place and its answer do not depend on the descriptor's shared position, so several
        // iterators do not disturb each other.
        let seek = |to| rustix::fs::seek(&memory.fd, to);
        if self.next >= self.end {
            return None;
        }
        let found = match seek(SeekFrom::Data(self.next)) {
            Ok(start) if start < self.end => {
                seek(SeekFrom::Hole(start)).map(|end| Some(Range::between(start, end.min(self.end))))
            }
            Ok(_) | Err(Errno::NXIO) => Ok(None),
            Err(other) => Err(other),
        };
        self.next = match &found {
            Ok(Some(range)) => range.end(),
            Ok(None) | Err(_) => self.end,
        };
        found.map_err(|e| system("look for holes in", &memory.name, memory.len(), e)).transpose()
    }
}

/// Whether all bytes are 0, as fast as memory can be read.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0) && rest.iter().all(|b| *b == 0)
}

fn check_length(name: &str, len: u64) -> Result<(), MemoryError> {
    if Range::new(0, len).is_pages() && isize::try_from(len).is_ok() {
        return Ok(());
    }
    Err(MemoryError::Length { name: name.to_string(), len })
}

fn system(action: &'static str, name: &str, len: u64, errno: Errno) -> MemoryError {
    MemoryError::System { action, name: name.to_string(), len, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_without_filling_them() {
        let memory = Memory::create("test-holes", 64 * PAGE_SIZE).unwrap();
        memory.write_at(3 * PAGE_SIZE, &[7]);
        memory.write_at(10 * PAGE_SIZE + 5, &[7; 5000]);
        let populated = || memory.populated().collect::<Result<Vec<_>, _>>().unwrap();
        let expected = [Range::new(3 * PAGE_SIZE, PAGE_SIZE), Range::new(10 * PAGE_SIZE, 2 * PAGE_SIZE)];
        assert_eq!(populated(), expected);
        assert_eq!(populated(), expected);
        let part = |first: u64, pages: u64| {
            let part = Range::new(first * PAGE_SIZE, pages * PAGE_SIZE);
            memory.populated_in(part).collect::<Result<Vec<_>, _>>().unwrap()
        };
        assert_eq!(part(4, 7), [Range::new(10 * PAGE_SIZE, PAGE_SIZE)]);
        assert_eq!((part(4, 6), part(12, 99)), (vec![], vec![]));
        memory.discard(expected[1]).unwrap();
        assert_eq!(populated(), expected[..1]);
        assert!(memory.is_zero_page(10 * PAGE_SIZE));
    }

    #[test]
    fn a_second_mapping_sees_the_same_bytes() {
        let one = Memory::create("test-share", 2 * PAGE_SIZE).unwrap();
        let two = Memory::from_fd("test-share", one.fd().try_clone_to_owned().unwrap()).unwrap();
        one.write_at(4090, b"across pages");
        let mut bytes = [0; 12];
        two.read_at(4090, &mut bytes);
        assert_eq!(&bytes, b"across pages");
    }

    #[test]
    fn scattered_pages_come_out_in_the_order_asked() {
        let memory = Memory::create("test-pages", 8 * PAGE_SIZE).unwrap();
        for page in 0..8_u8 {
            memory.write_at(u64::from(page) * PAGE_SIZE, &[page; PAGE]);
        }
        let mut out = vec![0; 3 * PAGE];
        memory.copy_pages_out(&[6 * PAGE_SIZE, 0, 2 * PAGE_SIZE], &mut out);
        let firsts: Vec<u8> = out.chunks(PAGE).map(|p| p[PAGE - 1]).collect();
        assert_eq!(firsts, [6, 0, 2]);
    }

    #[test]
    fn nobody_can_shrink_it_under_the_mapping() {
        let memory = Memory::create("test-seal", PAGE_SIZE).unwrap();
        assert_eq!(rustix::fs::ftruncate(memory.fd(), 0), Err(Errno::PERM));
    }

    #[test]
    fn lengths_that_are_not_pages_are_refused() {
        for len in [0, 1, PAGE_SIZE + 1, u64::MAX - PAGE_SIZE + 1] {
            assert!(matches!(Memory::create("test-len", len), Err(MemoryError::Length { .. })), "{len}");
        }
    }

    #[test]
    #[should_panic(expected = "not inside memory")]
    fn reading_past_the_end_panics() {
        Memory::create("test-end", PAGE_SIZE).unwrap().read_at(PAGE_SIZE - 1, &mut [0; 2]);
    }

    #[test]
    fn a_single_bit_anywhere_makes_a_page_not_zero() {
        for at in [0, 63, 64, 4095, 4096, 4099] {
            let mut bytes = [0; 4100];
            assert!(is_zero(&bytes));
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "{at}");
        }
    }
}
