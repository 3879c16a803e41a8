//! Owns the verdict on the data: reads back every list of the writers and looks for what should be there.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ClientError;
use super::live::Standing;
use super::resp::{Connection, Reply};
use super::writers::WriterReport;
use crate::topology::Namespace;

/// How many entries are read at a time.
const CHUNK: u64 = 10_000;

/// What the lists hold, compared with what was acknowledged. All zero but the first two: nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Lists read.
    pub lists: u64,
    /// Entries read.
    pub entries: u64,
    /// Numbers that were acknowledged and are not in their list.
    pub lost_acknowledged: u64,
    /// Numbers below the highest in their list that are not in it, acknowledged or not.
    pub holes: u64,
    /// Entries that are there twice, out of order, or were never sent.
    pub strangers: u64,
    /// Numbers in the lists that were never acknowledged: sent, executed, the reply still due. Not an error.
    pub unacknowledged: u64,
    /// The first thing that is wrong, for people.
    pub first_problem: Option<String>,
}

impl Verification {
    /// Whether every list is 1, 2, ... m with m at least what was acknowledged.
    pub fn holds(&self) -> bool {
        self.lost_acknowledged == 0 && self.holes == 0 && self.strangers == 0
    }
}

/// Reads all lists back from `target` and checks them against what the writers saw.
///
/// # Errors
/// The server cannot be reached or does not answer with lists.
pub fn verify(
    client: &Namespace,
    target: SocketAddr,
    writers: &[WriterReport],
) -> Result<Verification, ClientError> {
    client.run(|| {
        let failed = |source| ClientError::Connection { what: "read the lists of", target, source };
        let mut connection = Connection::open(target, Duration::from_secs(30)).map_err(failed)?;
        let mut verification = Verification::default();
        for writer in writers {
            let entries = read_list(&mut connection, target, &writer.key)?;
            verification.check(writer, &entries);
        }
        Ok(verification)
    })?
}

/// Reads the last `width` acknowledged entries of each list while the writers go on, and counts those that are not
/// what was acknowledged. Cheap, and yet sharp: entry N stands at place N, so a loss anywhere before shifts them all.
///
/// # Errors
/// The server cannot be reached or does not answer with lists.
pub fn spot_check(
    client: &Namespace,
    target: SocketAddr,
    standings: &[Standing],
    width: u64,
) -> Result<u64, ClientError> {
    client.run(|| {
        let failed = |source| ClientError::Connection { what: "read the lists of", target, source };
        let mut connection = Connection::open(target, Duration::from_secs(30)).map_err(failed)?;
        let mut wrong = 0;
        for standing in standings {
            let (from, to) = (standing.acknowledged.saturating_sub(width), standing.acknowledged);
            let found = if from < to {
                read_range(&mut connection, target, &standing.key, from, to)?
            } else {
                Vec::new()
            };
            wrong += missing(&found, from, to);
        }
        Ok(wrong)
    })?
}

/// How many of the numbers above `from` and up to `to` were not found in their place.
pub(super) fn missing(found: &[u64], from: u64, to: u64) -> u64 {
    let kept = found.iter().zip(from + 1..).filter(|&(&entry, due)| entry == due).count();
    to - from - kept as u64
}

fn read_list(connection: &mut Connection, target: SocketAddr, key: &str) -> Result<Vec<u64>, ClientError> {
    let mut entries = Vec::new();
    loop {
        let first = entries.len() as u64;
        let chunk = read_range(connection, target, key, first, first + CHUNK)?;
        if chunk.is_empty() {
            return Ok(entries);
        }
        entries.extend(chunk);
    }
}

/// The entries at the places `from..to` of a list, counted from zero. What is no number is read as zero, which is
/// never written.
fn read_range(
    connection: &mut Connection,
    target: SocketAddr,
    key: &str,
    from: u64,
    to: u64,
) -> Result<Vec<u64>, ClientError> {
    let reply = connection.ask(&["LRANGE", key, &from.to_string(), &(to - 1).to_string()]);
    let failed = |source: io::Error| ClientError::Connection { what: "read the lists of", target, source };
    match reply.map_err(failed)? {
        Reply::Array(items) => Ok(items.iter().map(|item| number(item).unwrap_or(0)).collect()),
        other => Err(ClientError::Answer {
            target,
            answer: format!("{other:?}"),
            expected: format!("the list {key}"),
        }),
    }
}

fn number(item: &Reply) -> Option<u64> {
    let Reply::Bulk(Some(text)) = item else { return None };
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Verification {
    /// Checks one list.
    pub(super) fn check(&mut self, writer: &WriterReport, entries: &[u64]) {
        self.lists += 1;
        self.entries += entries.len() as u64;
        let mut last = 0;
        let mut missing = 0;
        let mut missing_acknowledged = 0;
        for (index, &entry) in entries.iter().enumerate() {
            if entry <= last || entry > writer.sent {
                self.strangers += 1;
                self.note(format!(
                    "{}[{index}] is {entry} after {last}, and {} were sent",
                    writer.key, writer.sent
                ));
                continue;
            }
            if entry > last + 1 {
                self.note(format!("{}[{index}] is {entry} after {last}", writer.key));
                missing += entry - last - 1;
                missing_acknowledged += (entry - 1).min(writer.acknowledged).saturating_sub(last);
            }
            last = entry;
        }
        missing_acknowledged += writer.acknowledged.saturating_sub(last);
        if last < writer.acknowledged {
            self.note(format!(
                "{} ends with {last}, and {} were acknowledged",
                writer.key, writer.acknowledged
            ));
        }
        self.holes += missing;
        self.lost_acknowledged += missing_acknowledged;
        self.unacknowledged += last.saturating_sub(writer.acknowledged);
    }

    fn note(&mut self, problem: String) {
        self.first_problem.get_or_insert(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(acknowledged: u64, sent: u64, entries: &[u64]) -> Verification {
        let key = "log:0".to_owned();
        let writer = WriterReport { key, acknowledged, sent, samples: Vec::new(), broken: None };
        let mut verification = Verification::default();
        verification.check(&writer, entries);
        verification
    }

    #[test]
    fn whole_lists_hold_with_or_without_what_was_not_acknowledged() {
        assert!(checked(3, 5, &[1, 2, 3]).holds());
        let more = checked(3, 5, &[1, 2, 3, 4]);
        assert!(more.holds() && more.unacknowledged == 1);
        assert!(checked(0, 0, &[]).holds());
    }

    #[test]
    fn a_hole_is_found_and_is_a_lost_write_only_if_it_was_acknowledged() {
        let found = checked(5, 6, &[1, 3, 4, 5, 6]);
        assert_eq!((found.holes, found.lost_acknowledged), (1, 1));
        assert!(found.first_problem.expect("a problem").contains("log:0[1] is 3 after 1"));
        let found = checked(2, 6, &[1, 2, 3, 6]);
        assert_eq!((found.holes, found.lost_acknowledged, found.holds()), (2, 0, false));
    }

    #[test]
    fn a_short_list_is_a_loss() {
        let found = checked(5, 5, &[1, 2]);
        assert_eq!((found.holes, found.lost_acknowledged), (0, 3));
    }

    #[test]
    fn doubled_and_foreign_entries_are_strangers() {
        assert_eq!(checked(3, 3, &[1, 2, 2, 3]).strangers, 1);
        assert_eq!(checked(3, 3, &[1, 2, 3, 9]).strangers, 1);
        assert_eq!(checked(2, 2, &[1, 0, 2]).strangers, 1);
    }
}
