//! Trust between real agents: who is refused, how both sides tell it, and what becomes of a VM when trust ends.

use crate::kit::{Guest, Loaded, Setup, binary, look, possible};
use lab::cluster::Cluster;
use lab::topology::AGENT;
use protocol::HostName;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use trust::{Identity, Lifetime};

fn name(host: &str) -> HostName {
    HostName::new(host).expect("a name")
}

fn file(cluster: &Cluster, host: &str, path: &str) -> PathBuf {
    cluster.lab.directory().join(host).join(path)
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its owner's alone");
}

/// A command about a host's identity, as its operator gives it.
fn order(cluster: &Cluster, line: &[&str], host: &str, rest: &[&str]) {
    let mut command = Command::new(binary());
    lab::command::run(command.arg("host").args(line).arg(cluster.config(host)).args(rest))
        .expect("it is done");
}

/// The reason of the next refusal that a host tells.
fn refusal(cluster: &Cluster, host: &str, after: u64) -> (String, String) {
    let event = look::event(cluster, host, "peer_refused", after);
    (event.what["reason"].as_str().expect("a reason").to_owned(), event.text)
}

/// Protection by beta is accepted and comes to nothing; alpha says so, beta tells this reason.
fn refused(guest: &Guest, at_beta: &str, at_alpha: &str) {
    let marks = ["alpha", "beta"].map(|host| look::mark(&guest.cluster, host));
    guest.ask_protect("alpha", "beta").expect("accepted");
    let failed = look::event(&guest.cluster, "alpha", "protect_failed", marks[0]);
    assert!(failed.text.contains(at_alpha), "`{at_alpha}` is not in: {}", failed.text);
    let (reason, text) = refusal(&guest.cluster, "beta", marks[1]);
    assert_eq!(reason, at_beta, "{text}");
    assert_eq!(guest.is_at("alpha").term, 1, "the VM runs on as it did");
    assert!(look::status(&guest.cluster, "beta", &guest.vm).is_none(), "beta has nothing of it");
}

#[test]
fn unknown_expired_early_and_revoked_hosts_are_refused_on_both_sides() {
    if !possible() {
        return;
    }
    let guest = Setup::new("who").boot();
    let cluster = &guest.cluster;
    let (own, known) =
        (file(cluster, "alpha", "identity/host.pem"), file(cluster, "beta", "trusted/alpha.pem"));
    let [identity, trusted] = [&own, &known].map(|path| std::fs::read_to_string(path).expect("there"));
    let mark = look::mark(cluster, "alpha");

    std::fs::remove_file(&known).expect("removed");
    refused(&guest, "unknown", "does not trust this host's certificate");
    assert_eq!(refusal(cluster, "alpha", mark).0, "unknown_there");
    for (from, until, reason) in [(-7_200, -3_600, "expired"), (3_600, 7_200, "not_yet_valid")] {
        let other = Identity::make(&name("alpha"), Lifetime::between(from, until)).expect("made");
        write(&own, &other.to_pem());
        write(&known, &other.certificate().pem());
        refused(&guest, reason, "not valid by its clock");
    }
    write(&own, &identity);
    write(&known, &trusted);
    // The other way round: the host that is called is not the one it should be.
    let beta = file(cluster, "alpha", "trusted/beta.pem");
    let of_beta = std::fs::read_to_string(&beta).expect("there");
    std::fs::remove_file(&beta).expect("removed");
    refused(&guest, "unknown_there", "is not trusted here");
    write(&beta, &of_beta);
    order(cluster, &["distrust"], "beta", &["alpha"]);
    refused(&guest, "revoked", "was revoked there");
    // A new identity is as good as the old one was.
    order(cluster, &["init"], "alpha", &["--renew"]);
    order(cluster, &["init"], "alpha", &["--switch"]);
    let certificate = file(cluster, "alpha", "identity/certificate.pem");
    order(cluster, &["trust"], "beta", &["alpha", &certificate.display().to_string()]);
    let loaded = guest.load("log");
    loaded.protect("alpha", "beta");
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

/// Whichever host takes its trust back while a session runs, the VM goes on where it is, unprotected, and nothing is lost.
fn revoked_in_the_middle(loaded: &Loaded, at: &str, of: &str) {
    let cluster = &loaded.cluster;
    let marks = ["alpha", "beta"].map(|host| look::mark(cluster, host));
    let term = loaded.status("alpha").term;
    order(cluster, &["distrust"], at, &[of]);
    let lost = look::event(cluster, "alpha", "backup_lost", marks[0]);
    assert!(lost.text.contains("is not trusted any more"), "{}", lost.text);
    look::event(cluster, at, "peer_distrusted", if at == "alpha" { marks[0] } else { marks[1] });
    let status = loaded.runs_at("alpha");
    assert_eq!((status.phase.as_str(), status.term), ("unprotected", term + 1));
    cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    assert!(!look::has_event(cluster, "beta", "promoting", marks[1]));
    loaded.progress();
}

#[test]
fn a_revocation_ends_the_session_and_the_vm_goes_on() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("revoke").start();
    revoked_in_the_middle(&loaded, "alpha", "beta");
    order(&loaded.cluster, &["init"], "beta", &["--renew"]);
    order(&loaded.cluster, &["init"], "beta", &["--switch"]);
    let certificate = file(&loaded.cluster, "beta", "identity/certificate.pem");
    order(&loaded.cluster, &["trust"], "alpha", &["beta", &certificate.display().to_string()]);
    loaded.protect("alpha", "beta");
    revoked_in_the_middle(&loaded, "beta", "alpha");
    loaded.verdict();
}

