//! Owns the memory that holds machine code, and the three functions that every piece needs.

use crate::piece::Unsupported;
use crate::{call, stubs};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::Module;

/// What the compiler says that it cannot do.
type Failure = Box<dyn std::error::Error>;

/// Machine code is made executable, and given back, in pages of the host.
const PAGE: usize = 4096;
/// A line of the host's cache.
const LINE: usize = 64;

/// Finished machine code, and what it is made with.
pub(crate) struct Code {
    module: JITModule,
    context: Context,
    pub builder: FunctionBuilderContext,
    bytes: usize,
    /// Where in a page the last function ended.
    ended: usize,
    enter: usize,
    back: usize,
    dispatch: usize,
}

impl Code {
    /// With the three functions only.
    pub fn new() -> Result<Code, Unsupported> {
        Code::begin().map_err(|error| Unsupported(error.to_string()))
    }

    fn begin() -> Result<Code, Failure> {
        let mut flags = settings::builder();
        for (name, value) in [
            ("enable_verifier", "false"),
            // Cranelift's jumps from one function to another rest on them.
            ("preserve_frame_pointers", "true"),
            ("unwind_info", "false"),
            ("use_colocated_libcalls", "false"),
            ("is_pic", "false"),
        ] {
            flags.set(name, value)?;
        }
        let isa = cranelift_native::builder()?;
        let isa = isa.finish(settings::Flags::new(flags))?;
        let builder = JITBuilder::with_isa(isa, cranelift_module::default_libcall_names());
        let module = JITModule::new(builder);
        let context = module.make_context();
        let builder = FunctionBuilderContext::new();
        let mut code = Code { module, context, builder, bytes: 0, ended: 0, enter: 0, back: 0, dispatch: 0 };
        let convention = code.module.isa().default_call_conv();
        code.enter = code.make(|context, builder| stubs::enter(context, builder, convention))?;
        code.back = code.make(stubs::back)?;
        let back = code.back;
        code.dispatch = code.make(|context, builder| stubs::dispatch(context, builder, back))?;
        Ok(code)
    }

    /// Makes a function, and gives its address.
    pub fn make(
        &mut self,
        build: impl FnOnce(&mut Context, &mut FunctionBuilderContext),
    ) -> Result<usize, Failure> {
        self.module.clear_context(&mut self.context);
        build(&mut self.context, &mut self.builder);
        let id = self.module.declare_anonymous_function(&self.context.func.signature)?;
        let compiled = self.context.compile(self.module.isa(), &mut ControlPlane::default());
        let compiled = compiled.map_err(|error| error.inner.to_string())?;
        if !compiled.buffer.relocs().is_empty() {
            return Err("code refers to something by its distance".into());
        }
        // Each function has pages of its own, since they become executable one after the other. If all began where their
        // page begins, they would compete for the same few lines of the host's cache.
        let before = self.ended.next_multiple_of(LINE) % PAGE;
        let bytes = [&[0; PAGE][..before], compiled.code_buffer()].concat();
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
