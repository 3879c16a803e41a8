//! The guests, run in plain QEMUs: they boot on the machine types we offer, and do what they are for.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::client::{Pinger, WriterConfig, Writers, redis_benchmark, verify};
use lab::guest::cache::Cache;
use lab::guest::console;
use lab::guest::counter::{self, Line};
use lab::guest::pulse::{PULSE_PORT, PulseClient};
use lab::guest::redis::{REDIS_PORT, RedisGuest};
use lab::plain::{Machine, PlainGuest};
use lab::topology::GuestAddress;

const PATIENCE: Duration = Duration::from_secs(120);

struct Booted {
    lab: Lab,
    v4: SocketAddr,
    v6: SocketAddr,
    pulse: SocketAddr,
    console: std::path::PathBuf,
}

/// Boots the Redis guest on alpha, and waits until it says READY.
fn boot(tag: &str, machine: Machine, cpus: u32, pulse: Option<&str>) -> Option<Booted> {
    if !common::root_and_programs() {
        return None;
    }
    let image = RedisGuest::build(&Cache::open().expect("a cache")).expect("the Redis guest");
    let lab = Lab::new(tag).expect("a lab");
    let address = GuestAddress::of(0);
    let append = image.append(machine, address, pulse);
    let guest = PlainGuest {
        name: "redis",
        machine,
        cpus,
        memory_mib: 256,
        kernel: &image.kernel,
        initrd: &image.initrd,
        append: &append,
        disk: None,
    };
    let started = Instant::now();
    guest.start(&lab, "alpha").expect("QEMU starts");
    let console = guest.console(&lab, "alpha");
    console::wait_for(&console, "READY", 1, PATIENCE).expect("the guest boots");
    println!("{} with {cpus} CPUs: ready after {:?}", machine.name(), started.elapsed());
    Some(Booted {
        v4: (IpAddr::V4(address.v4), REDIS_PORT).into(),
        v6: (IpAddr::V6(address.v6), REDIS_PORT).into(),
        pulse: (IpAddr::V4(address.v4), PULSE_PORT).into(),
        lab,
        console,
    })
}

