//! The binary as a person runs it, against an agent's API with an engine without machines behind it.

#![forbid(unsafe_code)]

#[path = "../../host/tests/support/mod.rs"]
mod support;

use api::types::ErrorCode;
use host::control::server::{ServerHandle, serve};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use support::{Fake, host_name, status, vm_name};

struct Room {
    directory: tempfile::TempDir,
    fake: Arc<Fake>,
    server: ServerHandle,
}

/// An agent; None, said loudly, for whom the API does not serve.
fn room() -> Option<Room> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the API answers root only");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::new());
    let server = serve(&directory.path().join("agent.sock"), fake.clone()).unwrap();
    Some(Room { directory, fake, server })
}

impl Room {
    fn command(&self, line: &str) -> Command {
        let mut command = undying(line);
        command.env("UNDYING_SOCKET", self.server.path());
        command
    }

    /// Runs a command line to its end: exit code, standard output, standard error.
    fn run(&self, line: &str) -> (i32, String, String) {
        told(self.command(line).output().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn undying(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undying"));
    command.args(line.split_whitespace()).env_remove("UNDYING_SOCKET").stdin(Stdio::null());
    command
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A child that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn vms_are_listed_and_shown_to_people_and_to_programs() {
    let Some(room) = room() else { return };
    let (code, text, _) = room.run("vm list");
    assert_eq!(code, 0);
    assert!(text.lines().nth(1).unwrap().starts_with("web   primary  unprotected"), "{text}");
    let (_, text, _) = room.run("vm status web");
    assert!(text.contains("pc-q35-7.2, 2 cpus, 512 MiB") && text.contains("no vmx or svm"), "{text}");
    let (_, json, _) = room.run("vm status web --output json");
    let one: api::types::VmStatus = serde_json::from_str(&json).unwrap();
    assert_eq!((one.name, one.term), (vm_name("web"), 7));
    let (_, json, _) = room.run("vm status --output json");
    assert_eq!(serde_json::from_str::<Vec<api::types::VmStatus>>(&json).unwrap().len(), 1);
}

#[test]
fn protecting_waits_until_the_backup_can_take_over() {
    let Some(room) = room() else { return };
    let (code, text, progress) = room.run("vm protect web --to beta --interval 10ms --max-in-flight 2");
    assert_eq!((code, text.as_str()), (0, "VM web is protected by host beta\n"), "{progress}");
    assert!(progress.contains("round 1: 100 MiB sent, 300 MiB to go"), "{progress}");
    assert_eq!(room.fake.calls(), ["protect to=beta us=10000 max=Some(2)"]);
    let (code, text, _) = room.run("vm failover web --no-wait --output json");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn protecting_without_waiting_returns_in_the_middle() {
    let Some(room) = room() else { return };
    let (code, json, _) = room.run("vm protect web --to beta --no-wait --output json");
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["phase"], "copying");
}

#[test]
fn a_protection_that_fails_is_a_failure() {
    let Some(room) = room() else { return };
    room.fake.let_protection_fail();
    let (code, text, error) = room.run("vm protect web --to beta");
    assert_eq!((code, text.as_str()), (1, ""), "{error}");
    assert!(error.contains("the backup is full"), "{error}");
}

#[test]
fn a_migration_is_over_when_the_vm_is_gone_from_here() {
    let Some(room) = room() else { return };
    let (code, _, error) = room.run("vm migrate web --to nowhere");
    assert!(code == 4 && error.contains("being migrated to beta"), "exit {code}, {error}");
    let (code, _, error) = room.run("vm migrate web --cancel");
    assert!(code == 4 && error.contains("not being migrated"), "exit {code}, {error}");
    let (code, json, error) = room.run("vm migrate web --to beta --rate-ceiling 1MiB --output json");
    assert_eq!(code, 0, "{error}");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&value["done"], &value["to"]), (&serde_json::json!("migrate"), &serde_json::json!("beta")));
    let expected =
        ["migrate to=nowhere ceiling=None", "cancel_migration", "migrate to=beta ceiling=Some(1048576)"];
    assert_eq!(room.fake.calls(), expected);
}

#[test]
fn every_way_to_fail_has_its_exit_code_and_says_why() {
    let Some(room) = room() else { return };
    let bad = room.file("bad.toml", "bad");
    let boom = room.file("boom.toml", "boom");
    for (line, code, says) in [
        (format!("vm start {}", boom.display()), 1, "QEMU died"),
        (format!("vm start {}", bad.display()), 2, "nmae"),
        ("vm start /nonexistent.toml".into(), 2, "/nonexistent.toml"),
        ("host --config /nonexistent.toml".into(), 2, "/nonexistent.toml"),
        ("vm status".into(), 0, ""),
        ("vm stop".into(), 2, "NAME"),
        ("--socket /nonexistent.sock vm list".into(), 3, "undying host --config FILE"),
        ("vm failover web".into(), 4, "protect it first"),
        ("vm protect web --to nobody".into(), 4, "not among the peers"),
        ("vm status ghost".into(), 5, "no VM ghost"),
        ("vm stop ghost".into(), 5, "no VM ghost"),
    ] {
        let (found, _, error) = room.run(&line);
        assert!(found == code && error.contains(says), "{line}: exit {found}, {error}");
    }
    let (_, _, error) = room.run("vm stop ghost --output json");
    let error: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["code"], serde_json::to_value(ErrorCode::NotFound).unwrap());
}

#[test]
fn a_vm_file_is_sent_with_the_folder_it_lies_in() {
    let Some(room) = room() else { return };
    let path = room.file("db.toml", "name = 'db'");
    let folder = path.parent().unwrap();
    let (code, ..) =
        told(room.command("vm start db.toml --last-owner-is-dead").current_dir(folder).output().unwrap());
    assert_eq!(code, 0);
    assert_eq!(room.fake.calls(), [format!("start in {} dead=true", folder.display())]);
    assert_eq!(status("db").host, host_name("alpha"));
}

#[test]
fn a_stopped_vm_is_gone() {
    let Some(room) = room() else { return };
    assert_eq!(room.run("vm stop web").1, "VM web is stopped\n");
    assert_eq!(room.run("vm list").1, "no VMs here\n");
}

#[test]
fn events_are_followed_as_they_happen() {
    let Some(room) = room() else { return };
    room.fake.happen("web", "first");
    let child = room.command("events --follow --output json").stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"first\""));
    room.fake.happen("web", "second");
    assert!(lines.next().unwrap().unwrap().contains("\"second\""));
    drop(room.server);
    assert!(child.0.wait().unwrap().success(), "following ends with the agent");
    assert!(lines.next().is_none());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let Some(room) = room() else { return };
    let mut command = room.command("vm status web --watch --output json");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with('{'), "one object a line");
    drop(lines);
    assert!(child.0.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(child.0.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn checkpoints_are_listed_with_their_pauses() {
    let Some(room) = room() else { return };
    let (_, text, _) = room.run("vm epochs web --since-at-us 1700000000050000");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("2023-11-14 22:13:20.050  1.800"), "{text}");
}

#[test]
fn an_arbiter_is_made_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let run = |line: String| told(undying(&line).output().unwrap());
    let (code, _, error) = run(format!("arbiter show {path}"));
    assert!(code == 1 && error.contains("arbiter init"), "a directory is no arbiter yet: {error}");
    assert_eq!(run(format!("arbiter init {path}")).0, 0);
    let claim =
        protocol::Claim { vm: vm_name("web"), term: protocol::Term(1), host: host_name("alpha"), nonce: 1 };
    let arbiter = arbiter::directory::DirectoryArbiter::new(directory.path());
    arbiter::Arbiter::claim(&arbiter, &claim).unwrap();
    let (_, text, _) = run(format!("arbiter show {path}"));
    assert_eq!(text, "VM   TERM  OWNER  STATE\nweb  1     alpha  owned\n");
    assert_eq!(run(format!("arbiter show {path} ghost")).0, 5);
}

