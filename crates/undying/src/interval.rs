//! Owns how the distance of checkpoints is written on the command line.

use crate::duration::parse_micros;
use api::types::FollowOutput;
use protocol::Micros;

/// From one checkpoint to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// As the output wants them.
    Auto,
    /// Always so long.
    Even(Micros),
}

impl Interval {
    /// The longest that it may be.
    #[must_use]
    pub fn longest(self) -> Micros {
        match self {
            Self::Auto => Micros(FollowOutput::LONGEST_US),
            Self::Even(interval) => interval,
        }
    }
}

/// Reads `auto` or a time such as `25ms`.
///
/// # Errors
/// What is wrong with it and how it should look.
pub fn parse_interval(text: &str) -> Result<Interval, String> {
    if text == "auto" {
        return Ok(Interval::Auto);
    }
    parse_micros(text).map(Interval::Even).map_err(|error| format!("{error}, or auto"))
}

/// Reads a share such as `20%`, which is not none.
///
/// # Errors
/// What is wrong with it and how it should look.
pub fn parse_percent(text: &str) -> Result<u8, String> {
    parse_share(text, 1, "20%")
}

/// Reads a share such as `60%`, or none.
///
/// # Errors
/// What is wrong with it and how it should look.
pub fn parse_slowdown(text: &str) -> Result<u8, String> {
    parse_share(text, 0, "60%")
}

fn parse_share(text: &str, least: u8, example: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| (least..=90).contains(percent))
        .ok_or_else(|| format!("{text:?} is no share of the time: write {least}% to 90%, such as {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_or_auto() {
        assert_eq!(parse_interval("auto"), Ok(Interval::Auto));
        assert_eq!(parse_interval("25ms"), Ok(Interval::Even(Micros(25_000))));
        assert!(parse_interval("often").unwrap_err().contains("auto"));
        assert_eq!(Interval::Auto.longest(), Micros(250_000));
    }

    #[test]
    fn a_share_is_a_number_of_percent() {
        assert_eq!(parse_percent("20%"), Ok(20));
        assert_eq!(parse_percent("5"), Ok(5));
        for wrong in ["0%", "100%", "-1%", "a lot", "2.5%"] {
            assert!(parse_percent(wrong).unwrap_err().contains("20%"), "{wrong}");
        }
    }
}
