//! The report: what programs read from it, what people see in it, with made-up numbers.

mod common;

use api::summary::Summary;
use lab::client::{Bucket, Sample};
use lab::report::{DemoReport, added_latency_ms};

#[test]
fn the_result_has_the_promised_fields() {
    let json = common::sample_report().to_json();
    for field in [
        "acknowledged_writes",
        "lost_acknowledged_writes",
        "connections",
        "connections_broken",
        "outage_ms",
        "epochs",
    ] {
        assert!(json[field].is_number(), "{field}: {}", json[field]);
    }
    for field in ["pause_ms", "added_latency_ms"] {
        for part in ["min", "median", "p99", "count"] {
            assert!(json[field][part].is_number(), "{field}.{part}");
        }
    }
    assert_eq!(json["verdict_held"], true);
    let back: DemoReport = serde_json::from_value(json).expect("a report");
    assert_eq!(back, common::sample_report());
}

#[test]
fn each_way_of_breaking_the_promise_is_a_broken_verdict() {
    let break_it: [fn(&mut DemoReport); 5] = [
        |report| report.lost_acknowledged_writes = 1,
        |report| report.connections_broken = 1,
        |report| report.acknowledged_writes = 0,
        |report| report.verification.holes = 1,
        |report| report.verification.strangers = 1,
    ];
    assert!(common::sample_report().held());
    for change in break_it {
        let mut report = common::sample_report();
        change(&mut report);
        assert!(!report.held() && report.verdict().starts_with("BROKEN"));
        assert!(report.to_html().contains("The promise was broken."));
    }
}

#[test]
fn the_page_is_whole_and_fetches_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    common::sample_report().write(directory.path()).expect("written");
    let page = std::fs::read_to_string(directory.path().join("report.html")).expect("a page");
    for outside in ["http://", "https://", "src=", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
    assert_eq!(page.matches("<svg").count(), 5);
    assert_eq!(page.matches("host killed").count(), 5);
    assert!(page.contains("outlived its host") && !page.contains("NaN") && !page.contains("inf\""));
    assert!(page.contains("a &lt;strange&gt; command"), "what comes from outside is escaped");
    assert!(directory.path().join("result.json").exists());
}

#[test]
fn a_run_without_replies_or_checkpoints_still_makes_a_page() {
    let mut report = common::sample_report();
    report.timeline = vec![Bucket { at_ms: 0.0, operations: 0, latency_ms: None }];
    report.epoch_series.clear();
    report.around_kill.clear();
    report.phases.clear();
    report.outage_ms = 0.0;
    let page = report.to_html();
    assert!(!page.contains("NaN") && !page.contains(">inf") && !page.contains(" inf"));
}

#[test]
fn added_latency_is_what_protection_adds_to_the_unprotected_median() {
    let unprotected = Summary::of([1.0, 2.0, 3.0]).expect("samples");
    let protected = [Sample { at_us: 0, latency_us: 30_000 }, Sample { at_us: 1, latency_us: 12_000 }];
    let added = added_latency_ms(&protected, unprotected).expect("samples");
    assert_eq!((added.min, added.max, added.count), (10.0, 28.0, 2));
}
