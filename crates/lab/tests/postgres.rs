//! The clients of a PostgreSQL against one that runs without a guest: what is lost, halved or undone does not pass.

mod common;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::client::{Accounts, Length, Pgbench, PgbenchConfig, Server, WriterConfig, Writers, pgbench};
use lab::guest::cache::Cache;
use lab::guest::postgres::{POSTGRES, POSTGRES_PORT, PostgresGuest};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "alpha";
const SERVER: &str = "postgres";

/// The guest's own server, on the files of its disk, running on a host.
struct Bare {
    lab: Lab,
    image: PostgresGuest,
    target: SocketAddr,
    _files: tempfile::TempDir,
}

impl Drop for Bare {
    fn drop(&mut self) {
        // In order: killed, it would leave its shared memory behind.
        let pid = self.lab.process(HOST, SERVER).expect("it runs");
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
        kill_process(pid, Signal::INT).expect("our own process");
        self.lab.wait(HOST, SERVER).expect("it ends");
    }
}

impl Bare {
    fn start(tag: &str) -> Option<Bare> {
        if !common::root_and_programs() {
            return None;
        }
        let image = PostgresGuest::build(&Cache::open().expect("a cache")).expect("the PostgreSQL guest");
        let lab = Lab::new(tag).expect("a lab");
        let files = tempfile::tempdir().expect("a directory");
        let mut read_out = Command::new("debugfs");
        read_out.arg("-R").arg(format!("rdump / {}", files.path().display())).arg(&image.disk);
        lab::command::run(&mut read_out).expect("the files of the image");
        let mut server = Command::new("chroot");
        server.arg("--userspec=100:100").arg(files.path());
        server.arg(Path::new("/").join(&image.manifest.programs).join("postgres"));
        server.args(["-D", "/var/lib/postgresql/data"]);
        lab.start(HOST, SERVER, &mut server).expect("a server");
        let started = Instant::now();
        let ready = || {
            let text = fs::read_to_string(files.path().join("var/lib/postgresql/data/postmaster.pid"));
            text.unwrap_or_default().lines().any(|line| line.starts_with("ready"))
        };
        while !ready() {
            assert!(started.elapsed() < PATIENCE, "PostgreSQL does not serve");
            thread::sleep(Duration::from_millis(10));
        }
        let address = lab.lan_address(HOST).expect("an address");
        Some(Bare { lab, image, target: (IpAddr::V4(address), POSTGRES_PORT).into(), _files: files })
    }

    /// Does something at the server; how many rows it changed.
    fn meddle(&self, statement: &str) -> u64 {
        let work = || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let mut config = tokio_postgres::Config::new();
                config.hostaddr(self.target.ip()).port(self.target.port()).user(POSTGRES).dbname(POSTGRES);
                let (client, connection) =
                    config.connect(tokio_postgres::NoTls).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                client.execute(statement, &[]).await.map_err(io::Error::other)
            })
        };
        self.lab.client().run(work).expect("in the namespace").expect("a statement")
    }

    fn writers(&self, prefix: &str) -> Writers {
        let config = WriterConfig { prefix: prefix.into(), ..WriterConfig::postgres(self.target) };
        Writers::start(self.lab.client(), &config).expect("writers")
    }

    fn pgbench(&self, each: u32) -> PgbenchConfig {
        PgbenchConfig { target: self.target, clients: 2, length: Length::Transactions(each) }
    }
}

fn until(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_lost_a_halved_and_an_undone_transaction_are_seen_in_the_rows() {
    let Some(bare) = Bare::start("rows") else { return };
    let writers = bare.writers("row");
    until("commits", || writers.standings().iter().all(|writer| writer.acknowledged > 20));
    let standings = writers.standings();
    let spot_check =
        || Server::Postgres.spot_check(bare.lab.client(), bare.target, &standings, 1_000).expect("rows");
    assert_eq!(spot_check(), 0);
    let report = writers.stop().expect("a report");
    assert_eq!(report.broken(), 0, "{report:?}");
    let verify = || Server::Postgres.verify(bare.lab.client(), bare.target, &report.writers).expect("rows");
    let whole = verify();
    assert!(whole.holds() && whole.entries == report.acknowledged() && whole.lists == 4, "{whole:?}");

    assert_eq!(bare.meddle("DELETE FROM entry WHERE writer = 'row:0' AND number = 5"), 2);
    let found = verify();
    assert_eq!((found.lost_acknowledged, found.holes, found.strangers), (1, 1, 0), "{found:?}");
    assert!(spot_check() > 0);

    assert_eq!(bare.meddle("DELETE FROM entry WHERE writer = 'row:1' AND number = 7 AND part = 2"), 1);
    let found = verify();
    assert_eq!((found.lost_acknowledged, found.holes, found.strangers), (2, 2, 1), "{found:?}");

    bare.meddle("INSERT INTO entry (writer, number, part) VALUES ('row:2', -8, 1)");
    let found = verify();
    assert_eq!((found.lost_acknowledged, found.strangers), (2, 2), "{found:?}");
}

#[test]
fn a_writer_notices_a_loss_at_its_next_commit_and_never_connects_again() {
    let Some(bare) = Bare::start("live") else { return };
    let writers = bare.writers("live");
    until("commits", || writers.standings().iter().all(|writer| writer.acknowledged > 5));
    // Alone: a transaction that is on its way would hide the loss, since it looks at the newest number only.
    bare.meddle("DO $$ BEGIN LOCK TABLE entry; DELETE FROM entry WHERE writer = 'live:0'; END $$");
    bare.meddle("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'live:1'");
    until("two broken connections", || writers.progress().broken == 2);
    let report = writers.stop().expect("a report");
    let broken = |index: usize| report.writers[index].broken.clone().unwrap_or_default();
    assert!(broken(0).contains("lost or doubled"), "{report:?}");
    assert!(broken(1).contains("administrator command") || broken(1).contains("closed"), "{report:?}");
    assert_eq!(report.broken(), 2);
}

#[test]
fn pgbench_counts_what_its_history_has_and_a_broken_connection_or_account_does_not_pass() {
    let Some(bare) = Bare::start("bank") else { return };
    let client = bare.lab.client();
    let report = pgbench(client, &bare.image, bare.pgbench(20)).expect("a run");
    assert_eq!(report.transactions, 40);
    assert_eq!(report.latency_ms.expect("latencies").count, 40);
    let accounts = || Accounts::read(client, bare.target).expect("the accounts");
    assert!(accounts().balanced() && accounts().transactions == 40, "{:?}", accounts());
    assert_eq!(bare.meddle("UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1"), 1);
    assert!(!accounts().balanced());

    let mut endless = Pgbench::start(client, &bare.image, bare.pgbench(1_000_000)).expect("a run");
    until("transactions", || accounts().transactions > 60);
    assert!(endless.is_running());
    bare.meddle("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'");
    let error = endless.finish().expect_err("its connections broke").to_string();
    assert!(error.contains("aborted"), "{error}");
}
