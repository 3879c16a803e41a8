//! Owns what only an ioctl tells of block devices.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IO(0x12, 94)` of include/uapi/linux/fs.h.
const BLKROGET: libc::c_ulong = 0x125e;

/// Whether an open block device is read-only. Opening tells not: the kernel lets root open a read-only device to
/// write it, and fails the writes.
///
/// # Errors
/// `ENOTTY` if it is no block device.
pub fn is_read_only(device: impl AsFd) -> io::Result<bool> {
    let mut read_only: libc::c_int = 0;
    // SAFETY: BLKROGET writes one int to its argument, which is ours; other files refuse it (ENOTTY).
    let rc = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BLKROGET, &raw mut read_only) };
    if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(read_only != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(is_read_only(null).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
