//! Owns running `pgbench`, PostgreSQL's own load, in the client's namespace: what it says of itself, and its accounts.
//!
//! Its transaction (TPC-B, in seven statements) adds an amount to an account, to a teller and to a branch, and notes it in
//! a history. So all four sums are the same at any time, and each transaction that it counts is in the history.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{ClientError, sql};
use crate::command::tail;
use crate::guest::postgres::{POSTGRES, PostgresGuest};
use crate::topology::Namespace;
use api::summary::Summary;

/// A run that was to end by itself is given up after so long beyond the time that it was given.
const PATIENCE: Duration = Duration::from_secs(180);
const SUMS: &str = "SELECT (SELECT count(*) FROM pgbench_history), \
    (SELECT coalesce(sum(delta), 0)::bigint FROM pgbench_history), \
    (SELECT sum(abalance)::bigint FROM pgbench_accounts), \
    (SELECT sum(tbalance)::bigint FROM pgbench_tellers), \
    (SELECT sum(bbalance)::bigint FROM pgbench_branches)";

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many transactions of each client.
    Transactions(u32),
    /// So long; whole seconds.
    Time(Duration),
}

/// What `pgbench` shall do.
#[derive(Clone, Copy, Debug)]
pub struct PgbenchConfig {
    /// The PostgreSQL server, IPv4 or IPv6.
    pub target: SocketAddr,
    /// How many clients, each with a connection that it keeps.
    pub clients: u32,
    /// How long.
    pub length: Length,
}

/// A `pgbench` that is running. It ends when this is dropped.
#[derive(Debug)]
pub struct Pgbench {
    child: Child,
    log: tempfile::TempDir,
    config: PgbenchConfig,
}

/// What a run of `pgbench` counted and measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgbenchReport {
    /// Transactions whose commit was acknowledged.
    pub transactions: u64,
    /// Transactions a second, by its own count, without the time to connect.
    pub tps: f64,
    /// How long transactions took in milliseconds, by its own log; nothing if there were none.
    pub latency_ms: Option<Summary>,
}

