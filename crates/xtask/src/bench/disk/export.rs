//! Owns part 2 of the disks' benchmark: `qemu-img bench` on the disk server and on a file, without a guest that hides
//! what a request costs.

use super::super::Run;
use super::super::bed::until;
use super::super::figures::{Cell, Findings, Table};
use super::fill;
use super::guest::{LOADS, Load};
use crate::{process, workspace};
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::command;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ROUNDS: usize = 9;

/// All loads, on a file and on the server by turns.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let folder = workspace::target().join("bench/export");
    let (file, disk) = (folder.join("file.img"), folder.join("served.img"));
    fill(&file)?;
    fill(&disk)?;
    let server = Server::start(run, &disk, &folder.join("nbd.sock"))?;
    let mut table = Table::new(
        "`qemu-img bench`, requests a second",
        &[
            ("load", "load"),
            ("command", "command"),
            ("file", "file"),
            ("server", "the agent's server"),
            ("percent", "of the file, %"),
        ],
    );
    for (load, words) in LOADS.into_iter().filter_map(|load| Some((load, load.qemu_img?))) {
        run.screen.live(load.what);
        let (mut on_file, mut served) = (Vec::new(), Vec::new());
        for _ in 0..run.times(ROUNDS) {
            on_file.push(rate(load, words, &["-f".into(), "raw".into(), file.display().to_string()])?);
            served.push(rate(load, words, &["--image-opts".into(), server.options()])?);
        }
        let (on_file, served) = (Summary::of(on_file), Summary::of(served));
        let percent = on_file.zip(served).map(|(file, served)| 100.0 * served.median / file.median);
        let command = Cell::Words(format!("`qemu-img bench -t writeback -c {} {}`", count(load), words));
        table.row(load.what.replace("random ", ""), [command, on_file.into(), served.into(), percent.into()]);
    }
    drop(server);
    found.tables.push(table);
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

const HOW: &str = "`qemu-img bench` has the same client of the NBD protocol and the same driver for files as QEMU, and no guest: the whole \
    difference is the way to the server and back. The server is the agent's, in a program of its own \
    (`cargo run --release -p disk --example serve -- IMAGE SOCKET`), with an image of 256 MiB full of random bytes that is \
    in the page cache, as the file is. File and server take turns.";

/// Requests of one run: some tenths of a second.
fn count(load: Load) -> u32 {
    if load.bytes { 400 } else { 20_000 }
}

/// Requests a second.
fn rate(load: Load, words: &str, target: &[String]) -> Result<f64> {
    let mut bench = Command::new("qemu-img");
    bench.args(["bench", "-t", "writeback", "-c", &count(load).to_string()]);
    bench.args(words.split(' ')).args(target);
    let said = command::run(&mut bench)?;
    let seconds = seconds(&said).with_context(|| format!("qemu-img bench says no time: {said}"))?;
    Ok(f64::from(count(load)) / seconds)
}

fn seconds(said: &str) -> Option<f64> {
    said.split_once("Run completed in ")?.1.split(' ').next()?.parse().ok()
}

/// The disk server in a program of its own, until dropped.
struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    fn start(run: &mut Run<'_>, image: &Path, socket: &Path) -> Result<Self> {
        run.screen.live("cargo build --release --package disk --example serve");
        let mut build = process::cargo();
        command::run(build.args(["build", "--release", "--package", "disk", "--example", "serve"]))?;
        let mut serve = Command::new(workspace::target().join("release/examples/serve"));
        serve.arg(image).arg(socket).stdin(Stdio::piped()).stdout(Stdio::null());
        let process = serve.spawn().context("cannot start the disk server")?;
        let server = Self { process, socket: socket.to_owned() };
        until("the disk server's socket", || socket.exists())?;
        Ok(server)
    }

    fn options(&self) -> String {
        format!("driver=nbd,server.type=unix,server.path={},export=disk", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its input ends, and so does it; an error means that it has ended before.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found() {
        let said =
            "Sending 10 read requests, 4096 bytes each, 1 in parallel\nRun completed in 0.123 seconds.\n";
        assert_eq!(seconds(said), Some(0.123));
        assert_eq!(seconds("no such device"), None);
    }
}
