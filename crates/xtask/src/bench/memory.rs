//! Owns part 4: what protection takes in memory on both hosts, and on the wire.

use super::Run;
use super::bed::Bed;
use super::figures::{Cell, Findings, Table};
use super::pause::dirty_pages;
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use api::summary::Summary;
use api::types::EpochRecord;
use lab::topology::AGENT;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);
const MIB: f64 = 1_048_576.0;
const SETTLE: Duration = Duration::from_secs(1);

/// Memory of all four processes, and bytes on the wire at different loads.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let bed = Bed::raise(run, "memory", false)?;
    bed.protect(INTERVAL)?;
    let mut wire = Table::new(
        "Bytes on the wire for checkpoints every 25 ms",
        &[
            ("load", "load"),
            ("dirty_pages", "dirty pages"),
            ("bytes_per_epoch", "bytes an epoch"),
            ("bytes_per_page", "bytes a dirty page, beyond those of an idle epoch"),
        ],
    );
    let idle = wire_row(run, &bed, &mut wire, "idle guest", None)?;
    for (what, pattern) in
        [("300 pages, one word each", "seq"), ("300 pages, filled with random numbers", "seq+page")]
    {
        bed.pulse(|pulse| pulse.dirty(300, "300/tick", pattern))?;
        wire_row(run, &bed, &mut wire, what, Some(idle))?;
    }
    bed.pulse(lab::guest::pulse::PulseClient::stop)?;
    let writers = bed.reach.writers(bed.client(), 4)?;
    wire_row(run, &bed, &mut wire, "Redis, 8 pipelined writers", Some(idle))?;
    found.tables.push(wire);
    memory(&bed, found)?;
    writers.stop()?;
    Ok(())
}

const HOW: &str = "Memory from /proc/PID/smaps of the agents and QEMUs of both hosts, under the writers' load. A guest's RAM is one \
    shared memory file on each host, which the agent and QEMU both map: it is counted once, and not in their own \
    figures. Bytes on the wire are those of whole checkpoints (pages, device state, headers), without heartbeats.";

/// Measures one load; `idle` are the bytes of an epoch in which the guest does nothing. Gives the median of the bytes.
fn wire_row(run: &mut Run<'_>, bed: &Bed, table: &mut Table, load: &str, idle: Option<f64>) -> Result<f64> {
    run.pass(&format!("{load}: settling"), SETTLE);
    let time = run.stretch(5);
    let epochs = bed.epochs(run, load, time)?;
    let sent: Vec<&EpochRecord> = epochs.iter().filter(|epoch| epoch.wire_bytes > 0).collect();
    let bytes = Summary::of(sent.iter().map(|epoch| epoch.wire_bytes as f64)).context("nothing was sent")?;
    let sum = |get: fn(&EpochRecord) -> u64| sent.iter().map(|epoch| get(epoch)).sum::<u64>() as f64;
    let (all_bytes, all_pages) = (sum(|epoch| epoch.wire_bytes), sum(|epoch| epoch.dirty_pages));
    let per_page = idle.map(|idle| (all_bytes - idle * sent.len() as f64) / all_pages);
    table.row(load, [dirty_pages(&epochs).into(), bytes.into(), per_page.into()]);
    Ok(bytes.median)
}

/// One host's memory for the VM, in MiB.
struct Place {
    agent: Shares,
    qemu: Shares,
    ram: f64,
    /// What the agent says that it holds for the VM.
    told: f64,
}

impl Place {
    fn of(bed: &Bed, host: &str) -> Result<Self> {
        let status = bed.status(host)?;
        let pid = status.pid.with_context(|| format!("the agent of {host} does not tell QEMU's process"))?;
        Ok(Self {
            agent: Shares::of(bed.cluster.lab.process(host, AGENT)?)?,
            qemu: Shares::of(pid)?,
            ram: ram_in_use(pid, status.memory_bytes)?,
            told: status.agent_bytes as f64 / MIB,
        })
    }

    fn rows(&self, table: &mut Table, role: &str) {
        for (what, shares) in [("agent", self.agent), ("QEMU", self.qemu)] {
            table.row(format!("{what} at the {role}"), [shares.rss.into(), shares.pss.into(), Cell::Unknown]);
        }
        table.row(format!("the guest's RAM at the {role}"), [Cell::Unknown, Cell::Unknown, self.ram.into()]);
    }
}

