//! Owns the clients that measure: they run as threads in the client's namespace and note what they saw.
//!
//! - [`writers`]: connections that stay open and write increasing numbers, each reply checked at once;
//! - [`live`]: what can be seen of the writers while they write;
//! - [`pinger`]: one request at a time, every latency kept;
//! - [`mod@verify`]: reads back what the writers wrote and counts what is missing;
//! - [`benchmark`]: runs `redis-benchmark` and reads its table;
//! - [`timeline`]: what was seen over time, and the longest silence;
//! - [`resp`]: just enough of the Redis protocol.
//!
//! All times are microseconds of `os::clock::now_us`, which the agents on this machine use too.

pub mod benchmark;
pub mod live;
pub mod pinger;
pub mod resp;
pub mod timeline;
pub mod verify;
pub mod writers;

pub use benchmark::{BenchmarkRow, redis_benchmark};
pub use live::{Recent, Standing};
pub use pinger::{PingReport, Pinger};
pub use timeline::{Bucket, Gap, Sample};
pub use verify::{Verification, spot_check, verify};
pub use writers::{PipelinedWriters, WriterConfig, WriterReport, WritersReport};

use std::io;
use std::net::SocketAddr;

use crate::topology::LabError;

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
    /// The output of `redis-benchmark` could not be read.
    #[error("cannot read the output of redis-benchmark at `{0}`")]
    Benchmark(String),
}
