//! Owns the verdict on the data in a PostgreSQL: reads back the rows of every writer.

use std::io;
use std::net::SocketAddr;

use tokio_postgres::Client;

use super::live::Standing;
use super::verify::{Verification, missing};
use super::writers::WriterReport;
use super::{ClientError, sql};
use crate::topology::Namespace;

/// `seq` is the order in which rows were inserted, committed or not.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS entry (seq bigserial NOT NULL, writer text NOT NULL, \
    number bigint NOT NULL, part smallint NOT NULL, PRIMARY KEY (writer, number, part))";
const READ: &str =
    "SELECT number, part FROM entry WHERE writer = $1 AND number > $2 AND number <= $3 ORDER BY seq";

/// Makes the table of all writers, unless it is there.
pub fn make_table(target: SocketAddr) -> io::Result<()> {
    sql::ask_here(target, async |client| client.batch_execute(TABLE).await)
}

/// Reads all rows back and checks them against what the writers saw.
pub fn verify(
    client: &Namespace,
    target: SocketAddr,
    writers: &[WriterReport],
) -> Result<Verification, ClientError> {
    sql::ask(client, target, async |client| {
        let mut verification = Verification::default();
        for writer in writers {
            // Everything: rows that were rolled back have negative numbers.
            let entries = read(client, &writer.key, i64::MIN, i64::MAX).await?;
            verification.check(writer, &entries);
        }
        Ok(verification)
    })
}

/// Counts the newest acknowledged numbers, `width` of each writer, that are not what was acknowledged.
pub fn spot_check(
    client: &Namespace,
    target: SocketAddr,
    standings: &[Standing],
    width: u64,
) -> Result<u64, ClientError> {
    sql::ask(client, target, async |client| {
        let mut wrong = 0;
        for standing in standings {
            let (from, to) = (standing.acknowledged.saturating_sub(width), standing.acknowledged);
            let found = read(client, &standing.key, from.cast_signed(), to.cast_signed()).await?;
            wrong += missing(&found, from, to);
        }
        Ok(wrong)
    })
}

/// A writer's transactions above `from` and up to `to`, in the order of their rows.
async fn read(client: &Client, key: &str, from: i64, to: i64) -> Result<Vec<u64>, tokio_postgres::Error> {
    let rows = client.query(READ, &[&key, &from, &to]).await?;
    let rows: Result<Vec<(i64, i16)>, _> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    Ok(whole(&rows?))
}

/// The numbers of whole transactions: both rows, one behind the other. What belongs to none is read as zero, which is
/// never written.
fn whole(rows: &[(i64, i16)]) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(rows.len() / 2);
    let mut rest = rows;
    while let [(number, part), more @ ..] = rest {
        rest = more;
        let second = more.first() == Some(&(*number, 2));
        match u64::try_from(*number) {
            Ok(number) if *part == 1 && second => {
                numbers.push(number);
                rest = &more[1..];
            }
            _ => numbers.push(0),
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_counts_if_it_is_whole_and_in_order() {
        assert_eq!(whole(&[(1, 1), (1, 2), (2, 1), (2, 2)]), [1, 2]);
        assert!(whole(&[]).is_empty());
        assert_eq!(whole(&[(1, 1), (2, 1), (2, 2)]), [0, 2]);
        assert_eq!(whole(&[(1, 1), (1, 2), (2, 2)]), [1, 0]);
        assert_eq!(whole(&[(1, 2), (1, 1)]), [0, 0]);
        assert_eq!(whole(&[(-8, 1), (9, 1), (9, 2)]), [0, 9]);
    }
}
