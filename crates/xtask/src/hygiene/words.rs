//! Owns what no file may say: markers of unfinished work, folders of a developer's machine, and, in code that is
//! shipped, `.unwrap()`: an `expect` says why it cannot fail.

use super::files::File;
use super::source;
use std::path::Path;

/// Markers of unfinished work, in two parts so that this file has none.
const MARKERS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Where people's files lie, likewise.
const HOMES: [&str; 3] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// Folders that no file may name.
#[derive(Debug)]
pub struct Forbidden(Vec<String>);

impl Forbidden {
    /// Homes, and the folders that this checkout lies in.
    pub fn here(root: &Path) -> Self {
        // The topmost folders that everybody has say nothing about anybody.
        let common = ["/", "/tmp", "/var", "/usr", "/srv", "/opt", "/mnt", "/builds"].map(Path::new);
        let mine = root.ancestors().filter(|folder| !common.contains(folder));
        let mut all: Vec<String> = mine.map(|folder| format!("{}/", folder.display())).collect();
        all.extend(HOMES.map(str::to_owned));
        Self(all)
    }

    /// The folder that a line names, if it names one.
    fn named<'a>(&'a self, line: &str) -> Option<&'a str> {
        let begins = |folder: &str, at: usize| {
            let before = line[..at].chars().next_back();
            // `src/work/` or `$HOME/root/` are other folders.
            folder.len() > 2 && before.is_none_or(|c| !(c.is_alphanumeric() || "_-.}$/)".contains(c)))
        };
        let named = |folder: &&String| line.match_indices(folder.as_str()).any(|(at, _)| begins(folder, at));
        self.0.iter().find(named).map(String::as_str)
    }
}

/// What is said in a file and should not be.
pub fn check(file: &File, forbidden: &Forbidden) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if let Some(marker) = words.find(|word| MARKERS.contains(word)) {
            wrong.push(format!("{}:{} says {marker}: do it, or write an issue", file.path, at + 1));
        }
        if let Some(folder) = forbidden.named(line) {
            wrong.push(format!("{}:{} names {folder}, a folder of somebody's machine", file.path, at + 1));
        }
    }
    wrong.extend(unwraps(file));
    wrong
}

fn unwraps(file: &File) -> Vec<String> {
    let shipped =
        file.has_extension("rs") && file.path.contains("/src/") && !file.path.ends_with("/tests.rs");
    if !shipped {
        return Vec::new();
    }
    let code = source::code_only(&file.text);
    // Unit tests stand at the end of their file.
    let shipped = code.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = shipped.lines().enumerate().filter(|(_, line)| line.contains(".unwrap()"));
    lines
        .map(|(at, _)| format!("{}:{} unwraps: use expect and say why it holds", file.path, at + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        let forbidden = Forbidden::here(Path::new("/place/of/somebody"));
        check(&File { path: path.into(), text: text.into() }, &forbidden).len()
    }

    #[test]
    fn markers_are_found_as_words() {
        assert_eq!(found("a.md", &format!("one\n{}: later\n", MARKERS[0])), 1);
        assert_eq!(
            found("a.md", &format!("{}S are many, mktemp.{}{}", MARKERS[0], MARKERS[2], MARKERS[2])),
            0
        );
    }

    #[test]
    fn folders_of_a_machine_are_found_and_others_are_not() {
        for named in ["see /place/of/somebody/x", "\"/place/of/else\"", &format!("{}me/x", HOMES[0])] {
            assert_eq!(found("a.md", named), 1, "{named}");
        }
        for other in ["crates/place/of", "x/place/", "$DIR/place/of", "/placement/", "/tmp/x"] {
            assert_eq!(found("a.md", other), 0, "{other}");
        }
    }

    #[test]
    fn unwraps_are_for_tests() {
        let call = concat!("a.unwrap", "();\n");
        assert_eq!(found("crates/x/src/a.rs", call), 1);
        assert_eq!(found("crates/x/tests/a.rs", call), 0);
        assert_eq!(found("crates/x/src/a.rs", &format!("#[cfg(test)]\nmod tests {{ {call} }}")), 0);
        assert_eq!(found("crates/x/src/a.rs", &format!("// {call}")), 0);
    }
}
