//! Owns the page for people: the verdict first, then what the client saw, why, and how it was measured.

use std::fmt::Write as _;

use super::chart::{Chart, Scale};
use super::html::{count, escape, ms, plain, summary_row, table};
use super::{DemoReport, EpochPoint};
use crate::client::Bucket;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn render(report: &DemoReport) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Undying: {}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n",
        escape(&report.verdict())
    );
    for section in
        [heading, tiles, client_section, outage_section, checkpoint_section, numbers, method, circumstances]
    {
        page.push_str(&section(report));
    }
    page.push_str("</main></body></html>\n");
    page
}

fn heading(report: &DemoReport) -> String {
    let (class, sign, title) = if report.held() {
        ("good", "✓", "The virtual machine outlived its host.")
    } else {
        ("bad", "✗", "The promise was broken.")
    };
    let problem = report.verification.first_problem.as_deref().unwrap_or_default();
    format!(
        "<h1>A running VM outlives its host</h1>\n\
         <p class=\"soft\">A Redis server in a stock QEMU guest, checkpointed to a second host {} while clients \
         write to it. Then its host was killed.</p>\n\
         <div class=\"verdict {class}\"><span class=\"sign\">{sign}</span><div><b>{title}</b>{} {}</div></div>\n",
        report.interval_ms.map_or("whenever output waits".into(), |ms| format!("every {} ms", plain(ms))),
        escape(&sentence(report)),
        escape(problem)
    )
}

fn sentence(report: &DemoReport) -> String {
    let kept = report.connections.saturating_sub(report.connections_broken);
    format!(
        "{} acknowledged writes, {} lost. {kept} of {} connections stayed open. The unluckiest client waited {} ms.",
        count(report.acknowledged_writes),
        count(report.lost_acknowledged_writes),
        report.connections,
        ms(report.outage_ms)
    )
}

fn tiles(report: &DemoReport) -> String {
    let kept = report.connections.saturating_sub(report.connections_broken);
    let tiles = [
        (
            count(report.lost_acknowledged_writes),
            "",
            format!("acknowledged writes lost, of {}", count(report.acknowledged_writes)),
        ),
        (kept.to_string(), "", format!("of {} connections kept", report.connections)),
        (ms(report.outage_ms), "ms", "outage, as the unluckiest client saw it".into()),
        (
            ms(report.pause_ms.median),
            "ms",
            format!("pause per checkpoint, median; p99 {} ms", ms(report.pause_ms.p99)),
        ),
        (
            ms(report.added_latency_ms.median),
            "ms",
            format!("latency added to a request, median; p99 {} ms", ms(report.added_latency_ms.p99)),
        ),
        (count(report.epochs), "", "checkpoints committed".into()),
    ];
    let tile = |(number, unit, what): (String, &str, String)| {
        format!(
            "<div class=\"tile\"><div class=\"n\">{number} <small>{unit}</small></div><div class=\"w\">{what}</div></div>\n"
        )
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.into_iter().map(tile).collect::<String>())
}

/// Beginning and end of everything on the timeline.
fn span(report: &DemoReport) -> (f64, f64) {
    let last = report.timeline.last().map_or(0.0, |bucket| bucket.at_ms + report.timeline_bucket_ms);
    (0.0, report.phases.iter().fold(last, |end, phase| end.max(phase.to_ms)))
}

/// A chart with the phases behind and the axes drawn.
fn timeline_chart(report: &DemoReport, label: &str, height: f64, scale: Scale, largest: f64) -> Chart {
    let mut chart = Chart::new(label, height, span(report), scale, largest);
    for (index, phase) in report.phases.iter().enumerate() {
        chart.band(&phase.name, (phase.from_ms, phase.to_ms), &format!("p{}", index % 4));
    }
    chart.axes();
    chart
}

