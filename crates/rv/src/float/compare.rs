//! Owns comparisons, minimum, maximum and the classes of numbers.

use super::{Format, Kind, NV};

/// `a = b`; quiet.
pub fn equal(format: Format, a: u64, b: u64, flags: &mut u64) -> bool {
    ordered(format, a, b, false, flags).is_some_and(|(a, b)| a == b)
}

/// `a < b`; invalid with any NaN.
pub fn less(format: Format, a: u64, b: u64, flags: &mut u64) -> bool {
    ordered(format, a, b, true, flags).is_some_and(|(a, b)| a < b)
}

/// `a ≤ b`; invalid with any NaN.
pub fn less_or_equal(format: Format, a: u64, b: u64, flags: &mut u64) -> bool {
    ordered(format, a, b, true, flags).is_some_and(|(a, b)| a <= b)
}

/// The lesser one; of a number and a NaN the number; -0 is less than +0.
pub fn min(format: Format, a: u64, b: u64, flags: &mut u64) -> u64 {
    choose(format, a, b, flags, |a, b| a < b)
}

/// The greater one.
pub fn max(format: Format, a: u64, b: u64, flags: &mut u64) -> u64 {
    choose(format, a, b, flags, |a, b| a > b)
}

fn choose(format: Format, a: u64, b: u64, flags: &mut u64, first: impl Fn(i64, i64) -> bool) -> u64 {
    let (left, right) = (format.take_apart(a), format.take_apart(b));
    if left.kind == Kind::Signaling || right.kind == Kind::Signaling {
        *flags |= NV;
    }
    match (left.is_nan(), right.is_nan()) {
        (true, true) => return format.nan(),
        (true, false) => return b,
        (false, true) => return a,
        (false, false) => {}
    }
    // Here the two zeros differ: -0 is put right below +0.
    let place =
        |bits| if bits & format.sign() != 0 { -1 - magnitude(format, bits) } else { magnitude(format, bits) };
    if first(place(a), place(b)) { a } else { b }
}

/// Both as integers in the numbers' order; none with a NaN.
fn ordered(format: Format, a: u64, b: u64, signals: bool, flags: &mut u64) -> Option<(i64, i64)> {
    let (left, right) = (format.take_apart(a), format.take_apart(b));
    if left.is_nan() || right.is_nan() {
        if signals || left.kind == Kind::Signaling || right.kind == Kind::Signaling {
            *flags |= NV;
        }
        return None;
    }
    let place =
        |bits| if bits & format.sign() != 0 { -magnitude(format, bits) } else { magnitude(format, bits) };
    Some((place(a), place(b)))
}

fn magnitude(format: Format, bits: u64) -> i64 {
    (bits & (format.sign() - 1)) as i64
}

/// What `fclass` says: one bit of ten.
pub fn class(format: Format, bits: u64) -> u64 {
    let parts = format.take_apart(bits);
    let normal = parts.significand >> format.fraction != 0;
    let place = match (parts.kind, parts.negative) {
        (Kind::Signaling, _) => 8,
        (Kind::Quiet, _) => 9,
        (Kind::Infinite, true) => 0,
        (Kind::Infinite, false) => 7,
        (Kind::Finite, true) if normal => 1,
        (Kind::Finite, false) if normal => 6,
        (Kind::Finite, true) if parts.significand != 0 => 2,
        (Kind::Finite, false) if parts.significand != 0 => 5,
        (Kind::Finite, true) => 3,
        (Kind::Finite, false) => 4,
    };
    1 << place
}
