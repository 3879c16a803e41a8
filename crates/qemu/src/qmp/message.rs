//! Owns the forms of what QEMU says: greeting, answers, events.

use super::QmpError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// QEMU's version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// First number.
    pub major: u64,
    /// Second number.
    pub minor: u64,
    /// Third number.
    pub micro: u64,
    /// The distribution's own mark, such as `Debian 1:7.2+dfsg-7`; may be empty.
    pub package: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        if self.package.is_empty() { Ok(()) } else { write!(f, " ({})", self.package) }
    }
}

/// Something that happened in QEMU.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `STOP`.
    pub name: String,
    /// What belongs to it; `Null` if nothing.
    pub data: Value,
    /// When, in microseconds since 1970, by the host's clock; 0 if QEMU did not say.
    pub at_us: u64,
}

/// One line from QEMU.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Greeting(Version),
    Event(Event),
    Answer { id: Option<u64>, result: Result<Value, (String, String)> },
}

/// Reads one line; the error says what is wrong with it.
pub(super) fn parse(line: &[u8]) -> Result<Incoming, String> {
    let mut whole: Value = serde_json::from_slice(line)
        .map_err(|e| format!("{e} in {:?}", String::from_utf8_lossy(&line[..line.len().min(200)])))?;
    if let Some(name) = whole["event"].as_str() {
        let part = |key: &str| whole["timestamp"][key].as_u64().unwrap_or(0);
        let at_us = part("seconds").saturating_mul(1_000_000).saturating_add(part("microseconds"));
        return Ok(Incoming::Event(Event { name: name.to_string(), data: whole["data"].clone(), at_us }));
    }
    let id = whole["id"].as_u64();
    if whole.get("return").is_some() {
        return Ok(Incoming::Answer { id, result: Ok(whole["return"].take()) });
    }
    if whole["error"].is_object() {
        let part = |key: &str| whole["error"][key].as_str().unwrap_or("unknown").to_string();
        return Ok(Incoming::Answer { id, result: Err((part("class"), part("desc"))) });
    }
    match whole.get("QMP") {
        Some(greeting) => Ok(Incoming::Greeting(version(&greeting["version"]))),
        None => Err(format!("neither answer nor event: {whole}")),
    }
}

fn version(value: &Value) -> Version {
    let number = |key: &str| value["qemu"][key].as_u64().unwrap_or(0);
    let package = value["package"].as_str().unwrap_or("").trim_matches(['(', ')', ' ']).to_string();
    Version { major: number("major"), minor: number("minor"), micro: number("micro"), package }
}

pub(super) fn refused(command: &str, (class, message): (String, String)) -> QmpError {
    QmpError::Refused { command: command.to_string(), class, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_keep_what_we_do_not_know() {
        let line = br#"{"timestamp":{"seconds":2,"microseconds":7},"event":"NEW","data":{"x":[1]},"more":0}"#;
        let Incoming::Event(event) = parse(line).unwrap() else { panic!("not an event") };
        assert_eq!((event.name.as_str(), event.at_us), ("NEW", 2_000_007));
        assert_eq!(event.data["x"][0], 1);
    }

    #[test]
    fn a_null_return_is_an_answer() {
        let parsed = parse(br#"{"return": null, "id": 4}"#).unwrap();
        assert_eq!(parsed, Incoming::Answer { id: Some(4), result: Ok(Value::Null) });
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_object_panics(key in "event|return|error|QMP|timestamp|id", value in "[0-9]{1,22}|\\{\\}|\\[\\]|\"x\"|null") {
            let _ = parse(format!("{{\"{key}\": {value}, \"timestamp\": {value}}}").as_bytes());
        }
    }
}
