//! `undying doctor` on real pairs of hosts: what is sound is found sound, and each thing that is not is named, with what to do.

use crate::kit::{Setup, binary, look, possible};
use api::doctor::{Finding, Verdict};
use api::types::DoctorReport;
use lab::cluster::Cluster;
use lab::topology::AGENT;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the command line on a host: its exit code, what it found, what it said on standard error.
fn doctor(cluster: &Cluster, host: &str, arguments: &[&str]) -> (i32, Vec<Finding>, String) {
    let mut command = Command::new(binary());
    command.arg("--socket").arg(cluster.socket(host)).args(["--output", "json", "doctor"]).args(arguments);
    let output = cluster.lab.host(host).expect("the host").run(|| command.output()).expect("entered");
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: DoctorReport = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it ends"), report.findings, said)
}

/// What a check said whose finding has this text in it.
fn verdict(findings: &[Finding], check: &str, says: &str) -> Verdict {
    let mut all = findings.iter().filter(|finding| finding.check == check && finding.found.contains(says));
    let found = all.next().unwrap_or_else(|| panic!("no `{check}` with `{says}` in {findings:#?}"));
    let amiss = matches!(found.verdict, Verdict::Failure | Verdict::Warning);
    assert!(!found.why.is_empty() && amiss != found.remedy.is_empty(), "{found:?}");
    found.verdict
}

/// Failures, each with the host or hosts that it is of.
fn failures(findings: &[Finding]) -> Vec<String> {
    let failures = findings.iter().filter(|finding| finding.verdict == Verdict::Failure);
    failures.map(|finding| format!("{}: {}: {}", finding.of, finding.check, finding.found)).collect()
}

/// Alpha's doctor finds just this amiss with beta, and fails.
fn fails(cluster: &Cluster, check: &str, says: &str) -> Vec<Finding> {
    let (code, findings, said) = doctor(cluster, "alpha", &["--peer", "beta", "--bandwidth", "never"]);
    assert_eq!(verdict(&findings, check, says), Verdict::Failure);
    assert!(code == 4 && said.contains("in the way of protection"), "exit {code}: {said}");
    findings
}

/// Beta's agent is started anew, with something changed in its configuration.
fn reconfigure(cluster: &Cluster, change: impl FnOnce(String) -> String) {
    let path = cluster.config("beta");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    std::fs::write(&path, change(text)).expect("written");
    cluster.lab.kill("beta", AGENT).expect("the agent ends");
    cluster.start_agent("beta").expect("a new agent");
}

/// A host's agent is started anew, and knows nothing of what its arbiter once said.
fn forget(cluster: &Cluster, host: &str) {
    cluster.lab.kill(host, AGENT).expect("the agent ends");
    std::fs::remove_dir_all(cluster.lab.directory().join(host).join("arbiter")).expect("removed");
    cluster.start_agent(host).expect("a new agent");
}

