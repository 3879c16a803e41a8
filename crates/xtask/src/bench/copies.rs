//! Owns first copies that are made again and again of a VM whose memory is full, and how fast they are.

use super::Run;
use super::bed::Reach;
use anyhow::{Context, Result, ensure};
use api::types::ProtectRequest;
use lab::cluster::{Cluster, PATIENCE, VmFile, wait_for};
use protocol::{HostName, VmName};
use std::time::{Duration, Instant};

/// A VM at a host, and who stands by.
#[derive(Clone, Copy)]
pub struct Full<'a> {
    /// The hosts.
    pub cluster: &'a Cluster,
    /// The VM.
    pub vm: &'a VmName,
    /// Where its guest is.
    pub reach: Reach,
    /// Where it runs.
    pub host: &'static str,
    /// Who stands by.
    pub backup: &'static str,
    /// So much of its memory is filled, MiB.
    pub mib: u64,
}

impl<'a> Full<'a> {
    /// Of a VM that has no bed.
    pub fn of(cluster: &'a Cluster, vm: &'a VmFile, [host, backup]: [&'static str; 2], mib: u64) -> Self {
        Self { cluster, vm: &vm.name, reach: Reach::new(vm.address.v4), host, backup, mib }
    }

    /// Fills memory of the guest with what does not pack, and lets it be.
    pub fn fill(&self, run: &mut Run<'_>) -> Result<()> {
        let pages = self.mib << 8;
        self.reach.pulse(self.cluster.lab.client(), |pulse| pulse.dirty(pages, "full", "seq+page"))?;
        let until = Instant::now() + PATIENCE;
        loop {
            run.pass("memory is filled", Duration::from_secs(2));
            let status = self.cluster.ask(self.host, |api| api.vm(self.vm))?;
            let pid = status.pid.context("a VM without a process")?;
            if super::memory::ram_in_use(pid, status.memory_bytes)? >= self.mib as f64 {
                break;
            }
            ensure!(Instant::now() < until, "the guest did not fill its memory");
        }
        self.reach.pulse(self.cluster.lab.client(), lab::guest::pulse::PulseClient::stop)
    }

    /// One first copy and the end of its protection; when it was, and MiB a second.
    pub fn copy(&self, rate: Option<u64>) -> Result<((u64, u64), f64)> {
        let (cluster, host) = (self.cluster, self.host);
        let to = HostName::new(self.backup)?;
        let request = ProtectRequest { copy_rate: rate, ..ProtectRequest::even(to, 100_000) };
        cluster.ask(host, |api| api.protect(self.vm, &request))?;
        let phase = |wanted: &'static str| {
            wait_for(&format!("{} {wanted}", self.vm), PATIENCE, || {
                let phase = cluster.ask(host, |api| api.vm(self.vm))?.phase;
                Ok(if phase == wanted { Ok(()) } else { Err(phase) })
            })
        };
        // Until then the standby's QEMU starts.
        phase("copying")?;
        let (from_us, from) = (os::clock::realtime_us(), Instant::now());
        phase("protected")?;
        let window = (from_us, os::clock::realtime_us());
        let rate = self.mib as f64 / from.elapsed().as_secs_f64();
        cluster.unprotect(self.vm, host, self.backup)?;
        Ok((window, rate))
    }
}
