//! Owns the pieces of one machine: what the machine's compiler is asked for.

use crate::call;
use crate::code::Code;
use crate::emit::Emitter;
use crate::region::Region;
use crate::tables::Tables;
use rv::{Compiler, Ops, Parts};

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
    /// None if it could not be made anew.
    made: Option<Made>,
    /// So many bytes of code are kept at most.
    room: usize,
}

struct Made {
    code: Code,
    tables: Tables,
}

impl Made {
    fn new() -> Result<Made, Unsupported> {
        let code = Code::new()?;
        let tables = Tables::new(code.back());
        Ok(Made { code, tables })
    }
}

impl Pieces {
    /// Without code yet.
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
        Ok(Pieces { made: Some(Made::new()?), room })
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            made.code.free();
        }
    }
}

impl Compiler for Pieces {
    fn compile(&mut self, page: usize, place: usize, ops: &Ops, entries: &[usize]) -> bool {
        let Some(made) = &mut self.made else { return false };
        let Some(region) = Region::new(ops, place, entries) else { return false };
        let table = made.tables.of_page(page);
        let dispatch = made.code.dispatch();
        let code = made.code.make(|context, builder| {
            Emitter::build(context, builder, &region, place, table, dispatch);
        });
        let Ok(code) = code else { return false };
        made.tables.put(page, place, code);
        true
    }

    fn run(&mut self, page: usize, place: usize, parts: Parts<'_>) -> (u64, u64) {
        let unchanged = (parts.pc, parts.left);
        let Some(made) = &self.made else { return unchanged };
        let Some(piece) = made.tables.get(page, place) else { return unchanged };
        call::run(&made.code, &made.tables, piece, parts).unwrap_or(unchanged)
    }

    fn forget(&mut self, page: usize) {
        if let Some(made) = &mut self.made {
            made.tables.forget(page);
        }
    }

    fn is_full(&self) -> bool {
        self.made.as_ref().is_some_and(|made| made.code.bytes() > self.room)
    }

    fn clear(&mut self) {
        if let Some(made) = self.made.take() {
            made.code.free();
        }
        self.made = Made::new().ok();
    }
}
