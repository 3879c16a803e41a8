//! Learning addresses and announcing them, read back by a parser that is not ours.

use crate::bench::{frame, nic};
use etherparse::{
    ArpHardwareId, ArpPacketSlice, EtherType, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use net::addresses::{MAX_ADDRESSES, MAX_MACS, Stations};
use net::{Addresses, Gate, GateError, GateLimits, Mac, announce};
use proptest::prelude::*;
use protocol::Epoch;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
const V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 9);
const ELSEWHERE: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn ipv4_packet(mac: Mac, source: Ipv4Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac.0, ELSEWHERE).ipv4(source.octets(), [10, 77, 0, 1], 64);
    built(builder.udp(1, 2), b"hello")
}

fn ipv6_packet(mac: Mac, source: Ipv6Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac.0, ELSEWHERE).ipv6(source.octets(), [0xfd; 16], 64);
    built(builder.udp(1, 2), b"hello")
}

fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

/// Each address of the only station, and whether it was claimed.
fn v4_of(stations: &Stations) -> Vec<(Ipv4Addr, bool)> {
    stations.0.iter().flat_map(|s| &s.ipv4).map(|seen| (seen.address, seen.claimed)).collect()
}

fn v6_of(stations: &Stations) -> Vec<(Ipv6Addr, bool)> {
    stations.0.iter().flat_map(|s| &s.ipv6).map(|seen| (seen.address, seen.claimed)).collect()
}

#[test]
fn addresses_are_learned_from_each_kind_of_evidence() {
    let mut stations = Stations::default();
    assert!(stations.learn_frame(&ipv4_packet(MAC, V4)));
    assert_eq!(v4_of(&stations), [(V4, false)]);
    assert!(stations.learn_frame(&announce::gratuitous_arp(MAC, V4, false)), "ARP is better evidence");
    assert_eq!(v4_of(&stations), [(V4, true)]);
    assert!(!stations.learn_frame(&ipv4_packet(MAC, V4)), "nothing new");

    assert!(stations.learn_frame(&ipv6_packet(MAC, V6)));
    assert_eq!(v6_of(&stations), [(V6, false)]);
    assert!(stations.learn_frame(&announce::neighbour_advertisement(MAC, V6, true)));
    assert_eq!(v6_of(&stations), [(V6, true)]);
    assert!(stations.0[0].router);
    assert_eq!(stations.0.len(), 1);

    let other = Mac([2, 0, 0, 0, 0, 9]);
    assert!(stations.learn_frame(&announce::rarp(other)), "any frame teaches its MAC");
    assert_eq!((stations.0[0].mac, stations.0[0].ipv4.len()), (other, 0));
}

#[test]
fn addresses_that_no_station_may_use_are_not_learned() {
    let mut stations = Stations::default();
    assert!(!stations.learn_frame(&ipv4_packet(Mac([3, 0, 0, 0, 0, 1]), V4)), "a group MAC");
    assert!(!stations.learn_frame(&ipv4_packet(Mac([0; 6]), V4)), "no MAC");
    for bad in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 1)]
    {
        stations.learn_frame(&ipv4_packet(MAC, bad));
    }
    for bad in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)] {
        stations.learn_frame(&ipv6_packet(MAC, bad));
    }
    let mut of_another = announce::gratuitous_arp(MAC, V4, false);
    of_another[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    stations.learn_frame(&of_another);
    assert_eq!((v4_of(&stations), v6_of(&stations)), (vec![], vec![]));
}

#[test]
fn a_spoofing_guest_cannot_grow_the_tables_nor_crowd_out_claimed_addresses() {
    let mut stations = Stations::default();
    stations.learn_frame(&announce::gratuitous_arp(MAC, V4, true));
    for n in 0..1000u32 {
        stations.learn_frame(&ipv4_packet(MAC, Ipv4Addr::from_bits(0x0b00_0000 + n)));
    }
    let seen = v4_of(&stations);
    assert_eq!((seen.len(), seen.contains(&(V4, true))), (MAX_ADDRESSES, true));
    assert_eq!(seen[0].0, Ipv4Addr::from_bits(0x0b00_0000 + 999), "the newest is kept");
    for n in 0..100u32 {
        stations.learn_frame(&announce::gratuitous_arp(MAC, Ipv4Addr::from_bits(0x0c00_0000 + n), true));
    }
    assert!(!stations.learn_frame(&ipv4_packet(MAC, V4)), "weak evidence displaces no claimed address");
    for n in 0..100 {
        stations.learn_frame(&ipv4_packet(Mac([2, 0, 0, 0, 1, n]), V4));
    }
    assert_eq!(stations.0.len(), MAX_MACS);
}

