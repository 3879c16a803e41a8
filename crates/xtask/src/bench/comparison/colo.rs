//! Owns part 2: QEMU's COLO, where it can be made to run, beside Undying with the same guest: the pause for a checkpoint and
//! what the guest gets done.

use crate::bench::Run;
use crate::bench::bare::{Console, listen};
use crate::bench::bed::start_cluster;
use crate::bench::figures::{Cell, Findings, Table};
use crate::bench::pause::{dirty_pages, pause_ms};
use crate::stage::HOSTS;
use anyhow::{Context, Result, bail};
use api::summary::Summary;
use lab::cluster::{Cluster, VmFile};
use lab::guest::cache::Cache;
use lab::guest::counter::{self, Line, MOST_PAGES};
use lab::topology::GuestAddress;
use os::Spawn;
use protocol::VmName;
use qemu::launch::{Channels, Process};
use qemu::qmp::{Command, Event, Qmp};
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pages that the guest writes in each of its rounds.
const PAGES: [u32; 3] = [16, 64, MOST_PAGES];
const INTERVALS_MS: [u64; 2] = [25, 100];
/// Turns between two rounds of the guest: some hundred rounds a second under an emulated KVM.
const DELAY: u32 = 500;
const SETTLE: Duration = Duration::from_secs(1);
/// How long COLO may take until it takes checkpoints.
const PATIENCE: Duration = Duration::from_secs(20);
/// An emulated KVM cannot set MSR_IA32_ARCH_CAPABILITIES, and leaving it out harms no other.
const PROCESSOR: &str = "host,-arch-capabilities";

/// What was seen of a guest.
struct Seen {
    pauses: Option<Summary>,
    dirty: Option<Summary>,
    /// Rounds of the guest, a second.
    rounds: f64,
}

/// The same guest alone, under COLO and under Undying, by the pages that it writes; and COLO under TCG.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    found.notes.extend(NOTES.map(str::to_owned));
    let tcg = under_tcg(run)?;
    found.notes.push(format!(
        "COLO under TCG: {tcg} [What its threads wait for](../evaluation/colo-under-tcg.txt)."
    ));
    if let Err(error) = os::facts::kvm_opens() {
        found.notes.push(format!("Not measured under KVM: /dev/kvm does not open ({error})."));
        return Ok(());
    }
    found.tables.push(Table::new(
        "A bare-metal guest of 64 MiB on `pc`, KVM",
        &[
            ("what", "pages the guest writes, what"),
            ("pause_ms", "pause, ms"),
            ("dirty_pages", "dirty pages"),
            ("rounds", "rounds of the guest a second"),
            ("ratio", "ratio"),
        ],
    ));
    for (number, pages) in PAGES.into_iter().enumerate() {
        with_pages(run, &mut found.tables[0], number, pages).with_context(|| format!("{pages} pages"))?;
    }
    Ok(())
}

const HOW: &str = "A guest without an operating system, in real mode, that writes its number to some pages, checks them, and prints it, \
    again and again; the pause by the timestamps of QEMU's STOP and RESUME events at the primary. COLO is set up as \
    QEMU's `docs/COLO-FT.txt` says, over a unix socket, without disks and network: `x-colo`, `x-checkpoint-delay` as the row \
    says. The emulated KVM of this machine runs nothing but real mode, so the guest has 143 pages at most.";

const NOTES: [&str; 2] = [
    "Under COLO the guest runs at the secondary as well, on the same two processors here: on two hosts it would not take that \
     time from the primary. Undying's backup runs no guest.",
    "Undying holds the guest's console output until its epoch is acknowledged, and speaks TLS; COLO, set up so, does neither. \
     COLO waits for its delay after each checkpoint, Undying takes one in each interval.",
];

fn with_pages(run: &mut Run<'_>, table: &mut Table, number: usize, pages: u32) -> Result<()> {
    let firmware = counter::firmware_of(&Cache::open()?, DELAY, pages)?;
    let native = alone(run, &firmware)?;
    let mut row = |what: String, seen: &Seen| {
        let cells: [Cell; 4] =
            [seen.pauses.into(), seen.dirty.into(), seen.rounds.into(), (seen.rounds / native.rounds).into()];
        table.row(format!("{pages} pages: {what}"), cells);
    };
    row("QEMU alone".into(), &native);
    for interval_ms in INTERVALS_MS {
        let what = format!("COLO, {interval_ms} ms");
        row(what, &colo(run, &firmware, "kvm", interval_ms)?);
    }
    let cluster = start_cluster(run.props, &format!("colo{number}"))?;
    for interval_ms in INTERVALS_MS {
        let what = format!("Undying, {interval_ms} ms");
        row(what, &undying(run, &cluster, &firmware, interval_ms)?);
    }
    Ok(())
}

