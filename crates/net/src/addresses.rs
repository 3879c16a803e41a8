//! Owns the addresses that a VM was seen to use, learned from the frames it sends.
//!
//! Sources of evidence: ARP senders, IPv4 and IPv6 sources, neighbour discovery. ARP and neighbour discovery
//! outrank mere sources: a guest that forwards other hosts' packets must not crowd out its own addresses. All
//! tables are bounded, so a guest that spoofs only harms itself. Frames with a VLAN tag teach their MAC only: an
//! announcement for such an address would need the tag.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// MAC addresses kept per port.
pub const MAX_MACS: usize = 8;
/// IPv4 addresses, and IPv6 addresses, kept per MAC address.
pub const MAX_ADDRESSES: usize = 16;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether a station may use it as its own: not a group address, not zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IP address and the strength of the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen<A> {
    /// The address.
    pub address: A,
    /// The guest claimed it by ARP or neighbour discovery, not only as the source of a packet.
    pub claimed: bool,
}

/// What was learned of one MAC address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// The MAC address.
    pub mac: Mac,
    /// It acts as an IPv6 router: its advertisements must say so, or hosts drop their default route (RFC 4861
    /// section 7.2.5).
    pub router: bool,
    /// IPv4 addresses.
    pub ipv4: Vec<Seen<Ipv4Addr>>,
    /// IPv6 addresses.
    pub ipv6: Vec<Seen<Ipv6Addr>>,
}

/// The stations behind one port, most recently added first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stations(pub Vec<Station>);

/// The stations of each port of a VM, as they travel with its checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Name of the port and what is behind it.
    pub ports: Vec<(String, Stations)>,
}

/// Puts `new` into a bounded list. Strong evidence displaces the oldest weak entry, then the oldest; weak evidence
/// displaces only weak entries. Returns whether the list changed.
fn remember<A: PartialEq + Copy>(list: &mut Vec<Seen<A>>, new: Seen<A>) -> bool {
    if let Some(old) = list.iter_mut().find(|old| old.address == new.address) {
        let stronger = new.claimed && !old.claimed;
        old.claimed |= new.claimed;
        return stronger;
    }
    if list.len() >= MAX_ADDRESSES {
        let weakest = list.iter().rposition(|old| !old.claimed);
        match weakest.or(if new.claimed { Some(list.len() - 1) } else { None }) {
            Some(at) => drop(list.remove(at)),
            None => return false,
        }
    }
    list.insert(0, new);
    true
}

fn usable_v4(a: Ipv4Addr) -> bool {
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast())
}

fn usable_v6(a: Ipv6Addr) -> bool {
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast())
}

impl Stations {
    fn station(&mut self, mac: Mac) -> (&mut Station, bool) {
        if let Some(at) = self.0.iter().position(|s| s.mac == mac) {
            return (&mut self.0[at], false);
        }
        self.0.truncate(MAX_MACS - 1);
        self.0.insert(0, Station { mac, router: false, ipv4: Vec::new(), ipv6: Vec::new() });
        (&mut self.0[0], true)
    }

    fn add_v4(&mut self, mac: Mac, address: Ipv4Addr, claimed: bool) -> bool {
        let (station, new) = self.station(mac);
        (usable_v4(address) && remember(&mut station.ipv4, Seen { address, claimed })) || new
    }

    fn add_v6(&mut self, mac: Mac, address: Ipv6Addr, claimed: bool) -> bool {
        let (station, new) = self.station(mac);
        (usable_v6(address) && remember(&mut station.ipv6, Seen { address, claimed })) || new
    }

    /// Learns from a frame that the guest sends. Returns whether anything new was learned.
    pub fn learn_frame(&mut self, frame: &[u8]) -> bool {
        let Some((ethernet, payload)) = frame.split_first_chunk::<14>() else {
            return false;
        };
        let [_, _, _, _, _, _, mac @ .., high, low] = *ethernet;
        let mac = Mac(mac);
        if !mac.is_station() {
            return false;
        }
        match u16::from_be_bytes([high, low]) {
            0x0800 => self.learn_ipv4(mac, payload),
            0x0806 => self.learn_arp(mac, payload),
            0x86dd => self.learn_ipv6(mac, payload),
            _ => self.station(mac).1,
        }
    }

    fn learn_ipv4(&mut self, mac: Mac, packet: &[u8]) -> bool {
        match packet.get(12..16) {
            Some(&[a, b, c, d]) if packet[0] >> 4 == 4 => self.add_v4(mac, Ipv4Addr::new(a, b, c, d), false),
            _ => false,
        }
    }

    fn learn_arp(&mut self, mac: Mac, packet: &[u8]) -> bool {
        // Ethernet and IPv4, then the sender: only a sender who speaks for itself counts.
        match packet {
            [0, 1, 8, 0, 6, 4, _, _, rest @ ..] if rest.len() >= 20 && rest[..6] == mac.0 => {
                self.add_v4(mac, Ipv4Addr::new(rest[6], rest[7], rest[8], rest[9]), true)
            }
            _ => false,
        }
    }

    fn learn_ipv6(&mut self, mac: Mac, packet: &[u8]) -> bool {
        let Some((header, body)) = packet.split_first_chunk::<40>() else {
            return false;
        };
        if header[0] >> 4 != 6 {
            return false;
        }
        let [_, _, _, _, _, _, next, hops, source @ ..] = header;
        let source: [u8; 16] = *source.first_chunk().expect("32 bytes follow");
        // Neighbour discovery comes from the link itself (hop limit 255), type in the first byte.
        let discovery = match body.first() {
            Some(&kind @ 133..=136) if *next == 58 && *hops == 255 => Some(kind),
            _ => None,
        };
        let mut changed = self.add_v6(mac, Ipv6Addr::from(source), discovery.is_some());
        if discovery == Some(136) {
            changed |= self.learn_advertisement(mac, body);
        } else if discovery == Some(134) {
            changed |= self.set_router(mac, true);
        }
        changed
    }

    /// A neighbour advertisement: flags in byte 4, target in 8..24. A target with another MAC (a proxy) is not
    /// told apart: the guest answers for it either way.
    fn learn_advertisement(&mut self, mac: Mac, body: &[u8]) -> bool {
        let Some(target) = body.get(8..24).and_then(|t| t.first_chunk::<16>()) else {
            return false;
        };
        let router = self.set_router(mac, body[4] & 0x80 != 0);
        self.add_v6(mac, Ipv6Addr::from(*target), true) || router
    }

    fn set_router(&mut self, mac: Mac, router: bool) -> bool {
        let (station, _) = self.station(mac);
        std::mem::replace(&mut station.router, router) != router
    }

    /// Takes over what another gate learned, within the same bounds. Returns whether anything was new.
    pub fn merge(&mut self, other: &Stations) -> bool {
        let mut changed = false;
        // The lists have the newest entry first, and insertion puts in front.
        for theirs in other.0.iter().take(MAX_MACS).rev().filter(|s| s.mac.is_station()) {
            changed |= self.station(theirs.mac).1 | (theirs.router && self.set_router(theirs.mac, true));
            for seen in theirs.ipv4.iter().take(MAX_ADDRESSES).rev() {
                changed |= self.add_v4(theirs.mac, seen.address, seen.claimed);
            }
            for seen in theirs.ipv6.iter().take(MAX_ADDRESSES).rev() {
                changed |= self.add_v6(theirs.mac, seen.address, seen.claimed);
            }
        }
        changed
    }
}
