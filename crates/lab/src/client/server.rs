//! Owns what is different between the servers that guests run: how to write to one, and how to read back.

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::live::Standing;
use super::pipelined::Pipeline;
use super::transactions::Transactions;
use super::verify::{self, Verification};
use super::writers::{Line, WriterConfig, WriterReport};
use super::{ClientError, rows};
use crate::guest::postgres::POSTGRES_PORT;
use crate::guest::redis::REDIS_PORT;
use crate::topology::Namespace;

/// A server in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// Redis: a list of numbers for each connection.
    Redis,
    /// PostgreSQL: rows of one table, each connection with numbers of its own.
    Postgres,
}

impl Server {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Server::Redis => "Redis",
            Server::Postgres => "PostgreSQL",
        }
    }

    /// Where it listens in the guest.
    pub fn port(self) -> u16 {
        match self {
            Server::Redis => REDIS_PORT,
            Server::Postgres => POSTGRES_PORT,
        }
    }

    /// Opens a connection for each key, from the namespace of the thread.
    pub(super) fn open(self, config: &WriterConfig, keys: &[String]) -> io::Result<Vec<Box<dyn Line>>> {
        fn line<T: Line + 'static>(line: io::Result<T>) -> io::Result<Box<dyn Line>> {
            line.map(|line| Box::new(line) as Box<dyn Line>)
        }
        if self == Server::Postgres {
            rows::make_table(config.target)?;
        }
        let open = |key: &String| match self {
            Server::Redis => line(Pipeline::open(config)),
            Server::Postgres => line(Transactions::open(config, key)),
        };
        keys.iter().map(open).collect()
    }

    /// Reads everything back from `target` and checks it against what the writers saw.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer as asked.
    pub fn verify(
        self,
        client: &Namespace,
        target: SocketAddr,
        writers: &[WriterReport],
    ) -> Result<Verification, ClientError> {
        match self {
            Server::Redis => verify::verify(client, target, writers),
            Server::Postgres => rows::verify(client, target, writers),
        }
    }

    /// Reads the last `width` acknowledged numbers of each connection while the writers go on, and counts those that
    /// are not what was acknowledged.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer as asked.
    pub fn spot_check(
        self,
        client: &Namespace,
        target: SocketAddr,
        standings: &[Standing],
        width: u64,
    ) -> Result<u64, ClientError> {
        match self {
            Server::Redis => verify::spot_check(client, target, standings, width),
            Server::Postgres => rows::spot_check(client, target, standings, width),
        }
    }
}
