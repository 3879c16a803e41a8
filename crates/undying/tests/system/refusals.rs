//! What cannot be protected is refused, with what, why and what to do; the VM goes on as before.

use crate::kit::{Loaded, Setup, binary, look, possible, possible_in_qemu};
use lab::cluster::VmFile;
use lab::topology::AGENT;
use std::process::Command;

/// Protection by beta is accepted and comes to nothing, for this reason.
fn comes_to_nothing(loaded: &Loaded, reasons: &[&str]) {
    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.ask_protect("alpha", "beta").expect("accepted");
    let failed = look::event(&loaded.cluster, "alpha", "protect_failed", mark);
    for reason in reasons {
        assert!(failed.text.contains(reason), "`{reason}` is not in: {}", failed.text);
    }
    let status = loaded.runs_at("alpha");
    assert_eq!((status.term, status.peer), (1, None));
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("nothing is left at beta");
}

#[test]
fn a_writable_disk_is_refused_before_anything_starts() {
    if !possible_in_qemu("arguments for QEMU") {
        return;
    }
    let setup = Setup::new("disk");
    let (cluster, file) = (setup.cluster(), setup.vm_file());
    let disk = cluster.lab.directory().join("disk.img");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file");
    let argument =
        format!("extra_args = [\"-drive\", \"file={},format=raw,if=virtio\"]\n[[nic]]", disk.display());
    let with_disk = VmFile { toml: file.toml.replace("[[nic]]", &argument), ..file.clone() };
    let error = cluster.start_vm("alpha", &with_disk).expect_err("refused").to_string();
    for word in ["disk", "cannot be protected", "read-only=on"] {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
    assert!(look::status(&cluster, "alpha", &file.name).is_none());
    // A bridge that this host does not have.
    let no_bridge = VmFile { toml: file.toml.replace("br0", "br7"), ..file.clone() };
    let error = cluster.start_vm("alpha", &no_bridge).expect_err("refused").to_string();
    assert!(error.contains("no bridge br7"), "{error}");
    // The refusals left no record: the VM starts anywhere.
    cluster.start_vm("beta", &file).expect("it starts");
}

#[test]
fn a_backup_that_is_not_alike_is_refused() {
    if !possible() {
        return;
    }
    let setup = Setup::new("alike");
    let (cluster, mut file) = (setup.cluster(), setup.vm_file());
    // A kernel of this test's own, which beta shall see differently.
    let kernel = cluster.lab.directory().join("vmlinuz");
    let place = file
        .toml
        .lines()
        .find_map(|line| line.strip_prefix("kernel = "))
        .expect("a kernel")
        .trim_matches('"')
        .to_owned();
    std::fs::copy(&place, &kernel).expect("a copy");
    file.toml = file.toml.replace(&place, &kernel.display().to_string());
    let loaded = setup.boot_file_on(cluster, file).load("log");
    let beta = loaded.cluster.lab.host("beta").expect("beta");

    let unknown = loaded.ask_protect("alpha", "gamma").expect_err("refused").to_string();
    assert!(unknown.contains("gamma is not among this host's peers (beta)"), "{unknown}");
    let itself = loaded.ask_protect("alpha", "alpha").expect_err("refused").to_string();
    assert!(itself.contains("by alpha, where it runs"), "{itself}");

    beta.output(Command::new("ip").args(["link", "delete", "br0"])).expect("the bridge goes");
    comes_to_nothing(&loaded, &["no bridge br0", "ip link add br0 type bridge"]);
    beta.output(Command::new("ip").args(["link", "add", "br0", "type", "bridge"])).expect("it comes back");

    // Beta's agent in a mount namespace of its own, where another file lies over the kernel.
    let other = loaded.cluster.lab.directory().join("other");
    let mut bytes = std::fs::read(&kernel).expect("the kernel");
    let last = bytes.last_mut().expect("bytes");
    *last = last.wrapping_add(1);
    std::fs::write(&other, bytes).expect("another kernel");
    loaded.cluster.lab.kill("beta", AGENT).expect("the agent ends");
    let script = "mount --bind \"$1\" \"$2\" && exec \"$3\" host --config \"$4\"";
    let mut agent = Command::new("unshare");
    agent.args(["--mount", "sh", "-c", script, "sh"]).args([&other, &kernel]).arg(binary());
    agent.arg(loaded.cluster.config("beta"));
    loaded.cluster.lab.start("beta", AGENT, &mut agent).expect("an agent");
    loaded.cluster.wait_agent("beta").expect("it answers");
    comes_to_nothing(&loaded, &["not alike", "kernel"]);

    loaded.cluster.lab.kill("beta", AGENT).expect("the agent ends");
    loaded.cluster.start_agent("beta").expect("a new agent");
    loaded.protect("alpha", "beta");
    loaded.verdict();
}
