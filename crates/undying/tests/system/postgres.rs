//! A PostgreSQL on ext4 in a protected guest, under `pgbench` and under clients that note each commit: whoever dies, what
//! was committed is there, in memory, on the disk after a reset, and in the files of a guest that was switched off.

use crate::kit::{Guest, Setup, look, possible_in_qemu, wait_for};
use lab::client::{Accounts, Length, Pgbench, PgbenchConfig};
use lab::guest::cache::Cache;
use lab::guest::postgres::PostgresGuest;

/// `pgbench`'s clients, and the transactions of each: so many that a busy machine is seen at work before they are done.
const BENCH: (u32, u32) = (2, 80);
/// So many transactions of all its clients precede the kill.
const BEFORE: u64 = 8;

fn start_pgbench(guest: &Guest, image: &PostgresGuest) -> Pgbench {
    let (clients, each) = BENCH;
    let config = PgbenchConfig { target: guest.target(), clients, length: Length::Transactions(each) };
    Pgbench::start(guest.cluster.lab.client(), image, config).expect("pgbench starts")
}

fn accounts(guest: &Guest) -> Accounts {
    let accounts = Accounts::read(guest.cluster.lab.client(), guest.target()).expect("the accounts");
    assert!(accounts.balanced(), "{accounts:?}\n{}", look::logs(&guest.cluster));
    accounts
}

#[test]
fn what_postgres_committed_is_there_after_its_host_died_after_a_reset_and_in_its_files() {
    if !possible_in_qemu("PostgreSQL") {
        return;
    }
    let image = PostgresGuest::build(&Cache::open().expect("a cache")).expect("the PostgreSQL guest");
    let guest = Setup::new("pg").boot_postgres(&image);
    assert_eq!(accounts(&guest).transactions, 0);
    guest.protect("alpha", "beta");
    let loaded = guest.load("row");
    let mut pgbench = start_pgbench(&loaded, &image);
    loaded.progress();
    let begun = || (accounts(&loaded).transactions >= BEFORE).then_some(());
    wait_for("transactions of pgbench", begun, || look::logs(&loaded.cluster));

    loaded.cluster.lab.kill_host("alpha").expect("alpha dies");
    assert!(pgbench.is_running(), "pgbench ended before the kill");
    loaded.runs_at("beta");
    let report = pgbench.finish().expect("pgbench keeps its connections");
    assert_eq!(report.transactions, u64::from(BENCH.0 * BENCH.1));
    let (guest, commits) = loaded.verdict_and_reports();
    let committed = accounts(&guest);
    assert_eq!(committed.transactions, report.transactions);

    // The guest's memory is gone after this: PostgreSQL recovers from its log what is not in its tables yet.
    guest.reboot("beta");
    guest.still_holds(&commits);
    assert_eq!(accounts(&guest), committed);

    guest.shut_down("beta");
    let scratch = guest.cluster.lab.directory().join("files");
    std::fs::create_dir(&scratch).expect("a directory");
    image.inspect(&guest.disk("beta"), &scratch).expect("a sound file system and database");
    guest.cluster.start_vm("beta", &guest.file).expect("it starts again");
    guest.cluster.wait_ready("beta", &guest.vm).expect("PostgreSQL serves");
    guest.still_holds(&commits);
    assert_eq!(accounts(&guest), committed);
}
