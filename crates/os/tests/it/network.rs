//! Namespaces, bridges and TAPs, in namespaces of the test's own.

use os::netns::{self, Netns};
use os::tap::{self, Tap};
use os::{Child, Spawn};
use rustix::event::{PollFd, PollFlags};
use std::os::fd::AsFd;

/// A namespace that is deleted with this, or `None` where we may not make one.
struct Scratch {
    name: String,
    netns: Netns,
}

impl Scratch {
    fn new(purpose: &str) -> Option<Self> {
        let name = format!("os-test-{purpose}-{}", std::process::id());
        match Netns::create(&name) {
            Ok(netns) => Some(Self { name, netns }),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                None
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        netns::delete(&self.name).unwrap();
    }
}

#[test]
fn a_namespace_has_its_own_interfaces_and_goes_away() {
    let Some(scratch) = Scratch::new("own") else { return };
    scratch.netns.run(|| tap::create_bridge("br-own")).unwrap().unwrap();
    assert!(scratch.netns.run(|| tap::exists("br-own")).unwrap().unwrap());
    assert!(!tap::exists("br-own").unwrap(), "this thread stayed where it was");
    let again = Netns::create(&scratch.name).unwrap_err();
    assert_eq!(again.source.kind(), std::io::ErrorKind::AlreadyExists);
    let name = scratch.name.clone();
    drop(scratch);
    assert_eq!(Netns::open(&name).unwrap_err().source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn names_that_are_paths_are_refused() {
    for bad in ["", ".", "..", "a/b"] {
        assert!(Netns::create(bad).is_err() && netns::delete(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn frames_go_over_a_bridge_from_tap_to_tap() {
    let Some(scratch) = Scratch::new("frames") else { return };
    scratch.netns.run(bridge_two_taps).unwrap();
}

fn bridge_two_taps() {
    tap::create_bridge("br0").unwrap();
    tap::set_up("br0").unwrap();
    let taps = ["tap0", "tap1"].map(|name| {
        let tap = Tap::open(name).unwrap();
        tap::set_mtu(name, 1400).unwrap();
        tap::add_to_bridge("br0", name).unwrap();
        tap::set_up(name).unwrap();
        tap
    });
    let mut frame = [0x55; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert_eq!(rustix::io::write(&taps[0], &frame).unwrap(), frame.len());
    // Other frames (IPv6 finding its feet) may come first.
    loop {
        let mut fds = [PollFd::new(&taps[1], PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        let mut got = [0; 2000];
        let len = rustix::io::read(&taps[1], &mut got).unwrap();
        if got[..len] == frame {
            break;
        }
    }
    assert_eq!(
        rustix::io::read(taps[0].as_fd(), &mut [0; 2000]).map_or_else(|e| e, |_| rustix::io::Errno::AGAIN),
        rustix::io::Errno::AGAIN,
        "not blocking"
    );
}

#[test]
fn bridges_are_told_from_other_interfaces() {
    let Some(scratch) = Scratch::new("kinds") else { return };
    scratch
        .netns
        .run(|| {
            tap::create_bridge("br0").unwrap();
            let _tap = Tap::open("tap0").unwrap();
            assert!(tap::is_bridge("br0").unwrap());
            assert!(!tap::is_bridge("tap0").unwrap());
            assert!(!tap::is_bridge("lo").unwrap());
            assert!(tap::is_bridge("none").is_err());
            assert!(tap::add_to_bridge("tap0", "br0").is_err(), "not a bridge");
            assert!(Tap::open("tap0").is_err(), "somebody has it open");
            tap::delete_bridge("br0").unwrap();
            assert!(!tap::exists("br0").unwrap());
        })
        .unwrap();
}

#[test]
fn a_child_lives_in_the_namespace_of_the_thread_that_asked_for_it() {
    let Some(scratch) = Scratch::new("child") else { return };
    let namespace = |child: &Child| std::fs::read_link(format!("/proc/{}/ns/net", child.pid())).unwrap();
    let sleep = || {
        let mut spawn = Spawn::new("sleep");
        spawn.arg("1000");
        spawn.spawn().unwrap()
    };
    let (outside, inside) = (sleep(), scratch.netns.run(sleep).unwrap());
    assert_eq!(namespace(&outside), std::fs::read_link("/proc/self/ns/net").unwrap());
    assert_ne!(namespace(&outside), namespace(&inside));
}
