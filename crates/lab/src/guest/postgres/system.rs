//! Owns the tree of files from which PostgreSQL runs, in the guest as its root and on this machine as the client's.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::command;
use crate::guest::debian::{Unpacked, file_name};
use crate::guest::{GuestError, on};

/// The directory of all libraries.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// The dynamic linker.
pub const LINKER: &str = "lib64/ld-linux-x86-64.so.2";
/// Number of the user and the group of PostgreSQL, which does not run as root.
pub const USER: u32 = 100;
/// The user's home, in which the database is.
pub const HOME: &str = "var/lib/postgresql";

/// What runs in the guest, when the database is made, at an inspection, and at the client.
const PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_ctl", "pg_checksums", "pgbench"];
/// What the server loads for `initdb`'s own objects.
const PLUGINS: [&str; 2] = ["plpgsql.so", "dict_snowball.so"];
const DIRECTORIES: [&str; 9] =
    ["bin", "dev/shm", "etc", "lib64", "proc", "run/postgresql", "tmp", "usr/share", HOME];
/// The time zone in which the server logs.
const ZONE: &str = "usr/share/zoneinfo/UTC";
/// Names and numbers of the devices that the programs open while the database is made; in the guest the kernel's own
/// take their place.
const DEVICES: [(&str, u32, u32); 2] = [("dev/null", 1, 3), ("dev/urandom", 1, 9)];

/// Makes the tree at `root`; where its programs are, below it.
pub fn make(unpacked: &Unpacked, root: &Path) -> Result<PathBuf, GuestError> {
    for directory in DIRECTORIES.iter().chain(&[LIBRARIES]) {
        let path = root.join(directory);
        fs::create_dir_all(&path).map_err(on("create", &path))?;
    }
    let server = unpacked.find("postgres", |path| path.ends_with("bin/postgres"))?;
    let programs = server.parent().and_then(|path| path.strip_prefix(&unpacked.root).ok());
    let programs = programs.unwrap_or(Path::new("bin")).to_owned();
    for name in PROGRAMS {
        let program = copy(unpacked, &programs.join(name), root)?;
        for (name, file) in unpacked.libraries(&program)? {
            let place =
                if name.starts_with("ld-linux") { LINKER.into() } else { format!("{LIBRARIES}/{name}") };
            fs::copy(&file, root.join(place)).map_err(on("copy", &file))?;
        }
    }
    for name in PLUGINS {
        copy(unpacked, &programs.with_file_name("lib").join(name), root)?;
    }
    copy(unpacked, Path::new(ZONE), root)?;
    shared_files(unpacked, root)?;
    surroundings(&programs, root)?;
    Ok(programs)
}

/// Copies a file to the same place in the tree; the file itself.
fn copy(unpacked: &Unpacked, path: &Path, root: &Path) -> Result<PathBuf, GuestError> {
    let from = unpacked.find(file_name(path), |found| found.ends_with(path))?;
    let to = root.join(path);
    let directory = to.parent().unwrap_or(root);
    fs::create_dir_all(directory).map_err(on("create", directory))?;
    fs::copy(&from, &to).map_err(on("copy", &from))?;
    Ok(from)
}

/// What `initdb` and the server read: `usr/share/postgresql`.
fn shared_files(unpacked: &Unpacked, root: &Path) -> Result<(), GuestError> {
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(unpacked.root.join("usr/share/postgresql")).arg(root.join("usr/share"));
    command::run(&mut copy)?;
    Ok(())
}

/// A shell for `initdb`, the user, devices.
fn surroundings(programs: &Path, root: &Path) -> Result<(), GuestError> {
    let busybox = root.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).map_err(on("copy", "/bin/busybox"))?;
    symlink("busybox", root.join("bin/sh")).map_err(on("link to", &busybox))?;
    let server = Path::new("/").join(programs).join("postgres");
    for (path, text) in [
        ("etc/passwd", format!("postgres:x:{USER}:{USER}::/{HOME}:/bin/sh\n")),
        ("etc/group", format!("postgres:x:{USER}:\n")),
        ("etc/server", server.to_string_lossy().into_owned()),
    ] {
        let path = root.join(path);
        fs::write(&path, text).map_err(on("write", &path))?;
    }
    for (name, major, minor) in DEVICES {
        let path = root.join(name);
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))
            .map_err(|error| on("make the device", &path)(error.into()))?;
        // What this process's umask has taken away.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(on("open", &path))?;
    }
    for directory in ["tmp", "dev/shm"] {
        let path = root.join(directory);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).map_err(on("open", &path))?;
    }
    for directory in ["run/postgresql", HOME] {
        let path = root.join(directory);
        chown(&path, Some(USER), Some(USER)).map_err(on("give away", &path))?;
    }
    Ok(())
}
