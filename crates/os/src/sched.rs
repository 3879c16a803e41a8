//! Owns the priority of threads: the one that stops a guest must not itself wait for a processor.

use std::io;

/// Round-robin priority asked for: above ordinary threads, below the kernel's own.
const ROUND_ROBIN: i32 = 10;
/// Nice value asked for if real time is not allowed.
const NICE: i32 = -15;

/// What a thread's priority is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Real time, `SCHED_RR`: runs before every ordinary thread.
    RealTime,
    /// Ordinary, with a better nice value: a larger share, but it may still wait.
    Nice,
}

/// Neither was allowed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the thread keeps its ordinary priority: real time: {real_time}; nice: {nice}; run as root or with CAP_SYS_NICE"
)]
pub struct PriorityError {
    /// Why not real time.
    pub real_time: io::Error,
    /// Why not nice.
    #[source]
    pub nice: io::Error,
}

/// Raises the priority of the calling thread as far as allowed. Children that it forks are ordinary again.
///
/// # Errors
/// If nothing is allowed; the thread goes on as before.
pub fn raise_current_thread() -> Result<Priority, PriorityError> {
    let parameter = libc::sched_param { sched_priority: ROUND_ROBIN };
    // SAFETY: 0 means the calling thread; the parameter is read only.
    let rc = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if rc == 0 {
        return Ok(Priority::RealTime);
    }
    let real_time = io::Error::last_os_error();
    // SAFETY: takes numbers; with PRIO_PROCESS, 0 means the calling thread on Linux.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0 {
        return Ok(Priority::Nice);
    }
    Err(PriorityError { real_time, nice: io::Error::last_os_error() })
}

/// Makes the calling thread an ordinary one again.
///
/// # Errors
/// If the system does not allow even that; the thread goes on as before.
pub fn ordinary_current_thread() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 means the calling thread; the parameter is read only.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes numbers; with PRIO_PROCESS, 0 means the calling thread on Linux.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_ordinary_again() {
        std::thread::spawn(|| {
            let _ = raise_current_thread();
            ordinary_current_thread().unwrap();
            // SAFETY: 0 means the calling thread.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            assert_eq!(policy, libc::SCHED_OTHER);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_result_says_what_the_kernel_says() {
        std::thread::spawn(|| {
            let raised = raise_current_thread();
            // SAFETY: 0 means the calling thread.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            match raised {
                Ok(Priority::RealTime) => assert_eq!(policy, libc::SCHED_RR),
                Ok(Priority::Nice) => {
                    // SAFETY: takes numbers; 0 means the calling thread.
                    assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, NICE);
                }
                Err(_) => assert_eq!(policy, libc::SCHED_OTHER),
            }
        })
        .join()
        .unwrap();
    }
}
