//! Owns having the heap of another process mapped before the process touches it.

use crate::inject::{InjectError, system_call};
use crate::process::PidFd;
use crate::process_memory::mappings;

/// Maps what of `target`'s heap was allocated and never touched, so that no fault is in the way when it is. What the heap holds
/// stays as it is (`MADV_POPULATE_WRITE`, madvise(2), Linux 5.14). The target stands still meanwhile: some 10 ms for 16 MiB.
/// Gives the bytes of the heap.
///
/// # Errors
/// What keeps a system call from being run in the target, or the kernel has no memory.
pub fn populate(target: &PidFd) -> Result<u64, InjectError> {
    let mut bytes = 0;
    for heap in mappings(target.pid())?.iter().filter(|mapping| mapping.path == "[heap]") {
        let (start, len) = (heap.range.start, heap.range.len);
        let advice = u64::from(libc::MADV_POPULATE_WRITE.cast_unsigned());
        system_call(target, libc::SYS_madvise, [start, len, advice, 0, 0, 0])?;
        bytes += len;
    }
    Ok(bytes)
}
