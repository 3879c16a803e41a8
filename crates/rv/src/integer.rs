//! Owns integer arithmetic: I and M, on 64 and 32 bits.

/// An operation between two registers, by `funct7` and `funct3`; none if there is no such one.
pub fn operate(funct7: u32, funct3: u32, a: u64, b: u64) -> Option<u64> {
    let (sa, sb) = (a as i64, b as i64);
    let shift = (b & 63) as u32;
    Some(match (funct7, funct3) {
        (0, 0) => a.wrapping_add(b),
        (0x20, 0) => a.wrapping_sub(b),
        (0, 1) => a << shift,
        (0, 2) => u64::from(sa < sb),
        (0, 3) => u64::from(a < b),
        (0, 4) => a ^ b,
        (0, 5) => a >> shift,
        (0x20, 5) => (sa >> shift) as u64,
        (0, 6) => a | b,
        (0, 7) => a & b,
        (1, 0) => a.wrapping_mul(b),
        (1, 1) => ((i128::from(sa) * i128::from(sb)) >> 64) as u64,
        (1, 2) => ((i128::from(sa) * i128::from(b)) >> 64) as u64,
        (1, 3) => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        (1, 4) => {
            if b == 0 {
                u64::MAX
            } else {
                sa.wrapping_div(sb) as u64
            }
        }
        (1, 5) => a.checked_div(b).unwrap_or(u64::MAX),
        (1, 6) => {
            if b == 0 {
                a
            } else {
                sa.wrapping_rem(sb) as u64
            }
        }
        (1, 7) => a.checked_rem(b).unwrap_or(a),
        _ => return None,
    })
}

/// The same on words, whose result is extended by its sign.
pub fn operate_word(funct7: u32, funct3: u32, a: u64, b: u64) -> Option<u64> {
    let (a, b) = (a as u32, b as u32);
    let (sa, sb) = (a as i32, b as i32);
    let shift = b & 31;
    let word = match (funct7, funct3) {
        (0, 0) => a.wrapping_add(b),
        (0x20, 0) => a.wrapping_sub(b),
        (0, 1) => a << shift,
        (0, 5) => a >> shift,
        (0x20, 5) => (sa >> shift) as u32,
        (1, 0) => a.wrapping_mul(b),
        (1, 4) => {
            if b == 0 {
                u32::MAX
            } else {
                sa.wrapping_div(sb) as u32
            }
        }
        (1, 5) => a.checked_div(b).unwrap_or(u32::MAX),
        (1, 6) => {
            if b == 0 {
                a
            } else {
                sa.wrapping_rem(sb) as u32
            }
        }
        (1, 7) => a.checked_rem(b).unwrap_or(a),
        _ => return None,
    };
    Some(sign_extend(word))
}

/// A word as a register holds it.
pub fn sign_extend(word: u32) -> u64 {
    i64::from(word as i32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_never_traps() {
        let least = i64::MIN as u64;
        assert_eq!(operate(1, 4, 5, 0), Some(u64::MAX));
        assert_eq!(operate(1, 6, 5, 0), Some(5));
        assert_eq!(operate(1, 4, least, u64::MAX), Some(least));
        assert_eq!(operate(1, 6, least, u64::MAX), Some(0));
        assert_eq!(operate_word(1, 4, 0x8000_0000, u64::MAX), Some(0xffff_ffff_8000_0000));
        assert_eq!(operate_word(1, 7, 7, 0), Some(7));
    }

    #[test]
    fn high_products_take_signs_as_told() {
        assert_eq!(operate(1, 1, u64::MAX, u64::MAX), Some(0));
        assert_eq!(operate(1, 2, u64::MAX, u64::MAX), Some(u64::MAX));
        assert_eq!(operate(1, 3, u64::MAX, u64::MAX), Some(u64::MAX - 1));
    }
}
