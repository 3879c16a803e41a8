//! Bad links while both hosts live - cut, one-way, too narrow, flapping: exactly one of them goes on.

use crate::kit::{Setup, look, possible, wait_for};
use api::types::{EventRecord, ProtectRequest, RepairRequest};
use lab::topology::Link;
use protocol::HostName;
use std::time::Duration;

#[test]
fn the_replication_link_is_cut_and_exactly_one_host_goes_on() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("cut").start();
    let mut at = "alpha";
    // Twice: the second protection must be as good as the first.
    for _ in 0..2 {
        let hosts = ["alpha", "beta"].map(|host| (host, loaded.process(host)));
        loaded.cluster.lab.cut_link(Link::Replication(at)).expect("cut");
        let (winner, loser) = loaded.winner();
        assert_eq!(look::owners(&loaded.cluster, &["alpha", "beta"], &loaded.vm), [winner]);
        for (host, process) in hosts {
            if host == loser {
                process.wait_gone();
            } else {
                assert!(process.is_there(), "the VM's process at {winner}");
            }
        }
        loaded.progress();
        loaded.cluster.lab.heal_link(Link::Replication(at)).expect("healed");
        loaded.protect(winner, loser);
        loaded.progress();
        at = winner;
    }
    loaded.verdict();
}

#[test]
fn an_agent_cut_off_from_everything_ends_its_copy_when_it_is_fenced() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("island").start();
    let process = loaded.process("alpha");
    let mark = look::mark(&loaded.cluster, "alpha");
    // The uplink alone: the VM is well, nobody takes it away, its clients must wait.
    loaded.cluster.lab.cut_link(Link::Uplink("alpha")).expect("cut");
    let before = loaded.status("alpha").epoch;
    let epochs = || (loaded.status("alpha").epoch > before + 40).then_some(());
    wait_for("more epochs", epochs, || look::logs(&loaded.cluster));
    assert_eq!(loaded.status("alpha").phase, "protected");
    assert!(!look::has_event(&loaded.cluster, "alpha", "backup_lost", mark));
    // Now the other cable: one of the two goes on. The clients reach the VM only at beta.
    loaded.cluster.lab.cut_link(Link::Replication("alpha")).expect("cut");
    let (winner, _) = loaded.winner();
    if winner == "beta" {
        process.wait_gone();
    }
    loaded.cluster.lab.heal_link(Link::All("alpha")).expect("healed");
    loaded.progress();
    loaded.verdict();
}

#[test]
fn on_a_link_that_works_in_one_direction_exactly_one_host_goes_on() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("oneway").start();
    let (mut at, mut by) = ("alpha", "beta");
    // Heartbeats and checkpoints are lost, and pulses come; then acknowledgements are lost, and heartbeats come.
    for owner_is_heard in [false, true] {
        let (mute, deaf) = if owner_is_heard { (by, at) } else { (at, by) };
        loaded.cluster.lab.mute(mute, deaf).expect("muted");
        let (winner, loser) = loaded.winner();
        assert_eq!(look::owners(&loaded.cluster, &["alpha", "beta"], &loaded.vm), [winner]);
        loaded.progress();
        loaded.cluster.lab.unmute(mute, deaf).expect("heard again");
        loaded.protect(winner, loser);
        loaded.progress();
        (at, by) = (winner, loser);
    }
    loaded.verdict();
}

#[test]
fn on_a_link_that_loses_long_packets_exactly_one_host_goes_on_and_soon() {
    if !possible() {
        return;
    }
    let setup = Setup::new("narrow");
    let cluster = setup.cluster();
    for host in ["alpha", "beta"] {
        cluster.lab.cut_packets(host).expect("short packets");
    }
    let loaded = setup.start_on(cluster);
    let mark = look::mark(&loaded.cluster, "alpha");
    // Heartbeats pass until the first page is lost, and pulses always.
    loaded.cluster.lab.narrow_link("beta", 600).expect("narrow");
    let (winner, loser) = loaded.winner();
    assert_eq!(look::owners(&loaded.cluster, &["alpha", "beta"], &loaded.vm), [winner]);
    if winner == "alpha" {
        // Not the 10 s of a backup that lives and acknowledges nothing.
        let lost = look::event(&loaded.cluster, "alpha", "backup_lost", mark);
        assert!(lost.text.contains("has heard nothing from this host"), "{}", lost.text);
    }
    loaded.progress();
    loaded.cluster.lab.narrow_link("beta", 1_500).expect("wide");
    loaded.protect(winner, loser);
    loaded.fails_over(winner, loser);
    loaded.verdict();
}

#[test]
fn a_flapping_link_does_not_end_the_vm_which_is_protected_again_behind_it() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("flap").boot().load("log");
    let request = ProtectRequest {
        repair: RepairRequest::default(),
        ..ProtectRequest::even(HostName::new("beta").expect("a name"), 25_000)
    };
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request).expect("it is protected");
    // Down for longer than the time-out, and up for long enough to be protected again.
    for _ in 0..6 {
        loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
        std::thread::sleep(Duration::from_millis(1_200));
        loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
        std::thread::sleep(Duration::from_millis(800));
    }
    let calm = || {
        let owners = look::owners(&loaded.cluster, &["alpha", "beta"], &loaded.vm);
        let [owner] = owners.as_slice() else { return None };
        let status = look::status(&loaded.cluster, owner, &loaded.vm)?;
        (status.phase == "protected").then_some(status)
    };
    let status = wait_for("the VM, protected again", calm, || look::logs(&loaded.cluster));
    println!("{} terms", status.term);
    loaded.progress();
    loaded.verdict();
}

#[test]
fn the_more_often_a_link_is_lost_the_longer_it_is_not_tried() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("damped").boot().load("log");
    let request = ProtectRequest {
        repair: RepairRequest::default(),
        ..ProtectRequest::even(HostName::new("beta").expect("a name"), 25_000)
    };
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request).expect("it is protected");
    // Whoever wins, and however long it takes, counts on: a pause is never shorter than it should be on a busy machine.
    for pause_ms in [500, 1_000, 2_000, 4_000] {
        let marks = ["alpha", "beta"].map(|host| look::mark(&loaded.cluster, host));
        loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
        let (winner, _) = loaded.winner();
        loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
        let mark = marks[usize::from(winner == "beta")];
        let again = look::event(&loaded.cluster, winner, "protecting_again", mark);
        let events = loaded.cluster.ask(winner, |api| api.events(mark)).expect("the agent answers");
        let loss = events.iter().find(|event| is_loss(event)).expect("the loss was told");
        let waited_ms = (again.at_us - loss.at_us) / 1_000;
        println!("{winner}: {waited_ms} ms from `{}` to `{}`", loss.text, again.text);
        // The clock of events may be set while the test runs, not by half.
        assert!(waited_ms >= pause_ms / 2, "{waited_ms} ms, {pause_ms} were due: {events:#?}");
        let protected = || {
            let status = look::status(&loaded.cluster, winner, &loaded.vm)?;
            (status.phase == "protected").then_some(())
        };
        wait_for("protection", protected, || look::logs(&loaded.cluster));
    }
    loaded.progress();
    loaded.verdict();
}

/// The backup, or the primary, is lost: the next try waits from here on.
fn is_loss(event: &EventRecord) -> bool {
    event.what["event"] == "backup_lost" || event.what["event"] == "promoting"
}
