//! Owns a command that QEMU has but for its last byte.
//!
//! QEMU reads its monitor byte by byte, some 6 us each, so a long command is begun the later. This one is read beforehand.
//! (QEMU monitor/monitor.c `monitor_can_read`)

use super::{Command, Qmp, QmpError, Ticket};

/// A command that is carried out as soon as it is [called](Prepared::call). Until then nothing else can be said in this conversation.
/// Dropping it calls it off.
#[derive(Debug)]
pub struct Prepared {
    qmp: Qmp,
    id: u64,
    ticket: Option<Ticket>,
}

/// Ends a command that is ready.
const LAST: &str = "}";
/// Makes it one that QEMU refuses.
const SPOILT: &str = ",\"called-off\":0}";

impl Qmp {
    /// Sends a command without its last byte. No other thread may have a clone of this conversation that it uses.
    #[must_use]
    pub fn prepare(&self, command: Command) -> Prepared {
        let (id, ticket) = self.expect(&command);
        let line = command.line(id);
        let begun = line.trim_end().strip_suffix(LAST).expect("a JSON object");
        let prepared = Prepared { qmp: self.clone(), id, ticket: Some(ticket) };
        prepared.say(command.name, begun);
        prepared
    }
}

impl Prepared {
    /// Has the command carried out.
    pub fn call(mut self) -> Ticket {
        let ticket = self.ticket.take().expect("it is called once");
        self.say(ticket.command, LAST);
        ticket
    }

    fn say(&self, command: &'static str, text: &str) {
        if let Err(error) = self.qmp.link.write(text.as_bytes(), None) {
            let gone = QmpError::Gone { command: command.to_string(), why: error.to_string() };
            self.qmp.pendings.settle(self.id, Err(gone));
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.say(ticket.command, SPOILT);
        }
    }
}
