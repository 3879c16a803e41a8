//! Owns when checkpoints are taken, as it is asked for on the command line of a demonstration or a torture.

use anyhow::Result;
use api::types::ProtectRequest;
use protocol::HostName;
use std::str::FromStr;
use std::time::Duration;

/// From one checkpoint to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// As `vm protect` has it unless it is told otherwise: they follow the output.
    Auto,
    /// Always so long.
    Even(Duration),
}

impl Interval {
    /// The request to a VM's host.
    pub fn request(self, to: &str) -> Result<ProtectRequest> {
        let to = HostName::new(to)?;
        Ok(match self {
            Self::Auto => ProtectRequest::following(to),
            Self::Even(interval) => ProtectRequest::even(to, u64::try_from(interval.as_micros())?),
        })
    }

    /// When there is a checkpoint, in a sentence.
    pub fn when(self) -> String {
        match self {
            Self::Auto => "as soon as output waits for it".into(),
            Self::Even(interval) => format!("every {} ms", interval.as_millis()),
        }
    }

    /// The interval, if it is always the same.
    pub fn even_ms(self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::Even(interval) => Some(interval.as_secs_f64() * 1e3),
        }
    }

    /// What is to be added to `undying vm protect`.
    pub fn option(self) -> String {
        match self {
            Self::Auto => String::new(),
            Self::Even(interval) => format!(" --interval {}ms", interval.as_millis()),
        }
    }
}

impl FromStr for Interval {
    type Err = String;

    /// Reads `auto`, or a time such as `25ms` or `1s`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let wrong = || format!("`{text}` is no time such as 25ms or 1s, nor auto");
        let digits = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let interval = match &text[digits..] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            _ => return Err(wrong()),
        };
        let sensible = Duration::from_millis(1)..=Duration::from_secs(10);
        let even = sensible.contains(&interval).then_some(Self::Even(interval));
        even.ok_or_else(|| "an interval is 1ms to 10s, or auto".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit_and_a_measure_or_are_auto() {
        let even = |ms| Ok(Interval::Even(Duration::from_millis(ms)));
        assert_eq!("25ms".parse(), even(25));
        assert_eq!("1s".parse(), even(1_000));
        assert_eq!("auto".parse(), Ok(Interval::Auto));
        for wrong in ["25", "ms", "0ms", "11s", "25us", "", "Auto"] {
            assert!(wrong.parse::<Interval>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_and_what_is_told_are_the_same() {
        for text in ["auto", "25ms"] {
            let interval: Interval = text.parse().expect("an interval");
            let request = interval.request("beta").expect("a host");
            assert_eq!(request.follow.is_none(), interval.even_ms().is_some());
            assert_eq!(interval.option().contains("--interval 25ms"), request.interval_us == 25_000);
        }
    }
}
