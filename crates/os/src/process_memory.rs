//! Owns access to the memory of another process, and the list of its mappings.

use crate::range::Range;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

/// Most ranges in one `process_vm_readv` (`UIO_MAXIOV`).
const MOST_VECTORS: usize = 1024;

/// What went wrong with another process's memory.
#[derive(Debug, thiserror::Error)]
pub enum ProcessMemoryError {
    /// There is no such process (any more).
    #[error("process {pid} does not exist (any more)")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The memory is not there, or we may not touch it.
    #[error("cannot {action} memory of process {pid} at {address:#x}: {source}")]
    Access {
        /// What was tried.
        action: &'static str,
        /// The process.
        pid: u32,
        /// Where the access began.
        address: u64,
        /// The kernel's reason: `EPERM` not ours, `EFAULT` not mapped (or not writable).
        #[source]
        source: io::Error,
    },
    /// Only a part could be copied: the rest is not mapped.
    #[error("process {pid} has only {done} of {wanted} bytes mapped from {address:#x}")]
    Partial {
        /// The process.
        pid: u32,
        /// Where the access began.
        address: u64,
        /// Bytes copied.
        done: usize,
        /// Bytes wanted.
        wanted: usize,
    },
    /// A line of `/proc/PID/maps` that we do not understand.
    #[error("process {pid} has a mapping that cannot be understood: {line:?}")]
    Maps {
        /// The process.
        pid: u32,
        /// The line.
        line: String,
    },
}

impl ProcessMemoryError {
    fn of(action: &'static str, pid: u32, address: u64, source: io::Error) -> Self {
        match source.raw_os_error() {
            // ENOENT comes from /proc only.
            Some(libc::ESRCH | libc::ENOENT) => Self::Gone { pid },
            _ => Self::Access { action, pid, address, source },
        }
    }
}

/// The memory of another process. All accesses fail once the process is dead.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: u32,
    /// Tied to the memory itself, not to the number: cannot mean a later process.
    mem: File,
}

impl ProcessMemory {
    /// Opens the memory of process `pid`.
    ///
    /// # Errors
    /// If there is no such process or we may not trace it.
    pub fn open(pid: u32) -> Result<Self, ProcessMemoryError> {
        let mem = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(|source| ProcessMemoryError::of("open", pid, 0, source))?;
        Ok(Self { pid, mem })
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Copies the bytes at `address` to `dst`.
    ///
    /// # Errors
    /// If they are not all mapped, or the process is gone.
    pub fn read(&self, address: u64, dst: &mut [u8]) -> Result<(), ProcessMemoryError> {
        self.read_ranges(&[Range::new(address, dst.len() as u64)], dst)
    }

    /// Copies scattered ranges, one after the other, to `dst`.
    ///
    /// # Errors
    /// If they are not all mapped, or the process is gone; `dst` then has an unknown part of them.
    ///
    /// # Panics
    /// If `dst` has not exactly room for them.
    pub fn read_ranges(&self, ranges: &[Range], mut dst: &mut [u8]) -> Result<(), ProcessMemoryError> {
        assert_eq!(dst.len(), total(ranges), "the destination does not fit the ranges");
        for some in ranges.chunks(MOST_VECTORS) {
            let (now, rest) = dst.split_at_mut(total(some));
            let wanted = now.len();
            let done = process_vm_readv(self.nix_pid(), &mut [IoSliceMut::new(now)], &remote(some));
            self.complete("read", some, wanted, done)?;
            dst = rest;
        }
        Ok(())
    }

    /// Copies `src` to the bytes at `address`, which must be writable for the process.
    ///
    /// # Errors
    /// If they are not all mapped and writable, or the process is gone.
    pub fn write(&self, address: u64, src: &[u8]) -> Result<(), ProcessMemoryError> {
        let to = [Range::new(address, src.len() as u64)];
        let done = process_vm_writev(self.nix_pid(), &[IoSlice::new(src)], &remote(&to));
        self.complete("write", &to, src.len(), done)
    }

    /// Copies `src` to the bytes at `address` even where the process itself may only read, such as its ROMs.
    ///
    /// # Errors
    /// If they are not all mapped, the process is gone, or the kernel restricts `/proc/PID/mem`.
    pub fn write_forced(&self, address: u64, src: &[u8]) -> Result<(), ProcessMemoryError> {
        self.mem.write_all_at(src, address).map_err(|source| self.failed("force", address, source))
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid).expect("process numbers fit 22 bits"))
    }

    fn failed(&self, action: &'static str, address: u64, source: io::Error) -> ProcessMemoryError {
        ProcessMemoryError::of(action, self.pid, address, source)
    }

    fn complete(
        &self,
        action: &'static str,
        ranges: &[Range],
        wanted: usize,
        done: nix::Result<usize>,
    ) -> Result<(), ProcessMemoryError> {
        let address = ranges.first().map_or(0, |r| r.start);
        match done {
            Ok(done) if done == wanted => Ok(()),
            Ok(done) => Err(ProcessMemoryError::Partial { pid: self.pid, address, done, wanted }),
            Err(errno) => Err(self.failed(action, address, errno.into())),
        }
    }
}

