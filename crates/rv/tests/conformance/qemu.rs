//! Owns the reference: a program run by `qemu-system-riscv64`, whose RAM is a file that is looked into afterwards.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-riscv64";
/// A program takes some seconds; one that goes astray never ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// Extensions that the deterministic machine does not have are taken from the reference.
const CPU: &str = "rv64,h=false,zba=false,zbb=false,zbc=false,zbs=false,sstc=false,v=false,Zihintpause=false";

pub fn is_installed() -> bool {
    Command::new(PROGRAM).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs what stands in RAM, from its first byte, until it writes to QEMU's `sifive_test`; the RAM it leaves, and whether
/// it came to that.
pub fn run(ram: &[u8]) -> (Vec<u8>, bool) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("ram");
    std::fs::write(&file, ram).expect("the file of the RAM");
    let mut child = command(&file, ram.len()).spawn().expect("QEMU starts");
    let limit = Instant::now() + PATIENCE;
    let mut ended = true;
    while child.try_wait().expect("QEMU's status").is_none() {
        if Instant::now() > limit {
            ended = false;
            child.kill().expect("QEMU is stopped");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (std::fs::read(&file).expect("the file of the RAM"), ended)
}

fn command(file: &Path, size: usize) -> Command {
    let backend = format!("memory-backend-file,id=ram,size={size},mem-path={},share=on", file.display());
    let mut command = Command::new(PROGRAM);
    command
        .args(["-machine", "virt,memory-backend=ram", "-cpu", CPU, "-m"])
        .arg(format!("{}M", size >> 20))
        .args(["-object", &backend, "-bios", "none", "-display", "none", "-monitor", "none"])
        .args(["-serial", "null", "-nodefaults", "-smp", "2"])
        .stdin(Stdio::null());
    command
}