proptest! {
    #[test]
    fn no_frame_can_break_the_learning(
        frames in prop::collection::vec((0u8..5, prop::collection::vec(any::<u8>(), 0..120)), 1..60),
    ) {
        let mut stations = Stations::default();
        for (kind, mut bytes) in frames {
            let ether_type = [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [1, 2]][usize::from(kind)];
            if let Some(place) = bytes.get_mut(12..14) {
                place.copy_from_slice(&ether_type);
            }
            stations.learn_frame(&bytes);
            prop_assert!(stations.0.len() <= MAX_MACS);
        }
        for station in &stations.0 {
            prop_assert!(station.mac.is_station());
            prop_assert!(station.ipv4.len() <= MAX_ADDRESSES && station.ipv6.len() <= MAX_ADDRESSES);
        }
        for frame in announce::of_stations(&stations) {
            prop_assert!(SlicedPacket::from_ethernet(&frame).is_ok());
        }
    }

    #[test]
    fn valid_packets_cut_short_or_flipped_do_no_harm(cut in 0usize..90, flip in 0usize..90, bit in 0u8..8) {
        for whole in [ipv4_packet(MAC, V4), ipv6_packet(MAC, V6), announce::rarp(MAC),
            announce::gratuitous_arp(MAC, V4, true), announce::neighbour_advertisement(MAC, V6, false)] {
            let mut bytes = whole.clone();
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            bytes.truncate(cut.max(1));
            let mut stations = Stations::default();
            stations.learn_frame(&bytes);
            prop_assert!(stations.0.len() <= 1);
        }
    }
}

#[test]
fn addresses_survive_their_way_to_the_backup_within_bounds() {
    let mut stations = Stations::default();
    stations.learn_frame(&announce::gratuitous_arp(MAC, V4, true));
    stations.learn_frame(&announce::neighbour_advertisement(MAC, V6, true));
    let sent = Addresses { ports: vec![("net0".into(), stations.clone())] };
    let json = serde_json::to_string(&sent).unwrap();
    assert_eq!(serde_json::from_str::<Addresses>(&json).unwrap(), sent);

    let mut merged = Stations::default();
    assert!(merged.merge(&stations));
    assert_eq!(merged, stations, "order included");
    assert!(!merged.merge(&stations), "nothing new the second time");
    let mut flood = stations.clone();
    let seen = flood.0[0].ipv4[0];
    flood.0[0].ipv4 = (0..500)
        .map(|n| net::addresses::Seen { address: Ipv4Addr::from_bits(0x0a00_0001 + n), ..seen })
        .collect();
    flood.0 = (0..100)
        .map(|n| net::addresses::Station { mac: Mac([2, 0, 0, 0, 0, n]), ..flood.0[0].clone() })
        .collect();
    merged.merge(&flood);
    assert!(merged.0.len() <= MAX_MACS && merged.0.iter().all(|s| s.ipv4.len() <= MAX_ADDRESSES));
}

fn arp_of(frame: &[u8]) -> ArpPacketSlice<'_> {
    // RARP has ARP's format under another type.
    ArpPacketSlice::from_slice(&frame[14..]).unwrap()
}

