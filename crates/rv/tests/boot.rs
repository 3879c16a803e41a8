//! Machines of all sizes: either an error, or a device tree that says what there is.

#![forbid(unsafe_code)]

use proptest::collection::vec;
use proptest::prelude::*;
use rv::{BootError, Disk, Files, Hardware, Machine, RAM};
use std::collections::BTreeMap;

/// A kernel of so many bytes that claims to need so many.
fn kernel(length: usize, claims: u64) -> Vec<u8> {
    let mut image = vec![0; length.max(0x40)];
    image[0x10..0x18].copy_from_slice(&claims.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"RSC\x05");
    image
}

/// The properties of a flattened device tree by their paths. Panics if it is none.
fn parse(tree: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap()) as usize;
    let text = |at: usize| {
        let end = at + tree[at..].iter().position(|&byte| byte == 0).unwrap();
        String::from_utf8(tree[at..end].to_vec()).unwrap()
    };
    assert_eq!((word(0), word(20)), (0xd00d_feed, 17));
    let (structure, strings) = (word(8), word(12));
    assert_eq!((word(4), structure + word(36)), (strings + word(32), strings));
    let (mut at, mut path, mut found) = (structure, Vec::new(), BTreeMap::new());
    loop {
        let token = word(at);
        at += 4;
        match token {
            1 => {
                path.push(text(at));
                at += (path[path.len() - 1].len() + 1).next_multiple_of(4);
            }
            2 => drop(path.pop().expect("no more ends than beginnings")),
            3 => {
                let (length, name) = (word(at), text(strings + word(at + 4)));
                found.insert(format!("{}/{name}", path.join("/")), tree[at + 8..at + 8 + length].to_vec());
                at += 8 + length.next_multiple_of(4);
            }
            token => {
                assert_eq!((token, path.len(), at), (9, 0, strings));
                return found;
            }
        }
    }
}

fn peek(machine: &Machine, address: u64, length: usize) -> Vec<u8> {
    let start = (address - RAM) as usize;
    machine.ram()[start..start + length].to_vec()
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

fn check(machine: &Machine, ram: usize, hardware: &Hardware, files: &Files<'_>) {
    let at = machine.x(11);
    let length = u32::from_be_bytes(peek(machine, at + 4, 4).try_into().unwrap()) as usize;
    let tree = parse(&peek(machine, at, length));
    let memory = &tree[&format!("/memory@{RAM:x}/reg")];
    assert_eq!((long(&memory[..8]), long(&memory[8..])), (RAM, ram as u64));
    assert_eq!(tree["/chosen/bootargs"], format!("{}\0", files.command_line).as_bytes());
    let devices = tree.keys().filter(|path| path.contains("virtio_mmio@") && path.ends_with("/reg")).count();
    let wanted = hardware.disks.len() + hardware.cards.len();
    assert_eq!(devices, wanted + usize::from(hardware.terminal) + usize::from(hardware.entropy));
    let place = |name: &str| tree.get(name).map(|bytes| long(bytes));
    let (start, end) = (place("/chosen/linux,initrd-start"), place("/chosen/linux,initrd-end"));
    match (start, end) {
        (Some(start), Some(end)) => {
            assert_eq!(peek(machine, start, (end - start) as usize), files.initrd);
            assert!(at + length as u64 <= start, "the tree is before it");
        }
        _ => assert!(files.initrd.is_empty()),
    }
    assert_eq!(peek(machine, RAM + 0x20_0000, files.kernel.len()), files.kernel);
    assert!(RAM + 0x20_0000 + files.kernel.len() as u64 <= at, "the kernel is before the tree");
    match files.firmware {
        Some(firmware) => {
            assert_eq!((machine.x(32), peek(machine, RAM, firmware.len()).as_slice()), (RAM, firmware));
            let told = machine.x(12);
            assert_eq!(peek(machine, told, 4), b"OSBI");
            assert!(at + length as u64 + 0x4000 < told, "the tree may grow");
            assert!(tree.contains_key("/soc/test@100000/reg"));
        }
        None => assert_eq!(machine.x(32), RAM + 0x20_0000),
    }
}

fn hardware() -> impl Strategy<Value = Hardware> {
    let disk = (any::<u64>(), any::<bool>()).prop_map(|(sectors, read_only)| Disk { sectors, read_only });
    let devices = (vec(disk, 0..6), vec(any::<[u8; 6]>(), 0..6), any::<bool>(), any::<bool>());
    (devices, vec(any::<u8>(), 0..200)).prop_map(|((disks, cards, terminal, entropy), seed)| Hardware {
        disks,
        cards,
        terminal,
        entropy,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_machine_of_any_size_is_refused_or_right(
        ram in prop_oneof![0..0x30_0000_usize, 0x20_0000..0x80_0000_usize],
        lengths in (0..0x10_0000_usize, 0..0x10_0000_usize, proptest::option::of(0..0x12_0000_usize)),
        claims in prop_oneof![0..0x40_0000_u64, any::<u64>()],
        hardware in hardware(),
        command_line in "[ -~]{0,1200}",
    ) {
        let (kernel, initrd) = (kernel(lengths.0, claims), vec![7; lengths.1]);
        let firmware = lengths.2.map(|length| vec![9; length]);
        let files = Files {
            firmware: firmware.as_deref(),
            kernel: &kernel,
            initrd: &initrd,
            command_line: &command_line,
        };
        match Machine::with_hardware(ram, &hardware, &files) {
            Ok(mut machine) => {
                check(&machine, ram, &hardware, &files);
                // Nonsense to run, but it runs.
                machine.run(1000);
            }
            Err(BootError::TooManyDevices) => {
                prop_assert!(hardware.disks.len() + hardware.cards.len() > 6);
            }
            Err(BootError::LongCommandLine) => prop_assert!(command_line.len() > 1023),
            Err(BootError::LargeFirmware) => prop_assert!(firmware.is_some_and(|bytes| bytes.len() > 1 << 20)),
            Err(BootError::TooLittleRam) => {
                let needed = claims.max(kernel.len() as u64).saturating_add(initrd.len() as u64);
                // The kernel's place, and what the tree may take.
                prop_assert!(needed.saturating_add(0x20_0000 + 0x1_8000) > ram as u64);
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}

#[test]
fn ram_that_no_host_has_is_an_error() {
    let kernel = kernel(0x40, 0);
    let files = Files { kernel: &kernel, ..Files::default() };
    for ram in [usize::MAX, usize::MAX - (RAM as usize), 1 << 62, 1 << 55] {
        let refused = Machine::with_hardware(ram, &Hardware::default(), &files).map(drop);
        assert_eq!(refused, Err(BootError::TooMuchRam), "{ram:x}");
    }
    let large = Machine::with_hardware(1 << 30, &Hardware::default(), &files).unwrap();
    check(&large, 1 << 30, &Hardware::default(), &files);
}

#[test]
fn a_store_switches_off_or_asks_for_a_reboot() {
    for (value, stop) in
        [(0x5555, rv::Stop::PowerOff), (0x7777, rv::Stop::Reboot), (0x1234, rv::Stop::Reached)]
    {
        let mut machine = Machine::new(1 << 20);
        // lui t0, 0x100; lui t1; addi t1; sw t1, (t0); j .
        let (upper, lower) = ((value + 0x800) & 0xffff_f000, value & 0xfff);
        let words = [0x10_02b7, upper | 0x337, lower << 20 | 0x3_0313, 0x0062_a023, 0x6f_u32];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(machine.put(RAM, &bytes));
        assert_eq!(machine.run(100), stop, "{value:x}");
    }
}
