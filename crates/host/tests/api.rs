//! Client and server over a unix socket, with an engine without machines behind them.

#![forbid(unsafe_code)]

mod support;

use api::client::{Client, ClientError};
use api::migration::MigrateRequest;
use api::types::{ErrorCode, ProtectRequest, RepairRequest, StartRequest};
use host::control::server::{ServeError, ServerHandle, serve};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use support::{Fake, host_name, vm_name};

struct Room {
    directory: tempfile::TempDir,
    fake: Arc<Fake>,
    server: ServerHandle,
    client: Client,
}

/// A server and a client; None, said loudly, for whom the API does not serve.
fn room() -> Option<Room> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the API answers root only");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    let fake = Arc::new(Fake::new());
    let server = serve(&path, fake.clone()).unwrap();
    let client = Client::new(&path).unwrap();
    Some(Room { directory, fake, server, client })
}

/// What the server says to raw bytes.
fn raw(room: &Room, request: &str) -> String {
    let mut stream = UnixStream::connect(room.server.path()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn start_request(spec: &str) -> StartRequest {
    StartRequest {
        spec: spec.into(),
        base_dir: PathBuf::from("/vms"),
        last_owner_is_dead: true,
        accept_older_disk: false,
    }
}

fn code(error: ClientError) -> (ErrorCode, String) {
    match error {
        ClientError::Api(error) => (error.code, error.message),
        other => panic!("no answer of the agent: {other}"),
    }
}

#[test]
fn every_route_reaches_the_engine_and_its_answer_comes_back() {
    let Some(room) = room() else { return };
    let (client, web) = (&room.client, vm_name("web"));
    let status = client.host_status().unwrap();
    assert_eq!((status.name, status.vms), (host_name("alpha"), vec![web.clone()]));
    assert_eq!(client.vms().unwrap()[0].memory_bytes, 512 << 20);
    assert_eq!(client.vm(&web).unwrap().accel, "tcg (no vmx or svm)");
    assert_eq!(client.start(&start_request("name = 'db'")).unwrap().name, vm_name("db"));
    let request = ProtectRequest {
        to: host_name("beta"),
        interval_us: 25_000,
        follow: None,
        max_in_flight: Some(3),
        max_slowdown: Some(50),
        copy_rate: Some(1 << 20),
        input_replay: false,
        repair: RepairRequest::default(),
    };
    client.protect(&web, &request).unwrap();
    assert_eq!(client.vm(&web).unwrap().peer, Some(host_name("beta")));
    assert_eq!(client.vm(&web).unwrap().copy.unwrap().remaining_bytes, 300 << 20);
    assert_eq!(client.vm(&web).unwrap().phase, "protected");
    client.failover(&web).unwrap();
    client.unprotect(&web).unwrap();
    assert_eq!(client.epochs(&web, 1_700_000_000_050_000).unwrap().len(), 2);
    assert_eq!(code(client.cancel_migration(&web).unwrap_err()).0, ErrorCode::Refused);
    client.migrate(&vm_name("db"), &MigrateRequest::usual(host_name("beta"))).unwrap();
    client.stop(&web).unwrap();
    client.drain(true).unwrap();
    client.drain(false).unwrap();
    let expected = [
        "start in /vms dead=true",
        "protect to=beta us=25000 max=Some(3)",
        "failover",
        "unprotect",
        "epochs",
        "cancel_migration",
        "migrate to=beta ceiling=None",
        "stop",
        "drain true",
        "drain false",
    ];
    assert_eq!(room.fake.calls(), expected);
}

#[test]
fn errors_keep_their_code_and_message_and_get_their_http_status() {
    let Some(room) = room() else { return };
    let (code_of, message) = code(room.client.vm(&vm_name("ghost")).unwrap_err());
    assert_eq!((code_of, message.as_str()), (ErrorCode::NotFound, "host alpha has no VM ghost"));
    assert_eq!(code(room.client.failover(&vm_name("web")).unwrap_err()).0, ErrorCode::Refused);
    assert_eq!(code(room.client.start(&start_request("bad")).unwrap_err()).0, ErrorCode::Invalid);
    assert_eq!(code(room.client.start(&start_request("boom")).unwrap_err()).0, ErrorCode::Failed);
    let get =
        |path: &str| raw(&room, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    for (path, status) in [
        ("/v1/vms/ghost", "404"),
        ("/v1/nonsense", "404"),
        ("/v1/vms/web/stop", "405"),
        ("/v1/vms/..", "400"),
        ("/v1/vms/web/epochs?since_at_us=soon", "400"),
        ("/v1/events?aftre=1", "400"),
    ] {
        let answer = get(path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.contains("\"message\":"), "{path}: {answer}");
    }
}

#[test]
fn a_body_that_is_no_request_is_refused_with_what_is_wrong() {
    let Some(room) = room() else { return };
    let body = r#"{"to": "../beta", "interval_us": 1}"#;
    let length = body.len();
    let head =
        "POST /v1/vms/web/protect HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    let answer = raw(&room, &format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}"));
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("../beta"), "{answer}");
    assert!(room.fake.calls().is_empty());
}

