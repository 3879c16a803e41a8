//! Owns part 3: what it is to change a VM's backup while it stays protected, beside ending its protection and beginning another.

use super::super::Run;
use super::super::bed::{Bed, start_on};
use super::super::figures::{Cell, Findings, Table, Target};
use crate::stage::HOSTS;
use anyhow::{Context, Result, bail};
use api::summary::Summary;
use api::types::ProtectRequest;
use lab::client::Pinger;
use protocol::HostName;
use std::time::Duration;

/// The VM runs at the first; the others are its backup in turn.
const THREE: [&str; 3] = [HOSTS[0], HOSTS[1], "gamma"];
/// Changes of each kind.
const TIMES: usize = 10;
/// Clients are watched for so long before and behind a change.
const AROUND: Duration = Duration::from_millis(500);

/// How.
#[derive(Clone, Copy)]
enum Way {
    Nothing,
    Change,
    Anew,
}

const WAYS: [(&str, Way); 3] = [
    ("nothing", Way::Nothing),
    ("another backup in the present one's place", Way::Change),
    ("protection ended and begun again", Way::Anew),
];

#[derive(Default)]
struct Seen {
    unprotected_ms: Vec<f64>,
    all_ms: Vec<f64>,
    median_ms: Vec<f64>,
    longest_ms: Vec<f64>,
}

/// The three by turns, under a guest that writes.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let bed = Bed::raise_on(start_on(run.props, "change", &THREE)?, run, false)?;
    bed.pulse(|pulse| pulse.dirty(4_096, "5000", "random"))?;
    let mut backup = THREE[1];
    bed.cluster.protect_as(&bed.vm, THREE[0], &ProtectRequest::following(HostName::new(backup)?))?;
    let mut seen = [Seen::default(), Seen::default(), Seen::default()];
    let times = run.times(TIMES);
    for number in 1..=times {
        for ((what, way), seen) in WAYS.into_iter().zip(&mut seen) {
            run.pass(&format!("{number} of {times}: {what}"), Duration::from_secs(2));
            backup = once(&bed, way, backup, seen).with_context(|| format!("{what}, from {backup}"))?;
        }
    }
    let mut table = Table::new(
        "By how the backup is changed",
        &[
            ("how", "how"),
            ("unprotected_ms", "unprotected, ms"),
            ("all_ms", "until the other one protects it, ms"),
            ("median_ms", "a client's median wait meanwhile, ms"),
            ("longest_ms", "its longest, ms"),
        ],
    );
    for ((what, _), seen) in WAYS.into_iter().zip(&seen) {
        let cell = |values: &Vec<f64>| -> Cell { Summary::of(values.iter().copied()).into() };
        let Seen { unprotected_ms, all_ms, median_ms, longest_ms } = seen;
        table.row(what, [cell(unprotected_ms), cell(all_ms), cell(median_ms), cell(longest_ms)]);
    }
    found.tables.push(table);
    let alone = seen[1].unprotected_ms.iter().sum();
    found.targets.push(Target::at_most("time unprotected in all changes of backup", "ms", 0.0, alone));
    Ok(())
}

/// Returns who is the backup then.
fn once(bed: &Bed, way: Way, backup: &str, seen: &mut Seen) -> Result<&'static str> {
    let here = THREE[0];
    let there = if backup == THREE[1] { THREE[2] } else { THREE[1] };
    let request = ProtectRequest::following(HostName::new(there)?);
    let mark = bed.newest_event(here)?;
    let pinger = Pinger::start(bed.client(), bed.reach.redis())?;
    std::thread::sleep(AROUND);
    let began_us = os::clock::realtime_us();
    match way {
        Way::Nothing => std::thread::sleep(2 * AROUND),
        Way::Change => bed.cluster.change_backup(&bed.vm, here, &request)?,
        Way::Anew => {
            bed.cluster.unprotect(&bed.vm, here, backup)?;
            bed.cluster.protect_as(&bed.vm, here, &request)?;
        }
    }
    std::thread::sleep(AROUND);
    let pings = pinger.stop()?;
    if let Some(why) = pings.broken {
        bail!("the client's connection broke: {why}");
    }
    let events = bed.cluster.ask(here, |api| api.events(mark))?;
    let at = |name: &str| events.iter().find(|event| event.what["event"] == name).map(|event| event.at_us);
    let (alone, protected) = (at("unprotected"), at("protected"));
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
    if let Some(protected) = protected {
        seen.unprotected_ms.push(alone.map_or(0.0, |alone| ms(alone, protected)));
        seen.all_ms.push(ms(began_us, protected));
    }
    if let Some(waits) = pings.latency_ms() {
        seen.median_ms.push(waits.median);
        seen.longest_ms.push(waits.max);
    }
    Ok(match way {
        Way::Nothing if backup == THREE[1] => THREE[1],
        Way::Nothing => THREE[2],
        _ => there,
    })
}

const HOW: &str = "Three hosts, and a Linux guest of 512 MiB with Redis, in which a program writes 5,000 times a second to random ones of 4,096 \
    pages. It is protected with checkpoints that follow the output, and by turns nothing is done, its backup is changed (`vm protect --to` \
    of a protected VM), or its protection is ended and begun at the other host. One client asks Redis all the time, from half a second before to half a second \
    behind it. The hosts suspect each other late, so that a busy machine gives figures and not failovers.";
