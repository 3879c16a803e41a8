//! Owns the grammar of `undying vm migrate`.

use crate::duration::parse_micros;
use crate::interval::parse_slowdown;
use api::migration::{MigrateRequest, Strategy};
use clap::{Args, ValueEnum};
use protocol::migration::Limits;
use protocol::{HostName, Micros, VmName};
use qemu::spec::MemorySize;

/// What a migration is asked for with.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The VM
    pub name: VmName,
    /// The destination: a host among the agent's peers
    #[arg(long, value_name = "HOST", required_unless_present = "cancel")]
    pub to: Option<HostName>,
    /// Copy the VM while it runs, or stop it first: the naive way, to compare with
    #[arg(long, value_enum, default_value_t = How::Precopy)]
    strategy: How,
    /// Stop the VM only if it stands still for no longer than this, by the estimate
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_micros)]
    max_downtime: Micros,
    /// Most rounds of copying, 1 to 1000; then it gives up
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    max_rounds: u32,
    /// Begin at this rate, in bytes a second such as 20M, and go as fast as the guest writes and a little faster [default:
    /// the ceiling from the beginning]
    #[arg(long, value_name = "SIZE")]
    rate_floor: Option<MemorySize>,
    /// Most bytes a second while the VM runs, such as 200M [default: the agent's copy_rate]
    #[arg(long, value_name = "SIZE")]
    rate_ceiling: Option<MemorySize>,
    /// Most of its time that a guest may lose that writes faster than the link carries, 0% to 90%; 0% gives up instead
    #[arg(long, value_name = "PERCENT", default_value = "60%", value_parser = parse_slowdown)]
    max_slowdown: u8,
    /// End the VM's migration: it stays
    #[arg(long, conflicts_with_all = ["to", "strategy", "max_downtime", "max_rounds", "rate_floor", "rate_ceiling", "max_slowdown", "no_wait"])]
    pub cancel: bool,
    /// Return once the agent accepted it
    #[arg(long)]
    pub no_wait: bool,
}

/// How a VM is brought to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// In rounds while it runs.
    Precopy,
    /// Stopped first.
    StopTheWorld,
}

impl MigrateArgs {
    /// What is asked of the agent; none to cancel.
    pub fn request(&self) -> Option<MigrateRequest> {
        let to = self.to.clone()?;
        let strategy = match self.strategy {
            How::Precopy => Strategy::Precopy,
            How::StopTheWorld => Strategy::StopTheWorld,
        };
        let limits = Limits {
            max_downtime: self.max_downtime,
            max_rounds: self.max_rounds,
            rate_floor: self.rate_floor.map(|rate| rate.0),
            rate_ceiling: self.rate_ceiling.map(|rate| rate.0),
            max_slowdown: self.max_slowdown,
        };
        Some(MigrateRequest { to, strategy, limits })
    }
}
