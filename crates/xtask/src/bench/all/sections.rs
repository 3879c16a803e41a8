//! Owns what the evaluation tells: which kept figures, drawn how, beside which.

use super::chart::{self, Frame, Series};
use super::kept::Kept;
use crate::bench::figures::{Cell, Table, Target};
use crate::bench::page;
use anyhow::Result;
use serde_json::{Value, json};

/// A picture of a section.
pub struct Picture {
    /// Its file's name, without the ending.
    pub name: &'static str,
    /// What it shows, for those who do not see it.
    pub shows: &'static str,
    /// The picture.
    pub svg: String,
}

/// Finds what a part of a suite found; none if it was not measured.
type Reader<'a> = &'a dyn Fn(&str, u32) -> Result<Option<Kept>>;

/// What a section shall tell.
pub struct Plan {
    /// What it is about.
    pub title: &'static str,
    /// Where the figures are from.
    pub suite: &'static str,
    /// The part of that suite.
    pub number: u32,
    /// How to read it.
    pub text: &'static str,
    draw: fn(&Kept, Reader<'_>) -> Result<Drawn>,
}

/// What is made of figures.
#[derive(Default)]
pub struct Drawn {
    /// Drawn of them.
    pub pictures: Vec<Picture>,
    /// Tables in Markdown.
    pub tables: Vec<String>,
    /// What a reader should know beside.
    pub notes: Vec<String>,
}

/// One subject.
pub struct Section {
    /// What it shall tell.
    pub plan: &'static Plan,
    /// The figures, if they were measured.
    pub source: Option<Kept>,
    /// What they show; nothing without them.
    pub drawn: Drawn,
}

impl Section {
    fn of(plan: &'static Plan, kept: Reader<'_>) -> Result<Self> {
        let source = kept(plan.suite, plan.number)?;
        let drawn = source.as_ref().map(|found| (plan.draw)(found, kept)).transpose()?.unwrap_or_default();
        Ok(Self { plan, source, drawn })
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let part = self.source.as_ref().map(|kept| &kept.part);
        let targets: Option<&[Target]> = part.map(|part| part.found.targets.as_slice());
        json!({
            "title": self.plan.title,
            "suite": self.plan.suite,
            "part": self.plan.number,
            "measured": self.source.as_ref().map(|kept| kept.fact("Date")),
            "others_busy_percent": part.map(|part| part.others_busy_percent),
            "targets": targets,
            "tables": part.map(|part| &part.found.tables),
            "pictures": self.drawn.pictures.iter().map(|picture| picture.name).collect::<Vec<_>>(),
        })
    }
}

/// All sections, of what `kept` has.
///
/// # Errors
/// If kept figures cannot be read or are of an older program.
pub fn compose(kept: impl Fn(&str, u32) -> Result<Option<Kept>>) -> Result<Vec<Section>> {
    PLANS.iter().map(|plan| Section::of(plan, &kept)).collect()
}

const PLANS: [Plan; 10] = [
    Plan {
        title: "Pause and transfer by dirty pages",
        suite: "checkpoint",
        number: 1,
        text: "Remus's first figure: how long the VM stands still, and how long a checkpoint is on its way, by the pages \
        that the guest dirtied since the last one.",
        draw: pauses,
    },
    Plan {
        title: "Throughput by checkpoint interval",
        suite: "checkpoint",
        number: 2,
        text: "What a protected guest gets done, as a share of what it does unprotected: a loop of arithmetic (nothing but \
        the processor), Redis with many writes on their way and with few, which wait for checkpoints, and a program that writes \
        memory as fast as it can.",
        draw: throughput,
    },
    Plan {
        title: "Latency by checkpoint interval",
        suite: "checkpoint",
        number: 2,
        text: "What a client waits longer than at the unprotected guest, one request at a time. Checkpoints that follow the \
        output (`auto`, the default) are the ablation of even ones: they stand in the table.",
        draw: latency,
    },
    Plan {
        title: "A guest that writes memory as fast as it can",
        suite: "comparison",
        number: 1,
        text: "The curve *writing memory* above, with what it is made of.",
        draw: writing,
    },
    Plan {
        title: "Compression by load",
        suite: "comparison",
        number: 3,
        text: "Bytes of whole checkpoints on the wire as a share of the bytes of dirty pages: with everything, and without \
        deltas, that is with pages of zeros and LZ4 alone. Device state and headers are in it: where few pages are dirty they are \
        most of it.",
        draw: compression,
    },
    Plan {
        title: "What each part is worth",
        suite: "comparison",
        number: 3,
        text: "The same loads with parts of the checkpoint left out, one at a time.",
        draw: ablations,
    },
    Plan {
        title: "Live migration beside QEMU's own",
        suite: "migrate",
        number: 1,
        text: "Undying and QEMU's own live migration with the same guest, machine and bound on the link, in one run. *Lost to \
        the guest* is what a program in it sees: how far its own clock falls behind the machine's, which goes on while it stands \
        still.",
        draw: migrations,
    },
    Plan {
        title: "Beside QEMU's COLO",
        suite: "comparison",
        number: 2,
        text: "The other fault tolerance that stock QEMU has, with the same guest in the same run. It runs on this machine with \
        the smallest of guests only.",
        draw: colo,
    },
    Plan {
        title: "The pause by memory",
        suite: "checkpoint",
        number: 7,
        text: "What it costs to look through a memory of which next to nothing changes.",
        draw: memory,
    },
    Plan {
        title: "Many VMs to one backup",
        suite: "many",
        number: 1,
        text: "VMs of as many hosts at one backup. All hosts share this machine's processors.",
        draw: many,
    },
];

fn pauses(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("asked")?;
    let against = |key: &str, height: fn(&Cell) -> Option<f64>| {
        let places = table.column("dirty_pages").map(|(_, cell)| cell.middle());
        let heights = table.column(key).map(|(_, cell)| height(cell));
        places.zip(heights).filter_map(|(x, y)| Some((x?, y?))).collect::<Vec<_>>()
    };
    let series = [
        named("pause, median", against("pause_ms", Cell::middle)),
        named("pause, 99 of 100 are shorter", against("pause_ms", Cell::p99)),
        named("from the cut to the acknowledgement, median", against("ack_ms", Cell::middle)),
    ];
    let frame =
        Frame { title: "Pause and transfer by dirty pages", x: "dirty pages (logarithmic)", y: "time, ms" };
    let picture = drawn(
        "pause-by-dirty-pages",
        "Pause and time to the acknowledgement against dirty pages",
        frame,
        &series,
    )?;
    let tables = vec![page::drawn(table)];
    Ok(Drawn { pictures: vec![picture], tables, ..Drawn::default() })
}

fn throughput(kept: &Kept, all: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("ratio_turns")?;
    let mut series = vec![
        named("arithmetic", by_interval(table, "ratio_turns", percent)),
        named("Redis, 8 connections, 64 writes deep", by_interval(table, "ratio_depth_64", percent)),
        named("Redis, 8 connections, 4 writes deep", by_interval(table, "ratio_depth_4", percent)),
    ];
    if let Some(writing) = all("comparison", 1)? {
        series.push(named("writing memory", by_interval(writing.table("written")?, "ratio", percent)));
    }
    let frame = Frame {
        title: "Throughput by checkpoint interval",
        x: "checkpoint interval, ms (logarithmic)",
        y: "of the unprotected guest, %",
    };
    let picture =
        drawn("throughput-by-interval", "Throughput against the checkpoint interval", frame, &series)?;
    let tables = vec![page::drawn(table)];
    Ok(Drawn { pictures: vec![picture], tables, ..Drawn::default() })
}

fn latency(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("added_ms")?;
    let series = [
        named("added, median", by_interval(table, "added_ms", Cell::middle)),
        named("added, 99 of 100 wait less", by_interval(table, "added_ms", Cell::p99)),
    ];
    let frame = Frame {
        title: "Latency of a lone Redis client by checkpoint interval",
        x: "checkpoint interval, ms (logarithmic)",
        y: "added to the unprotected median, ms",
    };
    let picture =
        drawn("latency-by-interval", "Added latency against the checkpoint interval", frame, &series)?;
    let tables = vec![page::drawn(table)];
    Ok(Drawn { pictures: vec![picture], tables, ..Drawn::default() })
}

fn writing(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let (tables, notes) = (vec![page::drawn(kept.table("written")?)], kept.part.found.notes.clone());
    Ok(Drawn { tables, notes, ..Drawn::default() })
}

fn compression(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let (groups, mut series) = by_group(kept.table("percent")?, "percent");
    series.retain(|one| one.name != "without copying ahead");
    let frame =
        Frame { title: "Bytes on the wire by load", x: "load of the guest", y: "of the dirty bytes, %" };
    let svg = chart::bars(frame, &groups, &series)?;
    let pictures = vec![Picture { name: "compression-by-load", shows: "Bytes on the wire by load", svg }];
    Ok(Drawn { pictures, ..Drawn::default() })
}

fn ablations(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("percent")?;
    let (groups, series) = by_group(table, "pause_ms");
    let frame =
        Frame { title: "Pause by load, with parts left out", x: "load of the guest", y: "pause, median, ms" };
    let svg = chart::bars(frame, &groups, &series)?;
    let pictures =
        vec![Picture { name: "pause-with-parts-left-out", shows: "Pause by load with parts left out", svg }];
    let tables = kept.part.found.tables.iter().map(page::drawn).collect();
    Ok(Drawn { pictures, tables, ..Drawn::default() })
}

fn migrations(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("guest_ms")?;
    let picture = |name, shows, key: &str, y| {
        let (groups, mut series) = by_group(table, key);
        let groups: Vec<String> = groups.iter().map(|group| group.replace(" dirtied", "")).collect();
        series.retain(|one| one.name != "Undying, stopped first");
        let frame = Frame { title: shows, x: "dirtied by the guest, bound on the link", y };
        chart::bars(frame, &groups, &series).map(|svg| Picture { name, shows, svg })
    };
    let pictures = vec![
        picture(
            "migration-downtime",
            "What a migration takes from the guest",
            "guest_ms",
            "lost to the guest, median, ms",
        )?,
        picture(
            "migration-time",
            "How long a migration takes",
            "total_s",
            "from the order to the end, median, s",
        )?,
    ];
    let (tables, notes) = (vec![page::drawn(table)], kept.part.found.notes.clone());
    Ok(Drawn { pictures, tables, notes })
}

fn colo(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let notes =
        kept.part.found.notes.iter().map(|note| note.replace("](../evaluation/", "](evaluation/")).collect();
    if kept.part.found.tables.is_empty() {
        return Ok(Drawn { notes, ..Drawn::default() });
    }
    let table = kept.table("rounds")?;
    let series = by_size(table, " pages: ");
    let frame = Frame {
        title: "Pause beside COLO",
        x: "pages the guest writes (logarithmic)",
        y: "pause, median, ms",
    };
    let pictures =
        vec![drawn("pause-beside-colo", "Pause of COLO and of Undying against dirty pages", frame, &series)?];
    let tables = vec![page::drawn(table)];
    Ok(Drawn { pictures, tables, notes })
}

fn memory(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("wire_kb")?;
    let series = by_size(table, " MiB, ");
    let frame = Frame {
        title: "Pause of an idle VM by its memory",
        x: "memory, MiB (logarithmic)",
        y: "pause, median, ms",
    };
    let pictures = vec![drawn("pause-by-memory", "Pause of an idle VM against its memory", frame, &series)?];
    let tables = vec![page::drawn(table)];
    Ok(Drawn { pictures, tables, ..Drawn::default() })
}

fn many(kept: &Kept, _: Reader<'_>) -> Result<Drawn> {
    let table = kept.table("cpu_percent")?;
    let by_number = |key: &str| {
        let cells = table.column(key);
        cells.filter_map(|(row, cell)| Some((row.parse().ok()?, cell.middle()?))).collect::<Vec<(f64, f64)>>()
    };
    let series = [
        named("pause, median", by_number("pause_ms")),
        named("from the cut to the acknowledgement, median", by_number("ack_ms")),
    ];
    let frame = Frame { title: "Many VMs to one backup", x: "VMs (logarithmic)", y: "time, ms" };
    let pictures = vec![drawn(
        "many",
        "Pause and time to the acknowledgement against the number of VMs",
        frame,
        &series,
    )?];
    let tables = kept.part.found.tables.iter().map(page::drawn).collect();
    Ok(Drawn { pictures, tables, ..Drawn::default() })
}
fn named(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.to_owned(), points }
}

