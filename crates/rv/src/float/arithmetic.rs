//! Owns addition, multiplication, fused multiplication and addition, division and square root.

use super::rounding::{round, shift_right_sticky};
use super::{DZ, Format, Kind, NV, Parts, Rounding};

/// `a + b`.
pub fn add(format: Format, a: u64, b: u64, mode: Rounding, flags: &mut u64) -> u64 {
    fma(format, a, format.one(), b, mode, flags)
}

/// `a × b`.
pub fn mul(format: Format, a: u64, b: u64, mode: Rounding, flags: &mut u64) -> u64 {
    let (a, b) = (format.take_apart(a), format.take_apart(b));
    if let Some(nan) = nan_of(format, &[a, b], flags) {
        return nan;
    }
    let negative = a.negative != b.negative;
    if a.kind == Kind::Infinite || b.kind == Kind::Infinite {
        if a.is_zero() || b.is_zero() {
            return invalid(format, flags);
        }
        return format.infinity(negative);
    }
    let product = u128::from(a.significand) * u128::from(b.significand);
    round(format, negative, a.exponent + b.exponent, product, mode, flags)
}

/// `a × b + c`, rounded once.
pub fn fma(format: Format, a: u64, b: u64, c: u64, mode: Rounding, flags: &mut u64) -> u64 {
    let addend = c;
    let (a, b, c) = (format.take_apart(a), format.take_apart(b), format.take_apart(c));
    let infinite = a.kind == Kind::Infinite || b.kind == Kind::Infinite;
    // Infinity times zero is invalid even if a quiet NaN is added.
    if infinite && (a.is_zero() || b.is_zero()) {
        return invalid(format, flags);
    }
    if let Some(nan) = nan_of(format, &[a, b, c], flags) {
        return nan;
    }
    let negative = a.negative != b.negative;
    if infinite {
        if c.kind == Kind::Infinite && c.negative != negative {
            return invalid(format, flags);
        }
        return format.infinity(negative);
    }
    if c.kind == Kind::Infinite {
        return addend;
    }
    let product = u128::from(a.significand) * u128::from(b.significand);
    let exponent = a.exponent + b.exponent;
    if product == 0 {
        if c.is_zero() && c.negative != negative {
            return format.zero(mode == Rounding::Down);
        }
        return addend;
    }
    if c.is_zero() {
        return round(format, negative, exponent, product, mode, flags);
    }
    sum(format, (negative, product, exponent), (c.negative, c.significand.into(), c.exponent), mode, flags)
}

/// The sum of two numbers, neither zero, each of at most 106 bits.
fn sum(format: Format, a: (bool, u128, i32), b: (bool, u128, i32), mode: Rounding, flags: &mut u64) -> u64 {
    // Both with their highest bit at 125: a carry fits, and 20 bits below keep what is shifted by one or two exact,
    // the only distances at which many bits can cancel.
    let raise = |(negative, significand, exponent): (bool, u128, i32)| {
        let by = significand.leading_zeros() - 2;
        (negative, significand << by, exponent - by as i32)
    };
    let (a, b) = (raise(a), raise(b));
    let (big, small) = if (a.2, a.1) >= (b.2, b.1) { (a, b) } else { (b, a) };
    let lowered = shift_right_sticky(small.1, (big.2 - small.2).unsigned_abs());
    let total = if big.0 == small.0 { big.1 + lowered } else { big.1 - lowered };
    if total == 0 {
        return format.zero(mode == Rounding::Down);
    }
    round(format, big.0, big.2, total, mode, flags)
}

/// `a ÷ b`.
pub fn div(format: Format, a: u64, b: u64, mode: Rounding, flags: &mut u64) -> u64 {
    let (a, b) = (format.take_apart(a), format.take_apart(b));
    if let Some(nan) = nan_of(format, &[a, b], flags) {
        return nan;
    }
    let negative = a.negative != b.negative;
    match (a.kind, b.kind) {
        (Kind::Infinite, Kind::Infinite) => return invalid(format, flags),
        (Kind::Infinite, _) => return format.infinity(negative),
        (_, Kind::Infinite) => return format.zero(negative),
        _ => {}
    }
    if b.is_zero() {
        if a.is_zero() {
            return invalid(format, flags);
        }
        *flags |= DZ;
        return format.infinity(negative);
    }
    if a.is_zero() {
        return format.zero(negative);
    }
    let (up_a, up_b) = (a.significand.leading_zeros(), b.significand.leading_zeros());
    let dividend = u128::from(a.significand << up_a) << 62;
    let divisor = u128::from(b.significand << up_b);
    let quotient = (dividend / divisor) << 1 | u128::from(dividend % divisor != 0);
    let exponent = (a.exponent - up_a as i32) - (b.exponent - up_b as i32) - 63;
    round(format, negative, exponent, quotient, mode, flags)
}

/// The square root of `a`.
pub fn sqrt(format: Format, a: u64, mode: Rounding, flags: &mut u64) -> u64 {
    let bits = a;
    let a = format.take_apart(a);
    if let Some(nan) = nan_of(format, &[a], flags) {
        return nan;
    }
    if a.is_zero() {
        return bits;
    }
    if a.negative {
        return invalid(format, flags);
    }
    if a.kind == Kind::Infinite {
        return bits;
    }
    let mut up = u128::from(a.significand).leading_zeros() - 2;
    if (a.exponent - up as i32) % 2 != 0 {
        up -= 1;
    }
    let radicand = u128::from(a.significand) << up;
    let root = radicand.isqrt();
    let sticky = u128::from(root * root != radicand);
    round(format, false, (a.exponent - up as i32) / 2 - 1, root << 1 | sticky, mode, flags)
}

/// The NaN that operands with a NaN give; a signaling one is an invalid operation.
fn nan_of(format: Format, operands: &[Parts], flags: &mut u64) -> Option<u64> {
    if operands.iter().any(|part| part.kind == Kind::Signaling) {
        *flags |= NV;
    }
    operands.iter().any(|part| part.is_nan()).then(|| format.nan())
}

fn invalid(format: Format, flags: &mut u64) -> u64 {
    *flags |= NV;
    format.nan()
}
