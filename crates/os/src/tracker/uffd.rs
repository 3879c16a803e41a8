//! Owns the userfaultfd: its structures, its ioctls, and how it gets out of another process.

use super::TrackerError;
use crate::inject::{self, InjectError};
use crate::process::PidFd;
use crate::range::{PAGE_SIZE, Range};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

// include/uapi/linux/userfaultfd.h
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_API: u64 = 0xaa;
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
/// Protect shared memory, and pages that do not exist yet.
const FEATURES: u64 = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;

const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_UNMAP: u8 = 0x16;
/// Messages that are read at a time.
const MESSAGES: usize = 64;

const CREATE_FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;
/// Most bytes protected in one call: it holds the lock of the target's address space.
const PROTECT_STEP: u64 = 1 << 30;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Span,
    mode: u64,
}

/// A message of the kernel (`struct uffd_msg`). Of a fault: its flags, its address, its thread. Of memory that is unmapped:
/// where it begins and ends.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    values: [u64; 3],
}

/// What a userfaultfd tells of ([`OnWrite::Tell`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tidings {
    /// Someone waits for writing to this page.
    Write(Range),
    /// The process has unmapped watched memory.
    Unmapped(Range),
}

impl Tidings {
    fn of(message: &Message) -> Option<Self> {
        let values = message.values;
        match message.event {
            EVENT_PAGEFAULT => Some(Self::Write(Range::new(values[1] & !(PAGE_SIZE - 1), PAGE_SIZE))),
            EVENT_UNMAP => Some(Self::Unmapped(Range::between(values[0], values[1]))),
            _ => None,
        }
    }
}

/// What becomes of a write to a protected page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnWrite {
    /// It lifts the protection by itself.
    Lift,
    /// It waits until we have heard of it and lift the protection. Needs a privilege (`CAP_SYS_PTRACE` in the target, or
    /// `vm.unprivileged_userfaultfd`): the kernel's own writes, for system calls and for guests, wait too.
    Tell,
}

impl OnWrite {
    fn create_flags(self) -> i32 {
        match self {
            Self::Lift => CREATE_FLAGS | UFFD_USER_MODE_ONLY,
            Self::Tell => CREATE_FLAGS,
        }
    }

    fn features(self) -> u64 {
        match self {
            Self::Lift => FEATURES | FEATURE_WP_ASYNC,
            Self::Tell => FEATURES | FEATURE_EVENT_UNMAP,
        }
    }
}

impl From<Range> for Span {
    fn from(range: Range) -> Self {
        Self { start: range.start, len: range.len }
    }
}

/// A userfaultfd that watches the memory of one process, not necessarily ours.
#[derive(Debug)]
pub(super) struct Uffd {
    fd: OwnedFd,
    pid: u32,
}

