//! Owns the part about recording: what it costs, how large it gets, how long doing it again takes.

use super::super::Run;
use super::super::figures::{Cell, Findings, Table, Target};
use super::guest::{HOST, How, Place};
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::guest::cache::Cache;
use lab::guest::riscv::RiscvGuest;
use lab::topology::Lab;

const ROUNDS: usize = 5;
/// The recording of an idle guest is looked at for so long.
const IDLE_SECONDS: u64 = 30;

/// Boots and switches off again and again, each way once in each round, so that others' load falls on all.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how =
        "Debian's kernel to user space and off, each way once in each round; processor time of the whole \
                 process, user and system. The recording of an idle guest: its growth after the boot."
            .into();
    let guest = RiscvGuest::build(&Cache::open()?)?;
    let lab = Lab::with_hosts("rvrec", &[HOST])?;
    let place = Place { lab: &lab, binary: &run.props.binary, guest: &guest };
    let rounds = run.times(ROUNDS);
    let mut times = How::ALL.map(|_| Vec::new());
    let (mut replays, mut sizes) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (how, times) in How::ALL.into_iter().zip(&mut times) {
            run.screen.live(&format!("round {round} of {rounds}: {}", how.name()));
            let running = place.start(how, false)?;
            let log = running.log.clone();
            let time = running.end()?;
            times.push(time);
            if how == How::OursRecorded {
                let (again, told) = place.replay(&log)?;
                let delivered = told["delivered"].as_u64().context("a replay tells what was delivered")?;
                let size = std::fs::metadata(&log)?.len();
                replays.push(again / time);
                sizes.push((size, size.saturating_sub(delivered)));
            }
        }
    }
    let idle = idle(run, &place)?;
    tell(found, &times, &replays, &sizes, idle)
}

/// Bytes a second that the recording of an idle guest grows.
fn idle(run: &mut Run<'_>, place: &Place<'_>) -> Result<f64> {
    let time = run.stretch(IDLE_SECONDS);
    let running = place.start(How::OursRecorded, false)?;
    // What the boot left behind.
    run.pass("the guest comes to rest", time / 6);
    let before = running.recorded()?;
    run.pass("an idle guest is recorded", time);
    let grown = running.recorded()? - before;
    running.end()?;
    Ok(grown as f64 / time.as_secs_f64())
}

fn tell(
    found: &mut Findings,
    times: &[Vec<f64>; 5],
    replays: &[f64],
    sizes: &[(u64, u64)],
    idle: f64,
) -> Result<()> {
    let ratio = |one: usize, other: usize| {
        Summary::of(times[one].iter().zip(&times[other]).map(|(one, other)| one / other))
    };
    let mut table = Table::new(
        "Boot and power-off",
        &[
            ("how", "how"),
            ("seconds", "processor time, s"),
            ("ratio", "times that of the machine here, per round"),
        ],
    );
    for (number, how) in How::ALL.into_iter().enumerate() {
        let seconds = Summary::of(times[number].iter().copied());
        table.row(how.name(), [Cell::from(seconds), ratio(number, 0).into()]);
    }
    found.tables.push(table);
    let cost = ratio(1, 0).context("no rounds")?.median;
    let replay = Summary::of(replays.iter().copied()).context("no rounds")?;
    let beyond = Summary::of(sizes.iter().map(|(_, beyond)| *beyond as f64 / 1e6)).context("no rounds")?;
    let whole = Summary::of(sizes.iter().map(|(size, _)| *size as f64 / 1e6)).context("no rounds")?;
    let mut log = Table::new("The recording", &[("what", "what"), ("figure", "figure")]);
    log.row("a boot, MB", [Cell::from(whole)]);
    log.row("of these beyond what devices delivered, MB", [beyond.into()]);
    log.row("an idle guest, kB/s", [(idle / 1e3).into()]);
    log.row("replay, times the recording's processor time", [replay.into()]);
    found.tables.push(log);
    found.targets.extend([
        Target::at_most("recording, of the time without", "%", 103.0, 100.0 * cost),
        Target::at_most("recording of an idle guest", "kB/s", 2.0, idle / 1e3),
        Target::at_most("recording of a boot, beyond what devices delivered", "MB", 1.0, beyond.median),
        Target::at_most("replay, of the recording's time", "times", 1.0, replay.median),
    ]);
    if let Some(theirs) = ratio(4, 3) {
        let percent = 100.0 * theirs.median;
        found.notes.push(format!("QEMU's own recording takes {percent:.0} % of its time with icount alone."));
    }
    Ok(())
}
