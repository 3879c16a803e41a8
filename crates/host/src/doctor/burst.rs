//! Owns the bytes of a burst, which measure what a connection carries.

use super::link::Carried;
use protocol::doctor::{Burst, CHUNK, END, MORE};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use trust::Sender;

/// Bytes that do not pack: something between the hosts may compress.
fn noise() -> Vec<u8> {
    let mut state = crate::loops::random() | 1;
    let mut bytes = Vec::with_capacity(CHUNK);
    while bytes.len() < CHUNK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Sends a burst.
///
/// # Errors
/// If the connection is gone.
pub fn send(sender: &mut Sender, burst: Burst) -> io::Result<()> {
    let chunk = noise();
    let until = Instant::now() + Duration::from_micros(burst.within_us);
    let mut left = burst.bytes;
    while left > 0 && Instant::now() < until {
        sender.send(&[MORE], &chunk)?;
        left = left.saturating_sub(CHUNK as u64);
    }
    sender.send(&[END], &[])
}

/// Takes a burst, of no more than was agreed.
///
/// # Errors
/// If the connection is gone, or it is not what was agreed.
pub fn take(from: &mut impl Read, burst: Burst) -> io::Result<Carried> {
    let (mut chunk, mut mark) = (vec![0; CHUNK], [END]);
    let (mut bytes, mut began) = (0_u64, None);
    loop {
        from.read_exact(&mut mark)?;
        match mark {
            [MORE] if bytes < burst.bytes => {
                let _: &mut Instant = began.get_or_insert_with(Instant::now);
                from.read_exact(&mut chunk)?;
                bytes += CHUNK as u64;
            }
            [END] => {
                let took = began.map_or(Duration::ZERO, |began| began.elapsed());
                return Ok(Carried { bytes, us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX) });
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no burst, or does not end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Burst = Burst { bytes: 2 * CHUNK as u64, within_us: 1, anyway: false };

    #[test]
    fn no_more_is_taken_than_was_agreed_and_nothing_else() {
        let chunk = [&[MORE][..], &[7; CHUNK]].concat();
        let bytes = |chunks: usize, end: &[u8]| [chunk.repeat(chunks), end.to_vec()].concat();
        let taken = |bytes: Vec<u8>| take(&mut &*bytes, BURST).map(|carried| carried.bytes);
        assert_eq!(taken(bytes(2, &[END])).unwrap(), BURST.bytes);
        assert_eq!(taken(bytes(0, &[END])).unwrap(), 0);
        for bad in [bytes(3, &[END]), bytes(1, &[9]), bytes(1, &[]), bytes(1, &[MORE, 1, 2])] {
            assert!(taken(bad).is_err());
        }
    }
}
