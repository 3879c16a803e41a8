//! Owns finding source files that no module names: the compiler never sees them, and their tests never run.

use super::files::File;
use super::source::code_only;

/// Says which of these files no other one names, by `mod` or by `#[path]`.
pub fn check(files: &[File]) -> Vec<String> {
    let sources: Vec<(&str, String)> = files
        .iter()
        .filter(|file| file.path.ends_with(".rs") && file.path.contains("/src/"))
        .map(|file| (file.path.as_str(), file.text.replace("r#", "")))
        .collect();
    let named = |path: &str| {
        let Some((parents, module)) = parents(path) else { return true };
        sources.iter().any(|(from, text)| {
            parents.iter().any(|parent| parent == from) && declares(text, &module)
                || text.contains("#[path") && text.contains(file_name(path))
        })
    };
    let orphans = sources.iter().filter(|(path, _)| !named(path));
    orphans.map(|(path, _)| format!("{path}: no module names it, so nobody compiles it")).collect()
}

/// The files of which one has to declare this one's module, and the module's name; none of the root of a crate.
fn parents(path: &str) -> Option<(Vec<String>, String)> {
    let (folder, name) = path.rsplit_once('/')?;
    if folder.ends_with("/src") && matches!(name, "lib.rs" | "main.rs") || folder.ends_with("/src/bin") {
        return None;
    }
    let (folder, module) = match name {
        "mod.rs" => folder.rsplit_once('/')?,
        _ => (folder, name.strip_suffix(".rs")?),
    };
    let inside = ["mod.rs", "lib.rs", "main.rs"].map(|file| format!("{folder}/{file}"));
    Some((inside.into_iter().chain([format!("{folder}.rs")]).collect(), module.to_owned()))
}

fn declares(source: &str, module: &str) -> bool {
    code_only(source).contains(&format!("mod {module};"))
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_file_that_no_module_names_is_found() {
        let files = [
            file("crates/a/src/lib.rs", "mod one;\npub mod two;\n// mod four;\n"),
            file("crates/a/src/one.rs", "#[cfg(test)]\nmod tests;\n"),
            file("crates/a/src/one/tests.rs", ""),
            file("crates/a/src/one/lost.rs", ""),
            file("crates/a/src/two/mod.rs", "mod three;"),
            file("crates/a/src/two/three.rs", ""),
            file("crates/a/src/four.rs", ""),
            file("crates/a/src/bin/tool.rs", ""),
            file("crates/a/tests/it.rs", ""),
        ];
        let found = check(&files);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("crates/a/src/one/lost.rs:") && found[1].contains("four.rs"));
    }
}
