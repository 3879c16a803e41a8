//! Owns the judgement of one host by what it knows of itself: pure, and the same for this host and for another one.

use super::facts::{ArbiterFacts, HostFacts};
use super::finding::Check;
use super::vm;
use api::doctor::Finding;
use api::types::PlaceStatus;

/// The oldest kernel with the tracker's system calls.
const OLDEST_KERNEL: (u32, u32) = (6, 7);
/// With less than this left a log or a journal fails soon.
const LEAST_DISK: u64 = 64 << 20;
/// With less than this left one VM with disks has no room for its journal, and two have none.
const LITTLE_DISK: u64 = 1 << 30;
/// With less than this left no standby of usual size fits.
const LITTLE_MEMORY: u64 = 512 << 20;

const RIGHTS: Check =
    Check { name: "rights", why: "The agent reads and stops QEMU's memory from outside, and makes TAPs." };
const KERNEL: Check = Check {
    name: "kernel",
    why: "Writes of a guest are found by system calls that older kernels do not have.",
};
const TRACKER: Check = Check {
    name: "write tracker",
    why: "A page whose write is not found would be missing at the backup: each way to write is tried for real.",
};
const QEMU: Check = Check { name: "QEMU", why: "It runs the guests, and the standbys." };
const ACCEL: Check =
    Check { name: "accelerator", why: "It is what `accel = \"auto\"` in a VM file means here." };
const TAP: Check = Check { name: "TAP", why: "A guest's network card ends in a TAP device of the host." };
const MEMORY: Check = Check {
    name: "memory",
    why: "A standby holds a whole copy of its guest's memory; one that does not fit is refused.",
};
const DISK: Check = Check {
    name: "disk space",
    why: "Copies of disks, journals (256 MiB a VM with disks) and logs lie there; a journal that fails ends protection.",
};
const CLOCK: Check = Check {
    name: "time of day",
    why: "Nothing is decided by it, but certificates are judged and events of an incident are told by it.",
};
const IDENTITY: Check =
    Check { name: "identity", why: "Hosts speak to nobody whose certificate is not trusted and valid." };
const ARBITER: Check = Check {
    name: "arbiter",
    why: "It decides who goes on after a failure: if it cannot be reached and written then, output is held until it can.",
};
const DRAIN: Check = Check { name: "drain", why: "A host that is being drained takes no VM." };

/// Judges a host.
#[must_use]
pub fn judge(of: &str, facts: &HostFacts, stands_by: bool) -> Vec<Finding> {
    let mut findings = vec![
        facts.rights.judged(
            RIGHTS,
            of,
            "run the agent, and this command, as root, and give a container these rights",
        ),
        kernel(of, facts),
        facts.tracker.judged(
            TRACKER,
            of,
            "boot another kernel, or let the container use userfaultfd and ptrace",
        ),
        qemu(of, facts),
        ACCEL.ok(of, accel(facts)),
        facts.tap.judged(TAP, of, "load the module `tun`, or give the container /dev/net/tun"),
        memory(of, facts),
        clock(of, facts),
    ];
    findings.extend(facts.places.iter().map(|place| disk(of, place)));
    findings.push(identity(of, facts));
    findings.push(arbiter(of, facts.arbiter.as_ref()));
    if facts.draining {
        findings.push(DRAIN.failure(of, "it is being drained", "`undying host undrain` there ends that"));
    }
    findings.extend(facts.vm.iter().flat_map(|vm| vm::judge(of, vm, stands_by)));
    findings
}

fn kernel(of: &str, facts: &HostFacts) -> Finding {
    if facts.kernel_version >= OLDEST_KERNEL {
        return KERNEL.ok(of, format!("Linux {}", facts.kernel));
    }
    let (major, minor) = OLDEST_KERNEL;
    let found = format!("Linux {} cannot track writes from outside", facts.kernel);
    KERNEL.failure(of, found, format!("boot Linux {major}.{minor} or newer"))
}

