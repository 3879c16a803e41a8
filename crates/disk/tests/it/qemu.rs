//! Stock QEMU with a disk on an export: what its own `stop` asks of the disk.

use crate::support::{Fixture, has};
use disk::{FlushUse, Observer, Pace};
use protocol::What;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

struct AtOnce;

impl Observer for AtOnce {
    fn written(&self, _: u64, _: What<'_>) -> Pace {
        Pace::Full
    }

    fn flush(&self) -> FlushUse {
        FlushUse::AnswerAtOnce
    }
}

/// A QEMU whose guest has nothing to do, and its QMP.
struct Qemu {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Qemu {
    fn start(fixture: &Fixture) -> Self {
        let server = format!("server.type=unix,server.path={}", fixture.socket().display());
        let disk = format!("driver=nbd,node-name=disk,export=vda,{server}");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S"]);
        command.args(["-qmp", "stdio", "-blockdev", &disk, "-device", "virtio-blk-pci,drive=disk"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut qemu = Self { process, to, from: BufReader::new(from) };
        qemu.ask(r#"{"execute":"qmp_capabilities"}"#);
        qemu
    }

    fn ask(&mut self, command: &str) {
        // In one piece: QEMU carries out "quit" at its last brace, and would not take the end of the line any more.
        self.to.write_all(format!("{command}\n").as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "QEMU is gone");
            assert!(!line.contains(r#""error""#), "{command}: {line}");
            if line.contains(r#""return""#) {
                return;
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn stops_flush_the_disk_and_need_not_wait_for_the_medium() {
    if !has("qemu-system-x86_64", "qemu-system-x86") {
        return;
    }
    let fixture = Fixture::observed(64 << 20, Arc::new(AtOnce));
    let mut qemu = Qemu::start(&fixture);
    let before = fixture.export().stats();
    for _ in 0..20 {
        qemu.ask(r#"{"execute":"cont"}"#);
        qemu.ask(r#"{"execute":"stop"}"#);
    }
    let after = fixture.export().stats();
    println!("20 times stop and cont: {} flushes", after.flushes - before.flushes);
    assert!(after.flushes >= before.flushes + 20, "QEMU flushes no more at stop: {after:?}");
    assert_eq!(after.syncs, before.syncs);
    // A disk of the agent's must not keep QEMU from ending, nor the other way round.
    qemu.ask(r#"{"execute":"quit"}"#);
    assert!(qemu.process.wait().unwrap().success());
    assert_eq!(fixture.export().stats().errors, 0);
}
