//! Owns the bare-metal counter guest: firmware of 64 KiB that counts in some pages of memory and on the serial line.
//!
//! It checks its own memory: each round compares all pages with a register and prints `BAD` if one differs, which
//! is what a checkpoint of mixed moments, or with a lost page, would show. See `guest/counter.S`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::cache::Cache;
use super::{GuestError, on};
use crate::command;

const SOURCE: &str = include_str!("../../guest/counter.S");

/// Pages that hold the number, if nothing else is said.
const PAGES: u32 = 16;
/// Most pages that can: ordinary memory from 64 KiB to what a PC's firmware has below 640 KiB.
pub const MOST_PAGES: u32 = 143;
/// Turns of the delay loop for about 200 lines a second under TCG.
pub const DELAY_TCG: u32 = 3_000_000;
/// Turns of the delay loop for about 200 lines a second under a KVM that emulates in software.
pub const DELAY_SOFTWARE_KVM: u32 = 2_000;

/// The firmware image for QEMU's `-bios`, from the cache or assembled now.
///
/// `delay` is the number of turns of an empty loop between two lines.
///
/// # Errors
/// binutils is missing, or the disk fails.
pub fn firmware(cache: &Cache, delay: u32) -> Result<PathBuf, GuestError> {
    firmware_of(cache, delay, PAGES)
}

/// The same, with its number in so many pages, all written in each round; there is room for [`MOST_PAGES`].
///
/// # Errors
/// binutils is missing, or the disk fails.
pub fn firmware_of(cache: &Cache, delay: u32, pages: u32) -> Result<PathBuf, GuestError> {
    let (delay, pages) = (format!("DELAY={delay}"), format!("PAGES={pages}"));
    let place = cache.get("counter", &[SOURCE.as_bytes(), delay.as_bytes(), pages.as_bytes()], |work| {
        let source = work.join("counter.S");
        fs::write(&source, SOURCE).map_err(on("write", &source))?;
        let run = |command: &mut Command| command::run(command.current_dir(work));
        let symbols = ["--defsym", &delay, "--defsym", &pages];
        run(Command::new("as").arg("--32").args(symbols).args(["-o", "counter.o", "counter.S"]))?;
        let place = ["-Ttext", "0", "-e", "0"];
        run(Command::new("ld").args(["-m", "elf_i386"]).args(place).args([
            "-o",
            "counter.elf",
            "counter.o",
        ]))?;
        run(Command::new("objcopy").args(["-O", "binary", "-j", ".text", "counter.elf", "counter.bin"]))?;
        Ok(())
    })?;
    Ok(place.join("counter.bin"))
}

/// A line of the counter guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The guest began, or began again after a reset.
    Start,
    /// The next number.
    Number(u32),
    /// Memory and register disagree at this number.
    Bad(u32),
}

/// Reads a line of the counter guest's serial output; `None` for anything else, also for half a line.
pub fn parse_line(line: &str) -> Option<Line> {
    let number = |text: &str| (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten();
    match line.trim_end() {
        "START" => Some(Line::Start),
        line => match line.strip_prefix("BAD ") {
            Some(rest) => number(rest).map(Line::Bad),
            None => number(line).map(Line::Number),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(parse_line("START\n"), Some(Line::Start));
        assert_eq!(parse_line("0000002A"), Some(Line::Number(42)));
        assert_eq!(parse_line("BAD 0000002A"), Some(Line::Bad(42)));
        assert_eq!(parse_line("00002A"), None);
    }
}