fn memory(bed: &Bed, found: &mut Findings) -> Result<()> {
    let mut table = Table::new(
        "Memory of a VM of 512 MiB, MiB",
        &[
            ("what", "what"),
            ("own_rss_mib", "RSS without the guest's RAM"),
            ("own_pss_mib", "PSS without the guest's RAM"),
            ("ram_mib", "the guest's RAM in use"),
        ],
    );
    let (primary, backup) = (Place::of(bed, HOSTS[0])?, Place::of(bed, HOSTS[1])?);
    primary.rows(&mut table, "primary");
    backup.rows(&mut table, "backup");
    found.tables.insert(0, table);
    found.notes.push(format!(
        "At the primary protection takes the agent: {:.0} MiB, of which it says that it holds {:.0} MiB for this VM (buffers \
         that are touched beforehand). QEMU and the RAM would be there without it.",
        primary.agent.pss, primary.told
    ));
    found.notes.push(format!(
        "At the backup it takes the guest's RAM once ({:.0} MiB; {:.2} times what is in use at the primary, since pages of \
         zeros are not kept) and {:.0} MiB beside it: the agent, and the QEMU that stands by.",
        backup.ram,
        backup.ram / primary.ram,
        backup.agent.pss + backup.qemu.pss
    ));
    Ok(())
}

/// A process's memory without the guest's RAM, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// What it has in memory.
    pub rss: f64,
    /// The same, shared pages divided among those that share them.
    pub pss: f64,
}

impl Shares {
    /// That of a process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps");
        Ok(Self::parse(&fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?))
    }

    /// (Linux Documentation/filesystems/proc.rst, smaps)
    fn parse(smaps: &str) -> Self {
        let mut shares = Self::default();
        let mut of_guest = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next().and_then(|number| number.parse::<f64>().ok())) {
                (Some("Rss:"), Some(kib)) if !of_guest => shares.rss += kib / 1024.0,
                (Some("Pss:"), Some(kib)) if !of_guest => shares.pss += kib / 1024.0,
                // A mapping's first line: its addresses. The guest's RAM is the only memory file that is mapped.
                (Some(range), _) if range.contains('-') && !range.ends_with(':') => {
                    of_guest = line.contains(" /memfd:")
                }
                _ => {}
            }
        }
        shares
    }
}

/// How much of the memory file with the guest's RAM exists, in MiB.
pub fn ram_in_use(qemu: u32, size: u64) -> Result<f64> {
    for entry in fs::read_dir(format!("/proc/{qemu}/fd")).context("cannot look at QEMU's files")?.flatten() {
        let memory = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"));
        // Followed, the link is the file itself.
        if memory
            && let Ok(file) = fs::metadata(entry.path())
            && file.len() == size
        {
            return Ok(file.blocks() as f64 * 512.0 / MIB);
        }
    }
    anyhow::bail!("QEMU (process {qemu}) has no memory file of {size} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_ram_is_left_out_and_the_rest_summed() {
        let smaps = "\
            00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/x\nSize: 9 kB\nRss: 1024 kB\nPss: 512 kB\n\
            7f00-7f80 rw-s 00000000 00:01 2057 /memfd:bench (deleted)\nRss: 4096 kB\nPss: 2048 kB\nVmFlags: rd wr\n\
            7f80-7f90 rw-p 00000000 00:00 0\nRss: 1024 kB\nPss: 1024 kB\nAnonHugePages: 7 kB\n";
        assert_eq!(Shares::parse(smaps), Shares { rss: 2.0, pss: 1.5 });
    }

    #[test]
    fn a_memory_file_is_found_by_its_size_and_only_what_was_written_counts() {
        let memory = os::Memory::create("bench-test", 7 << 20).expect("memory");
        memory.write_at(0, &vec![1; 2 << 20]);
        let found = ram_in_use(std::process::id(), 7 << 20).expect("it is there");
        assert!((found - 2.0).abs() < 1e-9, "{found}");
        assert!(ram_in_use(std::process::id(), 12_345).is_err());
    }
}
