//! The operators of `libopapi.so` that are used, each declared once: its name here, its function, and the arguments of its first
//! phase as its page documents them. The table, and the calls of both phases, are made of the list.

use std::ffi::{c_char, c_void};

use libloading::Library;
use qiao_core::{Error, Result};

use crate::codes::{Code, Handle};

/// A tensor object; null where an optional one is left out.
pub(crate) type Tensor = *const c_void;
/// A list of tensors.
pub(crate) type List = *const c_void;
/// A scalar.
pub(crate) type Scalar = *const c_void;
/// Integers of the host.
pub(crate) type Ints = *const c_void;

/// The second phase of every operator: workspace, its bytes, executor, stream.
pub(crate) type Second = unsafe extern "C" fn(Handle, u64, Handle, Handle) -> Code;

/// The two phases of an operator.
pub(crate) struct Two<F> {
    pub(crate) first: F,
    pub(crate) second: Second,
}

/// Where operators are queued: what a first phase told is made, and the second phase run on it.
pub(crate) trait Queues {
    /// The operators.
    fn operators(&self) -> &'static Operators;

    /// Runs a first phase, and the second on what it left.
    ///
    /// # Errors
    /// What either answers.
    fn two_phases(
        &mut self,
        name: &str,
        first: &mut dyn FnMut(*mut u64, *mut Handle) -> Code,
        second: Second,
    ) -> Result<()>;
}

/// Calls `$callback!` with every operator.
macro_rules! for_each_operator {
    ($callback:ident) => {
        $callback! {
            copy = aclnnInplaceCopy(to: Tensor, from: Tensor);
            cast = aclnnCast(x: Tensor, dtype: i32, out: Tensor);
            fill = aclnnInplaceFillScalar(to: Tensor, value: Scalar);
            add = aclnnAdd(a: Tensor, b: Tensor, alpha: Scalar, out: Tensor);
            sub = aclnnSub(a: Tensor, b: Tensor, alpha: Scalar, out: Tensor);
            mul = aclnnMul(a: Tensor, b: Tensor, out: Tensor);
            div = aclnnDiv(a: Tensor, b: Tensor, out: Tensor);
            silu = aclnnSilu(x: Tensor, out: Tensor);
            relu = aclnnRelu(x: Tensor, out: Tensor);
            sigmoid = aclnnSigmoid(x: Tensor, out: Tensor);
            tanh = aclnnTanh(x: Tensor, out: Tensor);
            exp = aclnnExp(x: Tensor, out: Tensor);
            gelu = aclnnGeluV2(x: Tensor, approximate: i64, out: Tensor);
            swiglu = aclnnSwiGlu(x: Tensor, dim: i64, out: Tensor);
            clamp = aclnnClamp(x: Tensor, least: Scalar, most: Scalar, out: Tensor);
            ne = aclnnNeTensor(a: Tensor, b: Tensor, out: Tensor);
            masked_fill = aclnnInplaceMaskedFillScalar(to: Tensor, mask: Tensor, value: Scalar);
            cat = aclnnCat(parts: List, dim: i64, out: Tensor);
            embedding = aclnnEmbedding(table: Tensor, ids: Tensor, out: Tensor);
            scatter = aclnnScatterNdUpdate(to: Tensor, ids: Tensor, rows: Tensor);
            rms_norm = aclnnRmsNorm(x: Tensor, w: Tensor, eps: f64, y: Tensor, rstd: Tensor);
            gemma_rms_norm = aclnnGemmaRmsNorm(x: Tensor, w: Tensor, eps: f64, y: Tensor, rstd: Tensor);
            add_rms_norm = aclnnAddRmsNorm(
                a: Tensor, b: Tensor, w: Tensor, eps: f64, y: Tensor, rstd: Tensor, sum: Tensor
            );
            layer_norm = aclnnLayerNorm(
                x: Tensor, shape: Ints, w: Tensor, b: Tensor, eps: f64, y: Tensor, mean: Tensor, rstd: Tensor
            );
            sum = aclnnReduceSum(x: Tensor, dims: Ints, keep: bool, dtype: i32, out: Tensor);
            mean = aclnnMean(x: Tensor, dims: Ints, keep: bool, dtype: i32, out: Tensor);
            largest = aclnnAmax(x: Tensor, dims: Ints, keep: bool, out: Tensor);
            matmul = aclnnMatmul(a: Tensor, b: Tensor, out: Tensor, cube: i8);
            matmul_nz = aclnnMatmulWeightNz(a: Tensor, b: Tensor, out: Tensor, cube: i8);
            rotary = aclnnRotaryPositionEmbedding(x: Tensor, cos: Tensor, sin: Tensor, mode: i64, out: Tensor);
            attention = aclnnFusedInferAttentionScoreV3(
                query: Tensor, key: List, value: List, shift: Tensor, mask: Tensor, lengths: Ints, lengths_kv: Ints,
                deq_scale1: Tensor, quant_scale1: Tensor, deq_scale2: Tensor, quant_scale2: Tensor, quant_offset2: Tensor,
                antiquant_scale: Tensor, antiquant_offset: Tensor, table: Tensor, query_padding: Tensor,
                kv_padding: Tensor, key_antiquant_scale: Tensor, key_antiquant_offset: Tensor,
                value_antiquant_scale: Tensor, value_antiquant_offset: Tensor, key_prefix: Tensor, value_prefix: Tensor,
                prefix_length: Ints, query_rope: Tensor, key_rope: Tensor, key_rope_scale: Tensor, heads: i64, scale: f64,
                before: i64, after: i64, layout: *const c_char, kv_heads: i64, sparse: i64, precise: i64, block: i64,
                antiquant_mode: i64, lse_flag: bool, key_mode: i64, value_mode: i64, out: Tensor, lse: Tensor
            );
        }
    };
}