fn client_section(report: &DemoReport) -> String {
    format!(
        "<h2>What the client saw</h2>\n\
         <p class=\"soft\">Replies as they arrived at the writers, in steps of {} ms. The dashed line is the kill. Point at \
         the charts for numbers.</p>\n{}{}",
        plain(report.timeline_bucket_ms),
        throughput(report),
        latency(report)
    )
}

fn throughput(report: &DemoReport) -> String {
    let per_second = |bucket: &Bucket| bucket.operations as f64 * 1000.0 / report.timeline_bucket_ms;
    let points: Vec<(f64, f64)> =
        report.timeline.iter().map(|bucket| (middle(report, bucket), per_second(bucket))).collect();
    let largest = points.iter().fold(0.0, |most: f64, (_, value)| most.max(*value));
    let mut chart = timeline_chart(report, "Throughput over time", 240.0, Scale::Linear, largest);
    chart.area(&points, "a");
    chart.tips(report.timeline.iter().map(|bucket| {
        let text = format!("{:.1} s: {:.0} writes/s", bucket.at_ms / 1000.0, per_second(bucket));
        (bucket.at_ms, bucket.at_ms + report.timeline_bucket_ms, text)
    }));
    chart.mark("host killed", report.kill.at_ms, "kill");
    figure(&[("a", "acknowledged writes per second")], &chart.finish())
}

fn latency(report: &DemoReport) -> String {
    let pick = |value: fn(&api::summary::Summary) -> f64| -> Vec<(f64, Option<f64>)> {
        report
            .timeline
            .iter()
            .map(|bucket| (middle(report, bucket), bucket.latency_ms.as_ref().map(value)))
            .collect()
    };
    let (median, p99, max) = (pick(|found| found.median), pick(|found| found.p99), pick(|found| found.max));
    let largest = max.iter().filter_map(|(_, value)| *value).fold(0.0, f64::max);
    let smallest = median.iter().filter_map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let floor = if smallest.is_finite() { 10f64.powf(smallest.max(0.01).log10().floor()) } else { 0.1 };
    let mut chart = timeline_chart(report, "Latency over time", 280.0, Scale::Logarithmic(floor), largest);
    chart.line(&max, "c");
    chart.line(&p99, "b");
    chart.line(&median, "a");
    chart.tips(report.timeline.iter().map(|bucket| {
        let numbers = bucket.latency_ms.as_ref().map_or("no reply".to_owned(), |found| {
            format!("median {} ms, p99 {} ms, longest {} ms", ms(found.median), ms(found.p99), ms(found.max))
        });
        let text = format!("{:.1} s: {numbers}", bucket.at_ms / 1000.0);
        (bucket.at_ms, bucket.at_ms + report.timeline_bucket_ms, text)
    }));
    chart.mark("host killed", report.kill.at_ms, "kill");
    figure(
        &[("a", "latency of a write: median"), ("b", "99th percentile"), ("c", "longest (ms, by factors)")],
        &chart.finish(),
    )
}

fn middle(report: &DemoReport, bucket: &Bucket) -> f64 {
    bucket.at_ms + report.timeline_bucket_ms / 2.0
}

fn figure(keys: &[(&str, &str)], svg: &str) -> String {
    let keys: String = keys
        .iter()
        .map(|(colour, name)| {
            format!("<span class=\"key\"><i style=\"background:var(--{colour})\"></i>{name}</span>")
        })
        .collect();
    format!("<figure><figcaption>{keys}</figcaption>{svg}</figure>\n")
}

