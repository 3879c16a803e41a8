//! Owns the comparison of two hosts by what they know of themselves: pure.

use super::facts::HostFacts;
use super::finding::Check;
use super::vm;
use api::doctor::Finding;

/// Flags of processors that are named; the rest are counted.
const NAMED: usize = 8;

const VERSION: Check = Check {
    name: "versions",
    why: "Hosts replicate to each other only if both speak the same version of the protocol.",
};
const QEMU: Check = Check {
    name: "QEMU alike",
    why: "A guest's device state is loaded by the other host's QEMU, which must be the same: others are refused.",
};
const CPU: Check = Check {
    name: "processors alike",
    why: "A guest that has seen the processor (`-cpu host`, and `max` under TCG) must find the same one after a failover.",
};
const ACCEL: Check = Check {
    name: "accelerators alike",
    why: "A VM with `accel = \"auto\"` takes what its first host has, and its backup must have that too.",
};
const KERNEL: Check = Check {
    name: "kernels alike",
    why: "Under KVM the kernel decides what a guest sees of the processor, and another one may show it something else.",
};
const PAGE: Check = Check { name: "page size", why: "Memory is tracked and sent in pages." };
const ARBITER: Check = Check {
    name: "same arbiter",
    why: "Two hosts with an arbiter each could both be told to go on: two lives of one VM.",
};

/// The tokens that two hosts left for each other at their arbiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// What this host left.
    pub left_here: Result<u64, String>,
    /// What the other host found of it.
    pub found_there: Result<Option<u64>, String>,
    /// What the other host left.
    pub left_there: Result<u64, String>,
    /// What this host found of it.
    pub found_here: Result<Option<u64>, String>,
}

impl Tokens {
    /// Each host found what the other one left.
    #[must_use]
    pub fn agree(&self) -> bool {
        let found = |left: &Result<u64, String>, found: &Result<Option<u64>, String>| matches!((left, found), (Ok(left), Ok(Some(found))) if left == found);
        found(&self.left_here, &self.found_there) && found(&self.left_there, &self.found_here)
    }
}

/// Compares two hosts.
#[must_use]
pub fn compare(of: &str, here: &HostFacts, there: &HostFacts) -> Vec<Finding> {
    let mut findings = vec![versions(of, here, there), qemu(of, here, there), accelerators(of, here, there)];
    findings.push(processors(of, here, there));
    findings.push(kernels(of, here, there));
    if here.page_size == there.page_size {
        findings.push(PAGE.ok(of, format!("{} bytes", here.page_size)));
    } else {
        let found = format!("{} bytes here, {} there", here.page_size, there.page_size);
        findings.push(PAGE.failure(of, found, "use kernels with the same page size"));
    }
    findings.extend(vm::compare(of, here, there));
    findings
}

fn versions(of: &str, here: &HostFacts, there: &HostFacts) -> Finding {
    let one = |facts: &HostFacts| format!("undying {} (protocol {})", facts.version, facts.wire);
    let remedy = "install the same version of undying on both";
    if here.wire != there.wire {
        return VERSION.failure(of, format!("{} here, {} there", one(here), one(there)), remedy);
    }
    if here.version != there.version {
        return VERSION.warning(of, format!("{} here, {} there", one(here), one(there)), remedy);
    }
    VERSION.ok(of, format!("both {}", one(here)))
}

fn qemu(of: &str, here: &HostFacts, there: &HostFacts) -> Finding {
    let (Some(first), Some(second)) = (&here.qemu, &there.qemu) else {
        return QEMU.failure(of, "one of them has no QEMU", "install the same package on both");
    };
    if first.version != second.version {
        let found = format!("{} here, {} there", first.version, second.version);
        return QEMU.failure(of, found, "install the same package on both");
    }
    if first.usual_machine != second.usual_machine {
        let found = format!("q35 means {} here and {} there", first.usual_machine, second.usual_machine);
        return QEMU.failure(of, found, "install the same package on both");
    }
    QEMU.ok(of, format!("both {}", first.version))
}

