//! Children: what they inherit, and that they die with us.

use crate::target::Target;
use os::process::{Exit, ProcessError};
use os::{Memory, PAGE_SIZE, PidFd, Spawn};
use std::io::{ErrorKind, Read};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_child_dies_when_its_parent_is_killed() {
    let mut parent = Target::start("parent");
    let child = PidFd::open(parent.greeting.parse().unwrap()).unwrap();
    assert!(!child.is_dead());
    parent.child.kill().unwrap();
    assert!(child.wait_dead(Some(Duration::from_secs(60))));
    assert_eq!(parent.child.wait(None).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
}

#[test]
fn a_child_does_not_die_with_the_thread_that_asked_for_it() {
    let start = || (Target::start("poll"), rustix::thread::gettid());
    let (mut target, thread) = std::thread::spawn(start).join().unwrap();
    // A thread is joined a little before it is gone for the kernel.
    while std::fs::exists(format!("/proc/self/task/{}", thread.as_raw_pid())).unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(target.ask("alive"), "alive");
}

#[test]
fn a_dropped_child_is_killed_and_reaped() {
    let target = Target::start("poll");
    let pid = target.pid();
    drop(target);
    assert!(matches!(PidFd::open(pid), Err(ProcessError::Gone { .. })));
}

#[test]
fn only_named_descriptors_are_inherited() {
    let memory = Memory::create("given", PAGE_SIZE).unwrap();
    let _kept = Memory::create("kept", PAGE_SIZE).unwrap();
    let target = Target::start_with("filtered", "", Some(&memory));
    let descriptors = target.descriptors();
    assert!(descriptors.iter().any(|d| d.contains("/memfd:given")), "{descriptors:?}");
    assert!(!descriptors.iter().any(|d| d.contains("/memfd:kept")), "{descriptors:?}");
}

#[test]
fn what_a_child_writes_to_inherited_memory_is_seen_here() {
    let memory = Memory::create("given", PAGE_SIZE).unwrap();
    let target = Target::start_with("one-byte", "", Some(&memory));
    assert_eq!(target.finish(), Exit::Status(0));
    let mut bytes = [0; 3];
    memory.read_at(4, &mut bytes);
    assert_eq!(&bytes, b"\0x\0");
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let error = Spawn::new("no-such-program-here").spawn().unwrap_err();
    assert!(matches!(&error, ProcessError::Start { source, .. } if source.kind() == ErrorKind::NotFound));
    assert!(error.to_string().contains("no-such-program-here"));
}

#[test]
fn exit_statuses_and_pipes_arrive() {
    let mut spawn = Spawn::new("sh");
    spawn.args(["-c", "echo $WORD; exit 3"]).env("WORD", "out").stdout(Stdio::piped());
    let mut child = spawn.spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");
    assert_eq!(child.wait(None).unwrap(), Some(Exit::Status(3)));
    assert_eq!(child.try_wait().unwrap(), Some(Exit::Status(3)), "asked again");
    child.kill().unwrap();
}

#[test]
fn waiting_with_a_limit_leaves_a_running_child_alone() {
    let mut target = Target::start("poll");
    assert_eq!(target.child.wait(Some(Duration::from_millis(1))).unwrap(), None);
    assert_eq!(target.ask("still here"), "still here");
}
