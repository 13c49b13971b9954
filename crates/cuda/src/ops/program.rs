//! Launches whose addresses are filled in and which are then queued, with nothing looked up or allocated.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig};
use qiao_core::{Error, Result};
use qiao_kernels_cuda::{Kernel as KernelRow, Unit};
use qiao_launch::{Arg, Launch, Prepared, What};

use crate::blas::Ready;
use crate::context::Context;
use crate::stream::CudaStream;
use crate::sys::{CUfunction, SUCCESS};
use crate::vendors::Meaning;

/// Where a tensor is: so many bytes behind this base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) base: usize,
    pub(crate) offset: usize,
}

/// Launches in order, with a block of arguments that lacks nothing but addresses.
pub(crate) struct Program {
    steps: Vec<Step>,
    /// Arguments, each from a word of its own on.
    template: Vec<u64>,
    /// The first word of each argument.
    args: Vec<usize>,
    patches: Vec<Patch>,
}

struct Step {
    run: Run,
    /// The first of its arguments.
    first: usize,
}

enum Run {
    Kernel(Kernel),
    Product(Ready),
}

/// A kernel with the size of its launch.
struct Kernel {
    function: CUfunction,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    symbol: &'static str,
}

impl Kernel {
    /// Queues it, to start while the kernel before it ends where it `overlaps`. The context is current.
    ///
    /// # Safety
    /// The arguments are those that the kernel takes. The driver copies them before it returns.
    unsafe fn launch(&self, stream: &CudaStream, args: &mut [*mut c_void], overlaps: bool) -> Result<()> {
        let (context, queue) = (&stream.context, stream.queue.raw);
        let [x, y, z] = self.grid;
        if let Some(launch) = context.driver.launch_with.filter(|_| overlaps) {
            let mut attribute = CUlaunchAttribute {
                id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: self.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: self.shared,
                hStream: queue,
                attrs: &mut attribute,
                numAttrs: 1,
            };
            // SAFETY: as the caller vouches; the configuration lives through the call. Every kernel begins by waiting for
            // those before it.
            let code = unsafe { launch(&config, self.function, args.as_mut_ptr(), null_mut()) };
            match context.driver.means(code) {
                Meaning::Success => return Ok(()),
                Meaning::Lost | Meaning::OutOfMemory => {
                    return Err(context.fault(&format!("launching {}", self.symbol), code));
                }
                // The launch is tried as every driver knows it.
                _ => drop(context.stop_overlaps()),
            }
        }
        let threads = self.threads;
        // SAFETY: as the caller vouches.
        let code = unsafe {
            (context.driver.launch)(
                self.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                self.shared,
                queue,
                args.as_mut_ptr(),
                null_mut(),
            )
        };
        if code == SUCCESS { Ok(()) } else { Err(context.fault(&format!("launching {}", self.symbol), code)) }
    }
}

/// An argument that is an address.
struct Patch {
    word: usize,
    place: Place,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Program {}
// SAFETY: as above; nothing changes.
unsafe impl Sync for Program {}

/// The arguments of one execution.
#[derive(Default)]
pub(crate) struct Block {
    words: Vec<u64>,
    params: Vec<*mut c_void>,
}

// SAFETY: the addresses are those of its own words.
unsafe impl Send for Block {}

/// The kernel of a launch, its arguments being those of the row, and the unit that holds it.
///
/// # Errors
/// There is none, or it takes other arguments: a fault of this crate.
fn kernel_of(symbol: &str, launch: &Launch) -> Result<(&'static Unit, &'static KernelRow)> {
    match qiao_kernels_cuda::find(symbol) {
        Some((unit, kernel)) if kernel.params == launch.letters() => Ok((unit, kernel)),
        Some(_) => Err(Error::internal(format!("kernel {symbol}"), format!("it is given {}", launch.letters()))),
        None => Err(Error::internal(format!("kernel {symbol}"), "no unit holds it")),
    }
}

/// What runs of a launch: products that the library takes, and kernels that have blocks. The context is current.
fn choose<'a>(context: &Context, launch: &'a Launch, out: &mut Vec<(&'a Launch, Option<Ready>)>) {
    match &launch.what {
        What::Kernel { grid, .. } if grid.contains(&0) => {}
        What::Kernel { .. } => out.push((launch, None)),
        What::Product { product, then, otherwise } => {
            let ready = Ready::new(context.driver.row, &context.blas, product);
            let rest = if ready.is_some() { then } else { otherwise };
            if ready.is_some() {
                out.push((launch, ready));
            }
            rest.iter().for_each(|launch| choose(context, launch, out));
        }
    }
}

impl Program {
    /// Loads the kernels of launches, and lays out their arguments. `place` says where tensors are, `scratch` where the scratch
    /// of all nodes is, of which one runs at a time.
    ///
    /// # Errors
    /// A unit that does not compile; the driver's.
    pub(crate) fn new(
        context: &Context,
        nodes: &[Prepared],
        place: impl Fn(usize) -> Option<Place>,
        scratch: Place,
    ) -> Result<Program> {
        let mut program = Program { steps: Vec::new(), template: Vec::new(), args: Vec::new(), patches: Vec::new() };
        let _entered = context.enter()?;
        let mut launches = Vec::new();
        for launch in nodes.iter().flat_map(|n| &n.launches) {
            choose(context, launch, &mut launches);
        }
        let mut units: Vec<&'static Unit> = Vec::new();
        for (launch, _) in &launches {
            let What::Kernel { symbol, .. } = &launch.what else { continue };
            let (unit, _) = kernel_of(symbol, launch)?;
            if !units.iter().any(|u| u.name == unit.name) {
                units.push(unit);
            }
        }
        context.modules.load(context.driver, &units)?;
        for (launch, ready) in launches {
            let run = match (&launch.what, ready) {
                (_, Some(ready)) => Run::Product(ready),
                (What::Kernel { symbol, grid, shared }, None) => {
                    let (unit, kernel) = kernel_of(symbol, launch)?;
                    let function = context.modules.function(context.driver, unit, kernel, *shared)?;
                    Run::Kernel(Kernel {
                        function,
                        grid: *grid,
                        threads: kernel.threads,
                        shared: *shared,
                        symbol: kernel.symbol,
                    })
                }
                (What::Product { .. }, None) => return Err(Error::internal("a product", "nothing runs it")),
            };
            program.steps.push(Step { run, first: program.args.len() });
            for arg in &launch.args {
                program.push(arg, &place, scratch)?;
            }
        }
        Ok(program)
    }

