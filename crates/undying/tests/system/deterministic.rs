//! The deterministic machine with a stock Debian kernel: user space, Redis over a TAP, an ext4 disk, reboot, power-off;
//! recorded, and done again bit for bit.

use crate::kit::binary;
use lab::client::resp::{Connection, Reply};
use lab::guest::cache::Cache;
use lab::guest::redis::REDIS_PORT;
use lab::guest::riscv::{RiscvGuest, make_disk};
use lab::topology::{GuestAddress, Lab};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEYS: usize = 200;
/// A boot takes billions of instructions, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(200);

/// A machine on a host of the lab.
struct Machine {
    child: Child,
    console: PathBuf,
    log: PathBuf,
    summary: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Has ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    fn start(lab: &Lab, guest: &RiscvGuest, disk: &Path) -> Machine {
        let place = |name: &str| lab.directory().join(name);
        let [console, log, summary] = ["console", "session.log", "summary"].map(place);
        lab.add_tap("alpha", "tap0").expect("a TAP device");
        let mut command = Command::new(binary());
        command.args(["rv", "run", "--output", "json", "--tap", "tap0"]);
        command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
        command.arg("--disk").arg(disk).arg("--record").arg(&log);
        command.arg("--append").arg(guest.append(Some(GuestAddress::of(0)), true));
        command.stdin(Stdio::piped());
        command.stdout(File::create(&summary).expect("a file"));
        command.stderr(File::create(&console).expect("a file"));
        let child = lab.host("alpha").expect("alpha").start(&mut command).expect("it starts");
        Machine { child, console, log, summary }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the guest has said something so many times.
    fn await_text(&mut self, text: &str, times: usize) {
        let until = Instant::now() + PATIENCE;
        while self.said().matches(text).count() < times {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none() && Instant::now() < until, "no {text:?} {ended:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn type_line(&mut self, line: &str) {
        let keyboard = self.child.stdin.as_mut().expect("a pipe");
        keyboard.write_all(format!("{line}\n").as_bytes()).expect("typed");
    }

    /// Waits for its end and gives what it told.
    fn end(&mut self) -> serde_json::Value {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                break status;
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{status}:\n{}", self.said());
        serde_json::from_slice(&std::fs::read(&self.summary).expect("a summary")).expect("JSON")
    }
}

fn redis(lab: &Lab, work: impl FnOnce(&mut Connection) + Send) {
    let target = SocketAddr::new(IpAddr::V4(GuestAddress::of(0).v4), REDIS_PORT);
    lab.client()
        .run(|| work(&mut Connection::open(target, Duration::from_secs(60)).expect("Redis answers")))
        .expect("the client's namespace");
}

/// Writes and reads through Redis, over two boots, and gives what the machine told at its end.
fn use_it(lab: &Lab, machine: &mut Machine) -> serde_json::Value {
    machine.await_text("READY", 1);
    redis(lab, |connection| {
        for key in 0..KEYS {
            let reply = connection.ask(&["SET", &format!("key{key}"), &format!("value{key}")]);
            assert_eq!(reply.expect("a reply"), Reply::Simple("OK".into()));
        }
    });
    machine.type_line("reboot");
    machine.await_text("READY", 2);
    redis(lab, |connection| {
        for key in 0..KEYS {
            let reply = connection.ask(&["GET", &format!("key{key}")]).expect("a reply");
            assert_eq!(reply, Reply::Bulk(Some(format!("value{key}").into_bytes())));
        }
    });
    machine.type_line("off");
    machine.end()
}

#[test]
fn a_stock_kernel_serves_redis_from_its_disk_and_all_of_it_is_done_again() {
    let guest = RiscvGuest::build(&Cache::open().expect("cache")).expect("the guest");
    let lab = Lab::with_hosts("rv", &["alpha"]).expect("a lab");
    let [disk, copy] = ["disk", "copy"].map(|name| lab.directory().join(name));
    make_disk(&disk, 64).expect("a disk");
    std::fs::copy(&disk, &copy).expect("a copy");
    let mut machine = Machine::start(&lab, &guest, &disk);
    let told = use_it(&lab, &mut machine);
    assert_eq!((&told["end"], &told["reboots"]), (&"power_off".into(), &1.into()));
    let said = machine.said();
    for text in ["UNDYING: 1 boots", "UNDYING: 2 boots"] {
        assert!(said.contains(text), "{said}");
    }
    assert!(!said.contains("UNDYING: it is 1970"), "the guest knows the time:\n{said}");
    lab::guest::ext4::check(&disk).expect("a whole file system");

    // Somewhere else: no TAP, no disk but a copy of what it was.
    let mut replay = Command::new(binary());
    replay.args(["rv", "replay", "--output", "json"]).arg(&machine.log).arg("--disk").arg(&copy);
    let replayed = replay.output().expect("it runs");
    let again = String::from_utf8_lossy(&replayed.stderr);
    assert!(replayed.status.success(), "{again}");
    let summary: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("JSON");
    assert_eq!(summary["reached"], "end");
    for what in ["instructions", "reboots", "state", "outputs"] {
        assert_eq!(summary[what], told[what], "{what}");
    }
    assert!(summary["compared"].as_u64() > Some(10), "{summary}");
    assert!(again == said, "the console is the same:\n{again}");
    assert!(
        std::fs::read(&disk).expect("a disk") == std::fs::read(&copy).expect("a disk"),
        "the disks are the same"
    );
}
