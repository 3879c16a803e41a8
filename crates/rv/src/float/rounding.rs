//! Owns making a number of an exact or sticky significand: rounding, overflow, underflow.

use super::{Format, NX, OF, Rounding, UF};

/// Shifts right; the lowest bit says whether anything set was lost.
pub(super) fn shift_right_sticky(value: u128, by: u32) -> u128 {
    match by {
        0 => value,
        1..128 => (value >> by) | u128::from(value & ((1 << by) - 1) != 0),
        _ => u128::from(value != 0),
    }
}

/// `value / 2^by` as an integer, rounded, and whether it was inexact.
pub(super) fn shift_rounded(value: u128, by: u32, negative: bool, mode: Rounding) -> (u128, bool) {
    // Two bits below the integer: a half, and whether anything lies below it.
    let shown = match by {
        0 => return (value, false),
        1 => value << 1,
        _ => shift_right_sticky(value, by - 2),
    };
    let (whole, rest) = (shown >> 2, shown & 3);
    let up = match mode {
        Rounding::NearestEven => rest == 3 || (rest == 2 && whole & 1 == 1),
        Rounding::NearestAway => rest >= 2,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    (whole + u128::from(up), rest != 0)
}

/// The number nearest to `significand × 2^exponent` in this mode; adds flags. The significand is below 2^127.
pub(super) fn round(
    format: Format,
    negative: bool,
    exponent: i32,
    significand: u128,
    mode: Rounding,
    flags: &mut u64,
) -> u64 {
    if significand == 0 {
        return format.zero(negative);
    }
    let fraction = format.fraction as i32;
    let smallest = 1 - format.bias();
    let top = exponent + 127 - significand.leading_zeros() as i32;
    let lowest = top.max(smallest) - fraction;
    let (rounded, inexact) = scale(significand, lowest - exponent, negative, mode);
    if inexact {
        *flags |= NX;
        if is_tiny(significand, top, exponent, format, negative, mode) {
            *flags |= UF;
        }
    }
    // A carry out of the fraction moves into the exponent by itself.
    let field = if top < smallest { 0 } else { (lowest + fraction + format.bias() - 1) as u64 };
    let bits = (field << format.fraction) + rounded as u64;
    if bits >= format.infinity(false) {
        *flags |= OF | NX;
        let to_infinity = match mode {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        return if to_infinity { format.infinity(negative) } else { format.infinity(negative) - 1 };
    }
    format.zero(negative) | bits
}

/// Whether the result would lie below the smallest normal number if exponents had no limit.
fn is_tiny(
    significand: u128,
    top: i32,
    exponent: i32,
    format: Format,
    negative: bool,
    mode: Rounding,
) -> bool {
    let smallest = 1 - format.bias();
    if top >= smallest - 1 {
        let fraction = format.fraction as i32;
        let (rounded, _) = scale(significand, top - fraction - exponent, negative, mode);
        return top < smallest && rounded < 1 << (fraction + 1);
    }
    true
}

fn scale(significand: u128, by: i32, negative: bool, mode: Rounding) -> (u128, bool) {
    if by <= 0 {
        return (significand << by.unsigned_abs(), false);
    }
    shift_rounded(significand, by.unsigned_abs(), negative, mode)
}
