//! Owns the request/response client: one connection, one request at a time, every latency kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ClientError;
use super::resp::{Connection, Reply};
use super::timeline::Sample;
use crate::topology::Namespace;
use api::summary::Summary;

/// A pinger that is running.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<PingReport>>,
}

/// What a pinger saw.
#[derive(Clone, Debug, Default)]
pub struct PingReport {
    /// Every reply, in order.
    pub samples: Vec<Sample>,
    /// Why it ended early, if it did.
    pub broken: Option<String>,
}

impl PingReport {
    /// Latency in milliseconds; nothing without a reply.
    pub fn latency_ms(&self) -> Option<Summary> {
        Summary::of_us_in_ms(self.samples.iter().map(|sample| sample.latency_us))
    }

    /// Latency in milliseconds of the replies that arrived from `from_us` to before `to_us`, on `os::clock`.
    pub fn latency_ms_between(&self, from_us: u64, to_us: u64) -> Option<Summary> {
        let inside = self.samples.iter().filter(|sample| (from_us..to_us).contains(&sample.at_us));
        Summary::of_us_in_ms(inside.map(|sample| sample.latency_us))
    }
}

impl Pinger {
    /// Connects from the client's namespace and asks, SET and GET in turn, until it is stopped.
    ///
    /// It waits for each reply for at most 60 s.
    ///
    /// # Errors
    /// The connection cannot be opened within 10 s.
    pub fn start(client: &Namespace, target: SocketAddr) -> Result<Pinger, ClientError> {
        let connection = client
            .run(|| Connection::open(target, Duration::from_secs(10)))?
            .map_err(|source| ClientError::Connection { what: "connect to", target, source })?;
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = client.spawn(move || {
            let mut report = PingReport::default();
            let outcome = ping(connection, &mut report.samples, &counter, || stopped.load(Relaxed));
            report.broken = outcome.err().map(|error| error.to_string());
            report
        });
        Ok(Pinger { stop, answered, thread })
    }

    /// How many replies have arrived so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Waits for the reply that is due, and tells what was seen.
    ///
    /// # Errors
    /// The client's namespace could not be entered.
    pub fn stop(self) -> Result<PingReport, ClientError> {
        self.stop.store(true, Relaxed);
        super::join(self.thread)
    }

    /// Asks `count` times and tells what was seen.
    ///
    /// # Errors
    /// The connection cannot be opened or breaks.
    pub fn measure(client: &Namespace, target: SocketAddr, count: usize) -> Result<PingReport, ClientError> {
        let failed = |source| ClientError::Connection { what: "ask", target, source };
        let mut left = count;
        client
            .run(|| {
                let connection = Connection::open(target, Duration::from_secs(10))?;
                let mut report = PingReport::default();
                ping(connection, &mut report.samples, &AtomicU64::new(0), || {
                    let done = left == 0;
                    left = left.saturating_sub(1);
                    done
                })?;
                Ok(report)
            })?
            .map_err(failed)
    }
}

fn ping(
    mut connection: Connection,
    samples: &mut Vec<Sample>,
    answered: &AtomicU64,
    mut enough: impl FnMut() -> bool,
) -> io::Result<()> {
    connection.set_read_patience(Duration::from_secs(60))?;
    let mut number: u64 = 0;
    while !enough() {
        let value = (number / 2).to_string();
        let (words, expected): (&[&str], _) = if number.is_multiple_of(2) {
            (&["SET", "ping", &value], Reply::Simple("OK".into()))
        } else {
            (&["GET", "ping"], Reply::Bulk(Some(value.clone().into_bytes())))
        };
        let sent_us = os::clock::now_us();
        let reply = connection.ask(words)?;
        let at_us = os::clock::now_us();
        if reply != expected {
            let text = format!("the reply is {reply:?}, expected {expected:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        samples.push(Sample { at_us, latency_us: at_us - sent_us });
        answered.fetch_add(1, Relaxed);
        number += 1;
    }
    Ok(())
}
