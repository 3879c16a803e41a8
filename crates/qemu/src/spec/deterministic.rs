//! Owns what a VM file may say of a VM that runs in the deterministic machine, which has no options of QEMU's.

use super::VmSpec;
use super::nic::NicModel;
use crate::accel::AccelChoice;

/// The word for it as a machine type.
pub(super) const MACHINE: &str = "rv";

/// What is wrong with such a VM, if something is: the key and why.
pub(super) fn problem(spec: &VmSpec) -> Option<(&'static str, String)> {
    let here = "the deterministic machine (`machine = \"rv\"`)";
    let found = |key, problem: &str| Some((key, format!("{here} {problem}")));
    if spec.kernel.is_none() {
        return found("kernel", "boots a RISC-V kernel, an uncompressed `Image`; name one");
    }
    if spec.cpus != 1 {
        return found("cpus", "has one processor");
    }
    if spec.accel != AccelChoice::Auto {
        return found("accel", "needs no accelerator; remove the key");
    }
    if spec.cpu_model.is_some() {
        return found("cpu_model", "has one kind of processor; remove the key");
    }
    if !spec.extra_args.is_empty() {
        return found("extra_args", "is no QEMU that could be given arguments; remove the key");
    }
    if spec.nics.iter().any(|nic| !matches!(nic.model, None | Some(NicModel::Virtio))) {
        return found("nic", "has modern virtio cards only; remove `model`");
    }
    if spec.disks.iter().any(|disk| disk.is_qcow2()) {
        return found("disk", "takes raw images; convert it with `qemu-img convert -O raw`");
    }
    if spec.disks.iter().any(|disk| disk.model.is_some()) {
        return found("disk", "has modern virtio disks only; remove `model`");
    }
    None
}
