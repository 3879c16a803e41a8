//! Owns TAP devices and the few settings of network interfaces that we need, in the calling thread's network
//! namespace. By ioctl: no other program and no netlink library is needed.

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const TUN_DEVICE: &str = "/dev/net/tun";
// include/uapi/linux/sockios.h, ethtool.h
const SIOCBRADDBR: libc::c_ulong = 0x89a0;
const SIOCBRDELBR: libc::c_ulong = 0x89a1;
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
const ETHTOOL_GDRVINFO: u32 = 3;

/// What went wrong with a network interface.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// An interface name that the kernel cannot have.
    #[error("{name:?} cannot be an interface's name: 1 to 15 characters, without '/', ':' or spaces")]
    Name {
        /// The name.
        name: String,
    },
    /// A system call failed.
    #[error("cannot {action} interface {name}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The interface.
        name: String,
        /// The kernel's reason; `PermissionDenied` without root, `ENODEV` if it does not exist here.
        #[source]
        source: io::Error,
    },
}

/// An open TAP device: each read and each write is one Ethernet frame, without any header. Not blocking.
#[derive(Debug)]
pub struct Tap {
    name: String,
    fd: OwnedFd,
}

impl Tap {
    /// Makes the TAP device `name`, or opens it if it exists and nobody else has it open. It vanishes when closed,
    /// if it was not made persistent by someone else.
    ///
    /// # Errors
    /// `PermissionDenied` without root, `ResourceBusy` if somebody has it open, `NotFound` without the `tun` module.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = Request::new(name)?;
        let failed = |source| system("open TAP", name, source);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(TUN_DEVICE).map_err(failed)?;
        let fd = OwnedFd::from(file);
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| failed(e.into()))?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        request.0.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("small flags");
        request.call(fd.as_fd(), libc::TUNSETIFF).map_err(failed)?;
        Ok(Self { name: name.to_string(), fd })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sets the largest payload of a frame of interface `name`, in bytes.
///
/// # Errors
/// If there is no such interface, or it does not allow this size.
pub fn set_mtu(name: &str, mtu: u32) -> Result<(), TapError> {
    let mut request = Request::new(name)?;
    request.0.ifr_ifru.ifru_mtu = i32::try_from(mtu).unwrap_or(i32::MAX);
    request.on_socket("set the MTU of", libc::SIOCSIFMTU).map(drop)
}

/// The largest payload of a frame of interface `name`, in bytes.
///
/// # Errors
/// If there is no such interface.
pub fn mtu(name: &str) -> Result<u32, TapError> {
    let request = Request::new(name)?.on_socket("read the MTU of", libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU has set the MTU; as plain bytes it would be valid in any case.
    let mtu = unsafe { request.0.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// Whether interface `name` is up.
///
/// # Errors
/// If there is no such interface.
pub fn is_up(name: &str) -> Result<bool, TapError> {
    let request = Request::new(name)?.on_socket("read the flags of", libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS has set the flags; as plain bytes they would be valid in any case.
    let flags = unsafe { request.0.ifr_ifru.ifru_flags };
    Ok(flags & up_flag() != 0)
}

/// Every address of this namespace's interfaces, with the interface's name.
///
/// # Errors
/// If the kernel does not list them.
pub fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let of = |found: InterfaceAddress| {
        let address = found.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let either = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())));
        Some((found.interface_name, either?))
    };
    Ok(getifaddrs()?.filter_map(of).collect())
}

/// Brings interface `name` up.
///
/// # Errors
/// If there is no such interface, or we may not.
pub fn set_up(name: &str) -> Result<(), TapError> {
    change_flags(name, |flags| flags | up_flag())
}

/// Takes interface `name` down.
///
/// # Errors
/// If there is no such interface, or we may not.
pub fn set_down(name: &str) -> Result<(), TapError> {
    change_flags(name, |flags| flags & !up_flag())
}

fn up_flag() -> libc::c_short {
    libc::c_short::try_from(libc::IFF_UP).expect("a small flag")
}

