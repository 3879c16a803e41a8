//! Owns part 4 of the disks' benchmark: pgbench against a PostgreSQL in the guest, by checkpoint interval, beside the
//! unprotected VM.

use super::super::Run;
use super::super::bed::{Bed, start_cluster};
use super::super::figures::{Findings, Table};
use crate::stage::{self, HOSTS};
use anyhow::{Context, Result};
use lab::client::{Accounts, Length, Pgbench, PgbenchConfig, PgbenchReport, Server};
use lab::cluster::{VmFile, VmShape};
use lab::guest::postgres::PostgresGuest;
use lab::topology::GuestAddress;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const INTERVALS_MS: [u64; 3] = [10, 25, 50];
/// Clients of a run: as many as the tables have branches, and more.
const CLIENTS: [u32; 2] = [4, 16];
const IMAGE: &str = "bank.img";
/// Length of a run.
const SECONDS: u64 = 30;

/// What each number of [`CLIENTS`] gave.
type Seen = [PgbenchReport; 2];

/// Runs unprotected, at each interval, and unprotected again.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    let guest = stage::postgres(run.screen)?;
    found.how = format!("{HOW} PostgreSQL {}.", guest.manifest.postgres);
    let cluster = start_cluster(run.props, "bank")?;
    cluster.place_disk(HOSTS[0], IMAGE, &guest.disk)?;
    let file = VmFile::postgres(&guest, "bank", VmShape::default(), IMAGE)?;
    let bed = Bed::boot(cluster, run, file)?;
    let before = see(run, &bed, &guest, "unprotected")?;
    let mut rows = vec![("unprotected, before the others".to_owned(), before)];
    for interval_ms in INTERVALS_MS {
        bed.protect(Duration::from_millis(interval_ms))?;
        let label = format!("checkpoints every {interval_ms} ms");
        let seen = see(run, &bed, &guest, &label)?;
        rows.push((label, seen));
        bed.unprotect()?;
    }
    rows.push(("unprotected, after the others".to_owned(), see(run, &bed, &guest, "unprotected again")?));
    let accounts = Accounts::read(bed.client(), target())?;
    anyhow::ensure!(accounts.balanced(), "the accounts are not balanced: {accounts:?}");
    found.tables.push(table(&rows, &before));
    Ok(())
}

const HOW: &str = "Debian's PostgreSQL in the guest (TCG, 1 processor) with its data on an ext4 on the agent's disk; `pgbench` with its \
    usual transaction (seven statements, each a round trip; the last one waits for the disk) in the client's \
    namespace, `pgbench --no-vacuum --client N --time 30`. A reply waits for the acknowledgement of the epoch it was made in, seven times in each \
    transaction. The tables have 4 branches, whose rows each transaction locks until its end: more clients wait for \
    each other too. Ratios are to the unprotected VM before.";

fn target() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(GuestAddress::of(VmShape::default().number).v4), Server::Postgres.port())
}

fn see(run: &mut Run<'_>, bed: &Bed, guest: &PostgresGuest, label: &str) -> Result<Seen> {
    let length = Length::Time(run.stretch(SECONDS));
    let mut pgbench = |clients| {
        run.screen.live(&format!("{label}: pgbench with {clients} clients"));
        let config = PgbenchConfig { target: target(), clients, length };
        Pgbench::start(bed.client(), guest, config)?.finish().context("pgbench failed")
    };
    Ok([pgbench(CLIENTS[0])?, pgbench(CLIENTS[1])?])
}

fn table(rows: &[(String, Seen)], base: &Seen) -> Table {
    let mut table = Table::new(
        format!("pgbench with {} and {} clients", CLIENTS[0], CLIENTS[1]),
        &[
            ("what", "what"),
            ("tps_few", "transactions/s, few clients"),
            ("ratio_few", "ratio"),
            ("latency_few_ms", "latency, ms"),
            ("tps_many", "transactions/s, many clients"),
            ("ratio_many", "ratio"),
            ("latency_many_ms", "latency, ms"),
        ],
    );
    for (what, [few, many]) in rows {
        let cells = [
            few.tps.into(),
            (few.tps / base[0].tps).into(),
            few.latency_ms.into(),
            many.tps.into(),
            (many.tps / base[1].tps).into(),
            many.latency_ms.into(),
        ];
        table.row(what.clone(), cells);
    }
    table
}
