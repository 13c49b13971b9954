//! The table of kernels: what there is, under which name, for which tier.

use half::{bf16, f16};

use crate::attention::{Ahead, AttentionDigits, AttentionPairs, Cached, E4m3, E5m2, PackKeys, Soften, WeighValues};
use crate::gemm::GemmBlock;
use crate::isa::{Features, Isa, IsaError, detect};
use crate::layout::Weight;
use crate::quant::{PackIntegers, QuantCodes, QuantFormat, QuantKernel, QuantOffset, QuantScales};
use crate::rows::RowMut;

/// A kernel and the name it is printed under, `what.how`.
#[derive(Clone, Copy, Debug)]
pub struct Entry<F> {
    /// For example `rms_norm_f32.avx2`.
    pub name: &'static str,
    /// The kernel.
    pub run: F,
}

/// A GEMM micro-kernel and its tile.
#[derive(Clone, Copy, Debug)]
pub struct Gemm<A, W, C> {
    /// For example `gemm_bf16_12x32.avx512`.
    pub name: &'static str,
    /// Rows of the tile, and of the micro-panels of packed activations.
    pub mr: usize,
    /// Columns that are computed together. Any number of panels is accepted; a multiple of this
    /// is fastest.
    pub nr: usize,
    /// The length of a block of K that keeps a micro-panel of activations in the first-level
    /// cache; a multiple of every K step. The result does not depend on it.
    pub kc: usize,
    /// The kernel.
    ///
    /// # Safety
    /// Each of the block's `m` rows of C has `columns` writable elements that nobody else touches.
    ///
    /// # Panics
    /// When the slices are too short for the counts.
    pub run: unsafe fn(&GemmBlock<'_, A, W, C>),
}

/// Writes one micro-panel `[ceil(kc/step)][mr][step]` of activations: `(dst, a, lda, m, kc)`.
///
/// `a` starts at the block's first row and input and has `lda` elements from row to row;
/// rows from `m` to `mr` become zeros. A kernel reads what was packed for as many rows as it is given.
pub type PackA<A, P> = fn(dst: &mut [P], a: &[A], lda: usize, m: usize, kc: usize);

/// The packing of i8 activations and the kernel that reads it.
pub(crate) type Int8 = (Entry<PackA<i8, i8>>, Gemm<i8, i8, i32>);

/// The packing of activations as integers, and the kernels that multiply them by codes.
pub(crate) type IntegerKernels = (Entry<PackIntegers>, &'static [QuantKernel]);

/// `y[j] (+)= Σ x[k]·w[j][k]`: `(y, x, w, panel_stride, accumulate)`.
///
/// `y` has one element per output feature, `x` one per input. A long matrix is split over
/// threads by passing parts of `y` that start at multiples of 16, with their panels.
pub type Gemv<W> = fn(y: &mut [f32], x: &[f32], w: &[W], panel_stride: usize, accumulate: bool);

/// [`Gemv`] of a row of bf16 with an even number of inputs, the last a zero where there are fewer.
pub type GemvDot = fn(y: &mut [f32], x: &[bf16], w: &[bf16], panel_stride: usize, accumulate: bool);

/// `out = x` in another dtype, equal lengths: `(out, x)`.
pub type Convert<From, To> = fn(out: &mut [To], x: &[From]);

/// `out = x / divisor`, rounded once, equal lengths; zeros where the divisor is 0: `(out, x, divisor)`.
pub type Quotients<To> = fn(out: &mut [To], x: &[f32], divisor: f32);

/// One value from two rows of equal lengths.
pub type Dot = fn(a: &[f32], b: &[f32]) -> f32;

/// `y += alpha · x`, equal lengths.
pub type Axpy = fn(y: &mut [f32], alpha: f32, x: &[f32]);

/// Quantises a row, returns its scale: `(out, x)`, equal lengths.
pub type QuantizeRow = fn(out: &mut [i8], x: &[f32]) -> f32;

/// `out = f(x)`, equal lengths.
pub type Unary = fn(out: &mut [f32], x: &[f32]);

/// `out = f(a, b)`, equal lengths.
pub type Binary = fn(out: &mut [f32], a: &[f32], b: &[f32]);

/// One value from a row.
pub type Reduce = fn(x: &[f32]) -> f32;

/// Rotary embedding of one head in place: `(x, cos, sin, rotary_dim)`; `cos` and `sin` hold
/// `rotary_dim / 2` elements, and elements of `x` from `rotary_dim` on stay.
pub type Rope = fn(x: &mut [f32], cos: &[f32], sin: &[f32], rotary_dim: usize);

/// Turns a block of keys around: `out[d * KEY_BLOCK + j] = keys[j][d]`, as f32.
///
/// # Safety
/// Each of the keys holds `dim` elements.
pub type Pack<T> = unsafe fn(out: &mut [f32], keys: &PackKeys<'_, T>);

/// `scores[r * KEYS + j] = q[r]·k[j]` for a packed block of keys: `(scores, q, rows, k, dim)`, q `[rows, dim]`.
pub type Qk = fn(scores: &mut [f32], q: (&[f32], usize), k: &[f32], dim: usize, ahead: Ahead<'_>);

/// Makes weights of a row of scores; gives the row's largest score so far, and the sum of these weights.
pub type SoftenRow = fn(row: &mut Soften<'_>) -> (f32, f32);

/// Adds up weighted values.
///
/// # Safety
/// Each of the values `first..end` holds `dim` elements.
pub type Pv<T> = unsafe fn(values: &mut WeighValues<'_, T>);

/// `(out, x, w, eps, weight_offset)`.
pub type RmsNorm<X, T> = fn(out: RowMut<'_, T>, x: &[X], w: &[f32], eps: f32, weight_offset: f32);

/// `(out, x, w, b, eps)`.
pub type LayerNorm<T> = fn(out: RowMut<'_, T>, x: &[T], w: &[f32], b: &[f32], eps: f32);

/// `(out, x, max)`; gives the sum.
pub type ExpSubSum<T> = fn(out: &mut [f32], x: &[T], max: f32) -> f32;

/// `(out, (p, factor), next, x)`; gives the next factor.
pub type Softmax<T> = fn(out: RowMut<'_, T>, p: (&[f32], f32), next: &mut [f32], x: &[T]) -> f32;

/// `(out, x, cos, sin, (first, dim))`; as many elements of `cos` as of `sin`, and `dim` not 0.
pub type RopeTo<T> = fn(out: RowMut<'_, T>, x: &[T], cos: &[f32], sin: &[f32], place: (usize, usize));

/// `out = a + b`, equal lengths.
pub type SumOf<T> = fn(out: &mut [f32], a: &[T], b: &[T]);

/// `out = alpha · x`, equal lengths.
pub type Scaled<T> = fn(out: RowMut<'_, T>, x: &[f32], alpha: f32);

/// Kernels that read and write rows of a dtype as they lie.
#[derive(Clone, Copy, Debug)]
pub struct Rows<T: 'static> {
    /// `x · (w + weight_offset) / √(mean(x²) + eps)`
    pub rms_norm: Entry<RmsNorm<T, T>>,
    /// The same of a row of f32; bit-identical to that of this dtype where the row holds its values.
    pub rms_norm_of_f32: Entry<RmsNorm<f32, T>>,
    /// `(x - mean) / √(variance + eps) · w + b`
    pub layer_norm: Entry<LayerNorm<T>>,
    /// `out = a + b`, not rounded.
    pub sum_of: Entry<SumOf<T>>,
    /// `out = alpha · x`
    pub scaled: Entry<Scaled<T>>,
    /// The largest element; NaN where there is one; -∞ for an empty row.
    pub max: Entry<fn(x: &[T]) -> f32>,
    /// `out = exp(x - max)`, returning the sum; zeros and 0 where `max` is -∞.
    pub exp_sub_sum: Entry<ExpSubSum<T>>,
    /// A row of a softmax, `out = p · factor`, and beside it the next one's `next = exp(x - m)`, where m is the largest of x, whose
    /// factor is the result; zeros where m is -∞. Rows may be empty.
    pub softmax: Entry<Softmax<T>>,
    /// Rotates the pairs `(x[first + i], x[first + i + h])` of each `dim` elements for `h` angles (NeoX); the others are copied.
    pub rope_half_split: Entry<RopeTo<T>>,
    /// Rotates the pairs `(x[first + 2i], x[first + 2i + 1])` of each `dim` elements (GPT-J); the others are copied.
    pub rope_neighbours: Entry<RopeTo<T>>,
}

/// Every kernel of one tier. Slices of wrong lengths panic.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// The tier.
    pub isa: Isa,

    /// f16 to f32, exact.
    pub f16_to_f32: Entry<Convert<f16, f32>>,
    /// bf16 to f32, exact.
    pub bf16_to_f32: Entry<Convert<bf16, f32>>,
    /// f32 to f16, to nearest even; overflow gives infinity, a NaN stays a quiet NaN.
    pub f32_to_f16: Entry<Convert<f32, f16>>,
    /// f32 to bf16, to nearest even; overflow gives infinity, a NaN stays a quiet NaN.
    pub f32_to_bf16: Entry<Convert<f32, bf16>>,
    /// Quotients of f32 to fp8 1-4-3, to nearest even; overflow saturates at ±448, and every NaN has one code.
    pub f32_to_e4m3: Entry<Quotients<E4m3>>,
    /// Quotients of f32 to fp8 1-5-2, to nearest even; overflow saturates at ±57344, and every NaN has one code.
    pub f32_to_e5m2: Entry<Quotients<E5m2>>,

    /// Packs f32 activations for `gemm_f32`, `gemm_f16` and `gemm_bf16`, which share `mr`.
    pub pack_a_f32: Entry<PackA<f32, f32>>,
    /// Packs f16 activations, as f32.
    pub pack_a_f16: Entry<PackA<f16, f32>>,
    /// Packs bf16 activations, as f32.
    pub pack_a_bf16: Entry<PackA<bf16, f32>>,
    /// f32 weights.
    pub gemm_f32: Gemm<f32, f32, f32>,
    /// f16 weights, f32 activations.
    pub gemm_f16: Gemm<f32, f16, f32>,
    /// bf16 weights, f32 activations.
    pub gemm_bf16: Gemm<f32, bf16, f32>,
    /// Packs bf16 activations for `gemm_bf16_dot`: `[ceil(kc/2)][mr][2]`, or as the tiles of [`Isa::Amx`] lie.
    pub pack_a_bf16_dot: Entry<PackA<bf16, bf16>>,
    /// bf16 weights and bf16 activations, pairs of products added in f32; absent where
    /// `gemm_bf16` is faster. Subnormals may count as zero. Blocks of K but the last are multiples of 32 inputs, whose
    /// sums [`Isa::Amx`] takes together.
    pub gemm_bf16_dot: Option<Gemm<bf16, bf16, f32>>,
    /// One row times bf16 weights; bit-identical to that row of `gemm_bf16_dot`, in blocks of K as there, and absent
    /// where that is.
    pub gemv_bf16_dot: Option<Entry<GemvDot>>,
    /// Packs i8 activations for `gemm_i8`: `[ceil(kc/4)][mr][4]`, or as the tiles of [`Isa::Amx`] lie.
    pub pack_a_i8: Entry<PackA<i8, i8>>,
    /// i8 weights and activations, i32 result, exact once all of K is in: with K in blocks, the
    /// result between blocks is unspecified. `w` of a block that does not accumulate starts at
    /// the panel's start, and `panel_stride` is [`panel_len_i8`](crate::panel_len_i8) of all of K.
    pub gemm_i8: Gemm<i8, i8, i32>,

    /// One row times f32 weights; bit-identical to that row of `gemm_f32`.
    pub gemv_f32: Entry<Gemv<f32>>,
    /// One row times f16 weights; bit-identical to that row of `gemm_f16`.
    pub gemv_f16: Entry<Gemv<f16>>,
    /// One row times bf16 weights; bit-identical to that row of `gemm_bf16`.
    pub gemv_bf16: Entry<Gemv<bf16>>,

    /// `a + b`
    pub add: Entry<Binary>,
    /// `a - b`
    pub sub: Entry<Binary>,
    /// `a · b`
    pub mul: Entry<Binary>,
    /// `a / b`
    pub div: Entry<Binary>,
    /// `silu(a) · b`, rounded once.
    pub silu_mul: Entry<Binary>,
    /// `x / (1 + exp(-x))`; NaN at -∞.
    pub silu: Entry<Unary>,
    /// `x · (1 + erf(x/√2)) / 2`; NaN at -∞.
    pub gelu_erf: Entry<Unary>,
    /// `x · (1 + tanh(√(2/π)(x + 0.044715 x³))) / 2`; NaN at -∞.
    pub gelu_tanh: Entry<Unary>,
    /// `max(x, 0)`
    pub relu: Entry<Unary>,
    /// `1 / (1 + exp(-x))`
    pub sigmoid: Entry<Unary>,
    /// `tanh(x)`
    pub tanh: Entry<Unary>,
    /// `exp(x)`
    pub exp: Entry<Unary>,

    /// `Σ x`
    pub sum: Entry<Reduce>,
    /// `Σ x²`
    pub sum_squares: Entry<Reduce>,
    /// The largest magnitude; NaN where there is one; 0 for an empty row.
    pub largest: Entry<Reduce>,
    /// `Σ a·b`
    pub dot: Entry<Dot>,
    /// `x = alpha · x` in place.
    pub scale: Entry<fn(&mut [f32], f32)>,
    /// `y += alpha · x`: `(y, alpha, x)`.
    pub axpy: Entry<Axpy>,
    /// On rows of f32.
    pub rows_f32: Rows<f32>,
    /// On rows of f16.
    pub rows_f16: Rows<f16>,
    /// On rows of bf16.
    pub rows_bf16: Rows<bf16>,
    /// Rotates the pairs `(x[2i], x[2i + 1])` (GPT-J).
    pub rope_interleaved: Entry<Rope>,

    /// Packs f32 keys.
    pub pack_keys_f32: Entry<Pack<f32>>,
    /// Packs f16 keys.
    pub pack_keys_f16: Entry<Pack<f16>>,
    /// Packs bf16 keys.
    pub pack_keys_bf16: Entry<Pack<bf16>>,
    /// Packs i8 keys.
    pub pack_keys_i8: Entry<Pack<i8>>,
    /// Packs fp8 1-4-3 keys.
    pub pack_keys_e4m3: Entry<Pack<E4m3>>,
    /// Packs fp8 1-5-2 keys.
    pub pack_keys_e5m2: Entry<Pack<E5m2>>,
    /// Scores against packed keys.
    pub qk: Entry<Qk>,
    /// A row of scores to weights; the row's largest score so far, and the sum of these weights.
    pub soften: Entry<SoftenRow>,
    /// Attention on pairs of bf16; absent where widening is faster. Subnormals may count as zero.
    pub attention_pairs: Option<AttentionPairs>,
    /// Attention on i8 caches in integers; absent where widening is faster.
    pub attention_digits: Option<AttentionDigits>,
    /// Weighted sum of f32 values.
    pub pv_f32: Entry<Pv<f32>>,
    /// Weighted sum of f16 values.
    pub pv_f16: Entry<Pv<f16>>,
    /// Weighted sum of bf16 values.
    pub pv_bf16: Entry<Pv<bf16>>,
    /// Weighted sum of i8 values.
    pub pv_i8: Entry<Pv<i8>>,
    /// Weighted sum of fp8 1-4-3 values.
    pub pv_e4m3: Entry<Pv<E4m3>>,
    /// Weighted sum of fp8 1-5-2 values.
    pub pv_e5m2: Entry<Pv<E5m2>>,

    /// Quantises a row and returns its scale, `absmax / 127`; `q = x / scale` to nearest even,
    /// saturating. A zero row gives scale 0 and zeros. NaN in a row makes the scale NaN, else ∞
    /// makes it ∞; a quotient that is NaN gives 0.
    pub quantize_row_i8: Entry<QuantizeRow>,

    /// f32 of the scales in a panel of quantised weights.
    pub quant_scales: Entry<QuantScales>,
    /// Packs rows of activations for products with quantised weights whose codes are integers.
    pub pack_integers: Entry<PackIntegers>,
    /// Products and decoders of quantised weights; [`Kernels::quant`] picks one.
    pub quant_kernels: &'static [QuantKernel],
    /// Bits of these integers: 16, or 8 after [`Kernels::with_bytes`].
    pub integer_bits: u32,
    /// The packing and the kernels of integers of 8 bits.
    pub(crate) bytes: IntegerKernels,
}

impl Kernels {
    /// The same with activations of 8 bits for quantised weights: an error of up to half a 127th of the largest input among 32,
    /// and half the arithmetic where the tier has sums of products of bytes. They have the same bits on every tier, as those
    /// of 16 bits do.
    pub fn with_bytes(self) -> Self {
        let (pack_integers, quant_kernels) = self.bytes;
        Kernels { pack_integers, quant_kernels, integer_bits: 8, ..self }
    }

    /// The kernel for a format, `zeros` where zeros lie beside its scales; `None` where there is none.
    pub fn quant(&self, format: QuantFormat, zeros: bool) -> Option<&QuantKernel> {
        let name = match (format.codes(), format.offset(zeros)) {
            (QuantCodes::Bits(4, 0), QuantOffset::None) => "q4",
            (QuantCodes::Bits(4, 0), QuantOffset::Min) => "q4_min",
            (QuantCodes::Bits(4, 0), QuantOffset::Zero) => "q4_zero",
            (QuantCodes::Bits(4, 1), QuantOffset::None) => "q5",
            (QuantCodes::Bits(4, 1), QuantOffset::Min) => "q5_min",
            (QuantCodes::Bits(4, 2), QuantOffset::None) => "q6",
            (QuantCodes::Bits(2, 0), QuantOffset::Min) => "q2_min",
            (QuantCodes::Bits(2, 1), QuantOffset::None) => "q3",
            (QuantCodes::Table, QuantOffset::None) => "t4",
            (QuantCodes::Table, QuantOffset::Zero) => "t4_zero",
            (QuantCodes::Bytes, QuantOffset::None) => "q8",
            (QuantCodes::Bytes, QuantOffset::Zero) => "q8_zero",
            (QuantCodes::E4M3, QuantOffset::None) => "f8_e4m3",
            (QuantCodes::E5M2, QuantOffset::None) => "f8_e5m2",
            _ => return None,
        };
        let is = |k: &&QuantKernel| k.name.strip_prefix("gemv_").and_then(|k| k.split('.').next()) == Some(name);
        self.quant_kernels.iter().find(is)
    }
}

/// The table of a tier. `features` may be what [`detect`] returns, or less.
///
/// # Errors
/// When `features` or the machine lacks the tier, or the machine lacks a claimed feature.
pub fn kernels(isa: Isa, features: &Features) -> Result<Kernels, IsaError> {
    features.within(&detect())?;
    // SAFETY: the machine was just seen to have all of it.
    unsafe { kernels_unchecked(isa, features) }
}

/// As [`kernels`], on the caller's word instead of the machine's: for tests that emulate instructions which the machine
/// lacks.
///
/// # Errors
/// When `features` lack the tier.
///
/// # Safety
/// In every thread that runs a kernel of the table, the instructions of `features`, the tier and all tiers below it
/// among them, do what the processor's manual says, be it in hardware or by a trap.
pub unsafe fn kernels_unchecked(isa: Isa, features: &Features) -> Result<Kernels, IsaError> {
    if isa > features.isa {
        return Err(IsaError::Missing { asked: isa, best: features.isa });
    }
    Ok(match isa {
        Isa::Scalar => crate::scalar::table(features),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => crate::avx2::table(features),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => crate::avx512::table(features),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => crate::amx::table(features),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => crate::scalar::table(features),
    })
}

/// A dtype with kernels of its own: lets a caller be generic over f32, f16 and bf16.
pub trait Element: Weight {
    /// Packs activations of this dtype, as f32.
    fn pack_a(k: &Kernels) -> &Entry<PackA<Self, f32>>;
    /// GEMM over weights of this dtype.
    fn gemm(k: &Kernels) -> &Gemm<f32, Self, f32>;
    /// GEMV over weights of this dtype.
    fn gemv(k: &Kernels) -> &Entry<Gemv<Self>>;
    /// Kernels on rows of this dtype.
    fn rows(k: &Kernels) -> &Rows<Self>;
}

macro_rules! element {
    ($t:ty, $pack_a:ident, $gemm:ident, $gemv:ident, $rows:ident) => {
        impl Element for $t {
            fn pack_a(k: &Kernels) -> &Entry<PackA<Self, f32>> {
                &k.$pack_a
            }
            fn gemm(k: &Kernels) -> &Gemm<f32, Self, f32> {
                &k.$gemm
            }
            fn gemv(k: &Kernels) -> &Entry<Gemv<Self>> {
                &k.$gemv
            }
            fn rows(k: &Kernels) -> &Rows<Self> {
                &k.$rows
            }
        }
    };
}

element!(f32, pack_a_f32, gemm_f32, gemv_f32, rows_f32);
element!(f16, pack_a_f16, gemm_f16, gemv_f16, rows_f16);
element!(bf16, pack_a_bf16, gemm_bf16, gemv_bf16, rows_bf16);

/// A dtype of cached keys and values: lets a caller be generic over those that there are.
pub trait CacheElement: Cached {
    /// Packs keys of this dtype.
    fn pack_keys(k: &Kernels) -> &Entry<Pack<Self>>;
    /// Weighted sum of values of this dtype.
    fn pv(k: &Kernels) -> &Entry<Pv<Self>>;
}

macro_rules! cache_element {
    ($($t:ty, $pack:ident, $pv:ident;)+) => {$(
        impl CacheElement for $t {
            fn pack_keys(k: &Kernels) -> &Entry<Pack<Self>> {
                &k.$pack
            }
            fn pv(k: &Kernels) -> &Entry<Pv<Self>> {
                &k.$pv
            }
        }
    )+};
}

cache_element! {
    f32, pack_keys_f32, pv_f32;
    f16, pack_keys_f16, pv_f16;
    bf16, pack_keys_bf16, pv_bf16;
    i8, pack_keys_i8, pv_i8;
    E4m3, pack_keys_e4m3, pv_e4m3;
    E5m2, pack_keys_e5m2, pv_e5m2;
}
