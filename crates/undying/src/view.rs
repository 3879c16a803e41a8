//! Owns how VMs, checkpoints and events look to people.

use api::migration::{MigrationStatus, Stage};
use api::types::{
    CandidateStatus, CopyKind, DetectionStatus, DiskStatus, EpochRecord, EventRecord, HostStatus, LinkStatus,
    PathStatus, Role, RoomStatus, Summary, VmStatus,
};
use std::fmt::Write;

/// Rows under headings, each column as wide as its widest cell; the last one is not padded.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = vec![heads.iter().map(ToString::to_string).collect()];
    lines.extend(rows.iter().cloned());
    let lines: Vec<String> = lines.iter().map(|row: &Vec<String>| row_text(row, &widths)).collect();
    lines.join("\n")
}

fn row_text(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, &width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// A list of VMs.
pub fn vms(vms: &[VmStatus]) -> String {
    if vms.is_empty() {
        return "no VMs here".into();
    }
    let row = |vm: &VmStatus| {
        vec![
            vm.name.to_string(),
            role(vm.role).into(),
            phase(vm),
            vm.peer.as_ref().map_or("-".into(), ToString::to_string),
            vm.term.to_string(),
            vm.epoch.to_string(),
            bytes(vm.memory_bytes),
            vm.cpus.to_string(),
            accelerator(&vm.accel).into(),
        ]
    };
    let heads = ["NAME", "ROLE", "PHASE", "PEER", "TERM", "EPOCH", "MEMORY", "CPUS", "ACCEL"];
    table(&heads, &vms.iter().map(row).collect::<Vec<_>>())
}

/// The disks of some VMs.
pub fn disks(vms: &[VmStatus]) -> String {
    let row = |vm: &VmStatus, disk: &DiskStatus| {
        let served = &disk.served;
        vec![
            vm.name.to_string(),
            role(vm.role).into(),
            bytes(disk.size),
            disk.format.as_str().into(),
            access(disk),
            format!("{} ({})", served.reads, bytes(served.read_bytes)),
            format!("{} ({})", served.writes, bytes(served.written_bytes)),
            served.flushes.to_string(),
            served.errors.to_string(),
            disk.differing_bytes.map_or("-".into(), bytes),
            bases(disk),
            disk.image.display().to_string(),
        ]
    };
    let rows: Vec<_> = vms.iter().flat_map(|vm| vm.disks.iter().map(move |disk| row(vm, disk))).collect();
    if rows.is_empty() {
        return "no disks here".into();
    }
    let heads = [
        "VM", "ROLE", "SIZE", "FORMAT", "ACCESS", "READS", "WRITES", "FLUSHES", "ERRORS", "DIFFERS", "SINCE",
        "IMAGE",
    ];
    table(&heads, &rows)
}

/// The sessions since whose committed state a disk's differences are known.
fn bases(disk: &DiskStatus) -> String {
    let names: Vec<_> =
        disk.bases.iter().map(|base| format!("term {} session {}", base.term, base.session)).collect();
    if names.is_empty() { "-".into() } else { names.join(", ") }
}

/// Everything about some VMs.
pub fn statuses(vms: &[VmStatus]) -> String {
    if vms.is_empty() {
        return "no VMs here".into();
    }
    vms.iter().map(status).collect::<Vec<_>>().join("\n\n")
}

/// The other host, and who shall take its place.
fn peer(vm: &VmStatus) -> String {
    let peer = vm.peer.as_ref().map_or("none".into(), ToString::to_string);
    match &vm.successor {
        Some(successor) => format!("{peer}, until {successor} has a first copy"),
        None => peer,
    }
}

/// Everything about a VM.
pub fn status(vm: &VmStatus) -> String {
    let mut rows = vec![
        ("host", format!("{} ({})", vm.host, role(vm.role))),
        ("phase", phase(vm)),
        ("peer", peer(vm)),
        ("term", vm.term.to_string()),
        ("machine", format!("{}, {} cpus, {}", vm.machine, vm.cpus, bytes(vm.memory_bytes))),
        ("accel", vm.accel.clone()),
        ("qemu", vm.pid.map_or("no process".into(), |pid| format!("pid {pid}"))),
    ];
    if let Some(copy) = progress(vm) {
        rows.push(("copy", copy));
    }
    if let Some(migrates) = &vm.migration {
        rows.extend(migration(migrates).into_iter().map(|text| ("migration", text)));
    }
    if vm.role == Role::Primary {
        rows.extend(primary_rows(vm));
        rows.push(("repair", repair(vm)));
        rows.extend(candidates(vm).into_iter().map(|text| ("  candidate", text)));
    } else {
        rows.push(("epoch", format!("{} committed", vm.epoch)));
    }
    if let Some(detection) = &vm.detection {
        rows.push(("suspects", suspicion(detection)));
    }
    rows.extend(vm.paths.iter().map(|path| ("link", path_line(path))));
    if let Some(rate) = vm.copy_rate {
        rows.push(("copy rate", format!("at most {}/s", bytes(rate))));
    }
    rows.extend(vm.disks.iter().flat_map(disk_rows));
    if let Some(journal) = &vm.journal {
        let (unapplied, used) = (bytes(journal.unapplied_bytes), bytes(journal.used_bytes));
        rows.push((
            "journal",
            format!("{unapplied} not applied yet; {used} of {} in use", bytes(journal.size_bytes)),
        ));
    }
    rows.push(("agent holds", format!("{} beside the guest's memory", bytes(vm.agent_bytes))));
    let prefix = format!("VM {}: ", vm.name);
    rows.extend(vm.lately.iter().map(|happened| {
        let text = happened.text.strip_prefix(&prefix).unwrap_or(&happened.text);
        ("lately", format!("{}  {text}", clock(happened.at_us)))
    }));
    rows.extend(vm.warnings.iter().map(|warning| ("warning", warning.clone())));
    let mut text = format!("VM {}", vm.name);
    for (name, value) in rows {
        write!(text, "\n  {name:<12} {value}").expect("a String takes everything");
    }
    text
}

/// A connection to the other host.
fn path_line(path: &PathStatus) -> String {
    let state = match (path.up, path.silent_ms) {
        (true, _) if path.active => "up, carries checkpoints".to_owned(),
        (true, _) => "up".to_owned(),
        (false, Some(ms)) => format!("silent for {ms:.0} ms"),
        (false, None) => "down".to_owned(),
    };
    let (sent, came) = (bytes(path.sent_bytes), bytes(path.received_bytes));
    format!("over {}: {state}; {sent} sent, {came} received", path.address)
}

/// When the other host is suspected, and why then.
fn suspicion(detection: &DetectionStatus) -> String {
    let ms = |us: u64| format!("{:.0} ms", us as f64 / 1e3);
    let learnt = match &detection.learnt {
        None => "fixed".into(),
        Some(learnt) => format!(
            "usual silence {}, 99 % under {}, longest of late {}",
            ms(learnt.mean_us),
            ms(learnt.p99_us),
            ms(learnt.peak_us)
        ),
    };
    format!("the other host after {} of silence ({learnt})", ms(detection.timeout_us))
}

fn disk_rows(disk: &DiskStatus) -> Vec<(&'static str, String)> {
    let mut rows = vec![("disk", disk_line(disk))];
    if let Some(copy) = &disk.copy {
        let how = match copy.kind {
            CopyKind::Full => "whole",
            CopyKind::Comparison => "compared whole",
            CopyKind::Difference => "by difference",
        };
        let (done, left, sent) =
            (bytes(copy.done_bytes), bytes(copy.remaining_bytes), bytes(copy.sent_bytes));
        rows.push(("  copied", format!("{how}: {done} looked at, {left} to go, {sent} sent")));
    }
    if disk.unacknowledged_bytes > 0 {
        rows.push(("  lag", format!("{} not acknowledged", bytes(disk.unacknowledged_bytes))));
    }
    if let Some(differing) = disk.differing_bytes.filter(|_| !disk.bases.is_empty()) {
        rows.push(("  differs", format!("{} since {}", bytes(differing), bases(disk))));
    }
    rows
}

/// How checkpoints follow each other.
fn pacing(vm: &VmStatus) -> String {
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
    match vm.pacing {
        None => format!("one every {} ms", vm.interval_us as f64 / 1e3),
        Some(pacing) => format!(
            "as the output wants: {} apart at least, {} while none waits; each stops it for {}, of which it would use {}",
            ms(pacing.rest_us),
            ms(pacing.stretch_us),
            ms(pacing.pause_us),
            ms(pacing.loss_us)
        ),
    }
}

/// What the guest may do with it, and who has it.
fn access(disk: &DiskStatus) -> String {
    let access = if disk.read_only { "read-only" } else { "writable" };
    if disk.shared { format!("{access}, shared") } else { access.into() }
}

fn disk_line(disk: &DiskStatus) -> String {
    let served = &disk.served;
    format!(
        "{} ({} {}, {}): {} read, {} written, {} errors",
        disk.image.display(),
        bytes(disk.size),
        disk.format.as_str(),
        access(disk),
        bytes(served.read_bytes),
        bytes(served.written_bytes),
        served.errors
    )
}

fn primary_rows(vm: &VmStatus) -> Vec<(&'static str, String)> {
    let (measured, gate) = (&vm.measured, &vm.gate);
    let epochs = format!(
        "{} sent, {} acknowledged, {} in flight, {}",
        vm.epoch,
        vm.acked_epoch,
        vm.in_flight,
        pacing(vm)
    );
    let mut rows = Vec::new();
    if vm.epoch > 0 {
        rows.push(("epochs", epochs));
        rows.push(("pause", summary(&measured.pause_ms, "ms")));
        rows.push(("dirty pages", summary(&measured.dirty_pages, "")));
        rows.push(("ack", summary(&measured.ack_ms, "ms")));
        rows.push(("output held", summary(&measured.hold_ms, "ms")));
        let wire = format!(
            "{} for {} pages, of which {} as what changed and {} not, as nothing did",
            bytes(measured.wire_bytes),
            measured.pages,
            measured.delta_pages,
            measured.unchanged_pages
        );
        rows.push(("on the wire", wire));
        rows.push(("slowed", slowed(vm)));
    }
    let gate = format!(
        "{} frames wait ({}), {} released, {} dropped, {} went in",
        gate.waiting_frames,
        bytes(gate.waiting_bytes),
        gate.released_frames,
        gate.dropped_frames,
        gate.input_frames
    );
    rows.push(("gate", gate));
    rows
}

/// Whether the VM is protected again by itself.
fn repair(vm: &VmStatus) -> String {
    let state = match (vm.repair.on, vm.repair.asked) {
        (true, _) => "by itself",
        (_, true) => "by itself, once it is protected",
        _ => "by hand",
    };
    let prefer =
        vm.repair.prefer.as_ref().map_or_else(String::new, |host| format!("; it should run at {host}"));
    format!("{state}{prefer}")
}

/// The hosts that may stand by for a VM, each with why it does not.
pub fn candidates(vm: &VmStatus) -> Vec<String> {
    let say = |candidate: &CandidateStatus| {
        let host = &candidate.host;
        if vm.peer.as_ref() == Some(host) {
            return format!("{host}: {}", vm.phase.replace('_', " "));
        }
        let Some(why) = &candidate.why else { return format!("{host}: not needed until now") };
        let again = match candidate.pause_ms {
            0 => String::new(),
            ms => format!("; not tried for {:.1} s", ms as f64 / 1e3),
        };
        format!("{host}: {why}{again}")
    };
    vm.repair.candidates.iter().map(say).collect()
}

/// Everything about a host.
pub fn host(host: &HostStatus) -> String {
    let peers: Vec<_> = host.peers.iter().map(|(name, address)| format!("{name} ({address})")).collect();
    let vms: Vec<_> = host.vms.iter().map(ToString::to_string).collect();
    let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let mut rows = vec![
        ("version", host.version.clone()),
        ("listens", host.listen.clone()),
        ("peers", none(peers.join(", "))),
        ("arbiter", host.arbiter.clone()),
        ("VMs", none(vms.join(", "))),
    ];
    rows.extend(host.links.iter().flat_map(link_lines).map(|text| ("link", text)));
    rows.extend(host.room.iter().flat_map(room_lines).map(|text| ("room", text)));
    rows.extend(host.places.iter().map(|place| {
        ("disk", format!("{} left for {} ({})", bytes(place.free), place.what, place.path.display()))
    }));
    rows.extend(
        host.arbiter_error.iter().map(|why| ("warning", format!("the arbiter is of no use now: {why}"))),
    );
    if host.draining {
        rows.push((
            "warning",
            "it is being drained: it takes no VMs; `undying host undrain` ends that".into(),
        ));
    }
    let mut text = format!("host {}", host.name);
    for (name, value) in rows {
        write!(text, "\n  {name:<12} {value}").expect("a String takes everything");
    }
    text
}

/// A session with another host: one line, or one for each of its connections.
fn link_lines(link: &LinkStatus) -> Vec<String> {
    let phase = link.phase.replace('_', " ");
    let of = format!("to {} for VM {} ({}, {phase})", link.peer, link.vm, role(link.role));
    if link.paths.is_empty() {
        return vec![format!("{of}: one connection")];
    }
    link.paths.iter().map(|path| format!("{of} {}", path_line(path))).collect()
}

/// What a host has for standbys, and who has it.
fn room_lines(room: &RoomStatus) -> Vec<String> {
    let from = if room.configured { "as configured" } else { "what was available at the agent's start" };
    let (left, all) = (bytes(room.memory_left_bytes), bytes(room.memory_bytes));
    let mut lines = vec![format!("{left} of {all} of memory left for standbys ({from})")];
    if let Some(most) = room.vms {
        lines.push(format!("for {most} VMs at the most"));
    }
    if room.remnant_bytes > 0 {
        let kept = bytes(room.remnant_bytes);
        lines.push(format!("{kept} kept for VMs that may come back, as long as nobody else wants them"));
    }
    lines.extend(room.tenants.iter().map(|tenant| {
        let what = if tenant.standby { "stands by" } else { "runs" };
        format!("VM {} {what} here with {}", tenant.vm, bytes(tenant.memory_bytes))
    }));
    lines
}

fn slowed(vm: &VmStatus) -> String {
    let now = if vm.throttled { "STANDS STILL NOW: the backup is too slow; " } else { "" };
    format!("{now}by {} % of its time; stood still for {:.1} ms in all", vm.slowed_percent, vm.throttled_ms)
}

/// How a VM's migration goes.
pub fn migration(migration: &MigrationStatus) -> Vec<String> {
    let to = migration.to.as_ref().map_or("?", |to| to.as_str());
    let stage = match migration.stage {
        Stage::Releasing => "its backup is let go first",
        Stage::Opening => "the destination prepares",
        Stage::Copying => "it is being copied",
        Stage::HandingOver => "it stands still and is handed over",
    };
    let mut lines = vec![format!("to {to}: {stage}")];
    if let Some(last) = migration.rounds.last() {
        let left = migration.remaining_bytes.map_or("?".into(), bytes);
        let downtime =
            migration.expected_downtime_us.map_or("?".into(), |us| format!("{:.0} ms", us as f64 / 1e3));
        lines.push(format!(
            "{} rounds, {left} left, {}/s carried, {}/s written, {downtime} of downtime expected (limit {:.0} ms)",
            last.number,
            bytes(migration.carried),
            bytes(migration.written),
            migration.limits.max_downtime.as_millis_f64()
        ));
    }
    if migration.slowdown > 0 {
        let slowed = migration.slowed_us as f64 / 1e3;
        lines.push(format!("the guest is SLOWED by {} %, {slowed:.0} ms in all", migration.slowdown));
    }
    lines
}

/// How the first copy goes, while it does.
pub fn progress(vm: &VmStatus) -> Option<String> {
    let copy = vm.copy?;
    let (copied, remaining) = (bytes(copy.copied_bytes), bytes(copy.remaining_bytes));
    let speed = vm.copy_speed.map_or_else(String::new, |speed| format!(", {}/s", bytes(speed)));
    if copy.round == 0 {
        return Some(format!("disks: {copied} looked at, {remaining} to go{speed}"));
    }
    Some(format!("round {}: {copied} sent, {remaining} to go{speed}", copy.round))
}

/// A list of checkpoints.
pub fn epochs(epochs: &[EpochRecord]) -> String {
    let row = |epoch: &EpochRecord| {
        vec![
            epoch.term.to_string(),
            epoch.epoch.to_string(),
            clock(epoch.at_us),
            format!("{:.3}", epoch.pause_us as f64 / 1e3),
            epoch.dirty_pages.to_string(),
            epoch.ahead_pages.to_string(),
            epoch.wire_bytes.to_string(),
            if epoch.ack_us == 0 { "-".into() } else { format!("{:.3}", epoch.ack_us as f64 / 1e3) },
        ]
    };
    let heads =
        ["TERM", "EPOCH", "CUT (UTC)", "PAUSE MS", "DIRTY PAGES", "COPIED AHEAD", "WIRE BYTES", "ACK MS"];
    table(&heads, &epochs.iter().map(row).collect::<Vec<_>>())
}

/// An event on a line.
pub fn event(event: &EventRecord) -> String {
    let vm = event.vm.as_ref().map_or("-", |vm| vm.as_str());
    format!("{:>6}  {}  {}  {vm}  {}", event.seq, clock(event.at_us), event.host, event.text)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Backup => "backup",
    }
}

