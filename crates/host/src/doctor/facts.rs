//! Owns what a host knows of itself, gathered by looking. It judges nothing: the same facts of another host come by
//! the network, as JSON whose fields may come and go with versions.

use super::finding::Probe;
use super::vm::{Asked, VmFacts};
use crate::config::HostConfig;
use crate::room::{self, Room};
use api::types::PlaceStatus;
use arbiter::Arbiter;
use os::tracker::SelfTestReport;
use os::{facts, tap};
use protocol::HostName;
use qemu::accel::{self, AccelChoice, KvmFacts};
use qemu::install::{DEFAULT_BINARY, InstallError, Installation};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use trust::Store;
use trust::certificate::UnixTime;

/// However many ask, one QEMU at a time is started for it.
static LOOKING: Mutex<()> = Mutex::new(());

/// Capabilities that the agent cannot do without: reading and stopping QEMU, making TAPs (capabilities(7)).
const NEEDED: [(&str, u32); 2] = [("CAP_SYS_PTRACE", 19), ("CAP_NET_ADMIN", 12)];
/// A certificate is as good as expired so long before it is.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// A host, as it sees itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// Version of the program.
    pub version: String,
    /// Version of the replication protocol.
    pub wire: u16,
    /// The kernel's release.
    pub kernel: String,
    /// Its major and minor number.
    pub kernel_version: (u32, u32),
    /// Bytes of a page.
    pub page_size: usize,
    /// The program may do what it must.
    pub rights: Probe,
    /// Writes are found.
    pub tracker: Probe,
    /// QEMU.
    pub qemu: Option<QemuFacts>,
    /// Why there is none.
    pub qemu_error: String,
    /// The processor.
    pub cpu: CpuFacts,
    /// What `accel = "auto"` means.
    pub accel: String,
    /// Why.
    pub accel_why: String,
    /// A TAP was made.
    pub tap: Probe,
    /// Something keeps the time of day right; none: it is not known.
    pub clock_kept: Option<bool>,
    /// Memory that programs can have, in bytes.
    pub memory_available: u64,
    /// What there is for standbys, in bytes; none without a configuration.
    pub memory_for_standbys: Option<u64>,
    /// What is left of it.
    pub memory_left: Option<u64>,
    /// Where disks, journals and logs lie.
    pub places: Vec<PlaceStatus>,
    /// Who it is to others.
    pub identity: Option<IdentityFacts>,
    /// Why it is nobody.
    pub identity_error: String,
    /// Its arbiter.
    pub arbiter: Option<ArbiterFacts>,
    /// Its interfaces with their addresses.
    pub interfaces: Vec<InterfaceFacts>,
    /// It takes no VMs.
    pub draining: bool,
    /// What it would do with the VM that is asked about.
    pub vm: Option<VmFacts>,
}

/// QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QemuFacts {
    /// The program.
    pub binary: PathBuf,
    /// Its version, with the distribution's mark.
    pub version: String,
    /// What the usual machine type `q35` means.
    pub usual_machine: String,
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuFacts {
    /// Who made it.
    pub vendor: String,
    /// What it calls itself.
    pub model: String,
    /// Its flags, sorted.
    pub flags: Vec<String>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceFacts {
    /// The address.
    pub address: String,
    /// The interface.
    pub name: String,
    /// The largest packet on it, in bytes.
    pub mtu: u32,
}

/// This host's own certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentityFacts {
    /// Its last day.
    pub until: String,
    /// It is valid now.
    pub valid: bool,
    /// It will not be for long.
    pub soon: bool,
}

/// The arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArbiterFacts {
    /// What it is and where.
    pub described: String,
    /// Which one it is, if it answers; else why not.
    pub identity: Probe,
    /// A token was written there and found again.
    pub written: Probe,
}

/// What a host is looked at with.
pub struct Look<'a> {
    /// Its configuration, if it has one.
    pub config: Option<&'a HostConfig>,
    /// Its arbiter.
    pub arbiter: Option<&'a dyn Arbiter>,
    /// Its room for standbys.
    pub room: Option<&'a Arc<Room>>,
    /// It is being drained.
    pub draining: bool,
}

