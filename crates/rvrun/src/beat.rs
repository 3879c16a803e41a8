//! Owns the beat of a live machine: a slice of instructions, then what left is carried out and what came in is delivered; a
//! guest that waits does so in real time.

use crate::pace::Pace;
use crate::world::{Outside, WorldError};
use rv::{Input, Machine, Output, Stop};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Instructions between two looks at the world.
const SLICE: u64 = 50_000;

/// A live machine, as its beat sees it.
pub(crate) trait Alive {
    /// What may go wrong.
    type Error: From<WorldError>;
    /// What it is connected to.
    type Outside: Outside;

    /// Does something with the machine. Between two calls others may look at it.
    fn machine<R>(&mut self, act: impl FnOnce(&mut Machine) -> R) -> R;

    /// What it is connected to.
    fn outside(&mut self) -> &mut Self::Outside;

    /// How its clock goes.
    fn pace(&self) -> &Pace;

    /// Gives inputs to the machine, in order.
    ///
    /// # Errors
    /// They cannot be noted.
    fn deliver(&mut self, inputs: Vec<Input>) -> Result<(), Self::Error>;

    /// This left, and will be carried out.
    fn leaves(&mut self, _outputs: &[Output]) {}

    /// The guest is about to wait.
    ///
    /// # Errors
    /// What was done until now cannot be noted.
    fn rests(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What came of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// There may be more.
    Done,
    /// At a debugger's stop. What left was not carried out.
    Halted,
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked to be started again.
    Reboot,
    /// The keys that end the machine were typed.
    Quit,
}

/// One slice, at most to an instruction count, and what the world has to do with it. Behind it everything that left was
/// carried out and answered, unless a debugger stopped it.
pub(crate) fn beat<A: Alive>(alive: &mut A, bound: u64) -> Result<Beat, A::Error> {
    let (stop, outputs) = alive.machine(|machine| {
        let until = machine.instructions().saturating_add(SLICE).min(bound);
        let stop = machine.run(until);
        // Halted, the interrupt before the next instruction may be taken already: an answer would come too late for it, and
        // a replay, which gives it first, might take another. So what left is carried out after that instruction.
        let outputs = if stop == Stop::Halted { Vec::new() } else { machine.outputs() };
        (stop, outputs)
    });
    let answered = carry_out(alive, &outputs)?;
    let quit = match stop {
        Stop::Halted => return Ok(Beat::Halted),
        Stop::PowerOff => return Ok(Beat::PowerOff),
        Stop::Reboot => return Ok(Beat::Reboot),
        Stop::Reached => {
            let arrived = alive.outside().collect(Some(Duration::ZERO))?;
            alive.deliver(arrived.inputs)?;
            arrived.quit
        }
        Stop::Idle if answered => false,
        Stop::Idle => wait(alive)?,
    };
    Ok(if quit { Beat::Quit } else { Beat::Done })
}

/// Carries out what left; whether anything was answered.
fn carry_out<A: Alive>(alive: &mut A, outputs: &[Output]) -> Result<bool, A::Error> {
    if outputs.is_empty() {
        return Ok(false);
    }
    alive.leaves(outputs);
    let answers = alive.outside().carry_out(outputs)?;
    let answered = !answers.is_empty();
    alive.deliver(answers)?;
    Ok(answered)
}

/// The guest waits: so do we, until its timer is due in real time, or something comes in; whether the machine shall end.
fn wait<A: Alive>(alive: &mut A) -> Result<bool, A::Error> {
    alive.rests()?;
    let began = Instant::now();
    let (clock, due) = alive.machine(|machine| (machine.clock(), machine.due()));
    let wait = alive.pace().wait(clock, due, began);
    let arrived = alive.outside().collect(wait.lasts)?;
    let elapsed = began.elapsed();
    if let (true, Some(due)) = (wait.lasts.is_some_and(|lasts| elapsed >= lasts), due) {
        alive.machine(|machine| machine.set_horizon(due));
    }
    let mut inputs = arrived.inputs;
    if !inputs.is_empty() || arrived.called {
        inputs.insert(0, Input::Waited(wait.clock_after(elapsed)));
    }
    alive.deliver(inputs)?;
    Ok(arrived.quit)
}

/// What time it is.
pub(crate) fn wall_clock() -> Input {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Input::Wall(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
