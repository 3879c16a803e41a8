//! Disks with faults, made of stock programs, so that they are as bad on every machine.
//!
//! One that is really slow: a loop device on a file that a storage daemon of QEMU serves through FUSE, so many
//! requests a second. And one with a part that cannot be read: a loop device on a file that became shorter under it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

/// Size of the disk: a VM's journal and a little.
const MIB: u64 = 400;

/// An ext4 on a slow disk; whoever mounts it does so in a namespace that ends before this does.
pub struct SlowMedium {
    daemon: Child,
    device: PathBuf,
    folder: TempDir,
}

impl SlowMedium {
    /// Takes so many writes a second. `None`, said loudly, where none can be made.
    pub fn new(writes_a_second: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a directory");
        let (file, served) = (folder.path().join("file"), folder.path().join("served"));
        std::fs::File::create(&file).and_then(|file| file.set_len(MIB << 20)).expect("a file");
        run(Command::new("mkfs.ext4").arg("-q").arg(&file)).expect("a file system");
        std::fs::write(&served, "").expect("a place to serve at");
        let mut daemon = Command::new("qemu-storage-daemon");
        daemon.args(["--object", &format!("throttle-group,id=slow,x-iops-write={writes_a_second}")]);
        daemon.args(["--blockdev", &format!("driver=file,node-name=file,filename={}", file.display())]);
        daemon.args(["--blockdev", "driver=throttle,node-name=disk,throttle-group=slow,file=file"]);
        let export = format!("type=fuse,id=e,node-name=disk,writable=on,mountpoint={}", served.display());
        let daemon = daemon.args(["--export", &export]).spawn();
        let Ok(mut daemon) = daemon.inspect_err(|error| eprintln!("SKIPPED: qemu-storage-daemon: {error}"))
        else {
            return None;
        };
        let serves = || match daemon.try_wait() {
            Ok(None) => (std::fs::metadata(&served).ok()?.len() > 0).then_some(true),
            _ => Some(false),
        };
        if !super::wait_for("the slow disk", serves, String::new) {
            eprintln!("SKIPPED: no FUSE here: qemu-storage-daemon cannot serve a slow disk");
            return None;
        }
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&served));
        let device = device.inspect_err(|error| eprintln!("SKIPPED: no loop device: {error}"));
        let device = device.map(|path| PathBuf::from(path.trim())).unwrap_or_default();
        let this = Self { daemon, device, folder };
        (!this.device.as_os_str().is_empty()).then_some(this)
    }

    /// The device.
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for SlowMedium {
    fn drop(&mut self) {
        // What fails here was not made, or has ended; a test that fails should say its own reason.
        let _ = run(Command::new("losetup").arg("--detach").arg(&self.device));
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = run(Command::new("umount").arg("--lazy").arg(self.folder.path().join("served")));
    }
}

/// A disk whose end cannot be read while it is broken.
pub struct BrokenMedium {
    file: PathBuf,
    device: PathBuf,
    size: u64,
}

impl BrokenMedium {
    /// A device with what is in this file. `None`, said loudly, where there can be none.
    pub fn on(file: &Path) -> Option<Self> {
        let size = std::fs::metadata(file).expect("a file").len();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(file));
        let device = device.inspect_err(|error| eprintln!("SKIPPED: no loop device: {error}")).ok()?;
        Some(Self { file: file.to_path_buf(), device: PathBuf::from(device.trim()), size })
    }

    /// The device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// From this byte on it cannot be read.
    pub fn breaks_at(&self, offset: u64) {
        self.set_len(offset);
        // What the kernel still has of it in memory could be read.
        run(Command::new("blockdev").arg("--flushbufs").arg(&self.device)).expect("nothing kept");
    }

    /// It is whole again, with zeroes where it was broken.
    pub fn is_mended(&self) {
        self.set_len(self.size);
    }

    fn set_len(&self, len: u64) {
        let file = std::fs::File::options().write(true).open(&self.file).expect("the file");
        file.set_len(len).expect("its length");
    }
}

impl Drop for BrokenMedium {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    lab::command::run(command).map_err(|error| error.to_string())
}
