//! The gate on a real TAP, on a bridge in a network namespace of its own. Needs root and /dev/net/tun.

use crate::bench::{PATIENCE, framed};
use crossbeam_channel::Receiver;
use net::{Gate, GateEvent, GateLimits, PortConfig, PortFailure, Side};
use os::netns::{self, Netns};
use os::tap::{self, Tap};
use protocol::Epoch;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

/// A namespace with a bridge that has two TAPs: the gate's and the test's.
struct Lan {
    name: String,
    netns: Netns,
    neighbour: OwnedFd,
    guest: UnixStream,
    gate: Gate,
    events: Receiver<GateEvent>,
}

impl Drop for Lan {
    fn drop(&mut self) {
        netns::delete(&self.name).expect("the namespace goes away");
    }
}

fn lan(tag: &str) -> Option<Lan> {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED: a TAP needs root and /dev/net/tun");
        return None;
    }
    let name = format!("udnet-{tag}-{}", std::process::id());
    let netns = Netns::create(&name).unwrap();
    let make = || {
        tap::create_bridge("br0").unwrap();
        let taps = ["gate0", "other0"].map(|name| {
            let tap = Tap::open(name).unwrap();
            tap::add_to_bridge("br0", name).unwrap();
            tap::set_up(name).unwrap();
            tap.into_fd()
        });
        tap::set_up("br0").unwrap();
        taps
    };
    let [gate_tap, neighbour] = netns.run(make).unwrap();
    let (guest, gate_guest) = UnixStream::pair().unwrap();
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    let ports = vec![PortConfig::nic("net0", gate_guest, gate_tap)];
    let (gate, events) = Gate::spawn(tag, ports, GateLimits::default()).unwrap();
    Some(Lan { name, netns, neighbour, guest, gate, events })
}

/// A broadcast frame of a type that nothing else in the namespace speaks.
fn frame(from: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0x52, 0x54, 0, 0, 0, from, 0x88, 0xb5]);
    frame.extend_from_slice(payload);
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb5])
}

impl Lan {
    /// The next frame of ours on the neighbour's TAP; waits for it.
    fn neighbour_gets(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        loop {
            let mut fds = [PollFd::new(&self.neighbour, PollFlags::IN)];
            let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1, "no frame came");
            let n = rustix::io::read(&self.neighbour, &mut buffer).unwrap();
            if is_ours(&buffer[..n]) {
                return buffer[..n].to_vec();
            }
        }
    }

    fn guest_gets(&mut self) -> Vec<u8> {
        loop {
            let mut header = [0; 4];
            self.guest.read_exact(&mut header).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(header) as usize];
            self.guest.read_exact(&mut frame).unwrap();
            if is_ours(&frame) {
                return frame;
            }
        }
    }

    fn guest_sends(&mut self, payload: &[u8]) {
        self.guest.write_all(&framed(&frame(1, payload))).unwrap();
    }
}

#[test]
fn frames_cross_a_real_tap_when_their_epoch_is_released() {
    let Some(mut lan) = lan("flow") else { return };
    lan.guest_sends(b"epoch one");
    lan.gate.cut(Epoch(1)).unwrap();
    lan.guest_sends(b"epoch two");
    lan.gate.cut(Epoch(2)).unwrap();
    rustix::io::write(&lan.neighbour, &frame(2, b"straight in")).unwrap();
    assert_eq!(lan.guest_gets(), frame(2, b"straight in"));
    lan.gate.release(Epoch(1)).unwrap();
    assert_eq!(lan.neighbour_gets(), frame(1, b"epoch one"));
    lan.gate.open().unwrap();
    assert_eq!(lan.neighbour_gets(), frame(1, b"epoch two"));
    lan.guest_sends(&[7; 1486]);
    assert_eq!(lan.neighbour_gets(), frame(1, &[7; 1486]), "a frame of full size, unprotected");
}

#[test]
fn an_interface_that_is_down_loses_frames_and_no_more() {
    let Some(mut lan) = lan("down") else { return };
    lan.netns.run(|| tap::set_down("gate0").unwrap()).unwrap();
    lan.guest_sends(b"lost");
    lan.gate.cut(Epoch(1)).unwrap();
    lan.gate.release(Epoch(1)).unwrap();
    assert_eq!(lan.gate.stats().ports[0].dropped_refused, 1);
    lan.netns.run(|| tap::set_up("gate0").unwrap()).unwrap();
    lan.guest_sends(b"found");
    lan.gate.cut(Epoch(2)).unwrap();
    lan.gate.release(Epoch(2)).unwrap();
    assert_eq!(lan.neighbour_gets(), frame(1, b"found"));
    assert!(lan.events.try_iter().all(|event| matches!(event, GateEvent::OutputWaits { .. })));
}

#[test]
fn a_deleted_tap_is_an_event() {
    let Some(mut lan) = lan("gone") else { return };
    let delete = || Command::new("ip").args(["link", "delete", "gate0"]).status();
    match lan.netns.run(delete).unwrap() {
        Ok(status) => assert!(status.success()),
        Err(error) => return eprintln!("SKIPPED: no ip command to delete a TAP with: {error}"),
    }
    let closed =
        GateEvent::PortClosed { port: "net0".into(), side: Side::Outside, reason: PortFailure::HungUp };
    assert_eq!(lan.events.recv_timeout(PATIENCE).unwrap(), closed);
    lan.guest_sends(b"nowhere");
    lan.gate.cut(Epoch(1)).unwrap();
    lan.gate.release(Epoch(1)).unwrap();
    assert_eq!(lan.gate.stats().ports[0].dropped_closed, 1);
}

#[test]
fn a_fenced_gate_takes_its_tap_away() {
    let Some(mut lan) = lan("fence") else { return };
    lan.guest_sends(b"lost");
    lan.gate.cut(Epoch(1)).unwrap();
    lan.gate.discard();
    // The TAP was not persistent: with its last descriptor the interface goes.
    let deadline = std::time::Instant::now() + PATIENCE;
    while lan.netns.run(|| tap::exists("gate0").unwrap()).unwrap() {
        assert!(std::time::Instant::now() < deadline, "the TAP is still there");
        std::thread::yield_now();
    }
}