#[test]
fn a_vm_is_not_taken_from_a_peer_that_was_not_given_it_nor_given_to_one() {
    if !possible() {
        return;
    }
    let setup = Setup::new("given");
    let cluster = setup.cluster();
    only(&cluster, "beta", "alpha", "['other']");
    let guest = setup.boot_on(cluster);
    refused(&guest, "vm_not_given", "VM web is not given to host alpha in the configuration of host beta");
    guest.cluster.ask("alpha", |api| api.stop(&guest.vm)).expect("it stops");
    guest.cluster.wait_gone("alpha", &guest.vm).expect("it ends");

    let setup = Setup::new("give");
    let cluster = setup.cluster();
    only(&cluster, "alpha", "beta", "[]");
    let guest = setup.boot_on(cluster);
    let error = guest.ask_protect("alpha", "beta").expect_err("refused").to_string();
    assert!(error.contains("VM web is not given to host beta"), "{error}");
}

/// From now on a host gives a peer these VMs only; its agent is started anew.
fn only(cluster: &Cluster, host: &str, peer: &str, vms: &str) {
    let path = cluster.config(host);
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let address = cluster.replication_socket(peer).expect("an address");
    let (old, new) = (
        format!("{peer} = \"{address}\"\n"),
        format!("{peer} = {{ address = \"{address}\", vms = {vms} }}\n"),
    );
    assert!(text.contains(&old), "{text}");
    std::fs::write(&path, text.replace(&old, &new)).expect("written");
    cluster.lab.kill(host, AGENT).expect("the agent ends");
    cluster.start_agent(host).expect("a new agent");
}

#[test]
fn a_foreign_client_of_tls_is_refused() {
    if !possible() {
        return;
    }
    if !Path::new("/usr/bin/openssl").exists() {
        eprintln!("SKIPPED: this test needs the Debian package openssl");
        return;
    }
    let cluster = Setup::new("ossl").cluster();
    let target = cluster.replication_socket("alpha").expect("an address").to_string();
    let beta = cluster.lab.host("beta").expect("the host");
    for (arguments, reason) in
        [(&["-tls1_3", "-alpn", "undying-replication"][..], "no_certificate"), (&["-tls1_2"], "no_host")]
    {
        let mut client = Command::new("/usr/bin/openssl");
        client.args(["s_client", "-connect", &target]).args(arguments).stdin(Stdio::null());
        // It says of itself whether it was happy; what counts is what the agent says.
        let _ = beta.output(&mut client);
        let until = std::time::Instant::now() + crate::kit::PATIENCE;
        let told = || {
            let events = cluster.ask("alpha", |api| api.events(0)).expect("the agent answers");
            events.iter().any(|event| event.what["event"] == "peer_refused" && event.what["reason"] == reason)
        };
        while !told() {
            assert!(std::time::Instant::now() < until, "no event with {reason}\n{}", look::logs(&cluster));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
