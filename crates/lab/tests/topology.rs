//! The lab: machines reach each other until a cable is cut, and nothing is left of it afterwards.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::Lab;
use lab::topology::{AGENT, Link};

/// A connection from one machine to another's port can be made; after a cut, ARP may take a second to find out.
fn reaches(from: &lab::topology::Namespace, to: SocketAddr) -> bool {
    connects(from, to, Duration::from_secs(20))
}

/// A connection cannot be made within a time that is ample where cables carry.
fn does_not_reach(from: &lab::topology::Namespace, to: SocketAddr) -> bool {
    !connects(from, to, Duration::from_millis(300))
}

fn connects(from: &lab::topology::Namespace, to: SocketAddr, patience: Duration) -> bool {
    from.run(|| TcpStream::connect_timeout(&to, patience).is_ok()).expect("in the namespace")
}

fn ours() -> Vec<String> {
    let mine = format!("ud-lab-{}-", std::process::id());
    let entries = std::fs::read_dir("/run/netns").expect("namespaces").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&mine)).collect()
}

#[test]
fn links_carry_until_they_are_cut_and_again_when_healed() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("ln").expect("a lab");
    lab.add_host("gamma").expect("a third host");
    let beta = lab.host("beta").expect("beta");
    let listen =
        |address: IpAddr| beta.run(|| TcpListener::bind((address, 0)).expect("a listener")).expect("beta");
    let on_replication = listen(lab.replication_address("beta").expect("an address").into());
    let on_lan = listen(lab.lan_address("beta").expect("an address").into());
    let replication = on_replication.local_addr().expect("bound");
    let lan = on_lan.local_addr().expect("bound");
    let (alpha, gamma) = (lab.host("alpha").expect("alpha"), lab.host("gamma").expect("gamma"));
    assert!(reaches(&alpha, replication) && reaches(&gamma, replication));
    assert!(reaches(lab.client(), lan));
    assert!(does_not_reach(lab.client(), replication), "the client is not on the replication network");

    lab.cut_link(Link::Replication("beta")).expect("cut");
    assert!(does_not_reach(&alpha, replication) && reaches(lab.client(), lan));
    lab.heal_link(Link::Replication("beta")).expect("healed");
    assert!(reaches(&alpha, replication));
    lab.kill_host("beta").expect("dead");
    assert!(does_not_reach(&alpha, replication) && does_not_reach(lab.client(), lan));
    lab.revive_host("beta").expect("alive");
    assert!(reaches(&alpha, replication) && reaches(lab.client(), lan));
    lab.cut_link(Link::Uplink("delta")).expect_err("there is no such host");
}

#[test]
fn a_lab_has_any_hosts_and_several_die_at_once() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::with_hosts("any", &["gamma", "one", "two", "three"]).expect("a lab");
    lab.host("alpha").expect_err("no host that was not named");
    let gamma = lab.host("gamma").expect("gamma");
    let listen = |name: &str| {
        let address = lab.replication_address(name).expect("an address");
        let host = lab.host(name).expect("a host");
        host.run(|| TcpListener::bind((address, 0)).expect("a listener")).expect("the host")
    };
    let listeners: Vec<_> = ["one", "two", "three"].map(listen).into();
    let address = |at: usize| listeners[at].local_addr().expect("bound");
    assert!((0..3).all(|at| reaches(&gamma, address(at))));
    lab.kill_hosts(&["one", "three"]).expect("dead");
    assert!(does_not_reach(&gamma, address(0)) && does_not_reach(&gamma, address(2)));
    assert!(reaches(&gamma, address(1)));
}

#[test]
fn processes_are_logged_frozen_and_killed_with_what_they_started() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("pr").expect("a lab");
    let script = "sleep 1000 & echo $!; wait";
    let pid = lab.start("alpha", AGENT, Command::new("sh").args(["-c", script])).expect("started");
    let log = lab.log("alpha", AGENT);
    let child =
        lab::guest::console::wait_for(&log, "\n", 1, Duration::from_secs(10)).expect("the child's number");
    let child = format!("/proc/{}", child.trim());
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it exists");
        stat.rsplit(')').next().expect("a state").trim().chars().next()
    };
    lab.freeze("alpha").expect("frozen");
    assert_eq!(state(), Some('T'));
    lab.thaw("alpha").expect("thawed");
    assert_ne!(state(), Some('T'));
    lab.kill("alpha", AGENT).expect("killed");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    lab.process("alpha", AGENT).expect_err("it is gone");
    await_gone(&child);
}

/// A killed process is gone once whoever adopted it has collected it.
fn await_gone(path: &str) {
    let started = std::time::Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("{path}/stat")).unwrap_or_default();
        match stat.rsplit(')').next().unwrap_or_default().trim().chars().next() {
            None | Some('Z') => return,
            _ => assert!(started.elapsed() < Duration::from_secs(10), "{path} lives on"),
        }
    }
}

#[test]
fn nothing_is_left_of_a_dropped_lab() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("dr").expect("a lab");
    let mine: Vec<String> = ours().into_iter().filter(|name| name.contains("-dr-")).collect();
    assert_eq!(mine.len(), 4, "{mine:?}");
    let directory = lab.directory().to_owned();
    let pid = lab.start("beta", "daemon", Command::new("sleep").arg("1000")).expect("started");
    // One that nobody keeps track of: its parent ends at once.
    let script = "sleep 1000 > /dev/null 2>&1 & echo $!";
    let orphan =
        lab.host("beta").expect("beta").output(Command::new("sh").args(["-c", script])).expect("run");
    drop(lab);
    assert!(!ours().iter().any(|name| name.contains("-dr-")));
    assert!(!directory.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    await_gone(&format!("/proc/{}", orphan.trim()));
}

#[test]
fn what_a_dead_process_left_is_removed_by_the_next_lab() {
    if !common::root_and_programs() {
        return;
    }
    // A process that has ended: its number is not in use right now.
    let mut child = Command::new("true").spawn().expect("true");
    child.wait().expect("it ends");
    let name = format!("ud-lab-{}-0-old-alpha", child.id());
    lab::command::run(Command::new("ip").args(["netns", "add", &name])).expect("a namespace");
    let _lab = Lab::new("st").expect("a lab");
    assert!(!Path::new("/run/netns").join(&name).exists());
}

#[test]
fn threads_in_the_client_namespace_talk_to_a_host_over_ipv6() {
    if !common::root_and_programs() {
        return;
    }
    let lab = Lab::new("v6").expect("a lab");
    let target: SocketAddr = "[fd78::1]:4000".parse().expect("an address");
    let listener = lab.host("alpha").expect("alpha").run(|| TcpListener::bind(target)).expect("alpha");
    let listener = listener.expect("a listener");
    let client = lab.client().spawn(move || -> std::io::Result<()> {
        TcpStream::connect_timeout(&target, Duration::from_secs(5))?.write_all(b"hello")
    });
    let mut text = String::new();
    listener.accept().expect("a client").0.read_to_string(&mut text).expect("text");
    assert_eq!(text, "hello");
    client.join().expect("no panic").expect("the namespace").expect("sent");
}