impl Pgbench {
    /// Starts a run against a guest whose tables are there from the beginning.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        client: &Namespace,
        guest: &PostgresGuest,
        config: PgbenchConfig,
    ) -> Result<Pgbench, ClientError> {
        let file = |what, path| move |source| ClientError::File { what, path, source };
        let log = tempfile::tempdir().map_err(file("create a directory in", std::env::temp_dir()))?;
        let mut command = guest.program("pgbench");
        command.arg("--host").arg(config.target.ip().to_string());
        command.arg("--port").arg(config.target.port().to_string());
        command.args(["--username", POSTGRES, "--no-vacuum", "--log"]);
        command.arg("--log-prefix").arg(log.path().join("transactions"));
        command.arg("--client").arg(config.clients.to_string());
        match config.length {
            Length::Transactions(count) => command.arg("--transactions").arg(count.to_string()),
            Length::Time(time) => command.arg("--time").arg(time.as_secs().max(1).to_string()),
        };
        command.arg(POSTGRES).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = client.start(&mut command)?;
        Ok(Pgbench { child, log, config })
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// A connection broke or a transaction failed; it does not end; or it says what cannot be read.
    pub fn finish(mut self) -> Result<PgbenchReport, ClientError> {
        let limit =
            PATIENCE + if let Length::Time(time) = self.config.length { time } else { Duration::ZERO };
        let began = Instant::now();
        while self.is_running() && began.elapsed() < limit {
            thread::sleep(Duration::from_millis(10));
        }
        if self.is_running() {
            return Err(self.wrong("did not end", &format!("waited {} s for it", limit.as_secs())));
        }
        let (said, errors) =
            self.words().map_err(|error| self.wrong("cannot be heard", &error.to_string()))?;
        let failed = self.child.wait().map_or(true, |status| !status.success());
        // It goes on without the clients whose connections broke, and says so in its status and here.
        if failed || errors.contains("aborted") {
            return Err(self.wrong("failed", &format!("{said}\n{errors}")));
        }
        let numbers = parse(&said).ok_or_else(|| self.wrong("says what cannot be read", &said))?;
        if numbers.failed > 0 {
            return Err(self.wrong("counts failed transactions", &said));
        }
        let latencies = self.latencies()?;
        if latencies.len() as u64 != numbers.transactions {
            let text = format!("{} transactions in its log\n{said}", latencies.len());
            return Err(self.wrong("counts and logs differently", &text));
        }
        Ok(PgbenchReport {
            transactions: numbers.transactions,
            tps: numbers.tps,
            latency_ms: Summary::of_us_in_ms(latencies),
        })
    }

    fn words(&mut self) -> io::Result<(String, String)> {
        let (mut said, mut errors) = (String::new(), String::new());
        if let (Some(output), Some(error)) = (&mut self.child.stdout, &mut self.child.stderr) {
            output.read_to_string(&mut said)?;
            error.read_to_string(&mut errors)?;
        }
        Ok((said, errors))
    }

    /// Of each transaction, in microseconds.
    fn latencies(&self) -> Result<Vec<u64>, ClientError> {
        let failed = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| ClientError::File { what: "read", path, source }
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(self.log.path()).map_err(failed(self.log.path()))? {
            let path = entry.map_err(failed(self.log.path()))?.path();
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            for line in text.lines() {
                found.push(latency(line).ok_or_else(|| self.wrong("logs what cannot be read", line))?);
            }
        }
        Ok(found)
    }

    fn wrong(&self, what: &'static str, said: &str) -> ClientError {
        ClientError::Pgbench { target: self.config.target, what, said: tail(said, 20) }
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // One that has ended cannot be killed any more, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `pgbench` to its end.
///
/// # Errors
/// As [`Pgbench::start`] and [`Pgbench::finish`].
pub fn pgbench(
    client: &Namespace,
    guest: &PostgresGuest,
    config: PgbenchConfig,
) -> Result<PgbenchReport, ClientError> {
    Pgbench::start(client, guest, config)?.finish()
}

struct Numbers {
    transactions: u64,
    failed: u64,
    tps: f64,
}

/// Reads the closing lines.
fn parse(said: &str) -> Option<Numbers> {
    let after = |begin: &str| said.lines().find_map(|line| line.strip_prefix(begin));
    // With a number of transactions to do it stands behind a slash.
    let digits = |text: &str| text.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok();
    Some(Numbers {
        transactions: digits(after("number of transactions actually processed: ")?)?,
        failed: digits(after("number of failed transactions: ")?)?,
        tps: after("tps = ")?.split(' ').next()?.parse().ok()?,
    })
}

/// The third word of a line of the log: the time of a transaction in microseconds.
fn latency(line: &str) -> Option<u64> {
    line.split(' ').nth(2)?.parse().ok()
}

/// The sums over `pgbench`'s tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Transactions in the history.
    pub transactions: u64,
    /// Sum of the amounts in the history.
    pub history: i64,
    /// Sum of the accounts' balances.
    pub accounts: i64,
    /// Sum of the tellers' balances.
    pub tellers: i64,
    /// Sum of the branches' balances.
    pub branches: i64,
}

impl Accounts {
    /// Sums up, in one snapshot.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer as asked.
    pub fn read(client: &Namespace, target: SocketAddr) -> Result<Accounts, ClientError> {
        sql::ask(client, target, async |client| {
            let row = client.query_one(SUMS, &[]).await?;
            Ok(Accounts {
                transactions: row.try_get::<_, i64>(0)?.cast_unsigned(),
                history: row.try_get(1)?,
                accounts: row.try_get(2)?,
                tellers: row.try_get(3)?,
                branches: row.try_get(4)?,
            })
        })
    }

    /// Whether all sums are the same.
    pub fn balanced(&self) -> bool {
        [self.accounts, self.tellers, self.branches].iter().all(|&sum| sum == self.history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "pgbench (15.20 (Debian 15.20-0+deb12u1))\ntransaction type: <builtin: TPC-B (sort of)>\n\
        number of clients: 2\nnumber of transactions actually processed: 118/120\n\
        number of failed transactions: 2 (1.667%)\nlatency average = 9.470 ms\n\
        initial connection time = 3.5 ms\ntps = 105.597677 (without initial connection time)\n";

    #[test]
    fn closing_lines_are_read_and_anything_else_refused() {
        let numbers = parse(SAID).expect("numbers");
        assert_eq!((numbers.transactions, numbers.failed, numbers.tps), (118, 2, 105.597_677));
        let timed = SAID.replace("118/120", "118");
        assert_eq!(parse(&timed).expect("numbers").transactions, 118);
        assert!(parse(&SAID.replace("tps", "TPS")).is_none());
        assert!(parse("").is_none());
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2241));
        assert_eq!(latency("0 199 failed 0 1175850568 995598"), None);
    }

    #[test]
    fn accounts_balance_only_if_every_sum_is_the_same() {
        let balanced = Accounts { transactions: 3, history: 7, accounts: 7, tellers: 7, branches: 7 };
        assert!(balanced.balanced());
        for wrong in [
            Accounts { history: 8, ..balanced },
            Accounts { accounts: 8, ..balanced },
            Accounts { tellers: 8, ..balanced },
            Accounts { branches: 8, ..balanced },
        ] {
            assert!(!wrong.balanced(), "{wrong:?}");
        }
    }
}
