//! Owns the device tree that tells the kernel what this machine has, in its flat form.

use crate::boot::Files;
use crate::bus::{CLINT, CLOCK, PLIC, SWITCH, UART, VIRTIO};
use crate::devices::{Hardware, STRIDE};
use crate::machine::{RAM, TICKS};
use alloc::{format, string::String, vec::Vec};

/// A tree being written.
#[derive(Default)]
struct Writer {
    structure: Vec<u8>,
    names: Vec<u8>,
}

impl Writer {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, name: &str, inside: impl FnOnce(&mut Writer)) {
        self.word(1);
        self.bytes(format!("{name}\0").as_bytes());
        inside(self);
        self.word(2);
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let place = self.names.len() as u32;
        self.names.extend(name.bytes().chain([0]));
        self.word(3);
        self.word(value.len() as u32);
        self.word(place);
        self.bytes(value);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.property(name, format!("{value}\0").as_bytes());
    }

    fn cells(&mut self, name: &str, cells: &[u32]) {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    fn range(&mut self, name: &str, from: u64, size: u64) {
        self.cells(name, &[(from >> 32) as u32, from as u32, (size >> 32) as u32, size as u32]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.word(9);
        let (header, reserved) = (40_u32, 16_u32);
        let (structure, names) = (self.structure.len() as u32, self.names.len() as u32);
        let begin = header + reserved;
        let all = begin + structure + names;
        let words = [0xd00d_feed, all, begin, begin + structure, header, 17, 16, 0, names, structure];
        let mut tree: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        tree.resize(begin as usize, 0);
        tree.extend(self.structure);
        tree.extend(self.names);
        tree
    }
}

/// The tree of a machine with so much RAM, these devices, what these files need, and an initial file system at these
/// addresses.
pub(crate) fn describe(
    ram: u64,
    hardware: &Hardware,
    files: &Files<'_>,
    initrd: Option<(u64, u64)>,
) -> Vec<u8> {
    let mut tree = Writer::default();
    tree.node("", |root| {
        root.cells("#address-cells", &[2]);
        root.cells("#size-cells", &[2]);
        root.text("compatible", "riscv-virtio");
        root.text("model", "deterministic machine");
        root.node("chosen", |chosen| {
            chosen.text("bootargs", files.command_line);
            chosen.text("stdout-path", &format!("/soc/serial@{UART:x}"));
            if !hardware.seed.is_empty() {
                chosen.property("rng-seed", &hardware.seed);
            }
            if let Some((start, end)) = initrd {
                chosen.cells("linux,initrd-start", &[(start >> 32) as u32, start as u32]);
                chosen.cells("linux,initrd-end", &[(end >> 32) as u32, end as u32]);
            }
        });
        root.node(&format!("memory@{RAM:x}"), |memory| {
            memory.text("device_type", "memory");
            memory.range("reg", RAM, ram);
        });
        root.node("cpus", cpus);
        root.node("soc", |node| {
            soc(node, hardware.count());
            // The machine's own firmware does it, and the kernel asks that.
            if files.firmware.is_some() {
                node.node(&format!("test@{SWITCH:x}"), |switch| {
                    switch.text("compatible", "sifive,test1\0sifive,test0\0syscon");
                    switch.range("reg", SWITCH, 0x1000);
                });
            }
        });
    });
    tree.finish()
}

fn cpus(cpus: &mut Writer) {
    cpus.cells("#address-cells", &[1]);
    cpus.cells("#size-cells", &[0]);
    cpus.cells("timebase-frequency", &[TICKS]);
    cpus.node("cpu@0", |cpu| {
        cpu.text("device_type", "cpu");
        cpu.cells("reg", &[0]);
        cpu.text("status", "okay");
        cpu.text("compatible", "riscv");
        cpu.text("riscv,isa", "rv64imafdc_zicntr_zicsr_zifencei");
        cpu.text("riscv,isa-base", "rv64i");
        let extensions: String = ["i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei"].join("\0");
        cpu.text("riscv,isa-extensions", &extensions);
        cpu.text("mmu-type", "riscv,sv48");
        cpu.node("interrupt-controller", |controller| {
            controller.cells("#interrupt-cells", &[1]);
            controller.property("interrupt-controller", &[]);
            controller.text("compatible", "riscv,cpu-intc");
            controller.cells("phandle", &[1]);
        });
    });
}

fn soc(soc: &mut Writer, virtio: usize) {
    soc.cells("#address-cells", &[2]);
    soc.cells("#size-cells", &[2]);
    soc.text("compatible", "simple-bus");
    soc.property("ranges", &[]);
    soc.node(&format!("clint@{CLINT:x}"), |clint| {
        clint.text("compatible", "sifive,clint0\0riscv,clint0");
        clint.cells("interrupts-extended", &[1, 3, 1, 7]);
        clint.range("reg", CLINT, 0x1_0000);
    });
    soc.node(&format!("plic@{PLIC:x}"), |plic| {
        plic.text("compatible", "sifive,plic-1.0.0\0riscv,plic0");
        plic.cells("#interrupt-cells", &[1]);
        plic.cells("#address-cells", &[0]);
        plic.property("interrupt-controller", &[]);
        plic.cells("interrupts-extended", &[1, 11, 1, 9]);
        plic.cells("riscv,ndev", &[31]);
        plic.range("reg", PLIC, 0x40_0000);
        plic.cells("phandle", &[2]);
    });
    soc.node(&format!("serial@{UART:x}"), |serial| {
        serial.text("compatible", "ns16550a");
        serial.range("reg", UART, 0x100);
        serial.cells("clock-frequency", &[3_686_400]);
        serial.cells("interrupt-parent", &[2]);
        serial.cells("interrupts", &[10]);
    });
    soc.node(&format!("rtc@{CLOCK:x}"), |clock| {
        clock.text("compatible", "google,goldfish-rtc");
        clock.range("reg", CLOCK, 0x1000);
        clock.cells("interrupt-parent", &[2]);
        clock.cells("interrupts", &[11]);
    });
    for place in 0..virtio {
        let at = VIRTIO + place as u64 * STRIDE;
        soc.node(&format!("virtio_mmio@{at:x}"), |device| {
            device.text("compatible", "virtio,mmio");
            device.range("reg", at, STRIDE);
            device.cells("interrupt-parent", &[2]);
            device.cells("interrupts", &[place as u32 + 1]);
        });
    }
}