fn qemu(of: &str, facts: &HostFacts) -> Finding {
    match &facts.qemu {
        Some(found) => QEMU.ok(
            of,
            format!("{} {}, q35 means {}", found.binary.display(), found.version, found.usual_machine),
        ),
        None => QEMU.failure(of, &facts.qemu_error, "install qemu-system-x86, 7.2 or newer"),
    }
}

fn accel(facts: &HostFacts) -> String {
    format!("{}: {}", if facts.accel.is_empty() { "none" } else { &facts.accel }, facts.accel_why)
}

fn memory(of: &str, facts: &HostFacts) -> Finding {
    let Some((left, of_all)) = facts.memory_left.zip(facts.memory_for_standbys) else {
        return MEMORY.ok(of, format!("{} MiB are available", facts.memory_available >> 20));
    };
    let found = format!("{} of {} MiB are left for standbys", left >> 20, of_all >> 20);
    let remedy = "stop what else runs there, raise [backup] memory, or choose another backup";
    match left {
        0 => MEMORY.failure(of, found, remedy),
        _ if left < LITTLE_MEMORY => MEMORY.warning(of, found, remedy),
        _ if of_all > facts.memory_available.saturating_add(of_all - left) => {
            let found = format!("{found}, but only {} MiB are available", facts.memory_available >> 20);
            MEMORY.warning(
                of,
                found,
                "lower [backup] memory to what the host has, or stop what else runs there",
            )
        }
        _ => MEMORY.ok(of, found),
    }
}

fn clock(of: &str, facts: &HostFacts) -> Finding {
    match facts.clock_kept {
        Some(true) => CLOCK.ok(of, "kept right by a service"),
        Some(false) => {
            let found = "the kernel knows of nothing that keeps it right";
            CLOCK.warning(of, found, "run chrony or another NTP service")
        }
        None => CLOCK.skipped(of, "the kernel does not say whether something keeps it right"),
    }
}

fn disk(of: &str, place: &PlaceStatus) -> Finding {
    let found = format!("{} MiB left for {} ({})", place.free >> 20, place.what, place.path.display());
    let remedy = "free some, or put the directory on a larger file system (state_dir, disk_dir)";
    match place.free {
        free if free < LEAST_DISK => DISK.failure(of, found, remedy),
        free if free < LITTLE_DISK => DISK.warning(of, found, remedy),
        _ => DISK.ok(of, found),
    }
}

fn identity(of: &str, facts: &HostFacts) -> Finding {
    let renew = "make a new one there: `undying host init CONFIG --renew`, and show it to the other hosts";
    match &facts.identity {
        Some(identity) if !identity.valid => IDENTITY.failure(
            of,
            format!("its certificate is not valid now (until {})", identity.until),
            renew,
        ),
        Some(identity) if identity.soon => {
            IDENTITY.warning(of, format!("its certificate is valid until {}", identity.until), renew)
        }
        Some(identity) => IDENTITY.ok(of, format!("its certificate is valid until {}", identity.until)),
        None if facts.identity_error.is_empty() => IDENTITY.skipped(of, "there is no configuration"),
        None => IDENTITY.failure(of, &facts.identity_error, "see what it says"),
    }
}

