//! Owns conversions: between the formats, from integers, to integers.

use super::rounding::{round, shift_rounded};
use super::{Format, Kind, NV, NX, Rounding};

/// A number of one format in another.
pub fn resize(from: Format, to: Format, bits: u64, mode: Rounding, flags: &mut u64) -> u64 {
    let parts = from.take_apart(bits);
    match parts.kind {
        Kind::Signaling => {
            *flags |= NV;
            to.nan()
        }
        Kind::Quiet => to.nan(),
        Kind::Infinite => to.infinity(parts.negative),
        Kind::Finite => round(to, parts.negative, parts.exponent, parts.significand.into(), mode, flags),
    }
}

/// An integer as a number.
pub fn from_integer(format: Format, value: i128, mode: Rounding, flags: &mut u64) -> u64 {
    round(format, value < 0, 0, value.unsigned_abs(), mode, flags)
}

/// A number as an integer between the bounds; the nearer bound, and invalid, if it lies outside. A NaN is the upper one.
pub fn to_integer(format: Format, bits: u64, bounds: (i128, i128), mode: Rounding, flags: &mut u64) -> i128 {
    let parts = format.take_apart(bits);
    let beyond = match parts.kind {
        Kind::Finite => parts.significand != 0 && parts.exponent > 64,
        _ => true,
    };
    if beyond {
        *flags |= NV;
        return if parts.negative && !parts.is_nan() { bounds.0 } else { bounds.1 };
    }
    let significand = u128::from(parts.significand);
    let (magnitude, inexact) = if parts.exponent >= 0 {
        (significand << parts.exponent.min(64), false)
    } else {
        shift_rounded(significand, parts.exponent.unsigned_abs(), parts.negative, mode)
    };
    let value = if parts.negative { -(magnitude as i128) } else { magnitude as i128 };
    if value < bounds.0 || value > bounds.1 {
        *flags |= NV;
        return value.clamp(bounds.0, bounds.1);
    }
    if inexact {
        *flags |= NX;
    }
    value
}
