//! Owns the readings of the host's clocks.

use rustix::time::{ClockId, clock_gettime};
use std::io;

/// Microseconds since the host booted, counting suspended time (`CLOCK_BOOTTIME`).
///
/// A process that was stopped and a host that slept both see the time they missed. Readings of two hosts have
/// nothing to do with each other.
#[must_use]
pub fn now_us() -> u64 {
    now_ns() / 1_000
}

/// Nanoseconds since the host booted, counting suspended time (`CLOCK_BOOTTIME`).
#[must_use]
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// Microseconds since 1970 (`CLOCK_REALTIME`): for people and logs, never for deciding; it may be set.
#[must_use]
pub fn realtime_us() -> u64 {
    nanoseconds(ClockId::Realtime) / 1_000
}

/// Whether something, such as an NTP daemon, keeps the time of day right, as far as the kernel was told.
///
/// # Errors
/// If the kernel may not be asked.
pub fn is_kept_right() -> io::Result<bool> {
    // SAFETY: all-zero is a valid value of this structure of numbers, and says that nothing shall be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes one such structure.
    let rc = unsafe { libc::adjtimex(&raw mut state) };
    if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(state.status & libc::STA_UNSYNC == 0) }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).expect("this clock is before its zero");
    let nanos = u64::try_from(now.tv_nsec).expect("the kernel gave a negative fraction of a second");
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_in_the_unit_it_says() {
        let before = (now_us(), std::time::Instant::now());
        while before.1.elapsed().as_micros() < 2_000 {
            std::hint::spin_loop();
        }
        assert!(now_us() - before.0 >= 2_000);
    }

    #[test]
    fn the_kernel_says_whether_the_clock_is_kept_right() {
        // Either; a container may forbid the question.
        let _ = is_kept_right();
    }

    #[test]
    fn real_time_agrees_with_the_standard_library() {
        let std_us = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::try_from(since.as_micros()).unwrap()
        };
        let (low, ours, high) = (std_us(), realtime_us(), std_us());
        assert!(low <= ours && ours <= high, "{low} {ours} {high}");
    }
}
