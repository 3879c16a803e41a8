//! Made-up numbers for the report: they look like a run and are none.

use api::summary::Summary;
use lab::client::{BenchmarkRow, Bucket, Verification};
use lab::report::{Benchmark, DemoReport, EpochPoint, Kill, OutageSplit, Phase};

/// Noise between 0 and 1 that is the same every time.
fn noise(seed: u64) -> f64 {
    let mixed = (seed.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64 / f64::from(1 << 24)
}

fn summary(median: f64, p99: f64, max: f64, count: u64) -> Summary {
    Summary { min: median * 0.6, median, p99, max, count }
}

fn timeline() -> Vec<Bucket> {
    let bucket = |index: u64| {
        let protected = (80..300).contains(&index);
        let dead = (301..304).contains(&index);
        let (rate, median) = if protected { (95.0, 31.0) } else { (480.0, 1.6) };
        let operations = if dead { 0 } else { (rate * (0.85 + 0.3 * noise(index))) as u64 };
        let stretch = if index == 304 { 12.0 } else { 1.0 + noise(index * 7) * 0.4 };
        let latency_ms = (!dead)
            .then(|| summary(median * stretch, median * 1.7 * stretch, median * 2.4 * stretch, operations));
        Bucket { at_ms: index as f64 * 100.0, operations, latency_ms }
    };
    (0..420).map(bucket).collect()
}

fn around_kill() -> Vec<Bucket> {
    let bucket = |index: u64| {
        let operations = match index {
            0..50 if index.is_multiple_of(3) => 28 + (noise(index) * 9.0) as u64,
            83.. => 44 + (noise(index) * 12.0) as u64,
            _ => 0,
        };
        Bucket { at_ms: 29_550.0 + index as f64 * 10.0, operations, latency_ms: None }
    };
    (0..150).map(bucket).collect()
}

fn epochs() -> Vec<EpochPoint> {
    let point = |epoch: u64| EpochPoint {
        epoch,
        at_ms: 8_000.0 + epoch as f64 * 27.0,
        pause_us: (1_700.0 + 900.0 * noise(epoch) + if epoch.is_multiple_of(97) { 5_500.0 } else { 0.0 })
            as u64,
        dirty_pages: (180.0 + 260.0 * noise(epoch * 3) + if epoch.is_multiple_of(53) { 2_000.0 } else { 0.0 })
            as u64,
        bytes_wire: (180_000.0 * (0.5 + noise(epoch * 5))) as u64,
    };
    (0..810).map(point).collect()
}

/// A report of a run that never was.
pub fn sample_report() -> DemoReport {
    let row = |test: &str, rps: f64| BenchmarkRow {
        test: test.into(),
        requests_per_second: rps,
        mean_ms: 1.5,
        min_ms: 0.4,
        p50_ms: 1.4,
        p95_ms: 2.2,
        p99_ms: 3.9,
        max_ms: 9.8,
    };
    let phase = |name: &str, from_ms, to_ms| Phase { name: name.into(), from_ms, to_ms };
    DemoReport {
        acknowledged_writes: 123_456,
        lost_acknowledged_writes: 0,
        connections: 8,
        connections_broken: 0,
        outage_ms: 331.4,
        outage: OutageSplit {
            before_kill_ms: Some(3.1),
            detection_ms: Some(102.0),
            grant_ms: Some(4.4),
            promotion_ms: Some(18.3),
            first_packet_ms: Some(1.2),
        },
        epochs: 810,
        interval_ms: Some(25.0),
        pause_ms: summary(2.1, 4.6, 7.9, 810),
        added_latency_ms: summary(28.4, 44.0, 61.0, 1500),
        latency_unprotected_ms: Some(summary(0.9, 2.0, 4.0, 1500)),
        latency_protected_ms: Some(summary(29.3, 45.0, 62.0, 1500)),
        gate_hold_ms: Some(summary(14.0, 33.0, 60.0, 9000)),
        verification: Verification {
            lists: 8,
            entries: 123_460,
            unacknowledged: 4,
            ..Verification::default()
        },
        kill: Kill { at_ms: 30_050.0, what: "Host alpha: cables pulled, agent and QEMU killed".into() },
        phases: vec![
            phase("unprotected", 0.0, 8_000.0),
            phase("protected", 8_000.0, 30_050.0),
            phase("after the failover", 30_050.0, 42_000.0),
        ],
        timeline: timeline(),
        timeline_bucket_ms: 100.0,
        around_kill: around_kill(),
        around_kill_bucket_ms: 10.0,
        epoch_series: epochs(),
        benchmarks: vec![
            Benchmark { phase: "unprotected".into(), rows: vec![row("SET", 5200.0), row("GET", 5900.0)] },
            Benchmark { phase: "protected".into(), rows: vec![row("SET", 860.0), row("GET", 910.0)] },
        ],
        facts: vec![
            ("NOT A MEASUREMENT".into(), "made-up numbers, to look at the page".into()),
            ("Guest".into(), "Debian cloud kernel, Redis 7, 512 MiB, 1 CPU, TCG".into()),
        ],
        commands: vec![
            "undying vm protect redis --to beta --interval 25ms".into(),
            "a <strange> command".into(),
        ],
    }
}
