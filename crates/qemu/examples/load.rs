//! Measures what loading a device state takes a standby, by machine and network card, of a Linux guest that has set its devices
//! up: the part of a failover, and of a migration's stop, that is QEMU's own.
//!
//! `cargo run --release -p qemu --example load KERNEL INITRD [TIMES]`

use os::Memory;
use qemu::{DeviceSaver, Installation, Qemu, ResolvedSpec, Role, Standby, Then, VmSpec};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CASES: [(&str, &str, &str); 4] = [
    ("q35, virtio", "machine = \"q35\"", "virtio"),
    ("q35, virtio-legacy", "machine = \"q35\"", "virtio-legacy"),
    ("lean, its card", "profile = \"lean\"", "virtio-legacy"),
    ("microvm, virtio", "machine = \"microvm\"", "virtio"),
];
/// By then the guest has booted under TCG.
const BOOT: Duration = Duration::from_secs(15);
/// A standby waits for longer than this.
const REST: Duration = Duration::from_millis(400);
const PAGE: usize = 4096;

fn main() {
    let mut words = std::env::args().skip(1);
    let (kernel, initrd) = (words.next().expect("KERNEL"), words.next().expect("INITRD"));
    let times = words.next().map_or(20, |n| n.parse().expect("a number of standbys"));
    let installation = Installation::probe(Path::new(qemu::install::DEFAULT_BINARY)).unwrap();
    println!(
        "{:<24}{:>12}{:>12}{:>12}{:>14}",
        "machine", "load: min us", "median us", "max us", "cont: median"
    );
    for (what, machine, model) in CASES {
        let text = format!(
            "name = \"guest\"\n{machine}\naccel = \"tcg\"\nmemory = \"512MiB\"\nkernel = {kernel:?}\ninitrd = {initrd:?}\n\
             append = \"console=ttyS0 quiet\"\n[[nic]]\nbridge = \"b\"\nmodel = \"{model}\"\n"
        );
        let resolved = installation.resolve(VmSpec::parse(&text, "example").unwrap()).unwrap();
        let (loads, conts) = measure(&installation, &resolved, times);
        let (middle, last) = (loads.len() / 2, loads[loads.len() - 1]);
        println!("{what:<24}{:>12}{:>12}{last:>12}{:>14}", loads[0], loads[middle], conts[middle]);
    }
}

/// Times of loads and of the continuations behind them in microseconds, sorted.
fn measure(installation: &Installation, resolved: &ResolvedSpec, times: usize) -> (Vec<u64>, Vec<u64>) {
    let memory = || Arc::new(Memory::create("example-ram", resolved.spec.memory.0).unwrap());
    let (qemu, channels) = Qemu::launch(installation, resolved, Role::Primary, memory(), Vec::new()).unwrap();
    let roms = qemu.read_roms().unwrap();
    let mut console = channels.console.try_clone().unwrap();
    std::thread::spawn(move || while let Ok(1..) = console.read(&mut [0; PAGE]) {});
    qemu.cont().unwrap();
    std::thread::sleep(BOOT);
    let mut saver = DeviceSaver::new(&qemu).unwrap();
    let state = saver.begin(Then::Stay).unwrap().take().unwrap();
    let mut content = vec![0; resolved.spec.memory.0 as usize];
    qemu.memory().read_at(0, &mut content);
    let one = || {
        let memory = memory();
        for (at, page) in (0..).step_by(PAGE).zip(content.chunks(PAGE)) {
            if page.iter().any(|&byte| byte != 0) {
                memory.write_at(at, page);
            }
        }
        let (standby, _channels) = Standby::start(installation, resolved, memory, Vec::new()).unwrap();
        for (block, bytes) in &roms {
            standby.fill(*block, 0, bytes).unwrap();
        }
        std::thread::sleep(REST);
        let start = Instant::now();
        let loaded = standby.load(&state).unwrap();
        let load = start.elapsed();
        loaded.cont().unwrap();
        let cont = start.elapsed() - load;
        loaded.kill().unwrap();
        (load.as_micros() as u64, cont.as_micros() as u64)
    };
    let (mut loads, mut conts): (Vec<u64>, Vec<u64>) = (0..times).map(|_| one()).unzip();
    qemu.kill().unwrap();
    loads.sort_unstable();
    conts.sort_unstable();
    (loads, conts)
}
