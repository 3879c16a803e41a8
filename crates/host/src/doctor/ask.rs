//! Owns the asking side: a conversation with another host, and what comes of it.

use super::answer::busy;
use super::burst;
use super::compare::{self, Tokens};
use super::facts::{HostFacts, InterfaceFacts, interfaces};
use super::finding::Check;
use super::judge::judge;
use super::link::{self, Bursts, Measured, Sample};
use super::vm::Asked;
use crate::context::Context;
use crate::door::{CONNECT_WITHIN, CallError};
use crate::table::Table;
use api::doctor::Finding;
use api::types::Bandwidth;
use protocol::HostName;
use protocol::doctor::{Answer, Burst, CHUNK, MAX_BURST, Question};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use trust::exchange::{self, ReadError};
use trust::{Connection, HandshakeError, Purpose};

/// So long an answer may take that needs no more than to be given.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// So long another host may look at itself: it starts a QEMU, and may be busy.
const LOOK_WITHIN: Duration = Duration::from_secs(20);
/// Round trips on each path, as far as they come in this time.
const ROUND_TRIPS: usize = 200;
const ROUND_TRIPS_WITHIN: Duration = Duration::from_secs(3);
/// Enough for some packets of any size that there is.
const FULL_SIZE: Burst = Burst { bytes: 2 * CHUNK as u64, within_us: 1_000_000, anyway: false };
/// Time of a burst in each direction.
const BURST_US: u64 = 1_500_000;

const LINK: Check =
    Check { name: "link", why: "Checkpoints and heartbeats go over it; without it there is no protection." };
const ANSWERS: Check = Check {
    name: "answers",
    why: "What the other host knows of itself is compared before a failover has to find it out.",
};

/// Why a conversation came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("it answers another question")]
    Nonsense,
}

struct Conversation(Connection);

impl Conversation {
    fn open(context: &Context, peer: &HostName, address: SocketAddr) -> Result<Self, CallError> {
        context.door.call(peer, address, Purpose::Doctor, CONNECT_WITHIN).map(Self)
    }

    fn ask(&mut self, question: &Question, within: Duration) -> Result<Answer, Trouble> {
        self.0.set_deadline(Some(Instant::now() + within))?;
        exchange::write(self.0.sender(), question)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Trouble> {
        match exchange::read(self.0.receiver())? {
            Answer::Refused(why) => Err(Trouble::Refused(why)),
            answer => Ok(answer),
        }
    }

    fn sample(&mut self) -> Result<Sample, Trouble> {
        let (sent_us, began) = (os::clock::realtime_us(), Instant::now());
        let answer = self.ask(&Question::Clock, ANSWER_WITHIN)?;
        let (took, back_us) = (began.elapsed(), os::clock::realtime_us());
        let Answer::Clock { came_us, goes_us } = answer else { return Err(Trouble::Nonsense) };
        let round_trip_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Ok(Sample { sent_us, came_us, goes_us, back_us, round_trip_us })
    }

    /// A burst to the other host, and one from it.
    fn bursts(&mut self, burst: Burst) -> Result<(link::Carried, link::Carried), Trouble> {
        let within = Duration::from_micros(burst.within_us) + ANSWER_WITHIN;
        let Answer::Ready = self.ask(&Question::Take(burst), within)? else { return Err(Trouble::Nonsense) };
        burst::send(self.0.sender(), burst)?;
        let Answer::Took { bytes, us } = self.answer()? else { return Err(Trouble::Nonsense) };
        let to = link::Carried { bytes, us };
        let Answer::Ready = self.ask(&Question::Give(burst), within)? else { return Err(Trouble::Nonsense) };
        Ok((to, burst::take(self.0.receiver(), burst)?))
    }
}

/// What is asked about the other host.
pub struct Pair<'a> {
    /// This host's agent.
    pub context: &'a Context,
    /// Its VMs.
    pub table: &'a Table,
    /// The other host.
    pub peer: &'a HostName,
    /// What this host knows of itself.
    pub here: &'a HostFacts,
    /// The VM that shall be protected there.
    pub vm: Option<&'a Asked>,
    /// Whether the link may be loaded.
    pub bandwidth: Bandwidth,
}

