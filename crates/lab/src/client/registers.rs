//! Owns the clients whose view is checked: at once and at random they read, write and compare-and-set a few registers
//! of a Redis, over a connection each, and note what they asked, what they were told, and when.
//!
//! An operation without an answer has an unknown outcome: its process ends with it, and the client goes on as a new
//! process on a new connection. Every value is written once, so that a read tells whose write it saw.
//!
//! The server chooses a part of each value by its clock. A guest that goes on from an earlier moment is given the same
//! requests again (input replay, and TCP's own repetitions) and would do the same writes once more: what clients had
//! been told too early would come true after all, and nobody could see it. With a clock in the value it comes out
//! different, and who was told the first one is contradicted.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ClientError;
use super::live::{Board, Clients, Recent, Standing};
use super::resp::{Connection, Reply};
use super::timeline::Sample;
use crate::history::{Ask, NEVER_WRITTEN, Operation, Outcome};
use crate::nemesis::Chance;
use crate::topology::Namespace;

/// Opening the first connections may take so long.
const FIRST_CONNECT: Duration = Duration::from_secs(10);
/// Opening a connection anew; tried again until the clients stop.
const CONNECT: Duration = Duration::from_secs(2);
/// Between two tries of that.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// Bits of a value that the server chooses; the others are a number that the client gives once.
const CHOSEN_BITS: u32 = 20;
/// Redis runs a script as one operation. It writes, if the register holds the second argument or there is none, the
/// number in the first with the microseconds of the server's clock behind it, and answers with a list of what it
/// wrote; or else with what is there. (The shift is CHOSEN_BITS; Lua's numbers are exact up to 53 bits.)
const WRITE: &str = "local held = redis.call('GET', KEYS[1]) or '0'; \
    if ARGV[2] and ARGV[2] ~= held then return held end; \
    local value = string.format('%.0f', ARGV[1] * 1048576 + redis.call('TIME')[2]); \
    redis.call('SET', KEYS[1], value); \
    return {value}";

/// What the clients shall do.
#[derive(Clone, Copy, Debug)]
pub struct RegistersConfig {
    /// The Redis, IPv4 or IPv6.
    pub target: SocketAddr,
    /// How many clients, each with one operation at a time.
    pub clients: u32,
    /// How many registers. With few, operations meet.
    pub keys: u32,
    /// An operation without an answer for so long has an unknown outcome.
    pub patience: Duration,
    /// Decides what each client asks, not when.
    pub seed: u64,
}

impl RegistersConfig {
    /// 8 clients on 4 registers, 20 s of patience.
    #[must_use]
    pub fn new(target: SocketAddr, seed: u64) -> Self {
        Self { target, clients: 8, keys: 4, patience: Duration::from_secs(20), seed }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Registers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Vec<Operation>>>>,
}

#[derive(Debug)]
struct Shared {
    config: RegistersConfig,
    stop: AtomicBool,
    broken: AtomicU64,
    processes: AtomicU32,
    written: AtomicU64,
    /// What each register was last seen to hold by anybody: something for a compare-and-set to expect. No part of the
    /// history.
    hints: Vec<AtomicU64>,
    trouble: Mutex<Option<String>>,
    board: Board,
}

/// What all clients saw.
#[derive(Clone, Debug)]
pub struct RegistersReport {
    /// Every operation, in no particular order.
    pub history: Vec<Operation>,
    /// Connections that broke, or on which an answer did not come: each left one operation of unknown outcome.
    pub broken: u64,
    /// Why the first of them did.
    pub first_trouble: Option<String>,
}

impl Registers {
    /// Opens all connections from the client's namespace, and begins once all are open. The registers must be new.
    ///
    /// # Errors
    /// A connection cannot be opened within 10 s.
    ///
    /// # Panics
    /// Without clients or registers.
    pub fn start(client: &Namespace, config: RegistersConfig) -> Result<Self, ClientError> {
        assert!(config.clients > 0 && config.keys > 0, "registers need clients, and clients registers");
        let open = || (0..config.clients).map(|_| open(&config, FIRST_CONNECT)).collect::<io::Result<_>>();
        let connections: Vec<Connection> = client.run(open)?.map_err(|source| ClientError::Connection {
            what: "connect to",
            target: config.target,
            source,
        })?;
        let shared = Arc::new(Shared {
            config,
            stop: AtomicBool::new(false),
            broken: AtomicU64::new(0),
            processes: AtomicU32::new(0),
            written: AtomicU64::new(NEVER_WRITTEN),
            hints: (0..config.keys).map(|_| AtomicU64::new(NEVER_WRITTEN)).collect(),
            trouble: Mutex::default(),
            board: Board::new((0..config.clients).map(|number| format!("client {number}"))),
        });
        let start = |(index, connection): (usize, Connection)| {
            let chance = Chance::new(config.seed.wrapping_mul(1_000).wrapping_add(index as u64));
            let seat = Seat { shared: Arc::clone(&shared), index, chance, history: Vec::new() };
            client.spawn(move || seat.work(connection))
        };
        let threads = connections.into_iter().enumerate().map(start).collect();
        Ok(Self { shared, threads })
    }

