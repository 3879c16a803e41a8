//! Owns what the kernel tells of a TCP connection.

use rustix::net::sockopt;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};

/// How packets of a connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpPath {
    /// The largest packet that the whole way is known to carry, in bytes; 65,535 at the most.
    pub mtu: u32,
    /// The most payload of one packet, in bytes.
    pub segment: u32,
    /// Packets that had to be sent again since the connection stands.
    pub sent_again: u32,
}

/// What is known of a connection's way now.
///
/// # Errors
/// If it is no TCP connection.
pub fn path(socket: impl AsFd) -> io::Result<TcpPath> {
    let socket = socket.as_fd();
    // Any other socket would answer with something else under the same number.
    if sockopt::socket_type(socket)? != rustix::net::SocketType::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all-zero is a valid value of this structure of numbers.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).expect("a small structure");
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has as many, and the new length to `len`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if rc == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpPath { mtu: info.tcpi_pmtu, segment: info.tcpi_snd_mss, sent_again: info.tcpi_total_retrans })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_connection_knows_its_way_and_other_sockets_have_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = path(&stream).unwrap();
        // No packet of IP is longer, whatever the interface could carry.
        assert_eq!(found.mtu, crate::tap::mtu("lo").unwrap().min(65_535));
        assert!(found.segment > 500 && found.segment < found.mtu, "{found:?}");
        assert_eq!(found.sent_again, 0);
        assert!(path(UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
        assert!(crate::tap::addresses().unwrap().contains(&("lo".into(), "127.0.0.1".parse().unwrap())));
    }
}
