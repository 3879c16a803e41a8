//! Owns `undying doctor`: what stands in the way of protection at this host, at another one, and between the two.

use crate::cli::{Cli, Output};
use crate::doctor::DoctorArgs;
use crate::failure::{Failure, Kind};
use crate::out;
use api::client::{Client, ClientError};
use api::doctor::{Finding, Verdict};
use api::types::{DoctorReport, DoctorRequest, DoctorVm};
use host::doctor::{self, Check};
use protocol::VmName;
use std::path::Path;

const AGENT: Check = Check {
    name: "agent",
    why: "It protects the VMs of this host, and only it can ask the agent of another one.",
};

/// Looks, shows what was found, and fails if something stands in the way.
pub fn run(cli: &Cli, args: &DoctorArgs) -> Result<(), Failure> {
    let request = DoctorRequest {
        peer: args.peer.clone(),
        vm: args.vm.as_deref().map(vm).transpose()?,
        bandwidth: args.bandwidth.into(),
    };
    let report = match Client::new(&cli.socket)?.doctor(&request) {
        Err(error @ ClientError::NoAgent { .. }) => alone(args, &request, &error)?,
        answered => answered?,
    };
    match cli.output {
        Output::Text => out::line(&text(&report.findings))?,
        Output::Json => out::json(&report)?,
    }
    match count(&report.findings, Verdict::Failure) {
        0 => Ok(()),
        many => {
            let things = if many == 1 { "1 thing stands".into() } else { format!("{many} things stand") };
            Err(Failure::new(Kind::Refused, format!("{things} in the way of protection")))
        }
    }
}

/// A file if there is one, or it is written as a path; else the name of a VM.
fn vm(named: &str) -> Result<DoctorVm, Failure> {
    let path = Path::new(named);
    let is_path = named.contains('/') || named.ends_with(".toml") || path.is_file();
    match VmName::new(named) {
        Ok(name) if !is_path => Ok(DoctorVm::Running(name)),
        _ => {
            let (text, folder) = super::vm::read_file(path)?;
            Ok(DoctorVm::File { text, folder })
        }
    }
}

/// No agent answers: this host is looked at as far as that goes without one.
fn alone(args: &DoctorArgs, request: &DoctorRequest, error: &ClientError) -> Result<DoctorReport, Failure> {
    let vm = match &request.vm {
        None => None,
        Some(DoctorVm::File { text, folder }) => Some((text.as_str(), folder.as_path())),
        Some(DoctorVm::Running(name)) => {
            let message = format!("VM {name} cannot be looked at: {error}; or name its file");
            return Err(Failure::new(Kind::NoAgent, message));
        }
    };
    let mut report = doctor::without_agent(&args.config, vm);
    let of = report.findings.first().map_or("this host".into(), |finding| finding.of.clone());
    let start = "start it: `undying host --config FILE`";
    report.findings.push(match &request.peer {
        None => AGENT.warning(&of, error, start),
        Some(peer) => AGENT.failure(&of, format!("host {peer} cannot be asked: {error}"), start),
    });
    Ok(report)
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

/// A line for each check; below those that are amiss why it matters and what to do.
fn text(findings: &[Finding]) -> String {
    let wide = |cell: fn(&Finding) -> &str, head: usize| {
        findings.iter().map(|finding| cell(finding).chars().count()).max().unwrap_or(0).max(head)
    };
    let (of, check) = (wide(|finding| &finding.of, 2), wide(|finding| &finding.check, 5));
    let mut lines = vec![format!("{:<8} {:<of$} {:<check$} {}", "STATE", "OF", "CHECK", "FOUND")];
    for finding in findings {
        let state = word(finding.verdict);
        lines.push(format!("{state:<8} {:<of$} {:<check$} {}", finding.of, finding.check, finding.found));
        if matches!(finding.verdict, Verdict::Warning | Verdict::Failure) {
            lines.push(format!("{:<9}why: {}", "", finding.why));
            lines.push(format!("{:<9}do:  {}", "", finding.remedy));
        }
    }
    let counted = [Verdict::Failure, Verdict::Warning, Verdict::Skipped, Verdict::Ok]
        .map(|verdict| format!("{}: {}", word(verdict).to_lowercase(), count(findings, verdict)));
    lines.push(counted.join(", "));
    lines.join("\n")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Skipped => "skipped",
        Verdict::Warning => "WARNING",
        Verdict::Failure => "FAILURE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_amiss_says_why_and_what_to_do_and_what_is_not_takes_a_line() {
        let check = Check { name: "clocks", why: "They tell." };
        let findings = [check.ok("alpha", "right"), check.warning("alpha, beta", "1 s apart", "run chrony")];
        let expected = "\
STATE    OF          CHECK  FOUND
ok       alpha       clocks right
WARNING  alpha, beta clocks 1 s apart
         why: They tell.
         do:  run chrony
failure: 0, warning: 1, skipped: 0, ok: 1";
        assert_eq!(text(&findings), expected);
    }

    #[test]
    fn a_vm_is_a_file_if_it_is_written_as_one() {
        assert_eq!(vm("web").unwrap(), DoctorVm::Running(VmName::new("web").unwrap()));
        for file in ["web.toml", "./web", "/nonexistent/web"] {
            let Err(Failure::Said(Kind::Invalid, why)) = vm(file) else { panic!("{file} is read") };
            assert!(why.contains(file), "{why}");
        }
    }
}
