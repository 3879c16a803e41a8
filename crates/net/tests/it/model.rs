//! The gate against a model of output commit, over random sequences of everything that can happen to it.

use crate::bench::{Nic, PATIENCE, console, frame, framed, nic};
use net::{Gate, GateError, GateLimits, Mode, PortConfig};
use proptest::prelude::*;
use protocol::Epoch;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;

const NICS: usize = 2;

#[derive(Debug, Clone)]
enum Op {
    /// The guest sends a frame of so many bytes; the last `kept` bytes only before the next frame or by `Finish`.
    Frame {
        nic: usize,
        len: usize,
        kept: usize,
    },
    Finish {
        nic: usize,
    },
    Console {
        len: usize,
    },
    /// Cuts the epoch so many after the last.
    Cut {
        step: u64,
    },
    /// Cuts an epoch that is not after the last.
    BadCut {
        back: u64,
    },
    /// Releases up to this many epochs below (or a few above) the last one cut.
    Release {
        below: u64,
        above: u64,
    },
    Hold,
    Open,
    Discard,
}

fn op() -> impl Strategy<Value = Op> {
    let kept = prop_oneof![3 => Just(0usize), 1 => 1usize..20];
    prop_oneof![
        40 => (0..NICS, 0usize..300, kept).prop_map(|(nic, len, kept)| Op::Frame { nic, len, kept }),
        6 => (0..NICS).prop_map(|nic| Op::Finish { nic }),
        12 => (1usize..100).prop_map(|len| Op::Console { len }),
        20 => (1u64..4).prop_map(|step| Op::Cut { step }),
        3 => (0u64..3).prop_map(|back| Op::BadCut { back }),
        15 => (0u64..6, 0u64..3).prop_map(|(below, above)| Op::Release { below, above }),
        4 => Just(Op::Hold),
        4 => Just(Op::Open),
        1 => Just(Op::Discard),
    ]
}

/// One piece of output and the epoch it was cut in, if any.
type Held = (Option<Epoch>, Vec<u8>);

/// What the gate should do, in the plainest way.
struct Model {
    mode: Mode,
    last_cut: Option<Epoch>,
    held: [Vec<Held>; NICS],
    released: [Vec<Vec<u8>>; NICS],
    held_console: Vec<(Option<Epoch>, u8)>,
    released_console: Vec<u8>,
}

impl Model {
    fn frame(&mut self, nic: usize, frame: Vec<u8>) {
        match self.mode {
            Mode::Holding => self.held[nic].push((None, frame)),
            Mode::Open => self.released[nic].push(frame),
            Mode::Fenced => {}
        }
    }

    fn console(&mut self, bytes: &[u8]) {
        match self.mode {
            Mode::Holding => self.held_console.extend(bytes.iter().map(|&b| (None, b))),
            Mode::Open => self.released_console.extend(bytes),
            Mode::Fenced => {}
        }
    }

    /// Frames and bytes in the epoch, and the console's offset and bytes.
    fn cut(&mut self, epoch: Epoch) -> (usize, usize, u64, Vec<u8>) {
        self.last_cut = Some(epoch);
        let (mut frames, mut bytes) = (0, 0);
        for (of, frame) in self.held.iter_mut().flatten().filter(|(of, _)| of.is_none()) {
            *of = Some(epoch);
            frames += 1;
            bytes += frame.len();
        }
        let before = self.held_console.iter().filter(|(of, _)| of.is_some()).count();
        let offset = (self.released_console.len() + before) as u64;
        let new = self.held_console.iter_mut().filter(|(of, _)| of.is_none());
        let said = new.map(|(of, byte)| (*of = Some(epoch), *byte).1).collect();
        (frames, bytes, offset, said)
    }

    fn release(&mut self, may_go: impl Fn(Option<Epoch>) -> bool) {
        for nic in 0..NICS {
            let (go, stay) = self.held[nic].drain(..).partition(|(of, _)| may_go(*of));
            self.held[nic] = stay;
            self.released[nic].extend::<Vec<_>>(Vec::<Held>::into_iter(go).map(|(_, f)| f).collect());
        }
        let (go, stay): (Vec<_>, Vec<_>) = self.held_console.drain(..).partition(|(of, _)| may_go(*of));
        self.held_console = stay;
        self.released_console.extend(go.into_iter().map(|(_, byte)| byte));
    }

    fn uncut(&mut self) {
        self.last_cut = None;
        self.held.iter_mut().flatten().for_each(|held| held.0 = None);
        self.held_console.iter_mut().for_each(|held| held.0 = None);
    }
}

struct World {
    gate: Gate,
    nics: Vec<Nic>,
    /// The end of a frame that the guest has not written yet, and the frame.
    kept: [Option<(Vec<u8>, Vec<u8>)>; NICS],
    console: UnixStream,
    sink: Receiver<(u64, Vec<u8>)>,
    got: [Vec<Vec<u8>>; NICS],
    got_console: Vec<u8>,
    model: Model,
    counter: u8,
}

impl World {
    fn new() -> Self {
        let (ports, nics): (Vec<PortConfig>, Vec<Nic>) = (0..NICS).map(|n| nic(&format!("net{n}"))).unzip();
        let (console_port, console, sink) = console("console", 0);
        let ports = ports.into_iter().chain([console_port]).collect();
        let (gate, _events) = Gate::spawn("model", ports, GateLimits::default()).unwrap();
        let model = Model {
            mode: Mode::Holding,
            last_cut: None,
            held: Default::default(),
            released: Default::default(),
            held_console: Vec::new(),
            released_console: Vec::new(),
        };
        let (kept, got, got_console) = Default::default();
        Self { gate, nics, kept, console, sink, got, got_console, model, counter: 0 }
    }

