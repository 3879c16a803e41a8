//! Owns what a debugger needs of what it looks at.

use crate::live::LiveError;
use crate::replay::ReplayError;
use rv::{Machine, Stops, Watch};

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One instruction.
    Step,
    /// On to the next stop.
    On,
    /// One instruction back.
    StepBack,
    /// Back to the stop before.
    Back,
}

/// Why it stands still again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The step was done.
    Stepped,
    /// Before the instruction at a breakpoint.
    Breakpoint,
    /// An instruction touches this: going forwards it was the last one, going back it is the next.
    Watched(Watch),
    /// Where it was asked to go.
    Asked,
    /// The debugger wants to be heard.
    Interrupted,
    /// The recording begins here.
    Begin,
    /// The recording ends here.
    End,
    /// The guest switched itself off, or the machine was ended.
    Over,
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// A live machine.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// A replay.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// A machine that a debugger can look at and let go.
pub trait Subject {
    /// The machine as it stands.
    fn machine(&self) -> &Machine;

    /// Instructions so far, over all boots.
    fn position(&self) -> u64;

    /// From now on it stops there.
    fn set_stops(&mut self, stops: &Stops);

    /// Goes somewhere. `interrupted` is asked now and then whether to stop.
    ///
    /// # Errors
    /// It failed, and cannot be gone on with.
    fn go(&mut self, way: Way, interrupted: &mut dyn FnMut() -> bool) -> Result<Why, SubjectError>;

    /// Whether it can go back.
    fn goes_back(&self) -> bool;
}
