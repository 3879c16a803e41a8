//! Owns the bytes of what arbiters keep: a version and a checksum around a JSON body.
//!
//! ```json
//! {"version":1,"xxh3":"0123456789abcdef","body":{...}}
//! ```
//! The checksum covers the body's bytes as they stand, and is compared before they are interpreted.

use protocol::{HostName, Term, VmName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// The only version so far.
const VERSION: u32 = 1;

/// No record is near this; a longer file is none.
pub(crate) const MAX_RECORD: usize = 16 * 1024;

/// A VM was stopped cleanly in a term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stopped {
    pub(crate) vm: VmName,
    pub(crate) term: Term,
    pub(crate) host: HostName,
}

/// Marks a directory as an arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    /// Made at random by `init`.
    pub(crate) identity: String,
}

/// A host was here: what it left to be found by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) host: HostName,
    pub(crate) token: u64,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    version: u32,
    xxh3: String,
    body: Box<RawValue>,
}

/// The bytes of a record.
pub(crate) fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    let body = serde_json::value::to_raw_value(body).expect("plain data without maps");
    let xxh3 = format!("{:016x}", xxh3_64(body.get().as_bytes()));
    let mut bytes = serde_json::to_vec(&Envelope { version: VERSION, xxh3, body }).expect("plain data");
    bytes.push(b'\n');
    bytes
}

/// The body of a record, or what is wrong with it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.len() > MAX_RECORD {
        return Err(format!("it is longer than {MAX_RECORD} bytes"));
    }
    let version: VersionOnly = serde_json::from_slice(bytes).map_err(|e| format!("it is no record: {e}"))?;
    if version.version != VERSION {
        return Err(format!("it has version {}, this program reads {VERSION}", version.version));
    }
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| format!("it is no record: {e}"))?;
    let sum = format!("{:016x}", xxh3_64(envelope.body.get().as_bytes()));
    if sum != envelope.xxh3 {
        return Err(format!("its checksum is {sum}, it says {}", envelope.xxh3));
    }
    serde_json::from_str(envelope.body.get()).map_err(|e| format!("its body is not what it should be: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Stopped {
        Stopped { vm: VmName::new("web").unwrap(), term: Term(7), host: HostName::new("alpha").unwrap() }
    }

    #[test]
    fn the_bytes_are_a_contract() {
        let golden = concat!(
            r#"{"version":1,"xxh3":"c9434fcdb76193aa","#,
            r#""body":{"vm":"web","term":7,"host":"alpha"}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(encode(&sample())).unwrap(), golden);
        assert_eq!(decode::<Stopped>(golden.as_bytes()).unwrap(), sample());
    }

    #[test]
    fn every_torn_and_every_flipped_record_is_refused() {
        let bytes = encode(&sample());
        for length in 0..bytes.len() - 1 {
            assert!(decode::<Stopped>(&bytes[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..(bytes.len() - 1) * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Stopped>(&bad).is_err(), "bit {bit}: {}", String::from_utf8_lossy(&bad));
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let error = decode::<Stopped>(br#"{"version":2,"new":true}"#).unwrap_err();
        assert!(error.contains("version 2"), "{error}");
    }
}
