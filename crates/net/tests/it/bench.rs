//! What the gate's tests share: a NIC whose two ends the test holds.

use net::{ConsoleSink, PortConfig};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Longest wait for something that must come; reached only when it does not.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// QEMU's end and the network's end of a NIC port.
pub struct Nic {
    /// QEMU's end of its socket.
    pub guest: UnixStream,
    /// The network, in place of a TAP: keeps message boundaries and says when the other end is closed.
    pub world: OwnedFd,
}

/// A NIC port and its ends.
pub fn nic(name: &str) -> (PortConfig, Nic) {
    let (guest, gate_guest) = UnixStream::pair().unwrap();
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    let (world, tap) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::sockopt::set_socket_timeout(&world, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))
        .unwrap();
    (PortConfig::nic(name, gate_guest, tap), Nic { guest, world })
}

/// A frame with a header that teaches no address, and a payload.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&[0x88, 0xb5]);
    frame.extend_from_slice(payload);
    frame
}

/// A frame as it goes over QEMU's socket.
pub fn framed(frame: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    bytes
}

impl Nic {
    /// The guest sends a frame.
    pub fn guest_sends(&mut self, frame: &[u8]) {
        self.guest.write_all(&framed(frame)).unwrap();
    }

    /// The next frame that the guest gets; waits for it.
    pub fn guest_gets(&mut self) -> Vec<u8> {
        let mut header = [0; 4];
        self.guest.read_exact(&mut header).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(header) as usize];
        self.guest.read_exact(&mut frame).unwrap();
        frame
    }

    /// The next frame in the world, waiting for it; `None` if the gate closed its end.
    pub fn world_gets(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match rustix::io::read(&self.world, &mut buffer) {
            Ok(0) => None,
            Ok(n) => Some(buffer[..n].to_vec()),
            Err(errno) => panic!("no frame came: {errno}"),
        }
    }

    /// The world sends a frame.
    pub fn world_sends(&self, frame: &[u8]) {
        rustix::io::write(&self.world, frame).unwrap();
    }

    /// All frames that are in the world now.
    pub fn world_has(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match rustix::net::recv(&self.world, &mut buffer, rustix::net::RecvFlags::DONTWAIT) {
                Ok((n, _)) if n > 0 => frames.push(buffer[..n].to_vec()),
                Ok(_) | Err(rustix::io::Errno::AGAIN) => return frames,
                Err(errno) => panic!("{errno}"),
            }
        }
    }
}

/// A console port: QEMU's end of its socket, and what the sink was given (offset and bytes).
pub fn console(name: &str, start: u64) -> (PortConfig, UnixStream, Receiver<(u64, Vec<u8>)>) {
    let (guest, gate_guest) = UnixStream::pair().unwrap();
    let (sender, receiver) = channel();
    let sink: Box<dyn ConsoleSink> = Box::new(move |offset: u64, bytes: &[u8]| {
        sender.send((offset, bytes.to_vec())).map_err(std::io::Error::other)
    });
    (PortConfig::console(name, gate_guest, start, sink), guest, receiver)
}
