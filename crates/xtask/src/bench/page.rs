//! Owns the document that people read, such as `checkpoint.md`, made of the same figures as the JSON.

use super::Record;
use super::figures::{Bound, Cell, Part, Table, Target};
use super::site::LOADED_PERCENT;
use api::summary::Summary;
use std::fmt::Write;

/// The whole document.
pub fn markdown(record: &Record) -> String {
    let mut text = format!("# {}\n\n", record.suite.title);
    text.push_str(&format!("Made by `{}`; nothing here was written by hand. ", record.command));
    let again = format!("cargo xtask bench {}", record.suite.name);
    text.push_str(&format!("To measure again: `{again}`, as root, on a quiet machine.\n\n"));
    text.push_str(&quiet(record));
    for (name, value) in &record.facts {
        line(&mut text, &format!("- {name}: {value}"));
    }
    text.push_str("\nWhere many values were measured a field shows *min / median / p99 (count)*.\n\n");
    targets(&mut text, record.parts.iter().flat_map(|part| &part.found.targets));
    for part in &record.parts {
        chapter(&mut text, part);
    }
    text
}

/// Adds a line.
pub fn line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}

fn quiet(record: &Record) -> String {
    let mut text = String::new();
    if record.quick {
        text.push_str("**A quick run, to see that everything works: its figures mean little.**\n\n");
    }
    let busiest = record.parts.iter().map(|part| part.others_busy_percent).fold(0.0, f64::max);
    let found =
        format!("Before each part the processors were looked at: others used up to {busiest:.0} % of them.");
    if record.loaded {
        text.push_str(&format!(
            "**THE MACHINE WAS LOADED. {found} The figures are worse than they need be.**\n\n"
        ));
    } else {
        text.push_str(&format!("The machine was quiet. {found}\n\n"));
    }
    text
}

/// What was aimed at and what was found, if anything was.
pub fn targets<'a>(text: &mut String, targets: impl Iterator<Item = &'a Target>) {
    let mut targets = targets.peekable();
    if targets.peek().is_none() {
        return;
    }
    line(text, "## What was aimed at\n\n| figure | aimed at | found | |\n|---|---:|---:|---|");
    for target in targets {
        let (limit, found) = (bound(target.bound), number(target.found));
        let verdict = if target.reached { "reached" } else { "**missed**" };
        line(
            text,
            &format!("| {} | {limit} {} | {found} {} | {verdict} |", target.what, target.unit, target.unit),
        );
    }
    text.push('\n');
}

/// What a figure should be, in words.
pub fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtMost(limit) => format!("at most {}", number(limit)),
        Bound::AtLeast(limit) => format!("at least {}", number(limit)),
    }
}

fn chapter(text: &mut String, part: &Part) {
    line(text, &format!("## {}. {}\n", part.number, part.title));
    if !part.found.how.is_empty() {
        line(text, &format!("{}\n", part.found.how));
    }
    if part.others_busy_percent > LOADED_PERCENT {
        line(
            text,
            &format!(
                "**Others used {:.0} % of the processors when this began.**\n",
                part.others_busy_percent
            ),
        );
    }
    if let Some(error) = &part.error {
        line(text, &format!("**This part was not finished:**\n\n```text\n{error}\n```\n"));
    }
    for table in &part.found.tables {
        line(text, &drawn(table));
    }
    for note in &part.found.notes {
        line(text, &format!("- {note}"));
    }
    if !part.found.notes.is_empty() {
        text.push('\n');
    }
}

/// A table in Markdown, with its title.
pub fn drawn(table: &Table) -> String {
    let mut text = format!("**{}**\n\n|", table.title);
    for (_, heading) in &table.columns {
        write!(text, " {heading} |").expect("text takes text");
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|".repeat(table.columns.len() - 1));
    text.push('\n');
    for (name, cells) in &table.rows {
        write!(text, "| {name} |").expect("text takes text");
        for cell in cells {
            write!(text, " {} |", drawn_cell(cell)).expect("text takes text");
        }
        text.push('\n');
    }
    text
}

/// What stands in a field.
pub fn drawn_cell(cell: &Cell) -> String {
    match cell {
        Cell::Spread(summary) => spread(summary),
        Cell::Number(value) => number(*value),
        Cell::Count(count) => count.to_string(),
        Cell::Words(words) => words.clone(),
        Cell::Unknown => "–".into(),
    }
}

/// Minimum, median, 99th percentile and count.
pub fn spread(summary: &Summary) -> String {
    let Summary { min, median, p99, count, .. } = summary;
    format!("{} / {} / {} ({count})", number(*min), number(*median), number(*p99))
}

/// A number with as many digits as mean something.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size == 0.0 || size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::super::figures::Findings;
    use super::*;

    fn record(busy: f64) -> Record {
        let mut table = Table::new("Pauses", &[("what", "what"), ("pause_ms", "pause, ms")]);
        table.row("Undying", [Summary::of([1.0, 2.0, 30.0]).into()]);
        table.row("nothing", [Cell::Unknown]);
        let found = Findings {
            targets: vec![Target::at_most("pause, median", "ms", 2.5, 3.0)],
            tables: vec![table],
            ..Findings::default()
        };
        let part = Part {
            number: 1,
            title: "Pause".into(),
            others_busy_percent: busy,
            seconds: 1.0,
            error: Some("it broke".into()),
            found,
        };
        let suite = &super::super::CHECKPOINT;
        let mut record = Record::new(suite, "cargo xtask bench checkpoint".into(), false, Vec::new());
        record.add(part);
        record
    }

    #[test]
    fn figures_errors_and_missed_targets_are_all_shown() {
        let text = markdown(&record(3.0));
        for wanted in
            ["| Undying | 1.00 / 2.00 / 30.0 (3) |", "| nothing | – |", "it broke", "**missed**", "was quiet"]
        {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
    }

    #[test]
    fn a_loaded_machine_is_said_loudly() {
        let text = markdown(&record(80.0));
        assert!(text.contains("THE MACHINE WAS LOADED") && text.contains("Others used 80 %"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown: Vec<String> = [0.0, 0.1234, 1.234, 12.34, 1234.5].iter().map(|&n| number(n)).collect();
        assert_eq!(shown, ["0", "0.123", "1.23", "12.3", "1234"]);
    }
}