fn add(series: &mut Vec<Series>, name: &str, point: (f64, f64)) {
    match series.iter_mut().find(|one| one.name == name) {
        Some(one) => one.points.push(point),
        None => series.push(named(name, vec![point])),
    }
}

fn drawn(name: &'static str, shows: &'static str, frame: Frame<'_>, series: &[Series]) -> Result<Picture> {
    Ok(Picture { name, shows, svg: chart::lines(frame, series)? })
}

/// Medians of the pause, of rows named by a size, `between` and a series.
fn by_size(table: &Table, between: &str) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for (row, cell) in table.column("pause_ms") {
        let Some((size, name)) = row.split_once(between) else { continue };
        let (Ok(size), Some(pause)) = (size.parse(), cell.middle()) else { continue };
        add(&mut series, name, (size, pause));
    }
    series
}

/// A ratio in percent.
fn percent(cell: &Cell) -> Option<f64> {
    cell.middle().map(|ratio| ratio * 100.0)
}

/// The rows of even checkpoints, by their interval in milliseconds.
fn by_interval(table: &Table, key: &str, height: fn(&Cell) -> Option<f64>) -> Vec<(f64, f64)> {
    let interval =
        |row: &str| row.strip_prefix("checkpoints every ")?.strip_suffix(" ms")?.parse::<f64>().ok();
    table.column(key).filter_map(|(row, cell)| Some((interval(row)?, height(cell)?))).collect()
}

