//! System calls inside another process, which must not notice.

use crate::target::{BROKEN, INTERRUPTED, PROGRESS, SIGNALS, Target};
use os::PidFd;
use os::inject::{InjectError, session, system_call};
use os::process::Exit;
use rustix::process::Signal;
use std::time::Duration;

fn getpid(target: &Target) -> Result<u64, InjectError> {
    system_call(target.child.pidfd(), libc::SYS_getpid, [0; 6])
}

#[test]
fn a_target_that_waits_in_ppoll_does_not_notice() {
    let mut target = Target::start("poll");
    for round in 0..1000 {
        assert_eq!(getpid(&target).unwrap(), u64::from(target.pid()));
        if round % 100 == 0 {
            assert_eq!(target.ask("hello"), "hello");
        }
    }
    assert_eq!(target.counter(INTERRUPTED), 0);
    assert_eq!(target.finish(), Exit::Status(0));
}

/// Bytes of the target's heap, and how many of them are in memory.
fn heap(target: &Target) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", target.pid())).unwrap();
    let (_, heap) = text.split_once("[heap]\n").expect("a heap");
    let kib = |name: &str| {
        let line = heap.lines().find_map(|line| line.strip_prefix(name)).expect("in each mapping");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    (kib("Size:"), kib("Rss:"))
}

#[test]
fn what_of_a_heap_was_never_touched_is_mapped_and_the_rest_stays() {
    let mut target = Target::start("poll");
    let (size, before) = heap(&target);
    assert!(before < size, "all of the heap is in memory already");
    assert_eq!(os::heap::populate(target.child.pidfd()).unwrap(), size);
    assert_eq!(heap(&target), (size, size));
    assert_eq!(target.ask("hello"), "hello");
    assert_eq!(target.counter(INTERRUPTED), 0);
    assert_eq!(target.finish(), Exit::Status(0));
}

#[test]
fn a_target_that_computes_does_not_notice() {
    let target = Target::start("busy");
    for round in 1..1000 {
        assert_eq!(getpid(&target).unwrap(), u64::from(target.pid()));
        target.await_counter(PROGRESS, round / 10);
    }
    assert_eq!(target.counter(BROKEN), 0);
    assert_eq!(target.finish(), Exit::Status(0));
}

#[test]
fn signals_that_arrive_meanwhile_are_all_delivered() {
    let target = Target::start("busy");
    let sent = 500;
    let pid = libc::pid_t::try_from(target.pid()).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for _ in 0..sent {
                // SAFETY: sigqueue takes numbers and a value that nobody reads.
                let rc = unsafe { libc::sigqueue(pid, libc::SIGRTMIN(), std::mem::zeroed()) };
                assert_eq!(rc, 0);
                std::thread::yield_now();
            }
        });
        while !sender.is_finished() {
            getpid(&target).unwrap();
        }
    });
    target.await_counter(SIGNALS, sent);
    assert_eq!(target.counter(SIGNALS), sent);
    assert_eq!(target.counter(BROKEN), 0);
}

#[test]
fn a_stopped_target_stays_stopped() {
    let mut target = Target::start("poll");
    target.pause();
    for _ in 0..20 {
        assert_eq!(getpid(&target).unwrap(), u64::from(target.pid()));
    }
    while target.state() != 'T' {
        std::thread::yield_now();
    }
    target.resume();
    assert_eq!(target.ask("awake"), "awake");
    assert_eq!(target.counter(INTERRUPTED), 0);
}

#[test]
fn a_stop_that_arrives_meanwhile_takes_effect_afterwards() {
    let mut target = Target::start("poll");
    session(target.child.pidfd(), |session| {
        // SAFETY: kill takes numbers.
        unsafe { libc::kill(libc::pid_t::try_from(target.pid()).unwrap(), libc::SIGSTOP) };
        session.system_call(libc::SYS_getpid, [0; 6])
    })
    .unwrap();
    while target.state() != 'T' {
        std::thread::yield_now();
    }
    target.resume();
    assert_eq!(target.ask("awake"), "awake");
}