/// Waits until the writers have this many acknowledgements.
fn await_writes(writers: &Writers, count: u64) {
    let started = Instant::now();
    while writers.progress().acknowledged < count {
        assert!(started.elapsed() < PATIENCE, "the writers do not get on: {:?}", writers.progress());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn redis_on_q35_keeps_what_it_acknowledges_and_the_verifier_sees_a_planted_hole() {
    let Some(guest) = boot("wr", Machine::Q35, 1, None) else { return };
    let writers = Writers::start(guest.lab.client(), &WriterConfig::new(guest.v4)).expect("writers");
    let config6 = WriterConfig { prefix: "log6".into(), connections: 2, ..WriterConfig::new(guest.v6) };
    let writers6 = Writers::start(guest.lab.client(), &config6).expect("writers over IPv6");
    await_writes(&writers, 2_000);
    await_writes(&writers6, 200);
    let mut report = writers.stop().expect("a report");
    let report6 = writers6.stop().expect("a report");
    assert_eq!((report.broken(), report6.broken()), (0, 0));
    report.writers.extend(report6.writers);
    let acknowledged = report.acknowledged();
    let whole = verify(guest.lab.client(), guest.v4, &report.writers).expect("lists");
    assert!(whole.holds() && whole.entries == acknowledged && whole.lists == 10, "{whole:?}");

    // Plant a hole: an acknowledged entry goes.
    let mut remove = Command::new("redis-cli");
    remove.args(["-h", &guest.v4.ip().to_string(), "LREM", "log:3", "1", "17"]);
    guest.lab.client().output(&mut remove).expect("redis-cli");
    let holed = verify(guest.lab.client(), guest.v4, &report.writers).expect("lists");
    assert_eq!((holed.lost_acknowledged, holed.holes, holed.holds()), (1, 1, false), "{holed:?}");

    let pings = Pinger::measure(guest.lab.client(), guest.v6, 100).expect("answers");
    assert_eq!(pings.latency_ms().expect("samples").count, 100);
    let rows = redis_benchmark(guest.lab.client(), guest.v4, 1_000, 4, 4).expect("a table");
    assert_eq!(rows.iter().map(|row| row.test.as_str()).collect::<Vec<_>>(), ["SET", "GET"]);
}

#[test]
fn redis_on_microvm_with_two_cpus_serves_both_families() {
    let Some(guest) = boot("mv", Machine::Microvm, 2, None) else { return };
    for target in [guest.v4, guest.v6] {
        let pings = Pinger::measure(guest.lab.client(), target, 50).expect("answers");
        assert_eq!(pings.samples.len(), 50);
    }
}

#[test]
fn the_outage_that_a_cut_cable_makes_is_seen_by_the_writers() {
    let Some(guest) = boot("cut", Machine::Q35, 1, None) else { return };
    let writers = Writers::start(guest.lab.client(), &WriterConfig::new(guest.v4)).expect("writers");
    await_writes(&writers, 500);
    let cut_us = os::clock::now_us();
    guest.lab.cut_link(lab::topology::Link::Uplink("alpha")).expect("cut");
    let down_us = os::clock::now_us();
    thread::sleep(Duration::from_millis(400));
    let before_heal_us = os::clock::now_us();
    guest.lab.heal_link(lab::topology::Link::Uplink("alpha")).expect("healed");
    let at_heal = writers.progress().acknowledged;
    await_writes(&writers, at_heal + 500);
    let report = writers.stop().expect("a report");
    assert_eq!(report.broken(), 0);
    let silence = report.silence(cut_us, before_heal_us).expect("a gap");
    assert!(silence.duration_us >= before_heal_us - down_us, "{silence:?} is shorter than the cut");
    let outage = report.outage(cut_us, before_heal_us).expect("a gap");
    assert!(outage.duration_us >= silence.duration_us);
    let seen: u64 = report.buckets(100_000).iter().map(|bucket| bucket.operations).sum();
    assert_eq!(seen, report.acknowledged());
}

#[test]
fn the_pulse_program_follows_orders_and_reboots_the_guest() {
    let Some(guest) = boot("pu", Machine::Q35, 1, Some("100:10/tick:seq")) else { return };
    let client = guest.lab.client();
    let target = guest.pulse;
    client
        .run(|| {
            let mut pulse = PulseClient::connect(target).expect("the pulse program listens");
            let await_dirtied = |pulse: &mut PulseClient, pages| {
                let started = Instant::now();
                while pulse.stats().expect("statistics").dirtied < pages {
                    assert!(started.elapsed() < PATIENCE, "no {pages} pages are dirtied");
                    thread::sleep(Duration::from_millis(10));
                }
            };
            await_dirtied(&mut pulse, 100);
            pulse.dirty(2_000, "full", "random+page").expect("an order");
            await_dirtied(&mut pulse, 10_000);
            pulse.stop().expect("an order");
            pulse.dirty(10, "often", "seq").expect_err("a bad rate is refused");
            pulse.count(true).expect("an order");
            while pulse.stats().expect("statistics").iterations == 0 {
                thread::sleep(Duration::from_millis(10));
            }
            pulse.count(false).expect("an order");
            pulse.reboot().expect("the order is sent");
        })
        .expect("in the client's namespace");
    console::wait_for(&guest.console, "READY", 2, PATIENCE).expect("the guest boots again");
    let again = client.run(|| PulseClient::connect(target).expect("the pulse program listens").power_off());
    again.expect("in the client's namespace").expect("the order is sent");
    assert!(guest.lab.wait("alpha", "redis").expect("QEMU ends").success());
}

/// Reads lines of the counter guest until it has said `wanted` numbers, and checks that they are 1, 2, 3...
fn count_to(wanted: u32, delay: u32, arguments: &[&str]) {
    let firmware = counter::firmware(&Cache::open().expect("a cache"), delay).expect("the counter guest");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-vga", "none", "-display", "none", "-m", "16M", "-serial", "stdio", "-bios"])
        .arg(firmware)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("QEMU starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(qemu.stdout.take().expect("its output")));
    let watchdog_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut expected = 0;
        scope.spawn(|| {
            let started = Instant::now();
            while !watchdog_done.load(Ordering::Relaxed) && started.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(20));
            }
            qemu.kill().expect("QEMU is ours");
        });
        for line in lines.map_while(Result::ok) {
            match counter::parse_line(&line) {
                Some(Line::Start) => assert_eq!(expected, 0, "the guest began again"),
                Some(Line::Number(number)) => {
                    expected += 1;
                    assert_eq!(number, expected);
                }
                Some(Line::Bad(number)) => panic!("memory was lost at {number}"),
                None => panic!("not a line of the counter: {line:?}"),
            }
            if expected >= wanted {
                break;
            }
        }
        watchdog_done.store(true, Ordering::Relaxed);
        assert!(expected >= wanted, "the guest counted to {expected} only");
    });
    qemu.wait().expect("QEMU was killed");
}

#[test]
fn the_counter_counts_under_tcg() {
    if common::root_and_programs() {
        count_to(100, counter::DELAY_TCG, &["-accel", "tcg", "-M", "q35"]);
    }
}

#[test]
fn the_counter_counts_under_kvm() {
    if common::root_and_programs() && common::kvm() {
        count_to(100, counter::DELAY_SOFTWARE_KVM, &["-accel", "kvm", "-cpu", "qemu64", "-M", "q35"]);
    }
}
