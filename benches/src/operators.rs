//! An operand for every operator of the list, at any size.
//!
//! [`work`] is one row per operator, read from the op list: an operator without its `Shapes` here does not compile.

use qiao_core::{
    AttentionAttrs, ConcatAttrs, DType, FillAttrs, GeluAttrs, KvLayout, KvWriteAttrs, LayerNormAttrs, MatmulAttrs,
    MatmulQuantAttrs, NoAttrs, NormAttrs, Op, OpKind, Perm, ReduceAttrs, RopeAttrs, SiluMulAttrs, SliceAttrs,
    SoftmaxAttrs, SplitAttrs, TopKAttrs, TransposeAttrs,
};
use qiao_reference::data::{Rng, block_bytes};

use crate::node::{Data, Work, constant, desc, ints, numbers};

/// The width of a row: that of a small model.
const WIDTH: usize = 1024;
/// Heads of rows, and their size.
const HEAD: usize = 64;
/// Tokens of a page.
const PAGE: usize = 16;

/// Operands of an operator.
trait Shapes {
    /// Work that touches about so many bytes.
    fn of(bytes: usize) -> Work;
}

macro_rules! by_kind {
    ($($(#[doc = $doc:literal])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        mod kinds { $(pub(super) struct $variant;)* }

        /// An operator's work on about so many bytes.
        ///
        /// # Panics
        /// When the kind is not of the list that this was compiled with.
        pub fn work(kind: OpKind, bytes: usize) -> Work {
            match kind {
                $(OpKind::$variant => <kinds::$variant as Shapes>::of(bytes),)*
                _ => panic!("{kind} is not in the op list"),
            }
        }
    };
}

qiao_core::for_each_op!(by_kind);

/// Rows of [`WIDTH`] elements that have about so many bytes, in bf16.
fn rows(bytes: usize) -> Data {
    wide(DType::BF16, bytes)
}

fn wide(dtype: DType, bytes: usize) -> Data {
    let row = WIDTH * dtype.block_bytes();
    numbers(dtype, &[(bytes / row).max(1), WIDTH])
}

/// A row of weights.
fn weights() -> Data {
    constant(numbers(DType::BF16, &[WIDTH]))
}

macro_rules! shapes {
    ($($variant:ident: |$bytes:ident| $work:expr;)*) => {
        $(impl Shapes for kinds::$variant { fn of($bytes: usize) -> Work { $work } })*
    };
}

shapes! {
    Copy: |bytes| Work::new(Op::Copy(NoAttrs {}), vec![rows(bytes / 2)]);
    Cast: |bytes| Work { out: Some(DType::F32), ..Work::new(Op::Cast(NoAttrs {}), vec![rows(bytes / 3)]) };
    Fill: |bytes| fill(bytes);
    GatherRows: |bytes| gather(bytes);
    Add: |bytes| Work::new(Op::Add(NoAttrs {}), vec![rows(bytes / 3), rows(bytes / 3)]);
    Sub: |bytes| Work::new(Op::Sub(NoAttrs {}), vec![rows(bytes / 3), rows(bytes / 3)]);
    Mul: |bytes| Work::new(Op::Mul(NoAttrs {}), vec![rows(bytes / 3), rows(bytes / 3)]);
    Div: |bytes| Work::new(Op::Div(NoAttrs {}), vec![rows(bytes / 3), rows(bytes / 3)]);
    Silu: |bytes| Work::new(Op::Silu(NoAttrs {}), vec![rows(bytes / 2)]);
    Gelu: |bytes| Work::new(Op::Gelu(GeluAttrs::default()), vec![rows(bytes / 2)]);
    Relu: |bytes| Work::new(Op::Relu(NoAttrs {}), vec![rows(bytes / 2)]);
    Sigmoid: |bytes| Work::new(Op::Sigmoid(NoAttrs {}), vec![rows(bytes / 2)]);
    Tanh: |bytes| Work::new(Op::Tanh(NoAttrs {}), vec![rows(bytes / 2)]);
    Exp: |bytes| Work::new(Op::Exp(NoAttrs {}), vec![rows(bytes / 2)]);
    SiluMul: |bytes| Work::new(Op::SiluMul(SiluMulAttrs::default()), vec![rows(bytes / 3), rows(bytes / 3)]);
    Matmul: |bytes| matmul(bytes);
    RmsNorm: |bytes| Work::new(Op::RmsNorm(norm()), vec![rows(bytes / 2), weights()]);
    AddRmsNorm: |bytes| Work::new(Op::AddRmsNorm(norm()), vec![rows(bytes / 4), rows(bytes / 4), weights()]);
    LayerNorm: |bytes| {
        Work::new(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 }), vec![rows(bytes / 2), weights(), weights()])
    };
    Rope: |bytes| rope(bytes);
    Softmax: |bytes| Work::new(Op::Softmax(SoftmaxAttrs { scale: 0.5, causal: false }), vec![rows(bytes / 2)]);
    Reduce: |bytes| Work::new(Op::Reduce(ReduceAttrs { axis: 1, ..Default::default() }), vec![rows(bytes)]);
    Argmax: |bytes| Work::new(Op::Argmax(NoAttrs {}), vec![wide(DType::F32, bytes)]);
    TopK: |bytes| Work::new(Op::TopK(TopKAttrs { k: 40 }), vec![wide(DType::F32, bytes)]);
    KvWrite: |bytes| kv_write(bytes);
    AttentionPrefill: |bytes| prefill(bytes);
    AttentionDecode: |bytes| decode(bytes);
    Sample: |bytes| sample(bytes);
    MatmulQuant: |bytes| matmul_quant(bytes);
    QuantizeDynamic: |bytes| Work::new(Op::QuantizeDynamic(NoAttrs {}), vec![rows(2 * bytes / 3)]);
    ScaledMatmul: |bytes| scaled_matmul(bytes);
    QuantizeStatic: |bytes| Work::new(Op::QuantizeStatic(NoAttrs {}), vec![rows(2 * bytes / 3), one()]);
    Concat: |bytes| Work::new(Op::Concat(ConcatAttrs { axis: 1 }), vec![rows(bytes / 4), rows(bytes / 4)]);
    Split: |bytes| Work::new(Op::Split(SplitAttrs { axis: 1, parts: 2 }), vec![rows(bytes / 2)]);
    Slice: |bytes| {
        let half = SliceAttrs { axis: 1, start: 0, len: (WIDTH / 2) as u32 };
        Work::new(Op::Slice(half), vec![rows(bytes)])
    };
    Transpose: |bytes| {
        let perm = Perm::new(&[1, 0]).expect("two axes in another order");
        Work::new(Op::Transpose(TransposeAttrs { perm }), vec![rows(bytes / 2)])
    };
}

