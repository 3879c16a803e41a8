//! Several VMs: in both directions between two hosts, and primaries that share a backup, which has room for so many.

use crate::kit::load::Load;
use crate::kit::{INTERVAL, Setup, look, possible, possible_in_qemu};
use api::types::ProtectRequest;
use lab::client::Server;
use lab::cluster::{Cluster, VmFile};
use lab::guest::redis::REDIS_PORT;
use protocol::{HostName, VmName};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Boots a guest at a host and puts it under load.
fn boot(cluster: &Cluster, host: &str, name: &str, number: u8) -> (VmName, Load) {
    let file = Setup::new("several").shape(|shape| shape.number = number).vm_file();
    let toml = file.toml.replace("name = \"web\"", &format!("name = \"{name}\""));
    let file = VmFile { name: VmName::new(name).expect("a name"), toml, ..file };
    cluster.start_vm(host, &file).expect("the VM starts");
    cluster.wait_ready(host, &file.name).expect("Redis serves");
    let load = Load::start(cluster, Server::Redis, (file.address.v4, REDIS_PORT).into(), "log");
    (file.name, load)
}

fn protect(cluster: &Cluster, vm: &VmName, from: &str, to: &str) {
    cluster.protect(vm, from, to, INTERVAL).expect("protected");
}

#[test]
fn vms_in_both_directions_survive_the_death_of_one_host() {
    if !possible() {
        return;
    }
    let cluster = Setup::new("both").cluster();
    let (web, web_load) = boot(&cluster, "alpha", "web", 0);
    let (db, db_load) = boot(&cluster, "beta", "db", 1);
    protect(&cluster, &web, "alpha", "beta");
    protect(&cluster, &db, "beta", "alpha");
    web_load.progress(&cluster);
    db_load.progress(&cluster);
    cluster.lab.kill_host("alpha").expect("alpha dies");
    for vm in [&web, &db] {
        let status = cluster.wait_primary("beta", vm, &["unprotected"]).expect("both run at beta");
        assert_eq!(status.term, 2);
    }
    web_load.progress(&cluster);
    db_load.progress(&cluster);
    cluster.revive("alpha").expect("alpha is back");
    protect(&cluster, &web, "beta", "alpha");
    protect(&cluster, &db, "beta", "alpha");
    web_load.verdict(&cluster);
    db_load.verdict(&cluster);
}

#[test]
fn two_primaries_share_a_backup_and_one_dies() {
    if !possible() {
        return;
    }
    let cluster = Setup::new("shared").hosts(&["alpha", "beta", "gamma"]).cluster();
    let (web, web_load) = boot(&cluster, "alpha", "web", 0);
    let (db, db_load) = boot(&cluster, "beta", "db", 1);
    protect(&cluster, &web, "alpha", "gamma");
    protect(&cluster, &db, "beta", "gamma");
    let mark = look::mark(&cluster, "beta");
    cluster.lab.kill_host("alpha").expect("alpha dies");
    cluster.wait_primary("gamma", &web, &["unprotected"]).expect("gamma takes over");
    web_load.progress(&cluster);
    db_load.progress(&cluster);
    // The other VM of the backup did not notice.
    assert!(!look::has_event(&cluster, "beta", "backup_lost", mark));
    assert_eq!(look::status(&cluster, "beta", &db).expect("it is there").phase, "protected");
    protect(&cluster, &web, "gamma", "beta");
    web_load.progress(&cluster);
    cluster.lab.kill_host("beta").expect("beta dies");
    // Gamma wins the VM of beta, and loses the backup of its own.
    for vm in [&web, &db] {
        cluster.wait_primary("gamma", vm, &["unprotected"]).expect("both run at gamma");
    }
    web_load.verdict(&cluster);
    db_load.verdict(&cluster);
}

#[test]
fn three_primaries_die_at_the_same_instant_and_one_backup_goes_on_with_all() {
    if !possible() {
        return;
    }
    const PRIMARIES: [&str; 3] = ["alpha", "beta", "gamma"];
    let cluster = Setup::new("three").hosts(&["alpha", "beta", "gamma", "delta"]).cluster();
    let vms: Vec<(VmName, Load)> =
        (0..).zip(PRIMARIES).map(|(at, host)| boot(&cluster, host, &format!("vm{at}"), at)).collect();
    for ((vm, _), host) in vms.iter().zip(PRIMARIES) {
        protect(&cluster, vm, host, "delta");
    }
    for (_, load) in &vms {
        load.progress(&cluster);
    }
    let killed_us = now_us();
    cluster.lab.kill_hosts(&PRIMARIES).expect("all die");
    for (vm, _) in &vms {
        let status = cluster.wait_primary("delta", vm, &["unprotected"]).expect("delta runs it");
        assert_eq!(status.term, 2);
    }
    for (vm, load) in vms {
        load.progress(&cluster);
        load.verdict(&cluster);
        let events = cluster.ask("delta", |api| api.events(0)).expect("events");
        let at = |name: &str| {
            let event =
                events.iter().find(|event| event.vm.as_ref() == Some(&vm) && event.what["event"] == name);
            event.map_or(f64::NAN, |event| event.at_us.saturating_sub(killed_us) as f64 / 1e3)
        };
        eprintln!(
            "{vm}: suspected {:.0} ms, granted {:.0} ms, running {:.0} ms after the death of all",
            at("primary_lost"),
            at("promoting"),
            at("promoted")
        );
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_micros()).expect("some centuries")
}

