//! Owns the correction of a KVM guest's paravirtual clock, from outside an unmodified hypervisor.
//!
//! KVM stops kvmclock while a VM is stopped, so a guest that is paused often falls behind. Only the process that
//! made the VM may set its clock; so `KVM_GET_CLOCK` and `KVM_SET_CLOCK` are run inside it ([`crate::inject`]), on
//! its own descriptor. The VM may run meanwhile.

use crate::clock;
use crate::inject::{self, InjectError, Session};
use crate::process::{PidFd, ProcessError};
use std::io;
use std::os::fd::RawFd;

// include/uapi/linux/kvm.h
const KVM_SET_CLOCK: u64 = 0x4030_ae7b;
const KVM_GET_CLOCK: u64 = 0x8030_ae7c;
/// `struct kvm_clock_data`: the clock in nanoseconds, flags, padding; 48 bytes.
const CLOCK_DATA: usize = 48;
/// How `/proc/PID/fd` shows a VM's descriptor.
const VM_LINK: &str = "anon_inode:kvm-vm";

/// What went wrong with a guest's clock.
#[derive(Debug, thiserror::Error)]
pub enum KvmClockError {
    /// The process could not be looked at.
    #[error("cannot look for a KVM virtual machine in process {pid}: {source}")]
    Look {
        /// The process.
        pid: u32,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It has none.
    #[error("process {pid} has no KVM virtual machine: only KVM guests have a clock that can be corrected")]
    NoVm {
        /// The process.
        pid: u32,
    },
    /// The calls inside the process failed.
    #[error("cannot correct the guest clock: {0}")]
    Inject(#[from] InjectError),
    /// The process could not be held.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// The clock of the KVM virtual machine that lives in one process.
#[derive(Debug)]
pub struct KvmClock {
    target: PidFd,
    vm: RawFd,
}

impl KvmClock {
    /// Finds the virtual machine in process `pid`.
    ///
    /// # Errors
    /// [`KvmClockError::NoVm`] if it has none (it runs under TCG, or has not made it yet).
    pub fn find(pid: u32) -> Result<Self, KvmClockError> {
        let target = PidFd::open(pid)?;
        let look = |source| KvmClockError::Look { pid, source };
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(look)? {
            let entry = entry.map_err(look)?;
            // A descriptor may be closed between listing and looking.
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(VM_LINK), Some(vm)) = (link.to_str(), number) {
                return Ok(Self { target, vm });
            }
        }
        Err(KvmClockError::NoVm { pid })
    }

    /// The guest's clock, in nanoseconds since the VM's own zero.
    ///
    /// # Errors
    /// If the process is gone or cannot be stopped for it.
    pub fn read(&self) -> Result<u64, KvmClockError> {
        Ok(inject::session(&self.target, |session| self.get(session))?)
    }

    /// Moves the guest's clock forward by `nanos`; returns what it showed before. Costs some 0.15 ms of the
    /// process's main thread; the time between reading and setting is made up for.
    ///
    /// # Errors
    /// If the process is gone or cannot be stopped for it.
    pub fn advance(&self, nanos: u64) -> Result<u64, KvmClockError> {
        let before = inject::session(&self.target, |session| {
            let asked = clock::now_ns();
            let before = self.get(session)?;
            let mut data = [0_u8; CLOCK_DATA];
            let now = before + nanos + (clock::now_ns() - asked);
            data[..8].copy_from_slice(&now.to_ne_bytes());
            let at = session.scratch(CLOCK_DATA as u64);
            session.memory().write(at, &data).map_err(InjectError::from)?;
            self.call(session, KVM_SET_CLOCK, at)?;
            Ok::<_, InjectError>(before)
        })?;
        Ok(before)
    }

    fn get(&self, session: &mut Session) -> Result<u64, InjectError> {
        let at = session.scratch(CLOCK_DATA as u64);
        self.call(session, KVM_GET_CLOCK, at)?;
        let mut nanos = [0_u8; 8];
        session.memory().read(at, &mut nanos)?;
        Ok(u64::from_ne_bytes(nanos))
    }

    fn call(&self, session: &mut Session, request: u64, at: u64) -> Result<(), InjectError> {
        let vm = u64::try_from(self.vm).expect("descriptors are not negative");
        session.system_call(libc::SYS_ioctl, [vm, request, at, 0, 0, 0]).map(drop)
    }
}
