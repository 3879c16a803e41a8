//! Owns looking on while a run goes on: what the clients get, what the agents say, in one line that lives.
//!
//! It also collects what would be lost with a host: its checkpoints and its events, as long as it can be asked.

use super::Stage;
use super::screen::{Screen, count};
use anyhow::{Result, bail};
use api::types::{EpochRecord, EventRecord, Role, Summary, VmStatus};
use lab::client::{Clients, Gap, Sample, Standing};
use std::collections::{BTreeMap, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often agents are asked: each question costs them a little.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Replies of so long make up the numbers of the living line.
const WINDOW_US: u64 = 1_000_000;
/// A checkpoint's record may change for so long after its cut.
const RECORD_SETTLES_US: u64 = 1_000_000;
/// A silence of so long is shown instead of numbers.
const SILENCE_US: u64 = 150_000;

/// Somebody who looks on.
pub struct Watch<'a> {
    stage: &'a Stage,
    clients: &'a dyn Clients,
    screen: &'a mut Screen,
    label: String,
    window: VecDeque<Sample>,
    asked: Option<Instant>,
    hosts: Vec<&'static str>,
    status: Option<VmStatus>,
    seen: Seen,
    /// Moments are told as they come, counted from this time.
    told_from_us: Option<u64>,
}

/// All that was seen of the agents.
#[derive(Default)]
pub struct Seen {
    /// Checkpoints, by term and number.
    pub epochs: BTreeMap<(u64, u64), EpochRecord>,
    /// Events of all hosts, in the order in which they were heard of.
    pub events: Vec<EventRecord>,
    /// How long frames waited in the gate, as the last primary under protection told.
    pub hold_ms: Option<Summary>,
    /// The longest wait of one client since this was set to nothing.
    pub longest_wait: Option<Gap>,
    heard: BTreeMap<&'static str, u64>,
}

impl<'a> Watch<'a> {
    /// Looks on at these hosts.
    pub fn new(stage: &'a Stage, clients: &'a dyn Clients, screen: &'a mut Screen) -> Self {
        Self {
            stage,
            clients,
            screen,
            label: String::new(),
            window: VecDeque::new(),
            asked: None,
            hosts: super::HOSTS.to_vec(),
            status: None,
            seen: Seen::default(),
            told_from_us: None,
        }
    }

    /// The screen, for what is to be said in between.
    pub fn screen(&mut self) -> &mut Screen {
        self.screen
    }

