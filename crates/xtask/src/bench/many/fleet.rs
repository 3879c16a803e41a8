//! Owns hosts with one small VM each, and the one host that stands by for all of them.

use crate::bench::Run;
use crate::bench::bed::Reach;
use anyhow::{Context, Result};
use lab::client::{WriterConfig, Writers};
use lab::cluster::{Cluster, VmFile, VmShape};
use std::time::Duration;

/// The host that stands by.
pub const BACKUP: &str = "backup";
/// The hosts that VMs run at; the guests of the lab's Redis boot with this much memory.
pub const PRIMARIES: [&str; 10] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
/// Memory of a guest, MiB: little more than it needs to boot.
pub const GUEST_MIB: u32 = 160;
/// Checkpoints of ten guests every 25 ms would be more than two processors can take.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Hosts with a VM each.
pub struct Fleet {
    /// The hosts and the agents.
    pub cluster: Cluster,
    /// The VMs, in the order of their hosts.
    pub vms: Vec<VmFile>,
}

impl Fleet {
    /// Starts `count` hosts and the backup, and a VM at each host. `sections` follow in every agent's configuration.
    pub fn raise(run: &mut Run<'_>, count: usize, sections: &str) -> Result<Self> {
        let mut hosts = vec![BACKUP];
        hosts.extend(&PRIMARIES[..count]);
        let cluster = Cluster::start("many", &run.props.binary, &hosts, sections)
            .context("the hosts cannot be set up")?;
        let mut vms = Vec::new();
        for (number, host) in (0..).zip(&PRIMARIES[..count]) {
            run.screen.live(&format!("the guest of host {host} boots"));
            let shape = VmShape { memory_mib: GUEST_MIB, number, ..VmShape::default() };
            let file = VmFile::redis(&run.props.guest, &format!("vm-{host}"), shape, None)?;
            cluster.start_vm(host, &file)?;
            // One after the other: many that boot together on few processors take longer.
            cluster.wait_ready(host, &file.name)?;
            vms.push(file);
        }
        run.screen.done(&format!("{count} guests of {GUEST_MIB} MiB run at as many hosts"));
        Ok(Self { cluster, vms })
    }

    /// Each VM with its host.
    pub fn each(&self) -> impl Iterator<Item = (&VmFile, &'static str)> {
        self.vms.iter().zip(PRIMARIES)
    }

    /// Protects all VMs by the one backup.
    pub fn protect(&self, run: &mut Run<'_>) -> Result<()> {
        for (vm, host) in self.each() {
            run.screen.live(&format!("{} is protected by {BACKUP}", vm.name));
            self.cluster.protect(&vm.name, host, BACKUP, INTERVAL)?;
        }
        Ok(())
    }

    /// Starts writers to every VM: four connections, four writes deep.
    pub fn writers(&self) -> Result<Vec<Writers>> {
        let start = |(vm, host): (&VmFile, &str)| {
            let target = Reach::new(vm.address.v4).redis();
            let prefix = format!("many-{host}");
            let config =
                WriterConfig { connections: 4, keep_samples: false, prefix, ..WriterConfig::new(target) };
            Writers::start(self.cluster.lab.client(), &config).context("the writers cannot begin")
        };
        self.each().map(start).collect()
    }
}
