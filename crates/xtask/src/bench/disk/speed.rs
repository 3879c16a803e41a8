//! Owns part 1 of the disks' benchmark: fio in a guest on QEMU's own driver for files, on the agent's disk, and on the
//! agent's disk while the VM is protected.

use super::super::Run;
use super::super::bed::start_cluster;
use super::super::figures::{Cell, Findings, Table, Target};
use super::fill;
use super::guest::{self, LOADS, Load};
use anyhow::Result;
use api::summary::Summary;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(25);
const ROUNDS: usize = 5;
/// After the first copy.
const SETTLE: Duration = Duration::from_secs(1);

/// The rates of one load in each round.
#[derive(Default)]
struct Rates {
    plain: Vec<f64>,
    agent: Vec<f64>,
    protected: Vec<f64>,
}

/// All loads, the places one after another in each round.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    let (image, version) = guest::image(run)?;
    found.how = format!("{HOW} fio {version}.");
    let cluster = start_cluster(run.props, "disk")?;
    let plain = guest::on_plain_qemu(run, &cluster, &image)?;
    let bed = guest::on_agent(run, cluster, &image)?;
    let mut rates: [Rates; LOADS.len()] = Default::default();
    for round in 1..=run.times(ROUNDS) {
        for (load, rates) in LOADS.into_iter().zip(&mut rates) {
            let label = format!("round {round}, QEMU's own driver");
            rates.plain.push(guest::rate(run, bed.client(), plain, load, &label)?);
            let label = format!("round {round}, the agent's disk");
            rates.agent.push(guest::rate(run, bed.client(), bed.reach, load, &label)?);
        }
        run.screen.live("the VM is protected");
        bed.protect(INTERVAL)?;
        run.pass("protected, settling", SETTLE);
        for (load, rates) in LOADS.into_iter().zip(&mut rates) {
            let label = format!("round {round}, protected");
            rates.protected.push(guest::rate(run, bed.client(), bed.reach, load, &label)?);
        }
        bed.unprotect()?;
    }
    let mut table = Table::new(
        "fio in the guest",
        &[
            ("load", "load"),
            ("fio", "fio"),
            ("unit", "unit"),
            ("plain", "QEMU's own driver for files"),
            ("agent", "the agent's disk, unprotected"),
            ("agent_percent", "of QEMU's own, %"),
            ("protected", "protected every 25 ms"),
            ("protected_percent", "of unprotected, %"),
        ],
    );
    for (load, rates) in LOADS.into_iter().zip(&rates) {
        let [agent, protected] = percents(rates);
        table.row(load.what, cells(load, rates, agent, protected));
        let what = format!("{}: the agent's disk of QEMU's own driver for files", load.what);
        found.targets.extend(agent.map(|percent| Target::at_least(what, "%", 80.0, percent)));
        if load.fio.starts_with("--rw=write") {
            let what = format!("{}: protected of unprotected", load.what);
            found.targets.extend(protected.map(|percent| Target::at_least(what, "%", 90.0, percent)));
        }
    }
    found.tables.push(table);
    let medium = medium_rate(&bed.cluster.lab.directory().join("medium"))?;
    found.notes.push(format!(
        "The medium below the disks and the backup's journal took {medium:.0} MiB/s (256 MiB of random bytes written, then \
         fdatasync). Under protection all that is written must be durable in the backup's journal within the few epochs \
         that may wait, and both hosts share this medium: so a guest cannot write on and on at the speed of the page \
         cache. Loads with a rate show what it can; fio keeps its rate by the guest's clock, which stands still in each \
         pause."
    ));
    Ok(())
}

/// How fast the medium takes what must be durable, MiB/s.
fn medium_rate(path: &Path) -> Result<f64> {
    fill(path)?;
    let from = std::fs::read(path)?;
    let start = Instant::now();
    let mut file = File::create(path)?;
    file.write_all(&from)?;
    file.sync_data()?;
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(from.len() as f64 / f64::from(1 << 20) / seconds)
}

const HOW: &str = "The same guest (Debian's kernel under TCG, 1 processor) with a disk of 256 MiB full of random bytes, which is in \
    the host's page cache: in a QEMU without an agent, with `-blockdev driver=file` (`cache.direct=off`, \
    `write-cache=on`); on the agent's disk; and on that while the VM is protected every 25 ms, both hosts on this \
    machine. In each round every load runs in all three, one after another. fio's words beside those in the table: \
    `--filename=/dev/vda --direct=1 --ioengine=libaio`. What was done is what the guest's kernel counted in \
    `/sys/block/vda/stat`; the time is that of this machine, since the guest's own clock stands still in pauses.";

/// The agent's median of plain QEMU's, and the protected one of the agent's unprotected.
fn percents(rates: &Rates) -> [Option<f64>; 2] {
    let median = |rates: &Vec<f64>| Summary::of(rates.iter().copied()).map(|summary| summary.median);
    let percent = |of: &Vec<f64>, all: &Vec<f64>| Some(100.0 * median(of)? / median(all)?);
    [percent(&rates.agent, &rates.plain), percent(&rates.protected, &rates.agent)]
}

fn cells(load: Load, rates: &Rates, agent: Option<f64>, protected: Option<f64>) -> [Cell; 7] {
    let spread = |rates: &Vec<f64>| Cell::from(Summary::of(rates.iter().copied()));
    [
        format!("`{}`", load.fio).as_str().into(),
        load.unit().into(),
        spread(&rates.plain),
        spread(&rates.agent),
        agent.into(),
        spread(&rates.protected),
        protected.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_of_medians() {
        let rates = Rates { plain: vec![90.0, 100.0, 500.0], agent: vec![80.0], protected: vec![40.0] };
        assert_eq!(percents(&rates), [Some(80.0), Some(50.0)]);
        assert_eq!(percents(&Rates::default()), [None, None]);
    }
}
