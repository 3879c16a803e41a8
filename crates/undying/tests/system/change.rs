//! A VM's backup is changed while the VM stays protected, and whoever of the three hosts dies meanwhile.

use crate::disks::{IMAGE, MIB};
use crate::kit::proxy::{Fault, Proxy};
use crate::kit::{Loaded, Setup, look, possible, wait_for};
use crate::migrate::{ask, wait_status};
use crate::repair::{THREE, guarded, host, request, undying};
use api::migration::Stage;
use protocol::wire::Kind;
use std::time::Duration;

/// Under load at alpha, protected by beta, with a disk.
fn with_disk(tag: &'static str, to: &[&str]) -> Loaded {
    let setup = Setup::new(tag).hosts(THREE);
    let cluster = setup.cluster();
    cluster.make_disk("alpha", IMAGE, MIB).expect("a disk image");
    let file = setup.vm_file().on_disk(IMAGE);
    let loaded = setup.boot_file_on(cluster, file).load("log");
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request(to, None, 0)).expect("it is protected");
    loaded.progress();
    loaded
}

/// Gamma is being copied to, slowly, to be the backup and then the owner; beta protects the VM.
fn under_way(loaded: &Loaded) -> u64 {
    let mark = ask(loaded, "alpha", "gamma", |request| request.limits.rate_ceiling = Some(4 << 20));
    wait_status(loaded, "alpha", "copying", |migration| migration.stage == Stage::Copying);
    let sent = || loaded.status("alpha").copy.is_some_and(|copy| copy.copied_bytes > 8 << 20).then_some(());
    wait_for("some of the copy", sent, || look::logs(&loaded.cluster));
    let status = loaded.status("alpha");
    assert_eq!((status.phase.as_str(), &status.peer), ("protected", &Some(host("beta"))));
    assert_eq!(status.successor, Some(host("gamma")));
    loaded.progress();
    mark
}

/// The VM stays where it is, protected as it was.
fn stays(loaded: &Loaded, mark: u64, why: &str) {
    let told = look::event(&loaded.cluster, "alpha", "stays", mark);
    assert!(told.text.contains(why), "{}", told.text);
    let status = guarded(loaded, "alpha", "beta");
    assert_eq!((status.migration, status.successor, status.term), (None, None, 1));
}

/// Nothing of that was unprotected, nor asked of the arbiter.
fn never_alone(loaded: &Loaded, mark: u64) {
    for event in ["unprotected", "backup_lost", "arbiter_unreachable"] {
        assert!(
            !look::has_event(&loaded.cluster, "alpha", event, mark),
            "{event}\n{}",
            look::logs(&loaded.cluster)
        );
    }
}

#[test]
fn a_standby_leaves_its_host_and_the_vm_is_protected_all_the_while() {
    if !possible() {
        return;
    }
    let loaded = with_disk("change", &["beta", "gamma"]);
    let mark = look::mark(&loaded.cluster, "alpha");
    let drained = undying(&loaded, "beta", "host drain");
    assert!(drained.status.success(), "{drained:?}\n{}", look::logs(&loaded.cluster));
    guarded(&loaded, "alpha", "gamma");
    assert!(look::status(&loaded.cluster, "beta", &loaded.vm).is_none());
    let left = look::room(&loaded.cluster, "beta").remnant_bytes;
    assert_eq!(left, 0, "a host that is being drained is for nothing");
    loaded.progress();
    let copied = look::event(&loaded.cluster, "alpha", "disks_copied", mark);
    assert_eq!(copied.what["peer"], "gamma", "{}", copied.text);
    // And back, by an operator, in the same term.
    assert!(undying(&loaded, "beta", "host undrain").status.success());
    let back = undying(&loaded, "alpha", "vm protect web --to beta --to gamma --interval 10ms");
    assert!(back.status.success(), "{back:?}\n{}", look::logs(&loaded.cluster));
    assert_eq!(String::from_utf8_lossy(&back.stdout), "VM web is protected by host beta\n");
    let status = guarded(&loaded, "alpha", "beta");
    assert_eq!(status.interval_us, 10_000);
    let resigned = look::event(&loaded.cluster, "alpha", "resigned", mark);
    assert_eq!(resigned.what["peer"], "beta");
    never_alone(&loaded, mark);
    assert_eq!(loaded.status("alpha").term, 1);
    loaded.fails_over("alpha", "beta");
    let (guest, reports) = loaded.verdict_and_reports();
    // Its memory is gone after this: Redis has what was brought to the disk at beta, the second time beside gamma's checkpoints.
    guest.reboot("beta");
    guest.still_holds(&reports);
}

#[test]
fn the_owner_dies_while_its_backup_is_changed() {
    if !possible() {
        return;
    }
    let loaded = with_disk("chowner", &["beta"]);
    under_way(&loaded);
    let mark = look::mark(&loaded.cluster, "gamma");
    loaded.fails_over("alpha", "beta");
    look::event(&loaded.cluster, "gamma", "standby_discarded", mark);
    assert!(!look::has_event(&loaded.cluster, "gamma", "promoting", mark), "half a copy is no VM");
    loaded.verdict();
}

