//! Owns the arbiter at a witness: a third host of Undying that runs no VMs and keeps the records on its disk.
//!
//! For people with two hosts and neither shared storage nor etcd. The records are a [`directory`](crate::directory) of
//! the witness's own; [`server`] answers for it, [`WitnessArbiter`] asks. A connection carries one question and its
//! answer ([`protocol::witness`]): questions are rare, and a connection kept open to a host that died meanwhile would
//! cost a time-out. Only this file's `dial` and the server's `accept` know that it is TCP.

mod deadline;
mod exchange;
pub mod server;

use self::deadline::Deadline;
use crate::{Arbiter, ArbiterError, Standing, View};
use protocol::witness::{Answer, Question};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// After this long a question has no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The arbiter at a witness.
#[derive(Debug, Clone)]
pub struct WitnessArbiter {
    address: SocketAddr,
}

fn dial(address: SocketAddr) -> io::Result<Deadline> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    Deadline::new(stream, ANSWER_WITHIN)
}

impl WitnessArbiter {
    /// The witness at this address. Nobody is asked yet: a witness that is away may come back.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    fn unreachable(&self, what: &str, source: io::Error) -> ArbiterError {
        ArbiterError::Unreachable { arbiter: self.describe(), what: what.to_owned(), source }
    }

    fn strange(&self, why: String) -> ArbiterError {
        ArbiterError::Strange { arbiter: self.describe(), why }
    }

    /// Asks, and sorts out the answers that are no answer to any question.
    fn ask(&self, question: &Question) -> Result<Answer, ArbiterError> {
        let mut stream = dial(self.address).map_err(|error| self.unreachable("it does not answer", error))?;
        exchange::write(&mut stream, question).map_err(|error| self.unreachable("it broke off", error))?;
        match exchange::read(&mut stream) {
            Ok(Answer::Failed(why)) => Err(self.unreachable("it cannot say now", io::Error::other(why))),
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
        format!("witness {}", self.address)
    }
}
