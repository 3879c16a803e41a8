//! What the tests with a real QEMU share: the counting guest, its console, a replica of its memory.

#![allow(dead_code, reason = "each test file uses its own part")]

use os::{Memory, Range, Tracker};
use qemu::{Channels, DeviceSaver, DeviceState, Installation, Qemu, ResolvedSpec, Role, Then, VmSpec};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// How long anything may take that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says loudly that a test did not run.
pub fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// The installed QEMU, or none, said loudly.
pub fn installation() -> Option<Installation> {
    match Installation::probe(Path::new(qemu::install::DEFAULT_BINARY)) {
        Ok(installation) => Some(installation),
        Err(error) => {
            skipped(&format!("no QEMU: {error}"));
            None
        }
    }
}

/// Assembles `guest/counter.S` into `dir`, to wait `delay` turns of a loop between two numbers; none without an
/// assembler, said loudly.
pub fn build_counter(dir: &Path, delay: u32) -> Option<std::path::PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/counter.S");
    let (object, linked, image) = (dir.join("counter.o"), dir.join("counter.elf"), dir.join("counter.bin"));
    let run = |program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]| {
        let status = Command::new(program).args(args.iter().map(|a| a.as_ref())).status();
        status.map_err(|e| skipped(&format!("{program}: {e}; install binutils"))).ok().map(|status| {
            assert!(status.success(), "{program} failed");
        })
    };
    let delay = format!("DELAY={delay}");
    run("as", &[&"--32", &"--defsym", &delay, &"-o", &object, &source])?;
    run("ld", &[&"-m", &"elf_i386", &"-Ttext=0xf0000", &"-o", &linked, &object])?;
    run("objcopy", &[&"-O", &"binary", &"-j", &".text", &linked, &image])?;
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 65536);
    Some(image)
}

/// Where and how a test runs.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    pub machine: &'static str,
    pub accel: &'static str,
    pub cpus: u32,
    pub more: &'a str,
}

pub const TCG: Setting<'static> = Setting { machine: "q35", accel: "tcg", cpus: 1, more: "" };
/// Two processors under KVM only on microvm: the development machines' KVM is an emulation that loses the second
/// processor of a q35.
pub const KVM: Setting<'static> = Setting { machine: "q35", accel: "kvm", cpus: 1, more: "" };

/// Everything a test needs to start QEMUs of one VM.
pub struct Bench {
    pub installation: Installation,
    pub resolved: ResolvedSpec,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// None, said loudly, if this machine lacks what the setting needs.
    pub fn new(setting: Setting<'_>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if setting.accel == "kvm"
            && let Err(why) = os::facts::kvm_opens()
        {
            skipped(&format!("/dev/kvm does not open: {why}"));
            return None;
        }
        // Some hundred numbers a second under TCG, and under a KVM that is an emulation.
        let delay = if setting.accel == "kvm" { 20_000 } else { 1_000_000 };
        let image = build_counter(dir.path(), delay)?;
        let installation = installation()?;
        let Setting { machine, accel, cpus, more } = setting;
        let machine = match machine {
            "lean" => "profile = \"lean\"".to_string(),
            machine => format!("machine = \"{machine}\""),
        };
        // An emulated KVM cannot set MSR_IA32_ARCH_CAPABILITIES.
        let cpu = if accel == "kvm" { "host,-arch-capabilities" } else { "max" };
        let text = format!(
            "name = \"counter\"\n{machine}\naccel = \"{accel}\"\ncpus = {cpus}\nmemory = \"16MiB\"\n\
             cpu_model = \"{cpu}\"\nfirmware = \"{}\"\n{more}",
            image.display()
        );
        let spec = VmSpec::parse(&text, "test").unwrap();
        let resolved = installation.resolve(spec).unwrap();
        Some(Self { installation, resolved, _dir: dir })
    }

    pub fn memory(&self) -> Arc<Memory> {
        Arc::new(Memory::create("test-ram", self.resolved.spec.memory.0).unwrap())
    }