fn phase(vm: &VmStatus) -> String {
    let slowed = if vm.throttled || vm.slowed_percent > 0 { " (slowed)" } else { "" };
    format!("{}{slowed}", vm.phase.replace('_', " "))
}

/// The accelerator without the reason it was chosen for.
fn accelerator(accel: &str) -> &str {
    accel.split_whitespace().next().unwrap_or(accel).trim_end_matches([',', ':'])
}

fn summary(summary: &Summary, unit: &str) -> String {
    if summary.count == 0 {
        return "nothing measured yet".into();
    }
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    format!(
        "median {:.2}{unit}, p99 {:.2}, min {:.2}, max {:.2} ({} values)",
        summary.median, summary.p99, summary.min, summary.max, summary.count
    )
}

/// A number of bytes, in the largest unit that leaves a digit before the point.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value.fract() > 0.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A moment, in microseconds since 1970, as UTC date and time with milliseconds.
pub fn clock(at_us: u64) -> String {
    let (days, second) = (at_us / 86_400_000_000, at_us / 1_000_000 % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, milli) = (second / 3_600, second / 60 % 60, at_us / 1_000 % 1_000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}.{milli:03}", second % 60)
}

/// Year, month and day of a day counted from 1970-01-01, by the Gregorian calendar: years begin in March, so that
/// the leap day is the last of its year (Hinnant, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let leaps = day_of_era / 1_460 + day_of_era / 146_096;
    let year_of_era = (day_of_era + day_of_era / 36_524 - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_that_the_calendar_says() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_827_696, "2000-02-29 12:34:56.000"),
            (1_709_251_199, "2024-02-29 23:59:59.000"),
            (4_107_542_400, "2100-03-01 00:00:00.000"),
        ] {
            assert_eq!(clock(seconds * 1_000_000), text);
        }
        assert_eq!(clock(1_234_567), "1970-01-01 00:00:01.234");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["wörld".to_owned(), "1".to_owned()], vec!["x".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["A", "NUMBER"], &rows), "A      NUMBER\nwörld  1\nx      22");
    }

    #[test]
    fn bytes_are_said_in_a_unit_that_fits() {
        let said = [0, 1023, 1536, 512 << 20, 1 << 30, 3 << 50].map(bytes);
        assert_eq!(said, ["0 B", "1023 B", "1.5 KiB", "512 MiB", "1 GiB", "3072 TiB"]);
    }
}
