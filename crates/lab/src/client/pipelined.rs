//! Owns writing to a Redis: several writes on their way at a time.
//!
//! The reply to `RPUSH log:I N` is the length of the list, so it must be exactly N: a lost or a doubled operation
//! shows at the very next reply.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::WriterConfig;
use super::resp::{Connection, Reply, encode};
use super::timeline::Sample;
use super::writers::{Line, Seat};

/// How often a writer that gets no reply looks whether it shall stop.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// A connection to a Redis.
pub struct Pipeline {
    connection: Connection,
    depth: usize,
    patience: Duration,
    /// When each unanswered write was sent.
    outstanding: VecDeque<u64>,
}

impl Pipeline {
    /// Connects.
    pub fn open(config: &WriterConfig) -> io::Result<Pipeline> {
        Ok(Pipeline {
            connection: Connection::open(config.target, Duration::from_secs(10))?,
            depth: config.depth,
            patience: config.patience,
            outstanding: VecDeque::with_capacity(config.depth),
        })
    }

    fn send_up_to_depth(&mut self, seat: &mut Seat) -> io::Result<()> {
        let mut commands = Vec::new();
        let now = os::clock::now_us();
        while self.outstanding.len() < self.depth {
            seat.sent += 1;
            self.outstanding.push_back(now);
            encode(&mut commands, &["RPUSH", &seat.key, &seat.sent.to_string()]);
        }
        if commands.is_empty() { Ok(()) } else { self.connection.send(&commands) }
    }

    fn take_replies(&mut self, seat: &mut Seat) -> io::Result<()> {
        let replies = self.connection.arrived()?;
        let now = os::clock::now_us();
        let mut arrived = Vec::with_capacity(replies.len());
        // What came before a wrong reply was still acknowledged.
        let outcome = self.check(replies, now, &mut arrived, seat);
        seat.tell(arrived);
        outcome
    }

    fn check(
        &mut self,
        replies: Vec<Reply>,
        now: u64,
        arrived: &mut Vec<Sample>,
        seat: &mut Seat,
    ) -> io::Result<()> {
        for reply in replies {
            let expected = seat.acknowledged + 1;
            if reply != Reply::Integer(expected.cast_signed()) {
                return Err(unexpected(&seat.key, &reply, expected));
            }
            let Some(sent_us) = self.outstanding.pop_front() else {
                return Err(unexpected(&seat.key, &reply, expected));
            };
            arrived.push(Sample { at_us: now, latency_us: now - sent_us });
            seat.acknowledged = expected;
        }
        Ok(())
    }

    fn check_patience(&self) -> io::Result<()> {
        let waited = self.outstanding.front().map_or(0, |sent_us| os::clock::now_us() - sent_us);
        if u128::from(waited) < self.patience.as_micros() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no reply for {} s", waited / 1_000_000)))
    }
}

impl Line for Pipeline {
    fn write_until_stopped(&mut self, seat: &mut Seat) -> io::Result<()> {
        self.connection.set_read_patience(LOOK_AROUND)?;
        loop {
            if !seat.stopping() {
                self.send_up_to_depth(seat)?;
            } else if self.outstanding.is_empty() {
                return Ok(());
            }
            match self.connection.fill() {
                Ok(()) => self.take_replies(seat)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.check_patience()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn unexpected(key: &str, reply: &Reply, expected: u64) -> io::Error {
    let text =
        format!("the reply on {key} is {reply:?} where {expected} was due: an operation was lost or doubled");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
