//! Owns the grammar of `undying rv`.

use crate::duration::parse_micros;
use clap::{Args, Subcommand, ValueEnum};
use protocol::Micros;
use qemu::spec::MemorySize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What to do with the deterministic machine.
#[derive(Debug, Subcommand)]
pub enum RvCommand {
    /// Run a Linux kernel on the deterministic machine, here and now
    ///
    /// The guest's console is this terminal: Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends a Ctrl-A. A guest that
    /// switches itself off ends the command, one that reboots begins anew. What is told at the end goes to
    /// standard error; with `--output json` it goes to standard output, and the console to standard error.
    #[command(
        after_long_help = "Examples:\n  undying rv run --kernel Image --initrd initrd.img --disk root.img --tap tap0 --append console=ttyS0\n  undying rv run --kernel Image --initrd initrd.img --memory 512MiB --record run.log\n  undying rv run --kernel Image --initrd initrd.img --disk root.img --snapshots today --snapshot-every 10s --keep-snapshots 30\n  undying rv run --from today/0000042.snapshot --disk root.img\n  undying rv run --kernel Image --initrd initrd.img --gdb 1234"
    )]
    Run(RunArgs),
    /// Do again exactly what a recording tells
    ///
    /// Shows the console as it was and compares everything that leaves, and the state, with the recording. Needs the
    /// kernel and the initial file system of the recording, not its disks or its network.
    #[command(
        after_long_help = "Examples:\n  undying rv replay run.log\n  undying rv replay run.log --until 1200000000 --output json\n  undying rv replay run.log --disk copy.img --tap tap0 --go-live\n  undying rv replay run.log --gdb 1234"
    )]
    Replay(ReplayArgs),
    /// Find the first instruction at which two runs differ
    ///
    /// Does two recordings again, side by side, and tells where they begin to differ: the instruction, the inputs, the
    /// registers and the memory. With `--plainly` the second one (the same one again, if it is not given) is done without
    /// anything that makes the machine fast.
    #[command(
        after_long_help = "Examples:\n  undying rv bisect good.log bad.log\n  undying rv bisect run.log --plainly --output json"
    )]
    Bisect(BisectArgs),
}

/// What is typed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Console {
    /// The serial port.
    Serial,
    /// A virtio console.
    Virtio,
}

/// Of `undying rv run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A RISC-V kernel, uncompressed (`Image`, Debian's `vmlinux-*-riscv64`)
    #[arg(long, value_name = "FILE", required_unless_present = "from")]
    pub kernel: Option<PathBuf>,
    /// Its initial file system
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// A raw disk image, in the order in which the guest names them; with `,ro` the guest may only read it
    #[arg(long, value_name = "FILE[,ro]")]
    pub disk: Vec<String>,
    /// A TAP device for a network card; it is made if it is not there
    #[arg(long, value_name = "NAME")]
    pub tap: Vec<String>,
    /// Firmware that begins in machine mode, such as OpenSBI's `fw_dynamic.bin`; without, the machine is the firmware
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Where what is typed goes: to the serial port (`ttyS0`), or to a virtio console (`hvc0`); what either says is shown
    #[arg(long, value_enum, default_value_t = Console::Serial)]
    pub console: Console,
    /// RAM
    #[arg(long, value_name = "SIZE", default_value = "256MiB", conflicts_with = "from")]
    pub memory: MemorySize,
    /// The kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "console=ttyS0", conflicts_with = "from")]
    pub append: String,
    /// Record everything that enters, for `undying rv replay`; an existing file is replaced
    #[arg(long, value_name = "LOG")]
    pub record: Option<PathBuf>,
    /// Go on from a snapshot; each disk is brought to what it held then, and has to be the one of that run, or a copy from
    /// before it
    #[arg(long, value_name = "SNAPSHOT")]
    pub from: Option<PathBuf>,
    /// Take snapshots into this new directory: each time that SIGUSR1 comes, and as often as `--snapshot-every` tells
    #[arg(long, value_name = "DIR")]
    pub snapshots: Option<PathBuf>,
    /// Take a snapshot each so often
    #[arg(long, value_name = "TIME", value_parser = parse_micros, requires = "snapshots")]
    pub snapshot_every: Option<Micros>,
    /// Keep at least the last N snapshots, and not many more than twice as many: older ones are merged into the oldest that
    /// is kept, and removed
    #[arg(long, value_name = "N", requires = "snapshots")]
    pub keep_snapshots: Option<NonZeroUsize>,
    /// Interpret every instruction, none is compiled: slower, and the same to the last bit
    #[arg(long)]
    pub interpret: bool,
    /// Wait for gdb before the first instruction; it may look at the guest and stop it, not change it
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_gdb)]
    pub gdb: Option<SocketAddr>,
}

/// Of `undying rv replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording
    pub log: PathBuf,
    /// Begin at a snapshot that was taken when the recording was made
    #[arg(long, value_name = "SNAPSHOT")]
    pub from: Option<PathBuf>,
    /// The snapshot that the recorded run went on from, if it is not where it was
    #[arg(long, value_name = "SNAPSHOT")]
    pub origin: Option<PathBuf>,
    /// Stop at this instruction, counted over all boots
    #[arg(long, value_name = "N")]
    pub until: Option<u64>,
    /// At the end go on as a live machine
    #[arg(long)]
    pub go_live: bool,
    /// The kernel, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The initial file system, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The firmware, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// A copy of a disk as it was when the recording began: what the guest wrote is written there
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// A TAP device for a network card of a machine that goes live
    #[arg(long, value_name = "NAME", requires = "go_live")]
    pub tap: Vec<String>,
    /// Interpret every instruction, none is compiled: slower, and the same to the last bit
    #[arg(long)]
    pub interpret: bool,
    /// Wait for gdb at the beginning, or at the instruction of `--until`; it can go back too
    ///
    /// With `target remote localhost:PORT` gdb sees the guest with `reverse-stepi`, `reverse-continue`, breakpoints and
    /// watchpoints in both directions. `monitor position` tells the count of instructions. Nothing can be changed. When it
    /// detaches, what is left is replayed.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_gdb, conflicts_with_all = ["go_live", "disk"])]
    pub gdb: Option<SocketAddr>,
}

/// Where gdb is waited for: on this host only, unless an address is given.
fn parse_gdb(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Err(_) => text.parse().map_err(|_| format!("{text:?} is no port, and no address with a port")),
    }
}

/// Of `undying rv bisect`.
#[derive(Debug, Args)]
pub struct BisectArgs {
    /// A recording
    pub first: PathBuf,
    /// Another one; without it the first one once more
    #[arg(required_unless_present = "plainly")]
    pub second: Option<PathBuf>,
    /// Read and decode each instruction of the second one when it is carried out
    #[arg(long)]
    pub plainly: bool,
    /// The kernel of both, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The initial file system of both, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The snapshot that both runs went on from, if it is not where it was
    #[arg(long, value_name = "SNAPSHOT")]
    pub origin: Option<PathBuf>,
}
