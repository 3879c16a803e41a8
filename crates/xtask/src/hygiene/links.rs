//! Owns links in Markdown: those to files must lead somewhere.

use super::files::File;
use std::path::Path;

/// Links in a file that lead nowhere.
pub fn check(root: &Path, file: &File) -> Vec<String> {
    if !file.has_extension("md") {
        return Vec::new();
    }
    let folder = root.join(&file.path).parent().unwrap_or(root).to_path_buf();
    let dead = |(line, target): (usize, String)| {
        let base = if target.starts_with('/') { root } else { &folder };
        let exists = base.join(target.trim_start_matches('/')).exists();
        (!exists).then(|| format!("{}:{line} links to {target}, which is not there", file.path))
    };
    targets(&file.text).into_iter().filter_map(dead).collect()
}

/// The files that a text links to, each with its line.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Odd pieces are code.
        for piece in line.split('`').step_by(2) {
            found.extend(piece.split("](").skip(1).filter_map(target).map(|target| (at + 1, target)));
            let reference = piece.trim_start().starts_with('[').then(|| piece.split_once("]: ")).flatten();
            found.extend(reference.and_then(|(_, rest)| file_of(rest)).map(|target| (at + 1, target)));
        }
    }
    found
}

/// The file in what follows `](`.
fn target(rest: &str) -> Option<String> {
    file_of(rest.split(')').next()?)
}

fn file_of(link: &str) -> Option<String> {
    let address = link.split_whitespace().next()?.trim_matches(['<', '>']);
    let file = address.split('#').next().unwrap_or_default();
    let elsewhere = address.contains("://") || address.starts_with("mailto:");
    (!elsewhere && !file.is_empty()).then(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found_and_others_are_not() {
        let text = "[a](x.md) and ![p](pic.png \"title\")\n[web](https://x.y/z) [here](#part) [m](mailto:x@y)\n\
                    ```\n[code](no.md)\n```\n`[code](no.md)` [b](dir/y.md#part)\n[r]: ref.md\n";
        let found: Vec<(usize, String)> = targets(text);
        let expected = [(1, "x.md"), (1, "pic.png"), (6, "dir/y.md"), (7, "ref.md")];
        assert_eq!(found, expected.map(|(line, target)| (line, target.to_owned())));
    }

    #[test]
    fn a_link_leads_from_its_own_folder_or_from_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join("docs/a.md"), "").unwrap();
        let check =
            |path: &str, text: &str| check(root.path(), &File { path: path.into(), text: text.into() }).len();
        assert_eq!(check("docs/b.md", "[a](a.md) [a](../docs/a.md) [a](/docs/a.md) [d](../docs)"), 0);
        assert_eq!(check("b.md", "[a](a.md)"), 1);
        assert_eq!(check("b.rs", "[a](a.md)"), 0);
    }
}
