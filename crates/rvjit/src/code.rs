//! Owns the memory that holds machine code, and the three functions that every piece needs.

use crate::maker::{Failure, Maker, Unplaced};
use crate::piece::Unsupported;
use crate::{call, stubs};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::Module;

/// Machine code is made executable, and given back, in pages of the host.
const PAGE: usize = 4096;
/// A line of the host's cache.
const LINE: usize = 64;

/// Finished machine code.
pub(crate) struct Code {
    module: JITModule,
    bytes: usize,
    /// Where in a page the last function ended.
    ended: usize,
    enter: usize,
    back: usize,
    dispatch: usize,
}

impl Code {
    /// With the three functions only.
    pub fn new(isa: &OwnedTargetIsa) -> Result<Code, Unsupported> {
        Code::begin(isa).map_err(|error| Unsupported(error.to_string()))
    }

    fn begin(isa: &OwnedTargetIsa) -> Result<Code, Failure> {
        let builder = JITBuilder::with_isa(isa.clone(), cranelift_module::default_libcall_names());
        let module = JITModule::new(builder);
        let mut code = Code { module, bytes: 0, ended: 0, enter: 0, back: 0, dispatch: 0 };
        let mut maker = Maker::new(isa.clone());
        let convention = isa.default_call_conv();
        code.enter =
            code.place(&maker.make(|context, builder| stubs::enter(context, builder, convention))?)?;
        code.back = code.place(&maker.make(stubs::back)?)?;
        let back = code.back;
        code.dispatch =
            code.place(&maker.make(|context, builder| stubs::dispatch(context, builder, back))?)?;
        Ok(code)
    }

    /// Gives a function its place in memory, and tells its address.
    pub fn place(&mut self, function: &Unplaced) -> Result<usize, Failure> {
        let id = self.module.declare_anonymous_function(&function.signature)?;
        // Each function has pages of its own, since they become executable one after the other. If all began where their
        // page begins, they would compete for the same few lines of the host's cache.
        let before = self.ended.next_multiple_of(LINE) % PAGE;
        let bytes = [&[0; PAGE][..before], &function.bytes].concat();
        self.ended = bytes.len();
        self.bytes += bytes.len().next_multiple_of(PAGE);
        self.module.define_function_bytes(id, LINE as u64, &bytes, &[])?;
        self.module.finalize_definitions()?;
        Ok(self.module.get_finalized_function(id).wrapping_add(before).expose_provenance())
    }

    /// How much memory the code takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn enter(&self) -> usize {
        self.enter
    }

    pub fn back(&self) -> usize {
        self.back
    }

    pub fn dispatch(&self) -> usize {
        self.dispatch
    }

    /// Gives the memory back.
    pub fn free(self) {
        call::free(self.module);
    }
}
