//! Owns getting files out of Debian packages without installing them: apt fetches and verifies, dpkg unpacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{GuestError, on};
use crate::command;
use crate::packages;

/// Packages unpacked into one directory.
pub struct Unpacked {
    /// The directory that looks like `/` of a machine which has only these packages.
    pub root: PathBuf,
    /// Names and versions, such as `redis-server 5:7.0.15-1~deb12u10`.
    pub versions: Vec<(String, String)>,
}

/// Downloads the packages named, and those of what they need for which `follow` holds, and unpacks them in `work`.
pub fn unpack(work: &Path, names: &[&str], follow: impl Fn(&str) -> bool) -> Result<Unpacked, GuestError> {
    let wanted = resolve(names, follow)?;
    let downloads = work.join("downloads");
    let root = work.join("root");
    for directory in [&downloads, &root] {
        fs::create_dir_all(directory).map_err(on("create", directory))?;
    }
    // apt's own unprivileged user cannot write into our directory.
    command::run(
        Command::new("apt-get")
            .args(["download", "-o", "APT::Sandbox::User=root"])
            .args(&wanted)
            .current_dir(&downloads)
            .env("LC_ALL", "C"),
    )
    .map_err(|source| GuestError::Download { packages: wanted.join(" "), source })?;
    let mut versions = Vec::new();
    for entry in fs::read_dir(&downloads).map_err(on("list", &downloads))? {
        let deb = entry.map_err(on("list", &downloads))?.path();
        command::run(Command::new("dpkg").arg("-x").arg(&deb).arg(&root))?;
        let shown = command::run(
            Command::new("dpkg-deb").args(["--show", "--showformat=${Package} ${Version}"]).arg(&deb),
        )?;
        if let Some((name, version)) = shown.split_once(' ') {
            versions.push((name.to_owned(), version.to_owned()));
        }
    }
    versions.sort();
    Ok(Unpacked { root, versions })
}

/// Whether this is a library's package, or a kernel's of a certain version. One library has an older name.
pub fn is_library_or_kernel(name: &str) -> bool {
    name.starts_with("lib") || name == "zlib1g" || name.starts_with("linux-image-")
}

/// The packages named and what they depend on, directly or not, in the versions of this Debian.
fn resolve(names: &[&str], follow: impl Fn(&str) -> bool) -> Result<Vec<String>, GuestError> {
    let failed = |source| GuestError::Download { packages: names.join(" "), source };
    // A simulated download tells whether apt knows the packages; without lists it fetches them first.
    let mut probe = vec!["download", "--print-uris"];
    probe.extend(names);
    packages::with_update(&probe).map_err(failed)?;
    let listed = command::run(
        Command::new("apt-cache")
            .args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"])
            .args(["--no-breaks", "--no-replaces", "--no-enhances"])
            .args(names)
            .env("LC_ALL", "C"),
    )
    .map_err(failed)?;
    let graph = Dependencies::parse(&listed);
    Ok(graph.closure(names, follow))
}

/// What `apt-cache depends` printed: `(package, a package that it needs)`.
struct Dependencies<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Dependencies<'a> {
    /// Packages stand at the beginning of a line, what they need below them, indented, with its kind.
    fn parse(listed: &'a str) -> Dependencies<'a> {
        let mut package = "";
        let mut edges = Vec::new();
        for line in listed.lines() {
            if !line.starts_with(' ') {
                package = line;
            } else if let Some((kind, needed)) = line.trim().split_once(": ")
                && kind.ends_with("Depends")
            {
                edges.push((package, needed));
            }
        }
        Dependencies(edges)
    }

    /// `names` and all that they need, following only packages for which `follow` holds.
    fn closure(&self, names: &[&'a str], follow: impl Fn(&str) -> bool) -> Vec<String> {
        let mut found: Vec<&str> = names.to_vec();
        let mut next = 0;
        while let Some(&package) = found.get(next) {
            next += 1;
            for (_, needed) in self.0.iter().filter(|(from, _)| *from == package) {
                if follow(needed) && !found.contains(needed) {
                    found.push(needed);
                }
            }
        }
        found.into_iter().map(str::to_owned).collect()
    }
}

impl Unpacked {
    /// The version of a package, or `unknown`.
    pub fn version(&self, package: &str) -> String {
        let found = self.versions.iter().find(|(name, _)| name == package);
        found.map_or_else(|| "unknown".to_owned(), |(_, version)| version.clone())
    }

    /// The first file below the root for which `wanted` holds, by its path.
    pub fn find(&self, what: &str, wanted: impl Fn(&Path) -> bool) -> Result<PathBuf, GuestError> {
        find_below(&self.root, &wanted)?.ok_or_else(|| GuestError::NotInPackages {
            what: what.to_owned(),
            packages: self.versions.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "),
        })
    }

    /// All shared libraries that a program needs, directly or not: soname and file, and its dynamic linker.
    pub fn libraries(&self, program: &Path) -> Result<Vec<(String, PathBuf)>, GuestError> {
        let mut found: Vec<(String, PathBuf)> = Vec::new();
        let mut open = vec![program.to_owned()];
        while let Some(file) = open.pop() {
            for name in needed(&file)? {
                if found.iter().any(|(known, _)| *known == name) {
                    continue;
                }
                let path =
                    self.find(&name, |path| path.file_name().is_some_and(|file| file == name.as_str()))?;
                let path = fs::canonicalize(&path).map_err(on("resolve", &path))?;
                found.push((name, path.clone()));
                open.push(path);
            }
        }
        Ok(found)
    }
}

/// The last part of a path, or nothing if it is no text.
pub fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The `NEEDED` entries of a program's dynamic section.
fn needed(file: &Path) -> Result<Vec<String>, GuestError> {
    let listed = command::run(Command::new("readelf").arg("-d").arg(file).env("LC_ALL", "C"))?;
    let names = listed.lines().filter(|line| line.contains("(NEEDED)")).filter_map(|line| {
        let (_, rest) = line.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    });
    Ok(names.collect())
}

fn find_below(directory: &Path, wanted: &impl Fn(&Path) -> bool) -> Result<Option<PathBuf>, GuestError> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(on("list", directory))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(on("look at", &path))?;
        if kind.is_dir() {
            if let Some(found) = find_below(&path, wanted)? {
                return Ok(Some(found));
            }
        } else if wanted(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_follows_libraries_and_alternatives_but_nothing_else() {
        let listed = "redis-server\n  PreDepends: init\n  Depends: redis-tools\nredis-tools\n  Depends: adduser\n \
            |Depends: libssl3\n    libother\n  Depends: libc6\nadduser\n  Depends: libperl\nlibssl3\n  Depends: libc6\n";
        let found = Dependencies::parse(listed)
            .closure(&["redis-server"], |name| name.starts_with("lib") || name.starts_with("redis"));
        assert_eq!(found, ["redis-server", "redis-tools", "libssl3", "libc6"]);
    }
}