#[test]
fn the_new_backup_dies_while_it_is_copied_to() {
    if !possible() {
        return;
    }
    let loaded = with_disk("chnew", &["beta"]);
    let mark = under_way(&loaded);
    loaded.cluster.lab.kill_host("gamma").expect("it dies");
    stays(&loaded, mark, "nothing was heard");
    never_alone(&loaded, mark);
    loaded.progress();
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn the_old_backup_dies_while_its_successor_is_copied_to() {
    if !possible() {
        return;
    }
    let loaded = with_disk("chold", &["beta"]);
    let mark = under_way(&loaded);
    loaded.cluster.lab.kill_host("beta").expect("it dies");
    look::event(&loaded.cluster, "alpha", "backup_lost", mark);
    // Nobody protects it then, and it migrates like any such VM, at no more than it was asked to.
    look::event(&loaded.cluster, "alpha", "migrating", mark);
    loaded.progress();
    loaded.cluster.ask("alpha", |api| api.cancel_migration(&loaded.vm)).expect("it ends");
    loaded.runs_at("alpha");
    loaded.verdict();
}

#[test]
fn a_change_that_is_called_off_costs_nothing() {
    if !possible() {
        return;
    }
    let loaded = with_disk("choff", &["beta"]);
    let mark = under_way(&loaded);
    loaded.cluster.ask("alpha", |api| api.cancel_migration(&loaded.vm)).expect("it ends");
    stays(&loaded, mark, "called it off");
    loaded.cluster.wait_gone("gamma", &loaded.vm).expect("gamma throws its copy away");
    never_alone(&loaded, mark);
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

/// The checkpoint that both backups are sent is lost on its way to one of them, and that one's link with it.
fn torn(tag: &'static str, to: &str) {
    let setup = Setup::new(tag).hosts(THREE);
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", to);
    let guest = setup.boot_on(cluster);
    guest.protect("alpha", "beta");
    let loaded = guest.load("log");
    // Beta's checkpoints go on; gamma's first one is the joint one. Beta's answer to it is what it is asked then.
    proxy.damage(if to == "gamma" { Kind::Commit } else { Kind::Resign }, Fault::TruncateInTheDark);
    let mark = ask(&loaded, "alpha", "gamma", |_| ());
    let lost = look::event(&loaded.cluster, "alpha", "backup_lost", mark);
    assert_eq!(lost.what["peer"], to, "{}", lost.text);
    // One of the three goes on, and the clients lose nothing.
    let owner = || {
        let owners = look::owners(&loaded.cluster, THREE, &loaded.vm);
        (owners.len() == 1).then(|| owners[0].clone())
    };
    wait_for("one owner", owner, || look::logs(&loaded.cluster));
    loaded.progress();
    loaded.verdict();
}

#[test]
fn the_link_to_the_new_backup_is_lost_with_the_checkpoint_of_both() {
    if possible() {
        torn("chcommit", "gamma");
    }
}

#[test]
fn the_link_to_the_old_backup_is_lost_with_the_word_that_it_may_go() {
    if possible() {
        torn("chresign", "beta");
    }
}

#[test]
fn the_owner_dies_when_both_have_the_checkpoint() {
    if !possible() {
        return;
    }
    let setup = Setup::new("chboth").hosts(THREE);
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    let guest = setup.boot_on(cluster);
    guest.protect("alpha", "beta");
    let loaded = guest.load("log");
    proxy.damage(Kind::Resign, Fault::TruncateInTheDark);
    let marks = ["beta", "gamma"].map(|host| look::mark(&loaded.cluster, host));
    ask(&loaded, "alpha", "gamma", |_| ());
    let asked = || (!proxy.is_armed()).then_some(());
    wait_for("the word that is lost", asked, || look::logs(&loaded.cluster));
    loaded.cluster.lab.kill_host("alpha").expect("the owner dies");
    let promoted = || {
        let done = |(at, mark): (&str, u64)| look::has_event(&loaded.cluster, at, "promoting", mark);
        let [beta, gamma] = [("beta", marks[0]), ("gamma", marks[1])].map(done);
        (beta || gamma).then_some((beta, gamma))
    };
    let (beta, gamma) = wait_for("one of the two", promoted, || look::logs(&loaded.cluster));
    assert!(beta != gamma, "{}", look::logs(&loaded.cluster));
    loaded.progress();
    loaded.verdict();
}

/// Where the VM runs, and who protects it.
fn settled(loaded: &Loaded) -> (&'static str, &'static str) {
    let found = || {
        let owner = THREE.iter().find(|at| {
            let status = look::status(&loaded.cluster, at, &loaded.vm);
            status.is_some_and(|status| status.phase == "protected" && status.successor.is_none())
        })?;
        let peer = look::status(&loaded.cluster, owner, &loaded.vm)?.peer?;
        let backup = THREE.iter().find(|at| host(at) == peer)?;
        let standby = look::status(&loaded.cluster, backup, &loaded.vm)?;
        (standby.phase == "armed").then_some((*owner, *backup))
    };
    wait_for("the VM, protected somewhere", found, || look::logs(&loaded.cluster))
}

#[test]
fn the_owner_dies_at_any_moment_of_a_change() {
    if !possible() {
        return;
    }
    let loaded = with_disk("chany", &["beta", "gamma"]);
    for after_ms in [60, 350, 500, 620, 700] {
        let (owner, backup) = settled(&loaded);
        let other = *THREE.iter().find(|at| **at != owner && **at != backup).expect("there are three");
        let wish = request(&[other, backup], None, 0);
        loaded.cluster.ask(owner, |api| api.protect(&loaded.vm, &wish)).expect("it is accepted");
        std::thread::sleep(Duration::from_millis(after_ms));
        loaded.cluster.lab.kill_host(owner).expect("the owner dies");
        let goes_on = || {
            let owners = look::owners(&loaded.cluster, &[backup, other], &loaded.vm);
            (owners.len() == 1).then_some(())
        };
        wait_for("one of the other two", goes_on, || look::logs(&loaded.cluster));
        loaded.progress();
        loaded.cluster.revive(owner).expect("it is back");
    }
    settled(&loaded);
    loaded.verdict();
}
