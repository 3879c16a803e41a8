//! A busy host is not a dead one: with the times of an operator who says nothing of them, and every processor loaded.

use crate::kit::{Setup, look, possible};
use api::types::{ProtectRequest, RepairRequest};
use lab::cluster::Cluster;
use protocol::HostName;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How many seconds; without it a minute.
const SECONDS: &str = "UNDYING_BUSY_SECONDS";

/// What hosts told of losses. Nothing dies here: each is a false suspicion.
fn losses(cluster: &Cluster) -> Vec<String> {
    let told = |host: &str| cluster.ask(host, |api| api.events(0)).expect("the agent answers");
    let events = ["alpha", "beta"].into_iter().flat_map(told);
    let lost = events
        .filter(|event| ["backup_lost", "primary_lost"].iter().any(|name| event.what["event"] == *name));
    lost.map(|event| event.text).collect()
}

#[test]
#[ignore = "takes as long as it is given"]
fn with_every_processor_loaded_nobody_is_suspected() {
    if !possible() {
        return;
    }
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let loaded = Setup::new("busy").detection("").boot().load("log");
    let request = ProtectRequest {
        repair: RepairRequest::default(),
        ..ProtectRequest::following(HostName::new("beta").expect("a name"))
    };
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request).expect("it is protected");
    loaded.progress();
    let (over, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let burners = 2 * std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..burners {
            scope.spawn(|| {
                let mut word = 1_u64;
                while !over.load(Ordering::Relaxed) {
                    word = black_box(word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            });
        }
        while began.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_secs(1));
        }
        over.store(true, Ordering::Relaxed);
    });
    for host in ["alpha", "beta"] {
        let status = look::status(&loaded.cluster, host, &loaded.vm);
        println!("{host}: {:?}", status.map(|status| (status.phase, status.term, status.detection)));
    }
    let losses = losses(&loaded.cluster);
    println!("{seconds} s, {} false suspicions: {losses:#?}", losses.len());
    assert!(losses.is_empty());
    loaded.progress();
    loaded.verdict();
}