#[test]
fn an_arbiter_is_named_by_a_configuration_too() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("witness.toml");
    let state = place.path().join("state");
    let text = format!(
        "name = 'gamma'\nstate_dir = {state:?}\napi_socket = '/s'\n[witness]\nlisten = '127.0.0.1:0'\n"
    );
    std::fs::write(&config, text).unwrap();
    let run = |line: String| told(undying(&line).output().unwrap());
    let line = |verb: &str| format!("arbiter {verb} {}", config.display());
    let (code, _, error) = run(line("show"));
    assert!(code == 1 && error.contains("witness"), "it has no records yet: {code} {error}");
    let (code, text, _) = run(line("init"));
    assert!(code == 0 && text.contains("is arbiter"), "{text}");
    assert_eq!(run(line("init")).1, text, "twice changes nothing");
    let (code, text, _) = run(line("show"));
    assert_eq!((code, &*text), (0, "VM  TERM  OWNER  STATE\n"));
    let wrong = place.path().join("wrong.toml");
    std::fs::write(&wrong, "name = 'x'\n").unwrap();
    assert_eq!(run(format!("arbiter init {}", wrong.display())).0, 2);
}

/// Hosts alpha and beta, as far as the command line is concerned.
fn two_hosts(place: &std::path::Path) -> [PathBuf; 2] {
    ["alpha", "beta"].map(|host| {
        let (config, state) = (place.join(format!("{host}.toml")), place.join(host));
        let socket = place.join(format!("{host}.sock"));
        let text = format!(
            "name = '{host}'\nlisten = '127.0.0.1:0'\nstate_dir = {state:?}\napi_socket = {socket:?}\n[arbiter]\ndirectory = '/nowhere'\n"
        );
        std::fs::write(&config, text).unwrap();
        config
    })
}

