//! Against this machine's own floating point in its one mode, and known corners in the others.

use super::*;
use std::vec::Vec;

const NEAREST: Rounding = Rounding::NearestEven;

/// Bit patterns: corners, and others drawn from a fixed sequence.
fn patterns(count: usize) -> impl Iterator<Item = u64> {
    const CORNERS: [u64; 14] = [
        0,
        1 << 63,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0xbff0_0000_0000_0001,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        0x3fef_ffff_ffff_ffff,
        0x4340_0000_0000_0001,
    ];
    let mut state = 7_u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 4 {
            0 => CORNERS[(state >> 8) as usize % CORNERS.len()],
            // Exponents near each other: cancellation and ties.
            1 => (state & 0x800f_ffff_ffff_ffff) | ((1023 + (state >> 40) % 4) << 52),
            _ => state,
        }
    })
}

fn same64(ours: u64, theirs: f64) -> bool {
    if theirs.is_nan() { ours == DOUBLE.nan() } else { ours == theirs.to_bits() }
}

fn same32(ours: u64, theirs: f32) -> bool {
    if theirs.is_nan() { ours == SINGLE.nan() } else { ours == u64::from(theirs.to_bits()) }
}

#[test]
fn doubles_are_those_of_ieee() {
    let all: Vec<u64> = patterns(60_000).collect();
    for bits in all.windows(3) {
        let [a, b, c] = [bits[0], bits[1], bits[2]];
        let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
        let mut flags = 0;
        assert!(same64(add(DOUBLE, a, b, NEAREST, &mut flags), x + y), "{a:x} + {b:x}");
        assert!(same64(mul(DOUBLE, a, b, NEAREST, &mut flags), x * y), "{a:x} × {b:x}");
        assert!(same64(div(DOUBLE, a, b, NEAREST, &mut flags), x / y), "{a:x} ÷ {b:x}");
        assert!(same64(sqrt(DOUBLE, a, NEAREST, &mut flags), x.sqrt()), "√{a:x}");
        assert!(same64(fma(DOUBLE, a, b, c, NEAREST, &mut flags), x.mul_add(y, z)), "{a:x} × {b:x} + {c:x}");
        assert!(same32(resize(DOUBLE, SINGLE, a, NEAREST, &mut flags), x as f32), "{a:x} as f32");
        if !x.is_nan() {
            let bounds = (i128::from(i64::MIN), i128::from(i64::MAX));
            assert_eq!(to_integer(DOUBLE, a, bounds, Rounding::Zero, &mut flags) as i64, x as i64, "{a:x}");
        }
        assert!(same64(from_integer(DOUBLE, (a as i64).into(), NEAREST, &mut flags), a as i64 as f64));
        assert_eq!(less(DOUBLE, a, b, &mut flags), x < y);
        assert_eq!(less_or_equal(DOUBLE, a, b, &mut flags), x <= y);
        assert_eq!(equal(DOUBLE, a, b, &mut flags), x == y);
    }
}

#[test]
fn singles_are_those_of_ieee() {
    let all: Vec<u64> = patterns(60_000).map(|bits| bits >> 32).collect();
    for bits in all.windows(3) {
        let [a, b, c] = [bits[0], bits[1], bits[2]];
        let [x, y, z] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
        let mut flags = 0;
        assert!(same32(add(SINGLE, a, b, NEAREST, &mut flags), x + y), "{a:x} + {b:x}");
        assert!(same32(mul(SINGLE, a, b, NEAREST, &mut flags), x * y), "{a:x} × {b:x}");
        assert!(same32(div(SINGLE, a, b, NEAREST, &mut flags), x / y), "{a:x} ÷ {b:x}");
        assert!(same32(sqrt(SINGLE, a, NEAREST, &mut flags), x.sqrt()), "√{a:x}");
        assert!(same32(fma(SINGLE, a, b, c, NEAREST, &mut flags), x.mul_add(y, z)), "{a:x} × {b:x} + {c:x}");
        assert!(same64(resize(SINGLE, DOUBLE, a, NEAREST, &mut flags), f64::from(x)), "{a:x} as f64");
    }
}

#[test]
fn each_mode_rounds_its_own_way() {
    let one = DOUBLE.one();
    let tiny = 1;
    let down = one - 1;
    for (mode, plus, minus) in [
        (Rounding::NearestEven, one, one),
        (Rounding::Zero, one, down),
        (Rounding::Down, one, down),
        (Rounding::Up, one + 1, one),
        (Rounding::NearestAway, one, one),
    ] {
        let mut flags = 0;
        assert_eq!(add(DOUBLE, one, tiny, mode, &mut flags), plus, "{mode:?}");
        assert_eq!(add(DOUBLE, one, tiny | DOUBLE.sign(), mode, &mut flags), minus, "{mode:?}");
        assert_eq!(flags, NX);
    }
    // 2.5: a tie.
    let tie = 0x4004_0000_0000_0000;
    let bounds = (-100, 100);
    let rounded: Vec<i128> = (0..5)
        .map(|mode| to_integer(DOUBLE, tie, bounds, Rounding::from_bits(mode).unwrap(), &mut 0))
        .collect();
    assert_eq!(rounded, [2, 2, 2, 3, 3]);
}

#[test]
fn flags_say_what_happened() {
    let flags_of = |operation: &dyn Fn(&mut u64) -> u64| {
        let mut flags = 0;
        let result = operation(&mut flags);
        (result, flags)
    };
    let (one, largest, infinity) = (DOUBLE.one(), DOUBLE.infinity(false) - 1, DOUBLE.infinity(false));
    assert_eq!(flags_of(&|f| div(DOUBLE, one, 0, NEAREST, f)), (infinity, DZ));
    assert_eq!(flags_of(&|f| div(DOUBLE, 0, 0, NEAREST, f)), (DOUBLE.nan(), NV));
    assert_eq!(flags_of(&|f| add(DOUBLE, largest, largest, NEAREST, f)), (infinity, OF | NX));
    assert_eq!(flags_of(&|f| add(DOUBLE, largest, largest, Rounding::Zero, f)), (largest, OF | NX));
    assert_eq!(flags_of(&|f| mul(DOUBLE, 1, 1, NEAREST, f)), (0, UF | NX));
    assert_eq!(flags_of(&|f| mul(DOUBLE, 1, 1, Rounding::Up, f)), (1, UF | NX));
    // Exact, though below the normal numbers: no underflow.
    assert_eq!(flags_of(&|f| add(DOUBLE, 1, 1, NEAREST, f)), (2, 0));
    // Just below the smallest normal number, and rounded to it: at 53 bits it would not be tiny.
    let below_one = one - 1;
    let smallest = 1 << 52;
    let (result, flags) = flags_of(&|f| mul(DOUBLE, smallest, below_one, NEAREST, f));
    assert_eq!((result, flags), (smallest, UF | NX));
    // (1 + 2^-27)(1 - 2^-27) times the smallest: at 53 bits a tie that goes up to it, so that it is not tiny.
    let (above, below) = (0x200 << 52 | 1 << 25, 0x1ff << 52 | ((1 << 52) - (1 << 26)));
    assert_eq!(flags_of(&|f| mul(DOUBLE, above, below, NEAREST, f)), (smallest, NX));
    assert_eq!(flags_of(&|f| fma(DOUBLE, infinity, 0, DOUBLE.nan(), NEAREST, f)), (DOUBLE.nan(), NV));
}
