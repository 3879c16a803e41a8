//! Owns the conversation with QEMU: the client of its Machine Protocol (QMP).
//!
//! Commands are numbered, so several may be under way; QEMU answers them in the order in which they came, which
//! [`Qmp::send_all`] uses to ask for a whole checkpoint in one write. A reader thread hands answers to their
//! [`Ticket`]s and events to every [subscriber](Qmp::subscribe). Events and fields that this code has never heard
//! of pass through as JSON: newer QEMUs must not break the stream.
//!
//! (QEMU docs/interop/qmp-spec.txt)

mod link;
mod message;
mod prepared;

use link::{Link, Pendings};
pub use message::{Event, Version};
use message::{Incoming, parse};
pub use prepared::Prepared;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long an answer may take before QEMU counts as hung. Far above any answer of a healthy one.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The commands without which a VM cannot be run and protected.
pub const REQUIRED_COMMANDS: &[&str] = &[
    "add-fd",
    "announce-self",
    "cont",
    "getfd",
    "human-monitor-command",
    "migrate-incoming",
    "migrate-set-capabilities",
    "query-machines",
    "query-migrate",
    "query-status",
    "quit",
    "stop",
    "system_reset",
    "xen-save-devices-state",
];

/// What went wrong in the conversation with QEMU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// The connection is gone, most often because QEMU died.
    #[error("QEMU ended the conversation ({why}) before it answered `{command}`; its own messages say why")]
    Gone {
        /// The command that will never be answered.
        command: String,
        /// What was seen on the connection.
        why: String,
    },
    /// QEMU answered with an error.
    #[error("QEMU refused `{command}`: {message} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of error, such as `GenericError`.
        class: String,
        /// QEMU's own words.
        message: String,
    },
    /// No answer came in time: QEMU hangs or the host is overloaded.
    #[error("QEMU did not answer `{command}` within {waited:?}: it hangs, or its host is overloaded")]
    TimedOut {
        /// The command.
        command: String,
        /// How long was waited.
        waited: Duration,
    },
    /// This QEMU lacks commands that are needed.
    #[error("QEMU {version} has no {}; install QEMU 7.2 or newer, built with migration", .missing.join(", "))]
    Missing {
        /// QEMU's version.
        version: Version,
        /// The commands it lacks.
        missing: Vec<String>,
    },
    /// The other end does not speak QMP.
    #[error("the other end does not speak QMP: {0}")]
    NotQmp(String),
    /// An answer has not the form that is documented.
    #[error("QEMU's answer to `{command}` cannot be understood: {answer}")]
    Unexpected {
        /// The command.
        command: String,
        /// The answer.
        answer: String,
    },
}

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    name: &'static str,
    arguments: Option<Value>,
}

impl Command {
    /// A command without arguments.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, arguments: None }
    }

    /// A command with arguments: a JSON object.
    #[must_use]
    pub fn with(name: &'static str, arguments: Value) -> Self {
        Self { name, arguments: Some(arguments) }
    }

    fn line(&self, id: u64) -> String {
        let mut whole = json!({"execute": self.name, "id": id});
        if let Some(arguments) = &self.arguments {
            whole["arguments"] = arguments.clone();
        }
        whole.to_string() + "\n"
    }
}

/// The right to one answer.
#[derive(Debug)]
#[must_use = "an answer that nobody waits for hides an error"]
pub struct Ticket {
    command: &'static str,
    answer: mpsc::Receiver<Result<Value, QmpError>>,
}

impl Ticket {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`QmpError::Refused`], [`QmpError::Gone`], or [`QmpError::TimedOut`] after `timeout`.
    pub fn wait_for(self, timeout: Duration) -> Result<Value, QmpError> {
        self.answer.recv_timeout(timeout).unwrap_or_else(|_| {
            Err(QmpError::TimedOut { command: self.command.to_string(), waited: timeout })
        })
    }

    /// The answer, if it comes within `patience`; to be asked again if not.
    #[must_use]
    pub fn answered(&self, patience: Duration) -> Option<Result<Value, QmpError>> {
        match self.answer.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(Err(QmpError::Gone {
                command: self.command.to_string(),
                why: "it was answered before".into(),
            })),
        }
    }

    /// Waits for the answer, at most [`ANSWER_TIMEOUT`].
    ///
    /// # Errors
    /// As [`Ticket::wait_for`].
    pub fn wait(self) -> Result<Value, QmpError> {
        self.wait_for(ANSWER_TIMEOUT)
    }
}

/// A conversation with one QEMU. Shared freely between threads; ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Qmp {
    link: Arc<Link>,
    pendings: Arc<Pendings>,
    next_id: Arc<AtomicU64>,
    version: Version,
}

impl Qmp {
    /// Begins a conversation on `stream`: greeting, capabilities, and a check that QEMU has every command of
    /// `required`.
    ///
    /// # Errors
    /// If the other end is not a QEMU, is too old, or goes away.
    pub fn connect(stream: UnixStream, required: &[&str]) -> Result<Self, QmpError> {
        let (version, rest) = link::greeting(&stream, ANSWER_TIMEOUT)?;
        let (link, pendings) = Link::start(stream, rest).map_err(|e| QmpError::NotQmp(e.to_string()))?;
        let qmp = Self { link: Arc::new(link), pendings, next_id: Arc::default(), version };
        qmp.execute(Command::new("qmp_capabilities"))?;
        qmp.check_commands(required)?;
        Ok(qmp)
    }

