//! Owns the JSON of etcd's gateway, as far as it is needed: transactions of reads and writes.
//!
//! Field names are those of etcd's `rpc.proto`; bytes are base64, 64-bit numbers are strings, and a field that has its
//! default value is left out.

use super::keys::Range;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// A transaction: `success` if all of `compare` holds, `failure` if not, at one revision.
#[derive(Debug, Serialize)]
pub(super) struct Txn {
    pub(super) compare: Vec<Value>,
    pub(super) success: Vec<Value>,
    pub(super) failure: Vec<Value>,
}

/// Conditions of a transaction.
pub(super) mod compare {
    use super::{KeyValue, Value, encode, json};

    /// The key does not exist.
    pub(crate) fn absent(key: &str) -> Value {
        json!({"key": encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"})
    }

    /// The key was not written since it was read.
    pub(crate) fn unchanged(read: &KeyValue) -> Value {
        let revision = read.mod_revision.to_string();
        json!({"key": encode(&read.key), "target": "MOD", "result": "EQUAL", "mod_revision": revision})
    }
}

/// Reads a key.
pub(super) fn get(key: &str) -> Value {
    json!({"request_range": {"key": encode(key)}})
}

/// Reads the last key of a range.
pub(super) fn newest_below((from, to): &Range) -> Value {
    json!({"request_range": {
        "key": encode(from), "range_end": encode(to), "limit": "1", "sort_order": "DESCEND", "sort_target": "KEY",
    }})
}

/// Reads the first key of a range, without its value.
pub(super) fn first_key((from, to): &Range) -> Value {
    json!({"request_range": {"key": encode(from), "range_end": encode(to), "limit": "1", "keys_only": true}})
}

/// Writes a key.
pub(super) fn put(key: &str, value: &[u8]) -> Value {
    json!({"request_put": {"key": encode(key), "value": encode(value)}})
}

/// What every answer carries.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
}

/// The answer to a transaction.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Debug, Deserialize)]
struct Response {
    #[serde(default)]
    response_range: Option<Found>,
}

#[derive(Debug, Deserialize)]
struct Found {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

/// A key as it was read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(deserialize_with = "number")]
    pub(super) mod_revision: u64,
}

impl Outcome {
    /// What the read at this place of the transaction found.
    pub(super) fn found(&self, at: usize) -> Option<&KeyValue> {
        self.responses.get(at)?.response_range.as_ref()?.kvs.first()
    }
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no 64-bit number")))
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::from_utf8(bytes(from)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4.23 answers to a transaction of two reads, the second of which finds nothing.
    const ANSWER: &str = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437",
        "revision":"7","raft_term":"2"},"succeeded":true,"responses":[{"response_range":{"header":{"revision":"7"},
        "kvs":[{"key":"cC9hcmJpdGVy","create_revision":"2","mod_revision":"3","version":"1","value":"eA=="}],
        "count":"1"}},{"response_range":{"header":{"revision":"7"}}}]}"#;

    #[test]
    fn an_answer_is_read() {
        let outcome: Outcome = serde_json::from_str(ANSWER).unwrap();
        assert!(outcome.succeeded && outcome.header.revision == 7);
        assert_eq!(outcome.header.cluster_id, 14_841_639_068_965_178_418);
        let found = outcome.found(0).unwrap();
        assert_eq!((&*found.key, &*found.value, found.mod_revision), ("p/arbiter", &b"x"[..], 3));
        assert!(outcome.found(1).is_none() && outcome.found(2).is_none());
    }

    #[test]
    fn what_has_defaults_is_left_out_and_what_must_be_there_is_missed() {
        let failed: Outcome =
            serde_json::from_str(r#"{"header":{"cluster_id":"1","revision":"2"}}"#).unwrap();
        assert!(!failed.succeeded && failed.found(0).is_none());
        for bad in [
            "{}",
            r#"{"header":{"cluster_id":"1"}}"#,
            r#"{"header":{"cluster_id":"-1","revision":"2"}}"#,
            r#"{"header":{"cluster_id":"1","revision":"2"},"responses":[{"response_range":{"kvs":[{"key":"?"}]}}]}"#,
        ] {
            assert!(serde_json::from_str::<Outcome>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_are_as_etcd_reads_them() {
        assert_eq!(compare::absent("k")["create_revision"], "0");
        let read = KeyValue { key: "k".into(), value: vec![], mod_revision: 9 };
        let unchanged = compare::unchanged(&read);
        assert_eq!((&unchanged["target"], &unchanged["mod_revision"]), (&json!("MOD"), &json!("9")));
    }
}
