//! Owns making the database: `initdb`, its settings, the tables of `pgbench`, and the ext4 image that holds it all.
//!
//! It is made on this machine, by the guest's own programs with the tree as their root: under TCG it would take minutes.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::system::{HOME, USER};
use super::{CONFIG, PGBENCH_SCALE, POSTGRES};
use crate::command;
use crate::guest::{GuestError, on};

/// Size of the image in MiB; it is sparse. The log of a long torture has its place in it.
const IMAGE_MIB: u64 = 2048;
/// Everyone may come in: the networks of a lab end at the lab.
const ACCESS: &str = "local all all trust\nhost all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
/// For as long as the tables are made: nobody hears of it, and a crash begins it anew.
const ALONE: &str = "-c listen_addresses= -c unix_socket_directories=/tmp -c fsync=off";

/// Makes the database in the tree at `root`, whose programs are in `programs`, and writes the image; the tree is
/// without the database again afterwards.
pub fn make(root: &Path, programs: &Path, image: &Path) -> Result<(), GuestError> {
    let data = format!("/{HOME}/data");
    let place = root.join(HOME).join("data");
    let run = |program: &str, arguments: &[&str]| {
        let mut command = inside(root, &programs.join(program));
        command::run(command.args(arguments))
    };
    run(
        "initdb",
        &[
            "--pgdata",
            &data,
            "--username",
            POSTGRES,
            "--data-checksums",
            "--no-locale",
            "--encoding=UTF8",
            "--auth=trust",
        ],
    )?;
    append(&place.join("postgresql.conf"), CONFIG)?;
    fs::write(place.join("pg_hba.conf"), ACCESS).map_err(on("write", place.join("pg_hba.conf")))?;
    let log = format!("/{HOME}/log");
    run("pg_ctl", &["--pgdata", &data, "--log", &log, "--wait", "--options", ALONE, "start"])?;
    let scale = PGBENCH_SCALE.to_string();
    let filled = run(
        "pgbench",
        &["--host=/tmp", "--username", POSTGRES, "--initialize", "--quiet", "--scale", &scale, POSTGRES],
    );
    // Ended in any case: a server that runs on would keep the directory busy.
    let stopped = run("pg_ctl", &["--pgdata", &data, "--wait", "stop"]);
    filled?;
    stopped?;
    let log = root.join(HOME).join("log");
    fs::remove_file(&log).map_err(on("remove", &log))?;
    file_system(root, image)?;
    fs::remove_dir_all(&place).map_err(on("remove", &place))
}

/// A program of the tree, run with the tree as its root and PostgreSQL's user.
fn inside(root: &Path, program: &Path) -> Command {
    let mut command = Command::new("chroot");
    command.arg(format!("--userspec={USER}:{USER}")).arg(root).arg(Path::new("/").join(program));
    command.env_clear().env("PATH", "/bin:/usr/bin:/usr/sbin:/sbin").env("TZ", "UTC").env("LC_ALL", "C");
    command
}

fn append(path: &Path, text: &str) -> Result<(), GuestError> {
    let before = fs::read_to_string(path).map_err(on("read", path))?;
    fs::write(path, before + "\n" + text).map_err(on("write", path))
}

fn file_system(root: &Path, image: &Path) -> Result<(), GuestError> {
    let file = fs::File::create_new(image).map_err(on("create", image))?;
    file.set_len(IMAGE_MIB << 20).map_err(on("size", image))?;
    // A guest that finishes the tables of inodes behind the scenes would write where nobody has work for it.
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    command::run(make.arg("-d").arg(root).arg(image))?;
    Ok(())
}
