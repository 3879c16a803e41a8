//! A replication stream that is damaged on its way: refused, never applied, never a panic.

use crate::kit::proxy::{Fault, Proxy};
use crate::kit::{Loaded, Setup, look, possible};
use protocol::wire::Kind;

/// Damages a frame of the protected VM's stream: the backup refuses it with this reason, and the VM goes on at
/// alpha, which claims before the backup may.
fn refused(loaded: &Loaded, proxy: &Proxy, kind: Kind, fault: Fault, reason: &str) {
    let (alpha, beta) = (look::mark(&loaded.cluster, "alpha"), look::mark(&loaded.cluster, "beta"));
    let term = loaded.status("alpha").term;
    proxy.damage(kind, fault);
    let lost = look::event(&loaded.cluster, "alpha", "backup_lost", alpha);
    assert!(!proxy.is_armed(), "{fault:?}: the backup was lost before the damage was done: {}", lost.text);
    assert!(lost.text.contains(reason), "{fault:?} of {kind:?} is refused, but so: {}", lost.text);
    assert_eq!(loaded.runs_at("alpha").term, term + 1, "{fault:?}");
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    assert!(!look::has_event(&loaded.cluster, "beta", "promoting", beta), "{fault:?}");
    loaded.protect("alpha", "beta");
    loaded.progress();
}

/// After all the damage a failover is as good as any.
fn ends_well(loaded: Loaded) {
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

fn start(tag: &'static str) -> (Loaded, Proxy) {
    let setup = Setup::new(tag);
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    (setup.start_on(cluster), proxy)
}

#[test]
fn damaged_bytes_are_refused() {
    if !possible() {
        return;
    }
    let (loaded, proxy) = start("flip");
    let checksum = "checksum";
    refused(&loaded, &proxy, Kind::Pages, Fault::FlipHeader, checksum);
    refused(&loaded, &proxy, Kind::Pages, Fault::FlipBody, checksum);
    refused(&loaded, &proxy, Kind::Device, Fault::FlipBody, checksum);
    refused(&loaded, &proxy, Kind::Commit, Fault::FlipBody, checksum);
    refused(&loaded, &proxy, Kind::Heartbeat, Fault::Noise, "not an Undying frame");
    ends_well(loaded);
}

#[test]
fn wrong_frames_with_right_checksums_are_refused() {
    if !possible() {
        return;
    }
    let (loaded, proxy) = start("wrong");
    refused(&loaded, &proxy, Kind::Pages, Fault::OtherVm, "another VM");
    refused(&loaded, &proxy, Kind::Commit, Fault::LowerTerm, "refused");
    refused(&loaded, &proxy, Kind::Commit, Fault::OtherSession, "another session");
    refused(&loaded, &proxy, Kind::Device, Fault::Version, "version 200");
    refused(&loaded, &proxy, Kind::Pages, Fault::TooLong, "longer than the limit");
    refused(&loaded, &proxy, Kind::Pages, Fault::ForeignPages, "does not exist");
    ends_well(loaded);
}

#[test]
fn repeated_and_missing_frames_are_refused() {
    if !possible() {
        return;
    }
    let (loaded, proxy) = start("order");
    refused(&loaded, &proxy, Kind::Pages, Fault::Replay, "replay");
    refused(&loaded, &proxy, Kind::Commit, Fault::Replay, "replay");
    refused(&loaded, &proxy, Kind::Pages, Fault::Skip, "missing");
    // Nothing but the Commit's counts can tell.
    refused(&loaded, &proxy, Kind::Pages, Fault::SkipAndRenumber, "not whole");
    refused(&loaded, &proxy, Kind::Commit, Fault::SkipAndRenumber, "is open");
    ends_well(loaded);
}

#[test]
fn a_backup_whose_stream_is_cut_inside_an_epoch_takes_over_from_the_one_before() {
    if !possible() {
        return;
    }
    let (loaded, proxy) = start("half");
    let process = loaded.process("alpha");
    // The primary does not hear of it: the backup asks first, and has half an epoch in its hands.
    proxy.damage(Kind::Device, Fault::TruncateInTheDark);
    assert_eq!(loaded.runs_at("beta").term, 2);
    loaded.cluster.wait_gone("alpha", &loaded.vm).expect("alpha is fenced");
    process.wait_gone();
    loaded.verdict();
}

#[test]
fn a_damaged_first_copy_leaves_the_vm_as_it_was() {
    if !possible() {
        return;
    }
    let setup = Setup::new("copy");
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    let loaded = setup.boot_on(cluster).load("log");
    for (fault, reason) in [(Fault::FlipBody, "checksum"), (Fault::ForeignPages, "does not exist")] {
        let mark = look::mark(&loaded.cluster, "alpha");
        proxy.damage(Kind::Pages, fault);
        loaded.ask_protect("alpha", "beta").expect("accepted");
        let failed = look::event(&loaded.cluster, "alpha", "protect_failed", mark);
        assert!(failed.text.contains(reason), "{}", failed.text);
        // Nobody was entitled to anything: the term stays.
        assert_eq!(loaded.runs_at("alpha").term, 1);
        loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    }
    loaded.protect("alpha", "beta");
    ends_well(loaded);
}