fn accelerators(of: &str, here: &HostFacts, there: &HostFacts) -> Finding {
    if here.accel == there.accel {
        return ACCEL.ok(of, format!("both {}", here.accel));
    }
    let found =
        format!("{} here ({}), {} there ({})", here.accel, here.accel_why, there.accel, there.accel_why);
    ACCEL.failure(of, found, "say `accel = \"tcg\"` in VM files, or mend KVM where it is missing")
}

fn processors(of: &str, here: &HostFacts, there: &HostFacts) -> Finding {
    let (first, second) = (&here.cpu, &there.cpu);
    if first.flags == second.flags && (first.vendor == second.vendor || here.accel == "tcg") {
        return CPU.ok(of, format!("{}; {} flags, all the same", first.model, first.flags.len()));
    }
    let found = format!(
        "{} here, {} there; only here: {}; only there: {}",
        first.model,
        second.model,
        beyond(&first.flags, &second.flags),
        beyond(&second.flags, &first.flags)
    );
    if here.accel == "tcg" && there.accel == "tcg" {
        let remedy =
            "name a `cpu_model` in VM files, such as qemu64: under TCG it does not depend on the host";
        return CPU.warning(of, found, remedy);
    }
    CPU.failure(of, found, "use hosts with equal processors, or TCG with a named `cpu_model`")
}

/// What the first has and the second has not.
fn beyond(first: &[String], second: &[String]) -> String {
    let more: Vec<_> = first.iter().filter(|flag| !second.contains(flag)).map(String::as_str).collect();
    match more.len() {
        0 => "nothing".into(),
        many if many > NAMED => format!("{} and {} more", more[..NAMED].join(" "), many - NAMED),
        _ => more.join(" "),
    }
}

fn kernels(of: &str, here: &HostFacts, there: &HostFacts) -> Finding {
    if here.kernel == there.kernel {
        return KERNEL.ok(of, format!("both Linux {}", here.kernel));
    }
    let found = format!("Linux {} here, {} there", here.kernel, there.kernel);
    if here.accel == "kvm" {
        return KERNEL.warning(of, found, "boot the same kernel on both");
    }
    KERNEL.ok(of, format!("{found}; under TCG a guest does not see the difference"))
}

