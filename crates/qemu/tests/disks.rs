//! A disk with a qcow2 image: a standby that was started on a placeholder goes on with what the replica has at the end.
//!
//! QEMU's own NBD server stands for the agent's.

mod common;

use common::{Bench, Replica, Setting, TCG, installation, lines, read_until, skipped};
use qemu::qmp::Command as Ask;
use qemu::{Standby, Then};
use serde_json::json;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A server of one image, for one client.
struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    fn start(image: &Path) -> Self {
        let socket = image.with_extension("sock");
        let mut server = Command::new("qemu-nbd");
        server.args(["-f", "raw", "-x", "disk0", "--discard=unmap", "-k"]).arg(&socket).arg(image);
        Self { process: server.spawn().unwrap(), socket }
    }

    /// The client's end.
    fn client(&self) -> Vec<OwnedFd> {
        let until = Instant::now() + common::PATIENCE;
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return vec![stream.into()];
            }
            assert!(Instant::now() < until, "qemu-nbd does not listen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Does with the disk what the guest's controller does. What comes of it is only printed by QEMU: the images tell.
fn qemu_io(qemu: &qemu::Qemu, what: &str) {
    let line = json!({ "command-line": format!("qemu-io -d /machine/peripheral/disk0-dev/virtio-backend \"{what}\"") });
    let said = qemu.qmp().execute(Ask::with("human-monitor-command", line)).unwrap();
    assert_eq!(said, "", "{what}");
}

fn run(program: &str, arguments: &[&str], file: &Path) -> bool {
    Command::new(program).args(arguments).arg(file).status().unwrap().success()
}

fn qcow2(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let status =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("64M").status();
    assert!(status.unwrap().success());
    // Room to grow: an export has one size for good.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(256 << 20).unwrap();
    path
}

#[test]
fn a_standby_takes_up_the_contents_that_came_after_its_start() {
    if installation().is_none() || Command::new("qemu-nbd").arg("--version").output().is_err() {
        return skipped("qemu-nbd does not run: install qemu-utils");
    }
    let more = "[[disk]]\nimage = \"web.qcow2\"\nformat = \"qcow2\"\n";
    let Some(bench) = Bench::new(Setting { more, ..TCG }) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, replica) = (qcow2(folder.path(), "image"), qcow2(folder.path(), "replica"));

    // A bitmap that backup programs keep in an image.
    assert!(
        Command::new("qemu-img")
            .args(["bitmap", "--add"])
            .arg(&image)
            .arg("since")
            .status()
            .unwrap()
            .success()
    );

    // The standby starts with an empty disk.
    let at_backup = Server::start(&replica);
    let memory = bench.memory();
    let standby = Standby::start(&bench.installation, &bench.resolved, memory.clone(), at_backup.client());
    let (standby, _channels) = standby.unwrap();

    let at_owner = Server::start(&image);
    let (qemu, channels) = bench.primary_with(at_owner.client());
    qemu.check_migratable().unwrap();
    qemu.cont().unwrap();
    for part in ["write -P 7 1M 4M", "write -P 8 40M 64k", "discard 2M 1M", "flush"] {
        qemu_io(&qemu, part);
    }
    let mut released = Vec::new();
    read_until(&channels.console, &mut released, |out| lines(out) >= 3);
    let mut copy = Replica::into_memory(&qemu, memory);
    // Not flushed by its writer: the pause does that.
    qemu_io(&qemu, "write -P 9 50M 64k");
    copy.checkpoint(&qemu, &channels.console, &mut released);
    qemu.kill().unwrap();
    drop(at_owner);
    assert!(run("qemu-img", &["check", "-q", "-f", "qcow2"], &image), "the pause leaves a whole image");

    // The contents come while the standby has the file open.
    let bytes = std::fs::read(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&replica).unwrap(),
        &bytes,
        0,
    )
    .unwrap();
    for (block, bytes) in &copy.roms {
        standby.fill(*block, 0, bytes).unwrap();
    }
    let qemu = standby.load(&copy.state).unwrap();
    qemu.cont().unwrap();
    // It writes on, into clusters that the primary never had.
    qemu_io(&qemu, "write -P 3 20M 8M");
    qemu.quit(common::PATIENCE).unwrap();
    drop(at_backup);
    assert!(run("qemu-img", &["check", "-q", "-f", "qcow2"], &replica));
    for part in ["7 1M 1M", "0 2M 1M", "8 40M 64k", "9 50M 64k", "0 0 1M", "3 20M 8M"] {
        let part = format!("read -P {part}");
        assert!(run("qemu-io", &["-f", "qcow2", "-c", &part], &replica), "{part}");
    }
}

/// Requests that are under way when the guest's processors stand still already end before a checkpoint takes it for still: what
/// they write has reached the disk, and what they read is in memory.
#[test]
fn a_guest_is_not_taken_for_still_while_a_request_to_its_disk_is_under_way() {
    if installation().is_none() || Command::new("qemu-nbd").arg("--version").output().is_err() {
        return skipped("qemu-nbd does not run: install qemu-utils");
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = "[[disk]]\nimage = \"web.img\"\nformat = \"raw\"\n";
    let Some(bench) = Bench::new(Setting { more: disk, ..TCG }) else { return };
    let server = Server::start(&image);
    let (qemu, _channels) = bench.primary_with(server.client());
    qemu.cont().unwrap();
    let mut saver = qemu::DeviceSaver::new(&qemu).unwrap();
    for _ in 0..3 {
        saver.begin(Then::GoOn).unwrap().take().unwrap();
    }
    let signal = |name: &str| {
        let pid = server.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    for byte in 1..4_u8 {
        signal("-STOP");
        qemu_io(&qemu, &format!("aio_write -q -P {byte} 0 64k"));
        let mut pending = saver.begin(Then::GoOn).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                assert!(std::fs::read(&image).unwrap()[0] < byte, "the server does not stand still");
                signal("-CONT");
            });
            pending.wait_stopped().unwrap();
            assert_eq!(std::fs::read(&image).unwrap()[..65_536], vec![byte; 65_536]);
        });
        pending.take().unwrap();
    }
}
