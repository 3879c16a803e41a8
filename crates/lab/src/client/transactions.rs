//! Owns writing to a PostgreSQL: one transaction after the other, each of several statements, as programs have them.
//!
//! Transaction N inserts two rows with the number N, each by a statement of its own, and commits. The first of them
//! answers with the highest number that the server had before, which must be N - 1: a lost or a doubled transaction
//! shows at the very next one. N is acknowledged when the server has answered COMMIT. Now and then a transaction is
//! rolled back; its rows, of negative numbers, must never be seen.

use std::io;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, Statement};

use super::WriterConfig;
use super::sql;
use super::timeline::Sample;
use super::writers::{Line, Seat};

/// Every so many transactions one more is rolled back.
const ROLL_BACK_EVERY: u64 = 8;
/// The sub-select does not see the row of its own statement.
const FIRST: &str = "INSERT INTO entry (writer, number, part) VALUES ($1, $2, 1) \
    RETURNING (SELECT coalesce(max(number), 0) FROM entry WHERE writer = $1)";
const SECOND: &str = "INSERT INTO entry (writer, number, part) VALUES ($1, $2, 2)";

/// A connection to a PostgreSQL.
pub struct Transactions {
    runtime: Runtime,
    client: Client,
    first: Statement,
    second: Statement,
    patience: Duration,
}

impl Transactions {
    /// Connects; the server knows the connection by this name.
    pub fn open(config: &WriterConfig, name: &str) -> io::Result<Transactions> {
        let runtime = sql::runtime()?;
        let (client, first, second) = runtime.block_on(async {
            let client = sql::connect(config.target, name).await?;
            let (first, second) = (prepare(&client, FIRST).await?, prepare(&client, SECOND).await?);
            Ok::<_, io::Error>((client, first, second))
        })?;
        Ok(Transactions { runtime, client, first, second, patience: config.patience })
    }

    fn within_patience<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client, [&Statement; 2]) -> Result<T, tokio_postgres::Error>,
    ) -> io::Result<T> {
        let patience = self.patience;
        let work = work(&mut self.client, [&self.first, &self.second]);
        let ended = self.runtime.block_on(async { tokio::time::timeout(patience, work).await });
        let late =
            || io::Error::new(io::ErrorKind::TimedOut, format!("no reply for {} s", patience.as_secs()));
        ended.map_err(|_| late())?.map_err(sql::failed)
    }

    /// Commits this number; the highest one that the server had before.
    fn commit(&mut self, key: &str, number: i64) -> io::Result<i64> {
        self.within_patience(async |client, [first, second]| {
            let transaction = client.transaction().await?;
            let before = transaction.query_one(first, &[&key, &number]).await?.try_get(0)?;
            transaction.execute(second, &[&key, &number]).await?;
            transaction.commit().await?;
            Ok(before)
        })
    }

    fn roll_back(&mut self, key: &str, number: i64) -> io::Result<()> {
        self.within_patience(async |client, [first, _]| {
            let transaction = client.transaction().await?;
            transaction.query_one(first, &[&key, &number]).await?;
            transaction.rollback().await
        })
    }
}

async fn prepare(client: &Client, text: &str) -> io::Result<Statement> {
    client.prepare(text).await.map_err(sql::failed)
}

impl Line for Transactions {
    fn write_until_stopped(&mut self, seat: &mut Seat) -> io::Result<()> {
        while !seat.stopping() {
            let number = seat.acknowledged + 1;
            let sent_us = os::clock::now_us();
            seat.sent = number;
            let before = self.commit(&seat.key, number.cast_signed())?;
            // Its commit was answered, whatever else is wrong.
            seat.acknowledged = number;
            let at_us = os::clock::now_us();
            seat.tell(vec![Sample { at_us, latency_us: at_us - sent_us }]);
            if before != seat.acknowledged.cast_signed() - 1 {
                return Err(unexpected(&seat.key, before, number));
            }
            if number.is_multiple_of(ROLL_BACK_EVERY) {
                self.roll_back(&seat.key, -number.cast_signed())?;
            }
        }
        Ok(())
    }
}

fn unexpected(key: &str, before: i64, number: u64) -> io::Error {
    let text = format!(
        "{before} was the highest number of {key} when {number} was inserted: a transaction was lost or doubled"
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}
