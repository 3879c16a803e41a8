//! Owns floating-point arithmetic with integers: bit-exact, all five rounding modes, all five flags.
//!
//! A finite number is `significand × 2^exponent`. Every operation computes a significand that is exact, or whose
//! lowest bit stands for "more follows" (a sticky bit), and `rounding::round` makes a number of it once.
//! Underflow is found after rounding, as RISC-V asks.

mod arithmetic;
mod compare;
mod convert;
mod rounding;
#[cfg(test)]
mod tests;

pub use arithmetic::{add, div, fma, mul, sqrt};
pub use compare::{class, equal, less, less_or_equal, max, min};
pub use convert::{from_integer, resize, to_integer};

/// Inexact.
pub const NX: u64 = 1;
/// Underflow.
pub const UF: u64 = 2;
/// Overflow.
pub const OF: u64 = 4;
/// Division by zero.
pub const DZ: u64 = 8;
/// Invalid operation.
pub const NV: u64 = 16;

/// One of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the fraction.
    pub fraction: u32,
    /// Bits of the exponent.
    pub exponent: u32,
}

/// Single precision.
pub const SINGLE: Format = Format { fraction: 23, exponent: 8 };
/// Double precision.
pub const DOUBLE: Format = Format { fraction: 52, exponent: 11 };

/// A rounding mode, as `frm` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    NearestEven,
    /// Towards zero.
    Zero,
    /// Down.
    Down,
    /// Up.
    Up,
    /// To nearest, ties away from zero.
    NearestAway,
}

impl Rounding {
    /// The mode with this number; none for the reserved ones.
    pub fn from_bits(bits: u64) -> Option<Rounding> {
        Some(match bits {
            0 => Rounding::NearestEven,
            1 => Rounding::Zero,
            2 => Rounding::Down,
            3 => Rounding::Up,
            4 => Rounding::NearestAway,
            _ => return None,
        })
    }
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Finite,
    Infinite,
    Quiet,
    Signaling,
}

/// A number taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub kind: Kind,
    pub negative: bool,
    /// Zero for the number zero.
    pub significand: u64,
    pub exponent: i32,
}

impl Parts {
    pub fn is_nan(self) -> bool {
        matches!(self.kind, Kind::Quiet | Kind::Signaling)
    }

    pub fn is_zero(self) -> bool {
        self.kind == Kind::Finite && self.significand == 0
    }
}

impl Format {
    pub(crate) fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn field(self) -> u64 {
        (1 << self.exponent) - 1
    }

    pub(crate) fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    pub(crate) fn infinity(self, negative: bool) -> u64 {
        self.zero(negative) | (self.field() << self.fraction)
    }

    pub(crate) fn zero(self, negative: bool) -> u64 {
        if negative { self.sign() } else { 0 }
    }

    /// The one NaN that RISC-V's operations give.
    pub fn nan(self) -> u64 {
        self.infinity(false) | (1 << (self.fraction - 1))
    }

    /// The number one.
    pub(crate) fn one(self) -> u64 {
        (self.bias() as u64) << self.fraction
    }

    pub(crate) fn take_apart(self, bits: u64) -> Parts {
        let negative = bits & self.sign() != 0;
        let fraction = bits & ((1 << self.fraction) - 1);
        let field = (bits >> self.fraction) & self.field();
        let lowest = 1 - self.bias() - self.fraction as i32;
        let (kind, significand, exponent) = if field == self.field() {
            let quiet = fraction >> (self.fraction - 1) != 0;
            let kind = match (fraction, quiet) {
                (0, _) => Kind::Infinite,
                (_, true) => Kind::Quiet,
                (_, false) => Kind::Signaling,
            };
            (kind, fraction, 0)
        } else if field == 0 {
            (Kind::Finite, fraction, lowest)
        } else {
            (Kind::Finite, fraction | (1 << self.fraction), lowest + field as i32 - 1)
        };
        Parts { kind, negative, significand, exponent }
    }
}
