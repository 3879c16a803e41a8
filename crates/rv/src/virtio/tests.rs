//! A driver that keeps the rules, and one that keeps none.

use crate::bus::VIRTIO;
use crate::devices::{Disk, Hardware};
use crate::machine::{Answer, Input, Machine, Output, RAM, Request};
use crate::snapshot::Snapshot;
use alloc::{vec, vec::Vec};
use proptest::prelude::*;

const SIZE: usize = 1 << 20;
/// Where the driver has its rings, one page each, and its buffers.
const RINGS: u64 = RAM + 0x1_0000;
const BUFFERS: u64 = RAM + 0x4_0000;
const CARD: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The places of the devices: see `Hardware::kinds`.
const DISK: u64 = 0;
const READ_ONLY: u64 = 1;
const NET: u64 = 2;
const TERMINAL: u64 = 3;
const ENTROPY: u64 = 4;

fn machine() -> Machine {
    let disks = vec![Disk { sectors: 64, read_only: false }, Disk { sectors: 64, read_only: true }];
    let hardware = Hardware { disks, cards: vec![CARD], terminal: true, entropy: true, seed: Vec::new() };
    let mut machine = Machine::new(SIZE);
    machine.equip(&hardware);
    machine
}

fn set(machine: &mut Machine, device: u64, register: u64, value: u32) {
    machine.write(VIRTIO + device * 0x1000 + register, 4, value.into()).expect("a register");
}

fn get(machine: &mut Machine, device: u64, register: u64) -> u32 {
    machine.read(VIRTIO + device * 0x1000 + register, 4).expect("a register") as u32
}

fn ring(device: u64, queue: u64) -> u64 {
    RINGS + (device * 2 + queue) * 0x3000
}

/// Begins as a driver does; the queue has 8 places.
fn begin(machine: &mut Machine, device: u64) {
    assert_eq!(
        (get(machine, device, 0), get(machine, device, 4), get(machine, device, 0x44)),
        (0x7472_6976, 2, 0)
    );
    set(machine, device, 0x70, 3);
    set(machine, device, 0x24, 1);
    set(machine, device, 0x20, 1);
    set(machine, device, 0x70, 11);
    assert_eq!(get(machine, device, 0x70), 11, "features are taken");
    for queue in 0..2 {
        set(machine, device, 0x30, queue);
        if get(machine, device, 0x34) == 0 {
            continue;
        }
        let place = ring(device, queue.into()) as u32;
        set(machine, device, 0x38, 8);
        set(machine, device, 0x80, place);
        set(machine, device, 0x90, place + 0x1000);
        set(machine, device, 0xa0, place + 0x2000);
        set(machine, device, 0x44, 1);
    }
    set(machine, device, 0x70, 15);
}

/// Offers pieces `(address, length, writable)` as the chain that begins at descriptor 0.
fn offer(machine: &mut Machine, device: u64, queue: u64, pieces: &[(u64, u32, bool)]) {
    let place = ring(device, queue);
    for (at, &(address, length, writable)) in (0_u64..).zip(pieces) {
        let more = at + 1 < pieces.len() as u64;
        let flags = u64::from(more) | u64::from(writable) << 1;
        let second = u64::from(length) | flags << 32 | (at + 1) << 48;
        machine.ram_write(place + 16 * at, 8, address).expect("in RAM");
        machine.ram_write(place + 16 * at + 8, 8, second).expect("in RAM");
    }
    let index = machine.ram_read(place + 0x1002, 2).expect("in RAM");
    machine.ram_write(place + 0x1004 + 2 * (index % 8), 2, 0).expect("in RAM");
    machine.ram_write(place + 0x1002, 2, index + 1).expect("in RAM");
    set(machine, device, 0x50, queue as u32);
}

/// How many chains came back, and how much was written into the last.
fn used(machine: &Machine, device: u64, queue: u64) -> (u64, u64) {
    let place = ring(device, queue) + 0x2000;
    let index = machine.ram_read(place + 2, 2).expect("in RAM");
    let last = index.wrapping_sub(1) % 8;
    (index, machine.ram_read(place + 8 + 8 * last, 4).expect("in RAM"))
}

fn bytes(machine: &Machine, address: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| machine.ram_read(address + at, 1).expect("in RAM") as u8).collect()
}

fn header(machine: &mut Machine, kind: u64, sector: u64) {
    machine.ram_write(BUFFERS, 8, kind).expect("in RAM");
    machine.ram_write(BUFFERS + 8, 8, sector).expect("in RAM");
}