/// A QEMU with the guest, stopped.
struct Machine {
    // Before the process, whose end it would report.
    qmp: Qmp,
    console: Console,
    process: Process,
}

impl Machine {
    fn start(firmware: &Path, accel: &str, secondary: bool) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut spawn = Spawn::new(qemu::install::DEFAULT_BINARY);
        let fd = spawn.inherit(theirs.into());
        spawn.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-S", "-m", "64"]);
        spawn.args(["-machine", &format!("pc,accel={accel}"), "-bios", &firmware.display().to_string()]);
        spawn.args(["-chardev", &format!("socket,id=console,fd={fd}"), "-serial", "chardev:console"]);
        if accel == "kvm" {
            spawn.args(["-cpu", PROCESSOR]);
        }
        if secondary {
            spawn.args(["-incoming", "defer"]);
        }
        let (process, qmp) = Process::start(spawn, &["migrate", "migrate-incoming", "query-colo-status"])?;
        let console = listen(Channels { console: ours, nics: Vec::new() }, "START");
        Ok(Self { qmp, console, process })
    }

    fn begin(&self) -> Result<()> {
        self.qmp.execute(Command::new("cont"))?;
        if self.console.ready.recv_timeout(PATIENCE).is_err() {
            bail!("the guest does not start: {}", self.process.messages());
        }
        Ok(())
    }

    /// Rounds a second during the next stretch.
    fn rounds(&self, run: &mut Run<'_>, label: &str) -> Result<f64> {
        rounds(run, label, || Ok(self.console.text()))
    }
}

fn alone(run: &mut Run<'_>, firmware: &Path) -> Result<Seen> {
    let machine = Machine::start(firmware, "kvm", false)?;
    machine.begin()?;
    Ok(Seen { pauses: None, dirty: None, rounds: machine.rounds(run, "the guest alone")? })
}

fn colo(run: &mut Run<'_>, firmware: &Path, accel: &str, delay_ms: u64) -> Result<Seen> {
    let (primary, secondary) =
        (Machine::start(firmware, accel, false)?, Machine::start(firmware, accel, true)?);
    primary.begin()?;
    std::thread::sleep(SETTLE);
    let place = tempfile::tempdir()?;
    let uri = json!({ "uri": format!("unix:{}", place.path().join("colo").display()) });
    for machine in [&primary, &secondary] {
        let wanted = json!({ "capabilities": [{ "capability": "x-colo", "state": true }] });
        machine.qmp.execute(Command::with("migrate-set-capabilities", wanted))?;
    }
    let bounds = json!({ "x-checkpoint-delay": delay_ms, "max-bandwidth": 10_u64 << 30 });
    primary.qmp.execute(Command::with("migrate-set-parameters", bounds))?;
    secondary.qmp.execute(Command::with("migrate-incoming", uri.clone()))?;
    let events = primary.qmp.subscribe();
    primary.qmp.execute(Command::with("migrate", uri))?;
    await_checkpoints(&primary, &events)?;
    std::thread::sleep(SETTLE);
    let _before: Vec<Event> = events.try_iter().collect();
    let rounds = primary.rounds(run, &format!("COLO under {accel}, {delay_ms} ms"))?;
    let seen: Vec<Event> = events.try_iter().collect();
    let pauses = Summary::of_us_in_ms(pauses_us(&seen));
    anyhow::ensure!(pauses.is_some(), "COLO took no checkpoint: {}", primary.process.messages());
    Ok(Seen { pauses, dirty: None, rounds })
}

/// Two whole pauses: the first is the end of the first copy.
fn await_checkpoints(primary: &Machine, events: &std::sync::mpsc::Receiver<Event>) -> Result<()> {
    let (until, mut resumed) = (Instant::now() + PATIENCE, 0);
    while resumed < 2 {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(event) = events.recv_timeout(left) else { break };
        resumed += u32::from(event.name == "RESUME");
    }
    if resumed >= 2 {
        return Ok(());
    }
    let asked = Command::new("query-migrate");
    let answers = match primary.qmp.send(asked).wait_for(Duration::from_secs(5)) {
        Ok(told) => format!("its migration is `{}`", told["status"].as_str().unwrap_or("of no state")),
        Err(_) => "its monitor does not answer any more".to_owned(),
    };
    bail!("no checkpoint within {} s, and {answers}", PATIENCE.as_secs())
}

