//! Migrations that do not arrive: cancelled, given up, or one of the hosts dies. The VM is never in two places, and nothing
//! is lost that would not have been lost without the migration.

use crate::kit::proxy::{Fault, Proxy};
use crate::kit::{Guest, Loaded, Setup, look, possible, possible_in_qemu, wait_for};
use crate::migrate::{arrived, ask, busy, wait_status};
use crate::repair::THREE;
use api::migration::{MigrateRequest, Stage};
use lab::cluster::Cluster;
use protocol::wire::Kind;
use std::time::Duration;

/// So slow that its first round takes far longer than a test needs to see it.
fn slowly(request: &mut MigrateRequest) {
    request.limits.rate_ceiling = Some(4 << 20);
}

/// The VM is in the middle of the first round of a slow migration to beta.
fn under_way(loaded: &Loaded) -> u64 {
    let mark = ask(loaded, "alpha", "beta", slowly);
    let copying = wait_status(loaded, "alpha", "copying", |migration| migration.stage == Stage::Copying);
    assert!(copying.warnings[0].contains("while it is migrated"), "{:?}", copying.warnings);
    let sent = || loaded.status("alpha").copy.is_some_and(|copy| copy.copied_bytes > 8 << 20).then_some(());
    wait_for("some of the first round", sent, || look::logs(&loaded.cluster));
    mark
}

/// The VM stays at alpha, where its clients get answers.
fn stays(loaded: &Loaded, mark: u64, why: &str) {
    let told = look::event(&loaded.cluster, "alpha", "stays", mark);
    assert!(told.text.contains(why), "{}", told.text);
    let status = loaded.runs_at("alpha");
    assert_eq!(status.migration, None);
}

#[test]
fn a_migration_is_cancelled_and_the_next_one_arrives() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("migstop").boot().load("log");
    let mark = under_way(&loaded);
    let busy = MigrateRequest::usual("beta".parse().expect("a name"));
    let again = loaded.cluster.ask("alpha", |api| api.migrate(&loaded.vm, &busy)).expect_err("one at a time");
    assert!(again.to_string().contains("is being migrated to beta"), "{again}");
    loaded.progress();
    loaded.cluster.ask("alpha", |api| api.cancel_migration(&loaded.vm)).expect("it ends");
    stays(&loaded, mark, "called it off");
    assert_eq!(loaded.status("alpha").term, 1, "the arbiter was not asked");
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    ask(&loaded, "alpha", "beta", |_| ());
    arrived(&loaded, "alpha", "beta");
    loaded.verdict();
}

#[test]
fn the_destination_dies_in_the_middle_of_a_round() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("migdest").hosts(THREE).boot().load("log");
    let mark = under_way(&loaded);
    loaded.cluster.lab.kill_host("beta").expect("the destination dies");
    stays(&loaded, mark, "nothing was heard");
    assert_eq!(loaded.status("alpha").term, 1, "the arbiter was not asked");
    // The second attempt, to another host.
    ask(&loaded, "alpha", "gamma", |_| ());
    arrived(&loaded, "alpha", "gamma");
    loaded.verdict();
}

/// The destination of a VM that `boot` starts at alpha dies with half of its last state, and the VM goes on at alpha.
pub fn destination_dies(setup: Setup, boot: impl FnOnce(Setup, Cluster) -> Guest) -> Loaded {
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    let loaded = boot(setup, cluster).load("log");
    proxy.damage(Kind::Commit, Fault::TruncateInTheDark);
    let mark = ask(&loaded, "alpha", "beta", |_| ());
    look::event(&loaded.cluster, "alpha", "departing", mark);
    loaded.cluster.lab.kill_host("beta").expect("the destination dies");
    stays(&loaded, mark, "nothing was heard");
    // It may have been entitled: only the next term lets the VM run on.
    assert_eq!(loaded.status("alpha").term, 2);
    loaded
}

#[test]
fn the_destination_dies_with_half_of_the_last_state() {
    if !possible() {
        return;
    }
    destination_dies(Setup::new("mighalf"), Setup::boot_on).verdict();
}

