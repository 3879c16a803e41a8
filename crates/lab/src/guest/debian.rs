//! Owns getting files out of Debian packages without installing them: apt fetches and verifies, dpkg unpacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{GuestError, on};
use crate::command;
use crate::packages::with_update;

/// The keys by which lists of packages are verified.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages unpacked into one directory.
pub struct Unpacked {
    /// The directory that looks like `/` of a machine which has only these packages.
    pub root: PathBuf,
    /// Names and versions, such as `redis-server 5:7.0.15-1~deb12u10`.
    pub versions: Vec<(String, String)>,
}

/// Where packages come from.
pub struct Source {
    /// What is said to apt before anything else.
    options: Vec<String>,
}

impl Source {
    /// This machine's own.
    fn own() -> Source {
        Source { options: Vec::new() }
    }

    /// Another release of Debian, for another kind of processor; this machine's own apt stays as it is. Lists are
    /// fetched into `work`, and verified by the keys of this machine's package debian-archive-keyring.
    pub fn foreign(work: &Path, release: &str, architecture: &str) -> Result<Source, GuestError> {
        let apt = work.join("apt");
        for directory in ["lists/partial", "cache/archives/partial"] {
            let directory = apt.join(directory);
            fs::create_dir_all(&directory).map_err(on("create", &directory))?;
        }
        let [list, status] = ["sources.list", "status"].map(|name| apt.join(name));
        let line = format!(
            "deb [arch={architecture} signed-by={KEYS}] http://deb.debian.org/debian {release} main\n"
        );
        fs::write(&list, line).map_err(on("write", &list))?;
        fs::write(&status, "").map_err(on("write", &status))?;
        let at = |key: &str, path: &Path| format!("{key}={}", path.display());
        let settings = [
            at("Dir::Etc::sourcelist", &list),
            "Dir::Etc::sourceparts=-".to_owned(),
            at("Dir::State::status", &status),
            at("Dir::State::lists", &apt.join("lists")),
            at("Dir::Cache", &apt.join("cache")),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
        ];
        let options = settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect();
        Ok(Source { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-o", "APT::Sandbox::User=root"]).args(&self.options).env("LC_ALL", "C");
        command
    }

    /// Makes sure that apt knows these packages: a simulated download tells.
    fn know(&self, names: &[&str]) -> Result<(), command::CommandError> {
        let arguments = [&["download", "--print-uris"], names].concat();
        with_update(|| self.command("apt-get"), &arguments).map(drop)
    }
}

/// Downloads the packages named, and those of what they need for which `follow` holds, and unpacks them in `work`.
pub fn unpack(work: &Path, names: &[&str], follow: impl Fn(&str) -> bool) -> Result<Unpacked, GuestError> {
    unpack_from(&Source::own(), work, names, follow)
}

/// As [`unpack`], from a certain source.
pub fn unpack_from(
    source: &Source,
    work: &Path,
    names: &[&str],
    follow: impl Fn(&str) -> bool,
) -> Result<Unpacked, GuestError> {
    let wanted = resolve(source, names, follow)?;
    let downloads = work.join("downloads");
    let root = work.join("root");
    for directory in [&downloads, &root] {
        fs::create_dir_all(directory).map_err(on("create", directory))?;
    }
    // apt's own unprivileged user cannot write into our directory.
    command::run(source.command("apt-get").arg("download").args(&wanted).current_dir(&downloads))
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
fn resolve(
    source: &Source,
    names: &[&str],
    follow: impl Fn(&str) -> bool,
) -> Result<Vec<String>, GuestError> {
    let failed = |source| GuestError::Download { packages: names.join(" "), source };
    source.know(names).map_err(failed)?;
    let listed = command::run(
        source
            .command("apt-cache")
            .args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"])
            .args(["--no-breaks", "--no-replaces", "--no-enhances"])
            .args(names),
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