fn norm() -> NormAttrs {
    NormAttrs { eps: 1e-6, ..Default::default() }
}

/// An f32 scale of 1/2.
fn one() -> Data {
    (desc(DType::F32, &[1]), 0.5f32.to_le_bytes().to_vec())
}

/// Ones in f32.
fn ones(count: usize) -> Data {
    (desc(DType::F32, &[count]), 1f32.to_le_bytes().repeat(count))
}

/// A fill writes an operand that is no input: its size is that of the output, which a graph of its own describes.
fn fill(bytes: usize) -> Work {
    let (shape, _) = rows(bytes);
    Work { output: Some(shape), ..Work::new(Op::Fill(FillAttrs { value: 1.5 }), vec![]) }
}

/// Half as many rows as the table has, scattered.
fn gather(bytes: usize) -> Work {
    let table = constant(rows(bytes / 2));
    let count = table.0.shape[0];
    let ids = ints(&[count.div_ceil(2)], (0..count.div_ceil(2)).map(|i| i * 7919 % count));
    Work::new(Op::GatherRows(NoAttrs {}), vec![table, ids])
}

/// Rows of activations that a matrix of about so many bytes is multiplied with: one beyond the caches, where it is read
/// from memory, and many within them.
fn height(bytes: usize) -> usize {
    if bytes > 8 << 20 { 1 } else { 64 }
}

fn matmul(bytes: usize) -> Work {
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    let w = constant(rows(bytes));
    Work { product: true, ..Work::new(op, vec![numbers(DType::BF16, &[height(bytes), WIDTH]), w]) }
}