fn total(ranges: &[Range]) -> usize {
    ranges.iter().map(|r| usize::try_from(r.len).expect("a 64-bit machine")).sum()
}

fn remote(ranges: &[Range]) -> Vec<RemoteIoVec> {
    let number = |n| usize::try_from(n).expect("a 64-bit machine");
    ranges.iter().map(|r| RemoteIoVec { base: number(r.start), len: number(r.len) }).collect()
}

/// One mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range,
    /// May be read.
    pub readable: bool,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
    /// Writes go to the file, and others see them.
    pub shared: bool,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// The file's inode number; 0 without a file.
    pub inode: u64,
    /// The file's path, `/memfd:NAME (deleted)`, `[vdso]`, `[stack]`, ...; empty for plain memory.
    pub path: String,
}

/// The mappings of process `pid`, in the order of their addresses.
///
/// # Errors
/// If there is no such process or we may not look.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>, ProcessMemoryError> {
    let text = std::fs::read(format!("/proc/{pid}/maps")).map_err(|source| ProcessMemoryError::Access {
        action: "list",
        pid,
        address: 0,
        source,
    })?;
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .map(|line| parse_mapping(line).ok_or_else(|| ProcessMemoryError::Maps { pid, line: line.into() }))
        .collect()
}

/// `55e0c7a00000-55e0c7a21000 r-xp 00000000 fe:01 1234    /path with spaces`
fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let flags = fields.next()?.as_bytes();
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let _device = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or("").trim_start().to_string();
    let &[r, w, x, s] = flags else { return None };
    (start < end).then(|| Mapping {
        range: Range::between(start, end),
        readable: r == b'r',
        writable: w == b'w',
        executable: x == b'x',
        shared: s == b's',
        offset,
        inode,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_understood() {
        let line =
            "7f0000000000-7f0020000000 rw-s 00001000 00:01 77                         /memfd:ram 0 (deleted)";
        let mapping = parse_mapping(line).unwrap();
        assert_eq!(mapping.range, Range::between(0x7f00_0000_0000, 0x7f00_2000_0000));
        assert!(mapping.readable && mapping.writable && !mapping.executable && mapping.shared);
        assert_eq!((mapping.offset, mapping.inode), (0x1000, 77));
        assert_eq!(mapping.path, "/memfd:ram 0 (deleted)");
        assert_eq!(parse_mapping("7f0000000000-7f0020000000 rw-p 00000000 00:00 0").unwrap().path, "");
        for bad in ["", "x-y rw-p 0 0:0 0", "2000-1000 rw-p 0 00:00 0", "1000-2000 rw 0 00:00 0"] {
            assert_eq!(parse_mapping(bad), None, "{bad}");
        }
    }

    #[test]
    fn our_own_mappings_have_a_vdso_and_a_stack() {
        let all = mappings(std::process::id()).unwrap();
        let here = std::ptr::from_ref(&all) as u64;
        assert!(all.iter().any(|m| m.range.contains(here) && m.writable));
        assert!(all.iter().any(|m| m.path == "[vdso]" && m.executable));
    }
}