/// A small file system on a directory, until it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn on(directory: &Path, size: &str) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(directory);
        lab::command::run(&mut mount).expect("mounted");
        Self(directory.to_path_buf())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = lab::command::run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn a_sound_pair_is_found_sound_and_a_narrow_way_is_named() {
    if !possible() {
        return;
    }
    let cluster = Setup::new("doctor").on_two(&["alpha", "beta"]).cluster();
    for host in ["alpha", "beta"] {
        cluster.lab.cut_packets(host).expect("short packets");
    }
    let (_, findings, _) = doctor(&cluster, "alpha", &["--peer", "beta"]);
    for check in
        ["QEMU alike", "versions", "same arbiter", "clocks", "processors alike", "write tracker", "TAP"]
    {
        assert_eq!(verdict(&findings, check, ""), Verdict::Ok, "{check}");
    }
    for network in ["10.77.0.2:7400", "10.79.0.2:7400"] {
        assert_eq!(verdict(&findings, "link", network), Verdict::Ok);
        assert_eq!(verdict(&findings, "packet size", network), Verdict::Ok);
        // How fast it is, is not this test's business; that it was measured is.
        assert_ne!(verdict(&findings, "bandwidth", network), Verdict::Skipped);
        assert_ne!(verdict(&findings, "round trip", network), Verdict::Skipped);
    }
    // A guest's firmware or a slow machine are no failures of the pair.
    let of_the_pair = |finding: &&String| !finding.contains("bandwidth") && !finding.contains("round trip");
    assert_eq!(failures(&findings).iter().filter(of_the_pair).count(), 0, "{:?}", failures(&findings));

    // One end is smaller: TCP copes, a warning.
    let beta = cluster.lab.host("beta").expect("the host");
    let ip = |arguments: &str| {
        let mut ip = Command::new("ip");
        ip.args(["-netns", beta.name()]).args(arguments.split(' '));
        lab::command::run(&mut ip).expect("set");
    };
    ip("link set repl0 mtu 1400");
    let (_, findings, _) = doctor(&cluster, "alpha", &["--peer", "beta", "--bandwidth", "never"]);
    assert_eq!(verdict(&findings, "packet size", "MTU 1400 there"), Verdict::Warning);
    assert_eq!(verdict(&findings, "packet size", "10.79.0.2:7400"), Verdict::Ok);
    assert_eq!(verdict(&findings, "bandwidth", "not asked for"), Verdict::Skipped);
    ip("link set repl0 mtu 1500");
    // A switch between them swallows what is long.
    cluster.lab.narrow_link("beta", 1_300).expect("narrow");
    let findings = fails(&cluster, "packet size", "short packets arrive and long ones do not");
    assert_eq!(verdict(&findings, "packet size", "10.79.0.2:7400"), Verdict::Ok, "the other way is sound");
    look::assert_no_panic(&cluster);
}

