//! gdb's protocol as it goes over the wire.

use crate::debug::timeline;
use crate::guest::{FIRST, NOTE, session};
use rvrun::debug::{Left, serve};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// A debugger that says what it is told to.
struct Gdb(TcpStream);

impl Gdb {
    fn ask(&mut self, packet: &str) -> String {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}").unwrap();
        let mut byte = [0];
        let mut next = |from: &mut TcpStream| {
            from.read_exact(&mut byte).unwrap();
            byte[0]
        };
        // What is before the answer acknowledges the question.
        while next(&mut self.0) != b'$' {}
        let mut answer: Vec<u8> = Vec::new();
        loop {
            match next(&mut self.0) {
                b'#' => break,
                // The byte before, so many times more.
                b'*' => {
                    let (again, times) = (answer[answer.len() - 1], next(&mut self.0) - 29);
                    answer.extend(std::iter::repeat_n(again, times.into()));
                }
                byte => answer.push(byte),
            }
        }
        let _checksum = [next(&mut self.0), next(&mut self.0)];
        self.0.write_all(b"+").unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// A number of 64 bits, as it lies in memory.
    fn number(&mut self, packet: &str) -> u64 {
        let text = self.ask(packet);
        u64::from_str_radix(&text, 16).unwrap_or_else(|_| panic!("{packet}: {text}")).swap_bytes()
    }

    fn pc(&mut self) -> u64 {
        self.number("p20")
    }
}

#[test]
fn a_debugger_goes_on_and_back_looks_at_everything_and_changes_nothing() {
    let session = session(&[(1, "ab"), (3, ".")]);
    let timeline = timeline(&session, 100, 1 << 30);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let asker = std::thread::spawn(move || converse(Gdb(TcpStream::connect(address).unwrap())));
    let (timeline, left) = serve(listener.accept().unwrap().0, timeline).unwrap();
    asker.join().unwrap();
    assert_eq!(left, Left::GoOn);
    // What it wrote, and that it looked, changed nothing.
    let summary = timeline.finish().unwrap();
    assert_eq!((summary.state, summary.outputs), (session.summary.state, session.summary.outputs));
}

fn converse(mut gdb: Gdb) {
    let supported = gdb.ask("qSupported:swbreak+;hwbreak+");
    assert!(supported.contains("ReverseStep+") && supported.contains("ReverseContinue+"), "{supported}");
    let mut described = String::new();
    loop {
        // `m` before a piece says that there is more.
        let piece = gdb.ask(&format!("qXfer:features:read:target.xml:{:x},800", described.len()));
        described.push_str(&piece[1..]);
        if piece.starts_with('l') {
            break;
        }
    }
    assert!(described.contains("riscv:rv64") && described.contains("\"satp\""), "{described}");
    assert_eq!(gdb.pc(), FIRST - 0x40);
    // The jump over the image's header, and back.
    assert!(["S05", "T05"].contains(&&gdb.ask("s")[..3]));
    assert_eq!(gdb.pc(), FIRST);
    assert!(["S05", "T05"].contains(&&gdb.ask("bs")[..3]));
    assert_eq!(gdb.pc(), FIRST - 0x40);
    assert_eq!(gdb.number(&format!("m{:x},8", FIRST - 0x40)) as u32, 0x0400_006f);
    // A watch: 'b' was said, then 'c', then nothing until the end.
    let note = format!("{NOTE:x}");
    assert_eq!(gdb.ask(&format!("Z2,{note},8")), "OK");
    for byte in *b"bc" {
        let stopped = gdb.ask("c");
        assert!(stopped.contains(&format!("watch:{note}")), "{stopped}");
        assert_eq!(gdb.number(&format!("m{note},8")), byte.into());
    }
    let ended = gdb.ask("c");
    assert!(ended.contains("replaylog:end"), "{ended}");
    // Back to where it was not said yet; and a breakpoint, farther back.
    assert!(gdb.ask("bc").contains("watch"));
    assert_eq!(gdb.number(&format!("m{note},8")), b'b'.into());
    assert_eq!(gdb.ask(&format!("z2,{note},8")), "OK");
    assert_eq!(gdb.ask(&format!("Z0,{FIRST:x},4")), "OK");
    let stopped = gdb.ask("bc");
    assert!(stopped.contains("swbreak"), "{stopped}");
    assert_eq!((gdb.pc(), gdb.number(&format!("m{note},8"))), (FIRST, 0));
    let begun = gdb.ask("bc");
    assert!(begun.contains("replaylog:begin"), "{begun}");
    // The kernel's mode, its table of pages, where nothing is, and nothing to be written.
    assert_eq!(gdb.ask("p1041"), "01");
    assert_eq!(gdb.number("p1c1") >> 60, 0);
    assert!(gdb.ask("m0,8").starts_with('E'));
    assert!(gdb.ask(&format!("M{note},1:00")).starts_with('E'));
    assert!(gdb.ask("P5=0100000000000000").starts_with('E'));
    assert_eq!(gdb.ask("D"), "OK");
}