fn run_line(line: &str) -> (i32, String, String) {
    told(undying(line).output().unwrap())
}

#[test]
fn hosts_get_identities_and_trust_each_other() {
    let place = tempfile::tempdir().unwrap();
    let [alpha, beta] = two_hosts(place.path()).map(|path| path.display().to_string());
    let (code, text, error) = run_line(&format!("host init {beta} --days 100 --output json"));
    assert_eq!(code, 0, "{error}");
    let made: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (file, sha256) = (made["file"].as_str().unwrap(), made["sha256"].as_str().unwrap());
    assert!(sha256.len() == 95 && made["host"] == "beta", "{text}");
    let (code, _, error) = run_line(&format!("host init {beta}"));
    assert!(code == 4 && error.contains("--renew") && error.contains(sha256), "{code} {error}");
    assert_eq!(run_line(&format!("host init {alpha}")).0, 0);

    let (code, text, _) = run_line(&format!("host trust {alpha} beta {file}"));
    assert!(code == 0 && text.contains(sha256) && text.contains("Compare"), "{text}");
    let (code, _, error) = run_line(&format!("host trust {alpha} gamma {file}"));
    assert!(code == 2 && error.contains("of host beta, not of gamma"), "{code} {error}");
    let (code, _, error) = run_line(&format!("host trust {alpha} beta {alpha}"));
    assert!(code == 2 && error.contains("certificate"), "{code} {error}");
    assert_eq!(run_line(&format!("host trust {beta} beta {file}")).0, 2, "a host is not its own peer");
    let (code, text, _) = run_line(&format!("host identities {alpha}"));
    assert!(code == 0 && text.contains("own") && text.contains(sha256), "{text}");

    let (code, text, _) = run_line(&format!("host distrust {alpha} beta"));
    assert!(code == 0 && text.contains(sha256), "{text}");
    assert_eq!(run_line(&format!("host distrust {alpha} beta")).0, 4, "there is none left");
    let (code, _, error) = run_line(&format!("host trust {alpha} beta {file}"));
    assert!(code == 4 && error.contains("revoked"), "{code} {error}");
    let (_, text, _) = run_line(&format!("host identities {alpha} --output json"));
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&all["revoked"][0], &all["trusted"]), (&made["sha256"], &serde_json::json!([])));
    // The next identity, by both its names.
    assert_eq!(run_line(&format!("host init {beta} --switch")).0, 4, "there is none yet");
    let (code, text, _) = run_line(&format!("host init {beta} --renew"));
    assert!(code == 0 && text.contains("next-certificate.pem") && text.contains("--switch"), "{text}");
    let (code, text, _) = run_line(&format!("host init {beta} --switch"));
    assert!(code == 0 && !text.contains(sha256), "{text}");
}

