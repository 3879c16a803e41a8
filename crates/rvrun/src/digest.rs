//! Owns the digest of everything that left a machine, in order. How outputs were batched does not matter.

use rv::{Input, Output, Request};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A running digest of outputs: each is digested with what came out before as its seed, so that a number is all that has
/// to be kept to go on.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The digest that had this value.
    pub fn from_value(value: u64) -> Digest {
        Digest(value)
    }

    /// Adds an output.
    pub fn add(&mut self, output: &Output) {
        match output {
            Output::Console(byte) => self.update(&[0, *byte]),
            Output::Terminal(bytes) => self.part(&[1], bytes),
            Output::Frame { card, frame } => self.part(&[2, *card], frame),
            Output::Disk { disk, number, request } => {
                let mut head = vec![3, *disk];
                head.extend(number.to_le_bytes());
                match request {
                    Request::Read { sector, length } => {
                        head.push(0);
                        head.extend(sector.to_le_bytes());
                        self.part(&head, &length.to_le_bytes());
                    }
                    Request::Write { sector, data } => {
                        head.push(1);
                        head.extend(sector.to_le_bytes());
                        self.part(&head, data);
                    }
                    Request::Flush => self.part(&[&head[..], &[2]].concat(), &[]),
                }
            }
            Output::Entropy { number, length } => {
                self.part(&[4], &[number.to_le_bytes(), u64::from(*length).to_le_bytes()].concat());
            }
        }
    }

    /// Adds an input, that was delivered after so many instructions.
    pub(crate) fn add_input(&mut self, at: u64, input: &Input) {
        let bytes = postcard::to_stdvec(input).expect("memory takes all bytes");
        self.update(&[5]);
        self.part(&at.to_le_bytes(), &bytes);
    }

    fn part(&mut self, head: &[u8], bytes: &[u8]) {
        self.update(head);
        self.update(bytes);
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The digest so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({:016x})", self.value())
    }
}
