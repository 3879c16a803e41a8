//! Owns the sum of a run: operations, blows, outages, the verdict, and a violation in words.

use crate::stage::build::Planted;
use crate::stage::field::Survived;
use crate::stage::machine::Machine;
use crate::stage::screen::{Screen, count, spread};
use api::summary::Summary;
use lab::client::RegistersReport;
use lab::history::{Tally, Verdict, Violation};
use lab::nemesis::Blow;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A blow and what followed.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Its number, from 1.
    pub number: usize,
    /// When it fell, after the beginning.
    pub at_seconds: f64,
    /// The blow.
    #[serde(flatten)]
    pub survived: Survived,
    /// How long it took to be protected again.
    pub protected_after_ms: f64,
}

impl Round {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "{:>4}  {:>6.0} s  {}, protected again after {:.1} s",
            self.number,
            self.at_seconds,
            self.survived.line(),
            self.protected_after_ms / 1e3
        )
    }
}

/// All blows that were dealt.
#[derive(Debug)]
pub struct Played {
    /// Those that were survived.
    pub rounds: Vec<Round>,
    /// Why the next one was not, if that was the end.
    pub not_survived: Option<String>,
}

/// How many blows of a kind, and how many of them made the VM go on at the other host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Blows.
    pub blows: u32,
    /// Failovers.
    pub failovers: u32,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct JepsenResult {
    /// Asked for.
    pub seconds: u64,
    /// The seed.
    pub seed: u64,
    /// What ran the VM.
    pub machine: Machine,
    /// The bug that was built in, if one was.
    pub planted: Option<Planted>,
    /// Operations by how they ended.
    pub operations: Tally,
    /// Connections that broke; their clients went on as new processes.
    pub connections_broken: u64,
    /// Why the first did.
    pub first_trouble: Option<String>,
    /// Failovers of all kinds.
    pub failovers: u32,
    /// By kind of blow.
    pub by_blow: BTreeMap<Blow, Kind>,
    /// The longest wait of a client at each blow.
    pub outage_ms: Option<Summary>,
    /// Why a blow was not survived, if one was not.
    pub not_survived: Option<String>,
    /// Of the history.
    pub verdict: Verdict,
    /// How long the check took.
    pub check_seconds: f64,
    /// Every blow.
    pub rounds: Vec<Round>,
}

impl JepsenResult {
    /// Sums up.
    pub fn of(
        (seconds, seed, machine, planted): (u64, u64, Machine, Option<Planted>),
        played: Played,
        report: &RegistersReport,
        (verdict, check_seconds): (Verdict, f64),
    ) -> Self {
        let Played { rounds, not_survived } = played;
        let mut by_blow: BTreeMap<Blow, Kind> = BTreeMap::new();
        for round in &rounds {
            let kind = by_blow.entry(round.survived.blow).or_default();
            kind.blows += 1;
            kind.failovers += u32::from(round.survived.is_failover());
        }
        Self {
            seconds,
            seed,
            machine,
            planted,
            operations: Tally::of(&report.history),
            connections_broken: report.broken,
            first_trouble: report.first_trouble.clone(),
            failovers: by_blow.values().map(|kind| kind.failovers).sum(),
            by_blow,
            outage_ms: Summary::of(rounds.iter().filter_map(|round| round.survived.outage_ms)),
            not_survived,
            verdict,
            check_seconds,
            rounds,
        }
    }

    /// Whether the history was shown to be linearizable and every blow survived.
    pub fn held(&self) -> bool {
        self.verdict.holds()
            && self.not_survived.is_none()
            && self.operations.ok > 0
            && !self.rounds.is_empty()
    }

    /// Held; or, with a planted bug, that one was found.
    pub fn is_as_it_should_be(&self) -> bool {
        if self.planted.is_some() { !self.verdict.violations.is_empty() } else { self.held() }
    }