#[test]
fn a_peer_that_is_away_or_does_not_trust_or_has_another_arbiter_or_no_qemu_is_named() {
    if !possible() {
        return;
    }
    let cluster = Setup::new("docpair").cluster();
    // A copy of the arbiter says that it is the same one.
    let (arbiter, other) = (cluster.arbiter(), cluster.lab.directory().join("other"));
    lab::command::run(Command::new("cp").arg("-a").arg(&arbiter).arg(&other)).expect("a copy");
    reconfigure(&cluster, |text| text.replace(&format!("{arbiter:?}"), &format!("{other:?}")));
    fails(&cluster, "same arbiter", "they look at different records");
    std::fs::remove_dir_all(&other).expect("removed");
    let findings = fails(&cluster, "same arbiter", "the other host cannot use");
    assert_eq!(verdict(&findings, "arbiter", "it answers"), Verdict::Ok, "alpha does");
    std::fs::create_dir(&other).expect("made");
    arbiter::directory::init(&other).expect("an arbiter");
    forget(&cluster, "beta");
    fails(&cluster, "same arbiter", "they are not the same one");
    reconfigure(&cluster, |text| text.replace(&format!("{other:?}"), &format!("{arbiter:?}")));
    forget(&cluster, "beta");

    let trusted = cluster.lab.directory().join("beta/trusted/alpha.pem");
    let certificate = std::fs::read(&trusted).expect("there");
    std::fs::remove_file(&trusted).expect("removed");
    fails(&cluster, "link", "does not trust this host's certificate");
    std::fs::write(&trusted, certificate).expect("written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&trusted, private).expect("its owner's alone");

    cluster.lab.kill("beta", AGENT).expect("the agent ends");
    fails(&cluster, "link", "refused");
    let mut agent = Command::new(binary());
    agent.arg("host").arg("--config").arg(cluster.config("beta")).env("PATH", "/nonexistent");
    cluster.lab.start("beta", AGENT, &mut agent).expect("an agent without QEMU");
    cluster.wait_agent("beta").expect("it answers");
    let findings = fails(&cluster, "QEMU alike", "one of them has no QEMU");
    assert!(failures(&findings).iter().any(|failure| failure.starts_with("beta: QEMU")), "{findings:#?}");
    let (code, findings, _) = doctor(&cluster, "alpha", &["--peer", "nobody"]);
    assert_eq!((code, verdict(&findings, "link", "not among the peers")), (4, Verdict::Failure));
    look::assert_no_panic(&cluster);
}

#[test]
fn a_backup_without_room_on_its_disk_is_named_before_it_is_needed() {
    if !possible() {
        return;
    }
    let cluster = Setup::new("docdisk").cluster();
    cluster.make_disk("alpha", "web.img", 64).expect("a disk image");
    let _small = Tmpfs::on(&cluster.lab.directory().join("beta/disks"), "8m");
    let firmware = cluster.lab.directory().join("firmware.bin");
    std::fs::write(&firmware, [0; 64 << 10]).expect("written");
    let file = cluster.lab.directory().join("web.toml");
    let text = "name = 'web'\nmemory = '64MiB'\naccel = 'tcg'\nfirmware = 'firmware.bin'\n[[disk]]\nimage = 'web.img'\n\
                [[nic]]\nbridge = 'br0'\n";
    std::fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let (code, findings, _) = doctor(&cluster, "alpha", &["--peer", "beta", "--vm", &file]);
    assert_eq!(code, 4);
    assert_eq!(verdict(&findings, "room for the VM", "file system"), Verdict::Failure);
    assert_eq!(verdict(&findings, "disk space", "beta/disks"), Verdict::Failure);
    assert_eq!(verdict(&findings, "VM alike", "the same machine"), Verdict::Ok);
    assert_eq!(verdict(&findings, "bridges", "br0: there, and up"), Verdict::Ok);
    // Where there is no such bridge and another firmware the VM could not go on.
    let beta = cluster.lab.host("beta").expect("the host");
    let mut ip = Command::new("ip");
    lab::command::run(ip.args(["-netns", beta.name(), "link", "delete", "br0"])).expect("gone");
    let (_, findings, _) = doctor(&cluster, "alpha", &["--peer", "beta", "--vm", &file]);
    let failed = failures(&findings);
    assert!(failed.iter().any(|failure| failure.starts_with("beta: bridges: br0")), "{failed:?}");
    look::assert_no_panic(&cluster);
}

/// What a command says to people, on a host.
fn told(cluster: &Cluster, host: &str, line: &str) -> String {
    let mut command = Command::new(binary());
    command.arg("--socket").arg(cluster.socket(host)).args(line.split(' '));
    cluster.lab.host(host).expect("the host").output(&mut command).expect("it succeeds")
}

#[test]
fn a_protected_vm_is_not_disturbed_and_after_a_failover_the_story_is_told() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("docvm").on_two(&["alpha", "beta"]).start();
    let cluster = &loaded.cluster;
    let (_, findings, _) = doctor(cluster, "alpha", &["--peer", "beta", "--vm", "web"]);
    assert_eq!(verdict(&findings, "bandwidth", "for the sake of VM web"), Verdict::Skipped);
    assert_eq!(verdict(&findings, "VM alike", ""), Verdict::Ok);
    assert_eq!(verdict(&findings, "room for the VM", ""), Verdict::Ok);
    loaded.progress();
    assert_eq!((loaded.status("alpha").phase.as_str(), loaded.status("alpha").term), ("protected", 1));

    let status = told(cluster, "beta", "host status");
    for part in [
        "to alpha for VM web (backup, armed) over 10.77.0.1",
        "to alpha for VM web (backup, armed) over 10.79.0.1",
        "of memory left for standbys",
        "VM web stands by here with",
        "left for disk images",
    ] {
        assert!(status.contains(part), "`{part}` is not in:\n{status}");
    }
    let mark = look::mark(cluster, "beta");
    loaded.fails_over("alpha", "beta");
    let story = told(cluster, "beta", &format!("events --after {mark}"));
    let parts = [
        "primary alpha LOST: nothing was heard",
        "this host asks the arbiter whether it may take over",
        "the arbiter GRANTED term 2 to this host",
        "ms after it noticed",
        "RUNS HERE in term 2",
        "ms after this host noticed that it had to",
    ];
    let mut rest = story.as_str();
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("`{part}` is not in its place:\n{story}"));
        rest = &rest[at..];
    }
    let status = told(cluster, "beta", "vm status web");
    assert!(status.contains("lately") && status.contains("GRANTED term 2"), "{status}");
    loaded.verdict();
}
