//! Measures the fixed part of a checkpoint's pause by machine and network card, of a guest that writes a few pages: the one
//! command by which checkpoints are taken, held until there is nothing to copy, and stop, save, continue in one write. The pause is
//! taken from QEMU's own STOP and RESUME events.
//!
//! `cargo run --release -p qemu --example pause [EPOCHS]`

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Bench, Setting, TCG};
use qemu::qmp::Command;
use qemu::{DeviceSaver, Qemu, Then};
use serde_json::json;
use std::io::Read;
use std::os::unix::net::UnixStream;

const CASES: [(&str, &str, &str); 8] = [
    ("q35, no card", "q35", ""),
    ("q35, virtio", "q35", "virtio"),
    ("q35, virtio-legacy", "q35", "virtio-legacy"),
    ("q35, e1000e", "q35", "e1000e"),
    ("lean, its card", "lean", "virtio-legacy"),
    ("microvm, no card", "microvm", ""),
    ("microvm, virtio", "microvm", "virtio"),
    ("microvm, virtio-legacy", "microvm", "virtio-legacy"),
];

fn main() {
    let epochs = std::env::args().nth(1).map_or(300, |n| n.parse().expect("a number of epochs"));
    println!("pauses in us, min / median / p90");
    println!("{:<24}{:>24}{:>24}{:>12}", "machine", "one command", "three commands", "state bytes");
    for (what, machine, model) in CASES {
        let more = match model {
            "" => String::new(),
            model => format!("[[nic]]\nbridge = \"b\"\nmodel = \"{model}\"\n"),
        };
        let Some(bench) = Bench::new(Setting { machine, more: &more, ..TCG }) else { return };
        let (one, three, state) = measure(&bench, epochs);
        println!("{what:<24}{:>24}{:>24}{state:>12}", told(one), told(three));
    }
}

fn told(mut pauses: Vec<u64>) -> String {
    pauses.sort_unstable();
    let (median, p90) = (pauses[pauses.len() / 2], pauses[pauses.len() * 9 / 10]);
    format!("{} / {median} / {p90}", pauses[0])
}

/// The pauses in microseconds, by one command and by three in turn, and the size of the device state.
fn measure(bench: &Bench, epochs: usize) -> (Vec<u64>, Vec<u64>, usize) {
    let (qemu, channels) = bench.primary();
    let console = channels.console.try_clone().unwrap();
    let reader = std::thread::spawn(move || read_to_the_end(&console));
    qemu.cont().unwrap();
    let mut saver = DeviceSaver::new(&qemu).unwrap();
    let state = saver.begin(Then::GoOn).unwrap().take().unwrap();
    let save = json!({ "filename": "/dev/null", "live": false });
    let one = |saver: &mut DeviceSaver| {
        let mut pending = saver.begin(Then::GoOn).unwrap();
        pending.wait_stopped().unwrap();
        pending.take().unwrap();
        pause(&qemu)
    };
    let three = || {
        let save = Command::with("xen-save-devices-state", save.clone());
        for ticket in qemu.qmp().send_all([Command::new("stop"), save, Command::new("cont")]) {
            ticket.wait().unwrap();
        }
        pause(&qemu)
    };
    let pauses = (0..epochs).map(|_| (one(&mut saver), three())).unzip();
    qemu.kill().unwrap();
    reader.join().unwrap();
    let (ones, threes) = pauses;
    (ones, threes, state.as_bytes().len())
}

/// The last one, a while after it.
fn pause(qemu: &Qemu) -> u64 {
    let (stopped, resumed) = qemu.last_pause().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(10));
    resumed - stopped
}

fn read_to_the_end(mut console: &UnixStream) {
    let mut sink = [0; 4096];
    while let Ok(1..) = console.read(&mut sink) {}
}