#[test]
fn a_disk_reads_writes_and_flushes() {
    let mut machine = machine();
    begin(&mut machine, DISK);
    header(&mut machine, 0, 3);
    let (data, status) = (BUFFERS + 0x100, BUFFERS + 0x800);
    machine.ram_write(status, 1, 0xff).expect("in RAM");
    // The data in two pieces, of which the second holds the status too.
    offer(&mut machine, DISK, 0, &[(BUFFERS, 16, false), (data, 1000, true), (status - 24, 25, true)]);
    let asked = Output::Disk { disk: 0, number: 0, request: Request::Read { sector: 3, length: 1024 } };
    assert_eq!((machine.outputs(), used(&machine, DISK, 0).0), (vec![asked], 0));
    let answer = Answer::Data((0..1024_u32).map(|at| at as u8).collect());
    machine.input(Input::Disk { disk: 0, number: 0, answer });
    assert_eq!(used(&machine, DISK, 0), (1, 1025));
    assert_eq!(bytes(&machine, data, 4), [0, 1, 2, 3]);
    assert_eq!(bytes(&machine, status - 1, 2), [0xff, 0]);
    assert_eq!(machine.raised(), 1 << 1);
    set(&mut machine, DISK, 0x64, 1);
    assert_eq!(machine.raised(), 0);

    header(&mut machine, 1, 63);
    offer(&mut machine, DISK, 0, &[(BUFFERS, 16, false), (data, 512, false), (status, 1, true)]);
    let data = bytes(&machine, data, 512);
    let asked = Output::Disk { disk: 0, number: 1, request: Request::Write { sector: 63, data } };
    assert_eq!(machine.outputs(), [asked]);
    machine.input(Input::Disk { disk: 0, number: 1, answer: Answer::Failed });
    assert_eq!((used(&machine, DISK, 0), bytes(&machine, status, 1)), ((2, 1), vec![1]));

    header(&mut machine, 4, 0);
    offer(&mut machine, DISK, 0, &[(BUFFERS, 16, false), (status, 1, true)]);
    assert_eq!(machine.outputs(), [Output::Disk { disk: 0, number: 2, request: Request::Flush }]);
    machine.input(Input::Disk { disk: 0, number: 2, answer: Answer::Done });
    assert_eq!((used(&machine, DISK, 0), bytes(&machine, status, 1)), ((3, 1), vec![0]));
}

#[test]
fn a_disk_refuses_what_is_beyond_it() {
    // Device, kind, sector, bytes, status.
    let cases = [
        (DISK, 0, 63, 1024, 1),
        (DISK, 0, u64::MAX, 512, 1),
        (DISK, 0, 0, 100, 1),
        (DISK, 9, 0, 512, 2),
        (READ_ONLY, 1, 0, 512, 1),
    ];
    for (device, kind, sector, length, status) in cases {
        let mut machine = machine();
        begin(&mut machine, device);
        header(&mut machine, kind, sector);
        let data = (BUFFERS + 0x100, length, kind == 0);
        offer(&mut machine, device, 0, &[(BUFFERS, 16, false), data, (BUFFERS + 0x800, 1, true)]);
        assert_eq!(machine.outputs(), [], "{kind} {sector}");
        assert_eq!(used(&machine, device, 0).0, 1);
        assert_eq!(bytes(&machine, BUFFERS + 0x800, 1), [status], "{kind} {sector}");
    }
}

#[test]
fn an_answer_after_a_reset_changes_nothing() {
    let mut machine = machine();
    begin(&mut machine, DISK);
    header(&mut machine, 4, 0);
    offer(&mut machine, DISK, 0, &[(BUFFERS, 16, false), (BUFFERS + 0x800, 1, true)]);
    set(&mut machine, DISK, 0x70, 0);
    let before = machine.ram.clone();
    machine.input(Input::Disk { disk: 0, number: 0, answer: Answer::Done });
    assert!(before == machine.ram);
    // The number is not used again.
    machine.ram_write(ring(DISK, 0) + 0x1002, 2, 0).expect("in RAM");
    begin(&mut machine, DISK);
    offer(&mut machine, DISK, 0, &[(BUFFERS, 16, false), (BUFFERS + 0x800, 1, true)]);
    let number = |output: &Output| matches!(output, Output::Disk { number: 1, .. });
    assert!(machine.outputs().iter().any(number));
}

