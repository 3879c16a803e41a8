//! A link, and a staging memory, that are too small for what the guest writes: it is slowed down, nothing is lost.

use crate::kit::proxy::Proxy;
use crate::kit::{Loaded, Setup, look, possible, possible_in_qemu, wait_for};
use api::types::ProtectRequest;
use protocol::HostName;
use std::time::Duration;

/// Times for a link on which a frame of 1 MiB takes a quarter of a second.
const PATIENT: &str = "[detection]\nheartbeat_ms = 100\ntimeout_ms = 3000\n";
/// The agent's buffers are made with the session; what else it may take while it waits for a slow link.
const BOUND: u64 = 48 << 20;

/// The guest at alpha, under load, behind a relay; it may be slowed by so many percent.
fn behind_a_relay(tag: &'static str, max_slowdown: u8) -> (Loaded, Proxy) {
    let setup = Setup::new(tag).detection(PATIENT);
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    let loaded = setup.boot_on(cluster).load("log");
    let request = ProtectRequest {
        max_slowdown: Some(max_slowdown),
        ..ProtectRequest::even(HostName::new("beta").expect("a name"), 25_000)
    };
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request).expect("it is protected");
    loaded.progress();
    (loaded, proxy)
}

#[test]
fn a_guest_that_writes_faster_than_the_link_carries_loses_a_part_of_its_time_as_long_as_it_does() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let (loaded, proxy) = behind_a_relay("brake", 80);
    // 20 MB a second of pages that do not compress, over a link that carries 8.
    loaded.pulse(|mut pulse| pulse.dirty(5_000, "5000", "random+page")).expect("an order");
    let agent = look::agent(&loaded.cluster, "alpha");
    loaded.progress();
    let (before, mark) = (agent.resident(), look::mark(&loaded.cluster, "alpha"));
    proxy.throttle(8 << 20);
    let told = look::event(&loaded.cluster, "alpha", "slowed", mark);
    assert!(told.text.contains("of its time"), "{}", told.text);
    let (mut most, mut epochs) = (0, None);
    let slowed = || {
        most = most.max(agent.resident());
        let status = loaded.status("alpha");
        assert_eq!(status.phase, "protected", "{}", look::logs(&loaded.cluster));
        assert!(status.slowed_percent <= 80, "{}", status.slowed_percent);
        let began = *epochs.get_or_insert(status.epoch);
        (status.slowed_percent > 0 && status.epoch > began + 100).then_some(())
    };
    wait_for("100 epochs of a guest that is slowed", slowed, || look::logs(&loaded.cluster));
    assert!(most < before + BOUND, "the agent grew from {before} to {most} bytes");
    loaded.progress();
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    proxy.throttle(0);
    look::event(&loaded.cluster, "alpha", "full_speed", mark);
    assert!(!look::has_event(&loaded.cluster, "alpha", "backup_lost", mark));
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn a_slow_link_stops_a_guest_that_is_not_slowed_and_not_more() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let (loaded, proxy) = behind_a_relay("slow", 0);
    // 20 MB a second of pages that do not compress, over a link that carries 4.
    loaded.pulse(|mut pulse| pulse.dirty(5_000, "5000", "random+page")).expect("an order");
    let agent = look::agent(&loaded.cluster, "alpha");
    loaded.progress();
    let (before, mark) = (agent.resident(), look::mark(&loaded.cluster, "alpha"));
    proxy.throttle(4 << 20);
    let told = look::event(&loaded.cluster, "alpha", "throttled", mark);
    assert!(told.text.contains("stands still"), "{}", told.text);
    let mut most = 0;
    let mut seen = false;
    let slowed = || {
        most = most.max(agent.resident());
        let status = loaded.status("alpha");
        assert_eq!(status.phase, "protected", "{}", look::logs(&loaded.cluster));
        seen |= status.throttled;
        (seen && status.throttled_ms > 3_000.0).then_some(())
    };
    wait_for("3 s of standing still", slowed, || look::logs(&loaded.cluster));
    assert!(most < before + BOUND, "the agent grew from {before} to {most} bytes");
    // Slow, but alive and protected.
    loaded.progress();
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    proxy.throttle(0);
    let recovered = || {
        let status = loaded.status("alpha");
        let epoch = status.epoch;
        let later = wait_for(
            "epochs",
            || Some(loaded.status("alpha")).filter(|later| later.epoch > epoch + 40),
            || look::logs(&loaded.cluster),
        );
        (later.throttled_ms <= status.throttled_ms && !later.throttled).then_some(())
    };
    wait_for("40 epochs without standing still", recovered, || look::logs(&loaded.cluster));
    assert!(!look::has_event(&loaded.cluster, "alpha", "backup_lost", mark));
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn nothing_leaves_that_the_backup_does_not_have() {
    if !possible() {
        return;
    }
    let setup = Setup::new("stall").detection(PATIENT);
    let cluster = setup.cluster();
    let proxy = Proxy::between(&cluster, "alpha", "beta");
    let loaded = setup.start_on(cluster);
    proxy.stall();
    // The guest goes on for some epochs, of which the backup hears nothing; then it must stand still.
    let full = || loaded.status("alpha").throttled.then_some(());
    wait_for("the bound on epochs in flight", full, || look::logs(&loaded.cluster));
    let heard = loaded.status("beta").epoch;
    let sent = loaded.status("alpha").epoch;
    assert!(sent >= heard + 4, "{sent} sent, {heard} committed");
    // All that the guest answered in those epochs dies with alpha: no client may have seen it.
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn an_epoch_larger_than_the_staging_buffers_is_whole() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    // 20,000 whole pages that do not compress in an epoch: 80 MB through buffers of 64 MiB.
    const PAGES: u64 = 20_000;
    const STAGING_PAGES: u64 = 16_384;
    let loaded = Setup::new("large").interval(Duration::from_millis(800)).start();
    loaded.pulse(|mut pulse| pulse.dirty(PAGES, "full", "seq+page")).expect("an order");
    let large = || {
        let epochs = loaded.cluster.ask("alpha", |api| api.epochs(&loaded.vm, 0)).expect("epochs");
        let whole = |epoch: &&api::types::EpochRecord| epoch.dirty_pages > STAGING_PAGES && epoch.ack_us > 0;
        (epochs.iter().filter(whole).count() >= 3).then_some(())
    };
    wait_for("three large epochs", large, || look::logs(&loaded.cluster));
    // The answer leaves when the epoch that holds it is committed: what beta goes on from has every page.
    loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
    loaded.fails_over("alpha", "beta");
    // The guest knows what it wrote, page by page.
    assert_eq!(loaded.pulse(|mut pulse| pulse.check()).expect("its memory is whole"), PAGES);
    loaded.verdict();
}
