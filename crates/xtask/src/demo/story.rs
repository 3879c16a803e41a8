//! Owns the order of the demonstration: every chapter, what is done in it, and what is measured meanwhile.

use super::DemoArgs;
use super::facts;
use crate::stage::interval::Interval;
use crate::stage::moments::Moments;
use crate::stage::screen::{Screen, count};
use crate::stage::watch::{Seen, Watch};
use crate::stage::{self, Load, Stage};
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::client::{
    PingReport, Pinger, Verification, WriterConfig, Writers, WritersReport, redis_benchmark, verify,
};
use lab::report::Benchmark;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Writes under way on each connection.
const DEPTH: usize = 32;
/// How long the lone client asks, before and under protection.
const QUIET: Duration = Duration::from_secs(3);
/// Connections of `redis-benchmark`.
const BENCHMARK_CONNECTIONS: u32 = 16;
/// `redis-benchmark` runs for so long before the kill.
const BEFORE_KILL: Duration = Duration::from_millis(1_500);
/// Clients may wait so long for their answers before the demonstration is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stretch of the run, on `os::clock`.
pub struct Stretch {
    /// Its name in the report.
    pub name: &'static str,
    /// Its beginning; its end is the beginning of the next.
    pub from_us: u64,
}

/// Everything that was measured.
pub struct Told {
    /// The hosts, which still run.
    pub stage: Stage,
    /// When checkpoints are taken.
    pub interval: Interval,
    /// A lone client before protection.
    pub quiet_unprotected: PingReport,
    /// The same client under protection.
    pub quiet_protected: PingReport,
    /// Runs of `redis-benchmark`.
    pub benchmarks: Vec<Benchmark>,
    /// What the writers saw.
    pub writers: WritersReport,
    /// What their lists held afterwards.
    pub verification: Verification,
    /// When the host was killed, on `os::clock`.
    pub kill_us: u64,
    /// By when every client had an answer again.
    pub answered_us: u64,
    /// The failover by the agents' own account.
    pub moments: Moments,
    /// What was going on when.
    pub stretches: Vec<Stretch>,
    /// What the agents said.
    pub seen: Seen,
    /// How long frames waited in the gate before the kill.
    pub hold_ms: Option<Summary>,
    /// On what all this ran.
    pub facts: Vec<(String, String)>,
}

/// Tells the whole story; `out` gets the agents' logs.
pub fn tell(args: &DemoArgs, out: &Path, screen: &mut Screen) -> Result<Told> {
    screen.chapter("Getting ready");
    let props = stage::gather(screen)?;
    screen.chapter("Two hosts, one virtual machine, one client");
    let stage = Stage::raise(&props, "demo", Load::Redis { riscv: None, on_disk: false }, screen)?;
    let told = on_stage(args, screen, stage, &props)?;
    told.stage.keep_logs(&out.join("logs"))?;
    Ok(told)
}

fn on_stage(args: &DemoArgs, screen: &mut Screen, stage: Stage, props: &stage::Props) -> Result<Told> {
    screen.chapter("Without protection");
    screen.say("For comparison: what the clients get from the VM before it is protected.");
    let mut benchmarks = Vec::new();
    let quiet_unprotected = quiet(&stage, screen, "one client, one request at a time, unprotected")?;
    benchmarks.push(benchmark(&stage, screen, "unprotected", 5_000)?);

    let writers = stage.writers(&WriterConfig { depth: DEPTH, ..WriterConfig::new(stage.target) })?;
    screen.done(&format!(
        "{} clients connect; each appends 1, 2, 3… to a list, {DEPTH} writes under way. They never connect again",
        writers.standings().len()
    ));
    let mut loaded = Loaded::new(args, &stage, &writers, screen);
    loaded.unprotected();
    loaded.protect()?;
    let killed = loaded.kill()?;
    loaded.again()?;
    let Loaded { watch, stretches, mut benchmarks_under_load, .. } = loaded;
    let facts = facts::gather(&stage, props, args.interval);
    let seen = watch.into_seen();
    benchmarks.append(&mut benchmarks_under_load);

    screen.chapter("Was anything lost?");
    screen.live("the clients stop, and every list is read back");
    let report = writers.stop()?;
    let verification = verify(stage.cluster.lab.client(), stage.target, &report.writers)?;
    screen.done(&format!(
        "{} entries read back and compared with what was acknowledged",
        count(verification.entries)
    ));
    screen.chapter("What protection costs");
    screen.say(
        "The lone client asks again, now that beta runs the VM and alpha protects it; nobody else asks.",
    );
    let quiet_protected = quiet(&stage, screen, "one client, one request at a time, protected")?;
    let requests = requests_for(quiet_protected.latency_ms().map(|found| found.median), 2.5);
    benchmarks.push(benchmark(&stage, screen, "protected", requests)?);

    let Killed { kill_us, answered_us, moments, hold_ms } = killed;
    let interval = args.interval;
    Ok(Told {
        stage,
        interval,
        quiet_unprotected,
        quiet_protected,
        benchmarks,
        writers: report,
        verification,
        kill_us,
        answered_us,
        moments,
        stretches,
        seen,
        hold_ms,
        facts,
    })
}