macro_rules! operators {
    ($($name:ident = $symbol:ident($($arg:ident: $ty:ty),*);)*) => {
        /// Every operator; `None` where the library lacks it.
        pub(crate) struct Operators {
            $($name: Option<Two<unsafe extern "C" fn($($ty,)* *mut u64, *mut Handle) -> Code>>,)*
        }

        impl Operators {
            /// Looks up what the library has.
            pub(crate) fn load(library: &Library) -> Operators {
                Operators {
                    // SAFETY: the types are those that the operators' pages document; the library stays open.
                    $($name: unsafe {
                        let first = library.get(concat!(stringify!($symbol), "GetWorkspaceSize").as_bytes());
                        let second = library.get(stringify!($symbol).as_bytes());
                        first.ok().zip(second.ok()).map(|(first, second)| Two { first: *first, second: *second })
                    },)*
                }
            }

            /// Whether the library has an operator of this name.
            pub(crate) fn has(&self, symbol: &str) -> bool {
                match symbol {
                    $(stringify!($symbol) => self.$name.is_some(),)*
                    _ => false,
                }
            }
        }

        /// The operators as calls: each makes an executor and runs it.
        pub(crate) trait Calls: Queues {
            $(
                /// The operator of this name.
                ///
                /// # Errors
                /// What its phases answer.
                #[allow(clippy::too_many_arguments, reason = "as many as are documented")]
                fn $name(&mut self, $($arg: $ty),*) -> Result<()> {
                    let Some(two) = &self.operators().$name else {
                        return Err(Error::internal(stringify!($symbol), "libopapi.so has it not"));
                    };
                    // SAFETY: the operands are live objects of AscendCL, or null where that is allowed.
                    let mut first = |size, executor| unsafe { (two.first)($($arg,)* size, executor) };
                    self.two_phases(stringify!($symbol), &mut first, two.second)
                }
            )*
        }

        impl<Q: Queues> Calls for Q {}
    };
}

for_each_operator!(operators);