/// From each STOP to the RESUME behind it.
fn pauses_us(events: &[Event]) -> Vec<u64> {
    let states = events.iter().filter(|event| event.name == "STOP" || event.name == "RESUME");
    let states: Vec<&Event> = states.collect();
    let pairs = states.windows(2).filter(|pair| pair[0].name == "STOP" && pair[1].name == "RESUME");
    pairs.map(|pair| pair[1].at_us.saturating_sub(pair[0].at_us)).collect()
}

fn undying(run: &mut Run<'_>, cluster: &Cluster, firmware: &Path, interval_ms: u64) -> Result<Seen> {
    let name = format!("sweep{interval_ms}");
    let toml = format!(
        "name = \"{name}\"\nmachine = \"pc\"\naccel = \"kvm\"\ncpu_model = \"{PROCESSOR}\"\nmemory = \"64MiB\"\nfirmware = {firmware:?}\n"
    );
    let vm = VmFile { name: VmName::new(&name)?, toml, address: GuestAddress::of(0) };
    cluster.start_vm(HOSTS[0], &vm)?;
    cluster.protect(&vm.name, HOSTS[0], HOSTS[1], Duration::from_millis(interval_ms))?;
    std::thread::sleep(SETTLE);
    let from_us = os::clock::realtime_us();
    let path = cluster.console(HOSTS[0], &vm.name);
    let label = format!("Undying, {interval_ms} ms");
    let rounds = rounds(run, &label, || {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })?;
    let epochs = cluster.ask(HOSTS[0], |api| api.epochs(&vm.name, from_us))?;
    anyhow::ensure!(!epochs.is_empty(), "no checkpoint was taken");
    cluster.ask(HOSTS[0], |api| api.stop(&vm.name))?;
    for host in HOSTS {
        cluster.wait_gone(host, &vm.name)?;
    }
    Ok(Seen { pauses: Some(pause_ms(&epochs)), dirty: Some(dirty_pages(&epochs)), rounds })
}

/// How fast the number grows that the guest prints.
fn rounds(run: &mut Run<'_>, label: &str, said: impl Fn() -> Result<String>) -> Result<f64> {
    let newest = || -> Result<u32> { newest(&said()?).context("the guest prints no numbers") };
    // It may just have started.
    let until = Instant::now() + PATIENCE;
    while newest().is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (began, before) = (Instant::now(), newest()?);
    let time = run.stretch(6);
    run.pass(label, time);
    let after = newest()?;
    Ok(f64::from(after.saturating_sub(before)) / began.elapsed().as_secs_f64())
}

/// The last number of all that was printed; a line that is not whole yet is none.
fn newest(said: &str) -> Option<u32> {
    let whole = &said[..=said.rfind('\n')?];
    whole.lines().rev().find_map(|line| match counter::parse_line(line)? {
        Line::Number(number) => Some(number),
        Line::Start | Line::Bad(_) => None,
    })
}

/// What becomes of COLO where there is no KVM, in words.
fn under_tcg(run: &mut Run<'_>) -> Result<String> {
    run.screen.live("COLO under TCG");
    let firmware = counter::firmware_of(&Cache::open()?, counter::DELAY_TCG, PAGES[0])?;
    Ok(match colo(run, &firmware, "tcg", INTERVALS_MS[1]) {
        Ok(seen) => {
            let median = seen.pauses.map_or(0.0, |pauses| pauses.median);
            format!("it took checkpoints here, with a median pause of {median:.2} ms.")
        }
        Err(error) => format!("{error:#}."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_goes_from_a_stop_to_the_resume_behind_it() {
        let event = |name: &str, at_us| Event { name: name.into(), data: serde_json::Value::Null, at_us };
        let events = [
            event("RESUME", 5),
            event("STOP", 10),
            event("MIGRATION", 11),
            event("RESUME", 30),
            event("STOP", 100),
            event("STOP", 110),
            event("RESUME", 115),
            event("RESUME", 117),
            event("STOP", 200),
        ];
        assert_eq!(pauses_us(&events), [20, 5]);
    }

    #[test]
    fn the_newest_number_is_that_of_a_whole_line() {
        assert_eq!(newest("START\n00000001\n0000002A\n000000"), Some(42));
        assert_eq!(newest("START\n"), None);
        assert_eq!(newest("0000002A"), None);
    }
}