#[test]
fn announcements_say_what_they_should() {
    let rarp = announce::rarp(MAC);
    let parsed = SlicedPacket::from_ethernet(&rarp).unwrap();
    let link = parsed.link.unwrap().to_header().unwrap().ethernet2().unwrap();
    assert_eq!((link.destination, link.source, link.ether_type), ([0xff; 6], MAC.0, EtherType(0x8035)));
    let arp = arp_of(&rarp);
    assert_eq!((arp.operation().0, arp.sender_hw_addr(), arp.target_hw_addr()), (3, &MAC.0[..], &MAC.0[..]));
    assert_eq!((arp.hw_addr_type(), arp.proto_addr_type()), (ArpHardwareId::ETHERNET, EtherType::IPV4));

    for reply in [false, true] {
        let frame = announce::gratuitous_arp(MAC, V4, reply);
        assert!(frame.len() >= 60, "long enough for every switch");
        let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = parsed.net else { panic!("no ARP: {parsed:?}") };
        assert_eq!(arp.operation().0, if reply { 2 } else { 1 });
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC.0[..], &V4.octets()[..]));
        assert_eq!(arp.target_protocol_addr(), V4.octets(), "gratuitous: sender and target are one");
    }

    for router in [false, true] {
        let frame = announce::neighbour_advertisement(MAC, V6, router);
        let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &parsed.net else { panic!("no IPv6: {parsed:?}") };
        let header = ip.header();
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        assert_eq!(
            (header.source_addr(), header.destination_addr(), header.hop_limit()),
            (V6, all_nodes, 255)
        );
        let Some(TransportSlice::Icmpv6(icmp)) = &parsed.transport else { panic!("no ICMPv6: {parsed:?}") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()), "the checksum");
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
        let flags = icmp.bytes5to8()[0];
        assert_eq!(flags, if router { 0xa0 } else { 0x20 }, "override, unsolicited, router as it was");
        assert_eq!(icmp.payload()[..16], V6.octets(), "target");
        assert_eq!(icmp.payload()[16..], [&[2, 1], &MAC.0[..]].concat(), "its link-layer address");
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1], "the multicast MAC of all nodes");
    }
}

/// The frames that announce MAC, V4 and V6.
fn expected() -> Vec<Vec<u8>> {
    vec![
        announce::rarp(MAC),
        announce::gratuitous_arp(MAC, V4, false),
        announce::gratuitous_arp(MAC, V4, true),
        announce::neighbour_advertisement(MAC, V6, false),
    ]
}

#[test]
fn a_promoted_gate_announces_what_the_old_one_learned_on_schedule() {
    let (port, mut old) = nic("net0");
    let (primary, _events) = Gate::spawn("old", vec![port], GateLimits::default()).unwrap();
    old.guest_sends(&announce::gratuitous_arp(MAC, V4, false));
    old.guest_sends(&ipv6_packet(MAC, V6));
    old.guest_sends(&frame(b"teaches nothing"));
    let version = primary.cut(Epoch(1)).unwrap().addresses_version;
    let (addresses, same) = primary.addresses();
    assert_eq!(version, same);
    old.guest_sends(&ipv6_packet(MAC, V6));
    assert_eq!(primary.cut(Epoch(2)).unwrap().addresses_version, version, "nothing new was learned");

    let (port, new) = nic("net0");
    let (promoted, _events) = Gate::spawn("new", vec![port], GateLimits::default()).unwrap();
    promoted.learn(&addresses);
    assert_eq!(promoted.addresses().0, addresses);
    promoted.announce(&[Duration::from_secs(3600), Duration::ZERO]).unwrap();
    assert_eq!(new.world_has(), expected(), "the first at once, on the caller's thread");
    // One time a call: repetitions that a busy machine makes late are sent as one.
    for delay in [2, 5] {
        promoted.announce(&[Duration::from_millis(delay)]).unwrap();
        let later: Vec<_> = std::iter::from_fn(|| new.world_gets()).take(4).collect();
        assert_eq!(later, expected(), "by the gate's thread");
    }
}

#[test]
fn a_fenced_gate_announces_nothing_more() {
    let (port, nic) = nic("net0");
    let (gate, _events) = Gate::spawn("fenced", vec![port], GateLimits::default()).unwrap();
    let mut stations = Stations::default();
    stations.learn_frame(&announce::rarp(MAC));
    gate.learn(&Addresses { ports: vec![("net0".into(), stations)] });
    gate.announce(&[Duration::from_secs(3600)]).unwrap();
    gate.discard();
    assert!(matches!(gate.announce(&[Duration::ZERO]), Err(GateError::Fenced { .. })));
    assert_eq!(nic.world_gets(), None);
}
