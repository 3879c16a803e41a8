//! Owns the pieces of one machine: what the machine's compiler is asked for.

use crate::call;
use crate::code::Code;
use crate::maker::{self, Done, Job, Maker};
use crate::tables::Tables;
use crate::worker::Worker;
use cranelift_codegen::isa::OwnedTargetIsa;
use rv::{Compiler, Made, Order, Parts};
use std::collections::VecDeque;

/// So much code is kept at most.
const BYTES: usize = 64 << 20;

/// No machine code can be made for this host's processor, so that every instruction has to be interpreted.
#[derive(Debug, thiserror::Error)]
#[error(
    "no machine code can be made for this host's processor: {0}; let the machine interpret every instruction"
)]
pub struct Unsupported(pub(crate) String);

/// Machine code for the hot instructions of one machine.
pub struct Pieces {
    isa: OwnedTargetIsa,
    hands: Hands,
    /// Made last, and not put into its place.
    last: Option<Done>,
    /// None if it could not be made anew.
    kept: Option<Kept>,
    /// So many bytes of code are kept at most.
    room: usize,
}

/// Who makes the code.
enum Hands {
    /// Whoever orders it.
    Own(Box<Maker>, VecDeque<Done>),
    /// Another thread.
    Others(Worker),
}

struct Kept {
    code: Code,
    tables: Tables,
}

impl Kept {
    fn new(isa: &OwnedTargetIsa) -> Result<Kept, Unsupported> {
        let code = Code::new(isa)?;
        let tables = Tables::new(code.back());
        Ok(Kept { code, tables })
    }
}

impl Pieces {
    /// Without code yet, which is made at once when it is ordered.
    ///
    /// # Errors
    /// No code can be made for this host.
    pub fn new() -> Result<Pieces, Unsupported> {
        Pieces::with_room(BYTES)
    }

    /// The same, with so many bytes of code at most.
    ///
    /// # Errors
    /// No code can be made for this host.
    pub fn with_room(room: usize) -> Result<Pieces, Unsupported> {
        let isa = maker::host()?;
        let hands = Hands::Own(Box::new(Maker::new(isa.clone())), VecDeque::new());
        Pieces::made_by(hands, isa, room)
    }

    /// Without code yet, which is made by a thread of its own while the machine goes on.
    ///
    /// # Errors
    /// No code can be made for this host, or the thread not be started.
    pub fn beside() -> Result<Pieces, Unsupported> {
        let isa = maker::host()?;
        let worker = Worker::start(isa.clone()).map_err(|error| Unsupported(error.to_string()))?;
        Pieces::made_by(Hands::Others(worker), isa, BYTES)
    }

    fn made_by(hands: Hands, isa: OwnedTargetIsa, room: usize) -> Result<Pieces, Unsupported> {
        Ok(Pieces { hands, last: None, kept: Some(Kept::new(&isa)?), room, isa })
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.code.free();
        }
    }
}

impl Compiler for Pieces {
    fn order(&mut self, order: Order) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        let (table, dispatch) = (kept.tables.of_page(order.page), kept.code.dispatch());
        let job = Job { order, table, dispatch };
        match &mut self.hands {
            Hands::Own(maker, done) => {
                done.push_back(maker.carry_out(&job));
                true
            }
            Hands::Others(worker) => worker.give(job),
        }
    }

    fn made(&mut self) -> Option<Made> {
        self.last = match &mut self.hands {
            Hands::Own(_, done) => done.pop_front(),
            Hands::Others(worker) => worker.done(),
        };
        self.last.as_ref().map(|done| Made { number: done.number, page: done.page })
    }

    fn put(&mut self) -> bool {
        let Some(Done { page, place, code: Some(code), .. }) = self.last.take() else { return false };
        let Some(kept) = &mut self.kept else { return false };
        let Ok(address) = kept.code.place(&code) else { return false };
        kept.tables.put(page, place, address);
        true
    }

    fn run(&mut self, page: usize, place: usize, parts: Parts<'_>) -> (u64, u64) {
        let unchanged = (parts.pc, parts.left);
        let Some(kept) = &self.kept else { return unchanged };
        let Some(piece) = kept.tables.get(page, place) else { return unchanged };
        call::run(&kept.code, &kept.tables, piece, parts).unwrap_or(unchanged)
    }

    fn forget(&mut self, page: usize) {
        if let Some(kept) = &mut self.kept {
            kept.tables.forget(page);
        }
    }

    fn is_full(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.code.bytes() > self.room)
    }

    fn clear(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.code.free();
        }
        self.kept = Kept::new(&self.isa).ok();
    }
}
