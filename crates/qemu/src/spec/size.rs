//! Owns the size of memory as people write it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A size in bytes, written as `512MiB`, `2GiB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(pub u64);

impl Default for MemorySize {
    fn default() -> Self {
        Self(512 << 20)
    }
}

/// Longest first, so that `MiB` is not read as `B`.
const UNITS: [(&str, u32); 7] =
    [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("M", 20), ("G", 30), ("", 0)];

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size: it looks like \"512MiB\" or \"2GiB\"");
        let text = text.trim();
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits.trim_end(), *shift)))
            .ok_or_else(wrong)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 > 0 && self.0.is_multiple_of(1 << shift);
        match [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, shift)| fits(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl TryFrom<String> for MemorySize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_binary_and_whole() {
        let size = |text: &str| text.parse::<MemorySize>().map(|s| s.0).ok();
        assert_eq!(size("512MiB"), Some(512 << 20));
        assert_eq!(size("2 G"), Some(2 << 30));
        assert_eq!(size("4096"), Some(4096));
        for bad in ["", "MiB", "-1MiB", "+1MiB", "1.5GiB", "1MB", "99999999999TiB", "1KiBMiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in any::<u64>()) {
            prop_assert_eq!(MemorySize(bytes).to_string().parse(), Ok(MemorySize(bytes)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = text.parse::<MemorySize>();
        }
    }
}