    /// QEMU's version, from its greeting.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    fn check_commands(&self, required: &[&str]) -> Result<(), QmpError> {
        if required.is_empty() {
            return Ok(());
        }
        let answer = self.execute(Command::new("query-commands"))?;
        let has: HashSet<&str> =
            answer.as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
        let missing: Vec<String> =
            required.iter().filter(|c| !has.contains(**c)).map(|c| format!("`{c}`")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(QmpError::Missing { version: self.version.clone(), missing })
    }

    /// Sends a command; the answer is waited for on the ticket.
    pub fn send(&self, command: Command) -> Ticket {
        let [ticket] = self.send_all([command]);
        ticket
    }

    /// Sends several commands in one write. QEMU runs and answers them in this order.
    pub fn send_all<const N: usize>(&self, commands: [Command; N]) -> [Ticket; N] {
        self.write(commands, None)
    }

    fn write<const N: usize>(&self, commands: [Command; N], fd: Option<BorrowedFd<'_>>) -> [Ticket; N] {
        let mut bytes = String::new();
        let mut ids = [(0, ""); N];
        let tickets = std::array::from_fn(|i| {
            let (id, ticket) = self.expect(&commands[i]);
            ids[i] = (id, commands[i].name);
            bytes += &commands[i].line(id);
            ticket
        });
        if let Err(error) = self.link.write(bytes.as_bytes(), fd) {
            for (id, command) in ids {
                let gone = QmpError::Gone { command: command.to_string(), why: error.to_string() };
                self.pendings.settle(id, Err(gone));
            }
        }
        tickets
    }

    /// A number for a command, and the right to its answer.
    fn expect(&self, command: &Command) -> (u64, Ticket) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        (id, Ticket { command: command.name, answer: self.pendings.expect(id, command.name) })
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn execute(&self, command: Command) -> Result<Value, QmpError> {
        self.send(command).wait()
    }

    /// Sends a command with a descriptor (`getfd`, `add-fd`) and waits for the answer: transfers of descriptors are
    /// never pipelined, since QEMU may mix them up.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn execute_with_fd(&self, command: Command, fd: BorrowedFd<'_>) -> Result<Value, QmpError> {
        let [ticket] = self.write([command], Some(fd));
        ticket.wait()
    }

    /// Runs a line of the human monitor, for what QMP does not tell, and returns its text.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn human(&self, line: &str) -> Result<String, QmpError> {
        let answer = self.execute(Command::with("human-monitor-command", json!({ "command-line": line })))?;
        match answer.as_str() {
            Some(text) => Ok(text.to_string()),
            None => Err(QmpError::Unexpected { command: line.to_string(), answer: answer.to_string() }),
        }
    }

    /// All events from now on. The channel closes when QEMU is gone. An event that QEMU sent before an answer is in
    /// the channel before that answer is returned.
    #[must_use]
    pub fn subscribe(&self) -> mpsc::Receiver<Event> {
        self.pendings.subscribe(None)
    }

    /// The same, of events with these names only: each checkpoint makes two events, and need not wake who is not concerned.
    #[must_use]
    pub fn subscribe_to(&self, names: &'static [&'static str]) -> mpsc::Receiver<Event> {
        self.pendings.subscribe(Some(names))
    }

    /// When the last event of this name happened, by QEMU's clock in microseconds since 1970. Like subscriptions,
    /// it is up to date with every answer returned.
    #[must_use]
    pub fn last_event_us(&self, name: &str) -> Option<u64> {
        self.pendings.last_event_us(name)
    }

    /// Whether the guest runs, by the events until now.
    #[must_use]
    pub fn guest_runs(&self) -> bool {
        self.pendings.guest_runs()
    }

    /// How often the guest was stopped, by the events until now.
    #[must_use]
    pub fn stops(&self) -> u64 {
        self.pendings.stops()
    }

    /// Waits until it was stopped more often than `before`, and says whether it was; not any longer once the connection has ended.
    #[must_use]
    pub fn wait_stops(&self, before: u64, patience: Duration) -> bool {
        self.pendings.wait_stops(before, patience)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.pendings.is_gone()
    }
}

/// Waits for the first event that `wanted` accepts.
///
/// # Errors
/// [`QmpError::Gone`] if QEMU ends first, [`QmpError::TimedOut`] after `timeout`; both name `what`.
pub fn wait_event(
    events: &mpsc::Receiver<Event>,
    what: &str,
    timeout: Duration,
    mut wanted: impl FnMut(&Event) -> bool,
) -> Result<Event, QmpError> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(event) if wanted(&event) => return Ok(event),
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(QmpError::TimedOut { command: what.to_string(), waited: timeout });
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(QmpError::Gone { command: what.to_string(), why: "end of stream".into() });
            }
        }
    }
}
