//! Owns the last chapter: the verdict, the numbers, and where to read more.

use super::story::Told;
use crate::stage::screen::{Screen, count};
use crate::stage::{HOSTS, Stage};
use anyhow::Result;
use api::summary::Summary;
use lab::report::{DemoReport, OutageSplit};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Shows how it ended.
pub fn show(screen: &mut Screen, told: &Told, report: &DemoReport, out: &Path, took: Duration) {
    screen.chapter("Verdict");
    let kept = report.connections - report.connections_broken;
    let rows = [
        ("acknowledged writes", count(report.acknowledged_writes)),
        ("of these lost", count(report.lost_acknowledged_writes)),
        ("connections kept", format!("{kept} of {}", report.connections)),
        (
            "outage, as the unluckiest client saw it",
            format!("{:.0} ms{}", report.outage_ms, parts(&report.outage)),
        ),
        ("the promotion itself", promotion(told)),
        ("checkpoints committed", count(report.epochs)),
        ("pause of the VM per checkpoint", spread(&report.pause_ms)),
        ("latency added to a request", spread(&report.added_latency_ms)),
        ("output waited in the gate", report.gate_hold_ms.as_ref().map_or("unknown".into(), spread)),
    ];
    for (name, value) in rows {
        screen.block(&format!("{name:<41} {value}"));
    }
    for problem in problems(told) {
        screen.bad(&problem);
    }
    screen.gap();
    let verdict = if report.held() {
        "HELD: the virtual machine outlived its host, and no client lost anything."
    } else {
        "BROKEN: the promise did not hold; the agents' logs are beside the report."
    };
    screen.strong(verdict, report.held());
    screen.gap();
    screen.block(&format!("read    {}", out.join("report.html").display()));
    screen.block(&format!("data    {}", out.join("result.json").display()));
    screen.block(&format!("logs    {}", out.join("logs").display()));
    screen.block(&format!("it took {:.0} s", took.as_secs_f64()));
}

fn parts(split: &OutageSplit) -> String {
    let parts = [
        ("detection", split.detection_ms),
        ("grant", split.grant_ms),
        ("promotion", split.promotion_ms),
        ("first packet", split.first_packet_ms),
    ];
    let known: Vec<String> =
        parts.into_iter().filter_map(|(name, ms)| Some(format!("{name} {:.0}", ms?))).collect();
    if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) }
}

fn promotion(told: &Told) -> String {
    let of = |ms: Option<f64>| ms.map_or("?".to_owned(), |ms| format!("{ms:.1}"));
    let moments = &told.moments;
    format!(
        "{} ms (resume {}; while the arbiter was asked: last checkpoint {}, devices {})",
        of(moments.promotion_ms),
        of(moments.resume_ms),
        of(moments.apply_ms),
        of(moments.load_ms)
    )
}

fn spread(found: &Summary) -> String {
    format!(
        "min {:.2}, median {:.2}, p99 {:.2} ms ({} times)",
        found.min,
        found.median,
        found.p99,
        count(found.count)
    )
}

fn problems(told: &Told) -> Vec<String> {
    let broken = told.writers.writers.iter();
    let broken = broken.filter_map(|writer| Some(format!("{}: {}", writer.key, writer.broken.as_ref()?)));
    broken.chain(told.verification.first_problem.clone()).collect()
}

/// Leaves everything running until Enter is pressed.
pub fn keep(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter("Look around");
    screen.say("Hosts and VM go on running. In another terminal, as root:");
    for host in HOSTS {
        screen.block(&format!(
            "target/release/undying --socket {} vm list",
            stage.cluster.socket(host).display()
        ));
    }
    let (client, target) = (stage.cluster.lab.client().name(), stage.target);
    screen.block(&format!("ip netns exec {client} redis-cli -h {} info server", target.ip()));
    screen.say("Press Enter to end.");
    // The end of the input ends it as well.
    let _ = std::io::stdin().read(&mut [0])?;
    Ok(())
}