    /// Which hosts can be asked: a dead one does not answer, and a frozen one never would.
    pub fn ask_only(&mut self, hosts: &[&'static str]) {
        // An agent that was started anew counts its events from one again.
        self.seen.heard.retain(|host, _| self.hosts.contains(host));
        self.hosts = hosts.to_vec();
        self.status = None;
    }

    /// From now on events are told as they come, with the time since `kill_us` (on `os::clock`); none, no more.
    pub fn tell_from(&mut self, kill_us: Option<u64>) {
        self.told_from_us = kill_us;
    }

    /// The longest wait of one client that ended since this was asked last.
    pub fn take_longest_wait(&mut self) -> Option<Gap> {
        self.take_replies();
        self.seen.longest_wait.take()
    }

    /// Checks where the writers stand now with `check`, and looks on meanwhile.
    pub fn spot_check<T: Send>(&mut self, check: impl FnOnce(&[Standing]) -> T + Send) -> T {
        let standings = self.clients.standings();
        self.during("some of the lists are read back", || check(&standings))
    }

    /// What the agents said so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What was seen in all.
    pub fn into_seen(mut self) -> Seen {
        self.ask();
        self.seen
    }

    /// Looks on for so long.
    pub fn run_for(&mut self, label: &str, time: Duration) {
        label.clone_into(&mut self.label);
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.look();
            thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Looks on while `work` is done on another thread.
    pub fn during<T: Send>(&mut self, label: &str, work: impl FnOnce() -> T + Send) -> T {
        label.clone_into(&mut self.label);
        thread::scope(|scope| {
            let worker = scope.spawn(work);
            while !worker.is_finished() {
                self.look();
                thread::sleep(Duration::from_millis(10));
            }
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Looks on until every connection has got a reply after `since_us` (on `os::clock`), or one more is broken.
    pub fn until_all_answered(&mut self, label: &str, since_us: u64, patience: Duration) -> Result<()> {
        label.clone_into(&mut self.label);
        let (until, broken) = (Instant::now() + patience, self.clients.broken());
        while !self.clients.all_answered_since(since_us) && self.clients.broken() == broken {
            if Instant::now() > until {
                bail!(
                    "not every client got a reply within {} s: {:?}",
                    patience.as_secs(),
                    self.clients.standings()
                );
            }
            self.look();
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the clients got in the last second, in words.
    pub fn rate(&mut self) -> String {
        self.take_replies();
        let rate = format!("{} {}/s", count(self.window.len() as u64), self.clients.what());
        let latency = Summary::of_us_in_ms(self.window.iter().map(|sample| sample.latency_us));
        latency.map_or(rate.clone(), |found| {
            format!("{rate}, median {:.1} ms, p99 {:.1} ms a write", found.median, found.p99)
        })
    }

    /// The median latency of the last second, in milliseconds.
    pub fn median_ms(&self) -> Option<f64> {
        Summary::of_us_in_ms(self.window.iter().map(|sample| sample.latency_us)).map(|found| found.median)
    }

    /// Asks the agents now.
    pub fn ask(&mut self) {
        self.asked = Some(Instant::now());
        for host in self.hosts.clone() {
            self.ask_host(host);
        }
    }

    fn look(&mut self) {
        self.take_replies();
        if self.asked.is_none_or(|at| at.elapsed() >= self.patience_of_agents()) {
            self.ask();
        }
        let line = self.line();
        self.screen.live(&line);
    }

    /// While a failover is told live, agents are asked more often.
    fn patience_of_agents(&self) -> Duration {
        if self.told_from_us.is_some() { ASK_EVERY / 10 } else { ASK_EVERY }
    }

    fn take_replies(&mut self) {
        let recent = self.clients.recent();
        self.window.extend(recent.samples);
        let longest = [self.seen.longest_wait, recent.longest_wait].into_iter().flatten();
        self.seen.longest_wait = longest.max_by_key(|gap| gap.duration_us);
        let old = os::clock::now_us().saturating_sub(WINDOW_US);
        while self.window.front().is_some_and(|sample| sample.at_us < old) {
            self.window.pop_front();
        }
    }

    fn ask_host(&mut self, host: &'static str) {
        let Ok(api) = self.stage.cluster.api(host) else { return };
        let vm = &self.stage.vm;
        let heard = self.seen.heard.get(host).copied().unwrap_or(0);
        if let Ok(events) = api.events(heard) {
            self.hear(host, events);
        }
        // A host that is gone, or has no such VM, has nothing to tell.
        let Ok(status) = api.vm(vm) else { return };
        if status.role != Role::Primary {
            return;
        }
        let newest = self.seen.epochs.values().map(|record| record.at_us).max().unwrap_or(0);
        if let Ok(records) = api.epochs(vm, newest.saturating_sub(RECORD_SETTLES_US)) {
            self.seen.epochs.extend(records.into_iter().map(|record| ((record.term, record.epoch), record)));
        }
        if status.phase == "protected" && status.measured.hold_ms.count > 0 {
            self.seen.hold_ms = Some(status.measured.hold_ms);
        }
        self.status = Some(status);
    }

    fn hear(&mut self, host: &'static str, events: Vec<EventRecord>) {
        for event in events {
            self.seen.heard.insert(host, event.seq);
            if let Some(kill_us) = self.told_from_us {
                let after = boot_time(event.at_us).cast_signed() - kill_us.cast_signed();
                let prefix = format!("VM {}: ", self.stage.vm);
                let text = event.text.strip_prefix(&prefix).unwrap_or(&event.text);
                self.screen.moment(after, &format!("{host}: {text}"));
            }
            self.seen.events.push(event);
        }
    }

    fn line(&self) -> String {
        let broken = self.clients.progress().broken;
        if broken > 0 {
            return format!("{} │ {broken} of the clients' connections BROKE", self.label);
        }
        let silent = os::clock::now_us().saturating_sub(self.clients.progress().last_reply_us);
        if silent > SILENCE_US {
            return format!(
                "{} │ the clients have heard nothing for {:.2} s",
                self.label,
                silent as f64 / 1e6
            );
        }
        let rate = count(self.window.len() as u64);
        let mut line = format!("{} │ {rate} {}/s", self.label, self.clients.what());
        if let Some(latency) = Summary::of_us_in_ms(self.window.iter().map(|sample| sample.latency_us)) {
            line.push_str(&format!(" │ p50 {:.1} ms, p99 {:.1} ms", latency.median, latency.p99));
        }
        if let Some(status) = &self.status {
            line.push_str(&protection(status));
        }
        line
    }
}

fn protection(status: &VmStatus) -> String {
    match (status.phase.as_str(), &status.copy) {
        ("protected", _) => {
            format!(" │ checkpoint {}, pause {:.1} ms", status.acked_epoch, status.measured.pause_ms.median)
        }
        ("copying", Some(copy)) => {
            let mib = |bytes: u64| bytes >> 20;
            format!(
                " │ round {}: {} MiB copied, {} to go",
                copy.round,
                mib(copy.copied_bytes),
                mib(copy.remaining_bytes)
            )
        }
        _ => String::new(),
    }
}

/// A time since 1970 on the clock that counts from the boot of this machine.
pub fn boot_time(realtime_us: u64) -> u64 {
    let offset = os::clock::realtime_us().cast_signed() - os::clock::now_us().cast_signed();
    (realtime_us.cast_signed() - offset).max(0).cast_unsigned()
}
