//! Owns the writers: connections that stay open, each appending 1, 2, 3... to its own list, whatever server has it.
//!
//! How is a [`Server`]'s matter. A connection is never made again: an error breaks it, and it is counted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use super::live::{Board, Clients, Progress, Recent, Standing};
use super::timeline::{self, Bucket, Gap, Sample};
use super::{ClientError, Server};
use crate::topology::Namespace;
use api::summary::Summary;

/// What the writers shall do.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// What listens there.
    pub server: Server,
    /// Where, IPv4 or IPv6.
    pub target: SocketAddr,
    /// How many connections; each has its own list and its own thread.
    pub connections: usize,
    /// How many writes of a connection may wait for their replies; PostgreSQL has one transaction at a time.
    pub depth: usize,
    /// The list of connection 3 is `PREFIX:3`. It must be new: a second run needs another prefix.
    pub prefix: String,
    /// A connection without a reply for this long is broken.
    pub patience: Duration,
    /// Whether every reply is kept for the report: 16 bytes each. Without, only [`Writers::recent`] tells times.
    pub keep_samples: bool,
}

impl WriterConfig {
    /// To a Redis: 8 connections, 4 writes deep, lists `log:0` to `log:7`, 60 s of patience, every reply kept.
    pub fn new(target: SocketAddr) -> WriterConfig {
        WriterConfig {
            server: Server::Redis,
            target,
            connections: 8,
            depth: 4,
            prefix: "log".into(),
            patience: Duration::from_secs(60),
            keep_samples: true,
        }
    }

    /// To a PostgreSQL: 4 connections, each with one transaction after the other.
    pub fn postgres(target: SocketAddr) -> WriterConfig {
        WriterConfig { server: Server::Postgres, connections: 4, depth: 1, ..WriterConfig::new(target) }
    }
}

/// Writers that are running.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<WriterReport>>>,
    started_us: u64,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    broken: AtomicU64,
    board: Board,
}

/// What one connection saw.
#[derive(Clone, Debug)]
pub struct WriterReport {
    /// Its list on the server.
    pub key: String,
    /// The highest number that was acknowledged: 1 to this number must be in the list.
    pub acknowledged: u64,
    /// The highest number that was sent.
    pub sent: u64,
    /// Every reply, in order; empty if they were not kept.
    pub samples: Vec<Sample>,
    /// Why the connection broke, if it did.
    pub broken: Option<String>,
}

/// What all connections saw.
#[derive(Clone, Debug)]
pub struct WritersReport {
    /// One for each connection.
    pub writers: Vec<WriterReport>,
    /// When the writers were started, on `os::clock`.
    pub started_us: u64,
    /// When the last one had stopped.
    pub ended_us: u64,
}

impl Writers {
    /// Opens all connections from the client's namespace, and starts writing once all are open.
    ///
    /// # Errors
    /// A connection cannot be opened within 10 s.
    pub fn start(client: &Namespace, config: &WriterConfig) -> Result<Writers, ClientError> {
        assert!(config.connections > 0 && config.depth > 0, "writers need a connection and a depth");
        let key = |index| format!("{}:{index}", config.prefix);
        let keys: Vec<String> = (0..config.connections).map(key).collect();
        let lines = client.run(|| config.server.open(config, &keys))?.map_err(|source| {
            ClientError::Connection { what: "connect to", target: config.target, source }
        })?;
        let board = Board::new(keys.iter().cloned());
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), broken: AtomicU64::new(0), board });
        let started_us = os::clock::now_us();
        let start = |(index, (key, line)): (usize, (String, Box<dyn Line>))| {
            let shared = Arc::clone(&shared);
            let keep_samples = config.keep_samples;
            let seat =
                Seat { shared, index, key, keep_samples, sent: 0, acknowledged: 0, samples: Vec::new() };
            client.spawn(move || seat.work(line))
        };
        let threads = keys.into_iter().zip(lines).enumerate().map(start).collect();
        Ok(Writers { shared, threads, started_us })
    }

    /// What was done so far.
    pub fn progress(&self) -> Progress {
        Clients::progress(self)
    }

    /// Where every connection stands.
    pub fn standings(&self) -> Vec<Standing> {
        self.shared.board.standings()
    }

    /// What arrived since this was asked last: one who asks takes it away from all others.
    pub fn recent(&self) -> Recent {
        self.shared.board.take()
    }

    /// Stops sending, waits for all outstanding replies, and tells what was seen.
    ///
    /// # Errors
    /// A writer's thread could not work at all.
    pub fn stop(self) -> Result<WritersReport, ClientError> {
        self.shared.stop.store(true, Relaxed);
        let mut writers = Vec::new();
        for thread in self.threads {
            writers.push(super::join(thread)?);
        }
        Ok(WritersReport { writers, started_us: self.started_us, ended_us: os::clock::now_us() })
    }
}