/// Rows named `group: member` as groups of bars, a series for each member.
fn by_group(table: &Table, key: &str) -> (Vec<String>, Vec<Series>) {
    let (mut groups, mut series): (Vec<String>, Vec<Series>) = (Vec::new(), Vec::new());
    for (row, cell) in table.column(key) {
        let Some((group, member)) = row.split_once(": ") else { continue };
        let at = groups.iter().position(|known| known == group).unwrap_or_else(|| {
            groups.push(group.to_owned());
            groups.len() - 1
        });
        if let Some(height) = cell.middle() {
            add(&mut series, member, (at as f64, height));
        }
    }
    (groups, series)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{Findings, Part};
    use api::summary::Summary;

    const NOTHING_ELSE: Reader<'static> = &|_, _| Ok(None);

    fn kept(suite: &str, number: u32, tables: Vec<Table>) -> Kept {
        let found = Findings { tables, ..Findings::default() };
        let part =
            Part { number, title: "x".into(), others_busy_percent: 0.0, seconds: 1.0, error: None, found };
        Kept { suite: suite.into(), command: String::new(), facts: Vec::new(), part }
    }

    #[test]
    fn intervals_are_read_from_rows_and_what_follows_the_output_has_none() {
        let mut table = Table::new("x", &[("what", "what"), ("added_ms", "added, ms")]);
        for (row, ms) in [
            ("unprotected", 0.0),
            ("checkpoints every 5 ms", 5.0),
            ("checkpoints that follow the output", 7.0),
        ] {
            table.row(row, [Summary::of([ms]).into()]);
        }
        assert_eq!(by_interval(&table, "added_ms", Cell::middle), [(5.0, 5.0)]);
        let drawn = latency(&kept("checkpoint", 2, vec![table]), NOTHING_ELSE).expect("a section");
        assert_eq!(drawn.pictures.len(), 1);
    }

    #[test]
    fn rows_are_grouped_by_what_stands_before_the_colon() {
        let mut table = Table::new("x", &[("what", "what"), ("percent", "%")]);
        for (row, found) in [("a: one", 1.0), ("a: two", 2.0), ("b: one", 3.0), ("b: two", f64::NAN)] {
            table.row(row, [found.into()]);
        }
        let (groups, series) = by_group(&table, "percent");
        assert_eq!(groups, ["a", "b"]);
        assert_eq!(series, [named("one", vec![(0.0, 1.0), (1.0, 3.0)]), named("two", vec![(0.0, 2.0)])]);
    }

    #[test]
    fn figures_of_an_older_program_are_refused_with_the_command_that_helps() {
        let error = latency(&kept("checkpoint", 2, Vec::new()), NOTHING_ELSE)
            .err()
            .expect("no such column")
            .to_string();
        assert!(error.contains("added_ms") && error.contains("bench checkpoint --only 2"), "{error}");
    }
}