fn change_flags(name: &str, change: impl FnOnce(libc::c_short) -> libc::c_short) -> Result<(), TapError> {
    let mut request = Request::new(name)?.on_socket("read the flags of", libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS has set the flags; as plain bytes they would be valid in any case.
    let flags = unsafe { request.0.ifr_ifru.ifru_flags };
    request.0.ifr_ifru.ifru_flags = change(flags);
    request.on_socket("change the flags of", libc::SIOCSIFFLAGS).map(drop)
}

/// Makes interface `name` a port of `bridge`.
///
/// # Errors
/// If one of them does not exist, `bridge` is no bridge, or the interface is a port already (`ResourceBusy`).
pub fn add_to_bridge(bridge: &str, name: &str) -> Result<(), TapError> {
    let mut request = Request::new(bridge)?;
    request.0.ifr_ifru.ifru_ifindex = index(name)?;
    request.on_socket("add a port to bridge", SIOCBRADDIF).map(drop)
}

/// Makes the bridge `name`, down at first.
///
/// # Errors
/// If there is an interface of this name, or we may not.
pub fn create_bridge(name: &str) -> Result<(), TapError> {
    bridge_ioctl("create bridge", name, SIOCBRADDBR)
}

/// Deletes the bridge `name`, which must be down.
///
/// # Errors
/// If there is no such bridge, it is up, or we may not.
pub fn delete_bridge(name: &str) -> Result<(), TapError> {
    bridge_ioctl("delete bridge", name, SIOCBRDELBR)
}

fn bridge_ioctl(action: &'static str, name: &str, ioctl: libc::c_ulong) -> Result<(), TapError> {
    let request = Request::new(name)?;
    let socket = socket(action, name)?;
    // SAFETY: these two ioctls read a name of at most IFNAMSIZ bytes, which is how a request begins.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), ioctl, &raw const request.0.ifr_name) };
    if rc == -1 { Err(system(action, name, io::Error::last_os_error())) } else { Ok(()) }
}

/// Whether an interface of this name exists in this namespace.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn exists(name: &str) -> Result<bool, TapError> {
    match index(name) {
        Ok(_) => Ok(true),
        Err(TapError::System { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Whether interface `name` is a Linux bridge.
///
/// # Errors
/// If there is no such interface.
pub fn is_bridge(name: &str) -> Result<bool, TapError> {
    // Not by /sys/class/net, which shows the namespace in which it was mounted, not ours.
    index(name)?;
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = Request::new(name)?;
    request.0.ifr_ifru.ifru_data = (&raw mut info).cast();
    match request.on_socket("identify", libc::SIOCETHTOOL) {
        Ok(_) => Ok(info.driver.starts_with(b"bridge\0")),
        // Interfaces without a driver that talks (loopback) are no bridges.
        Err(TapError::System { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(other) => Err(other),
    }
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

fn index(name: &str) -> Result<i32, TapError> {
    let request = Request::new(name)?.on_socket("find", libc::SIOCGIFINDEX)?;
    // SAFETY: SIOCGIFINDEX has set the index; as plain bytes it would be valid in any case.
    Ok(unsafe { request.0.ifr_ifru.ifru_ifindex })
}

/// A `struct ifreq` for one interface.
struct Request(libc::ifreq);

impl Request {
    fn new(name: &str) -> Result<Self, TapError> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(plain);
        if !fits || name == "." || name == ".." || name.contains('%') {
            return Err(TapError::Name { name: name.to_string() });
        }
        // SAFETY: all-zero is a valid value of this structure of bytes, numbers and a null pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        Ok(Self(request))
    }

    fn name(&self) -> String {
        let bytes = self.0.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|b| *b != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }

    fn call(&mut self, fd: BorrowedFd<'_>, ioctl: libc::Ioctl) -> io::Result<()> {
        // SAFETY: all ioctls that are called through here take a `struct ifreq`; where one follows its data
        // pointer, the caller has pointed it to a live structure.
        let rc = unsafe { libc::ioctl(fd.as_raw_fd(), ioctl, &raw mut self.0) };
        if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn on_socket(mut self, action: &'static str, ioctl: libc::Ioctl) -> Result<Self, TapError> {
        let socket = socket(action, &self.name())?;
        self.call(socket.as_fd(), ioctl).map_err(|source| system(action, &self.name(), source))?;
        Ok(self)
    }
}

/// Any socket of this namespace will do for ioctls on its interfaces.
fn socket(action: &'static str, name: &str) -> Result<OwnedFd, TapError> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| system(action, name, e.into()))
}

fn system(action: &'static str, name: &str, source: io::Error) -> TapError {
    TapError::System { action, name: name.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_cannot_have_are_refused() {
        for bad in ["", "0123456789abcdef", "a/b", "a:1", "a b", ".", "tap%d", "ü"] {
            assert!(matches!(Tap::open(bad), Err(TapError::Name { .. })), "{bad:?}");
        }
        assert_eq!(Request::new("0123456789abcde").unwrap().name(), "0123456789abcde");
    }

    #[test]
    fn structures_have_the_kernel_s_size() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<libc::ifreq>(), 40);
    }
}