/// The source of a VM that `boot` starts at alpha dies when the destination has everything, and the VM goes on at beta.
pub fn source_dies(setup: Setup, boot: impl FnOnce(Setup, Cluster) -> Guest) -> Loaded {
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    let loaded = boot(setup, cluster).load("log");
    // The word that gives the VM up does not arrive.
    proxy.damage(Kind::Yield, Fault::TruncateInTheDark);
    ask(&loaded, "alpha", "beta", |_| ());
    let gone = || (!proxy.is_armed()).then_some(());
    wait_for("the Yield that is lost", gone, || look::logs(&loaded.cluster));
    loaded.cluster.lab.kill_host("alpha").expect("the source dies");
    let status = loaded.runs_at("beta");
    assert_eq!(status.term, 2);
    loaded
}

#[test]
fn the_source_dies_once_the_destination_has_everything() {
    if !possible() {
        return;
    }
    source_dies(Setup::new("migyield"), Setup::boot_on).verdict();
}

#[test]
fn a_vm_whose_source_dies_in_the_middle_dies_with_it_as_it_would_have_without() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("migsrc").boot().load("log");
    under_way(&loaded);
    let mark = look::mark(&loaded.cluster, "beta");
    loaded.cluster.lab.kill_host("alpha").expect("the source dies");
    look::event(&loaded.cluster, "beta", "standby_discarded", mark);
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("half a copy is no VM");
    assert!(!look::has_event(&loaded.cluster, "beta", "promoting", mark));
    // Nobody owns it, so it may be started anew.
    let error = loaded.cluster.start_vm("beta", &loaded.file).expect_err("who owned it?").to_string();
    assert!(error.contains("alpha"), "{error}");
    loaded.start_again("beta", false).expect("its owner is dead");
    loaded.cluster.wait_ready("beta", &loaded.vm).expect("the guest serves");
    look::assert_no_panic(&loaded.cluster);
}

/// 32 MB a second over 32 MB, of which a migration carries 16.
fn too_busy(loaded: &Loaded) {
    busy(loaded, 8_000, 8_000);
    loaded.progress();
}

fn bounded(request: &mut MigrateRequest) {
    request.limits.rate_ceiling = Some(16_000_000);
    request.limits.max_downtime = protocol::Micros(600_000);
}

#[test]
fn a_guest_that_writes_faster_than_the_link_is_left_alone() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let loaded = Setup::new("migfast").boot().load("log");
    too_busy(&loaded);
    let mark = ask(&loaded, "alpha", "beta", |request| {
        bounded(request);
        request.limits.max_slowdown = 0;
    });
    stays(&loaded, mark, "no more progress");
    let rounds = loaded.cluster.ask("alpha", |api| api.events(mark)).expect("events");
    let slowed = rounds.iter().any(|event| event.text.contains("slowed by 20 %"));
    assert!(!slowed, "it was not to be slowed");
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    loaded.verdict();
}

#[test]
fn a_guest_that_writes_faster_than_the_link_is_slowed_and_arrives() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let loaded = Setup::new("migslow").boot().load("log");
    too_busy(&loaded);
    let mark = ask(&loaded, "alpha", "beta", |request| {
        bounded(request);
        request.limits.max_slowdown = 90;
        request.limits.max_rounds = 200;
    });
    let slowed =
        wait_status(&loaded, "alpha", "the guest is slowed", |migration| migration.slowed_us > 50_000);
    assert!(slowed.migration.is_some_and(|migration| (20..=90).contains(&migration.slowdown)));
    arrived(&loaded, "alpha", "beta");
    let migrated = look::event(&loaded.cluster, "alpha", "migrated", mark);
    assert!(migrated.what["slowed_us"].as_u64() > Some(50_000), "{}", migrated.what);
    // It writes on, as fast as before.
    let before = loaded.pulse(|mut pulse| pulse.stats()).expect("statistics");
    std::thread::sleep(Duration::from_secs(1));
    let after = loaded.pulse(|mut pulse| pulse.stats()).expect("statistics");
    assert!(after.dirtied > before.dirtied, "{before:?} {after:?}");
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    loaded.verdict();
}