    fn push(&mut self, arg: &Arg, place: impl Fn(usize) -> Option<Place>, scratch: Place) -> Result<()> {
        let word = self.template.len();
        self.args.push(word);
        let address = match arg {
            Arg::Tensor(tensor, more) => {
                let nowhere = || Error::internal("an argument", format!("tensor {tensor} has no place"));
                Some((place(*tensor).ok_or_else(nowhere)?, more))
            }
            Arg::Scratch(more) => Some((scratch, more)),
            _ => None,
        };
        if let Some((place, more)) = address {
            self.patches.push(Patch { word, place: Place { offset: place.offset + more, ..place } });
        }
        match arg {
            Arg::Tensor(..) | Arg::Scratch(_) | Arg::Null => self.template.push(0),
            Arg::U32(v) => self.template.push(u64::from(*v)),
            Arg::I32(v) => self.template.push(u64::from(*v as u32)),
            Arg::U64(v) => self.template.push(*v),
            Arg::F32(v) => self.template.push(u64::from(v.to_bits())),
            Arg::Struct(bytes) => self.template.extend(bytes.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })),
        }
        Ok(())
    }

    /// How many launches there are.
    pub(crate) fn launches(&self) -> usize {
        self.steps.len()
    }

    /// A block for executions of this program.
    pub(crate) fn block(&self) -> Block {
        let mut block = Block { words: self.template.clone(), params: Vec::with_capacity(self.args.len()) };
        let base = block.words.as_mut_ptr();
        // Words never move: the list is not grown.
        block.params.extend(self.args.iter().map(|&word| base.wrapping_add(word).cast::<c_void>()));
        block
    }

    /// Fills in the addresses of the bases, in order.
    pub(crate) fn fill(&self, block: &mut Block, bases: &[u64]) {
        for patch in &self.patches {
            block.words[patch.word] = bases[patch.place.base] + patch.place.offset as u64;
        }
    }

    /// Queues every launch with a block that was filled. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn launch(&self, stream: &CudaStream, block: &mut Block) -> Result<()> {
        let context = &stream.context;
        for (i, step) in self.steps.iter().enumerate() {
            let args = &mut block.params[step.first..];
            match &step.run {
                Run::Kernel(kernel) => {
                    // What was queued before the program has ended when its first kernel starts.
                    let overlaps = i > 0 && context.overlaps();
                    // SAFETY: the kernel's row says what arguments it takes, and every launch was checked against it; the
                    // addresses are those of bindings that were checked.
                    unsafe { kernel.launch(stream, args, overlaps)? };
                }
                Run::Product(product) => {
                    let first = self.args[step.first];
                    let addresses = std::array::from_fn(|i| block.words[first + i]);
                    // SAFETY: a product's arguments are its five addresses, a word each; they are those of bindings and
                    // of the workspace, which were checked.
                    let code = unsafe { product.launch(stream.queue.raw, addresses) };
                    if code != SUCCESS {
                        let what = format!("a product on {}", context.name);
                        return Err(Error::internal(what, format!("cuBLASLt answers status {code}")));
                    }
                }
            }
        }
        Ok(())
    }
}
