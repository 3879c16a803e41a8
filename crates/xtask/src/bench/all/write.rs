//! Owns the evaluation's document, made of its sections.

use super::kept::{self, Kept};
use super::sections::Section;
use crate::bench::figures::Target;
use crate::bench::page::{self, line};
use crate::bench::site::LOADED_PERCENT;
use crate::bench::{put, workspace};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Writes the document and the pictures, in `docs`, or of quick runs beside their figures. Tells all files.
pub fn document(sections: &[Section], quick: bool) -> Result<Vec<PathBuf>> {
    let folder = if quick { kept::folder(true) } else { workspace::root().join("docs") };
    let page = folder.join("evaluation.md");
    let mut files = vec![page.clone()];
    put(&page, &markdown(sections, quick, &folder))?;
    for picture in sections.iter().flat_map(|section| &section.drawn.pictures) {
        let path = folder.join("evaluation").join(picture.name).with_extension("svg");
        put(&path, &picture.svg)?;
        files.push(path);
    }
    Ok(files)
}

fn markdown(sections: &[Section], quick: bool, folder: &Path) -> String {
    let mut text = String::from("# Evaluation\n\n");
    line(&mut text, INTRODUCTION);
    if quick {
        line(&mut text, "**Of quick runs, to see that everything works: the figures mean little.**\n");
    }
    places(&mut text, sections);
    targets(&mut text, sections);
    for (number, section) in (1..).zip(sections) {
        line(&mut text, &format!("## {number}. {}\n", section.plan.title));
        line(&mut text, &format!("{}\n", source(section, folder)));
        line(&mut text, &format!("{}\n", section.plan.text));
        for picture in &section.drawn.pictures {
            line(&mut text, &format!("![{}](evaluation/{}.svg)\n", picture.shows, picture.name));
        }
        for table in &section.drawn.tables {
            line(&mut text, table);
        }
        for note in &section.drawn.notes {
            line(&mut text, &format!("- {note}\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

const INTRODUCTION: &str = "Made by `cargo xtask bench all` of figures that were measured part by part; nothing here was written by \
    hand. It is the sum of the detailed reports in `docs/bench`, which say how each figure was measured and have all of \
    them. A field with three numbers shows *min / median / p99 (count)*.\n";

/// Where the figures are from, told once for all that are from the same place.
fn places(text: &mut String, sections: &[Section]) {
    let kept = || sections.iter().filter_map(|section| section.source.as_ref());
    for fact in ["Machine", "System", "Virtualisation", "QEMU", "Guest"] {
        let mut values: Vec<&str> = kept().map(|kept| kept.fact(fact)).collect();
        values.sort_unstable();
        values.dedup();
        if !values.is_empty() {
            line(text, &format!("- {fact}: {}", values.join("; or ")));
        }
    }
    text.push('\n');
}

fn targets(text: &mut String, sections: &[Section]) {
    let mut all: Vec<&Target> = Vec::new();
    for kept in sections.iter().filter_map(|section| section.source.as_ref()) {
        // A part may stand in two sections.
        let new = |target: &&Target| !all.iter().any(|known| known.what == target.what);
        let found: Vec<&Target> = kept.part.found.targets.iter().filter(new).collect();
        all.extend(found);
    }
    page::targets(text, all.into_iter());
}

fn source(section: &Section, folder: &Path) -> String {
    let report = format!("bench/{}.md", section.plan.suite);
    let told = if folder.join(&report).exists() {
        format!("part {} of [{}.md]({report})", section.plan.number, section.plan.suite)
    } else {
        format!("part {} of `cargo xtask bench {}`", section.plan.number, section.plan.suite)
    };
    match &section.source {
        None => {
            let again = kept::again(section.plan.suite, section.plan.number);
            format!("**Not measured yet**: {told}; `{again}`.")
        }
        Some(kept) => {
            format!("*From {told}, {}, {}; {}.*", kept.fact("Date"), kept.fact("Undying"), quiet(kept))
        }
    }
}

fn quiet(kept: &Kept) -> String {
    let busy = kept.part.others_busy_percent;
    if busy > LOADED_PERCENT {
        format!("**others used {busy:.0} % of the processors when it began**")
    } else {
        "on a quiet machine".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sections;
    use super::*;

    #[test]
    fn what_was_not_measured_is_said_with_the_command_that_does() {
        let sections = sections::compose(|_, _| Ok(None)).expect("an empty evaluation");
        let text = markdown(&sections, false, Path::new("/nowhere"));
        for wanted in [
            "cargo xtask bench checkpoint --only 1",
            "cargo xtask bench comparison --only 2",
            "Not measured yet",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(!text.contains("!["), "{text}");
    }
}
