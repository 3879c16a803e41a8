//! Owns finding where two runs begin to differ, to the instruction.
//!
//! Both go on in strides from where they were equal last. Where they are not equal after a stride, they go back, and half
//! of it is tried, until one instruction is left, with the inputs that were delivered behind it. States are compared
//! whole, not by their hashes; what entered and what left so far by its digest, since a difference may be gone from the state
//! when the stride ends.

mod side;

use crate::log::{LogError, Reader};
use crate::setup::{Setup, SetupError};
pub use rv::Difference;
use rv::{Input, SnapshotError};
use side::Side;
use std::io::Read;

/// Instructions between two comparisons.
const STRIDE: u64 = 1 << 26;
/// So many places of RAM that differ are told.
const PLACES: usize = 16;

/// Why two runs cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum BisectError {
    /// A recording cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A machine cannot be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A machine cannot be brought back.
    #[error("cannot go back in a run: {0}")]
    Back(#[from] SnapshotError),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are equal as far as both go.
    Same {
        /// So many instructions, over all boots.
        instructions: u64,
        /// Which of the recordings go on behind that.
        longer: [bool; 2],
    },
    /// They are not.
    Differs(Found),
}

/// What is the first thing that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The machines are not equal at the beginning.
    Beginning,
    /// The instruction does something else.
    Instruction,
    /// Behind the instruction other inputs are delivered.
    Inputs,
    /// Up to the instruction they differ if they go there at once, and do not if they stop in between: that may not be seen,
    /// so one of them is not carried out as it should be.
    Together,
}

/// Where two runs begin to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What differs.
    pub what: What,
    /// So many instructions, over all boots, were carried out when they differed: one less, and they were equal.
    pub instructions: u64,
    /// How often the guest had begun anew.
    pub reboots: u64,
    /// The address of the instruction: the one that does something else, or the next one behind the inputs.
    pub pc: [u64; 2],
    /// The instruction, if it can be read.
    pub instruction: [Option<u32>; 2],
    /// The inputs that were delivered behind the instruction.
    pub inputs: [Vec<Input>; 2],
    /// What differs then; of RAM the first places.
    pub differences: Vec<Difference>,
}

/// Finds where two recordings begin to differ. `correct` may change where the files of both are. With `plainly` the second
/// one is done with every instruction read from memory and decoded each time.
///
/// # Errors
/// A recording or a file of it cannot be read.
pub fn bisect<R: Read>(
    logs: [R; 2],
    correct: impl Fn(&mut Setup),
    plainly: bool,
) -> Result<Verdict, BisectError> {
    let [one, two] = logs;
    let open = |log| Reader::open(log);
    let mut pair = Pair {
        one: Side::begin(open(one)?, &correct, false)?,
        two: Side::begin(open(two)?, &correct, plainly)?,
    };
    if !pair.equal() {
        return Ok(Verdict::Differs(pair.tell(What::Beginning, 0)));
    }
    pair.mark()?;
    let mut equal = 0;
    loop {
        let mut next = equal + STRIDE;
        pair.advance(next)?;
        let ends = [pair.one.end(), pair.two.end()];
        let both_stuck = pair.one.stuck().filter(|_| pair.two.stuck().is_some());
        let end = ends.into_iter().flatten().min().or(both_stuck);
        if let Some(end) = end {
            // Inputs behind the last instruction may be there for one of them only.
            next = end;
            pair.back()?;
            pair.one.advance_before(end)?;
            pair.two.advance_before(end)?;
        }
        if !pair.equal() {
            pair.back()?;
            return Ok(Verdict::Differs(pair.narrow(equal, next)?));
        }
        if let Some(end) = end {
            let longer = ends.map(|other| other.is_none_or(|other| other > end));
            return Ok(Verdict::Same { instructions: end, longer });
        }
        pair.mark()?;
        equal = next;
    }
}

/// An input in a line; a long one is cut.
pub fn describe(input: &Input) -> String {
    let mut text = format!("{input:?}");
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Both runs.
struct Pair<R> {
    one: Side<R>,
    two: Side<R>,
}

impl<R: Read> Pair<R> {
    fn advance(&mut self, total: u64) -> Result<(), BisectError> {
        self.one.advance(total)?;
        self.two.advance(total)
    }

    fn equal(&self) -> bool {
        self.one.passed() == self.two.passed() && self.one.machine().equals(self.two.machine())
    }

    fn mark(&mut self) -> Result<(), BisectError> {
        self.one.mark()?;
        self.two.mark()
    }

    fn back(&mut self) -> Result<(), BisectError> {
        self.one.back()?;
        self.two.back()
    }

    /// They stand where they are equal, after so many instructions, and are not after `differ`.
    fn narrow(&mut self, mut equal: u64, mut differ: u64) -> Result<Found, BisectError> {
        while differ - equal > 1 {
            let middle = equal + (differ - equal) / 2;
            self.advance(middle)?;
            if self.equal() {
                self.mark()?;
                equal = middle;
            } else {
                self.back()?;
                differ = middle;
            }
        }
        self.one.advance_before(differ)?;
        self.two.advance_before(differ)?;
        if self.equal() {
            self.mark()?;
            let mut found = self.tell(What::Inputs, differ);
            self.back()?;
            self.advance(differ)?;
            if self.equal() {
                found.what = What::Together;
            }
            found.differences = self.one.machine().differences(self.two.machine(), PLACES);
            return Ok(found);
        }
        let differences = self.one.machine().differences(self.two.machine(), PLACES);
        self.back()?;
        Ok(Found { differences, ..self.tell(What::Instruction, differ) })
    }

    /// What is to be told of the instruction that both stand at; their translations are not to be used any more.
    fn tell(&mut self, what: What, instructions: u64) -> Found {
        let differences = self.one.machine().differences(self.two.machine(), PLACES);
        Found {
            what,
            instructions,
            reboots: self.one.reboots(),
            pc: [self.one.machine().x(32), self.two.machine().x(32)],
            instruction: [self.one.look_ahead(), self.two.look_ahead()],
            inputs: [self.one.inputs(instructions), self.two.inputs(instructions)],
            differences,
        }
    }
}