#[test]
fn a_card_sends_and_receives() {
    let mut machine = machine();
    begin(&mut machine, NET);
    let address: Vec<u8> = (0..6)
        .map(|at| machine.read(VIRTIO + NET * 0x1000 + 0x100 + at, 1).expect("configuration") as u8)
        .collect();
    assert_eq!(address, CARD);
    for at in 0..4 {
        machine.ram_write(BUFFERS + 12 + at, 1, 0x40 + at).expect("in RAM");
    }
    offer(&mut machine, NET, 1, &[(BUFFERS, 12, false), (BUFFERS + 12, 4, false)]);
    assert_eq!(machine.outputs(), [Output::Frame { card: 0, frame: b"@ABC".to_vec() }]);
    // One waits until there is room; one that is too long is lost.
    for frame in [vec![7; 60], vec![8; 1519]] {
        machine.input(Input::Frame { card: 0, frame });
    }
    assert_eq!(used(&machine, NET, 0).0, 0);
    offer(&mut machine, NET, 0, &[(BUFFERS, 2048, true)]);
    assert_eq!(used(&machine, NET, 0), (1, 72));
    assert_eq!(bytes(&machine, BUFFERS, 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 7]);
    offer(&mut machine, NET, 0, &[(BUFFERS, 2048, true)]);
    assert_eq!(used(&machine, NET, 0).0, 1);
}

#[test]
fn the_console_and_entropy_work() {
    let mut machine = machine();
    begin(&mut machine, TERMINAL);
    begin(&mut machine, ENTROPY);
    machine.ram_write(BUFFERS, 2, 0x6968).expect("in RAM");
    offer(&mut machine, TERMINAL, 1, &[(BUFFERS, 2, false)]);
    assert_eq!(machine.outputs(), [Output::Terminal(b"hi".to_vec())]);
    machine.input(Input::Terminal(b"abc".to_vec()));
    offer(&mut machine, TERMINAL, 0, &[(BUFFERS, 2, true)]);
    assert_eq!((used(&machine, TERMINAL, 0), bytes(&machine, BUFFERS, 2)), ((1, 2), b"ab".to_vec()));
    offer(&mut machine, ENTROPY, 0, &[(BUFFERS, 100_000, true)]);
    assert_eq!(machine.outputs(), [Output::Entropy { number: 0, length: 4096 }]);
    machine.input(Input::Entropy { number: 0, bytes: vec![9; 4096] });
    assert_eq!((used(&machine, ENTROPY, 0), bytes(&machine, BUFFERS, 2)), ((1, 4096), vec![9, 9]));
}

#[test]
fn rings_that_break_the_rules_stop_the_device() {
    type Damage = fn(&mut Machine);
    let damages: [(&str, Damage); 4] = [
        ("a circle", |machine| {
            machine.ram_write(ring(NET, 1) + 12, 4, 1).expect("in RAM");
        }),
        ("memory that is not there", |machine| {
            machine.ram_write(ring(NET, 1), 8, u64::MAX - 4).expect("in RAM");
        }),
        ("a descriptor beyond the ring", |machine| {
            machine.ram_write(ring(NET, 1) + 12, 4, 1 | 8 << 16).expect("in RAM");
        }),
        ("more chains than places", |machine| {
            machine.ram_write(ring(NET, 1) + 0x1002, 2, 10).expect("in RAM");
        }),
    ];
    for (what, damage) in damages {
        let mut machine = machine();
        begin(&mut machine, NET);
        offer(&mut machine, NET, 1, &[(BUFFERS, 64, false)]);
        machine.outputs();
        let index = machine.ram_read(ring(NET, 1) + 0x1002, 2).expect("in RAM");
        machine.ram_write(ring(NET, 1) + 0x1002, 2, index + 1).expect("in RAM");
        damage(&mut machine);
        set(&mut machine, NET, 0x50, 1);
        assert_eq!(get(&mut machine, NET, 0x70) & 0x40, 0x40, "{what}");
        assert_eq!(machine.outputs(), [], "{what}");
        assert_eq!(get(&mut machine, NET, 0x60) & 2, 2, "{what}");
        // A reset makes it work again.
        set(&mut machine, NET, 0x70, 0);
        machine.ram_write(ring(NET, 1) + 0x1002, 2, 0).expect("in RAM");
        begin(&mut machine, NET);
        offer(&mut machine, NET, 1, &[(BUFFERS, 64, false)]);
        assert_eq!(machine.outputs().len(), 1, "{what}");
    }
}

