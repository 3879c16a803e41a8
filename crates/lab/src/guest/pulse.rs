//! Owns the program inside the guest that dirties pages, counts, and watches its own time; and its client.
//!
//! The program is `guest/pulse.rs`, compiled alone into a static binary. It listens on TCP port 7007 for one-line
//! commands, so that a benchmark changes the load while the guest runs. Datagrams to the same port come back as they are.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use super::cache::Cache;
use super::{GuestError, on};
use crate::command;

/// Port on which the pulse program listens, TCP and UDP, on IPv4 and IPv6.
pub const PULSE_PORT: u16 = 7007;

pub(super) const SOURCE: &str = include_str!("../../guest/pulse.rs");
const FLAGS: [&str; 10] = [
    "--edition=2024",
    "-C",
    "opt-level=2",
    "-C",
    "target-feature=+crt-static",
    "-C",
    "panic=abort",
    "-C",
    "strip=symbols",
    "--crate-name=pulse",
];

/// The static program, from the cache or compiled now.
///
/// # Errors
/// The compiler cannot be run or fails (the static libc is missing).
pub fn program(cache: &Cache) -> Result<PathBuf, GuestError> {
    let recipe = [SOURCE.as_bytes(), FLAGS.join(" ").as_bytes()].map(<[u8]>::to_vec);
    let place = cache.get("pulse", &recipe.each_ref().map(Vec::as_slice), |work| {
        let source = work.join("pulse.rs");
        fs::write(&source, SOURCE).map_err(on("write", &source))?;
        let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        command::run(Command::new(compiler).args(FLAGS).arg("-o").arg(work.join("pulse")).arg(&source))?;
        Ok(())
    })?;
    Ok(place.join("pulse"))
}

/// What the pulse program counted since it started, or since `reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PulseStats {
    /// The guest's own uptime in milliseconds: the pauses are missing from it if its clock stands still in them.
    pub uptime_ms: u64,
    /// Pages dirtied (a page dirtied twice counts twice).
    pub dirtied: u64,
    /// Iterations of the CPU-bound counter.
    pub iterations: u64,
    /// Stretches of at least 1 ms in which the guest saw its own time jump.
    pub gaps: u64,
    /// Their sum in microseconds.
    pub gap_total_us: u64,
    /// The longest in microseconds.
    pub gap_longest_us: u64,
}

/// What was done with the guest's first disk since it booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskCounts {
    /// Requests that were completed, reads and writes.
    pub requests: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A connection to the pulse program; use it from a thread inside the client's namespace.
#[derive(Debug)]
pub struct PulseClient {
    stream: BufReader<TcpStream>,
}