    fn finish(&mut self, nic: usize) {
        if let Some((rest, frame)) = self.kept[nic].take() {
            self.nics[nic].guest.write_all(&rest).unwrap();
            self.model.frame(nic, frame);
        }
    }

    /// An open gate passes on its own thread: waits until what should have passed did, so that the next step
    /// finds a known state.
    fn settle(&mut self) {
        if self.model.mode != Mode::Open {
            return;
        }
        for nic in 0..NICS {
            while self.got[nic].len() < self.model.released[nic].len() {
                self.got[nic].extend(self.nics[nic].world_gets());
            }
        }
        while self.got_console.len() < self.model.released_console.len() {
            let (offset, bytes) = self.sink.recv_timeout(PATIENCE).expect("console bytes did not come");
            assert_eq!(offset, self.got_console.len() as u64, "the console's offset");
            self.got_console.extend(bytes);
        }
    }

    /// What is out now is exactly what may be out.
    fn check(&mut self) {
        self.settle();
        for nic in 0..NICS {
            self.got[nic].extend(self.nics[nic].world_has());
            assert_eq!(self.got[nic], self.model.released[nic], "frames of NIC {nic} that are out");
        }
        self.take_console();
        assert!(self.model.released_console.starts_with(&self.got_console), "console bytes came too early");
    }

    fn take_console(&mut self) {
        while let Ok((offset, bytes)) = self.sink.try_recv() {
            assert_eq!(offset, self.got_console.len() as u64, "the console's offset");
            self.got_console.extend(bytes);
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Frame { nic, len, kept } => self.send(nic, len, kept),
            Op::Finish { nic } => self.finish(nic),
            Op::Console { len } => {
                self.counter = self.counter.wrapping_add(1);
                let bytes = vec![self.counter; len];
                self.console.write_all(&bytes).unwrap();
                self.model.console(&bytes);
            }
            Op::Cut { step } => self.cut(Epoch(self.model.last_cut.map_or(0, |e| e.0) + step)),
            Op::BadCut { back } => {
                let Some(last) = self.model.last_cut else { return };
                let result = self.gate.cut(Epoch(last.0.saturating_sub(back)));
                assert!(result.is_err(), "an epoch was cut twice");
            }
            Op::Release { below, above } => {
                let last = self.model.last_cut.map_or(0, |e| e.0);
                self.release(Epoch((last + above).saturating_sub(below)));
            }
            Op::Hold => {
                self.settle();
                self.expect(self.gate.hold());
                if self.model.mode != Mode::Fenced {
                    self.model.mode = Mode::Holding;
                    self.model.uncut();
                }
            }
            Op::Open => {
                self.expect(self.gate.open());
                if self.model.mode != Mode::Fenced {
                    self.model.release(|_| true);
                    self.model.mode = Mode::Open;
                    self.model.last_cut = None;
                }
            }
            Op::Discard => {
                self.settle();
                self.gate.discard();
                self.model.mode = Mode::Fenced;
                // Committed console bytes may be on their way already, to a sink that is busy with them: they still
                // come, or do not; nothing else does.
            }
        }
    }

    fn expect<T: std::fmt::Debug>(&self, result: Result<T, GateError>) {
        let fenced = matches!(result, Err(GateError::Fenced { .. }));
        assert_eq!(fenced, self.model.mode == Mode::Fenced, "{result:?}");
        assert!(fenced || result.is_ok(), "{result:?}");
    }

    fn send(&mut self, nic: usize, len: usize, kept: usize) {
        self.finish(nic);
        self.counter = self.counter.wrapping_add(1);
        let frame = frame(&vec![self.counter; len]);
        let mut bytes = framed(&frame);
        let rest = bytes.split_off(bytes.len() - kept.min(bytes.len()));
        self.nics[nic].guest.write_all(&bytes).unwrap();
        if rest.is_empty() {
            self.model.frame(nic, frame);
        } else {
            self.kept[nic] = Some((rest, frame));
        }
    }

    fn cut(&mut self, epoch: Epoch) {
        let result = self.gate.cut(epoch);
        match self.model.mode {
            Mode::Fenced => assert!(matches!(result, Err(GateError::Fenced { .. })), "{result:?}"),
            Mode::Open => assert!(matches!(result, Err(GateError::NotHolding)), "{result:?}"),
            Mode::Holding => {
                let report = result.unwrap();
                let (frames, bytes, offset, said) = self.model.cut(epoch);
                assert_eq!((report.epoch, report.frames, report.bytes), (epoch, frames, bytes));
                assert_eq!((report.consoles[0].offset, &report.consoles[0].bytes), (offset, &said));
            }
        }
    }

    fn release(&mut self, up_to: Epoch) {
        self.expect(self.gate.release(up_to));
        if self.model.mode == Mode::Holding {
            self.model.release(|of| of.is_some_and(|epoch| epoch <= up_to));
        }
    }

    /// Ends the gate: what is out then is all that ever will be.
    fn end(mut self) {
        self.check();
        let Self { gate, nics, sink, mut got, mut got_console, model, .. } = self;
        drop(gate);
        for nic in 0..NICS {
            got[nic].extend(std::iter::from_fn(|| nics[nic].world_gets()));
            assert_eq!(got[nic], model.released[nic], "all frames of NIC {nic}");
        }
        got_console.extend(sink.iter().flat_map(|(_, bytes)| bytes));
        if model.mode == Mode::Fenced {
            assert!(model.released_console.starts_with(&got_console), "console bytes that were not released");
        } else {
            assert_eq!(got_console, model.released_console, "all console bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_time: 60_000, ..ProptestConfig::default() })]

    #[test]
    fn output_is_exactly_that_of_released_epochs(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
            world.check();
        }
        world.end();
    }
}
