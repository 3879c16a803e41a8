//! Owns the way to an etcd cluster: its JSON gateway (`POST /v3/kv/txn`) at several members.
//!
//! A member that is slow or dead holds nobody up: if it has not answered for a moment the next one is asked as well,
//! and the first good answer counts. Asking twice does no harm: what a transaction writes depends on what it finds.
//! Connections are not kept: questions are rare, and one to a host that died meanwhile would cost a time-out.

use super::config::{EtcdPlace, TlsFiles};
use super::messages::{Outcome, Txn};
use crate::ArbiterError;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// A member that has not answered after this long is no longer waited for alone. Far longer than a healthy member takes,
/// far shorter than a failover may.
const PATIENCE_WITH_ONE: Duration = Duration::from_millis(100);
/// After this long a question has no answer. A cluster that elects a leader takes one to two seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// No answer is near this long.
const MAX_ANSWER: u64 = 256 * 1024;

/// The members of a cluster, as seen from here.
#[derive(Debug)]
pub(super) struct Gateway {
    agent: Agent,
    endpoints: Vec<String>,
    /// The member that answered last is asked first.
    preferred: AtomicUsize,
    described: String,
}

impl Gateway {
    pub(super) fn new(place: &EtcdPlace) -> Result<Self, ArbiterError> {
        let described = format!("etcd {} below {}", place.endpoints.join(", "), place.prefix);
        let strange = |why: String| ArbiterError::Strange { arbiter: described.clone(), why };
        if place.endpoints.is_empty() {
            return Err(strange("no endpoint is configured".into()));
        }
        let usable = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
        if let Some(url) = place.endpoints.iter().find(|url| !usable(url)) {
            return Err(strange(format!("{url} is neither http:// nor https://")));
        }
        let tls = tls(&place.tls).map_err(strange)?;
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WITHIN))
            .max_redirects(0)
            // The members are named; a proxy of the environment has no part in it.
            .proxy(None)
            .max_idle_connections(0)
            .build();
        let endpoints = place.endpoints.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Self { agent: config.new_agent(), endpoints, preferred: AtomicUsize::new(0), described })
    }

    pub(super) fn describe(&self) -> String {
        self.described.clone()
    }

    /// Asks the members, one after the other joining in, until one answers.
    pub(super) fn ask(&self, txn: &Txn) -> Result<Outcome, ArbiterError> {
        let body = serde_json::to_vec(txn).expect("plain JSON");
        let (answers, heard) = channel();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut order = (0..self.endpoints.len()).map(|at| (first + at) % self.endpoints.len());
        let until = Instant::now() + ANSWER_WITHIN;
        let (mut asked, mut failures) = (0, Vec::new());
        loop {
            let next = order.next();
            if let Some(member) = next {
                self.spawn(member, body.clone(), answers.clone());
                asked += 1;
            } else if failures.len() == asked {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            let wait = if order.len() > 0 { PATIENCE_WITH_ONE.min(left) } else { left };
            match heard.recv_timeout(wait) {
                Ok((member, Ok(outcome))) => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok(outcome);
                }
                Ok((member, Err(why))) => failures.push(format!("{} {why}", self.endpoints[member])),
                Err(RecvTimeoutError::Timeout) if left > wait => {}
                Err(_) => break,
            }
        }
        let silent = asked - failures.len();
        if silent > 0 {
            failures.push(format!("{silent} not heard of within {} s", ANSWER_WITHIN.as_secs()));
        }
        Err(ArbiterError::Unreachable {
            arbiter: self.describe(),
            what: "no member of the cluster has an answer; a quorum of them must run and reach each other"
                .into(),
            source: io::Error::other(failures.join("; ")),
        })
    }

    fn spawn(&self, member: usize, body: Vec<u8>, answers: Sender<Heard>) {
        let agent = self.agent.clone();
        let url = format!("{}/v3/kv/txn", self.endpoints[member]);
        let failed = answers.clone();
        let spawned = std::thread::Builder::new().name("ud-etcd".into()).spawn(move || {
            // Nobody may be waiting any more.
            let _ = answers.send((member, post(&agent, &url, &body)));
        });
        if let Err(error) = spawned {
            let _ = failed.send((member, Err(format!("cannot be asked: no thread: {error}"))));
        }
    }
}

/// What a member said, or why it said nothing.
type Heard = (usize, Result<Outcome, String>);