impl Pair<'_> {
    /// Looks at the other host, at the way there, and at what both have in common.
    #[must_use]
    pub fn look(&self) -> Vec<Finding> {
        let of = format!("{}, {}", self.context.config.name, self.peer);
        let Some(peer) = self.context.config.peers.get(self.peer) else {
            let remedy = "add it to [peers] in this host's configuration, and start the agent again when no VM needs it";
            return vec![LINK.failure(
                &of,
                format!("{} is not among the peers of this host", self.peer),
                remedy,
            )];
        };
        let (mut findings, mut paths) = (Vec::new(), Vec::new());
        for &address in peer.addresses.iter() {
            match Conversation::open(self.context, self.peer, address) {
                Ok(conversation) => paths.push(self.measure(address, conversation)),
                Err(error) => findings.push(unreached(&of, address, &error)),
            }
        }
        // One that carries long answers, if there is one.
        let sound = paths.iter().find(|path| path.full_size.is_ok()).or(paths.first());
        let Some(first) = sound.map(|path| path.address) else { return findings };
        findings.extend(
            paths.iter().map(|path| LINK.ok(&of, format!("{}: the agent there answers", path.address))),
        );
        let there = match self.facts(first) {
            Ok(there) => {
                findings.extend(judge(self.peer.as_str(), &there, true));
                findings.extend(compare::compare(&of, self.here, &there));
                findings.push(compare::same_arbiter(&of, self.here, &there, &self.tokens(first)));
                Some(there)
            }
            Err(error) => {
                let found = format!("host {} does not say what it knows of itself: {error}", self.peer);
                findings.push(ANSWERS.failure(
                    &of,
                    found,
                    "look at the log of its agent; run the same version on both",
                ));
                None
            }
        };
        let memory = self.vm.map(|vm| vm.resolved.spec().memory.0);
        for path in &paths {
            let end = there.as_ref().and_then(|there| end_of(&there.interfaces, path.address.ip()));
            findings.extend(path.judge(&of, end, &self.context.config, memory));
        }
        let samples: Vec<_> = paths.into_iter().flat_map(|path| path.samples).collect();
        findings.push(link::clocks(&of, self.peer.as_str(), &samples));
        findings
    }

    fn facts(&self, address: SocketAddr) -> Result<HostFacts, Trouble> {
        let vm = self.vm.map(serde_json::to_vec).transpose().map_err(std::io::Error::from)?;
        let question = Question::Facts(vm.unwrap_or_default());
        let mut conversation = Conversation::open(self.context, self.peer, address)?;
        let Answer::Facts(json) = conversation.ask(&question, LOOK_WITHIN)? else {
            return Err(Trouble::Nonsense);
        };
        Ok(serde_json::from_slice(&json).map_err(std::io::Error::from)?)
    }

    /// Both leave a token at their arbiters, and look for the other one's. Somebody else who looks at one of them at the same
    /// moment makes it leave another one in between: that does not happen twice.
    fn tokens(&self, address: SocketAddr) -> Tokens {
        let first = self.leave_tokens(address);
        if first.agree() { first } else { self.leave_tokens(address) }
    }

    fn leave_tokens(&self, address: SocketAddr) -> Tokens {
        let (arbiter, here) = (&self.context.arbiter, &self.context.config.name);
        let (ours, theirs) = (crate::loops::random(), crate::loops::random());
        let left_here = arbiter.leave_token(here, ours).map(|()| ours).map_err(|error| error.to_string());
        let asked = Conversation::open(self.context, self.peer, address).map_err(Trouble::from);
        let asked =
            asked.and_then(|mut to| match to.ask(&Question::Token { leave: theirs }, LOOK_WITHIN)? {
                Answer::Token { found, left } => Ok((found, left)),
                _ => Err(Trouble::Nonsense),
            });
        let (found_there, left) =
            asked.unwrap_or_else(|error| (Err(error.to_string()), Err(error.to_string())));
        let found_here = arbiter.token(self.peer).map_err(|error| error.to_string());
        Tokens { left_here, found_there, left_there: left.map(|()| theirs), found_here }
    }

    fn measure(&self, address: SocketAddr, mut conversation: Conversation) -> Measured {
        let own = rustix::net::getsockname(&conversation.0).ok();
        let own = own.and_then(|own| SocketAddr::try_from(own).ok());
        let here = own.and_then(|own| end_of(&interfaces(), own.ip()).cloned());
        let mut measured = Measured {
            address,
            here,
            tcp: None,
            samples: Vec::new(),
            full_size: Ok(()),
            bursts: Bursts::LeftOut("it was not asked for".into()),
        };
        let until = Instant::now() + ROUND_TRIPS_WITHIN;
        while measured.samples.len() < ROUND_TRIPS && Instant::now() < until {
            match conversation.sample() {
                Ok(sample) => measured.samples.push(sample),
                Err(error) => {
                    measured.bursts = Bursts::Failed(error.to_string());
                    return measured;
                }
            }
        }
        measured.full_size = conversation.bursts(FULL_SIZE).map(drop).map_err(|error| error.to_string());
        measured.tcp = os::tcp::path(&conversation.0).ok();
        measured.bursts = match &measured.full_size {
            Ok(()) => self.bursts(&mut conversation),
            Err(_) => Bursts::LeftOut("long packets do not arrive".into()),
        };
        measured.tcp = os::tcp::path(&conversation.0).ok().or(measured.tcp);
        measured
    }

    fn bursts(&self, conversation: &mut Conversation) -> Bursts {
        let disturbed = busy(self.table);
        let how = "it would disturb what is protected over it; `--bandwidth always` measures all the same";
        match self.bandwidth {
            Bandwidth::Never => return Bursts::LeftOut("it was not asked for".into()),
            Bandwidth::Idle if !disturbed.is_empty() => {
                return Bursts::LeftOut(format!(
                    "not measured for the sake of {}: {how}",
                    disturbed.join(", ")
                ));
            }
            _ => {}
        }
        let anyway = self.bandwidth == Bandwidth::Always;
        match conversation.bursts(Burst { bytes: MAX_BURST, within_us: BURST_US, anyway }) {
            Ok((to, from)) => Bursts::Carried(to, from),
            Err(Trouble::Refused(why)) => Bursts::LeftOut(format!("host {} says: {why}", self.peer)),
            Err(error) => Bursts::Failed(error.to_string()),
        }
    }
}

fn end_of(interfaces: &[InterfaceFacts], address: IpAddr) -> Option<&InterfaceFacts> {
    let address = address.to_string();
    interfaces.iter().find(|interface| interface.address == address)
}

fn unreached(of: &str, address: SocketAddr, error: &CallError) -> Finding {
    let found = format!("{address}: {error}");
    let remedy = match error {
        CallError::Io(_) | CallError::Handshake(HandshakeError::Late | HandshakeError::Io(_)) => {
            "start the agent there; look at the address in [peers] here, `listen` there, cables and firewalls"
        }
        CallError::Handshake(HandshakeError::Strange(_)) => {
            "look whether the port is right, and run the same version of undying on both hosts"
        }
        CallError::Handshake(_) => "have both hosts trust each other, as `undying host trust --help` says",
    };
    LINK.failure(of, found, remedy)
}