/// One client with nobody beside it.
fn quiet(stage: &Stage, screen: &mut Screen, what: &str) -> Result<PingReport> {
    screen.live(what);
    let pinger = Pinger::start(stage.cluster.lab.client(), stage.target)?;
    thread::sleep(QUIET);
    let report = pinger.stop()?;
    let latency = report.latency_ms().with_context(|| format!("{what}: no reply, {:?}", report.broken))?;
    screen.done(&format!(
        "{what}: median {:.2} ms, p99 {:.2} ms ({} requests)",
        latency.median,
        latency.p99,
        count(latency.count)
    ));
    Ok(report)
}

fn benchmark(stage: &Stage, screen: &mut Screen, phase: &str, requests: u64) -> Result<Benchmark> {
    screen.live(&format!("redis-benchmark, {phase}"));
    let rows = redis_benchmark(stage.cluster.lab.client(), stage.target, requests, BENCHMARK_CONNECTIONS, 1)?;
    let found = Benchmark { phase: phase.to_owned(), rows };
    tell_benchmark(screen, &found);
    Ok(found)
}

fn tell_benchmark(screen: &mut Screen, found: &Benchmark) {
    let rows: Vec<String> = found
        .rows
        .iter()
        .map(|row| {
            format!(
                "{} {:.0}/s, p50 {:.1} ms, longest {:.0} ms",
                row.test, row.requests_per_second, row.p50_ms, row.max_ms
            )
        })
        .collect();
    screen.done(&format!("redis-benchmark, {}: {}", found.phase, rows.join("; ")));
}

/// So many requests keep `redis-benchmark` busy for about `seconds` with each command.
fn requests_for(latency_ms: Option<f64>, seconds: f64) -> u64 {
    let each = seconds * 1e3 / latency_ms.unwrap_or(30.0).max(1.0);
    (each * f64::from(BENCHMARK_CONNECTIONS)) as u64 + 1
}

/// The part of the story during which the writers write.
struct Loaded<'a> {
    stage: &'a Stage,
    watch: Watch<'a>,
    interval: Interval,
    fifth: Duration,
    stretches: Vec<Stretch>,
    benchmarks_under_load: Vec<Benchmark>,
}

/// What is known of the kill.
struct Killed {
    kill_us: u64,
    answered_us: u64,
    moments: Moments,
    hold_ms: Option<Summary>,
}

impl<'a> Loaded<'a> {
    fn new(args: &DemoArgs, stage: &'a Stage, writers: &'a Writers, screen: &'a mut Screen) -> Self {
        Self {
            stage,
            watch: Watch::new(stage, writers, screen),
            interval: args.interval,
            fifth: Duration::from_secs(args.seconds) / 5,
            stretches: Vec::new(),
            benchmarks_under_load: Vec::new(),
        }
    }

    fn begin(&mut self, name: &'static str) {
        self.stretches.push(Stretch { name, from_us: os::clock::now_us() });
    }

    fn unprotected(&mut self) {
        self.begin("unprotected");
        self.watch.run_for("unprotected at alpha", self.fifth);
        let rate = self.watch.rate();
        self.watch.screen().done(&format!("under load, unprotected: {rate}"));
    }

