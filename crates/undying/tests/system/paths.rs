//! Two replication networks: the loss of one is no failover, the loss of both is what the loss of the only one is.

use crate::kit::{Guest, Loaded};
use crate::kit::{Setup, look, possible, wait_for};
use api::types::PathStatus;
use lab::topology::Link;

const BOTH: [&str; 2] = ["alpha", "beta"];

fn paths(guest: &Guest, host: &str) -> Vec<PathStatus> {
    guest.status(host).paths
}

/// Waits until so many paths are up at both ends.
fn up(guest: &Guest, many: usize) {
    let there = || {
        BOTH.iter().all(|host| paths(guest, host).iter().filter(|path| path.up).count() == many).then_some(())
    };
    wait_for("the paths", there, || {
        format!("{:?}\n{:?}\n{}", paths(guest, "alpha"), paths(guest, "beta"), look::logs(&guest.cluster))
    });
}

/// Neither host has doubted the other since `marks`, and the VM is where it was, in its first term.
fn nothing_happened(loaded: &Loaded, marks: &[u64]) {
    for (host, &mark) in BOTH.iter().zip(marks) {
        for event in ["backup_lost", "suspected", "claiming", "promoted", "connection_lost"] {
            assert!(!look::has_event(&loaded.cluster, host, event, mark), "{event} at {host}");
        }
    }
    let status = loaded.status("alpha");
    assert_eq!((status.phase.as_str(), status.term), ("protected", 1));
}

#[test]
fn one_of_two_networks_is_lost_and_nobody_fails_over() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("paths").on_two(&BOTH).start();
    up(&loaded, 2);
    type Act<'a> = &'a dyn Fn();
    let cuts: [(&str, Act<'_>, Act<'_>); 3] = [
        ("10.77.", &|| loaded.cluster.lab.cut_link(Link::Replication("alpha")).expect("cut"), &|| {
            loaded.cluster.lab.heal_link(Link::Replication("alpha")).expect("healed")
        }),
        ("10.79.", &|| loaded.cluster.lab.cut_link(Link::Second("beta")).expect("cut"), &|| {
            loaded.cluster.lab.heal_link(Link::Second("beta")).expect("healed")
        }),
        // No carrier is lost, and one direction works.
        ("10.77.", &|| loaded.cluster.lab.mute("alpha", "beta").expect("muted"), &|| {
            loaded.cluster.lab.unmute("alpha", "beta").expect("heard again")
        }),
    ];
    for (network, cut, heal) in cuts {
        let marks = BOTH.map(|host| look::mark(&loaded.cluster, host));
        cut();
        for (host, mark) in BOTH.iter().zip(marks) {
            let silent = look::event(&loaded.cluster, host, "path_silent", mark);
            assert!(silent.what["address"].as_str().is_some_and(|address| address.starts_with(network)));
            assert!(silent.text.contains("going on over"), "{}", silent.text);
            println!("{host}: {}", silent.text);
        }
        loaded.progress();
        up(&loaded, 1);
        nothing_happened(&loaded, &marks);
        heal();
        for (host, mark) in BOTH.iter().zip(marks) {
            look::event(&loaded.cluster, host, "path_back", mark);
        }
        up(&loaded, 2);
        loaded.progress();
        nothing_happened(&loaded, &marks);
    }
    loaded.verdict();
}

#[test]
fn both_networks_are_lost_and_exactly_one_host_goes_on_and_a_host_that_dies_is_detected() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("bothcut").on_two(&BOTH).start();
    up(&loaded, 2);
    loaded.cluster.lab.cut_links(&[Link::Replication("alpha"), Link::Second("alpha")]).expect("cut");
    let (winner, loser) = loaded.winner();
    assert_eq!(look::owners(&loaded.cluster, &BOTH, &loaded.vm), [winner]);
    loaded.progress();
    // One network is enough to be protected again, and the other one joins when it is there.
    loaded.cluster.lab.heal_link(Link::Second("alpha")).expect("healed");
    loaded.protect(winner, loser);
    up(&loaded, 1);
    loaded.cluster.lab.heal_link(Link::Replication("alpha")).expect("healed");
    up(&loaded, 2);
    loaded.progress();
    loaded.fails_over(winner, loser);
    loaded.verdict();
}

#[test]
fn a_host_with_one_address_and_a_peer_with_two_protect_each_other() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("uneven").on_two(&["beta"]).start();
    up(&loaded, 2);
    loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
    up(&loaded, 1);
    loaded.progress();
    loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
    up(&loaded, 2);
    loaded.fails_over("alpha", "beta");
    loaded.cluster.revive("alpha").expect("alpha comes back");
    // The other way there is one connection, as ever.
    loaded.protect("beta", "alpha");
    assert_eq!(paths(&loaded, "beta"), []);
    loaded.fails_over("beta", "alpha");
    loaded.verdict();
}
