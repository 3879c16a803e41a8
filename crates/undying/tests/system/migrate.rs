//! Live migration: there and back, of VMs that are protected too, with their disks and open connections.

use crate::disks::{self, IMAGE, assert_sound};
use crate::kit::{Guest, Loaded, Setup, look, possible, possible_in_qemu, wait_for};
use crate::repair::{THREE, guarded, host, undying};
use api::migration::{MigrateRequest, MigrationStatus};
use api::types::VmStatus;
use lab::guest::pulse::PulseClient;

/// Asks for a migration within the usual limits, or those that `change` makes of them.
pub fn ask(guest: &Guest, from: &str, to: &str, change: impl FnOnce(&mut MigrateRequest)) -> u64 {
    let mark = look::mark(&guest.cluster, from);
    let mut request = MigrateRequest::usual(host(to));
    change(&mut request);
    guest.cluster.ask(from, |api| api.migrate(&guest.vm, &request)).expect("the migration is accepted");
    mark
}

/// Waits until the VM runs at `to`, protected by nobody, its clients get answers, and nothing of it is left at `from`.
pub fn arrived(loaded: &Loaded, from: &str, to: &str) -> VmStatus {
    let status = loaded.runs_at(to);
    loaded.cluster.wait_gone(from, &loaded.vm).expect("the old host lets go");
    status
}

/// Brings a VM with a disk there, within two seconds of standing still, and waits until it serves.
pub fn migrates(loaded: &Loaded, from: &str, to: &str) -> u64 {
    let mark = ask(loaded, from, to, |request| request.limits.max_downtime = protocol::Micros(2_000_000));
    arrived(loaded, from, to);
    mark
}

/// Waits until a migration, as its host shows it, is so.
pub fn wait_status(guest: &Guest, at: &str, what: &str, so: impl Fn(&MigrationStatus) -> bool) -> VmStatus {
    let found = || {
        let status = look::status(&guest.cluster, at, &guest.vm)?;
        status.migration.as_ref().is_some_and(&so).then_some(status)
    };
    wait_for(what, found, || look::logs(&guest.cluster))
}

/// The guest writes so many whole pages a second, again and again the same, of which none packs.
pub fn busy(guest: &Guest, pages: u64, per_second: u64) {
    guest
        .pulse(|mut pulse: PulseClient| pulse.dirty(pages, &per_second.to_string(), "random+page"))
        .expect("an order");
}

#[test]
fn a_vm_migrates_there_and_back_under_load() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let loaded = Setup::new("mig").boot().load("log");
    for (term, (from, to)) in (2..).zip([("alpha", "beta"), ("beta", "alpha")]) {
        let (old, arrives) = (loaded.process(from), look::mark(&loaded.cluster, to));
        // Whole pages in order: what is missing or mixed in the copy shows.
        loaded.fills(6_000, "6000", 200);
        let mark = ask(&loaded, from, to, |request| request.limits.max_downtime = protocol::Micros(500_000));
        let status = arrived(&loaded, from, to);
        let sound = loaded.pulse(|mut pulse| pulse.check()).expect("the guest's memory is whole");
        assert!(sound > 100, "{sound} pages were looked at");
        old.wait_gone();
        assert_eq!((status.term, status.repair.on, status.migration), (term, false, None));
        let told = look::event(&loaded.cluster, to, "taking_over", arrives);
        assert_eq!(told.what["reason"], "Moved");
        let round = look::event(&loaded.cluster, from, "migration_round", mark);
        assert!(round.what["round"]["sent"].as_u64() > Some(1_000), "{}", round.what);
        let migrated = look::event(&loaded.cluster, from, "migrated", mark);
        assert!(migrated.what["wire_bytes"].as_u64() > Some(1 << 20), "{}", migrated.what);
        for (host, mark) in [(from, mark), (to, arrives)] {
            for event in ["backup_lost", "primary_lost", "protected", "checkpoint_failed", "throttled"] {
                assert!(!look::has_event(&loaded.cluster, host, event, mark), "{event} at {host}");
            }
        }
    }
    loaded.progress();
    assert_eq!(loaded.status("alpha").phase, "unprotected", "nobody protects it by himself");
    loaded.verdict();
}