fn outage_section(report: &DemoReport) -> String {
    let split = &report.outage;
    let known = [
        ("s0", "Before the kill", split.before_kill_ms, "the last reply before the kill had already arrived"),
        (
            "s1",
            "Detection",
            split.detection_ms,
            "the backup misses heartbeats and checkpoints, and asks to be owner",
        ),
        ("s2", "Grant", split.grant_ms, "the arbiter grants the next term to one host, and to one only"),
        (
            "s3",
            "Promotion",
            split.promotion_ms,
            "the last whole checkpoint goes into the waiting QEMU, which runs",
        ),
        (
            "s4",
            "First packet",
            split.first_packet_ms,
            "addresses are announced, the guest works off what waited for it, and a first client hears it",
        ),
    ];
    let mut steps: Vec<(&str, &str, f64, &str)> = known
        .into_iter()
        .filter_map(|(class, name, time, why)| time.map(|time| (class, name, time, why)))
        .collect();
    let rest = report.outage_ms - steps.iter().map(|(_, _, time, _)| time).sum::<f64>();
    if rest > 0.0 {
        let why = "all that was not timed by itself, until the client had its reply; its TCP may have to wait (200 ms at \
                   least) before it sends again what the dead host took along";
        steps.push(("s5", "The rest", rest, why));
    }
    let mut bar = String::new();
    let mut list = String::new();
    for (class, name, time, why) in steps {
        let share = time / report.outage_ms.max(f64::MIN_POSITIVE);
        let label = if share > 0.09 { ms(time) } else { String::new() };
        let _ = write!(
            bar,
            "<div class=\"{class}\" style=\"flex:{share:.4}\" title=\"{name}: {} ms\">{label}</div>",
            ms(time)
        );
        let _ = writeln!(
            list,
            "<dt><i class=\"{class}\"></i>{name}</dt><dd class=\"n\">{} ms</dd><dd class=\"soft why\">{why}</dd>",
            ms(time)
        );
    }
    format!(
        "<h2>The outage, explained</h2>\n<p>{}. One connection waited {} ms between two replies; no other waited longer. \
         This is where the time went.</p>\n<div class=\"split\">{bar}</div>\n<dl class=\"steps\">\n{list}</dl>\n{}",
        escape(&report.kill.what),
        ms(report.outage_ms),
        around_the_kill(report)
    )
}

/// Replies around the kill in fine steps: under protection they arrive epoch by epoch.
fn around_the_kill(report: &DemoReport) -> String {
    let (Some(first), Some(last)) = (report.around_kill.first(), report.around_kill.last()) else {
        return String::new();
    };
    let width = report.around_kill_bucket_ms;
    let largest = report.around_kill.iter().map(|bucket| bucket.operations).max().unwrap_or(0) as f64;
    let name = "Replies around the kill";
    let mut chart = Chart::new(name, 200.0, (first.at_ms, last.at_ms + width), Scale::Linear, largest);
    let began = report.kill.at_ms - report.outage.before_kill_ms.unwrap_or(0.0);
    chart.band("the longest wait of a client", (began, began + report.outage_ms), "out");
    chart.axes();
    chart.bars(report.around_kill.iter().map(|bucket| (bucket.at_ms, width, bucket.operations as f64)), "a");
    chart.tips(report.around_kill.iter().map(|bucket| {
        let after = bucket.at_ms - report.kill.at_ms;
        (
            bucket.at_ms,
            bucket.at_ms + width,
            format!("{after:+.0} ms from the kill: {} replies", bucket.operations),
        )
    }));
    chart.mark("host killed", report.kill.at_ms, "kill");
    figure(&[("a", &format!("replies in each {} ms around the kill", plain(width)))], &chart.finish())
}

fn checkpoint_section(report: &DemoReport) -> String {
    let pages: u64 = report.epoch_series.iter().map(|point| point.dirty_pages).sum();
    let bytes: u64 = report.epoch_series.iter().map(|point| point.bytes_wire).sum();
    let per_page = bytes.checked_div(pages).unwrap_or(0);
    let bytes = format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    format!(
        "<h2>Checkpoints</h2>\n<p class=\"soft\">Each dot is one checkpoint: how long the VM stood still for it, and how many \
         pages it had to carry over. {bytes} went over the wire for {} dirty pages: {per_page} bytes a page of 4096.</p>\n{}{}",
        count(pages),
        epoch_chart(report, "pause of the VM per checkpoint (ms, by factors)", "a", 0.1, |point| point
            .pause_us
            as f64
            / 1000.0),
        epoch_chart(report, "dirty pages per checkpoint (by factors)", "d", 1.0, |point| point.dirty_pages
            as f64)
    )
}

