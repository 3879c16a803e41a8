//! The measuring clients against servers that misbehave: nothing wrong may pass for a good reply.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::client::{Askers, Pinger, Standing, WriterConfig, Writers, WritersReport, spot_check};

/// What a server does with its connection of this number.
type Serve = fn(usize, TcpStream);

/// A server in the client's own namespace that gives each connection to `serve`.
fn server(lab: &Lab, serve: Serve) -> SocketAddr {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let listener = lab.client().run(bind).expect("in the namespace");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for (index, stream) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || serve(index, stream));
        }
    });
    (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()
}

/// Answers the `n`th command of a connection with `reply(n)`; an empty reply closes the connection.
fn answer(stream: TcpStream, reply: impl Fn(usize) -> String) {
    let mut writer = stream.try_clone().expect("a socket");
    let commands = BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with('*'));
    for (index, _) in commands.enumerate() {
        let reply = reply(index + 1);
        if reply.is_empty() || writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

/// Runs two writers until `broken` of them are broken and the others have gone on.
fn run_until_broken(lab: &Lab, target: SocketAddr, broken: u64) -> WritersReport {
    let config = WriterConfig { connections: 2, ..WriterConfig::new(target) };
    let writers = Writers::start(lab.client(), &config).expect("writers");
    let started = Instant::now();
    while writers.progress().broken < broken || writers.progress().acknowledged < 20 {
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", writers.progress());
        thread::yield_now();
    }
    writers.stop().expect("a report")
}

#[test]
fn a_lost_a_doubled_and_a_refused_write_break_the_connection_at_once() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("bad").expect("a lab");
    let cases: [(Serve, &str); 4] = [
        (
            |index, stream| answer(stream, |n| format!(":{}\r\n", if index == 0 && n == 10 { 9 } else { n })),
            "10 was due",
        ),
        (
            |index, stream| {
                answer(stream, |n| format!(":{}\r\n", if index == 0 && n >= 10 { n + 1 } else { n }))
            },
            "10 was due",
        ),
        (
            |index, stream| {
                answer(
                    stream,
                    |n| if index == 0 && n == 10 { "-ERR no\r\n".into() } else { format!(":{n}\r\n") },
                )
            },
            "ERR no",
        ),
        (
            |index, stream| {
                answer(stream, |n| if index == 0 && n == 10 { String::new() } else { format!(":{n}\r\n") })
            },
            "",
        ),
    ];
    for (serve, says) in cases {
        let report = run_until_broken(&lab, server(&lab, serve), 1);
        let [first, second] = report.writers.as_slice() else { panic!("two writers") };
        assert_eq!(first.acknowledged, 9, "{:?}", first.broken);
        let why = first.broken.as_deref().expect("it is broken");
        assert!(why.contains(says), "{why}");
        assert_eq!(second.broken, None);
        assert_eq!(second.acknowledged, second.sent, "outstanding replies are awaited");
        assert_eq!(report.broken(), 1);
    }
}

#[test]
fn a_server_that_falls_silent_breaks_the_connection_after_the_patience() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("mute").expect("a lab");
    let target = server(&lab, |_, stream| {
        answer(stream, |n| {
            if n == 10 {
                thread::park();
            }
            format!(":{n}\r\n")
        });
    });
    let patience = Duration::from_millis(300);
    let config = WriterConfig { connections: 1, patience, ..WriterConfig::new(target) };
    let writers = Writers::start(lab.client(), &config).expect("writers");
    while writers.progress().broken == 0 {
        thread::yield_now();
    }
    let report = writers.stop().expect("a report");
    assert_eq!(report.writers[0].acknowledged, 9);
    assert!(report.writers[0].broken.as_deref().is_some_and(|why| why.contains("no reply")));
}

#[test]
fn the_pinger_takes_no_wrong_answer() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("ping").expect("a lab");
    let target = server(&lab, |_, stream| answer(stream, |_| "+OK\r\n".into()));
    Pinger::measure(lab.client(), target, 1).expect("a SET is answered with OK");
    let error = Pinger::measure(lab.client(), target, 2).expect_err("a GET is not");
    assert!(error.to_string().contains("ask"), "{error}");
}

#[test]
fn the_spot_check_sees_what_is_missing_or_shifted() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("spot").expect("a lab");
    let standing = Standing { key: "log:0".into(), acknowledged: 3, last_reply_us: 0 };
    let cases: [(Serve, u64); 3] = [
        (|_, stream| answer(stream, |_| "*2\r\n$1\r\n2\r\n$1\r\n3\r\n".into()), 0),
        (|_, stream| answer(stream, |_| "*2\r\n$1\r\n2\r\n$1\r\n4\r\n".into()), 1),
        (|_, stream| answer(stream, |_| "*1\r\n$1\r\n3\r\n".into()), 2),
    ];
    for (serve, wrong) in cases {
        let target = server(&lab, serve);
        let found = spot_check(lab.client(), target, std::slice::from_ref(&standing), 2).expect("lists");
        assert_eq!(found, wrong);
    }
}

/// Gives datagrams back; of one client swallows the third, which it answers behind the seventh, and answers the fifth twice.
fn careless_echo(lab: &Lab) -> SocketAddr {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let socket = lab.client().run(bind).expect("in the namespace");
    let target = socket.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut room, mut third) = ([0; 64], Vec::new());
        for number in 1.. {
            let (length, client) = socket.recv_from(&mut room).expect("a datagram");
            let answers = match number {
                3 => {
                    third = room[..length].to_vec();
                    vec![]
                }
                5 => vec![room[..length].to_vec(); 2],
                7 => vec![room[..length].to_vec(), third.clone()],
                _ => vec![room[..length].to_vec()],
            };
            for answer in answers {
                socket.send_to(&answer, client).expect("sent");
            }
        }
    });
    target
}

#[test]
fn a_udp_client_asks_once_and_knows_a_lost_a_doubled_and_a_late_answer() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("udp").expect("a lab");
    let target = careless_echo(&lab);
    let askers = Askers::start(lab.client(), target, 1, Duration::from_secs(2)).expect("a client");
    let (mut asked, started) = (Vec::new(), Instant::now());
    while asked.len() < 10 {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not go on: {asked:?}");
        asked.extend(askers.take());
        thread::yield_now();
    }
    let lost: Vec<usize> = (0..asked.len()).filter(|&at| asked[at].answered_us.is_none()).collect();
    assert_eq!(lost, [2], "the third is lost and none is sent again");
    assert_eq!(askers.repeated(), 1, "a late answer is no second one");
    assert!(askers.all_answered_since(asked[9].sent_us) && !askers.all_answered_since(os::clock::now_us()));
    askers.stop().expect("it ends");
}