impl Look<'_> {
    /// Looks. Memory is tracked on trial, and a TAP is made.
    #[must_use]
    pub fn gather(self, installation: &Installed, vm: Option<&Asked>) -> HostFacts {
        let (accel, accel_why) = match accel::choose(AccelChoice::Auto, &KvmFacts::of_this_host()) {
            Ok((accel, why)) => (accel.to_string(), why),
            Err(error) => (String::new(), error.to_string()),
        };
        let vm = vm.map(|vm| VmFacts::gather(vm, &self, installation));
        let room = self.room.map(|room| room.status());
        let trust = self.config.map(HostConfig::trust);
        let identity = trust.as_ref().map(identity);
        HostFacts {
            version: env!("CARGO_PKG_VERSION").into(),
            wire: protocol::wire::VERSION,
            kernel: facts::kernel_release(),
            kernel_version: facts::kernel_version(),
            page_size: facts::page_size(),
            rights: rights().into(),
            tracker: os::tracker::self_test().map(|report| cases(&report)).into(),
            qemu_error: installation.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            qemu: installation.as_ref().ok().map(qemu_facts),
            cpu: cpu(),
            accel,
            accel_why,
            tap: tap_opens().into(),
            clock_kept: os::clock::is_kept_right().ok(),
            memory_available: facts::available_memory(),
            memory_for_standbys: room.as_ref().map(|room| room.memory_bytes),
            memory_left: room.as_ref().map(|room| room.memory_left_bytes),
            places: self.config.map(room::places).unwrap_or_default(),
            identity_error: match &identity {
                Some(Err(why)) => why.clone(),
                _ => String::new(),
            },
            identity: identity.and_then(Result::ok),
            arbiter: self.config.zip(self.arbiter).map(|(config, arbiter)| asked(arbiter, &config.name)),
            interfaces: interfaces(),
            draining: self.draining,
            vm,
        }
    }
}

/// QEMU, or why there is none.
pub type Installed = Result<Installation, InstallError>;

/// Starts a QEMU and asks it what it can do.
pub fn installed() -> Installed {
    let _alone = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
    Installation::probe(Path::new(DEFAULT_BINARY))
}

/// The addresses of this host's interfaces.
#[must_use]
pub fn interfaces() -> Vec<InterfaceFacts> {
    let all = tap::addresses().unwrap_or_default().into_iter();
    all.map(|(name, address)| InterfaceFacts {
        address: address.to_string(),
        mtu: tap::mtu(&name).unwrap_or(0),
        name,
    })
    .collect()
}

/// Root may do everything unless a container takes some of it away.
fn rights() -> Result<String, String> {
    let have = facts::capabilities().map_err(|error| format!("/proc cannot be read: {error}"))?;
    let lacking: Vec<_> =
        NEEDED.iter().filter(|(_, bit)| have & (1 << bit) == 0).map(|(name, _)| *name).collect();
    if lacking.is_empty() {
        Ok("all that is needed".into())
    } else {
        Err(format!("without {}", lacking.join(", ")))
    }
}

fn cases(report: &SelfTestReport) -> String {
    format!("finds every write in: {}", report.cases.join(", "))
}

fn qemu_facts(found: &Installation) -> QemuFacts {
    QemuFacts {
        binary: found.binary().to_path_buf(),
        version: found.version().to_string(),
        usual_machine: found.resolve_machine("q35").unwrap_or_default().to_owned(),
    }
}

fn cpu() -> CpuFacts {
    let (vendor, model) = facts::cpu_name().unwrap_or_default();
    let mut flags = facts::cpu_flags().unwrap_or_default();
    flags.sort_unstable();
    CpuFacts { vendor, model, flags }
}

/// Makes a TAP for a moment. It is no port of any bridge, and vanishes when it is closed.
fn tap_opens() -> Result<String, tap::TapError> {
    let name = format!("uddoc{:x}", crate::loops::random() & 0xff_ffff);
    tap::Tap::open(&name).map(|_| "one was made and is gone again".into())
}

fn identity(store: &Store) -> Result<IdentityFacts, String> {
    store.check().map_err(|error| error.to_string())?;
    let identity = store.identity().map_err(|error| error.to_string())?;
    let (certificate, now) = (identity.certificate(), UnixTime::now());
    Ok(IdentityFacts {
        until: certificate.valid_until(),
        valid: !certificate.is_early(now) && !certificate.is_expired(now),
        soon: certificate.expires_within(now, SOON),
    })
}

fn asked(arbiter: &dyn Arbiter, host: &HostName) -> ArbiterFacts {
    let token = crate::loops::random();
    let written = || {
        arbiter.leave_token(host, token).map_err(|error| error.to_string())?;
        match arbiter.token(host) {
            Ok(Some(found)) if found == token => Ok("a token was written and found again"),
            Ok(_) => Err("the token that was written there a moment ago is not there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    let identity: Probe = arbiter.identity().into();
    let written = if identity.ok { written().into() } else { Probe::default() };
    ArbiterFacts { described: arbiter.describe(), identity, written }
}
