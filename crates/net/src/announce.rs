//! Owns the frames that tell switches and neighbours where a VM's addresses are now.
//!
//! Per station: a RARP request (what QEMU itself sends, net/announce.c: it moves the MAC in every switch, whatever
//! the guest's addresses), per IPv4 address a gratuitous ARP request and reply (RFC 5227; neighbours differ in
//! which of the two they heed), per IPv6 address an unsolicited neighbour advertisement to all nodes with the
//! override flag (RFC 4861 section 7.2.6).

use crate::addresses::{Mac, Station, Stations};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// When announcements are usually sent: several times, since each may be lost and bridges take a while.
pub const USUAL_SCHEDULE: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250), Duration::from_millis(1000)];

/// Shortest Ethernet frame without its checksum.
const MIN_FRAME: usize = 60;
const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&kind.to_be_bytes());
    frame
}

struct Arp {
    kind: u16,
    operation: u16,
    sender: Mac,
    sender_ip: Ipv4Addr,
    target: Mac,
    target_ip: Ipv4Addr,
}

impl Arp {
    fn frame(&self) -> Vec<u8> {
        let mut frame = ethernet(BROADCAST, self.sender, self.kind);
        // Hardware Ethernet, protocol IPv4, their address lengths.
        frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
        frame.extend_from_slice(&self.operation.to_be_bytes());
        frame.extend_from_slice(&self.sender.0);
        frame.extend_from_slice(&self.sender_ip.octets());
        frame.extend_from_slice(&self.target.0);
        frame.extend_from_slice(&self.target_ip.octets());
        frame.resize(MIN_FRAME, 0);
        frame
    }
}

/// A reverse ARP request for one's own MAC: means nothing to hosts, teaches switches.
#[must_use]
pub fn rarp(mac: Mac) -> Vec<u8> {
    let (sender_ip, target_ip) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    Arp { kind: 0x8035, operation: 3, sender: mac, sender_ip, target: mac, target_ip }.frame()
}

/// A gratuitous ARP, as a request or as a reply.
#[must_use]
pub fn gratuitous_arp(mac: Mac, ip: Ipv4Addr, reply: bool) -> Vec<u8> {
    let (operation, target) = if reply { (2, mac) } else { (1, Mac([0; 6])) };
    Arp { kind: 0x0806, operation, sender: mac, sender_ip: ip, target, target_ip: ip }.frame()
}

/// An unsolicited neighbour advertisement to all nodes.
#[must_use]
pub fn neighbour_advertisement(mac: Mac, ip: Ipv6Addr, router: bool) -> Vec<u8> {
    const ICMP_LEN: u16 = 32;
    let flags = 0x20 | if router { 0x80 } else { 0 };
    let mut icmp = vec![136, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend_from_slice(&ip.octets());
    // Option: target link-layer address, in units of 8 bytes.
    icmp.extend_from_slice(&[2, 1]);
    icmp.extend_from_slice(&mac.0);
    let checksum = icmpv6_checksum(ip, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, 0x86dd);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&ICMP_LEN.to_be_bytes());
    frame.extend_from_slice(&[58, 255]);
    frame.extend_from_slice(&ip.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&icmp);
    frame
}

/// The Internet checksum over the pseudo header and the message (RFC 8200 section 8.1). `message` has even length.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum()
    };
    let length = u32::try_from(message.len()).expect("a short message");
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message) + length + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// All announcements of one station.
#[must_use]
pub fn of_station(station: &Station) -> Vec<Vec<u8>> {
    let mut frames = vec![rarp(station.mac)];
    for seen in &station.ipv4 {
        frames.push(gratuitous_arp(station.mac, seen.address, false));
        frames.push(gratuitous_arp(station.mac, seen.address, true));
    }
    for seen in &station.ipv6 {
        frames.push(neighbour_advertisement(station.mac, seen.address, station.router));
    }
    frames
}

/// All announcements of the stations behind a port.
#[must_use]
pub fn of_stations(stations: &Stations) -> Vec<Vec<u8>> {
    stations.0.iter().flat_map(of_station).collect()
}