fn epoch_chart(
    report: &DemoReport,
    name: &str,
    colour: &str,
    floor: f64,
    value: fn(&EpochPoint) -> f64,
) -> String {
    let largest = report.epoch_series.iter().map(value).fold(0.0, f64::max);
    let mut chart = timeline_chart(report, name, 210.0, Scale::Logarithmic(floor), largest);
    chart.dots(report.epoch_series.iter().map(|point| (point.at_ms, value(point))), colour);
    chart.mark("host killed", report.kill.at_ms, "kill");
    figure(&[(colour, name)], &chart.finish())
}

fn numbers(report: &DemoReport) -> String {
    let mut rows = vec![
        summary_row("Pause of the VM per checkpoint", &report.pause_ms),
        summary_row("Latency added to a request", &report.added_latency_ms),
    ];
    let latencies = [
        ("Request and reply, unprotected", &report.latency_unprotected_ms),
        ("Request and reply, protected", &report.latency_protected_ms),
        ("Output waited for its checkpoint", &report.gate_hold_ms),
    ];
    rows.extend(
        latencies.iter().filter_map(|(name, found)| found.as_ref().map(|found| summary_row(name, found))),
    );
    let mut out = format!(
        "<h2>Numbers</h2>\n{}",
        table(&["milliseconds", "minimum", "median", "p99", "maximum", "count"], &rows)
    );
    let rows: Vec<Vec<String>> = report.benchmarks.iter().flat_map(benchmark_rows).collect();
    if !rows.is_empty() {
        out.push_str(&table(&["redis-benchmark", "requests/s", "p50 ms", "p99 ms", "maximum ms"], &rows));
    }
    out
}

fn benchmark_rows(run: &super::Benchmark) -> Vec<Vec<String>> {
    let row = |row: &crate::client::BenchmarkRow| {
        let mut cells = vec![format!("{}, {}", row.test, run.phase), count(row.requests_per_second as u64)];
        cells.extend([row.p50_ms, row.p99_ms, row.max_ms].map(ms));
        cells
    };
    run.rows.iter().map(row).collect()
}

fn method(report: &DemoReport) -> String {
    format!(
        "<h2>How it was measured</h2>\n\
         <p>Two hosts, a switch and a client are network namespaces of one machine, with a replication link of their own. {} \
         connections each append 1, 2, 3… to a list of their own, several writes under way at a time; the reply to write \
         <i>n</i> must be exactly <i>n</i>, so a lost or a doubled write shows at once. Connections are opened once, before \
         protection begins, and never again.</p>\n\
         <p>At the kill the host's cables are pulled and its agent and QEMU get SIGKILL, so that nothing can say goodbye. \
         Afterwards all lists are read back: {} entries in {} lists, of which {} acknowledged ones were missing and {} were \
         out of place; {} more were there whose reply was still under way, as is their right.</p>\n\
         <p>The outage is the longest time that any one connection waited between two replies around the kill, on the client's \
         clock. The pause is the time between QEMU's own STOP and RESUME events. Added latency is each request of a \
         one-at-a-time client on the protected VM, less the median of the same client on the VM before it was \
         protected.</p>\n",
        report.connections,
        count(report.verification.entries),
        report.verification.lists,
        report.verification.lost_acknowledged,
        report.verification.holes + report.verification.strangers,
        report.verification.unacknowledged
    )
}

fn circumstances(report: &DemoReport) -> String {
    let rows: Vec<Vec<String>> =
        report.facts.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    let commands: Vec<String> = report.commands.iter().map(|line| escape(line)).collect();
    format!(
        "<h2>On what</h2>\n<div class=\"facts\">{}</div>\n<h2>Commands</h2>\n<pre>{}</pre>\n",
        table(&["", ""], &rows),
        commands.join("\n")
    )
}
