//! Owns the machine's registers as gdb knows them: their names, and their numbers in its protocol.

use rv::Machine;
use std::fmt::Write;

const INTEGER: [&str; 33] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6", "pc",
];
const FLOATING: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];
/// Those of floating point have a place of their own in gdb's description.
const FLOATING_CONTROL: [(&str, u32); 3] = [("fflags", 1), ("frm", 2), ("fcsr", 3)];
const CONTROL: [(&str, u32); 27] = [
    ("cycle", 0xc00),
    ("time", 0xc01),
    ("instret", 0xc02),
    ("sstatus", 0x100),
    ("sie", 0x104),
    ("stvec", 0x105),
    ("scounteren", 0x106),
    ("sscratch", 0x140),
    ("sepc", 0x141),
    ("scause", 0x142),
    ("stval", 0x143),
    ("sip", 0x144),
    ("satp", 0x180),
    ("mstatus", 0x300),
    ("misa", 0x301),
    ("medeleg", 0x302),
    ("mideleg", 0x303),
    ("mie", 0x304),
    ("mtvec", 0x305),
    ("mcounteren", 0x306),
    ("mscratch", 0x340),
    ("mepc", 0x341),
    ("mcause", 0x342),
    ("mtval", 0x343),
    ("mip", 0x344),
    ("pmpcfg0", 0x3a0),
    ("pmpaddr0", 0x3b0),
];
/// gdb's numbers: the first of floating point, the first control and status register, the privilege mode.
const FIRST_FLOATING: u32 = 33;
const FIRST_CONTROL: u32 = 65;
const PRIVILEGE: u32 = 4161;

/// The description of the machine that gdb asks for.
pub fn description() -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n\
         <architecture>riscv:rv64</architecture>\n",
    );
    let mut feature = |name: &str, registers: &mut dyn Iterator<Item = (&str, u32, u32, &str)>| {
        let mut lines = String::new();
        for (name, number, bits, kind) in registers {
            // Writing to a string cannot fail.
            let _ = writeln!(
                lines,
                "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{number}\"/>"
            );
        }
        let _ = write!(text, "<feature name=\"org.gnu.gdb.riscv.{name}\">\n{lines}</feature>\n");
    };
    feature(
        "cpu",
        &mut (0..).zip(INTEGER).map(|(number, name)| {
            let kind = match name {
                "pc" | "ra" => "code_ptr",
                "sp" | "gp" | "tp" | "fp" => "data_ptr",
                _ => "int",
            };
            (name, number, 64, kind)
        }),
    );
    let floating = (FIRST_FLOATING..).zip(FLOATING).map(|(number, name)| (name, number, 64, "ieee_double"));
    let control = FLOATING_CONTROL.iter().map(|&(name, number)| (name, FIRST_CONTROL + number, 32, "int"));
    feature("fpu", &mut floating.chain(control));
    feature("csr", &mut CONTROL.iter().map(|&(name, number)| (name, FIRST_CONTROL + number, 64, "int")));
    feature("virtual", &mut std::iter::once(("priv", PRIVILEGE, 8, "int")));
    text.push_str("</target>\n");
    text
}

/// A control and status register, in as many bytes as [`description`] says.
pub fn control(machine: &Machine, number: u16) -> Option<Vec<u8>> {
    let value = machine.csr(number.into())?.to_le_bytes();
    let narrow = FLOATING_CONTROL.iter().any(|(_, known)| *known == u32::from(number));
    Some(if narrow { value[..4].to_vec() } else { value.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_described_once_and_can_be_read() {
        let text = description();
        let machine = Machine::new(1 << 20);
        let all = INTEGER.iter().chain(&FLOATING).copied();
        for name in all.chain(CONTROL.iter().chain(&FLOATING_CONTROL).map(|(name, _)| *name)) {
            assert_eq!(text.matches(&format!("name=\"{name}\"")).count(), 1, "{name}");
        }
        for (name, number) in CONTROL.iter().chain(&FLOATING_CONTROL) {
            let bits = 8 * control(&machine, *number as u16).expect(name).len();
            assert!(text.contains(&format!("name=\"{name}\" bitsize=\"{bits}\"")), "{name}");
        }
    }
}
