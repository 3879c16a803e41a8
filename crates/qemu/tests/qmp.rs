//! The QMP client against a server that keeps to a script.

use qemu::qmp::{Command, QmpError, wait_event};
use qemu::{Event, Qmp};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "(test)"}, "capabilities": ["oob"]}}"#;

/// The other end of the conversation.
struct Server {
    lines: BufReader<UnixStream>,
    out: UnixStream,
}

impl Server {
    fn say(&mut self, text: &str) {
        self.out.write_all(text.as_bytes()).unwrap();
        self.out.write_all(b"\r\n").unwrap();
    }

    /// The next command: its name and its id.
    fn hear(&mut self) -> (String, Value) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let whole: Value = serde_json::from_str(&line).unwrap();
        (whole["execute"].as_str().unwrap().to_string(), whole["id"].clone())
    }

    fn answer(&mut self, id: &Value, value: &Value) {
        self.say(&json!({ "return": value, "id": id }).to_string());
    }

    fn open(&mut self) {
        self.say(GREETING);
        let (name, id) = self.hear();
        assert_eq!(name, "qmp_capabilities");
        self.answer(&id, &json!({}));
    }
}

fn serve(script: impl FnOnce(Server) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server { lines: BufReader::new(theirs.try_clone().unwrap()), out: theirs };
    (ours, std::thread::spawn(move || script(server)))
}

