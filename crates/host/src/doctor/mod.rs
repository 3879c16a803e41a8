//! Owns `undying doctor`: looking at a host, and at a pair of hosts, before they are needed.
//!
//! | module | owns |
//! |---|---|
//! | `finding` | what a check says |
//! | `facts`, `vm` | what a host knows of itself, and of a VM that it may have to run |
//! | `judge` | one host by its facts: this one and the other one alike |
//! | `compare` | two hosts by their facts |
//! | `link` | a path between them by what was measured |
//! | `ask`, `answer`, `burst` | the conversation of two agents |
//!
//! Facts are gathered where they are, and judged where the operator sits: by pure functions, which tests feed with every kind of
//! bad host. Decisions are in `docs/design/doctor.md`.

mod answer;
mod ask;
mod burst;
mod compare;
mod facts;
mod finding;
mod judge;
mod link;
mod vm;

pub use answer::attend;
pub use finding::Check;
pub use vm::Asked;

use crate::computer::MachineError;
use crate::config::{Config, HostConfig};
use crate::context::Context;
use crate::disks::why_unprotectable;
use crate::room::Room;
use crate::table::Table;
use api::doctor::Finding;
use api::types::{ApiError, DoctorReport, DoctorRequest, DoctorVm, ErrorCode};
use facts::{Installed, Look, installed};
use protocol::VmName;
use qemu::VmSpec;
use qemu::spec::DiskSpec;
use std::path::Path;

const VM_FILE: Check =
    Check { name: "VM", why: "What cannot be protected is refused before anything starts." };
const CONFIGURATION: Check = Check {
    name: "configuration",
    why: "An agent starts only with a right one, and it says who the others are.",
};

/// Looks at the host of this agent, and at another one with it if that is asked for.
///
/// # Errors
/// If there is no VM of the name that is asked about.
pub fn at_agent(context: &Context, table: &Table, request: &DoctorRequest) -> Result<DoctorReport, ApiError> {
    let here = &context.config.name;
    let (mut findings, installation) = (Vec::new(), installed());
    let asked = match &request.vm {
        None => None,
        Some(DoctorVm::Running(name)) => Some(running(table, name)?),
        Some(DoctorVm::File { text, folder }) => {
            asked(here.as_str(), read((text, folder)), &installation, Some(&context.config), &mut findings)
        }
    };
    let facts = answer::look(context).gather(&installation, asked.as_ref());
    findings.extend(judge::judge(here.as_str(), &facts, false));
    if let Some(peer) = &request.peer {
        let bandwidth = request.bandwidth;
        let pair = ask::Pair { context, table, peer, here: &facts, vm: asked.as_ref(), bandwidth };
        findings.extend(pair.look());
    }
    Ok(DoctorReport { findings })
}

/// Looks at this host where no agent runs.
#[must_use]
pub fn without_agent(config: &Path, vm: Option<(&str, &Path)>) -> DoctorReport {
    let mut findings = Vec::new();
    let loaded = Config::load(config);
    let of = match &loaded {
        Ok(Config::Host(config)) => config.name.to_string(),
        Ok(Config::Witness(config)) => config.name.to_string(),
        Err(_) => "this host".into(),
    };
    findings.push(match &loaded {
        Ok(Config::Host(_)) => CONFIGURATION.ok(&of, format!("{} is right", config.display())),
        Ok(Config::Witness(_)) => CONFIGURATION.warning(
            &of,
            format!("by {} this host is a witness, which runs no VMs", config.display()),
            "look at the hosts that use it: their doctor says whether it answers",
        ),
        Err(error) => {
            CONFIGURATION.failure(&of, error, "write one as the README says, or name it with --config")
        }
    });
    let config = match &loaded {
        Ok(Config::Host(config)) => Some(&**config),
        _ => None,
    };
    let installation = installed();
    let asked = vm.and_then(|file| asked(&of, read(file), &installation, config, &mut findings));
    let room = config.map(Room::of);
    let client = config.and_then(|config| config.arbiter.client(&config.trust()).ok());
    let look = Look { config, arbiter: client.as_deref(), room: room.as_ref(), draining: false };
    findings.extend(judge::judge(&of, &look.gather(&installation, asked.as_ref()), false));
    DoctorReport { findings }
}

