//! The deterministic machine with a stock Debian kernel: user space, Redis over a TAP, an ext4 disk, reboot, power-off;
//! recorded, and done again bit for bit.

use crate::kit::binary;
use lab::client::resp::{Connection, Reply};
use lab::guest::cache::Cache;
use lab::guest::redis::REDIS_PORT;
use lab::guest::riscv::{RiscvGuest, make_disk};
use lab::topology::{GuestAddress, Lab};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEYS: usize = 200;
/// A boot takes billions of instructions, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(200);

/// A guest, a lab with a host for it, its disk and a copy of that.
fn place(tag: &str) -> (RiscvGuest, Lab, [PathBuf; 2]) {
    let guest = RiscvGuest::build(&Cache::open().expect("cache")).expect("the guest");
    let lab = Lab::with_hosts(tag, &["alpha"]).expect("a lab");
    let [disk, copy] = ["disk", "copy"].map(|name| lab.directory().join(name));
    make_disk(&disk, 64).expect("a disk");
    std::fs::copy(&disk, &copy).expect("a copy");
    (guest, lab, [disk, copy])
}

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
    /// With `more` on its kernel's command line.
    fn boots(lab: &Lab, guest: &RiscvGuest, more: &str) -> Command {
        lab.add_tap("alpha", "tap0").expect("a TAP device");
        let mut command = Command::new(binary());
        command.args(["rv", "run", "--kernel"]).arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
        let append = guest.append(Some(GuestAddress::of(0)), true);
        command.args(["--append", &format!("{append} {more}")]);
        command
    }

    fn start(lab: &Lab, guest: &RiscvGuest, disk: &Path) -> Machine {
        let mut command = Machine::boots(lab, guest, "");
        command.arg("--snapshots").arg(lab.directory().join("snapshots"));
        command.args(["--snapshot-every", "500ms", "--keep-snapshots", "2"]);
        Machine::launch(lab, command, disk, "session")
    }

    /// Goes on from a snapshot, under another name.
    fn go_on(lab: &Lab, snapshot: &Path, disk: &Path) -> Machine {
        let mut command = Command::new(binary());
        command.args(["rv", "run", "--from"]).arg(snapshot);
        Machine::launch(lab, command, disk, "second")
    }

    /// Goes on live where a recording ends, with a copy of the disk from before it.
    fn go_live(lab: &Lab, log: &Path, copy: &Path) -> Machine {
        let mut command = Command::new(binary());
        command.args(["rv", "replay", "--go-live"]).arg(log);
        Machine::spawn(lab, command, copy, "live")
    }

    fn launch(lab: &Lab, mut command: Command, disk: &Path, name: &str) -> Machine {
        command.arg("--record").arg(lab.directory().join(format!("{name}.log")));
        Machine::spawn(lab, command, disk, name)
    }

    fn spawn(lab: &Lab, mut command: Command, disk: &Path, name: &str) -> Machine {
        let place = |what: &str| lab.directory().join(format!("{name}.{what}"));
        let [console, log, summary] = ["console", "log", "summary"].map(place);
        command.args(["--output", "json", "--tap", "tap0", "--disk"]).arg(disk);
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

fn set_all(connection: &mut Connection) {
    for key in 0..KEYS {
        let reply = connection.ask(&["SET", &format!("key{key}"), &format!("value{key}")]);
        assert_eq!(reply.expect("a reply"), Reply::Simple("OK".into()));
    }
}

fn get_all(connection: &mut Connection) {
    for key in 0..KEYS {
        let reply = connection.ask(&["GET", &format!("key{key}")]).expect("a reply");
        assert_eq!(reply, Reply::Bulk(Some(format!("value{key}").into_bytes())));
    }
}

/// Writes and reads through Redis, over two boots, and gives what the machine told at its end.
fn use_it(lab: &Lab, machine: &mut Machine) -> serde_json::Value {
    machine.await_text("READY", 1);
    redis(lab, set_all);
    machine.type_line("reboot");
    machine.await_text("READY", 2);
    redis(lab, get_all);
    machine.type_line("off");
    machine.end()
}

#[test]
fn a_stock_kernel_serves_redis_from_its_disk_and_all_of_it_is_done_again() {
    let (guest, lab, [disk, copy]) = place("rv");
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
    let (summary, again) = replay(&machine.log, &["--disk".as_ref(), copy.as_os_str()]);
    same_end(&summary, &told);
    assert!(summary["compared"].as_u64() > Some(10), "{summary}");
    assert!(again == said, "the console is the same:\n{again}");
    assert!(
        std::fs::read(&disk).expect("a disk") == std::fs::read(&copy).expect("a disk"),
        "the disks are the same"
    );
}

/// What is typed goes to the virtio console; the kernel talks on the serial port.
#[test]
fn a_shell_on_the_virtio_console_does_what_is_typed_and_does_it_again() {
    let (guest, lab, [disk, copy]) = place("rvhvc");
    let mut command = Machine::boots(&lab, &guest, "ud.redis=no ud.console=hvc0");
    command.args(["--console", "virtio"]);
    let mut machine = Machine::launch(&lab, command, &disk, "session");
    machine.await_text("UNDYING: the console is /dev/hvc0", 1);
    // The terminal echoes what is typed: only the shell makes 42 of it.
    machine.type_line("echo answer $((6 * 7)) on $(/bin/busybox readlink /proc/self/fd/2)");
    machine.await_text("answer 42 on /dev/hvc0", 1);
    machine.type_line("off");
    let told = machine.end();
    assert_eq!(told["end"], "power_off");
    let (summary, again) = replay(&machine.log, &["--disk".as_ref(), copy.as_os_str()]);
    same_end(&summary, &told);
    assert!(again == machine.said(), "the console is the same:\n{again}");
}

/// OpenSBI in machine mode, as QEMU brings it along, which closes its own memory to the kernel behind it.
#[test]
fn opensbi_boots_the_same_kernel_and_all_of_it_is_done_again() {
    let firmware = Path::new("/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin");
    if !firmware.exists() {
        eprintln!("SKIPPED: this test needs {}, of the Debian package qemu-system-data", firmware.display());
        return;
    }
    let (guest, lab, [disk, copy]) = place("rv");
    let mut command = Machine::boots(&lab, &guest, "");
    command.arg("--firmware").arg(firmware);
    let mut machine = Machine::launch(&lab, command, &disk, "session");
    let told = use_it(&lab, &mut machine);
    assert_eq!((&told["end"], &told["reboots"]), (&"power_off".into(), &1.into()));
    let said = machine.said();
    assert!(said.contains("OpenSBI v") && said.contains("PMP Granularity : 4096"), "{said}");
    let (summary, again) = replay(&machine.log, &["--disk".as_ref(), copy.as_os_str()]);
    same_end(&summary, &told);
    assert!(again == said, "the console is the same:\n{again}");
}

/// Replays a recording: what is told of it, and the console.
fn replay(log: &Path, arguments: &[&OsStr]) -> (serde_json::Value, String) {
    let mut replay = Command::new(binary());
    replay.args(["rv", "replay", "--output", "json"]).arg(log).args(arguments);
    let replayed = replay.output().expect("it runs");
    let console = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert!(replayed.status.success(), "{console}");
    let summary: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("JSON");
    assert_eq!(summary["reached"], "end");
    (summary, console)
}

fn same_end(summary: &serde_json::Value, told: &serde_json::Value) {
    for what in ["instructions", "reboots", "state", "outputs"] {
        assert_eq!(summary[what], told[what], "{what}");
    }
}

/// Which of a run's snapshots it is, from 1 on.
fn number_of(snapshot: &Path) -> usize {
    snapshot.file_stem().and_then(OsStr::to_str).and_then(|name| name.parse().ok()).expect("a number")
}

/// The snapshots in a directory, in order.
fn snapshots(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension() == Some("snapshot".as_ref())).collect();
    files.sort();
    files
}

