//! A running guest is checkpointed, its QEMU killed, and it goes on in another: exactly from the last checkpoint.

mod common;

use common::{Bench, KVM, PATIENCE, Replica, Setting, TCG, check_counting, lines, read_until};
use qemu::standby::announce;
use qemu::{Channels, Fingerprint, Qemu, Standby, Then};
use std::time::{Duration, Instant};

/// Runs `epochs` checkpoints, kills the primary, and gives the VM running in a standby. `released` ends where the
/// last checkpoint cut.
fn fail_over(
    bench: &Bench,
    (qemu, channels): (Qemu, Channels),
    epochs: usize,
    released: &mut Vec<u8>,
) -> (Qemu, Channels) {
    let mut replica = Replica::new(bench, &qemu);
    for _ in 0..epochs {
        replica.checkpoint(&qemu, &channels.console, released);
        let more = lines(released) + 3;
        read_until(&channels.console, released, |out| lines(out) >= more);
    }
    replica.checkpoint(&qemu, &channels.console, released);
    // The guest goes on beyond the last checkpoint; that part must be lost with it.
    read_until(&channels.console, &mut Vec::new(), |out| lines(out) >= 3);
    let first = Fingerprint::take(&bench.installation, &bench.resolved, Some(qemu.ram().layout())).unwrap();
    qemu.kill().unwrap();

    let memory = replica.memory.clone();
    let (standby, channels) =
        Standby::start(&bench.installation, &bench.resolved, memory, Vec::new()).unwrap();
    let layout = standby.qemu().ram().layout();
    let second = Fingerprint::take(&bench.installation, &bench.resolved, Some(layout)).unwrap();
    assert_eq!(qemu::fingerprint::compare(&first, &second), Ok(()));
    for (block, bytes) in &replica.roms {
        standby.fill(*block, 0, bytes).unwrap();
    }
    let qemu = standby.load(&replica.state).unwrap();
    assert_ne!(qemu.run_state().unwrap(), "running", "a loaded VM waits for permission");
    qemu.cont().unwrap();
    announce(&qemu).unwrap();
    (qemu, channels)
}

/// Fails over twice: what was once a standby must be as good a primary as the first one. Then resets.
fn goes_on_and_on(setting: Setting<'_>) {
    let Some(bench) = Bench::new(setting) else { return };
    let (qemu, channels) = bench.primary();
    qemu.check_migratable().unwrap();
    assert_eq!(qemu.run_state().unwrap(), "prelaunch", "nothing runs before someone says so");
    qemu.cont().unwrap();
    let mut released = Vec::new();
    let (qemu, channels) = fail_over(&bench, (qemu, channels), 5, &mut released);
    let (qemu, channels) = fail_over(&bench, (qemu, channels), 3, &mut released);
    let more = lines(&released) + 20;
    read_until(&channels.console, &mut released, |out| lines(out) >= more);
    assert!(check_counting(&released) >= 40);

    qemu.reset().unwrap();
    let mut after = Vec::new();
    let boot = |out: &[u8]| out.windows(5).position(|w| w == b"boot\n");
    read_until(&channels.console, &mut after, |out| boot(out).is_some_and(|at| lines(&out[at..]) >= 10));
    check_counting(&after[boot(&after).unwrap()..]);
    qemu.quit(PATIENCE).unwrap();
}

#[test]
fn tcg_q35() {
    goes_on_and_on(TCG);
}

#[test]
fn tcg_q35_with_every_card() {
    let more = "[[nic]]\nbridge = \"b\"\n[[nic]]\nbridge = \"b\"\nmodel = \"virtio-legacy\"\n\
                [[nic]]\nbridge = \"b\"\nmodel = \"e1000e\"\n";
    goes_on_and_on(Setting { more, ..TCG });
}

#[test]
fn tcg_pc() {
    goes_on_and_on(Setting { machine: "pc", ..TCG });
}

#[test]
fn tcg_lean_with_a_card() {
    goes_on_and_on(Setting { machine: "lean", more: "[[nic]]\nbridge = \"b\"\n", ..TCG });
}

#[test]
fn tcg_microvm_with_a_card() {
    goes_on_and_on(Setting { machine: "microvm", more: "[[nic]]\nbridge = \"b\"\n", ..TCG });
}

#[test]
fn tcg_two_processors() {
    goes_on_and_on(Setting { cpus: 2, ..TCG });
}

#[test]
fn kvm_q35() {
    goes_on_and_on(KVM);
}

#[test]
fn kvm_microvm_two_processors() {
    goes_on_and_on(Setting { machine: "microvm", cpus: 2, ..KVM });
}

/// What is lost with the primary must not be found again: without the ROMs the guest does not come up from a reset,
/// which shows that the tests above see what they claim to see.
#[test]
fn a_standby_has_no_roms_of_its_own() {
    let Some(bench) = Bench::new(TCG) else { return };
    let (qemu, _channels) = bench.primary();
    let (standby, _standby_channels) =
        Standby::start(&bench.installation, &bench.resolved, bench.memory(), Vec::new()).unwrap();
    let bios = |qemu: &Qemu| {
        let roms = qemu.read_roms().unwrap();
        let index = qemu.ram().layout().blocks.iter().position(|b| b.name == "pc.bios").unwrap();
        roms.into_iter().find(|(i, _)| *i == index).unwrap().1
    };
    assert!(bios(&qemu).iter().any(|b| *b != 0));
    assert!(bios(standby.qemu()).iter().all(|b| *b == 0));
}

