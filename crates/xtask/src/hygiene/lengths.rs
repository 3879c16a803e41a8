//! Owns how long files and functions may be. Every project regrets its one giant file.

use super::files::File;
use super::source;

/// From here on a file is listed.
const LONG_FILE: usize = 600;
/// From here on it must be split.
const TOO_LONG_FILE: usize = 1_000;
/// Longest function, in lines.
const LONGEST_FUNCTION: usize = 100;

/// What is too long in a file.
pub fn check(file: &File) -> Vec<String> {
    let mut wrong = Vec::new();
    if !file.has_extension("rs") {
        return wrong;
    }
    let lines = file.text.lines().count();
    if lines > TOO_LONG_FILE {
        wrong.push(format!("{} has {lines} lines, at most {TOO_LONG_FILE} are allowed: split it", file.path));
    }
    for function in source::functions(&file.text).iter().filter(|function| function.lines > LONGEST_FUNCTION)
    {
        let place = format!("{}:{}", file.path, function.line);
        let (name, lines) = (&function.name, function.lines);
        wrong.push(format!(
            "{place} function {name} has {lines} lines, at most {LONGEST_FUNCTION} are allowed"
        ));
    }
    wrong
}

/// What is on its way to be too long.
pub fn note(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    let long = file.has_extension("rs") && (LONG_FILE + 1..=TOO_LONG_FILE).contains(&lines);
    long.then(|| format!("{} has {lines} lines: think of splitting it", file.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: String) -> File {
        File { path: path.into(), text }
    }

    #[test]
    fn long_files_are_noted_and_too_long_ones_are_wrong() {
        let of = |lines: usize| file("a.rs", "//\n".repeat(lines));
        assert_eq!((check(&of(600)).len(), note(&of(600))), (0, None));
        assert!(check(&of(601)).is_empty() && note(&of(601)).is_some());
        assert!(check(&of(1_000)).is_empty());
        assert_eq!(check(&of(1_001)).len(), 1);
        assert!(check(&file("a.md", "\n".repeat(2_000))).is_empty());
    }

    #[test]
    fn a_function_may_have_a_hundred_lines() {
        let of = |inside: usize| file("a.rs", format!("fn f() {{\n{}}}\n", "  x();\n".repeat(inside)));
        assert!(check(&of(98)).is_empty());
        let wrong = check(&of(99));
        assert!(wrong.len() == 1 && wrong[0].contains("function f has 101"), "{wrong:?}");
    }
}
