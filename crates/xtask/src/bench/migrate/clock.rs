//! Owns what a migration takes from a guest as a program in it sees it: by how much the guest's own clock falls behind the
//! machine's, which goes on while the guest stands still.

use lab::guest::pulse::parse_clock;
use std::time::Duration;

/// Until the program in the guest has spoken twice of the time after a migration: it does once a second.
pub const AFTERWARDS: Duration = Duration::from_millis(2_300);
/// What it said last counts: so many times.
const TIMES: usize = 2;

/// By how many milliseconds the guest's clock fell behind from the end of `before`, which its console had said when the
/// migration began, to the end of `after`, which the console at the other end has said since. None if the program was not
/// heard twice on either side.
pub fn lost_ms(before: &str, after: &str) -> Option<f64> {
    let (last, began) = newest(before, None)?;
    let (_, ended) = newest(after, Some(last))?;
    Some((ended - began) as f64 / 1e3)
}

/// The second spoken of last, and how far the clock is behind. A new second that was seen late makes it less, never more: the
/// largest counts.
fn newest(said: &str, later_than: Option<u64>) -> Option<(u64, i64)> {
    let lines = said.lines().filter_map(parse_clock);
    let lines: Vec<(u64, i64)> =
        lines.filter(|(second, _)| later_than.is_none_or(|than| *second > than)).collect();
    let newest = lines.get(lines.len().checked_sub(TIMES)?..)?;
    Some((newest.last()?.0, newest.iter().map(|(_, behind)| *behind).max()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "READY\r\nCLOCK 0 0\r\nCLOCK 1 -80\r\nCLOCK 2 -410\r\nCLO";

    #[test]
    fn what_is_lost_is_the_difference_of_both_ends() {
        let after = "CLOCK 2 -410\nCLOCK 3 19930\nCLOCK 4 52000\nCLOCK 5 51700\n";
        assert_eq!(lost_ms(BEFORE, after), Some(52.08));
    }

    #[test]
    fn a_program_that_was_not_heard_twice_tells_nothing() {
        assert_eq!(lost_ms(BEFORE, "CLOCK 1 5\nCLOCK 2 9\nCLOCK 3 1000\n"), None);
        assert_eq!(lost_ms("CLOCK 0 0\n", "CLOCK 1 0\nCLOCK 2 0\n"), None);
    }
}
