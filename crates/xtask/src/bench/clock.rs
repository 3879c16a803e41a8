//! Owns part 6: how far a guest's clock falls behind under protection. TCG's stops in each pause and cannot be
//! corrected; KVM's is.

use super::Run;
use super::bed::{Bed, start_cluster};
use super::figures::{Findings, Table, Target};
use crate::stage::HOSTS;
use anyhow::{Context, Result, bail};
use api::summary::Summary;
use lab::client::resp::{Connection, Reply};
use lab::cluster::{Cluster, PATIENCE, VmFile};
use lab::guest::cache::Cache;
use lab::guest::console;
use lab::guest::counter::{self, DELAY_SOFTWARE_KVM};
use lab::topology::GuestAddress;
use os::kvm_clock::KvmClock;
use protocol::VmName;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(25);
/// Readings of one moment, of which the quickest counts.
const READINGS: usize = 60;
/// The same for a KVM guest's clock, where each holds QEMU's main thread for a moment: until one is quick.
const KVM_READINGS: usize = 30;
/// A reading that took no longer tells the clock well enough.
const QUICK: Duration = Duration::from_micros(500);
/// Between two looks at a KVM guest's clock.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The clock under both accelerators.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    found.tables.push(Table::new(
        "Time that a guest's clock lost, ms a minute",
        &[
            ("what", "what"),
            ("seconds", "measured for, s"),
            ("lost_ms_per_minute", "lost, ms a minute"),
            ("paused_ms_per_minute", "paused, ms a minute"),
        ],
    ));
    tcg(run, &mut found.tables[0])?;
    if let Err(error) = os::facts::kvm_opens() {
        found.notes.push(format!("Not measured under KVM: /dev/kvm does not open ({error})."));
        return Ok(());
    }
    kvm(run, found)
}

const HOW: &str = "TCG: a client asks Redis in the guest for its TIME and compares it with its own clock, many times at the \
    beginning and the end of a stretch; the readings that travelled quickest count. KVM: the guest's kvmclock is read \
    from outside (KVM_GET_CLOCK in QEMU) and compared with the host's clock every 3 seconds of a minute. The agent corrects \
    kvmclock after some milliseconds of pauses; TCG's clocks cannot be corrected from outside, so a guest under TCG needs time \
    synchronisation inside.";

fn tcg(run: &mut Run<'_>, table: &mut Table) -> Result<()> {
    let bed = Bed::raise(run, "clock", false)?;
    let mut connection = bed.client().run(|| Connection::open(bed.reach.redis(), PATIENCE))??;
    let mut lost = |run: &mut Run<'_>, label: &str, time: Duration| -> Result<(f64, f64)> {
        let (started, before) = (Instant::now(), ahead_us(&mut connection)?);
        run.pass(label, time);
        let after = ahead_us(&mut connection)?;
        let seconds = started.elapsed().as_secs_f64();
        Ok((seconds, (before - after) as f64 / 1e3 * 60.0 / seconds))
    };
    let time = run.stretch(15);
    let (seconds, free) = lost(run, "TCG, unprotected", time)?;
    table.row("TCG, unprotected", [seconds.into(), free.into(), 0.0.into()]);
    bed.protect(INTERVAL)?;
    let since = os::clock::realtime_us();
    let time = run.stretch(30);
    let (seconds, kept) = lost(run, "TCG, protected every 25 ms", time)?;
    let paused = paused_per_minute(&bed.cluster, &bed.vm, since)?;
    table.row("TCG, protected every 25 ms, idle", [seconds.into(), kept.into(), paused.into()]);
    Ok(())
}

/// By how much the guest's clock is ahead of ours, apart from a constant, in microseconds. A reading's age at the
/// moment of asking is never negative, so the smallest difference is the truest: input is not held, only output is.
fn ahead_us(connection: &mut Connection) -> Result<i64> {
    let mut least = i64::MAX;
    for _ in 0..READINGS {
        let sent_us = os::clock::now_us();
        let guest_us = time_of(&connection.ask(&["TIME"])?)?;
        least = least.min(guest_us - sent_us.cast_signed());
    }
    Ok(least)
}