#[test]
fn the_command_waits_and_says_what_it_came_to() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let loaded = Setup::new("migcmd").boot().load("log");
    busy(&loaded, 2_000, 2_000);
    let there = undying(&loaded, "alpha", "vm migrate web --to beta --max-downtime 2s --output json");
    assert!(there.status.success(), "{there:?}\n{}", look::logs(&loaded.cluster));
    let told: serde_json::Value = serde_json::from_slice(&there.stdout).expect("JSON");
    assert_eq!((&told["done"], &told["to"]), (&"migrate".into(), &"beta".into()));
    assert!(told["rounds"].as_u64() >= Some(1) && told["wire_bytes"].as_u64() > Some(1 << 20), "{told}");
    arrived(&loaded, "alpha", "beta");
    let back = undying(&loaded, "beta", "vm migrate web --to alpha --strategy stop-the-world");
    assert!(back.status.success(), "{back:?}\n{}", look::logs(&loaded.cluster));
    let said = String::from_utf8_lossy(&back.stdout);
    assert!(said.starts_with("VM web runs at host alpha now, after 1 rounds"), "{said}");
    arrived(&loaded, "beta", "alpha");
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    for (line, says) in [
        ("vm migrate web --to alpha", "runs at alpha already"),
        ("vm migrate web --to nowhere", "not among this host's peers"),
        ("vm migrate web --cancel", "is not being migrated"),
        ("vm migrate web --to beta --max-downtime 1ms", "allow a downtime of more than that"),
    ] {
        let refused = undying(&loaded, "alpha", line);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(says), "{line}: {said}");
    }
    loaded.verdict();
}

#[test]
fn a_protected_vm_moves_to_its_backup_and_is_protected_by_its_old_host() {
    if !possible() {
        return;
    }
    // Without repair: what keeps it protected is the migration.
    let loaded = Setup::new("migback").start();
    assert!(!loaded.status("alpha").repair.on);
    let standby = loaded.process("beta");
    let mark = ask(&loaded, "alpha", "beta", |_| ());
    let status = guarded(&loaded, "beta", "alpha");
    loaded.progress();
    assert_eq!((loaded.process("beta"), status.term), (standby, 2), "the standby's process goes on");
    assert!(!look::has_event(&loaded.cluster, "alpha", "migration_round", mark), "nothing was copied");
    assert!(!status.repair.on, "nothing by itself from here on, as before");
    loaded.fails_over("beta", "alpha");
    loaded.verdict();
}

#[test]
fn a_protected_vm_moves_to_a_third_host_and_ends_protected() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("migthird").hosts(THREE).start();
    let mark = ask(&loaded, "alpha", "gamma", |_| ());
    guarded(&loaded, "gamma", "alpha");
    loaded.progress();
    let migrated = look::event(&loaded.cluster, "alpha", "migrated", mark);
    assert_eq!(migrated.what["to"], "gamma");
    assert!(
        !look::has_event(&loaded.cluster, "alpha", "unprotected", mark),
        "{}",
        look::logs(&loaded.cluster)
    );
    assert!(look::status(&loaded.cluster, "beta", &loaded.vm).is_none(), "beta let go");
    loaded.fails_over("gamma", "alpha");
    loaded.verdict();
}

#[test]
fn a_disk_goes_along() {
    if !possible() {
        return;
    }
    let guest = disks::boot("migdisk");
    let loaded = guest.load("there");
    loaded.progress();
    migrates(&loaded, "alpha", "beta");
    let (guest, there) = loaded.verdict_and_reports();
    // The guest's memory is gone after this: Redis has what its disk has.
    guest.reboot("beta");
    guest.still_holds(&there);

    let loaded = guest.load("back");
    loaded.progress();
    let mark = migrates(&loaded, "beta", "alpha");
    let copied = look::event(&loaded.cluster, "beta", "disks_copied", mark);
    assert_eq!(copied.what["kind"], "difference", "alpha's old disk was of use: {}", copied.text);
    let (guest, back) = loaded.verdict_and_reports();
    guest.reboot("alpha");
    guest.still_holds(&there);
    guest.still_holds(&back);
    guest.stop("alpha");
    assert_sound(&guest.cluster.disk("alpha", IMAGE), guest.cluster.lab.directory());
}
