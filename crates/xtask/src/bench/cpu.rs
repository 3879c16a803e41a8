//! Owns how much of a processor a process has used.

use anyhow::{Context, Result};
use std::fs;

/// Processor time that a process has used (Linux Documentation/filesystems/proc.rst, stat: fields 14 and 15).
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_ticks(&stat).map(|ticks| ticks as f64 / 100.0).with_context(|| format!("{path} is not understood"))
}

/// Processor time of all processes that this one has waited for (fields 16 and 17).
pub fn waited_for_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let ticks = parse_fields(&stat, 13).context("/proc/self/stat is not understood")?;
    Ok(ticks as f64 / 100.0)
}

/// Ticks, of which Linux shows 100 a second on every machine that QEMU knows.
fn parse_ticks(stat: &str) -> Option<u64> {
    parse_fields(stat, 11)
}

/// The sum of two fields, so many behind the program's name.
fn parse_fields(stat: &str, behind: usize) -> Option<u64> {
    let numbers = stat.rsplit_once(')')?.1.split_whitespace().skip(behind).take(2);
    let ticks: Vec<u64> = numbers.filter_map(|number| number.parse().ok()).collect();
    (ticks.len() == 2).then(|| ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn processor_time_is_that_of_user_and_system() {
        let stat = "42 (an (odd) name) S 1 1 1 0 -1 4 1 2 3 4 150 50 7 8 20 0 1 0 1\n";
        assert_eq!(parse_ticks(stat), Some(200));
        assert_eq!(parse_fields(stat, 13), Some(15), "of those waited for");
        assert_eq!(parse_ticks("42 (x) S"), None);
    }

    #[test]
    fn a_process_that_works_spends_time() {
        let me = std::process::id();
        let before = cpu_seconds(me).expect("this process");
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {}
        assert!(cpu_seconds(me).expect("this process") > before);
        assert!(os::facts::available_memory() >> 20 > 0);
    }
}