/// What a hostile guest, or a hostile world, does next.
#[derive(Clone, Debug)]
enum Deed {
    Begin(u64),
    Register(u64, u64, u32),
    Look(u64, u64, u64),
    Scribble(u64, Vec<u8>),
    Notify(u64, u32),
    Input(Input),
}

fn deed() -> impl Strategy<Value = Deed> {
    // Into rings and buffers mostly, of values that are small or mean something.
    let place = prop_oneof![
        (0_u64..10, 0_u64..3, 0_u64..160)
            .prop_map(|(ring, part, at)| RINGS + ring * 0x3000 + part * 0x1000 + at),
        RAM..RAM + SIZE as u64,
    ];
    let words = prop::collection::vec(
        prop_oneof![Just(0_u64), 0_u64..9, Just(BUFFERS), RAM..RAM + SIZE as u64, any::<u64>()],
        1..8,
    );
    let words = words.prop_map(|words| words.into_iter().flat_map(u64::to_le_bytes).collect());
    let small = prop::collection::vec(any::<u8>(), 0..1600);
    let input = prop_oneof![
        (0_u8..2, small.clone()).prop_map(|(card, frame)| Input::Frame { card, frame }),
        (0_u8..3, 0_u64..9, small.clone()).prop_map(|(disk, number, data)| Input::Disk {
            disk,
            number,
            answer: if data.len() % 3 == 0 { Answer::Done } else { Answer::Data(data) },
        }),
        (0_u64..9, small.clone()).prop_map(|(number, bytes)| Input::Entropy { number, bytes }),
        small.prop_map(Input::Terminal),
    ];
    prop_oneof![
        1 => (0_u64..5).prop_map(Deed::Begin),
        2 => (0_u64..8, 0_u64..0x42, any::<u32>()).prop_map(|(device, at, value)| Deed::Register(device, 4 * at, value)),
        1 => (0_u64..8, 0_u64..0x400, 0_u32..4).prop_map(|(device, at, size)| Deed::Look(device, at, 1 << size)),
        4 => (place, words).prop_map(|(place, bytes)| Deed::Scribble(place, bytes)),
        4 => (0_u64..5, 0_u32..3).prop_map(|(device, queue)| Deed::Notify(device, queue)),
        3 => input.prop_map(Deed::Input),
    ]
}

fn do_it(machine: &mut Machine, deed: Deed) {
    match deed {
        Deed::Begin(device) => {
            set(machine, device, 0x70, 0);
            begin(machine, device);
        }
        Deed::Register(device, register, value) => {
            let _ = machine.write(VIRTIO + device * 0x1000 + register, 4, value.into());
        }
        Deed::Look(device, register, size) => {
            let _ = machine.read(VIRTIO + device * 0x1000 + register, size);
        }
        Deed::Scribble(place, bytes) => {
            let _ = machine.put(place, &bytes);
        }
        Deed::Notify(device, queue) => set(machine, device, 0x50, queue),
        Deed::Input(input) => machine.input(input),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Nothing panics, and what leaves at once is bounded: by what fits the rings, not by what a guest claims.
    #[test]
    fn no_ring_and_no_register_harms_the_machine(deeds in prop::collection::vec(deed(), 1..120)) {
        let mut machine = machine();
        for deed in deeds {
            do_it(&mut machine, deed);
            prop_assert!(machine.outputs().len() <= 256);
            let raised = machine.raised();
            prop_assert_eq!(raised & !0x3e, 0);
        }
        machine.hash();
    }

    /// Saved with requests under way and frames that wait, and restored, the devices do what they would have done.
    #[test]
    fn a_restored_machine_goes_on_in_the_middle_of_traffic(
        deeds in prop::collection::vec((deed(), prop::bool::weighted(0.2)), 1..80),
    ) {
        let (mut never, mut saved) = (machine(), machine());
        let mut standby = saved.save().machine().expect("memory");
        for (deed, save) in deeds {
            do_it(&mut never, deed.clone());
            do_it(&mut saved, deed);
            prop_assert_eq!(never.outputs(), saved.outputs());
            prop_assert_eq!(never.hash(), saved.hash());
            if save {
                let told = Snapshot::from_bytes(&saved.save_changes().to_bytes()).expect("what was written");
                standby.follow(&told).expect("the next one");
                let whole = Snapshot::from_bytes(&standby.save().to_bytes()).expect("what was written");
                saved = whole.machine().expect("memory");
            }
        }
    }
}