impl Uffd {
    /// A userfaultfd for the memory of `target`: made inside it, moved over to us, closed inside it.
    pub(super) fn inside(target: &PidFd, on_write: OnWrite) -> Result<Self, TrackerError> {
        let fd = inject::session(target, |session| {
            let flags = on_write.create_flags().cast_unsigned().into();
            let remote = session.system_call(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0])?;
            let number = RawFd::try_from(remote).expect("a descriptor is a small number");
            let copy = target.get_fd(number);
            // Also if the copy failed: nothing of ours stays in the target.
            session.system_call(libc::SYS_close, [remote, 0, 0, 0, 0, 0])?;
            copy.map_err(TrackerError::from)
        })
        .map_err(explain_creation)?;
        Self::enable(fd, target.pid(), on_write)
    }

    /// A userfaultfd for our own memory.
    pub(super) fn own(on_write: OnWrite) -> Result<Self, TrackerError> {
        // SAFETY: userfaultfd takes a number and returns a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, on_write.create_flags()) };
        if fd == -1 {
            return Err(creation_failed(io::Error::last_os_error()));
        }
        let fd = RawFd::try_from(fd).expect("a descriptor is a small number");
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Self::enable(unsafe { OwnedFd::from_raw_fd(fd) }, std::process::id(), on_write)
    }

    fn enable(fd: OwnedFd, pid: u32, on_write: OnWrite) -> Result<Self, TrackerError> {
        let uffd = Self { fd, pid };
        let mut api = Api { api: UFFD_API, features: on_write.features(), ioctls: 0 };
        // EINVAL: a feature is unknown to this kernel.
        uffd.ioctl(UFFDIO_API, &mut api).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => TrackerError::Kernel { release: crate::facts::kernel_release() },
            _ => uffd.failed("set up tracking of", Range::new(0, 0), source),
        })?;
        Ok(uffd)
    }

    /// Begins to watch `range` for writes.
    pub(super) fn register(&self, range: Range) -> Result<(), TrackerError> {
        let mut register = Register { range: range.into(), mode: REGISTER_MODE_WP, ioctls: 0 };
        self.ioctl(UFFDIO_REGISTER, &mut register).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => TrackerError::Busy { pid: self.pid, range },
            _ => self.failed("watch", range, source),
        })
    }

    /// Ends the watch over `range`.
    pub(super) fn unregister(&self, range: Range) -> Result<(), TrackerError> {
        self.ioctl(UFFDIO_UNREGISTER, &mut Span::from(range))
            .map_err(|e| self.failed("stop watching", range, e))
    }

    /// Marks every page of `range`, present or not, as not written.
    pub(super) fn write_protect(&self, range: Range) -> Result<(), TrackerError> {
        let mut start = range.start;
        while start < range.end() {
            let step = Range::between(start, range.end().min(start + PROTECT_STEP));
            match self.protection(step, WRITEPROTECT_MODE_WP) {
                // The process changes its mappings at this moment.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                Err(error) => return Err(self.failed("write-protect", step, error)),
                Ok(()) => start = step.end(),
            }
        }
        Ok(())
    }

    /// Lets whoever waits for writing to `page` go on. Returns false if the process is changing its mappings: what it unmaps
    /// has to be [heard of](Uffd::hear) first.
    ///
    /// If the page is not watched any more its writers wait all the same: the end of a watch wakes those who wait for pages
    /// that are missing, and no others (`userfaultfd_unregister` in Linux's `fs/userfaultfd.c`).
    pub(super) fn lift(&self, page: Range) -> Result<bool, TrackerError> {
        match self.protection(page, 0) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => self.wake(page).map(|()| true),
                Some(libc::EAGAIN) => Ok(false),
                _ => Err(self.failed("let a write go on to", page, error)),
            },
        }
    }

    fn wake(&self, page: Range) -> Result<(), TrackerError> {
        self.ioctl(UFFDIO_WAKE, &mut Span::from(page))
            .map_err(|error| self.failed("let a write go on to", page, error))
    }

    fn protection(&self, range: Range, mode: u64) -> io::Result<()> {
        self.ioctl(UFFDIO_WRITEPROTECT, &mut WriteProtect { range: range.into(), mode })
    }

    /// Appends what there is to hear of by now.
    pub(super) fn hear(&self, tidings: &mut Vec<Tidings>) -> Result<(), TrackerError> {
        let mut messages = [Message::default(); MESSAGES];
        // SAFETY: the buffer is as long as told, and any bytes are valid messages.
        let read =
            unsafe { libc::read(self.fd.as_raw_fd(), messages.as_mut_ptr().cast(), size_of_val(&messages)) };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // Whoever waited goes on already.
                Some(libc::EAGAIN | libc::EINTR) => Ok(()),
                _ => Err(self.failed("hear of writes to", Range::new(0, 0), error)),
            };
        };
        tidings.extend(messages[..read / size_of::<Message>()].iter().filter_map(Tidings::of));
        Ok(())
    }

    /// That memory is not watched any more because the process has unmapped it.
    pub(super) fn lost(&self, range: Range) -> TrackerError {
        TrackerError::Lost { pid: self.pid, range }
    }

    /// Whether the watched memory still exists. Once the process has died, or called exec, it is gone for good.
    /// Linux 6.18 answers a scan of such memory with ESRCH; that a scan takes hold of the memory first is promised
    /// nowhere, and without it a scan would find nothing and report no error. So this is asked after each scan.
    pub(super) fn is_alive(&self) -> bool {
        // This page (at the lowest address that programs may map) is not watched, so the call does nothing. The
        // kernel looks for the memory first: ESRCH if it is gone, ENOENT if only the page is not there.
        let nowhere = Range::new(0x10000, PAGE_SIZE);
        self.protection(nowhere, 0).map_or_else(|error| error.raw_os_error() != Some(libc::ESRCH), |()| true)
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        // SAFETY: the callers above pair each request with the structure that it reads and writes.
        let rc = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn failed(&self, action: &'static str, range: Range, source: io::Error) -> TrackerError {
        TrackerError::system(action, self.pid, range, source)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn explain_creation(error: TrackerError) -> TrackerError {
    match error {
        TrackerError::Inject(InjectError::Call { number: libc::SYS_userfaultfd, source, .. }) => {
            creation_failed(source)
        }
        other => other,
    }
}

fn creation_failed(source: io::Error) -> TrackerError {
    match source.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => TrackerError::Kernel { release: crate::facts::kernel_release() },
        _ => TrackerError::Create { source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::PageBuffer;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_writer_that_waits_when_the_watch_over_its_page_ends_goes_on() {
        let uffd = match Uffd::own(OnWrite::Tell) {
            Ok(uffd) => uffd,
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        let mut buffer = PageBuffer::new(1).expect("a page");
        buffer.bytes_mut()[0] = 1;
        let page = Range::new(buffer.bytes().as_ptr() as u64, PAGE_SIZE);
        uffd.register(page).expect("it is watched");
        uffd.write_protect(page).expect("and protected");
        let (done, written) = channel();
        std::thread::spawn(move || {
            buffer.bytes_mut()[0] = 2;
            let _ = done.send(buffer.bytes()[0]);
        });
        let mut tidings = Vec::new();
        while tidings.is_empty() {
            uffd.hear(&mut tidings).expect("it is heard of");
            std::thread::yield_now();
        }
        assert_eq!(tidings, [Tidings::Write(page)]);
        uffd.unregister(page).expect("the watch ends");
        assert!(uffd.lift(page).expect("the writer goes on"));
        assert_eq!(written.recv_timeout(Duration::from_secs(20)), Ok(2));
    }
}