/// Asks for protection by gamma, which refuses; the event of it.
fn refused(cluster: &Cluster, vm: &VmName, from: &str) -> String {
    let mark = look::mark(cluster, from);
    let to = HostName::new("gamma").expect("a name");
    let request = ProtectRequest::even(to, 25_000);
    cluster.ask(from, |api| api.protect(vm, &request)).expect("accepted");
    look::event(cluster, from, "protect_failed", mark).text
}

#[test]
fn a_standby_that_does_not_fit_is_refused_until_there_is_room_and_a_promoted_vm_takes_room_too() {
    if !possible() {
        return;
    }
    // A standby of these guests needs 256 MiB and 128 MiB of buffers.
    let room_for_one = "[backup]\nmemory = \"500MiB\"\n[detection]\nheartbeat_ms = 50\ntimeout_ms = 1000\n";
    let setup = Setup::new("room").hosts(&["alpha", "beta", "gamma"]).detection(room_for_one);
    let cluster = setup.cluster();
    let (web, web_load) = boot(&cluster, "alpha", "web", 0);
    let (db, db_load) = boot(&cluster, "beta", "db", 1);
    protect(&cluster, &web, "alpha", "gamma");
    assert_eq!(look::room(&cluster, "gamma").memory_left_bytes, 116 << 20);

    let text = refused(&cluster, &db, "beta");
    let says =
        "host gamma has 116.0 MiB of 500.0 MiB of memory left for standbys, and this VM needs 384.0 MiB";
    assert!(text.contains(says) && text.contains("raise [backup] memory"), "{text}");
    let status = look::status(&cluster, "beta", &db).expect("it runs on");
    assert_eq!((status.term, status.phase.as_str()), (1, "unprotected"));
    assert!(status.warnings.iter().any(|warning| warning.contains(says)), "{:?}", status.warnings);
    look::event(&cluster, "gamma", "standby_refused", 0);
    cluster.wait_gone("gamma", &db).expect("nothing is left of it at gamma");
    web_load.progress(&cluster);
    db_load.progress(&cluster);
    assert_eq!(look::status(&cluster, "alpha", &web).expect("it is there").phase, "protected");

    cluster.ask("alpha", |api| api.unprotect(&web)).expect("accepted");
    cluster.wait_gone("gamma", &web).expect("its standby goes");
    assert_eq!(look::room(&cluster, "gamma").memory_left_bytes, 500 << 20);
    protect(&cluster, &db, "beta", "gamma");
    cluster.lab.kill_host("beta").expect("beta dies");
    cluster.wait_primary("gamma", &db, &["unprotected"]).expect("gamma takes over");
    assert_eq!(look::room(&cluster, "gamma").memory_left_bytes, 244 << 20, "it keeps its memory");
    let text = refused(&cluster, &web, "alpha");
    assert!(text.contains("has 244.0 MiB of 500.0 MiB"), "{text}");
    web_load.verdict(&cluster);
    db_load.verdict(&cluster);
}

#[test]
fn a_checkpoint_that_there_is_no_memory_for_ends_protection_and_not_the_guest() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    // 384 MiB are taken by the standby; checkpoints of more than some 112 MiB do not fit.
    let little = "[backup]\nmemory = \"400MiB\"\n[detection]\nheartbeat_ms = 50\ntimeout_ms = 1000\n";
    // Long epochs are large ones.
    let guest = Setup::new("large").detection(little).interval(Duration::from_secs(2)).boot();
    let mark = look::mark(&guest.cluster, "alpha");
    guest.pulse(|mut pulse| {
        // Connected before: each answer waits for a checkpoint then.
        guest.protect("alpha", "beta");
        pulse.dirty(40_000, "full", "seq+page").expect("it obeys");
    });
    let lost = look::event(&guest.cluster, "alpha", "backup_lost", mark).text;
    assert!(lost.contains("host beta") && lost.contains("raise [backup] memory"), "{lost}");
    assert_eq!(guest.is_at("alpha").term, 2);
    guest.pulse(|mut pulse| pulse.stop().expect("it obeys"));
    guest.cluster.wait_gone("beta", &guest.vm).expect("its standby goes");
    assert_eq!(look::room(&guest.cluster, "beta").memory_left_bytes, 400 << 20);
    let guest = guest.load("log").verdict();
    guest.protect("alpha", "beta");
}
