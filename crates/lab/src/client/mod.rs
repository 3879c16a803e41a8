//! Owns the clients that measure: they run as threads in the client's namespace and note what they saw.
//!
//! - [`writers`]: connections that stay open and write increasing numbers, each reply checked at once;
//! - [`mod@server`]: the servers that they can write to, by `pipelined` writes (Redis) or `transactions` (PostgreSQL);
//! - [`mod@registers`]: clients that read, write and compare-and-set at random, whose view is checked afterwards;
//! - [`live`]: what can be seen of clients while they are at work;
//! - [`pinger`]: one request at a time, every latency kept;
//! - [`datagrams`]: UDP clients that ask once and never again;
//! - [`mod@verify`]: what the writers wrote, compared with what is there; read from lists (Redis) or `rows` (PostgreSQL);
//! - [`benchmark`]: runs `redis-benchmark` and reads its table;
//! - [`mod@pgbench`]: runs `pgbench`, reads what it says, and checks its accounts;
//! - [`timeline`]: what was seen over time, and the longest silence;
//! - [`resp`], `sql`: just enough of the Redis protocol, and connections to a PostgreSQL.
//!
//! All times are microseconds of `os::clock::now_us`, which the agents on this machine use too.

pub mod benchmark;
pub mod datagrams;
pub mod live;
pub mod pgbench;
pub mod pinger;
mod pipelined;
pub mod registers;
pub mod resp;
mod rows;
pub mod server;
mod sql;
pub mod timeline;
mod transactions;
pub mod verify;
pub mod writers;

pub use benchmark::{BenchmarkRow, redis_benchmark};
pub use datagrams::{Asked, Askers};
pub use live::{Clients, Progress, Recent, Standing};
pub use pgbench::{Accounts, Length, Pgbench, PgbenchConfig, PgbenchReport, pgbench};
pub use pinger::{PingReport, Pinger};
pub use registers::{Registers, RegistersConfig, RegistersReport};
pub use server::Server;
pub use timeline::{Bucket, Gap, Sample};
pub use verify::{Verification, spot_check, verify};
pub use writers::{WriterConfig, WriterReport, Writers, WritersReport};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use crate::topology::LabError;

/// What a client's thread ends with; it may not have come into the client's namespace at all.
fn join<T>(thread: JoinHandle<io::Result<T>>) -> Result<T, ClientError> {
    let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok(ended.map_err(|source| LabError::Namespace { what: "enter", name: "of the client".into(), source })?)
}

/// Why a client could not measure.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client's namespace could not be used, or a program in it failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The connection could not be made or used.
    #[error("cannot {what} {target}: {source}")]
    Connection {
        /// What was tried.
        what: &'static str,
        /// The server.
        target: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The server answered with something that the client did not ask for.
    #[error("{target} answered with {answer}, expected {expected}")]
    Answer {
        /// The server.
        target: SocketAddr,
        /// What it answered.
        answer: String,
        /// What should have come.
        expected: String,
    },
    /// `pgbench` did not do what it was asked for.
    #[error("pgbench against {target} {what}: {said}")]
    Pgbench {
        /// The server.
        target: SocketAddr,
        /// What is wrong.
        what: &'static str,
        /// The end of its own words.
        said: String,
    },
    /// A file of a client could not be used.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output of `redis-benchmark` could not be read.
    #[error("cannot read the output of redis-benchmark at `{0}`")]
    Benchmark(String),
}