#[test]
fn a_machine_that_died_goes_on_from_its_last_snapshot_and_its_recording_from_any() {
    let (guest, lab, [disk, _]) = place("rvsnap");
    let mut machine = Machine::start(&lab, &guest, &disk);
    machine.await_text("READY", 1);
    // Redis writes to the disk while snapshots are taken, and the older ones are merged and removed.
    let wanted = set_until_snapshots(&lab, 6);
    machine.child.kill().expect("it dies");
    machine.child.wait().expect("it died");

    let files = snapshots(&lab.directory().join("snapshots"));
    assert!(number_of(&files[0]) > 1, "none was removed: {files:?}");
    let last = files.last().expect("a snapshot");
    let mut second = Machine::go_on(&lab, last, &disk);
    redis(&lab, |connection| {
        for key in 0..wanted {
            let reply = connection.ask(&["GET", &format!("key{key}")]).expect("a reply");
            assert_eq!(reply, Reply::Bulk(Some(format!("value{key}").into_bytes())));
        }
        let reply = connection.ask(&["SET", "later", "than the snapshot"]).expect("a reply");
        assert_eq!(reply, Reply::Simple("OK".into()));
    });
    second.type_line("off");
    let told = second.end();
    assert_eq!((&told["end"], &told["reboots"]), (&"power_off".into(), &0.into()));
    lab::guest::ext4::check(&disk).expect("a whole file system");
    let (summary, again) = replay(&second.log, &[]);
    same_end(&summary, &told);
    assert!(again == second.said(), "the console is the same:\n{again}");
    // The recording of the machine that died breaks off; from the middle to its break it is what it was from its
    // beginning.
    let broken = |from: &[&OsStr]| {
        let mut command = Command::new(binary());
        command.args(["rv", "replay", "--output", "json"]).arg(&machine.log).args(from);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (summary["instructions"].clone(), summary["state"].clone(), summary["outputs"].clone())
    };
    let middle = files[files.len() / 2].as_os_str();
    assert_eq!(broken(&["--from".as_ref(), middle]), broken(&[]));
}

