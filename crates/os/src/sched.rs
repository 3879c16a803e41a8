//! Owns the priority of threads: those that stop a guest, and what it stands still for, must not wait for a processor.

use std::io;

/// Round-robin priority asked for: above ordinary threads, below the kernel's own.
const ROUND_ROBIN: i32 = 10;
/// That of what a guest stands still for: above all threads that work for its copy.
const HURRY: i32 = ROUND_ROBIN + 1;
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
    // 0 means the calling thread.
    let Err(real_time) = schedule(0, libc::SCHED_RR, ROUND_ROBIN) else {
        return Ok(Priority::RealTime);
    };
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
    schedule(0, libc::SCHED_OTHER, 0)?;
    // SAFETY: takes numbers; with PRIO_PROCESS, 0 means the calling thread on Linux.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A thread, perhaps of another process, that runs before all others of ours until this is dropped.
#[derive(Debug)]
pub struct Hurry(libc::pid_t);

impl Hurry {
    /// Gives thread `tid` the priority. One that has a priority of its own keeps that.
    ///
    /// # Errors
    /// If it is not allowed, or there is no such thread.
    pub fn of(tid: u32) -> io::Result<Self> {
        let tid = libc::pid_t::try_from(tid).map_err(io::Error::other)?;
        // SAFETY: takes a number.
        match unsafe { libc::sched_getscheduler(tid) } {
            -1 => return Err(io::Error::last_os_error()),
            policy if policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_OTHER => {}
            _ => return Err(io::Error::other("the thread has a priority of its own")),
        }
        schedule(tid, libc::SCHED_RR, HURRY)?;
        Ok(Self(tid))
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        // It fails if the thread is gone.
        let _ = schedule(self.0, libc::SCHED_OTHER, 0);
    }
}

/// Threads that this one makes are ordinary in any case. (Who lowers a priority may do so without any right if that is left as
/// it is: sched(7).)
fn schedule(tid: libc::pid_t, policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority };
    // SAFETY: takes numbers; the parameter is read only.
    let rc =
        unsafe { libc::sched_setscheduler(tid, policy | libc::SCHED_RESET_ON_FORK, &raw const parameter) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(tid: libc::pid_t) -> libc::c_int {
        // SAFETY: takes a number.
        unsafe { libc::sched_getscheduler(tid) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn a_thread_in_a_hurry_is_ordinary_again_and_one_with_a_priority_of_its_own_keeps_it() {
        let (told, tids) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            told.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            wait.recv().unwrap();
            let raised = raise_current_thread().is_ok_and(|priority| priority == Priority::RealTime);
            told.send(i32::from(raised)).unwrap();
            wait.recv().unwrap();
        });
        let tid = tids.recv().unwrap();
        let other = tid.cast_unsigned();
        for _ in 0..2 {
            let hurry = Hurry::of(other);
            let expected = if hurry.is_ok() { libc::SCHED_RR } else { libc::SCHED_OTHER };
            assert_eq!(policy(tid), expected);
            drop(hurry);
            assert_eq!(policy(tid), libc::SCHED_OTHER);
        }
        go_on.send(()).unwrap();
        if tids.recv().unwrap() == 1 {
            assert!(Hurry::of(other).is_err());
            assert_eq!(policy(tid), libc::SCHED_RR, "its own");
        }
        go_on.send(()).unwrap();
        thread.join().unwrap();
        assert!(Hurry::of(other).is_err(), "it is gone");
    }

    #[test]
    fn a_thread_is_ordinary_again() {
        std::thread::spawn(|| {
            let _ = raise_current_thread();
            ordinary_current_thread().unwrap();
            assert_eq!(policy(0), libc::SCHED_OTHER);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_result_says_what_the_kernel_says() {
        std::thread::spawn(|| {
            let raised = raise_current_thread();
            match raised {
                Ok(Priority::RealTime) => assert_eq!(policy(0), libc::SCHED_RR),
                Ok(Priority::Nice) => {
                    // SAFETY: takes numbers; 0 means the calling thread.
                    assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, NICE);
                }
                Err(_) => assert_eq!(policy(0), libc::SCHED_OTHER),
            }
        })
        .join()
        .unwrap();
    }
}
