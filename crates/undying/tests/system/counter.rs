//! A bare-metal guest that counts on its serial line: what was released has neither a gap nor a repetition.

use crate::kit::{INTERVAL, binary, look, possible, wait_for};
use lab::cluster::{Cluster, VmFile};
use lab::guest::cache::Cache;
use lab::guest::counter::{self, Line};
use protocol::VmName;

/// The committed console at a host.
fn released(cluster: &Cluster, host: &str, vm: &VmName) -> String {
    let bytes = std::fs::read(cluster.console(host, vm)).unwrap_or_default();
    String::from_utf8(bytes).expect("the counter speaks ASCII")
}

/// Whole lines only: the last may be half released.
fn lines(text: &str) -> Vec<&str> {
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text[..end].lines().collect()
}

fn number(line: &str) -> Option<u32> {
    match counter::parse_line(line) {
        Some(Line::Number(number)) => Some(number),
        Some(Line::Bad(number)) => panic!("the guest's memory was not whole at {number}"),
        Some(Line::Start) | None => None,
    }
}

fn wait_count(cluster: &Cluster, host: &str, vm: &VmName, more: usize) {
    let count = || lines(&released(cluster, host, vm)).len();
    let wanted = count() + more;
    wait_for("more numbers", || (count() >= wanted).then_some(()), || look::logs(cluster));
}

fn counts_on(tag: &str, accel: &str, delay: u32) {
    let firmware = counter::firmware(&Cache::open().expect("cache"), delay).expect("the counter guest");
    let mut file = VmFile::firmware(&firmware, "counter", accel).expect("a VM file");
    if accel == "kvm" {
        // A KVM that emulates in software knows not all that the processor has.
        file.toml.push_str("cpu_model = \"qemu64\"\n");
    }
    let cluster = Cluster::start(tag, binary(), &["alpha", "beta"], "").expect("a cluster");
    cluster.start_vm("alpha", &file).expect("the VM starts");
    wait_count(&cluster, "alpha", &file.name, 20);
    cluster.protect(&file.name, "alpha", "beta", INTERVAL).expect("protected");
    wait_count(&cluster, "alpha", &file.name, 100);
    cluster.lab.kill_host("alpha").expect("alpha dies");
    cluster.wait_primary("beta", &file.name, &["unprotected"]).expect("beta takes over");
    wait_count(&cluster, "beta", &file.name, 100);
    check(&released(&cluster, "alpha", &file.name), &released(&cluster, "beta", &file.name));
    look::assert_no_panic(&cluster);
}

/// Alpha's log is the stream from its beginning, beta's from where protection began.
fn check(alpha: &str, beta: &str) {
    let alpha_lines = lines(alpha);
    assert_eq!(counter::parse_line(alpha_lines[0]), Some(Line::Start));
    let joint = beta.find('\n').expect("lines") + 1;
    let first = lines(&beta[joint..])[0];
    let at = alpha.find(&format!("\n{first}")).unwrap_or_else(|| panic!("{first} is not in alpha's log")) + 1;
    assert!(
        beta[joint..].starts_with(&alpha[at..]),
        "what alpha released is not the beginning of what beta has: {:?} and {:?}",
        lab::command::tail(alpha, 3),
        lab::command::tail(beta, 3),
    );
    assert!(beta.len() - joint > alpha.len() - at, "beta's guest said nothing new");
    let stream = format!("{}{}", &alpha[..at], &beta[joint..]);
    let numbers: Vec<u32> = lines(&stream)[1..].iter().map(|line| number(line).expect(line)).collect();
    let expected: Vec<u32> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "a number was skipped or said twice");
}

#[test]
fn it_counts_on_under_tcg() {
    if possible() {
        counts_on("count", "tcg", counter::DELAY_TCG);
    }
}

#[test]
fn it_counts_on_under_kvm() {
    if !possible() {
        return;
    }
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("SKIPPED: /dev/kvm does not open");
        return;
    }
    counts_on("countkvm", "kvm", counter::DELAY_SOFTWARE_KVM);
}
