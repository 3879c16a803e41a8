//! A backup whose disk is slow: the guest is slowed down, and nothing is lost.

use crate::kit::medium::SlowMedium;
use crate::kit::{Setup, binary, look, possible, wait_for};
use lab::topology::AGENT;
use std::process::Command;

const IMAGE: &str = "web.img";
const MIB: u64 = 192;
/// What a busy hard disk does. Each epoch's changes are written, and synced with the file system's own writes.
const WRITES_A_SECOND: u32 = 20;

#[test]
fn a_slow_disk_at_the_backup_slows_the_guest_and_loses_nothing() {
    if !possible() {
        return;
    }
    // Dropped last: what is on it must have ended.
    let Some(medium) = SlowMedium::new(WRITES_A_SECOND) else { return };
    let setup = Setup::new("slowdisk");
    let cluster = setup.cluster();
    cluster.make_disk("alpha", IMAGE, MIB).expect("a disk image");
    let file = setup.vm_file().on_disk(IMAGE);
    let loaded = setup.boot_file_on(cluster, file).load("log");
    // Beta's agent in a mount namespace of its own, where its journals lie on the slow disk.
    let state = loaded.cluster.disk("beta", IMAGE);
    let state = state.ancestors().nth(2).expect("a state directory").join("vms");
    std::fs::create_dir_all(&state).expect("made");
    loaded.cluster.lab.kill("beta", AGENT).expect("the agent ends");
    let script = "mount \"$1\" \"$2\" && exec \"$3\" host --config \"$4\"";
    let mut agent = Command::new("unshare");
    agent.args(["--mount", "sh", "-c", script, "sh"]).arg(medium.device()).arg(&state).arg(binary());
    agent.arg(loaded.cluster.config("beta"));
    loaded.cluster.lab.start("beta", AGENT, &mut agent).expect("an agent");
    loaded.cluster.wait_agent("beta").expect("it answers");

    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.protect("alpha", "beta");
    let told = look::event(&loaded.cluster, "alpha", "throttled", mark);
    assert!(told.text.contains("stands still"), "{}", told.text);
    let slowed = || {
        let status = loaded.status("alpha");
        assert_eq!(status.phase, "protected", "{}", look::logs(&loaded.cluster));
        (status.throttled_ms > 1_000.0).then_some(())
    };
    wait_for("1 s of standing still", slowed, || look::logs(&loaded.cluster));
    // Slow, but alive and protected: what is acknowledged is on the slow disk.
    loaded.progress();
    loaded.fails_over("alpha", "beta");
    loaded.progress();
    loaded.verdict();
}