/// Weights in Q4_0.
fn matmul_quant(bytes: usize) -> Work {
    let format = DType::Q4_0;
    let blocks = WIDTH / format.block_elems();
    let n = (bytes / (blocks * format.block_bytes())).max(1);
    let w = (desc(format, &[n, WIDTH]), block_bytes(&mut Rng::new(1), format, n * blocks));
    let op = Op::MatmulQuant(MatmulQuantAttrs::default());
    Work { product: true, ..Work::new(op, vec![numbers(DType::BF16, &[height(bytes), WIDTH]), constant(w)]) }
}

fn scaled_matmul(bytes: usize) -> Work {
    let (n, m) = ((bytes / WIDTH).max(1), height(bytes));
    let b = constant(numbers(DType::I8, &[n, WIDTH]));
    let operands = vec![numbers(DType::I8, &[m, WIDTH]), b, ones(m), ones(n)];
    Work { product: true, out: Some(DType::BF16), ..Work::new(Op::ScaledMatmul(NoAttrs {}), operands) }
}

/// Every token at a position of its own, up to 4096.
fn rope(bytes: usize) -> Work {
    let heads = WIDTH / HEAD;
    let tokens = (bytes / 4 / WIDTH).max(1);
    let positions = tokens.min(4096);
    let x = numbers(DType::BF16, &[tokens, heads, HEAD]);
    let table = || constant(numbers(DType::F32, &[positions, HEAD / 2]));
    let at = ints(&[tokens], (0..tokens).map(|t| t % positions));
    Work::new(Op::Rope(RopeAttrs::default()), vec![x, at, table(), table()])
}

fn sample(bytes: usize) -> Work {
    let vocab = 32_768;
    let b = (bytes / 4 / vocab).max(1);
    let column = |value: f32| (desc(DType::F32, &[b]), value.to_le_bytes().repeat(b));
    let logits = numbers(DType::F32, &[b, vocab]);
    let top_k = ints(&[b], std::iter::repeat_n(40, b));
    Work::new(Op::Sample(NoAttrs {}), vec![logits, column(0.5), column(0.8), top_k, column(0.95), column(0.0)])
}

/// Caches of keys and of values, with room for so many tokens: eight heads to a page.
fn caches(tokens: usize) -> [Data; 2] {
    let pages = tokens.div_ceil(PAGE);
    [(); 2].map(|()| numbers(DType::BF16, &[pages, WIDTH / HEAD, PAGE, HEAD]))
}

const PAGES: KvLayout = KvLayout::BlockHeadToken;

/// Every token to a slot of its own.
fn kv_write(bytes: usize) -> Work {
    let tokens = (bytes / 8 / WIDTH).max(1);
    let new = || numbers(DType::BF16, &[tokens, WIDTH / HEAD, HEAD]);
    let slots = ints(&[tokens], 0..tokens);
    let [k, v] = caches(tokens);
    Work::new(Op::KvWrite(KvWriteAttrs { kv_layout: PAGES }), vec![new(), new(), slots, k, v])
}

fn attention() -> AttentionAttrs {
    AttentionAttrs { causal: true, kv_layout: PAGES, ..Default::default() }
}

/// One query of four heads to each of those cached, after as many keys as the caches hold.
fn decode(bytes: usize) -> Work {
    let context = (bytes / 4 / WIDTH).max(1);
    let [k, v] = caches(context);
    let q = numbers(DType::BF16, &[1, 4 * WIDTH / HEAD, HEAD]);
    let pages = context.div_ceil(PAGE);
    let operands = vec![q, k, v, ints(&[1], std::iter::once(context)), ints(&[1, pages], 0..pages)];
    Work { product: true, ..Work::new(Op::AttentionDecode(attention()), operands) }
}

/// A prompt that has the caches to itself, at most 512 tokens of it as queries.
fn prefill(bytes: usize) -> Work {
    let context = (bytes / 4 / WIDTH).max(1);
    let queries = context.min(512);
    let [k, v] = caches(context);
    let q = numbers(DType::BF16, &[queries, WIDTH / HEAD, HEAD]);
    let pages = context.div_ceil(PAGE);
    let operands = vec![
        q,
        k,
        v,
        ints(&[2], [0, queries].into_iter()),
        ints(&[1], std::iter::once(context)),
        ints(&[1, pages], 0..pages),
    ];
    Work { product: true, ..Work::new(Op::AttentionPrefill(attention()), operands) }
}