    pub fn primary(&self) -> (Qemu, Channels) {
        self.primary_with(Vec::new())
    }

    pub fn primary_with(&self, disks: Vec<OwnedFd>) -> (Qemu, Channels) {
        Qemu::launch(&self.installation, &self.resolved, Role::Primary, self.memory(), disks).unwrap()
    }
}

/// Reads what the guest has printed so far: all of it, if the guest is stopped.
pub fn drain(console: &UnixStream, out: &mut Vec<u8>) {
    console.set_nonblocking(true).unwrap();
    let mut console = console;
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = console.read(&mut chunk) {
        out.extend_from_slice(&chunk[..n]);
    }
}

/// Reads until `enough` says so.
pub fn read_until(console: &UnixStream, out: &mut Vec<u8>, mut enough: impl FnMut(&[u8]) -> bool) {
    console.set_nonblocking(false).unwrap();
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut console = console;
    let mut chunk = [0; 4096];
    while !enough(out) {
        let n = console.read(&mut chunk).expect("the guest went silent");
        assert!(n > 0, "QEMU closed the console after {:?}", String::from_utf8_lossy(out));
        out.extend_from_slice(&chunk[..n]);
    }
}

pub fn lines(text: &[u8]) -> usize {
    text.iter().filter(|b| **b == b'\n').count()
}

/// Checks that `text` is "boot", 1, 2, 3, ..., without a gap or a repetition, and returns the last whole number.
pub fn check_counting(text: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(text);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut lines = whole.lines();
    assert_eq!(lines.next(), Some("boot"));
    let mut last = 0;
    for line in lines {
        assert_eq!(line.parse(), Ok(last + 1), "after {last}");
        last += 1;
    }
    last
}

/// A copy of a VM's memory, kept up to date by checkpoints.
pub struct Replica {
    pub memory: Arc<Memory>,
    pub state: DeviceState,
    pub roms: Vec<(usize, Vec<u8>)>,
    tracker: Tracker,
    saver: DeviceSaver,
    first: bool,
}

impl Replica {
    pub fn new(bench: &Bench, qemu: &Qemu) -> Self {
        Self::into_memory(qemu, bench.memory())
    }

    pub fn into_memory(qemu: &Qemu, memory: Arc<Memory>) -> Self {
        Self {
            memory,
            state: DeviceState::default(),
            roms: qemu.read_roms().unwrap(),
            tracker: Tracker::attach(qemu.pid(), &qemu.ram().tracked_ranges()).unwrap(),
            saver: DeviceSaver::new(qemu).unwrap(),
            first: true,
        }
    }

    /// One checkpoint; the guest runs again after it. What it printed up to the cut is appended to `released`.
    pub fn checkpoint(&mut self, qemu: &Qemu, console: &UnixStream, released: &mut Vec<u8>) {
        let mut pending = self.saver.begin(Then::GoOn).unwrap();
        pending.wait_stopped().unwrap();
        drain(console, released);
        let mut dirty = Vec::new();
        self.tracker.scan_paused(&mut dirty).unwrap();
        if std::mem::take(&mut self.first) {
            dirty = self.tracker.present(&qemu.ram().tracked_ranges()).unwrap();
        }
        copy(qemu, &dirty, &self.memory);
        let copied = os::clock::realtime_us();
        self.state = pending.take().unwrap();
        let (_, resumed) = qemu.last_pause().unwrap();
        assert!(copied <= resumed, "copied at {copied}, the guest went on at {resumed}");
    }
}

/// Copies the pages at addresses of `qemu` into a replica of its main memory.
fn copy(qemu: &Qemu, dirty: &[Range], to: &Memory) {
    let mut page = [0; 4096];
    for address in dirty.iter().flat_map(Range::pages) {
        let place = qemu.ram().locate(address).expect("a tracked page is of a block");
        assert_eq!(qemu.ram().layout().blocks[place.block].name, qemu::launch::MAIN_MEMORY);
        qemu.memory().read_at(place.offset, &mut page);
        to.write_at(place.offset, &page);
    }
}