    /// Lets every client end its operation, and tells what was seen.
    ///
    /// # Errors
    /// A client's thread could not work at all.
    pub fn stop(self) -> Result<RegistersReport, ClientError> {
        self.shared.stop.store(true, Relaxed);
        let mut history = Vec::new();
        for thread in self.threads {
            history.extend(super::join(thread)?);
        }
        find_out_what_was_chosen(&mut history);
        let first_trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(RegistersReport { history, broken: self.shared.broken.load(Relaxed), first_trouble })
    }
}

impl Clients for Registers {
    fn what(&self) -> &'static str {
        "operations"
    }

    fn standings(&self) -> Vec<Standing> {
        self.shared.board.standings()
    }

    fn recent(&self) -> Recent {
        self.shared.board.take()
    }

    fn broken(&self) -> u64 {
        self.shared.broken.load(Relaxed)
    }
}

fn open(config: &RegistersConfig, patience: Duration) -> io::Result<Connection> {
    let connection = Connection::open(config.target, patience)?;
    connection.set_read_patience(config.patience)?;
    Ok(connection)
}

/// One client.
struct Seat {
    shared: Arc<Shared>,
    index: usize,
    chance: Chance,
    history: Vec<Operation>,
}

impl Seat {
    fn work(mut self, first: Connection) -> Vec<Operation> {
        let mut connection = Some(first);
        while !self.stopping() {
            match connection.take() {
                Some(open) => self.be_a_process(open),
                None => {
                    connection = open(&self.shared.config, CONNECT).ok();
                    if connection.is_none() {
                        std::thread::sleep(BETWEEN_TRIES);
                    }
                }
            }
        }
        self.history
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }

    /// Operates until the end, or until an answer does not come.
    fn be_a_process(&mut self, mut connection: Connection) {
        let process = self.shared.processes.fetch_add(1, Relaxed);
        while !self.stopping() {
            let key = self.chance.between(0, u64::from(self.shared.config.keys) - 1) as u32;
            let ask = self.choose(key);
            let called_us = os::clock::now_us();
            let answer = put(&mut connection, key, ask);
            let returned_us = os::clock::now_us();
            let (ask, outcome) = *answer.as_ref().unwrap_or(&(ask, Outcome::Unknown));
            self.history.push(Operation { process, key, ask, called_us, returned_us, outcome });
            match answer {
                Ok(_) => {
                    let sample = Sample { at_us: returned_us, latency_us: returned_us - called_us };
                    self.shared.board.note(self.index, &[sample]);
                    self.hint(key, ask, outcome);
                }
                Err(error) => {
                    self.shared.broken.fetch_add(1, Relaxed);
                    let mut trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                    trouble.get_or_insert_with(|| {
                        format!("process {process}, {ask:?} of register {key}: {error}")
                    });
                    return;
                }
            }
        }
    }

    fn choose(&mut self, key: u32) -> Ask {
        let new = |shared: &Shared| (shared.written.fetch_add(1, Relaxed) + 1) << CHOSEN_BITS;
        match self.chance.between(0, 9) {
            0..=3 => Ask::Read,
            4..=6 => Ask::Write(new(&self.shared)),
            _ => Ask::CompareAndSet {
                expected: self.shared.hints[key as usize].load(Relaxed),
                new: new(&self.shared),
            },
        }
    }

    fn hint(&self, key: u32, ask: Ask, outcome: Outcome) {
        let held = match (ask, outcome) {
            (_, Outcome::Found(value) | Outcome::Refused(value)) => value,
            (Ask::Write(value) | Ask::CompareAndSet { new: value, .. }, Outcome::Done) => value,
            _ => return,
        };
        self.shared.hints[key as usize].store(held, Relaxed);
    }
}

/// Asks a Redis; what was asked, with what the server chose, and what came of it.
fn put(connection: &mut Connection, key: u32, ask: Ask) -> io::Result<(Ask, Outcome)> {
    let key = format!("register:{key}");
    let number = |value: u64| (value >> CHOSEN_BITS).to_string();
    let reply = match ask {
        Ask::Read => connection.ask(&["GET", &key])?,
        Ask::Write(value) => connection.ask(&["EVAL", WRITE, "1", &key, &number(value)])?,
        Ask::CompareAndSet { expected, new } => {
            connection.ask(&["EVAL", WRITE, "1", &key, &number(new), &expected.to_string()])?
        }
    };
    understand(ask, &reply).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{reply:?} is no answer to {ask:?}"))
    })
}