/// Whether both hosts reach the very same arbiter: it says that it is the same one to both, and each finds what the other
/// one has just written there.
#[must_use]
pub fn same_arbiter(of: &str, here: &HostFacts, there: &HostFacts, tokens: &Tokens) -> Finding {
    let (Some(first), Some(second)) = (&here.arbiter, &there.arbiter) else {
        return ARBITER.failure(of, "one of them has no arbiter", "see [arbiter] in its configuration");
    };
    let unreached = [("this host", first), ("the other host", second)];
    if let Some((who, arbiter)) = unreached.into_iter().find(|(_, arbiter)| !arbiter.identity.ok) {
        let found = format!("{who} cannot use {}: {}", arbiter.described, arbiter.identity.says);
        return ARBITER.failure(of, found, "see whether it runs, and the network from there to it");
    }
    let remedy = "name the same arbiter in [arbiter] of both configurations; of one that was copied keep the newest only";
    if first.identity.says != second.identity.says {
        let found =
            format!("{} here, {} there, and they are not the same one", first.described, second.described);
        return ARBITER.failure(of, found, remedy);
    }
    let ways = [
        ("the other host", "this host", &tokens.left_here, &tokens.found_there),
        ("this host", "the other host", &tokens.left_there, &tokens.found_here),
    ];
    for (reader, writer, left, found) in ways {
        let wrong = match (left, found) {
            (Ok(left), Ok(Some(found))) if left == found => continue,
            (Err(why), _) => format!("{writer} cannot write there: {why}"),
            (_, Err(why)) => format!("{reader} cannot read there: {why}"),
            _ => format!(
                "{reader} does not find what {writer} has just written: they look at different records"
            ),
        };
        return ARBITER.failure(
            of,
            format!("{} here, {} there: {wrong}", first.described, second.described),
            remedy,
        );
    }
    ARBITER.ok(of, format!("{}; each finds there what the other one wrote", first.described))
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{amiss, sound};
    use super::*;
    use api::doctor::Verdict;

    #[test]
    fn alike_hosts_are_alike() {
        assert_eq!(amiss(&compare("a, b", &sound(), &sound())), []);
    }

    #[test]
    fn each_difference_is_named_alone_in_both_directions() {
        use Verdict::{Failure, Warning};
        type Change = fn(&mut HostFacts);
        let cases: [(&str, Verdict, Change); 9] = [
            ("versions", Failure, |f| f.wire = 6),
            ("versions", Warning, |f| f.version = "0.2.0".into()),
            ("QEMU alike", Failure, |f| f.qemu.as_mut().unwrap().version = "10.0.2".into()),
            ("QEMU alike", Failure, |f| f.qemu.as_mut().unwrap().usual_machine = "pc-q35-7.1".into()),
            ("QEMU alike", Failure, |f| f.qemu = None),
            ("processors alike", Failure, |f| drop(f.cpu.flags.pop())),
            ("processors alike", Failure, |f| f.cpu.vendor = "W".into()),
            ("kernels alike", Warning, |f| f.kernel = "6.18.0".into()),
            ("page size", Failure, |f| f.page_size = 65_536),
        ];
        for (check, verdict, change) in cases {
            let mut other = sound();
            change(&mut other);
            assert_eq!(amiss(&compare("a, b", &sound(), &other)), [(check, verdict)]);
            assert_eq!(amiss(&compare("a, b", &other, &sound())), [(check, verdict)]);
        }
        let mut tcg = sound();
        tcg.accel = "tcg".into();
        assert_eq!(amiss(&compare("a, b", &sound(), &tcg)), [("accelerators alike", Failure)]);
    }

    #[test]
    fn under_tcg_a_processor_is_worth_a_word_and_a_kernel_none() {
        let [mut one, mut other] = [sound(), sound()];
        (one.accel, other.accel) = ("tcg".into(), "tcg".into());
        (other.kernel, other.cpu.flags) = ("6.18.0".into(), vec!["sse".into(); 1]);
        let findings = compare("a, b", &one, &other);
        assert_eq!(amiss(&findings), [("processors alike", Verdict::Warning)]);
        let cpu = findings.iter().find(|finding| finding.check == CPU.name).unwrap();
        assert!(cpu.found.contains("only here: avx; only there: nothing"), "{}", cpu.found);
        assert!(cpu.remedy.contains("cpu_model"));
    }

    fn tokens() -> Tokens {
        Tokens { left_here: Ok(1), found_there: Ok(Some(1)), left_there: Ok(2), found_here: Ok(Some(2)) }
    }

    #[test]
    fn an_arbiter_is_the_same_only_if_each_finds_what_the_other_wrote() {
        let (one, mut other) = (sound(), sound());
        assert_eq!(same_arbiter("a, b", &one, &other, &tokens()).verdict, Verdict::Ok);
        for (says, wrong) in [
            ("different records", Tokens { found_there: Ok(None), ..tokens() }),
            ("different records", Tokens { found_here: Ok(Some(1)), ..tokens() }),
            ("this host cannot write", Tokens { left_here: Err("x".into()), ..tokens() }),
            ("this host cannot read", Tokens { found_here: Err("x".into()), ..tokens() }),
        ] {
            let finding = same_arbiter("a, b", &one, &other, &wrong);
            assert!(finding.verdict == Verdict::Failure && finding.found.contains(says), "{finding:?}");
        }
        other.arbiter.as_mut().unwrap().identity.says = "another".into();
        assert!(same_arbiter("a, b", &one, &other, &tokens()).found.contains("not the same one"));
        other.arbiter.as_mut().unwrap().identity.ok = false;
        assert!(same_arbiter("a, b", &one, &other, &tokens()).found.contains("the other host cannot use"));
    }
}