    /// Shows the sum.
    pub fn show(&self, out: &Path, screen: &mut Screen) {
        screen.chapter("Verdict");
        let found = &self.operations;
        let kinds: Vec<String> = self
            .by_blow
            .iter()
            .map(|(blow, kind)| format!("{} {} of {}", blow.name(), kind.failovers, kind.blows))
            .collect();
        let (reads, writes, sets) = (count(found.reads), count(found.writes), count(found.sets));
        let rows = [
            (
                "operations",
                format!("{} ok ({reads} reads, {writes} writes, {sets} compare-and-sets)", count(found.ok)),
            ),
            ("", format!("{} refused, {} unknown", count(found.refused), count(found.unknown))),
            ("connections broken", count(self.connections_broken)),
            ("failovers", format!("{} (of blows: {})", self.failovers, kinds.join(", "))),
            ("outage", spread(self.outage_ms)),
            (
                "check",
                format!("{} registers linearizable ({:.1} s)", self.verdict.linearizable, self.check_seconds),
            ),
            ("violations", count(self.verdict.violations.len() as u64)),
            ("files", out.display().to_string()),
        ];
        for (name, value) in rows {
            screen.block(&format!("{name:<22} {value}"));
        }
        let trouble = self.first_trouble.iter().map(|trouble| format!("first broken connection: {trouble}"));
        let undecided =
            self.verdict.undecided.iter().map(|(key, why)| format!("register {key} is not decided: {why}"));
        let not_survived = self.not_survived.iter().map(|why| format!("not survived: {why}"));
        for problem in trouble.chain(undecided).chain(not_survived) {
            screen.bad(&problem);
        }
        for violation in &self.verdict.violations {
            screen.bad(&format!(
                "register {} is not linearizable: {} operations that show it are in {}",
                violation.key,
                violation.window.len(),
                violation_file(violation.key)
            ));
        }
        screen.gap();
        screen.strong(self.words(), self.is_as_it_should_be());
    }

    fn words(&self) -> &'static str {
        match (self.planted, self.is_as_it_should_be()) {
            (None, true) => {
                "HELD: what every client saw can be true of registers that do one thing at a time."
            }
            (None, false) => "BROKEN, or not shown.",
            (Some(_), true) => "FOUND: the planted bug was seen by the clients, and the check says so.",
            (Some(_), false) => "MISSED: the planted bug was not found.",
        }
    }
}

/// The file about a register that is not linearizable.
pub fn violation_file(key: u32) -> String {
    format!("violation-register-{key}.txt")
}

/// A violation in words, with times after the beginning of the history.
pub fn explain(violation: &Violation, began_us: u64) -> String {
    let mut text = format!(
        "Register {}: no register, doing one thing at a time, answers so.\n\
         Called and returned in milliseconds after the beginning of the history.\n\n",
        violation.key
    );
    for operation in &violation.window {
        let mark = if *operation == violation.at { "  <- no explanation is left" } else { "" };
        text.push_str(&format!("{}{mark}\n", operation.line(began_us)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::history::{Ask, Limits, Operation, Outcome, check};

    fn survived(blow: Blow, to: &'static str) -> Round {
        let survived = Survived {
            blow,
            from: "alpha",
            to,
            outage_ms: Some(5.0),
            detection_ms: None,
            promotion_ms: None,
        };
        Round { number: 1, at_seconds: 1.0, survived, protected_after_ms: 1.0 }
    }

    fn result(history: Vec<Operation>, planted: Option<Planted>, not_survived: Option<&str>) -> JepsenResult {
        let verdict = check(&history, Limits::default());
        let rounds = vec![survived(Blow::Kill, "beta"), survived(Blow::Link, "alpha")];
        let played = Played { rounds, not_survived: not_survived.map(Into::into) };
        let report = RegistersReport { history, broken: 0, first_trouble: None };
        JepsenResult::of((1, 2, Machine::Qemu, planted), played, &report, (verdict, 0.0))
    }

    fn read(value: u64, called_us: u64) -> Operation {
        let (ask, outcome) = (Ask::Read, Outcome::Found(value));
        Operation { process: 0, key: 0, ask, called_us, returned_us: called_us + 1, outcome }
    }

    #[test]
    fn only_failovers_count_as_such_and_only_what_was_shown_holds() {
        let good = result(vec![read(0, 1)], None, None);
        assert!(good.held() && good.is_as_it_should_be());
        assert_eq!((good.failovers, good.by_blow[&Blow::Link]), (1, Kind { blows: 1, failovers: 0 }));
        assert!(!result(vec![read(0, 1)], None, Some("gone")).held());
        assert!(!result(vec![], None, None).held());
        assert!(!result(vec![read(0, 1)], Some(Planted::ReleaseEarly), None).is_as_it_should_be());
    }

    #[test]
    fn a_violation_is_told_in_words_and_is_what_a_planted_bug_is_for() {
        let bad = || vec![read(0, 1), read(7, 5)];
        assert!(!result(bad(), None, None).is_as_it_should_be());
        let found = result(bad(), Some(Planted::ReleaseEarly), None);
        assert!(found.is_as_it_should_be());
        let text = explain(&found.verdict.violations[0], 1);
        assert!(text.contains("read -> it is 7  <- no explanation is left"), "{text}");
    }
}