    fn protect(&mut self) -> Result<()> {
        let screen = self.watch.screen();
        screen.chapter("Protection");
        screen.say(&format!(
            "Now beta becomes the backup. All memory is copied while the VM runs; from then on, {}, what has \
             changed since is copied as one checkpoint. What the VM says to the outside is held back until beta has \
             the checkpoint that it belongs to: so nothing that a client ever heard can be lost.",
            self.interval.when()
        ));
        self.begin("first copy");
        let (stage, interval) = (self.stage, self.interval);
        self.watch.during("first copy, alpha → beta", || stage.protect("alpha", "beta", interval))?;
        self.watch.screen().done("PROTECTED: beta has a whole checkpoint and could go on at any moment");
        self.begin("protected");
        self.watch.run_for("protected, alpha → beta", (self.fifth * 2).saturating_sub(BEFORE_KILL));
        let rate = self.watch.rate();
        self.watch.screen().done(&format!("under load, protected: {rate}"));
        Ok(())
    }

    fn kill(&mut self) -> Result<Killed> {
        self.watch.screen().chapter("The kill");
        self.watch.screen().say(
            "redis-benchmark, which knows nothing of all this, is started as well. Then alpha dies: its cables are \
             pulled, its agent and QEMU get SIGKILL. Nothing can say goodbye. Times count from the kill.",
        );
        let (stage, requests) = (self.stage, requests_for(self.watch.median_ms(), 3.0));
        thread::scope(|scope| {
            let client = stage.cluster.lab.client();
            let running = scope
                .spawn(move || redis_benchmark(client, stage.target, requests, BENCHMARK_CONNECTIONS, 1));
            self.watch.run_for("protected, alpha → beta", BEFORE_KILL);
            let killed = self.strike()?;
            let from_us = killed.moments.promoted_us.unwrap_or(killed.answered_us);
            self.stretches.push(Stretch { name: "after the failover", from_us });
            self.watch.during("unprotected at beta; redis-benchmark ends", || {
                while !running.is_finished() {
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let rows = running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let found = Benchmark { phase: "through the kill".into(), rows };
            tell_benchmark(self.watch.screen(), &found);
            self.benchmarks_under_load.push(found);
            Ok(killed)
        })
    }

    fn strike(&mut self) -> Result<Killed> {
        let stage = self.stage;
        self.watch.ask();
        let hold_ms = self.watch.seen().hold_ms;
        self.watch.ask_only(&["beta"]);
        self.watch.take_longest_wait();
        self.watch.tell_from(Some(os::clock::now_us()));
        let kill_us = self.watch.during("alpha dies", || stage.cluster.lab.kill_host("alpha"))?;
        self.watch.tell_from(Some(kill_us));
        self.watch.screen().moment(0, "alpha is DEAD: cables pulled, agent and QEMU killed by SIGKILL");
        self.watch
            .during("alpha is dead", || stage.cluster.wait_primary("beta", &stage.vm, &["unprotected"]))?;
        self.watch.ask();
        let moments = Moments::read(&self.watch.seen().events, "beta", kill_us);
        let promoted_us = moments.promoted_us.context("beta runs the VM and says nothing of a promotion")?;
        self.watch.until_all_answered("the VM runs at beta", promoted_us, PATIENCE)?;
        let answered_us = os::clock::now_us();
        let wait = self.watch.take_longest_wait().map_or(0, |gap| gap.duration_us);
        self.watch.screen().moment(
            answered_us.cast_signed() - kill_us.cast_signed(),
            &format!(
                "every client has answers again; the unluckiest waited {:.0} ms in all",
                wait as f64 / 1e3
            ),
        );
        self.watch.tell_from(None);
        Ok(Killed { kill_us, answered_us, moments, hold_ms })
    }

    fn again(&mut self) -> Result<()> {
        self.watch.run_for("unprotected at beta", self.fifth);
        let rate = self.watch.rate();
        self.watch.screen().done(&format!("under load at beta, unprotected: {rate}"));
        self.watch.screen().chapter("And again");
        self.watch.screen().say(
            "alpha is switched on again. It knows nothing of the VM; beta protects the VM with alpha as the backup, \
             without stopping it. The next kill could come.",
        );
        let (stage, interval) = (self.stage, self.interval);
        self.watch.during("alpha is switched on", || stage.cluster.revive("alpha"))?;
        self.watch.ask_only(&stage::HOSTS);
        self.begin("copy back");
        self.watch.during("copy back, beta → alpha", || stage.protect("beta", "alpha", interval))?;
        self.watch.screen().done("PROTECTED again, now by alpha");
        self.begin("protected again");
        self.watch.run_for("protected, beta → alpha", self.fifth);
        let rate = self.watch.rate();
        self.watch.screen().done(&format!("under load, protected again: {rate}"));
        Ok(())
    }
}
