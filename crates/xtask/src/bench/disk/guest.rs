//! Owns the guest with fio and a disk, the loads on it, and how fast they go: by the guest kernel's own counts, and by
//! this machine's clock, since a protected guest's clock stands still in each pause.

use super::super::Run;
use super::super::bed::{Bed, Reach, until};
use super::fill;
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use lab::cluster::{Cluster, PATIENCE, VmFile, VmShape};
use lab::guest::cache::Cache;
use lab::guest::pulse::PulseClient;
use lab::guest::redis::RedisGuest;
use lab::guest::{console, fio};
use lab::plain::{Machine, PlainGuest};
use lab::topology::{GuestAddress, Namespace};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// fio's libraries lie in the guest's memory.
const MEMORY_MIB: u32 = 768;
/// Number of the guest without an agent in the LAN.
const PLAIN: u8 = 1;
/// Until a load that has begun runs evenly.
const SETTLE: Duration = Duration::from_millis(700);

/// A load on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// For people.
    pub what: &'static str,
    /// fio's words for it.
    pub fio: &'static str,
    /// Whether bytes count, or requests.
    pub bytes: bool,
    /// The same for qemu-img bench, if that can do it; its requests follow each other at even distances.
    pub qemu_img: Option<&'static str>,
}

/// What disks are measured with.
pub const LOADS: [Load; 10] = [
    requests("4 KiB random reads, 1 at a time", "--rw=randread --bs=4k --iodepth=1", "-s 4k -S 12k -d 1"),
    requests("4 KiB random reads, 16 at a time", "--rw=randread --bs=4k --iodepth=16", "-s 4k -S 12k -d 16"),
    requests(
        "4 KiB random writes, 1 at a time",
        "--rw=randwrite --bs=4k --iodepth=1",
        "-s 4k -S 12k -d 1 -w",
    ),
    requests(
        "4 KiB random writes, 16 at a time",
        "--rw=randwrite --bs=4k --iodepth=16",
        "-s 4k -S 12k -d 16 -w",
    ),
    bytes("1 MiB sequential reads, 1 at a time", "--rw=read --bs=1m --iodepth=1", Some("-s 1M -d 1")),
    bytes("1 MiB sequential reads, 4 at a time", "--rw=read --bs=1m --iodepth=4", Some("-s 1M -d 4")),
    bytes("1 MiB sequential writes, 1 at a time", "--rw=write --bs=1m --iodepth=1", Some("-s 1M -d 1 -w")),
    bytes("1 MiB sequential writes, 4 at a time", "--rw=write --bs=1m --iodepth=4", Some("-s 1M -d 4 -w")),
    bytes("the same, at most 50 MiB/s", "--rw=write --bs=1m --iodepth=4 --rate=50m", None),
    bytes("the same, at most 100 MiB/s", "--rw=write --bs=1m --iodepth=4 --rate=100m", None),
];

const fn requests(what: &'static str, fio: &'static str, qemu_img: &'static str) -> Load {
    Load { what, fio, bytes: false, qemu_img: Some(qemu_img) }
}

const fn bytes(what: &'static str, fio: &'static str, qemu_img: Option<&'static str>) -> Load {
    Load { what, fio, bytes: true, qemu_img }
}

impl Load {
    /// The unit of its rate.
    pub fn unit(self) -> &'static str {
        if self.bytes { "MiB/s" } else { "requests/s" }
    }
}

/// The guest's image, and fio's version.
pub fn image(run: &mut Run<'_>) -> Result<(RedisGuest, String)> {
    run.screen.live("the guest with fio, whose many libraries are downloaded the first time");
    Ok(fio::add(&Cache::open()?, &run.props.guest)?)
}

/// A VM of the agent's with a full disk.
pub fn on_agent(run: &mut Run<'_>, cluster: Cluster, guest: &RedisGuest) -> Result<Bed> {
    on_agent_with(run, cluster, guest, fill)
}

/// The same with a disk that `make` makes.
pub fn on_agent_with(
    run: &mut Run<'_>,
    cluster: Cluster,
    guest: &RedisGuest,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<Bed> {
    const IMAGE: &str = "bench.img";
    make(&cluster.disk(HOSTS[0], IMAGE))?;
    let shape = VmShape { memory_mib: MEMORY_MIB, ..VmShape::default() };
    let mut file = VmFile::redis(guest, "bench", shape, None)?;
    file.toml.push_str(&format!("[[disk]]\nimage = {IMAGE:?}\n"));
    Bed::boot(cluster, run, file)
}

/// The same guest on a QEMU without an agent, on the first host, with a disk of the same size in a file.
pub fn on_plain_qemu(run: &mut Run<'_>, cluster: &Cluster, guest: &RedisGuest) -> Result<Reach> {
    run.screen.live("the baseline: a guest in a QEMU without an agent boots");
    let lab = &cluster.lab;
    let disk = lab.directory().join("plain.img");
    fill(&disk)?;
    let address = GuestAddress::of(PLAIN);
    let append = guest.append(Machine::Q35, address, None);
    let plain = PlainGuest {
        name: "plain",
        machine: Machine::Q35,
        cpus: VmShape::default().cpus,
        memory_mib: MEMORY_MIB,
        kernel: &guest.kernel,
        initrd: &guest.initrd,
        append: &append,
        disk: Some(&disk),
    };
    plain.start(lab, HOSTS[0])?;
    console::wait_for(&plain.console(lab, HOSTS[0]), "READY", 1, PATIENCE)?;
    Ok(Reach::new(address.v4))
}

/// Starts a load in a guest, and waits until it goes. It goes on until [`rest`].
pub fn begin(client: &Namespace, reach: Reach, fio: &str) -> Result<()> {
    let before = reach.pulse(client, PulseClient::disk)?.requests;
    let words = format!(
        "--name=bench --thread --output=/dev/null --filename=/dev/vda --direct=1 --ioengine=libaio --time_based \
         --runtime=1h --norandommap --randrepeat=0 {fio}"
    );
    reach.pulse(client, |pulse| pulse.fio(&words))?;
    // It reads a little to know the disk before the load begins.
    until("fio's load in the guest", || {
        reach.pulse(client, PulseClient::disk).is_ok_and(|disk| disk.requests > before + 20)
    })?;
    thread::sleep(SETTLE);
    Ok(())
}

/// Ends the load in a guest.
pub fn rest(client: &Namespace, reach: Reach) -> Result<()> {
    reach.pulse(client, |pulse| pulse.fio(""))
}

/// How fast a load goes in a guest, in its unit. Under protection both readings come as late as the gate makes them,
/// so the time between them is right.
pub fn rate(run: &mut Run<'_>, client: &Namespace, reach: Reach, load: Load, label: &str) -> Result<f64> {
    begin(client, reach, load.fio)?;
    let read = || Ok::<_, anyhow::Error>((reach.pulse(client, PulseClient::disk)?, Instant::now()));
    let (before, from) = read()?;
    let time = run.stretch(3);
    run.pass(&format!("{label}: {}", load.what), time);
    let (after, to) = read()?;
    rest(client, reach).context("fio does not end")?;
    let seconds = (to - from).as_secs_f64();
    Ok(if load.bytes {
        (after.bytes - before.bytes) as f64 / f64::from(1 << 20) / seconds
    } else {
        (after.requests - before.requests) as f64 / seconds
    })
}