impl PulseClient {
    /// Connects to the guest's pulse port.
    ///
    /// # Errors
    /// Nobody answers there within 5 s.
    pub fn connect(address: SocketAddr) -> io::Result<PulseClient> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(PulseClient { stream: BufReader::new(stream) })
    }

    /// Starts dirtying: `pages` is the working set; rate and pattern as in `guest/pulse.rs`
    /// (`1000` pages a second, `300/tick` every 5 ms, `full`; `seq`, `random`, `seq+page`, `random+page`).
    ///
    /// # Errors
    /// The connection fails, or the program refuses the order.
    pub fn dirty(&mut self, pages: u64, rate: &str, pattern: &str) -> io::Result<()> {
        self.order(&format!("dirty {pages}:{rate}:{pattern}"))
    }

    /// Makes the guest use so many more pages of its memory, zeros, and not touch them again.
    ///
    /// # Errors
    /// The connection fails, or the program refuses the order.
    pub fn hold(&mut self, pages: u64) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(Duration::from_secs(600)))?;
        self.order(&format!("hold {pages}"))
    }

    /// Stops dirtying.
    ///
    /// # Errors
    /// The connection fails.
    pub fn stop(&mut self) -> io::Result<()> {
        self.order("stop")
    }

    /// Stops dirtying, looks through the pages that were written whole and in order (`seq+page`), and returns how
    /// many they are.
    ///
    /// # Errors
    /// The connection fails, or a page is not what was written there.
    pub fn check(&mut self) -> io::Result<u64> {
        let answer = self.ask("check")?;
        let count = answer.strip_prefix("ok ").and_then(|count| count.parse().ok());
        count.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, answer))
    }

    /// Starts or stops the CPU-bound counter.
    ///
    /// # Errors
    /// The connection fails.
    pub fn count(&mut self, on: bool) -> io::Result<()> {
        self.order(if on { "count on" } else { "count off" })
    }

    /// Starts or stops watching for gaps in the guest's time; it keeps one virtual CPU busy.
    ///
    /// # Errors
    /// The connection fails.
    pub fn watch_gaps(&mut self, on: bool) -> io::Result<()> {
        self.order(if on { "gaps on" } else { "gaps off" })
    }

    /// Sets all counts to zero.
    ///
    /// # Errors
    /// The connection fails.
    pub fn reset(&mut self) -> io::Result<()> {
        self.order("reset")
    }

    /// What was counted.
    ///
    /// # Errors
    /// The connection fails, or the answer cannot be read.
    pub fn stats(&mut self) -> io::Result<PulseStats> {
        let line = self.ask("stats")?;
        parse_stats(&line)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not statistics: {line}")))
    }

    /// Ends the fio that runs in the guest, and starts one with these arguments, if there are any. The guest must have
    /// fio: [`crate::guest::fio`].
    ///
    /// # Errors
    /// The connection fails, or there is no fio.
    pub fn fio(&mut self, arguments: &str) -> io::Result<()> {
        self.order(&format!("fio {}", if arguments.is_empty() { "off" } else { arguments }))
    }

    /// What the guest's kernel counted of its first disk.
    ///
    /// # Errors
    /// The connection fails, or there is no disk.
    pub fn disk(&mut self) -> io::Result<DiskCounts> {
        let line = self.ask("disk")?;
        parse_disk(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line))
    }

    /// Makes the guest reboot at once, as its reset button would; no answer is awaited.
    ///
    /// # Errors
    /// The order cannot be sent.
    pub fn reboot(mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(b"reboot\n")
    }

    /// Makes the guest switch itself off; no answer is awaited.
    ///
    /// # Errors
    /// The order cannot be sent.
    pub fn power_off(mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(b"poweroff\n")
    }

    /// Makes the guest end its server, unmount its disk and switch itself off, if it has a script for that.
    ///
    /// # Errors
    /// The connection fails, or the program refuses the order.
    pub fn shut_down(mut self) -> io::Result<()> {
        self.order("shutdown")
    }

    fn order(&mut self, line: &str) -> io::Result<()> {
        let answer = self.ask(line)?;
        if answer == "ok" { Ok(()) } else { Err(io::Error::other(format!("`{line}`: {answer}"))) }
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim_end().to_owned())
    }
}

/// The numbers of a `stat` file: reads, merged ones, sectors, milliseconds, and the same of writes.
fn parse_disk(line: &str) -> Option<DiskCounts> {
    const SECTOR: u64 = 512;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let at = |place: usize| numbers.get(place).copied();
    Some(DiskCounts { requests: at(0)? + at(4)?, bytes: SECTOR * (at(2)? + at(6)?) })
}

fn parse_stats(line: &str) -> Option<PulseStats> {
    let mut stats = PulseStats::default();
    for word in line.split_whitespace() {
        let (name, value) = word.split_once('=')?;
        let field = match name {
            "uptime_ms" => &mut stats.uptime_ms,
            "dirtied" => &mut stats.dirtied,
            "iterations" => &mut stats.iterations,
            "gaps" => &mut stats.gaps,
            "gap_total_us" => &mut stats.gap_total_us,
            "gap_longest_us" => &mut stats.gap_longest_us,
            _ => return None,
        };
        *field = value.parse().ok()?;
    }
    Some(stats)
}

/// What the program says on the console once a second if it was started with `clock`: seconds that passed by the
/// machine's real-time clock, and by how many microseconds the guest's own clock is behind it. None for any other line.
#[must_use]
pub fn parse_clock(line: &str) -> Option<(u64, i64)> {
    let mut words = line.trim().strip_prefix("CLOCK ")?.split(' ').map(str::parse);
    match (words.next()?.ok()?, words.next()?.ok()?, words.next()) {
        (seconds, behind_us, None) => Some((u64::try_from(seconds).ok()?, behind_us)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_of_a_disk_are_counted_together() {
        let counts = parse_disk("10 1 80 5 20 2 4096 7 0 3 12 0 0 0 0 0 0");
        assert_eq!(counts, Some(DiskCounts { requests: 30, bytes: 4176 * 512 }));
        assert_eq!(parse_disk("error /sys/block/vda/stat: not there"), None);
    }

    #[test]
    fn lines_about_the_clock_are_read_and_no_others() {
        assert_eq!(parse_clock("CLOCK 12 -345\r\n"), Some((12, -345)));
        for other in ["CLOCK", "CLOCK 1", "CLOCK 1 2 3", "CLOCK cannot be read: x", "READY 3.1", "CLOCK -1 2"]
        {
            assert_eq!(parse_clock(other), None, "{other}");
        }
    }
}