#[test]
fn a_defect_in_the_engine_is_an_error_and_the_agent_goes_on() {
    let Some(room) = room() else { return };
    let (code, message) = code(room.client.start(&start_request("panic")).unwrap_err());
    assert!(code == ErrorCode::Failed && message.contains("defect"), "{message}");
    assert_eq!(room.client.vms().unwrap().len(), 1);
}

#[test]
fn events_are_listed_from_a_number_and_followed_as_they_happen() {
    let Some(room) = room() else { return };
    room.fake.happen("web", "one");
    room.fake.happen("web", "two");
    assert_eq!(room.client.events(1).unwrap()[0].text, "two");
    let mut follow = room.client.follow(1).unwrap();
    assert_eq!(follow.next().unwrap().unwrap().seq, 2);
    // The third happens only after the second was read: it cannot have come in one answer.
    room.fake.happen("web", "three");
    assert_eq!(follow.next().unwrap().unwrap().text, "three");
    room.server.stop();
    assert!(follow.next().is_none(), "the stream ends with the agent");
    assert!(follow.next().is_none(), "and stays ended");
}

#[test]
fn followers_are_bounded_and_do_not_starve_calls() {
    let Some(room) = room() else { return };
    let client = || Client::new(room.server.path()).unwrap();
    let clients: Vec<Client> = (0..32).map(|_| client()).collect();
    let followers: Vec<_> = clients.iter().map(|client| client.follow(0).unwrap()).collect();
    assert_eq!(code(room.client.follow(0).unwrap_err()).0, ErrorCode::Refused);
    assert_eq!(room.client.vms().unwrap().len(), 1);
    room.fake.happen("web", "one");
    for mut follower in followers {
        assert_eq!(follower.next().unwrap().unwrap().text, "one");
    }
}

#[test]
fn a_missing_agent_and_a_dead_one_say_what_to_do() {
    let Some(room) = room() else { return };
    let nobody = Client::new(&room.directory.path().join("other.sock")).unwrap();
    let error = nobody.vms().unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }));
    assert!(error.to_string().contains("other.sock") && error.to_string().contains("undying host --config"));
    let dead = room.directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    assert!(matches!(Client::new(&dead).unwrap().vms().unwrap_err(), ClientError::NoAgent { .. }));
}

#[test]
fn a_socket_of_something_else_is_told_apart() {
    let Some(room) = room() else { return };
    for (says, expected) in
        [("", "went away"), ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "no sense")]
    {
        let path = room.directory.path().join(format!("foreign-{}.sock", says.len()));
        let listener = UnixListener::bind(&path).unwrap();
        let answer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(says.as_bytes()).unwrap();
        });
        let error = Client::new(&path).unwrap().host_status().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        answer.join().unwrap();
    }
}

#[test]
fn a_second_agent_is_refused_and_the_socket_goes_with_the_first() {
    let Some(room) = room() else { return };
    let path = room.server.path().to_path_buf();
    let error = serve(&path, Arc::new(Fake::new())).unwrap_err();
    assert!(matches!(error, ServeError::AgentRuns { .. }), "{error}");
    assert_eq!(room.client.vms().unwrap().len(), 1, "the first one still answers");
    room.server.stop();
    assert!(!path.exists());
    let again = serve(&path, Arc::new(Fake::new())).unwrap();
    assert_eq!(room.client.vms().unwrap().len(), 1);
    again.stop();
}

#[test]
fn another_user_is_refused_even_where_the_file_lets_it_in() {
    let Some(room) = room() else { return };
    for path in [room.directory.path(), room.server.path().parent().unwrap(), room.server.path()] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
                  print $s \"GET /v1/vms HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n\"; print <$s>;";
    let nobody =
        Command::new("perl").args(["-e", script]).arg(room.server.path()).uid(65534).gid(65534).output();
    let Ok(output) = nobody else {
        eprintln!("SKIPPED: no perl to ask as another user");
        return;
    };
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("user 65534"), "{output:?}");
}

#[test]
fn a_protection_that_was_accepted_may_still_fail_and_the_events_say_why() {
    let Some(room) = room() else { return };
    room.fake.let_protection_fail();
    let request = ProtectRequest::even(host_name("beta"), 25_000);
    room.client.protect(&vm_name("web"), &request).unwrap();
    let mut polls = std::iter::repeat_with(|| room.client.vm(&vm_name("web")).unwrap());
    let after = polls.find(|vm| vm.phase != "copying").unwrap();
    assert_eq!(after.phase, "unprotected");
    assert_eq!(room.client.events(0).unwrap()[0].what["event"], "protect_failed");
}

#[test]
fn metrics_name_host_and_vm_and_follow_the_status() {
    let Some(room) = room() else { return };
    let text = room.client.metrics().unwrap();
    assert!(text.contains("undying_arbiter_up{host=\"alpha\"} 0\n"), "{text}");
    assert!(text.contains("undying_vm_protected{host=\"alpha\",vm=\"web\"} 0\n"), "{text}");
    assert!(text.contains("# TYPE undying_vm_wire_bytes_total counter\n"), "{text}");
    assert!(text.contains("undying_vm_term{host=\"alpha\",vm=\"web\"} 7\n"), "{text}");
}