fn post(agent: &Agent, url: &str, body: &[u8]) -> Result<Outcome, String> {
    let sent = agent.post(url).content_type("application/json").send(body);
    let mut answer = sent.map_err(|error| format!("does not answer: {error}"))?;
    let status = answer.status();
    let read = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    let bytes = read.map_err(|error| format!("broke off: {error}"))?;
    if !status.is_success() {
        return Err(format!("refuses ({status}): {}", complaint(&bytes)));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("is no etcd with a v3 gateway: {error}"))
}

/// What an error's body says, in so many words.
fn complaint(bytes: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let said = json.as_ref().and_then(|json| json["error"].as_str().or(json["message"].as_str()));
    let said = said.map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
    said.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn tls(files: &TlsFiles) -> Result<TlsConfig, String> {
    let mut builder = TlsConfig::builder();
    if let Some(ca) = &files.ca {
        builder = builder.root_certs(RootCerts::new_with_certs(&certificates(ca)?));
    }
    if let Some((chain, key)) = &files.identity {
        let key_of = |bytes: Vec<u8>| PrivateKey::from_pem(&bytes).map_err(|error| error.to_string());
        let key = read(key)
            .and_then(key_of)
            .map_err(|why| format!("the private key {} cannot be used: {why}", key.display()))?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&certificates(chain)?, key)));
    }
    Ok(builder.build())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let wrong = |why: String| format!("the certificates in {} cannot be used: {why}", path.display());
    let mut found = Vec::new();
    for item in parse_pem(&read(path).map_err(wrong)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong("there is none".into())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn place(endpoints: Vec<String>) -> EtcdPlace {
        EtcdPlace { endpoints, prefix: "p".into(), tls: TlsFiles::default() }
    }

    fn nothing() -> Txn {
        Txn { compare: vec![], success: vec![], failure: vec![] }
    }

    /// Something on a port that answers every request with these bytes, or with silence.
    fn speaks(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if let Some(answer) = answer {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream.write_all(answer.as_bytes());
                } else {
                    open.push(stream);
                }
            }
        });
        url
    }

    const GOOD: &str =
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"header\":{\"cluster_id\":\"1\",\"revision\":\"2\"}}";

    #[test]
    fn a_silent_member_a_dead_one_and_nonsense_are_passed_over() {
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let odd = [
            speaks(None),
            format!("http://{dead}"),
            speaks(Some("HTTP/1.1 503 Unavailable\r\nConnection: close\r\n\r\n{\"error\":\"no leader\"}")),
            speaks(Some("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nConnection: close\r\n\r\n")),
            speaks(Some("SSH-2.0-OpenSSH_9.2\r\n")),
            speaks(Some("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[]")),
            speaks(Some("HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{")),
        ];
        for member in &odd {
            let gateway = Gateway::new(&place(vec![member.clone(), speaks(Some(GOOD))])).unwrap();
            assert_eq!(gateway.ask(&nothing()).unwrap().header.revision, 2, "{member}");
            assert_eq!(gateway.preferred.load(Ordering::Relaxed), 1, "it is asked first from now on");
        }
        let gateway = Gateway::new(&place(odd[1..].to_vec())).unwrap();
        let error = gateway.ask(&nothing()).unwrap_err();
        assert!(error.is_unreachable());
        let text = error.to_string();
        for said in ["no leader", "302", "is no etcd", &odd[1]] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while stream.write_all(&[b' '; 65536]).is_ok() {}
        });
        assert!(Gateway::new(&place(vec![url])).unwrap().ask(&nothing()).unwrap_err().is_unreachable());
    }

    #[test]
    fn a_configuration_that_cannot_work_is_named() {
        let wrong = |place: &EtcdPlace| Gateway::new(place).unwrap_err().to_string();
        assert!(wrong(&place(vec![])).contains("no endpoint"));
        assert!(wrong(&place(vec!["10.0.0.1:2379".into()])).contains("10.0.0.1:2379"));
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("ca.pem");
        let mut with_ca = place(vec!["https://h:1".into()]);
        with_ca.tls.ca = Some(empty.clone());
        assert!(wrong(&with_ca).contains("ca.pem"), "a file that is missing");
        std::fs::write(&empty, "").unwrap();
        assert!(wrong(&with_ca).contains("there is none"));
    }
}
