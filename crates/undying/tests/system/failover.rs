//! Failovers of a Redis under load: whoever dies, the clients keep their connections and lose no acknowledged write.

use crate::kit::{Guest, Setup, look, possible, possible_in_qemu, wait_for};
use api::types::{ProtectRequest, RepairRequest};
use lab::topology::AGENT;
use protocol::HostName;

#[test]
fn the_primary_host_dies() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("kill").start();
    let process = loaded.process("alpha");
    let status = loaded.fails_over("alpha", "beta");
    assert_eq!(status.term, 2);
    assert!(process.is_gone());
    loaded.verdict();
}

#[test]
fn the_primary_host_dies_while_checkpoints_follow_the_output() {
    if !possible() {
        return;
    }
    let guest = Setup::new("follow").boot();
    guest.protect_following("alpha", "beta");
    let idle =
        wait_for("epochs that stretch", || stretch(&guest, |ms| ms > 100), || look::logs(&guest.cluster));
    let loaded = guest.load("log");
    loaded.progress();
    let pacing = loaded.status("alpha").pacing.expect("it follows");
    assert!(pacing.rest_us < idle, "{pacing:?}");
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

/// How many frames of input the VM was given again at its newest promotion, here.
fn replayed(guest: &Guest, host: &str, mark: u64) -> u64 {
    let promoted = look::event(&guest.cluster, host, "promoted", mark);
    promoted.what["replayed_frames"].as_u64().expect("a number")
}

#[test]
fn input_is_replayed_unless_it_was_asked_otherwise_and_the_next_owner_knows() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("replay").start();
    let mark = look::mark(&loaded.cluster, "beta");
    loaded.fails_over("alpha", "beta");
    assert!(replayed(&loaded, "beta", mark) > 0, "8 clients write all the time");
    loaded.cluster.revive("alpha").expect("alpha comes back");
    let repair = RepairRequest { on: true, ..RepairRequest::default() };
    let to_alpha = ProtectRequest::following(HostName::new("alpha").expect("a name"));
    let request = ProtectRequest { input_replay: false, repair, ..to_alpha };
    loaded.cluster.protect_as(&loaded.vm, "beta", &request).expect("the VM is protected");
    loaded.progress();
    for (from, to) in [("beta", "alpha"), ("alpha", "beta")] {
        let there = look::mark(&loaded.cluster, to);
        loaded.cluster.lab.kill_host(from).expect("it dies");
        assert_eq!(replayed(&loaded, to, there), 0, "at {to}");
        loaded.progress();
        loaded.cluster.revive(from).expect("it comes back");
        // By itself, as it was asked for.
        look::event(&loaded.cluster, to, "protected", there);
        loaded.progress();
    }
    loaded.verdict();
}

/// How far apart checkpoints are while nobody waits, if that is so, µs.
fn stretch(guest: &Guest, is: impl Fn(u64) -> bool) -> Option<u64> {
    let stretch = guest.status("alpha").pacing.expect("it follows").stretch_us;
    is(stretch / 1_000).then_some(stretch)
}

#[test]
fn the_agent_alone_is_killed_and_its_qemu_dies_with_it() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("agent").start();
    let process = loaded.process("alpha");
    look::agent(&loaded.cluster, "alpha").kill();
    process.wait_gone();
    loaded.runs_at("beta");
    let end = loaded.cluster.lab.wait("alpha", AGENT).expect("the agent ended");
    assert!(!end.success());
    // The host itself is well: a new agent there protects the VM again.
    loaded.cluster.start_agent("alpha").expect("a new agent");
    loaded.protect("beta", "alpha");
    loaded.verdict();
}

#[test]
fn qemu_alone_is_killed_and_its_agent_gives_the_vm_up() {
    if !possible_in_qemu("process of its own") {
        return;
    }
    let loaded = Setup::new("qemu").start();
    let (alpha, beta) = (look::mark(&loaded.cluster, "alpha"), look::mark(&loaded.cluster, "beta"));
    loaded.qemu("alpha").kill();
    loaded.runs_at("beta");
    look::event(&loaded.cluster, "alpha", "vm_died", alpha);
    look::event(&loaded.cluster, "alpha", "handed_over", alpha);
    look::event(&loaded.cluster, "beta", "taking_over", beta);
    assert!(
        !look::has_event(&loaded.cluster, "beta", "primary_lost", beta),
        "beta was told, it did not have to find out"
    );
    loaded.cluster.wait_gone("alpha", &loaded.vm).expect("alpha forgets the VM");
    loaded.verdict();
}

#[test]
fn the_guests_memory_is_what_it_wrote() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    const PAGES: u64 = 8_000;
    let loaded = Setup::new("memory").start();
    loaded.fills(PAGES, "full", 4 * PAGES);
    let ahead = || {
        let epochs = loaded.cluster.ask("alpha", |api| api.epochs(&loaded.vm, 0)).expect("epochs");
        epochs.iter().any(|epoch| epoch.ahead_pages > 0).then_some(())
    };
    wait_for("pages copied ahead", ahead, || look::logs(&loaded.cluster));
    // The answer leaves when the epoch that holds it is committed: what beta goes on from has every page.
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    loaded.fails_over("alpha", "beta");
    assert_eq!(loaded.pulse(|mut pulse| pulse.check()).expect("its memory is whole"), PAGES);
    loaded.verdict();
}