fn running(table: &Table, name: &VmName) -> Result<Asked, ApiError> {
    let entry = table.vms().get(name).cloned();
    let asked = entry.and_then(|entry| entry.handle.asked());
    asked.ok_or_else(|| {
        let message = format!(
            "no VM {name} runs here; `undying vm list` shows those that do. A VM file is named by its path"
        );
        ApiError::new(ErrorCode::NotFound, message)
    })
}

fn read((text, folder): (&str, &Path)) -> Result<VmSpec, String> {
    VmSpec::parse_in(text, "to be looked at", folder).map_err(|error| error.to_string())
}

/// What is wrong with a disk of a VM file.
fn look_at_disk(of: &str, disk: &DiskSpec, config: Option<&HostConfig>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let path = config.map_or_else(|| disk.image.clone(), |config| config.disk_path(&disk.image));
    if let Err(error) = std::fs::File::open(&path) {
        let found = format!("the disk image {} does not open: {error}", path.display());
        let mend = if disk.shared {
            "mount the storage that the hosts share, with the image, under this name"
        } else {
            "put it where the VM shall start; its backup makes its own copy"
        };
        findings.push(VM_FILE.failure(of, found, mend));
    }
    if disk.shared && !disk.read_only {
        let found = format!("it cannot be protected: {}", why_unprotectable(&path));
        findings.push(VM_FILE.failure(of, found, "leave `shared` away, or do without protection"));
    }
    findings
}

/// The VM of a file, if it makes sense; what is wrong with it goes to the findings.
fn asked(
    of: &str,
    spec: Result<VmSpec, String>,
    installation: &Installed,
    config: Option<&HostConfig>,
    findings: &mut Vec<Finding>,
) -> Option<Asked> {
    let mend = "mend the VM file";
    let spec = match spec {
        Ok(spec) => spec,
        Err(why) => {
            findings.push(VM_FILE.failure(of, why, mend));
            return None;
        }
    };
    let name = spec.name.clone();
    if let Err(refusals) = spec.check_protectable() {
        findings.extend(refusals.iter().map(|refusal| VM_FILE.failure(of, refusal, mend)));
    }
    findings.extend(spec.disks.iter().flat_map(|disk| look_at_disk(of, disk, config)));
    match Asked::of(spec, installation, config) {
        Ok(asked) => {
            let text = format!("{name}: {}", asked.resolved.words());
            findings.push(VM_FILE.ok(of, text));
            Some(asked)
        }
        // That is a finding of its own.
        Err(MachineError::NoQemu(_)) => None,
        Err(error) => {
            findings.push(VM_FILE.failure(of, error, mend));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(image: &Path, rest: &str) -> Vec<String> {
        let text = format!("name = 'web'\nkernel = '/k'\n[[disk]]\nimage = {image:?}\n{rest}");
        let spec = VmSpec::parse(&text, "a VM file").unwrap();
        look_at_disk("alpha", &spec.disks[0], None).iter().map(|found| format!("{found:?}")).collect()
    }

    #[test]
    fn a_disk_that_is_not_there_or_cannot_be_protected_is_told_with_what_to_do() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let image = image.path();
        assert_eq!(look(image, ""), [""; 0]);
        assert_eq!(look(image, "shared = true\nread_only = true\n"), [""; 0]);
        let shared = look(image, "shared = true\n");
        assert!(
            shared.len() == 1
                && shared[0].contains("cannot be protected")
                && shared[0].contains("leave `shared` away")
        );
        let nowhere = Path::new("/nowhere/web.img");
        assert!(look(nowhere, "")[0].contains("put it where the VM shall start"));
        assert!(look(nowhere, "shared = true\n")[0].contains("mount the storage"));
    }
}