#[test]
fn an_agent_without_an_identity_or_with_one_that_others_may_read_does_not_start() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let [alpha, _] = two_hosts(place.path());
    let agent = format!("host --config {}", alpha.display());
    let (code, _, error) = run_line(&agent);
    assert!(code == 1 && error.contains("undying host init"), "{code} {error}");
    assert_eq!(run_line(&format!("host init {}", alpha.display())).0, 0);
    let key = place.path().join("alpha/identity/host.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, error) = run_line(&agent);
    assert!(code == 1 && error.contains(&format!("chmod 600 {}", key.display())), "{code} {error}");
    assert!(!place.path().join("alpha.sock").exists(), "it never came so far");
}

#[test]
fn completions_and_help_come_without_an_agent() {
    let (code, text, _) = told(undying("completions bash").output().unwrap());
    assert!(code == 0 && text.contains("unprotect"));
    let (code, text, _) = told(undying("--help").output().unwrap());
    assert!(code == 0 && text.contains("Exit codes:") && text.contains("3  no agent answers"), "{text}");
}

#[test]
fn the_doctor_asks_the_agent_and_fails_if_something_stands_in_the_way() {
    let Some(room) = room() else { return };
    let (code, text, _) = room.run("doctor");
    assert!(code == 0 && text.contains("ok       alpha link  good"), "{text}");
    let (code, text, _) = room.run("doctor --peer beta --bandwidth never");
    assert!(
        code == 0 && text.contains("why: It must be there.") && text.contains("do:  use another"),
        "{text}"
    );
    let (code, json, error) = room.run("doctor --peer nobody --output json");
    assert!(code == 4 && error.contains("1 thing stands in the way"), "exit {code}, {error}");
    let report: api::types::DoctorReport = serde_json::from_str(&json).unwrap();
    assert_eq!(report.findings[0].verdict, api::doctor::Verdict::Failure);
    assert_eq!(room.fake.calls()[1], "doctor peer=Some(HostName(\"beta\")) bandwidth=Never");
}

#[test]
fn the_doctor_looks_at_a_host_without_an_agent() {
    let place = tempfile::tempdir().unwrap();
    let [alpha, _] = two_hosts(place.path()).map(|path| path.display().to_string());
    let file = place.path().join("web.toml");
    let text = "name = 'web'\nmemory = '64MiB'\nfirmware = 'none.bin'\nextra_args = ['-hda', 'disk.img']\n\
                [[nic]]\nbridge = 'nobridge0'\n";
    std::fs::write(&file, text).unwrap();
    let line = format!("--socket /nonexistent.sock doctor --config {alpha} --vm {}", file.display());
    let (code, json, error) = run_line(&format!("{line} --output json"));
    assert!(code == 4 && error.contains("in the way"), "exit {code}, {error}");
    let report: api::types::DoctorReport = serde_json::from_str(&json).unwrap();
    let failures: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict == api::doctor::Verdict::Failure)
        .map(|finding| format!("{}: {}", finding.check, finding.found))
        .collect();
    let failures = failures.join("\n");
    for thing in ["hda", "/nowhere", "host init"] {
        assert!(failures.contains(thing), "{thing} is not in:\n{failures}");
    }
    assert!(report.findings.iter().all(|finding| finding.of == "alpha"), "{json}");
    let (code, text, _) = run_line(&format!("{line} --peer beta"));
    assert!(code == 4 && text.contains("host beta cannot be asked: no agent answers"), "exit {code}, {text}");
    let (code, _, error) = run_line("--socket /nonexistent.sock doctor --config /nonexistent.toml --vm web");
    assert!(code == 3 && error.contains("or name its file"), "exit {code}, {error}");
}
