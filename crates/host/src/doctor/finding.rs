//! Owns how a check says what was found, why that matters and what to do.

use api::doctor::{Finding, Verdict};
use serde::{Deserialize, Serialize};
use std::fmt::Display;

/// Longest text in a finding, in characters: some of it comes from another host.
const LONGEST: usize = 2_000;

/// Something that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// What it is called.
    pub name: &'static str,
    /// Why it matters, in a sentence.
    pub why: &'static str,
}

impl Check {
    fn says(&self, of: &str, verdict: Verdict, found: &dyn Display, remedy: &dyn Display) -> Finding {
        Finding {
            of: of.to_owned(),
            check: self.name.to_owned(),
            verdict,
            found: plain(&found.to_string()),
            why: self.why.to_owned(),
            remedy: plain(&remedy.to_string()),
        }
    }

    /// It is as it should be.
    #[must_use]
    pub fn ok(&self, of: &str, found: impl Display) -> Finding {
        self.says(of, Verdict::Ok, &found, &"")
    }

    /// It could not be looked at.
    #[must_use]
    pub fn skipped(&self, of: &str, found: impl Display) -> Finding {
        self.says(of, Verdict::Skipped, &found, &"")
    }

    /// Protection works, worse than it could.
    #[must_use]
    pub fn warning(&self, of: &str, found: impl Display, remedy: impl Display) -> Finding {
        self.says(of, Verdict::Warning, &found, &remedy)
    }

    /// It stands in the way.
    #[must_use]
    pub fn failure(&self, of: &str, found: impl Display, remedy: impl Display) -> Finding {
        self.says(of, Verdict::Failure, &found, &remedy)
    }
}

/// Text on one line, of no more than it takes to say something, and without anything that moves a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// The answer to a try.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// It succeeded.
    pub ok: bool,
    /// What it gave, or why it failed.
    pub says: String,
}

impl<T: Display, E: Display> From<Result<T, E>> for Probe {
    fn from(tried: Result<T, E>) -> Self {
        match tried {
            Ok(says) => Self { ok: true, says: says.to_string() },
            Err(error) => Self { ok: false, says: error.to_string() },
        }
    }
}

impl Probe {
    /// Ok, or a failure with this remedy.
    #[must_use]
    pub fn judged(&self, check: Check, of: &str, remedy: &str) -> Finding {
        if self.ok { check.ok(of, &self.says) } else { check.failure(of, &self.says, remedy) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_host_says_moves_no_cursor_and_fills_no_screen() {
        let check = Check { name: "thing", why: "It matters." };
        let finding = check.failure("beta", format!("\x1b[2J{}", "x".repeat(1 << 20)), "mend\nit");
        assert!(finding.found.starts_with(" [2Jx") && finding.found.chars().count() == LONGEST);
        assert_eq!((finding.remedy.as_str(), finding.verdict), ("mend it", Verdict::Failure));
    }
}
