//! Owns histories: what concurrent clients asked of a map of registers, what each was told and when, and whether
//! registers that do one thing at a time could have answered so.
//!
//! - this file: operations and their outcomes, as clients note them;
//! - [`mod@check`]: the verdict on a whole history, key by key;
//! - `search`: whether one register's operations are linearizable;
//! - `window`: the small part of a history that shows that they are not.
//!
//! A register holds a number and begins with [`NEVER_WRITTEN`]. Times are microseconds on one clock of one machine.
//! Two times that are equal count as "at the same time": a clock's coarseness never makes a violation.

pub mod check;
mod search;
#[cfg(test)]
mod tests;
mod window;

pub use check::{Limits, Tally, Verdict, Violation, check};

use serde::Serialize;

/// What a register holds before anybody writes to it.
pub const NEVER_WRITTEN: u64 = 0;

/// What is asked of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What it holds.
    Read,
    /// To hold this from now on.
    Write(u64),
    /// To hold `new` if it holds `expected`.
    CompareAndSet {
        /// What it must hold.
        expected: u64,
        /// What it shall hold then.
        new: u64,
    },
}

/// What the client knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A read found this.
    Found(u64),
    /// The write, or the compare-and-set, was done.
    Done,
    /// The compare-and-set was not done: the register held this.
    Refused(u64),
    /// No answer came. It may have happened at any time since it was asked, may still happen, or may never.
    Unknown,
}

/// One operation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Who asked: one that has one operation at a time, and none after one of unknown outcome.
    pub process: u32,
    /// Of which register.
    pub key: u32,
    /// What.
    pub ask: Ask,
    /// Just before the request was handed to the system.
    pub called_us: u64,
    /// Just after the answer was there, or after it was given up.
    pub returned_us: u64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// Whether an answer came.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.outcome != Outcome::Unknown
    }

    /// One line for people, with times after `since_us`.
    #[must_use]
    pub fn line(&self, since_us: u64) -> String {
        let ms = |at_us: u64| (at_us.cast_signed() - since_us.cast_signed()) as f64 / 1e3;
        let ask = match self.ask {
            Ask::Read => "read".to_owned(),
            Ask::Write(value) => format!("write {value}"),
            Ask::CompareAndSet { expected, new } => format!("set {new} if it is {expected}"),
        };
        let outcome = match self.outcome {
            Outcome::Found(value) => format!("it is {value}"),
            Outcome::Done => "done".to_owned(),
            Outcome::Refused(value) => format!("refused, it is {value}"),
            Outcome::Unknown => "no answer".to_owned(),
        };
        let (called, returned) = (ms(self.called_us), ms(self.returned_us));
        format!("{called:>12.3} {returned:>12.3} ms  process {:<4} {ask} -> {outcome}", self.process)
    }
}
