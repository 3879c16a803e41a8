//! Owns `cargo xtask tiers`: which crate may depend on which, where `unsafe` may stand, and that `protocol` is
//! free of any operating system. `ARCHITECTURE.md` draws what this table says.

mod no_std;

use crate::hygiene::{files, source};
use crate::process;
use crate::workspace::{self, Package};
use anyhow::{Result, bail};
use std::path::Path;

/// What a crate of this workspace may depend on.
struct Room {
    name: &'static str,
    /// In what is shipped.
    may: &'static [&'static str],
    /// In its tests, beside those.
    tests_may: &'static [&'static str],
}

const fn room(name: &'static str, may: &'static [&'static str], tests_may: &'static [&'static str]) -> Room {
    Room { name, may, tests_may }
}

/// Arrows point down only: a crate stands below everything that it may depend on.
const ROOMS: &[Room] = &[
    room("protocol", &[], &[]),
    room("os", &[], &[]),
    room("rv", &[], &["rvjit"]),
    room("rvjit", &["rv"], &[]),
    room("sim", &["protocol"], &["sim"]),
    room("model", &["protocol"], &["model"]),
    room("qemu", &["os"], &[]),
    room("net", &["protocol", "os"], &[]),
    room("disk", &["protocol", "os"], &[]),
    room("rvrun", &["rv", "rvjit", "net", "os"], &[]),
    room("trust", &["protocol"], &[]),
    room("arbiter", &["protocol", "trust"], &[]),
    room("api", &["protocol", "qemu", "disk"], &[]),
    room("host", &["api", "protocol", "os", "qemu", "net", "disk", "trust", "arbiter", "rvrun"], &[]),
    room("undying", &["api", "host", "protocol", "qemu", "rvrun", "trust", "arbiter", "os"], &["lab"]),
    room("lab", &["os", "protocol", "trust", "arbiter", "api"], &[]),
    room("xtask", &["lab", "sim", "api", "protocol", "qemu", "arbiter", "os"], &[]),
];

/// The one crate that may say `unsafe` anywhere.
const UNSAFE_ROOM: &str = "os";
/// The one crate beside it that may, and the one file of it in which: machine code is called there, which only its maker can
/// vouch for (docs/design/rv.md).
const CALLING_ROOM: &str = "rvjit";
const CALLING_FILE: &str = "crates/rvjit/src/call.rs";
/// Programs that run inside guests: no part of the workspace's builds.
const GUEST_PROGRAMS: &str = "crates/lab/guest/";

/// Checks everything and prints what was checked.
pub fn run() -> Result<()> {
    let packages = workspace::packages()?;
    let mut wrong = arrows(ROOMS, &packages);
    wrong.extend(roots_that_allow_unsafe(&packages)?);
    wrong.extend(files_that_say_unsafe()?);
    wrong.extend(shipped()?);
    if !wrong.is_empty() {
        bail!("{} things break the rules of crates/xtask/src/tiers:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!(
        "{} crates: arrows point down, unsafe only in `{UNSAFE_ROOM}` and {CALLING_FILE}",
        packages.len()
    );
    no_std::check()
}

/// The arrows that no rule allows, and crates without a rule.
fn arrows(rooms: &[Room], packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for room in rooms.iter().filter(|room| !packages.iter().any(|package| package.name == room.name)) {
        wrong.push(format!("there is a rule for crate `{}`, which does not exist", room.name));
    }
    for package in packages {
        let Some(room) = rooms.iter().find(|room| room.name == package.name) else {
            wrong.push(format!("crate `{}` has no rule: say what it may depend on", package.name));
            continue;
        };
        for to in package.dependencies.iter().filter(|to| to.path.is_some()) {
            let in_tests = to.kind.as_deref() == Some("dev");
            let name = to.name.as_str();
            let allowed = room.may.contains(&name) || (in_tests && room.tests_may.contains(&name));
            if !allowed {
                let tests = if in_tests { "'s tests" } else { "" };
                wrong.push(format!("`{}`{tests} may not depend on `{name}`", room.name));
            }
        }
    }
    wrong
}

/// Libraries and programs that do not forbid unsafe code.
fn roots_that_allow_unsafe(packages: &[Package]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| package.name != UNSAFE_ROOM) {
        for target in
            package.targets.iter().filter(|t| t.kind.iter().any(|kind| kind == "lib" || kind == "bin"))
        {
            let text = std::fs::read_to_string(&target.src_path)?;
            let level = if package.name == CALLING_ROOM { "deny" } else { "forbid" };
            if !source::code_only(&text).contains(&format!("#![{level}(unsafe_code)]")) {
                let path = workspace::relative(&target.src_path);
                wrong.push(format!("{path} lacks #![{level}(unsafe_code)]"));
            }
        }
    }
    Ok(wrong)
}

/// Files outside the one crate that say `unsafe` all the same: tests and examples are roots of their own.
fn files_that_say_unsafe() -> Result<Vec<String>> {
    let allowed = |path: &str| {
        path == CALLING_FILE || path.starts_with("crates/os/") || path.starts_with(GUEST_PROGRAMS)
    };
    let mut wrong = Vec::new();
    for file in files::with_extension(workspace::root(), "rs")? {
        let code = source::code_only(&file.text);
        let said = source::words(&code).find(|word| word.text == "unsafe");
        if let Some(word) = said.filter(|_| !allowed(&file.path)) {
            let place = format!("{}:{}", file.path, word.line);
            wrong.push(format!("{place} says unsafe: move it into crate `{UNSAFE_ROOM}`"));
        }
    }
    Ok(wrong)
}

/// What must not be part of the program that is shipped: simulator, model, laboratory, planted bugs, checkpoints of which
/// parts can be left out, and grants that can be cloned.
fn shipped() -> Result<Vec<String>> {
    let mut tree = process::cargo();
    tree.args(["tree", "--locked", "--package", "undying", "--edges", "normal,build"]);
    tree.args(["--prefix", "none", "--format", "{p} features={f}"]);
    Ok(wrongly_shipped(&process::output(&mut tree)?))
}

fn wrongly_shipped(tree: &str) -> Vec<String> {
    let wrong = |line: &str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        let features = line.split_once("features=").map_or("", |(_, features)| features);
        let features = features.trim_end_matches(" (*)");
        ["sim", "model", "lab", "xtask"].contains(&name)
            || features.split(',').any(|feature| ["planted", "model", "ablation"].contains(&feature))
    };
    tree.lines().filter(|line| wrong(line)).map(|line| format!("`undying` ships {line}")).collect()
}

/// Whether a target's standard library is installed.
fn is_installed(target: &str) -> Result<bool> {
    let mut rustc = std::process::Command::new("rustc");
    let folder = process::output(rustc.args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(folder.trim()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;
    use std::path::PathBuf;

    fn package(name: &str, arrows: &[(&str, Option<&str>)]) -> Package {
        let dependencies = arrows.iter().map(|(to, kind)| Dependency {
            name: (*to).into(),
            kind: kind.map(Into::into),
            path: Some(PathBuf::from("/x")),
        });
        Package { name: name.into(), dependencies: dependencies.collect(), targets: Vec::new() }
    }

    #[test]
    fn an_arrow_that_no_rule_allows_is_found() {
        let rooms = [room("low", &[], &[]), room("high", &["low"], &["toys"]), room("toys", &[], &[])];
        let check = |packages: &[Package]| arrows(&rooms, packages).join("; ");
        let toys = || package("toys", &[]);
        let good = [package("low", &[]), package("high", &[("low", None), ("toys", Some("dev"))]), toys()];
        assert_eq!(check(&good), "");
        let up = [package("low", &[("high", None)]), package("high", &[]), toys()];
        assert_eq!(check(&up), "`low` may not depend on `high`");
        let tests_up = [package("low", &[("toys", Some("dev"))]), package("high", &[]), toys()];
        assert_eq!(check(&tests_up), "`low`'s tests may not depend on `toys`");
        let shipped_toy = [package("low", &[]), package("high", &[("toys", None)]), toys()];
        assert_eq!(check(&shipped_toy), "`high` may not depend on `toys`");
        let stranger = [package("low", &[]), package("high", &[]), toys(), package("new", &[])];
        assert!(check(&stranger).contains("`new` has no rule"));
        assert!(check(&[package("low", &[]), toys()]).contains("`high`, which does not exist"));
    }

    #[test]
    fn the_table_has_no_circle() {
        // Every arrow goes to a room whose own arrows were all known before: possible only without a circle.
        let mut known: Vec<&str> = Vec::new();
        while known.len() < ROOMS.len() {
            let ready = |room: &&Room| {
                !known.contains(&room.name) && room.may.iter().all(|name| known.contains(name))
            };
            let next = ROOMS.iter().find(ready).expect("a room that only needs known ones");
            known.push(next.name);
        }
    }

    #[test]
    fn the_simulator_and_planted_bugs_are_not_shipped() {
        assert_eq!(wrongly_shipped("undying v1 (/x) features=\nprotocol v1 (/x) features= (*)\n"), [""; 0]);
        assert_eq!(wrongly_shipped("protocol v1 (/x) features=a,planted (*)\n").len(), 1);
        assert_eq!(wrongly_shipped("host v1 (/x) features=ablation\n").len(), 1);
        assert_eq!(wrongly_shipped("protocol v1 (/x) features=model\n").len(), 1);
        assert_eq!(wrongly_shipped("sim v1 (/x) features=\nlab v1 (/x) features=\n").len(), 2);
    }
}
