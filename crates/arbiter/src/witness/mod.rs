//! Owns the arbiter at a witness: a third host of Undying that runs no VMs and keeps the records on its disk.
//!
//! For people with two hosts and neither shared storage nor etcd. The records are a [`directory`](crate::directory) of
//! the witness's own; [`server`] answers for it, [`WitnessArbiter`] asks. A connection carries one question and its
//! answer ([`protocol::witness`]): questions are rare, and a connection kept open to a host that died meanwhile would
//! cost a time-out. Each side knows who the other one is ([`trust`]), and a witness lets a host speak in its own name only.

pub mod server;

use crate::{Arbiter, ArbiterError, Standing, View};
use protocol::witness::{Answer, Question};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use trust::{Connection, HandshakeError, Purpose, Store, exchange};

/// After this long a host that was called has not said who it is, and after it has, a question has no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The arbiter at a witness.
#[derive(Debug, Clone)]
pub struct WitnessArbiter {
    host: HostName,
    address: SocketAddr,
    trust: Store,
}

impl WitnessArbiter {
    /// The witness of this name at this address, for the host whom these files of trust belong to. Nobody is asked yet: a
    /// witness that is away may come back.
    #[must_use]
    pub fn new(host: HostName, address: SocketAddr, trust: Store) -> Self {
        Self { host, address, trust }
    }

    fn dial(&self) -> Result<Connection, ArbiterError> {
        let no_answer = |error| self.unreachable("it does not answer", error);
        let socket = TcpStream::connect_timeout(&self.address, ANSWER_WITHIN).map_err(no_answer)?;
        socket.set_nodelay(true).map_err(no_answer)?;
        let until = Instant::now() + ANSWER_WITHIN;
        let connected = trust::connect(socket, &self.trust, &self.host, Purpose::Witness, until);
        let mut connection = connected.map_err(|error| match error {
            HandshakeError::Strange(_) => self.strange(format!("{error}; is the port right?")),
            HandshakeError::Io(error) => no_answer(error),
            error => self.unreachable("it cannot be spoken to", io::Error::other(error)),
        })?;
        connection.set_deadline(Some(Instant::now() + ANSWER_WITHIN)).map_err(no_answer)?;
        Ok(connection)
    }

    fn unreachable(&self, what: &str, source: io::Error) -> ArbiterError {
        ArbiterError::Unreachable { arbiter: self.describe(), what: what.to_owned(), source }
    }

    fn strange(&self, why: String) -> ArbiterError {
        ArbiterError::Strange { arbiter: self.describe(), why }
    }

    /// Asks, and sorts out the answers that are no answer to any question.
    fn ask(&self, question: &Question) -> Result<Answer, ArbiterError> {
        let mut connection = self.dial()?;
        exchange::write(connection.sender(), question)
            .map_err(|error| self.unreachable("it broke off", error))?;
        match exchange::read(connection.receiver()) {
            Ok(Answer::Failed(why)) => Err(self.unreachable("it cannot say now", io::Error::other(why))),
            Ok(Answer::Refused(why)) => Err(self.strange(format!("it refuses: {why}"))),
            Ok(Answer::Corrupt { record, why }) => {
                let path = format!("{record} at the {}", self.describe());
                Err(ArbiterError::Corrupt { path: path.into(), why })
            }
            Ok(answer) => Ok(answer),
            Err(exchange::ReadError::Io(error)) => Err(self.unreachable("it broke off", error)),
            Err(exchange::ReadError::Bytes(error)) => Err(self.strange(error.to_string())),
        }
    }

    /// What an answer means that is not the one hoped for, to a question about this VM and term.
    fn refusal(&self, answer: Answer, vm: &VmName, wanted: Term, by: &HostName) -> ArbiterError {
        match answer {
            Answer::Stale(newest) if newest.claim.vm == *vm && newest.claim.term > wanted => {
                ArbiterError::Stale { wanted, newest: Box::new(newest) }
            }
            Answer::Gap { newest } => ArbiterError::Gap { vm: vm.clone(), wanted, newest },
            Answer::NotOwner { owner } => {
                ArbiterError::NotOwner { vm: vm.clone(), term: wanted, host: by.clone(), owner }
            }
            answer => self.nonsense(&answer),
        }
    }

    fn nonsense(&self, answer: &Answer) -> ArbiterError {
        self.strange(format!("its answer is to another question: {answer:?}"))
    }
}

impl Arbiter for WitnessArbiter {
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError> {
        match self.ask(&Question::Claim(claim.clone()))? {
            Answer::Record(record) if record.claim.vm == claim.vm && record.claim.term == claim.term => {
                Ok(record)
            }
            answer => Err(self.refusal(answer, &claim.vm, claim.term, &claim.host)),
        }
    }

    fn look(&self, vm: &VmName) -> Result<View, ArbiterError> {
        match self.ask(&Question::Look(vm.clone()))? {
            Answer::View { identity, standing: None } => Ok(View { identity, standing: None }),
            Answer::View { identity, standing: Some((record, stopped)) } if record.claim.vm == *vm => {
                Ok(View { identity, standing: Some(Standing { record, stopped }) })
            }
            answer => Err(self.nonsense(&answer)),
        }
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        let question = Question::Stopped { vm: vm.clone(), term, host: host.clone() };
        match self.ask(&question)? {
            Answer::Noted => Ok(()),
            answer => Err(self.refusal(answer, vm, term, host)),
        }
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        match self.ask(&Question::Identity)? {
            Answer::Identity(identity) if !identity.is_empty() => Ok(identity),
            answer => Err(self.nonsense(&answer)),
        }
    }

    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError> {
        match self.ask(&Question::LeaveToken { host: host.clone(), token })? {
            Answer::Noted => Ok(()),
            answer => Err(self.nonsense(&answer)),
        }
    }

    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError> {
        match self.ask(&Question::Token { host: host.clone() })? {
            Answer::Token(token) => Ok(token),
            answer => Err(self.nonsense(&answer)),
        }
    }

    fn vms(&self) -> Result<Vec<VmName>, ArbiterError> {
        let mut all: Vec<VmName> = Vec::new();
        loop {
            match self.ask(&Question::Vms { after: all.last().cloned() })? {
                // Every answer brings the end nearer, or there would be none.
                Answer::Vms { vms, more } if vms.first() > all.last() || (vms.is_empty() && !more) => {
                    all.extend(vms);
                    if !more {
                        return Ok(all);
                    }
                }
                answer => return Err(self.nonsense(&answer)),
            }
        }
    }

    fn describe(&self) -> String {
        format!("witness {} at {}", self.host, self.address)
    }
}
