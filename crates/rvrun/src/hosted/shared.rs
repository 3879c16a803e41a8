//! Owns what a hosted machine's thread and its callers share: the machine under its lock, what it shall do, where it is.

use super::HostedError;
use rustix::event::EventfdFlags;
use rv::Machine;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So long is waited until a machine stands: for its slice, for frames to be taken, for a disk to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the machine shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Stand,
    Run,
    End,
}

/// Where the machine's thread is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Stands,
    Runs,
    Ended(String),
}

/// What lies under the lock.
pub(super) struct Core {
    pub machine: Machine,
    /// Of a machine that stands: what its console said and nobody has taken.
    pub unsaid: Vec<u8>,
    /// It has not run since it was made or loaded: its wall clock is to be set.
    pub is_fresh: bool,
    pub is_off: bool,
    goal: Goal,
    at: At,
    /// How often it came to stand.
    stands: u64,
}

impl Core {
    pub fn goal(&self) -> Goal {
        self.goal
    }

    pub fn runs(&self) -> bool {
        self.at == At::Runs && self.goal == Goal::Run
    }

    fn ended(&self) -> Result<(), HostedError> {
        match &self.at {
            At::Ended(why) => Err(HostedError::Ended(why.clone())),
            At::Stands | At::Runs => Ok(()),
        }
    }
}

/// What a machine's thread and its callers share.
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Makes the machine's thread, which wants the lock again at once, stand in line behind a waiting caller.
    turnstile: Mutex<()>,
    changed: Condvar,
    bell: Arc<Bell>,
}

impl Shared {
    /// Of a machine that stands.
    pub fn new(machine: Machine, bell: Arc<Bell>) -> Shared {
        let core = Core {
            machine,
            unsaid: Vec::new(),
            is_fresh: true,
            is_off: false,
            goal: Goal::Stand,
            at: At::Stands,
            stands: 0,
        };
        Shared { core: Mutex::new(core), turnstile: Mutex::new(()), changed: Condvar::new(), bell }
    }

    /// The machine, between two slices. A thread that died with the lock has ended the machine.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        let _turn = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine that stands, and does so until this is dropped.
    pub fn standing(&self) -> Result<MutexGuard<'_, Core>, HostedError> {
        let core = self.lock();
        core.ended()?;
        if core.at == At::Stands { Ok(core) } else { Err(HostedError::Runs) }
    }

    pub fn stop(&self) -> Result<(), HostedError> {
        let mut core = self.lock();
        core.ended()?;
        if core.at == At::Stands {
            return Ok(());
        }
        core.goal = Goal::Stand;
        self.bell.ring();
        drop(self.await_stand(core)?);
        Ok(())
    }

    /// Waits for a machine that shall stand. It may have gone on again when this returns.
    fn await_stand<'a>(&self, mut core: MutexGuard<'a, Core>) -> Result<MutexGuard<'a, Core>, HostedError> {
        let (stands, until) = (core.stands, Instant::now() + PATIENCE);
        while core.at == At::Runs && core.stands == stands {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HostedError::DoesNotStop(PATIENCE.as_secs()));
            }
            core = self.changed.wait_timeout(core, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        core.ended()?;
        Ok(core)
    }

    pub fn cont(&self) -> Result<(), HostedError> {
        let mut core = self.lock();
        // Somebody else is about to stop it: that comes first.
        if core.at == At::Runs && core.goal == Goal::Stand {
            core = self.await_stand(core)?;
        }
        core.ended()?;
        if core.at == At::Stands {
            (core.goal, core.at) = (Goal::Run, At::Runs);
            self.changed.notify_all();
        }
        Ok(())
    }

    pub fn end(&self) {
        self.lock().goal = Goal::End;
        self.changed.notify_all();
        self.bell.ring();
    }

    /// For the machine's thread, when nothing of it is on its way: stands until it shall do something else.
    pub fn stand(&self, unsaid: &[u8]) -> MutexGuard<'_, Core> {
        let mut core = self.lock();
        // Before it ran for the first time it may have been loaded, with some of that.
        core.unsaid.extend(unsaid);
        while core.goal == Goal::Stand {
            if core.at != At::Stands {
                core.at = At::Stands;
                core.stands += 1;
                self.changed.notify_all();
            }
            core = self.changed.wait(core).unwrap_or_else(PoisonError::into_inner);
        }
        core
    }

    /// For the machine's thread: it goes no further. Whether nobody wanted that.
    pub fn ended(&self, why: &str) -> bool {
        let mut core = self.lock();
        core.at = At::Ended(why.to_owned());
        self.changed.notify_all();
        core.goal != Goal::End
    }
}

/// Calls the machine's thread from where it waits.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> io::Result<Bell> {
        Ok(Bell(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub fn ring(&self) {
        // It can only fail when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub fn take(&self) {
        // Fails if it was not rung.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        Shared::new(Machine::new(0x1000), Arc::new(Bell::new().unwrap()))
    }

    #[test]
    fn what_was_loaded_before_the_thread_was_there_is_not_forgotten() {
        let shared = shared();
        shared.standing().unwrap().unsaid = b"loaded".to_vec();
        shared.cont().unwrap();
        let core = shared.stand(b"");
        assert_eq!((core.unsaid.as_slice(), core.is_fresh), (b"loaded".as_slice(), true));
    }

    #[test]
    fn one_that_is_stopped_before_it_began_to_run_stands() {
        let shared = shared();
        shared.cont().unwrap();
        assert!(matches!(shared.standing().map(drop), Err(HostedError::Runs)));
        std::thread::scope(|scope| {
            // As its thread does: if that is there before the stop, it runs for a moment.
            let lives = || match shared.stand(b"").goal() {
                Goal::Run => None,
                goal => Some(goal),
            };
            let thread = scope.spawn(move || std::iter::repeat_with(lives).find_map(|goal| goal));
            shared.stop().unwrap();
            drop(shared.standing().unwrap());
            shared.end();
            assert_eq!(thread.join().unwrap(), Some(Goal::End));
        });
        assert!(!shared.ended("as it should"));
        assert!(matches!(shared.stop(), Err(HostedError::Ended(_))));
    }
}