/// KiB of a process's heap, and how much of it is in memory.
fn heap(pid: u32) -> (u64, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (_, heap) = maps.split_once("[heap]\n").expect("a heap");
    let kib = |name: &str| -> u64 {
        let line = heap.lines().find_map(|line| line.strip_prefix(name)).expect("in each mapping");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (kib("Size:"), kib("Rss:"))
}

/// A load would meet a fault for each page of it that is not: it was given back when QEMU had started.
#[test]
fn the_heap_of_a_standby_at_rest_is_in_memory() {
    let Some(bench) = Bench::new(TCG) else { return };
    let (standby, _channels) =
        Standby::start(&bench.installation, &bench.resolved, bench.memory(), Vec::new()).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let (size, there) = heap(standby.qemu().pid());
        // A little may be allocated behind that.
        if size - there <= 64 {
            break;
        }
        assert!(Instant::now() < until, "{there} of {size} KiB are in memory");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_damaged_state_is_refused_with_qemus_words_and_kills_the_standby() {
    let Some(bench) = Bench::new(TCG) else { return };
    let (qemu, channels) = bench.primary();
    qemu.cont().unwrap();
    let mut replica = Replica::new(&bench, &qemu);
    replica.checkpoint(&qemu, &channels.console, &mut Vec::new());
    let mut bytes = replica.state.as_bytes().to_vec();
    bytes[14] ^= 0x20;
    let damaged = qemu::DeviceState::from_bytes(bytes).unwrap();
    let (standby, _channels) =
        Standby::start(&bench.installation, &bench.resolved, replica.memory.clone(), Vec::new()).unwrap();
    let pid = standby.qemu().pid();
    let error = standby.load(&damaged).unwrap_err().to_string();
    assert!(error.contains("Unknown savevm section"), "{error}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_state_of_another_machine_is_refused() {
    let Some(bench) = Bench::new(TCG) else { return };
    let Some(other) = Bench::new(Setting { machine: "pc", ..TCG }) else { return };
    let (qemu, channels) = bench.primary();
    qemu.cont().unwrap();
    let mut replica = Replica::new(&bench, &qemu);
    replica.checkpoint(&qemu, &channels.console, &mut Vec::new());
    let (standby, _channels) =
        Standby::start(&other.installation, &other.resolved, replica.memory.clone(), Vec::new()).unwrap();
    assert!(standby.load(&replica.state).is_err());
}

#[test]
fn a_guest_stands_still_until_its_state_is_taken() {
    for machine in ["q35", "lean", "microvm"] {
        let Some(bench) = Bench::new(Setting { machine, ..TCG }) else { return };
        let (qemu, channels) = bench.primary();
        qemu.cont().unwrap();
        let mut saver = qemu::DeviceSaver::new(&qemu).unwrap();
        let mut out = Vec::new();
        for _ in 0..20 {
            let mut pending = saver.begin(Then::GoOn).unwrap();
            pending.wait_stopped().unwrap();
            common::drain(&channels.console, &mut out);
            let before = lines(&out);
            std::thread::sleep(Duration::from_millis(20));
            common::drain(&channels.console, &mut out);
            assert_eq!(lines(&out), before, "{machine}: the guest speaks while it stands still");
            pending.take().unwrap();
            let (stopped, resumed) = qemu.last_pause().unwrap();
            assert!(resumed - stopped >= 20_000, "{machine}: {stopped} to {resumed}");
            assert_eq!(qemu.run_state().unwrap(), "running");
        }
        saver.begin(Then::GoOn).unwrap();
        assert_eq!(qemu.run_state().unwrap(), "running", "nobody came for its state");
        // What it has prepared is called off.
        drop(saver);
        let mut saver = qemu::DeviceSaver::new(&qemu).unwrap();
        for _ in 0..2 {
            saver.begin(Then::GoOn).unwrap().take().unwrap();
            assert_eq!(qemu.run_state().unwrap(), "running");
        }
        saver.begin(Then::Stay).unwrap().take().unwrap();
        assert_eq!(qemu.run_state().unwrap(), "paused");
        saver.begin(Then::GoOn).unwrap().wait_stopped().unwrap();
        assert_eq!(qemu.run_state().unwrap(), "paused", "it stood still before");
    }
}

#[test]
fn a_guest_goes_on_after_a_checkpoint_that_fails() {
    let Some(bench) = Bench::new(TCG) else { return };
    let (qemu, channels) = bench.primary();
    qemu.cont().unwrap();
    let mut saver = qemu::DeviceSaver::new(&qemu).unwrap();
    saver.begin(Then::GoOn).unwrap().take().unwrap();
    // The pipe is taken away under the saver: QEMU stops, and then has nowhere to save to.
    let sets = qemu.qmp().execute(qemu::qmp::Command::new("query-fdsets")).unwrap();
    let remove = serde_json::json!({ "fdset-id": sets[0]["fdset-id"] });
    qemu.qmp().execute(qemu::qmp::Command::with("remove-fd", remove)).unwrap();
    let error = saver.begin(Then::GoOn).and_then(qemu::saver::Pending::take).unwrap_err();
    assert!(error.to_string().contains("xen-save-devices-state"), "{error}");
    assert_eq!(qemu.run_state().unwrap(), "running");
    let mut out = Vec::new();
    common::drain(&channels.console, &mut out);
    let more = lines(&out) + 5;
    read_until(&channels.console, &mut out, |out| lines(out) >= more);
    check_counting(&out);
}
