use super::*;
use std::io::Read;
use std::net::TcpListener;
use trust::Lifetime;

struct Side {
    door: Arc<Door>,
    place: tempfile::TempDir,
}

fn side(name: &str) -> Side {
    let place = tempfile::tempdir().expect("a directory");
    let name = HostName::new(name).expect("a name");
    let store = Store::new(place.path(), &name);
    store.init(Lifetime::default()).expect("an identity");
    let events = Arc::new(EventLog::open(name, place.path()).expect("a log"));
    Side { door: Door::start(store, events).expect("a door"), place }
}

impl Side {
    fn store(&self) -> &Store {
        &self.door.store
    }

    fn name(&self) -> &HostName {
        self.store().host()
    }

    fn trusts(&self, other: &Self) {
        let identity = other.store().identity().expect("it has one");
        self.store().trust(other.name(), identity.certificate()).expect("trusted");
    }

    /// What its events say, oldest first.
    fn told(&self) -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.door.events.after(0);
        events.iter().map(|event| (text(&event.what["event"]), text(&event.what["reason"]))).collect()
    }

    fn waits_for(&self, event: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.told().iter().any(|(found, _)| found == event) {
            assert!(Instant::now() < until, "no event {event}: {:?}", self.told());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

type Met = (Result<Connection, CallError>, Result<Connection, HandshakeError>);

/// One calls, the other lets it in, or not.
fn meet(caller: &Side, called: &Side) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (door, host) = (Arc::clone(&caller.door), called.name().clone());
    let call =
        std::thread::spawn(move || door.call(&host, address, Purpose::Replication, Duration::from_secs(30)));
    let (socket, _) = listener.accept().expect("a call");
    let until = Instant::now() + Duration::from_secs(30);
    let let_in = called.door.let_in(socket, Wanted::Anyone, &[Purpose::Replication], until);
    (call.join().expect("no panic"), let_in)
}

fn pair() -> (Side, Side) {
    let (alpha, beta) = (side("alpha"), side("beta"));
    alpha.trusts(&beta);
    beta.trusts(&alpha);
    (alpha, beta)
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(event, reason)| ((*event).into(), (*reason).into())).collect()
}

#[test]
fn a_refusal_is_an_event_on_both_sides_and_not_one_each_time() {
    let (alpha, beta) = (side("alpha"), side("beta"));
    alpha.trusts(&beta);
    for _ in 0..3 {
        let (call, let_in) = meet(&alpha, &beta);
        assert!(call.is_err() && let_in.is_err());
    }
    assert_eq!(alpha.told(), pairs(&[("peer_refused", "unknown_there")]));
    assert_eq!(beta.told(), pairs(&[("peer_refused", "unknown")]));
    let text = &beta.door.events.after(0)[0].text;
    assert!(text.contains("undying host trust CONFIG alpha") && text.contains("127.0.0.1"), "{text}");
    beta.trusts(&alpha);
    let (call, let_in) = meet(&alpha, &beta);
    assert!(call.is_ok() && let_in.is_ok());
    beta.store().distrust(alpha.name(), None).expect("revoked");
    assert!(meet(&alpha, &beta).1.is_err());
    assert_eq!(alpha.told()[1..], pairs(&[("peer_refused", "revoked_there")]));
    beta.waits_for("peer_distrusted");
}

#[test]
fn a_session_ends_with_the_trust_and_who_was_called_may_say_why() {
    let (alpha, beta) = pair();
    let (call, let_in) = meet(&alpha, &beta);
    let (mut at_alpha, _to_beta) = call.expect("called").split();
    let (mut at_beta, mut to_alpha) = let_in.expect("let in").split();
    beta.store().distrust(alpha.name(), None).expect("revoked");
    let error = at_beta.read(&mut [0]).expect_err("ended");
    let why = error.get_ref().and_then(|why| why.downcast_ref::<Ended>()).expect("for a reason");
    assert!(why.0.contains("host alpha is not trusted any more"), "{why}");
    to_alpha.send(b"bye", &[]).expect("a last word");
    let mut word = [0; 3];
    at_alpha.read_exact(&mut word).expect("it is heard");
    assert_eq!(beta.told(), pairs(&[("peer_distrusted", "revoked")]));
    // Held on to, it is ended all the same.
    assert_eq!(at_alpha.read(&mut word).map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
}

#[test]
fn nothing_more_is_sent_to_a_host_that_was_called_and_is_trusted_no_longer() {
    let (alpha, beta) = pair();
    let (call, let_in) = meet(&alpha, &beta);
    let (mut at_alpha, mut to_beta) = call.expect("called").split();
    alpha.store().distrust(beta.name(), None).expect("revoked");
    at_alpha.read(&mut [0]).expect_err("ended");
    to_beta.send(b"memory", &[]).expect_err("nothing leaves");
    let mut got = Vec::new();
    let _ = let_in.expect("let in").split().0.read_to_end(&mut got);
    assert!(got.is_empty());
}

#[test]
fn a_trust_store_that_cannot_be_read_ends_no_session_and_opens_none() {
    use std::os::unix::fs::PermissionsExt;
    let (alpha, beta) = pair();
    let (_call, let_in) = meet(&alpha, &beta);
    let trusted = beta.place.path().join("trusted");
    std::fs::set_permissions(&trusted, std::fs::Permissions::from_mode(0o777)).expect("set");
    beta.waits_for("trust_unknown");
    assert_eq!(meet(&alpha, &beta).1.expect_err("refused").reason(), "trust_store");
    let handle = let_in.expect("let in").handle();
    assert!(handle.is_open() || !beta.told().iter().any(|(event, _)| event == "peer_distrusted"));
}

#[test]
fn what_expires_soon_is_told() {
    let (alpha, beta) = pair();
    assert_eq!(soon_expired(alpha.store()).expect("read"), [""; 0]);
    let short = beta.store().renew(Lifetime::days(10)).expect("made");
    alpha.store().trust(beta.name(), &short).expect("trusted");
    let told = soon_expired(alpha.store()).expect("read");
    assert!(told.len() == 1 && told[0].contains("of host beta is valid until"), "{told:?}");
}
