//! Owns how times are written on the command line.

use protocol::Micros;

/// Units and how many microseconds they have.
const UNITS: &[(&str, u64)] = &[("us", 1), ("µs", 1), ("ms", 1_000), ("s", 1_000_000)];

/// Reads a time such as `25ms`, `500us` or `1s`.
///
/// # Errors
/// What is wrong with it and how it should look.
pub fn parse_micros(text: &str) -> Result<Micros, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err("a time is a whole number and a unit, such as 25ms or 1s".into());
    }
    if unit.is_empty() {
        return Err(format!("{text} of what? Write {text}ms, {text}us or {text}s"));
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "{unit:?} is no unit of time here; known are us, ms and s, after a whole number"
        ));
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(*factor))
        .map(Micros)
        .ok_or_else(|| format!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_understood() {
        assert_eq!(parse_micros("25ms"), Ok(Micros(25_000)));
        assert_eq!(parse_micros("1s"), Ok(Micros(1_000_000)));
        assert_eq!(parse_micros("500us"), Ok(Micros(500)));
        assert_eq!(parse_micros("7µs"), Ok(Micros(7)));
    }

    #[test]
    fn anything_else_is_refused_with_the_right_way_to_write_it() {
        assert!(parse_micros("25").unwrap_err().contains("25ms"));
        for (text, says) in
            [("", "25ms"), ("ms", "25ms"), ("-1s", "25ms"), ("1.5s", "whole"), ("3m", "known")]
        {
            let error = parse_micros(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(parse_micros("99999999999999999s").unwrap_err().contains("too long"));
        assert!(parse_micros("99999999999999999999999us").unwrap_err().contains("too long"));
    }
}
