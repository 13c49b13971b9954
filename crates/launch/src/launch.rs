//! What a node becomes: launches as plain data, whose addresses are filled in at each execution.

use qiao_core::{Accept, DType, NodeView, OpKind, OpTable, Reason, Result, Row, TensorDesc};

use crate::large::LargeProduct;

/// What launches may depend on: the device that they are prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Compute capability, ten times the major number plus the minor: 90 for sm_90.
    pub arch: u32,
    /// Multiprocessors.
    pub processors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared: u32,
    /// Whether cuBLASLt is there.
    pub blas: bool,
}

/// The card's kernels.
pub type Table = OpTable<Prepare>;

/// Prepares a node that the row accepted.
pub type Prepare = fn(&NodeView<'_>, &Chip) -> Result<Prepared>;

/// A node, ready to run: launches in order, and bytes of scratch that they share, on a multiple of 256.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// What runs, in order.
    pub launches: Vec<Launch>,
    /// Bytes of scratch; the plan lays them out in its workspace.
    pub scratch: usize,
}

/// A private layout.
pub struct Layout {
    /// Its number, as a row's answer names it; never 0.
    pub id: u64,
    /// The bytes of a tensor in it.
    pub bytes: fn(&TensorDesc) -> Result<usize>,
    /// Packs a tensor: argument tensor 0 is the source, tensor 1 the result.
    pub pack: fn(&TensorDesc, &Chip) -> Result<Prepared>,
}

/// One launch of a kernel, or one call of a library.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What runs.
    pub what: What,
    /// One argument per parameter.
    pub args: Vec<Arg>,
}

/// What a launch runs.
#[derive(Clone, Debug)]
pub enum What {
    /// A kernel.
    Kernel {
        /// Its symbol.
        symbol: Box<str>,
        /// Blocks along x, y and z; a launch of no blocks does nothing.
        grid: [u32; 3],
        /// Bytes of dynamic shared memory.
        shared: u32,
    },
    /// A product by cuBLASLt. Its arguments are the addresses of a, b, the residual or else the result, the result, and
    /// scratch.
    Product {
        /// What it is.
        product: LargeProduct,
        /// What follows it.
        then: Vec<Launch>,
        /// What runs in place of both where the library refuses.
        otherwise: Vec<Launch>,
    },
}

/// An argument of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// The address of a tensor of the graph, this many bytes on.
    Tensor(usize, usize),
    /// The address of this byte of the node's scratch.
    Scratch(usize),
    /// No address: an optional operand that is left out.
    Null,
    /// A number.
    U32(u32),
    /// A number.
    I32(i32),
    /// A number.
    U64(u64),
    /// A number.
    F32(f32),
    /// A struct by value, as it lies in memory.
    Struct(Vec<u8>),
}

impl Launch {
    /// A launch of the kernel of this symbol.
    pub fn new(symbol: &str, grid: [u32; 3], shared: u32, args: Vec<Arg>) -> Self {
        Launch { what: What::Kernel { symbol: symbol.into(), grid, shared }, args }
    }

    /// The letters of its arguments, as a kernel's row names its parameters: `p` an address, `u` u32, `i` i32, `l` u64, `f` f32,
    /// `s` a struct by value.
    pub fn letters(&self) -> String {
        self.args.iter().map(Arg::letter).collect()
    }

    /// The arguments of all that may run.
    pub fn all_args(&self) -> Vec<&Arg> {
        let mut args: Vec<&Arg> = self.args.iter().collect();
        if let What::Product { then, otherwise, .. } = &self.what {
            args.extend(then.iter().chain(otherwise).flat_map(Launch::all_args));
        }
        args
    }
}

impl Arg {
    /// An operand's address, or none where it is left out.
    pub fn optional(node: &NodeView<'_>, input: usize) -> Arg {
        node.node.inputs.get(input).copied().flatten().map_or(Arg::Null, |id| Arg::Tensor(id.index(), 0))
    }

    /// The address of an operand that is given.
    pub fn input(node: &NodeView<'_>, input: usize) -> Arg {
        Arg::optional(node, input)
    }

    /// The address of a result.
    pub fn output(node: &NodeView<'_>, output: usize) -> Arg {
        Arg::Tensor(node.node.outputs[output].index(), 0)
    }

    /// The letter of a parameter that this argument fits.
    fn letter(&self) -> char {
        match self {
            Arg::Tensor(..) | Arg::Scratch(_) | Arg::Null => 'p',
            Arg::U32(_) => 'u',
            Arg::I32(_) => 'i',
            Arg::U64(_) => 'l',
            Arg::F32(_) => 'f',
            Arg::Struct(_) => 's',
        }
    }
}

/// A row whose kernel keeps activations as they are.
pub fn row(
    op: OpKind,
    name: &'static str,
    accepts: fn(&NodeView<'_>) -> Result<Accept, Reason>,
    launch: Prepare,
) -> Row<Prepare> {
    Row { op, name, act_dtype: None, accepts, launch }
}

/// The letters that name a dtype in a symbol.
pub(crate) fn suffix(dtype: DType) -> &'static str {
    dtype.name()
}
