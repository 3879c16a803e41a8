//! Owns part 2: what the first copy of one VM does to the checkpoints of another at the same backup.

use super::fleet::{BACKUP, PRIMARIES};
use crate::bench::Run;
use crate::bench::bed::{ACK_PATIENCE, LATE_SUSPICION, Reach};
use crate::bench::copies::Full;
use crate::bench::figures::{Findings, Table};
use anyhow::{Context, Result};
use api::summary::Summary;
use api::types::EpochRecord;
use lab::client::{WriterConfig, Writers};
use lab::cluster::{Cluster, VmFile, VmShape};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);
/// Memory of the VM whose first copy is made, and as much of it as is filled, MiB.
const GREEDY: (u32, u64) = (1_024, 700);
/// First copies that are made.
const COPIES: usize = 8;

/// Measures one VM's acknowledgements alone, and beside first copies of another.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let [steady, greedy] = [PRIMARIES[0], PRIMARIES[1]];
    let cluster = Cluster::start("greedy", &run.props.binary, &[BACKUP, steady, greedy], LATE_SUSPICION)
        .context("the hosts cannot be set up")?;
    let (first, _writers) = begin(run, &cluster, steady, 0, 256)?;
    let (second, _) = begin(run, &cluster, greedy, 1, GREEDY.0)?;
    let full = Full::of(&cluster, &second, [greedy, BACKUP], GREEDY.1);
    full.fill(run)?;
    cluster.protect(&first.name, steady, BACKUP, INTERVAL)?;
    let mut table = Table::new(
        "Checkpoints of one VM, with and without a first copy of another to the same backup",
        &[
            ("beside", "beside it"),
            ("pause_ms", "pause, ms"),
            ("ack_ms", "acknowledged after, ms"),
            ("rate", "MiB a second of the copy"),
        ],
    );
    let time = run.stretch(10);
    let from_us = os::clock::realtime_us();
    run.pass("alone", time);
    row(&cluster, &first, steady, &[(from_us, os::clock::realtime_us())], &mut table, "nothing", None)?;
    let copies = run.times(COPIES);
    for (what, rate) in [("a first copy", None), ("a first copy of at most 100 MiB/s", Some(100 << 20))] {
        let (mut windows, mut rates) = (Vec::new(), Vec::new());
        for number in 1..=copies {
            run.screen.live(&format!("{what}: {number} of {copies}"));
            let (window, rate) = full.copy(rate)?;
            windows.push(window);
            rates.push(rate);
        }
        row(&cluster, &first, steady, &windows, &mut table, what, Summary::of(rates))?;
    }
    found.tables.push(table);
    Ok(())
}

const HOW: &str = "Two VMs at hosts of their own, one backup. The first, a Redis under load, is checkpointed every 25 ms; of the \
    second, with 700 MiB of memory that do not pack well, first copies are made again and again. Counted are the first \
    VM's checkpoints that were cut while a copy went on. All hosts share this machine's processors: the copy's reading and \
    packing at its own host is in these figures too, which on real hosts it would not be.";

fn begin(
    run: &mut Run<'_>,
    cluster: &Cluster,
    host: &str,
    number: u8,
    mib: u32,
) -> Result<(VmFile, Option<Writers>)> {
    run.screen.live(&format!("the guest of host {host} boots"));
    let shape = VmShape { memory_mib: mib, number, ..VmShape::default() };
    let file = VmFile::redis(&run.props.guest, &format!("vm-{host}"), shape, None)?;
    cluster.start_vm(host, &file)?;
    cluster.wait_ready(host, &file.name)?;
    let config = WriterConfig {
        connections: 4,
        keep_samples: false,
        ..WriterConfig::new(Reach::new(file.address.v4).redis())
    };
    let writers = (number == 0).then(|| Writers::start(cluster.lab.client(), &config)).transpose()?;
    Ok((file, writers))
}

fn row(
    cluster: &Cluster,
    vm: &VmFile,
    host: &str,
    windows: &[(u64, u64)],
    table: &mut Table,
    beside: &str,
    rate: Option<Summary>,
) -> Result<()> {
    std::thread::sleep(ACK_PATIENCE);
    let since = windows.iter().map(|window| window.0).min().unwrap_or_default();
    let records = cluster.ask(host, |api| api.epochs(&vm.name, since))?;
    let during = |epoch: &&EpochRecord| windows.iter().any(|(from, to)| (*from..*to).contains(&epoch.at_us));
    let epochs: Vec<EpochRecord> = records.iter().filter(during).copied().collect();
    let ms = |get: fn(&EpochRecord) -> u64| Summary::of_us_in_ms(epochs.iter().map(get).filter(|&us| us > 0));
    let (pause, ack) = (ms(|epoch| epoch.pause_us), ms(|epoch| epoch.ack_us));
    table.row(beside, [pause.into(), ack.into(), rate.into()]);
    Ok(())
}
