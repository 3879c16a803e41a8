//! Measures the fixed part of a checkpoint's pause by machine and network card: stop, save, continue in one write,
//! of a guest that writes a few pages. The pause is taken from QEMU's own STOP and RESUME events.
//!
//! `cargo run --release -p qemu --example pause [EPOCHS]`

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Bench, Setting, TCG};
use qemu::qmp::Command;
use qemu::{DeviceSaver, DeviceState};
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
    println!("{:<32}{:>10}{:>10}{:>10}{:>12}", "machine", "median us", "p90 us", "min us", "state bytes");
    for (what, machine, model) in CASES {
        let more = match model {
            "" => String::new(),
            model => format!("[[nic]]\nbridge = \"b\"\nmodel = \"{model}\"\n"),
        };
        let Some(bench) = Bench::new(Setting { machine, more: &more, ..TCG }) else { return };
        let (pauses, state) = measure(&bench, epochs);
        let (median, p90) = (pauses[pauses.len() / 2], pauses[pauses.len() * 9 / 10]);
        println!("{what:<32}{median:>10}{p90:>10}{:>10}{:>12}", pauses[0], state);
    }
}

/// The pauses in microseconds, sorted, and the size of the device state.
fn measure(bench: &Bench, epochs: usize) -> (Vec<u64>, usize) {
    let (qemu, channels) = bench.primary();
    let console = channels.console.try_clone().unwrap();
    let reader = std::thread::spawn(move || read_to_the_end(&console));
    qemu.cont().unwrap();
    let mut state = DeviceState::default();
    let mut saver = DeviceSaver::new(qemu.qmp()).unwrap();
    let mut pending = saver.begin().unwrap();
    pending.wait_saved(&mut state).unwrap();
    pending.cont().unwrap();
    let save = json!({ "filename": "/dev/fdset/0", "live": false });
    let mut pauses: Vec<u64> = (0..epochs)
        .map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let save = Command::with("xen-save-devices-state", save.clone());
            let tickets = qemu.qmp().send_all([Command::new("stop"), save, Command::new("cont")]);
            for ticket in tickets {
                ticket.wait().unwrap();
            }
            qemu.qmp().last_event_us("RESUME").unwrap() - qemu.qmp().last_event_us("STOP").unwrap()
        })
        .collect();
    pauses.sort_unstable();
    qemu.kill().unwrap();
    reader.join().unwrap();
    (pauses, state.as_bytes().len())
}

fn read_to_the_end(mut console: &UnixStream) {
    let mut sink = [0; 4096];
    while let Ok(1..) = console.read(&mut sink) {}
}
