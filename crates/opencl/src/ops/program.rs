//! Launches whose addresses are filled in and which are then queued, with nothing looked up or allocated.

use opencl3::command_queue::{enqueue_nd_range_kernel, flush};
use opencl3::kernel::set_kernel_arg;
use opencl3::types::cl_mem;
use qiao_core::{Error, Result};
use qiao_kernels_opencl::Kernel;
use qiao_launch::{Arg, Launch, Prepared, What};

use crate::compile::Function;
use crate::context::{Context, Mark};
use crate::memory::Start;
use crate::stream::OpenClStream;

/// Where a tensor is: so many bytes behind this base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) base: usize,
    pub(crate) offset: usize,
}

/// Launches in order, whose kernels lack nothing but addresses. One thread at a time runs it.
#[derive(Default)]
pub(crate) struct Program {
    steps: Vec<Step>,
}

struct Step {
    function: Function,
    global: [usize; 3],
    patches: Vec<Patch>,
}

/// An argument that is an address: the position of the memory object, behind which that of the bytes stands.
struct Patch {
    position: u32,
    place: Place,
}

/// The kernel of a launch, its arguments being those of the row.
///
/// # Errors
/// There is none, or it takes other arguments: a fault of this crate.
fn kernel_of(symbol: &str, launch: &Launch) -> Result<&'static Kernel> {
    let letters = launch.letters();
    match qiao_kernels_opencl::find(symbol) {
        Some(kernel) if kernel.params.strip_suffix('m').unwrap_or(kernel.params) == letters => Ok(kernel),
        Some(_) => Err(Error::internal(format!("kernel {symbol}"), format!("it is given {letters}"))),
        None => Err(Error::internal(format!("kernel {symbol}"), "no text holds it")),
    }
}

impl Program {
    /// Builds the kernels of launches, and sets their arguments. `place` says where tensors are, `scratch` where the scratch of
    /// all nodes is, of which one runs at a time.
    ///
    /// # Errors
    /// A kernel that does not compile; the driver's.
    pub(crate) fn new(
        context: &Context,
        nodes: &[Prepared],
        place: impl Fn(usize) -> Option<Place>,
        scratch: Place,
    ) -> Result<Program> {
        let mut program = Program::default();
        for launch in nodes.iter().flat_map(|n| &n.launches) {
            let What::Kernel { symbol, grid, shared } = &launch.what else {
                return Err(Error::internal("a launch", "it asks for a library that OpenCL devices do not have"));
            };
            if !grid.contains(&0) {
                program.steps.push(Step::new(context, launch, symbol, (*grid, *shared), &place, scratch)?);
            }
        }
        Ok(program)
    }

    /// Fills in the addresses of the bases, in order, and queues every launch: the end of the last.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn launch(&mut self, stream: &OpenClStream, bases: &[Start]) -> Result<Option<Mark>> {
        let context = &stream.context;
        let mut end = None;
        for step in &mut self.steps {
            let symbol = step.function.symbol;
            for patch in &step.patches {
                let start = bases[patch.place.base];
                let at = (start.offset + patch.place.offset) as u64;
                step.function.set(context, patch.position, &start.memory)?;
                step.function.set(context, patch.position + 1, &at)?;
            }
            let local = [step.function.items, 1, 1];
            // SAFETY: every argument is set as the kernel's row says, which the launch was checked against; the addresses are
            // those of bindings that were checked.
            let queued = unsafe {
                let (none, size, group) = (std::ptr::null(), step.global.as_ptr(), local.as_ptr());
                enqueue_nd_range_kernel(stream.queue.0, step.function.raw, 3, none, size, group, 0, std::ptr::null())
            };
            end = Some(Mark(queued.map_err(|code| context.fault(&format!("launching {symbol}"), code))?));
        }
        context.check("launching", flush(stream.queue.0)).map(|()| end)
    }
}

impl Function {
    /// Sets an argument.
    fn set<T: Copy>(&self, context: &Context, position: u32, value: &T) -> Result<()> {
        self.set_bytes(context, position, size_of::<T>(), std::ptr::from_ref(value).cast())
    }

    fn set_bytes(&self, context: &Context, position: u32, size: usize, value: *const std::ffi::c_void) -> Result<()> {
        // SAFETY: the value holds as many bytes as is said, which the driver copies; or it is none, for local memory.
        let answer = unsafe { set_kernel_arg(self.raw, position, size, value) };
        answer.map_err(|code| context.fault(&format!("argument {position} of {}", self.symbol), code))
    }
}

impl Step {
    fn new(
        context: &Context,
        launch: &Launch,
        symbol: &str,
        (grid, shared): ([u32; 3], u32),
        place: impl Fn(usize) -> Option<Place>,
        scratch: Place,
    ) -> Result<Step> {
        let kernel = kernel_of(symbol, launch)?;
        let function = context.programs.function(context, kernel)?;
        let global = [grid[0] as usize * function.items, grid[1] as usize, grid[2] as usize];
        let mut step = Step { function, global, patches: Vec::new() };
        let mut position = 0;
        for arg in &launch.args {
            position = step.argument(context, position, arg, &place, scratch)?;
        }
        if kernel.params.ends_with('m') {
            step.function.set_bytes(context, position, (shared as usize).max(1), std::ptr::null())?;
        }
        Ok(step)
    }

    /// Sets an argument that does not change, or notes where an address goes: the position of the next one.
    fn argument(
        &mut self,
        context: &Context,
        position: u32,
        arg: &Arg,
        place: impl Fn(usize) -> Option<Place>,
        scratch: Place,
    ) -> Result<u32> {
        let function = &self.function;
        let address = match arg {
            Arg::Tensor(tensor, more) => {
                let nowhere = || Error::internal("an argument", format!("tensor {tensor} has no place"));
                Some((place(*tensor).ok_or_else(nowhere)?, more))
            }
            Arg::Scratch(more) => Some((scratch, more)),
            _ => None,
        };
        if let Some((place, more)) = address {
            self.patches.push(Patch { position, place: Place { offset: place.offset + more, ..place } });
            return Ok(position + 2);
        }
        match arg {
            Arg::U32(v) => function.set(context, position, v)?,
            Arg::I32(v) => function.set(context, position, v)?,
            Arg::U64(v) => function.set(context, position, v)?,
            Arg::F32(v) => function.set(context, position, v)?,
            Arg::Struct(bytes) => function.set_bytes(context, position, bytes.len(), bytes.as_ptr().cast())?,
            Arg::Null | Arg::Tensor(..) | Arg::Scratch(_) => {
                let none: cl_mem = std::ptr::null_mut();
                function.set(context, position, &none)?;
                function.set(context, position + 1, &0u64)?;
                return Ok(position + 2);
            }
        }
        Ok(position + 1)
    }
}