fn understand(ask: Ask, reply: &Reply) -> Option<(Ask, Outcome)> {
    let number = |reply: &Reply| match reply {
        Reply::Bulk(Some(text)) => std::str::from_utf8(text).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let written = |wish: u64| match reply {
        Reply::Array(items) => items.first().and_then(number).filter(|&value| is_from(value, wish)),
        _ => None,
    };
    match ask {
        Ask::Read if *reply == Reply::Bulk(None) => Some((ask, Outcome::Found(NEVER_WRITTEN))),
        Ask::Read => Some((ask, Outcome::Found(number(reply)?))),
        Ask::Write(wish) => Some((Ask::Write(written(wish)?), Outcome::Done)),
        Ask::CompareAndSet { expected, new } => match number(reply) {
            Some(held) => Some((ask, Outcome::Refused(held))),
            None => Some((Ask::CompareAndSet { expected, new: written(new)? }, Outcome::Done)),
        },
    }
}

/// Whether a value is what the server made of this wish.
fn is_from(value: u64, wish: u64) -> bool {
    value >> CHOSEN_BITS == wish >> CHOSEN_BITS
}

/// Nobody was told what the server chose for a write without an answer, unless somebody saw it later. It chose once: a
/// second value of the same wish has no writer, and is a violation.
fn find_out_what_was_chosen(history: &mut [Operation]) {
    let mut seen: HashMap<u64, (u64, u64)> = HashMap::new();
    for operation in history.iter() {
        if let Outcome::Found(value) | Outcome::Refused(value) = operation.outcome {
            let first = seen.entry(value >> CHOSEN_BITS).or_insert((operation.returned_us, value));
            *first = (*first).min((operation.returned_us, value));
        }
    }
    for operation in history.iter_mut().filter(|operation| !operation.is_known()) {
        let (Ask::Write(wish) | Ask::CompareAndSet { new: wish, .. }) = &mut operation.ask else { continue };
        if let Some(&(_, value)) = seen.get(&(*wish >> CHOSEN_BITS)) {
            *wish = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: u64 = 7 << CHOSEN_BITS;
    const CHOSEN: u64 = WISH + 123_456;

    fn bulk(value: u64) -> Reply {
        Reply::Bulk(Some(value.to_string().into_bytes()))
    }

    #[test]
    fn only_what_fits_the_question_is_an_answer() {
        let (chosen, other) = (Reply::Array(vec![bulk(CHOSEN)]), Reply::Array(vec![bulk(9 << CHOSEN_BITS)]));
        let (write, set) = (Ask::Write(WISH), Ask::CompareAndSet { expected: 1, new: WISH });
        assert_eq!(understand(Ask::Read, &bulk(9)), Some((Ask::Read, Outcome::Found(9))));
        assert_eq!(
            understand(Ask::Read, &Reply::Bulk(None)),
            Some((Ask::Read, Outcome::Found(NEVER_WRITTEN)))
        );
        assert_eq!(understand(write, &chosen), Some((Ask::Write(CHOSEN), Outcome::Done)));
        let done = Ask::CompareAndSet { expected: 1, new: CHOSEN };
        assert_eq!(understand(set, &chosen), Some((done, Outcome::Done)));
        assert_eq!(understand(set, &bulk(9)), Some((set, Outcome::Refused(9))));
        for (ask, reply) in [
            (Ask::Read, chosen),
            (write, bulk(9)),
            (write, other.clone()),
            (set, other),
            (set, Reply::Error("ERR".into())),
            (Ask::Read, Reply::Bulk(Some(b"x".to_vec()))),
        ] {
            assert_eq!(understand(ask, &reply), None);
        }
    }

    #[test]
    fn what_the_server_chose_for_a_write_without_an_answer_is_told_by_who_saw_it() {
        let operation = |ask, outcome, at: u64| Operation {
            process: 0,
            key: 0,
            ask,
            called_us: at,
            returned_us: at + 1,
            outcome,
        };
        let mut history = [
            operation(Ask::Write(WISH), Outcome::Unknown, 1),
            operation(Ask::Write(8 << CHOSEN_BITS), Outcome::Unknown, 2),
            operation(Ask::Read, Outcome::Found(CHOSEN), 3),
        ];
        find_out_what_was_chosen(&mut history);
        assert_eq!((history[0].ask, history[1].ask), (Ask::Write(CHOSEN), Ask::Write(8 << CHOSEN_BITS)));
        assert!(crate::history::check(&history, crate::history::Limits::default()).holds());
    }
}