impl Clients for Writers {
    fn what(&self) -> &'static str {
        "writes"
    }

    fn standings(&self) -> Vec<Standing> {
        Writers::standings(self)
    }

    fn recent(&self) -> Recent {
        Writers::recent(self)
    }

    fn broken(&self) -> u64 {
        self.shared.broken.load(Relaxed)
    }
}

/// An open connection that can write.
pub(super) trait Line: Send {
    /// Writes until the seat says stop and everything outstanding is answered.
    fn write_until_stopped(&mut self, seat: &mut Seat) -> io::Result<()>;
}

/// What a writer knows of its list, and where it tells what it sees.
pub(super) struct Seat {
    shared: Arc<Shared>,
    index: usize,
    pub key: String,
    keep_samples: bool,
    /// The highest number that was sent.
    pub sent: u64,
    /// The highest number that was acknowledged.
    pub acknowledged: u64,
    samples: Vec<Sample>,
}

impl Seat {
    /// Whether nothing new shall be sent.
    pub fn stopping(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }

    /// Tells of replies that arrived together.
    pub fn tell(&mut self, mut arrived: Vec<Sample>) {
        self.shared.board.note(self.index, &arrived);
        if self.keep_samples {
            self.samples.append(&mut arrived);
        }
    }

    fn work(mut self, mut line: Box<dyn Line>) -> WriterReport {
        let broken = line.write_until_stopped(&mut self).err().map(|error| error.to_string());
        if broken.is_some() {
            self.shared.broken.fetch_add(1, Relaxed);
        }
        WriterReport {
            key: self.key,
            acknowledged: self.acknowledged,
            sent: self.sent,
            samples: self.samples,
            broken,
        }
    }
}

impl WritersReport {
    /// Acknowledged writes of all connections.
    pub fn acknowledged(&self) -> u64 {
        self.writers.iter().map(|writer| writer.acknowledged).sum()
    }

    /// How many connections broke.
    pub fn broken(&self) -> u64 {
        self.writers.iter().filter(|writer| writer.broken.is_some()).count() as u64
    }

    /// The longest time that any one connection waited between two replies, in a gap that touches the window.
    ///
    /// This is the outage as the unluckiest client saw it.
    pub fn outage(&self, from_us: u64, to_us: u64) -> Option<Gap> {
        let arrivals =
            |writer: &'_ WriterReport| writer.samples.iter().map(|sample| sample.at_us).collect::<Vec<_>>();
        let gaps =
            self.writers.iter().filter_map(|writer| timeline::longest_gap(arrivals(writer), from_us, to_us));
        gaps.max_by_key(|gap| gap.duration_us)
    }

    /// The longest time in which no connection got a reply, in a gap that touches the window.
    pub fn silence(&self, from_us: u64, to_us: u64) -> Option<Gap> {
        timeline::longest_gap(self.samples().iter().map(|sample| sample.at_us), from_us, to_us)
    }

    /// All replies in the order of their arrival.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> =
            self.writers.iter().flat_map(|writer| writer.samples.iter().copied()).collect();
        samples.sort_by_key(|sample| sample.at_us);
        samples
    }

    /// The timeline from the start of the writers to their end.
    pub fn buckets(&self, width_us: u64) -> Vec<Bucket> {
        timeline::buckets(&self.samples(), self.started_us, self.ended_us, width_us)
    }

    /// Latency in milliseconds of the replies that arrived in the window.
    pub fn latency_ms(&self, from_us: u64, to_us: u64) -> Option<Summary> {
        let inside = self.writers.iter().flat_map(|writer| &writer.samples);
        let inside = inside.filter(|sample| (from_us..to_us).contains(&sample.at_us));
        Summary::of_us_in_ms(inside.map(|sample| sample.latency_us))
    }
}
