//! Owns the thread that makes machine code while the machine goes on.

use crate::maker::{Done, Job, Maker};
use cranelift_codegen::isa::OwnedTargetIsa;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// So many jobs wait at most: what is hot beyond them will be found hot again.
const WAITING: usize = 32;

/// The thread, and what it is given and gives back.
pub(crate) struct Worker {
    /// None once it shall end.
    desk: Option<Desk>,
    waiting: usize,
    thread: Option<JoinHandle<()>>,
}

struct Desk {
    jobs: Sender<Job>,
    done: Receiver<Done>,
}

impl Worker {
    pub fn start(isa: OwnedTargetIsa) -> io::Result<Worker> {
        let (jobs, given) = channel::<Job>();
        let (give, done) = channel();
        let work = move || {
            let mut maker = Maker::new(isa);
            // Nobody listens any more when the machine is gone: then it ends, whatever waits.
            given.iter().map(|job| maker.carry_out(&job)).try_for_each(|done| give.send(done)).ok();
        };
        let thread = std::thread::Builder::new().name("rv compiler".to_owned()).spawn(work)?;
        Ok(Worker { desk: Some(Desk { jobs, done }), waiting: 0, thread: Some(thread) })
    }

    /// Gives it a job; false if too many wait, or it is gone.
    pub fn give(&mut self, job: Job) -> bool {
        let taken =
            self.waiting < WAITING && self.desk.as_ref().is_some_and(|desk| desk.jobs.send(job).is_ok());
        self.waiting += usize::from(taken);
        taken
    }

    /// A job that it has done.
    pub fn done(&mut self) -> Option<Done> {
        let done = self.desk.as_ref()?.done.try_recv().ok()?;
        self.waiting -= 1;
        Some(done)
    }
}

impl Drop for Worker {
    /// Ends the thread, behind the job that it is at.
    fn drop(&mut self) {
        self.desk = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there was told when it came.
            let _ = thread.join();
        }
    }
}
