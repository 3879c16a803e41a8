//! Cut links while both hosts live: exactly one of them goes on.

use crate::kit::{Setup, look, possible};
use lab::topology::Link;

#[test]
fn the_replication_link_is_cut_and_exactly_one_host_goes_on() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("cut").start();
    let mut at = "alpha";
    // Twice: the second protection must be as good as the first.
    for _ in 0..2 {
        let hosts = ["alpha", "beta"].map(|host| (host, loaded.qemu(host)));
        loaded.cluster.lab.cut_link(Link::Replication(at)).expect("cut");
        let (winner, loser) = loaded.winner();
        assert_eq!(look::owners(&loaded.cluster, &["alpha", "beta"], &loaded.vm), [winner]);
        for (host, qemu) in hosts {
            if host == loser {
                qemu.wait_gone();
            } else {
                assert!(qemu.is_alive(), "the VM's process at {winner}");
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
    let qemu = loaded.qemu("alpha");
    let mark = look::mark(&loaded.cluster, "alpha");
    // The uplink alone: the VM is well, nobody takes it away, its clients must wait.
    loaded.cluster.lab.cut_link(Link::Uplink("alpha")).expect("cut");
    let before = loaded.status("alpha").epoch;
    let epochs = || (loaded.status("alpha").epoch > before + 40).then_some(());
    crate::kit::wait_for("more epochs", epochs, || look::logs(&loaded.cluster));
    assert_eq!(loaded.status("alpha").phase, "protected");
    assert!(!look::has_event(&loaded.cluster, "alpha", "backup_lost", mark));
    // Now the other cable: one of the two goes on. The clients reach the VM only at beta.
    loaded.cluster.lab.cut_link(Link::Replication("alpha")).expect("cut");
    let (winner, _) = loaded.winner();
    if winner == "beta" {
        qemu.wait_gone();
    }
    loaded.cluster.lab.heal_link(Link::All("alpha")).expect("healed");
    loaded.progress();
    loaded.verdict();
}
