//! Owns `undying check`: what this host lacks, and what in a VM file cannot be protected.

use crate::cli::Output;
use crate::failure::{Failure, Kind};
use crate::out;
use os::{facts, tap, tracker};
use qemu::accel::{self, AccelChoice, KvmFacts};
use qemu::install::{DEFAULT_BINARY, Installation};
use qemu::spec::VmSpec;
use serde::Serialize;
use std::path::Path;

/// The oldest kernel with the tracker's system calls.
const KERNEL: (u32, u32) = (6, 7);

/// What a look at one thing said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Good,
    /// Stands in the way of protection.
    Lacking,
    /// Could not be looked at.
    Skipped,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    says: String,
}

/// A finding from something that is good if it succeeds.
fn finding<E: ToString>(what: &'static str, result: Result<String, E>) -> Finding {
    match result {
        Ok(says) => Finding { what, verdict: Verdict::Good, says },
        Err(error) => Finding { what, verdict: Verdict::Lacking, says: error.to_string() },
    }
}

/// Looks at this host and, if there is one, a VM file.
pub fn run(output: Output, spec: Option<&Path>) -> Result<(), Failure> {
    let installation = Installation::probe(Path::new(DEFAULT_BINARY));
    let mut findings = host(&installation);
    if let Some(path) = spec {
        findings.extend(vm(path, installation.as_ref().ok()));
    }
    match output {
        Output::Text => out::line(&text(&findings))?,
        Output::Json => out::json(&findings)?,
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Lacking).count() {
        0 => Ok(()),
        count => {
            let things = if count == 1 { "1 thing stands".into() } else { format!("{count} things stand") };
            Err(Failure::new(Kind::Refused, format!("{things} in the way of protection here")))
        }
    }
}

fn host(installation: &Result<Installation, impl ToString>) -> Vec<Finding> {
    let probed =
        installation.as_ref().map(|found| format!("{} {}", found.binary().display(), found.version()));
    vec![
        finding("user", user()),
        finding("kernel", kernel(facts::kernel_version(), &facts::kernel_release())),
        finding("write tracker", tracker::self_test().map(|report| self_test_text(&report))),
        finding("QEMU", probed.map_err(ToString::to_string)),
        finding("TAP devices", tun()),
        accelerator(&KvmFacts::of_this_host()),
    ]
}

fn user() -> Result<String, &'static str> {
    // Reading another process's memory and making TAPs is root's; its own process tells who we are.
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) if status.lines().any(|line| line.starts_with("Uid:\t0\t0\t")) => Ok("root".into()),
        Ok(_) => Err("not root: run this, and the agent, as root"),
        Err(_) => Err("/proc cannot be read: mount it"),
    }
}

fn kernel(version: (u32, u32), release: &str) -> Result<String, String> {
    if version >= KERNEL {
        return Ok(release.into());
    }
    let (major, minor) = KERNEL;
    Err(format!("Linux {release} cannot track writes from outside; boot {major}.{minor} or newer"))
}

fn self_test_text(report: &tracker::SelfTestReport) -> String {
    format!("finds every write in: {}", report.cases.join(", "))
}

fn tun() -> Result<String, String> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/net/tun");
    opened.map(|_| "/dev/net/tun opens".into()).map_err(|error| {
        format!(
            "/dev/net/tun does not open: {error}; load the module `tun`, or give this container the device"
        )
    })
}

/// KVM is no need: without it VMs run under TCG.
fn accelerator(facts: &KvmFacts) -> Finding {
    let says = match accel::choose(AccelChoice::Auto, facts) {
        Ok((accel, why)) => format!("accel = \"auto\" means {accel}: {why}"),
        Err(error) => error.to_string(),
    };
    Finding { what: "accelerator", verdict: Verdict::Good, says }
}

fn vm(path: &Path, installation: Option<&Installation>) -> Vec<Finding> {
    let spec = match VmSpec::load(path) {
        Ok(spec) => spec,
        Err(error) => return vec![finding("VM file", Err(error))],
    };
    let mut findings = vec![finding("VM file", Ok::<_, String>(format!("VM {}", spec.name)))];
    if let Err(refusals) = spec.check_protectable() {
        findings.extend(refusals.iter().map(|refusal| finding("VM file", Err(refusal))));
    }
    findings.extend(spec.files().into_iter().map(|(what, path)| {
        let opened = std::fs::File::open(&path).map(|_| format!("{what} {}", path.display()));
        finding("file", opened.map_err(|error| format!("{what} {} does not open: {error}", path.display())))
    }));
    findings.extend(spec.nics.iter().map(|nic| finding("bridge", bridge(&nic.bridge))));
    findings.push(match installation {
        Some(installation) => finding("machine", resolved(installation, spec)),
        None => {
            Finding { what: "machine", verdict: Verdict::Skipped, says: "there is no QEMU to ask".into() }
        }
    });
    findings
}

fn bridge(name: &str) -> Result<String, String> {
    match tap::is_bridge(name) {
        Ok(true) => Ok(name.into()),
        Ok(false) => {
            Err(format!("{name} is no bridge of this host: make it, or name another in the VM file"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn resolved(installation: &Installation, spec: VmSpec) -> Result<String, qemu::install::InstallError> {
    let resolved = installation.resolve(spec)?;
    Ok(format!(
        "{}, {} ({}), -cpu {}",
        resolved.machine, resolved.accel, resolved.accel_why, resolved.cpu_model
    ))
}

fn text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Lacking => "LACKING",
            Verdict::Skipped => "skipped",
        };
        format!("{verdict:<8} {:<14} {}", finding.what, finding.says)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_lacking_and_says_which_would_do() {
        assert!(kernel((6, 7), "6.7.0").is_ok() && kernel((7, 0), "7.0").is_ok());
        let error = kernel((6, 1), "6.1.0-amd64").unwrap_err();
        assert!(error.contains("6.1.0-amd64") && error.contains("6.7"), "{error}");
    }

    #[test]
    fn a_vm_file_that_cannot_be_read_is_the_only_finding() {
        let findings = vm(Path::new("/nonexistent/web.toml"), None);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Lacking);
        assert!(text(&findings).starts_with("LACKING  VM file"), "{}", text(&findings));
    }

    #[test]
    fn everything_that_stands_in_the_way_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.toml");
        let file = "name = 'web'\nmemory = '64MiB'\nfirmware = 'none.bin'\nextra_args = ['-hda', 'disk.img']\n\
                    [[nic]]\nbridge = 'nobridge0'\n";
        std::fs::write(&path, file).unwrap();
        let lacking = |findings: &[Finding]| {
            let lacking = findings.iter().filter(|finding| finding.verdict == Verdict::Lacking);
            lacking.map(|finding| finding.says.clone()).collect::<Vec<_>>().join("\n")
        };
        let says = lacking(&vm(&path, None));
        for thing in ["hda", "none.bin", "nobridge0"] {
            assert!(says.contains(thing), "{thing}: {says}");
        }
    }
}
