//! Several VMs: in both directions between two hosts, and two primaries that share a backup.

use crate::kit::load::Load;
use crate::kit::{INTERVAL, Setup, look, possible};
use lab::client::Server;
use lab::cluster::{Cluster, VmFile};
use lab::guest::redis::REDIS_PORT;
use protocol::VmName;

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
