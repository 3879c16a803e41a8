//! Owns what the self-test writes to: an area of memory, and a process that has a copy of it.

use crate::process::PidFd;
use crate::range::{PAGE_SIZE, Range};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

const PAGE: usize = PAGE_SIZE as usize;
const HUGE: usize = 2 << 20;

/// Some mapped pages. They are read and written by volatile accesses, so that each happens, when it is written.
pub(super) struct Area {
    mapping: NonNull<u8>,
    mapped: usize,
    /// The part that is used; smaller than the mapping only for a huge page, which must be aligned.
    at: NonNull<u8>,
    len: usize,
}

impl Area {
    pub(super) fn private(pages: usize) -> io::Result<Self> {
        Self::map(pages * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    pub(super) fn shared(pages: usize) -> io::Result<Self> {
        let file = memfd()?;
        file.set_len((pages * PAGE) as u64)?;
        Self::map(pages * PAGE, libc::MAP_SHARED, file.as_raw_fd())
    }

    /// Room for one huge page, aligned as one; whether the kernel uses one is its business.
    pub(super) fn huge() -> io::Result<Self> {
        let mut area = Self::map(2 * HUGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // SAFETY: the mapping is two huge pages long, so an aligned one begins within its first half.
        area.at = unsafe { area.mapping.add(area.mapping.align_offset(HUGE)) };
        area.len = HUGE;
        // EINVAL: this kernel has no huge pages. Then the case tests small ones.
        // SAFETY: advice on a part of our own mapping.
        unsafe { libc::madvise(area.at.as_ptr().cast(), HUGE, libc::MADV_HUGEPAGE) };
        Ok(area)
    }

    fn map(len: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).expect("mmap succeeded at address 0");
        Ok(Self { mapping: at, mapped: len, at, len })
    }

    pub(super) fn range(&self) -> Range {
        Range::new(self.at.addr().get() as u64, self.len as u64)
    }

    /// Writes one byte of a page.
    pub(super) fn write(&self, page: u64, value: u8) {
        // SAFETY: `byte` is inside the mapping; no reference to it exists while `self` is borrowed shared.
        unsafe { self.byte(page).write_volatile(value) };
    }

    /// Reads the byte that `write` writes.
    pub(super) fn read(&self, page: u64) -> u8 {
        // SAFETY: as in `write`.
        unsafe { self.byte(page).read_volatile() }
    }

    fn byte(&self, page: u64) -> NonNull<u8> {
        let offset = usize::try_from(page).expect("a small number") * PAGE + 11;
        assert!(offset < self.len);
        // SAFETY: the offset is inside the mapping.
        unsafe { self.at.add(offset) }
    }

    /// The first bytes of two different pages, for the kernel to write to.
    pub(super) fn two_parts(&mut self, pages: [u64; 2], len: usize) -> [&mut [u8]; 2] {
        // SAFETY: the area is mapped for as long as `self` lives, and borrowed exclusively.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) };
        let part = |page| {
            let start = usize::try_from(page).expect("a small number") * PAGE;
            start..start + len
        };
        bytes.get_disjoint_mut(pages.map(part)).expect("different pages of the area")
    }

    /// Gives all pages back to the kernel: they read as zeros from now on.
    pub(super) fn give_back(&self) -> io::Result<()> {
        // SAFETY: the pages are ours and no reference to them exists.
        let rc = unsafe { libc::madvise(self.at.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
        if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference to it can outlive `self`.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

/// A file of `len` bytes, none of them zero.
pub(super) fn filled_file(len: usize) -> io::Result<File> {
    let mut file = memfd()?;
    file.write_all(&vec![5; len])?;
    Ok(file)
}

fn memfd() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("tracker-self-test", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// A copy of this process that does nothing. Killed when dropped, and when the thread that made it ends.
pub(super) struct Sleeper(PidFd);

impl Sleeper {
    pub(super) fn fork() -> io::Result<Self> {
        let parent = rustix::process::getpid().as_raw_pid();
        // SAFETY: the child of a process with threads may only do what is async-signal-safe: it does not leave
        // `sleep_for_ever`, which makes system calls and nothing else.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => sleep_for_ever(parent),
            _ => {
                let pid = u32::try_from(pid).expect("process numbers are positive");
                PidFd::open(pid).map(Self).map_err(io::Error::other)
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }
}

fn sleep_for_ever(parent: libc::pid_t) -> ! {
    // SAFETY: all of these take numbers, none touches memory. Our descriptors are closed in the copy only, so that
    // it does not keep sockets and files of ours open.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        while libc::getppid() == parent {
            libc::pause();
        }
        libc::_exit(0)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let pid = libc::pid_t::try_from(self.0.pid()).expect("process numbers fit 22 bits");
        // First the death, so that this does not catch a stop; then the reaping.
        let _ = self.0.wait_dead(None);
        // SAFETY: waitpid of our own child, without a place for its status.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
}
