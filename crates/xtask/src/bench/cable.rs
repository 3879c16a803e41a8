//! Owns reading what went over the cable between two hosts.

use anyhow::{Context, Result};
use std::fs;

/// The cable, as its end is called at each host.
const CABLE: &str = "repl0";

/// Bytes that left and reached the host of this process by it.
pub fn bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/net/dev");
    let devices = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    bytes_of(&devices, CABLE).with_context(|| format!("the host of process {process} has no {CABLE}"))
}

/// (Linux Documentation/networking/statistics.rst; columns as in /proc/net/dev's own heading.)
fn bytes_of(devices: &str, device: &str) -> Option<u64> {
    let line = devices.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Some(numbers.first()? + numbers.get(8)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_device_are_received_and_sent() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n \
                       repl0:700 5 0 0 0 0 0 0 50 2 0 0 0 0 0 0\n";
        assert_eq!(bytes_of(devices, "repl0"), Some(750));
        assert_eq!(bytes_of(devices, "repl"), None);
    }
}