#[test]
fn stops_and_continuations_at_any_moment_do_no_harm() {
    let target = Target::start("busy");
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for _ in 0..300 {
                target.child.pidfd().send_signal(Signal::STOP).unwrap();
                std::thread::yield_now();
                target.child.pidfd().send_signal(Signal::CONT).unwrap();
            }
        });
        while !sender.is_finished() {
            assert_eq!(getpid(&target).unwrap(), u64::from(target.pid()));
        }
    });
    target.child.pidfd().send_signal(Signal::CONT).unwrap();
    let before = target.counter(PROGRESS);
    target.await_counter(PROGRESS, before + 10);
    assert_eq!(target.counter(BROKEN), 0);
}

#[test]
fn a_system_call_that_fails_is_told_and_the_target_goes_on() {
    let mut target = Target::start("poll");
    let error = system_call(target.child.pidfd(), libc::SYS_close, [999, 0, 0, 0, 0, 0]).unwrap_err();
    assert!(
        matches!(&error, InjectError::Call { source, .. } if source.raw_os_error() == Some(libc::EBADF)),
        "{error}"
    );
    assert_eq!(target.ask("on"), "on");
}

#[test]
fn a_panic_in_a_session_lets_the_target_go_on() {
    let mut target = Target::start("poll");
    let panicked = std::panic::catch_unwind(|| {
        session::<(), InjectError>(target.child.pidfd(), |session| {
            session.system_call(libc::SYS_getpid, [0; 6])?;
            panic!("on purpose")
        })
    });
    assert!(panicked.is_err());
    assert_eq!(target.ask("on"), "on");
    assert_eq!(target.counter(INTERRUPTED), 0);
}

#[test]
fn scratch_memory_can_be_passed_to_a_system_call() {
    let target = Target::start("poll");
    let name = session(target.child.pidfd(), |session| {
        let at = session.scratch(390);
        session.system_call(libc::SYS_uname, [at, 0, 0, 0, 0, 0])?;
        let mut name = [0; 5];
        session.memory().read(at, &mut name)?;
        Ok::<_, InjectError>(name)
    });
    assert_eq!(&name.unwrap(), b"Linux");
}

#[test]
fn dead_targets_are_told_as_gone() {
    let mut target = Target::start("poll");
    target.child.kill().unwrap();
    assert!(target.child.pidfd().wait_dead(None));
    assert!(matches!(getpid(&target), Err(InjectError::Gone { .. })), "a zombie");
    target.child.wait(None).unwrap();
    assert!(matches!(getpid(&target), Err(InjectError::Gone { .. })), "reaped");
    assert!(matches!(PidFd::open(target.pid()), Err(os::process::ProcessError::Gone { .. })));
}

#[test]
fn a_target_that_dies_meanwhile_is_an_error() {
    let mut target = Target::start("poll");
    let result = session(target.child.pidfd(), |session| {
        target.child.kill().unwrap();
        assert!(target.child.pidfd().wait_dead(Some(Duration::from_secs(60))));
        session.system_call(libc::SYS_getpid, [0; 6])
    });
    assert!(matches!(result, Err(InjectError::Gone { .. })), "{result:?}");
    assert_eq!(target.child.wait(None).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
}

#[test]
fn a_target_that_is_killed_at_any_moment_is_told_as_gone() {
    for _ in 0..20 {
        let mut target = Target::start("busy");
        let pidfd = PidFd::open(target.pid()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                target.await_counter(PROGRESS, 3);
                pidfd.kill().unwrap();
            });
            let error = loop {
                if let Err(error) = getpid(&target) {
                    break error;
                }
            };
            assert!(matches!(error, InjectError::Gone { .. }), "{error:?}");
        });
        assert_eq!(target.child.wait(None).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
    }
}

#[test]
fn a_target_under_a_seccomp_filter_is_refused() {
    let target = Target::start("filtered");
    assert!(matches!(getpid(&target), Err(InjectError::Filtered { .. })));
}

#[test]
fn a_target_that_is_traced_already_is_refused_with_the_tracer_s_name() {
    let target = Target::start("poll");
    let second = session::<_, InjectError>(target.child.pidfd(), |_| Ok(getpid(&target))).unwrap();
    assert!(matches!(second, Err(InjectError::NotAllowed { tracer: Some(_), .. })), "{second:?}");
    assert!(getpid(&target).is_ok());
}