fn arbiter(of: &str, arbiter: Option<&ArbiterFacts>) -> Finding {
    let Some(arbiter) = arbiter else { return ARBITER.skipped(of, "there is no configuration") };
    let remedy = "see [arbiter] in its configuration, and whether the arbiter runs and is reached from there";
    if !arbiter.identity.ok {
        return ARBITER.failure(of, &arbiter.identity.says, remedy);
    }
    if !arbiter.written.ok {
        return ARBITER.failure(of, format!("it answers, but: {}", arbiter.written.says), remedy);
    }
    ARBITER.ok(of, format!("{}: it answers, {}", arbiter.described, arbiter.written.says))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::facts::{CpuFacts, IdentityFacts, QemuFacts};
    use super::super::finding::Probe;
    use super::*;
    use api::doctor::Verdict;

    fn good() -> Probe {
        Probe { ok: true, says: "good".into() }
    }

    /// A host that is as it should be.
    pub(in super::super) fn sound() -> HostFacts {
        HostFacts {
            version: "0.1.0".into(),
            wire: 5,
            kernel: "6.12.9-amd64".into(),
            kernel_version: (6, 12),
            page_size: 4096,
            rights: good(),
            tracker: good(),
            qemu: Some(QemuFacts {
                binary: "qemu-system-x86_64".into(),
                version: "7.2.22".into(),
                usual_machine: "pc-q35-7.2".into(),
            }),
            cpu: CpuFacts { vendor: "V".into(), model: "M".into(), flags: vec!["avx".into(), "sse".into()] },
            accel: "kvm".into(),
            tap: good(),
            clock_kept: Some(true),
            memory_available: 8 << 30,
            memory_for_standbys: Some(4 << 30),
            memory_left: Some(4 << 30),
            places: vec![PlaceStatus { what: "disk images".into(), path: "/d".into(), free: 100 << 30 }],
            identity: Some(IdentityFacts { until: "2036-01-01".into(), valid: true, soon: false }),
            arbiter: Some(ArbiterFacts {
                described: "directory /a".into(),
                identity: good(),
                written: good(),
            }),
            ..HostFacts::default()
        }
    }

    /// What is not as it should be.
    pub(in super::super) fn amiss(findings: &[Finding]) -> Vec<(&str, Verdict)> {
        let bad = findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
        bad.map(|finding| (finding.check.as_str(), finding.verdict)).collect()
    }

    #[test]
    fn a_sound_host_has_nothing_amiss_and_each_check_says_why_it_matters() {
        let findings = judge("alpha", &sound(), true);
        assert_eq!(amiss(&findings), []);
        assert!(findings.iter().all(|finding| finding.why.ends_with('.') && finding.remedy.is_empty()));
    }

    #[test]
    fn each_thing_that_is_amiss_is_named_alone_with_what_to_do() {
        use Verdict::{Failure, Skipped, Warning};
        type Spoil = fn(&mut HostFacts);
        let cases: [(&str, Verdict, Spoil); 18] = [
            ("rights", Failure, |f| f.rights.ok = false),
            ("kernel", Failure, |f| f.kernel_version = (6, 6)),
            ("write tracker", Failure, |f| f.tracker.ok = false),
            ("QEMU", Failure, |f| f.qemu = None),
            ("TAP", Failure, |f| f.tap.ok = false),
            ("memory", Failure, |f| f.memory_left = Some(0)),
            ("memory", Warning, |f| f.memory_left = Some(100 << 20)),
            ("memory", Warning, |f| f.memory_available = 3 << 30),
            ("disk space", Failure, |f| f.places[0].free = 1 << 20),
            ("disk space", Warning, |f| f.places[0].free = 300 << 20),
            ("time of day", Warning, |f| f.clock_kept = Some(false)),
            ("time of day", Skipped, |f| f.clock_kept = None),
            ("identity", Failure, |f| f.identity.as_mut().unwrap().valid = false),
            ("identity", Warning, |f| f.identity.as_mut().unwrap().soon = true),
            ("identity", Failure, |f| (f.identity, f.identity_error) = (None, "no key".into())),
            ("arbiter", Failure, |f| f.arbiter.as_mut().unwrap().identity.ok = false),
            ("arbiter", Failure, |f| f.arbiter.as_mut().unwrap().written.ok = false),
            ("drain", Failure, |f| f.draining = true),
        ];
        for (check, verdict, spoil) in cases {
            let mut facts = sound();
            spoil(&mut facts);
            let findings = judge("alpha", &facts, true);
            assert_eq!(amiss(&findings), [(check, verdict)]);
            let bad = findings.iter().find(|finding| finding.verdict == verdict).unwrap();
            assert!(verdict == Skipped || !bad.remedy.is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn facts_of_a_host_that_says_nothing_are_failures_and_not_a_panic() {
        let nothing: HostFacts = serde_json::from_str("{}").unwrap();
        let findings = judge("beta", &nothing, true);
        assert!(findings.iter().filter(|finding| finding.verdict == Verdict::Failure).count() >= 5);
    }
}