/// Sets keys until so many more snapshots were taken, and gives how many were set before the last of them began.
fn set_until_snapshots(lab: &Lab, more: usize) -> usize {
    let directory = lab.directory().join("snapshots");
    // Older ones are removed meanwhile.
    let taken = || snapshots(&directory).last().map_or(0, |last| number_of(last));
    let first = taken();
    let mut set = 0;
    let mut before = Vec::new();
    redis(lab, |connection| {
        while before.len() < more {
            let reply = connection.ask(&["SET", &format!("key{set}"), &format!("value{set}")]);
            assert_eq!(reply.expect("a reply"), Reply::Simple("OK".into()));
            set += 1;
            if taken() > first + before.len() {
                before.push(set);
            }
        }
    });
    // One may have been under way when the count was taken: what was set two snapshots before is in the last.
    before[more.saturating_sub(2)]
}

#[test]
fn a_recording_goes_on_live_where_it_ends() {
    let (guest, lab, [disk, copy]) = place("rvlive");
    let mut recorded = Machine::start(&lab, &guest, &disk);
    recorded.await_text("READY", 1);
    redis(&lab, set_all);
    // Ended in the middle of its life, Redis and all.
    recorded.type_line("\u{1}x");
    let told = recorded.end();
    assert_eq!(told["end"], "quit");

    let mut live = Machine::go_live(&lab, &recorded.log, &copy);
    live.await_text("live from here", 1);
    redis(&lab, |connection| {
        get_all(connection);
        let reply = connection.ask(&["SET", "after", "it went live"]).expect("a reply");
        assert_eq!(reply, Reply::Simple("OK".into()));
    });
    live.type_line("off");
    let summary = live.end();
    assert_eq!((&summary["end"], &summary["reboots"]), (&"power_off".into(), &0.into()));
    assert!(summary["instructions"].as_u64() > told["instructions"].as_u64(), "{summary} {told}");
    lab::guest::ext4::check(&copy).expect("a whole file system");
    // What was written live is on the disk; it is not on the one of the recording.
    let holds = |disk: &Path| {
        let bytes = std::fs::read(disk).expect("a disk");
        bytes.windows(12).any(|part| part == b"it went live")
    };
    assert!(holds(&copy) && !holds(&disk));
}