#[test]
fn several_commands_are_one_write_and_answers_find_their_tickets_in_any_order() {
    let (stream, server) = serve(|mut server| {
        server.open();
        let mut bytes = [0; 4096];
        let n = server.lines.read(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
        let ids: Vec<Value> =
            text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["id"].clone()).collect();
        assert_eq!(ids.len(), 3, "one read must give all three: {text}");
        for (at, id) in ids.iter().enumerate().rev() {
            server.answer(id, &json!(at));
        }
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let tickets = qmp.send_all([Command::new("stop"), Command::new("query-status"), Command::new("cont")]);
    let answers = tickets.map(|t| t.wait().unwrap());
    assert_eq!(answers, [json!(0), json!(1), json!(2)]);
    server.join().unwrap();
}

#[test]
fn what_nobody_asked_for_disturbs_nothing() {
    let (stream, server) = serve(|mut server| {
        server.open();
        let (_, id) = server.hear();
        server.say("");
        server.say(r#"{"event": "FROM_THE_FUTURE", "data": {"new": ["enum"]}, "timestamp": {"seconds": 1, "microseconds": 5}, "more": 1}"#);
        server.say(r#"{"return": {}, "id": 987654}"#);
        server.say(r#"{"return": {}, "id": "not ours"}"#);
        server.say(r#"{"error": {"class": "GenericError", "desc": "no id at all"}}"#);
        server.answer(&id, &json!("here"));
        server.answer(&id, &json!("twice"));
        let (_, id) = server.hear();
        server.answer(&id, &json!("still here"));
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let events = qmp.subscribe();
    assert_eq!(qmp.execute(Command::new("stop")).unwrap(), json!("here"));
    let expected = Event { name: "FROM_THE_FUTURE".into(), data: json!({"new": ["enum"]}), at_us: 1_000_005 };
    assert_eq!(events.try_recv(), Ok(expected), "an event sent before an answer is there with the answer");
    assert_eq!(qmp.last_event_us("FROM_THE_FUTURE"), Some(1_000_005));
    assert_eq!(qmp.execute(Command::new("cont")).unwrap(), json!("still here"));
    server.join().unwrap();
}

#[test]
fn a_refusal_has_qemus_own_words() {
    let (stream, server) = serve(|mut server| {
        server.open();
        let (_, id) = server.hear();
        server.say(
            &json!({ "error": { "class": "CommandNotFound", "desc": "no such thing" }, "id": id })
                .to_string(),
        );
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let error = qmp.execute(Command::new("stop")).unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused `stop`: no such thing (CommandNotFound)");
    server.join().unwrap();
}

#[test]
fn the_death_of_qemu_ends_every_wait() {
    let (stream, server) = serve(|mut server| {
        server.open();
        server.hear();
        server.hear();
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let events = qmp.subscribe();
    let tickets = qmp.send_all([Command::new("stop"), Command::new("cont")]);
    server.join().unwrap();
    for ticket in tickets {
        assert!(matches!(ticket.wait(), Err(QmpError::Gone { .. })));
    }
    assert!(matches!(qmp.execute(Command::new("quit")), Err(QmpError::Gone { .. })), "also later");
    let waited = wait_event(&events, "RESUME", Duration::from_secs(60), |_| true);
    assert!(matches!(waited, Err(QmpError::Gone { .. })));
    assert!(qmp.is_gone());
    assert!(qmp.subscribe().recv().is_err(), "a later subscriber is not left waiting");
}

#[test]
fn a_line_that_is_not_qmp_ends_the_conversation_with_that_line() {
    let (stream, server) = serve(|mut server| {
        server.open();
        server.hear();
        server.say("panic: oh no");
        // Stays open: the client must give up by itself.
        let _ = server.lines.read_line(&mut String::new());
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let error = qmp.execute(Command::new("stop")).unwrap_err().to_string();
    assert!(error.contains("panic: oh no"), "{error}");
    server.join().unwrap();
}

#[test]
fn an_answer_that_does_not_come_is_given_up() {
    let (stream, server) = serve(|mut server| {
        server.open();
        let (_, late) = server.hear();
        let (_, id) = server.hear();
        server.answer(&late, &json!({}));
        server.answer(&id, &json!("in time"));
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let error = qmp.send(Command::new("stop")).wait_for(Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, QmpError::TimedOut { .. }));
    assert_eq!(qmp.execute(Command::new("cont")).unwrap(), json!("in time"), "the late answer harms nobody");
    server.join().unwrap();
}

#[test]
fn missing_commands_are_named_with_the_version() {
    let (stream, server) = serve(|mut server| {
        server.open();
        let (name, id) = server.hear();
        assert_eq!(name, "query-commands");
        server.answer(&id, &json!([{ "name": "stop" }, { "name": "cont" }]));
    });
    let error = Qmp::connect(stream, &["stop", "getfd", "cont", "add-fd"]).unwrap_err().to_string();
    assert!(error.starts_with("QEMU 7.2.22 (test) has no `getfd`, `add-fd`"), "{error}");
    server.join().unwrap();
}

#[test]
fn something_else_on_the_socket_is_not_taken_for_qemu() {
    for greeting in ["220 smtp ready", r#"{"hello": 1}"#, r#"{"return": {}}"#] {
        let (stream, server) = serve(move |mut server| server.say(greeting));
        assert!(matches!(Qmp::connect(stream, &[]), Err(QmpError::NotQmp(_))), "{greeting}");
        server.join().unwrap();
    }
}

#[test]
fn a_descriptor_goes_with_its_command() {
    let (stream, server) = serve(|mut server| {
        server.open();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let got = rustix::net::recvmsg(
            &server.out,
            &mut [std::io::IoSliceMut::new(&mut bytes)],
            &mut control,
            rustix::net::RecvFlags::empty(),
        );
        let whole: Value = serde_json::from_slice(&bytes[..got.unwrap().bytes]).unwrap();
        let mut fds = control.drain().flat_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let mut passed = UnixStream::from(fds.next().expect("a descriptor with the command"));
        assert!(fds.next().is_none());
        passed.write_all(b"through").unwrap();
        server.answer(&whole["id"], &json!({}));
    });
    let qmp = Qmp::connect(stream, &[]).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    qmp.execute_with_fd(Command::with("getfd", json!({ "fdname": "x" })), theirs.as_fd()).unwrap();
    let mut bytes = [0; 7];
    ours.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"through");
    server.join().unwrap();
}
