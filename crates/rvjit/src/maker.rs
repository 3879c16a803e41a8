//! Owns making machine code that has no place in memory yet, on whatever thread.

use crate::emit::Emitter;
use crate::piece::Unsupported;
use crate::region::Region;
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Signature;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;
use rv::Order;

/// What the compiler says that it cannot do.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// A function without a place.
pub(crate) struct Unplaced {
    pub signature: Signature,
    pub bytes: Vec<u8>,
}

/// An order, and what its code has to know of where it will be.
pub(crate) struct Job {
    pub order: Order,
    /// Where the entries of its page are.
    pub table: usize,
    pub dispatch: usize,
}

/// A job that was done, with its code if there is any.
pub(crate) struct Done {
    pub number: u64,
    pub page: usize,
    pub place: usize,
    pub code: Option<Unplaced>,
}

/// Makes functions for the host's processor.
pub(crate) struct Maker {
    isa: OwnedTargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
}

/// The host's processor, as cranelift knows it.
pub(crate) fn host() -> Result<OwnedTargetIsa, Unsupported> {
    let find = || -> Result<OwnedTargetIsa, Failure> {
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
        Ok(isa.finish(settings::Flags::new(flags))?)
    };
    find().map_err(|error| Unsupported(error.to_string()))
}

impl Maker {
    pub fn new(isa: OwnedTargetIsa) -> Maker {
        Maker { isa, context: Context::new(), builder: FunctionBuilderContext::new() }
    }

    /// Makes a function.
    pub fn make(
        &mut self,
        build: impl FnOnce(&mut Context, &mut FunctionBuilderContext),
    ) -> Result<Unplaced, Failure> {
        self.context.clear();
        self.context.func.signature.call_conv = self.isa.default_call_conv();
        build(&mut self.context, &mut self.builder);
        let signature = self.context.func.signature.clone();
        let compiled = self.context.compile(&*self.isa, &mut ControlPlane::default());
        let compiled = compiled.map_err(|error| error.inner.to_string())?;
        if !compiled.buffer.relocs().is_empty() {
            return Err("code refers to something by its distance".into());
        }
        Ok(Unplaced { signature, bytes: compiled.code_buffer().to_vec() })
    }

    /// Does a job.
    pub fn carry_out(&mut self, job: &Job) -> Done {
        let Job { order, table, dispatch } = job;
        let made = Region::new(&order.ops, order.place, &order.entries).map(|region| {
            self.make(|context, builder| {
                Emitter::build(context, builder, &region, order.place, *table, *dispatch);
            })
        });
        let code = made.and_then(Result::ok);
        Done { number: order.number, page: order.page, place: order.place, code }
    }
}