/// Redis answers with seconds and microseconds, as text.
fn time_of(reply: &Reply) -> Result<i64> {
    let number = |part: &Reply| match part {
        Reply::Bulk(Some(text)) => std::str::from_utf8(text).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let Reply::Array(parts) = reply else { bail!("Redis answers TIME with {reply:?}") };
    match parts.as_slice() {
        [seconds, micros] => Some(number(seconds).zip(number(micros)).map(|(s, us)| s * 1_000_000 + us)),
        _ => None,
    }
    .flatten()
    .with_context(|| format!("Redis answers TIME with {reply:?}"))
}

fn paused_per_minute(cluster: &Cluster, vm: &VmName, since_us: u64) -> Result<f64> {
    let epochs = cluster.ask(HOSTS[0], |api| api.epochs(vm, since_us))?;
    let paused: u64 = epochs.iter().map(|epoch| epoch.pause_us).sum();
    let seconds = (os::clock::realtime_us() - since_us) as f64 / 1e6;
    Ok(paused as f64 / 1e3 * 60.0 / seconds)
}

fn kvm(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    let firmware = counter::firmware(&Cache::open()?, DELAY_SOFTWARE_KVM)?;
    let cluster = start_cluster(run.props, "kvm")?;
    // An emulated KVM cannot set MSR_IA32_ARCH_CAPABILITIES, and leaving it out harms no other.
    let toml = format!(
        "name = \"kvm\"\naccel = \"kvm\"\ncpu_model = \"host,-arch-capabilities\"\nmemory = \"64MiB\"\nfirmware = {firmware:?}\n"
    );
    let vm = VmFile { name: VmName::new("kvm")?, toml, address: GuestAddress::of(0) };
    let status = cluster.start_vm(HOSTS[0], &vm)?;
    console::wait_for(&cluster.console(HOSTS[0], &vm.name), "START", 1, PATIENCE)?;
    let clock = KvmClock::find(status.pid.context("the agent does not tell QEMU's process")?)?;
    let time = run.stretch(12);
    let free = behind(run, &clock, offset_ns(&clock)?, "KVM, unprotected", time)?;
    let per_minute = |lost: &[f64], time: Duration| lost.last().map(|last| last * 60.0 / time.as_secs_f64());
    found.tables[0]
        .row("KVM, unprotected", [time.as_secs_f64().into(), per_minute(&free, time).into(), 0.0.into()]);
    let zero = offset_ns(&clock)?;
    cluster.protect(&vm.name, HOSTS[0], HOSTS[1], INTERVAL)?;
    let since = os::clock::realtime_us();
    let time = run.stretch(60);
    let kept = behind(run, &clock, zero, "KVM, protected every 25 ms", time)?;
    let paused = paused_per_minute(&cluster, &vm.name, since)?;
    let name = "KVM, protected every 25 ms (corrected)";
    found.tables[0].row(name, [time.as_secs_f64().into(), per_minute(&kept, time).into(), paused.into()]);
    let farthest = kept.iter().fold(0.0_f64, |most, lost| most.max(lost.abs()));
    let what = format!(
        "kvmclock against its host's over {:.0} s of protection, largest difference",
        time.as_secs_f64()
    );
    found.targets.push(Target::at_most(what, "ms", 20.0, farthest));
    found.notes.push(
        "A look at kvmclock may fall into a pause, which the guest itself cannot see: then it shows the pause as well, and \
         on a busy machine a pause may be long."
            .into(),
    );
    let mut looks = Table::new(
        "Each look at kvmclock",
        &[("what", "what"), ("behind_ms", "behind the host's clock, ms")],
    );
    looks.row("KVM, unprotected", [Summary::of(free).into()]);
    looks.row(name, [Summary::of(kept).into()]);
    found.tables.push(looks);
    Ok(())
}

/// How far the guest's clock is behind the host's at each look, in milliseconds, if their difference was `zero` once.
fn behind(run: &mut Run<'_>, clock: &KvmClock, zero: i64, label: &str, time: Duration) -> Result<Vec<f64>> {
    let until = Instant::now() + time;
    let mut found = Vec::new();
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        run.pass(label, LOOK_EVERY.min(left));
        found.push((offset_ns(clock)? - zero) as f64 / 1e6);
    }
    Ok(found)
}

/// The host's clock less the guest's, by the quickest of some readings. The agent may hold QEMU at the same moment, to
/// correct its clock: then once more.
fn offset_ns(clock: &KvmClock) -> Result<i64> {
    let until = Instant::now() + PATIENCE;
    let mut found: Vec<(u64, i64)> = Vec::new();
    while found.len() < KVM_READINGS && !found.iter().any(|(took, _)| Duration::from_nanos(*took) < QUICK) {
        let before = os::clock::now_ns();
        match clock.read() {
            Ok(guest) => {
                let after = os::clock::now_ns();
                found
                    .push((after - before, u64::midpoint(before, after).cast_signed() - guest.cast_signed()));
            }
            Err(_busy) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error.into()),
        }
    }
    let quickest = found.into_iter().min_by_key(|(took, _)| *took);
    Ok(quickest.map(|(_, offset)| offset).expect("some readings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_redis_is_read_and_anything_else_refused() {
        let text = |text: &str| Reply::Bulk(Some(text.as_bytes().to_vec()));
        assert_eq!(time_of(&Reply::Array(vec![text("12"), text("345")])).expect("a time"), 12_000_345);
        for bad in
            [Reply::Integer(1), Reply::Array(vec![text("12")]), Reply::Array(vec![text("x"), text("1")])]
        {
            assert!(time_of(&bad).is_err(), "{bad:?}");
        }
    }
}
