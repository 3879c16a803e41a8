//! Boots a kernel with an initial file system and shows its console: `boot [--interpret] KERNEL INITRD [FIRMWARE]`.
//! Every 1,000 million instructions the state hash goes to the standard error: two runs must tell the same, with machine code or
//! without, on any processor.

#![forbid(unsafe_code)]

use rv::{Files, Hardware, Hotness, Machine, Output, Stop};
use rvjit::Pieces;
use std::io::Write;

/// Instructions between two hashes.
const SLICE: u64 = 1_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (options, arguments): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument == "--interpret");
    let [kernel, initrd, rest @ ..] = arguments.as_slice() else {
        return Err("give a kernel and an initial file system".into());
    };
    let firmware = rest.first().map(std::fs::read).transpose()?;
    let (kernel, initrd) = (std::fs::read(kernel)?, std::fs::read(initrd)?);
    let files = Files {
        firmware: firmware.as_deref(),
        kernel: &kernel,
        initrd: &initrd,
        command_line: "console=ttyS0 earlycon=sbi",
    };
    let mut machine = Machine::with_hardware(256 << 20, &Hardware::default(), &files)?;
    if options.is_empty() {
        machine.compile_with(Box::new(Pieces::beside()?), Hotness::default());
    }
    let mut console = std::io::stdout();
    loop {
        let until = machine.instructions() + SLICE / 1000;
        let stop = machine.run(until);
        for output in machine.outputs() {
            if let Output::Console(byte) = output {
                console.write_all(&[byte])?;
            }
        }
        console.flush()?;
        if stop != Stop::Reached || until.is_multiple_of(SLICE) {
            eprintln!("[{stop:?} at {}: {:016x}]", machine.instructions(), machine.hash());
        }
        if stop != Stop::Reached {
            return Ok(());
        }
    }
}
