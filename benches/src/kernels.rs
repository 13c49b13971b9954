//! Micro-kernels of every tier: those that work on rows as they are called, products and attention inside the smallest
//! operator that runs them.
//!
//! [`rows`] calls the entries of a tier's table. What vouches for pointers (GEMM, packed attention, quantised weights) can't
//! be called from here; [`nodes`] are operators on a device of that tier with one thread, named by the kernel that answers.

use std::sync::Arc;

use half::{bf16, f16};
use qiao_core::{
    AttentionAttrs, DType, Device, Graph, KvLayout, MatmulAttrs, MatmulQuantAttrs, NoAttrs, NormAttrs, Op, Result,
    RopeAttrs, SoftmaxAttrs, Support,
};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_kernels_cpu::{E4m3, E5m2, Element, Isa, Kernels, RowMut, detect};
use qiao_reference::data::{Rng, block_bytes};

use crate::node::{Data, Node, Work, constant, desc, ints, numbers};

/// Elements of a row: in the first-level cache with its like.
pub const ROW: usize = 4096;

/// Something that can be timed or counted.
pub struct Timed {
    /// `what.how`, as kernels are printed.
    pub name: String,
    /// Bytes that a run touches.
    pub bytes: u64,
    /// Operations of a run where it is a product, a multiply-add as two; else none.
    pub ops: u64,
    /// One run.
    pub run: Box<dyn FnMut()>,
}

/// Tiers that this machine has, weakest first.
pub fn tiers() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| *isa <= detect().isa)
}

/// A device of a tier with one thread.
///
/// # Errors
/// The machine lacks the tier.
pub fn device(isa: Isa) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(CpuDevice::with(&CpuOptions { isa: Some(isa), threads: Some(1), ..Default::default() })?))
}

fn row() -> Vec<f32> {
    (0..ROW).map(|i| ((i * 37 % 101) as f32 - 50.5) / 64.0).collect()
}

/// Every kernel of the table that works on rows.
pub fn rows(k: &Kernels) -> Vec<Timed> {
    let mut all = Vec::new();
    let mut add = |name: &str, touched: usize, run: Box<dyn FnMut()>| {
        all.push(Timed { name: name.into(), bytes: touched as u64, ops: 0, run });
    };
    let (x, narrow16, narrow) = (row(), row().into_iter().map(f16::from_f32), row().into_iter().map(bf16::from_f32));
    let (x16, xb): (Vec<f16>, Vec<bf16>) = (narrow16.collect(), narrow.collect());
    macro_rules! entry {
        ($field:ident, $bytes:expr, $run:ident, [$($state:ident = $init:expr),*], $call:expr) => {{
            let $run = k.$field.run;
            $(#[allow(unused_mut, reason = "some kernels write what others read")] let mut $state = $init;)*
            add(k.$field.name, $bytes * ROW, Box::new(move || { std::hint::black_box($call); }));
        }};
    }
    entry!(f16_to_f32, 6, run, [y = vec![0f32; ROW], a = x16.clone()], run(&mut y, &a));
    entry!(bf16_to_f32, 6, run, [y = vec![0f32; ROW], a = xb.clone()], run(&mut y, &a));
    entry!(f32_to_f16, 6, run, [y = x16.clone(), a = x.clone()], run(&mut y, &a));
    entry!(f32_to_bf16, 6, run, [y = xb.clone(), a = x.clone()], run(&mut y, &a));
    entry!(f32_to_e4m3, 5, run, [y = vec![E4m3(0); ROW], a = x.clone()], run(&mut y, &a, 0.5));
    entry!(f32_to_e5m2, 5, run, [y = vec![E5m2(0); ROW], a = x.clone()], run(&mut y, &a, 0.5));
    macro_rules! binary {
        ($($field:ident)+) => {
            $(entry!($field, 12, run, [y = vec![0f32; ROW], a = x.clone(), b = x.clone()], run(&mut y, &a, &b));)+
        };
    }
    binary!(add sub mul div silu_mul);
    macro_rules! unary {
        ($($field:ident)+) => { $(entry!($field, 8, run, [y = vec![0f32; ROW], a = x.clone()], run(&mut y, &a));)+ };
    }
    unary!(silu gelu_erf gelu_tanh relu sigmoid tanh exp);
    macro_rules! reduce {
        ($($field:ident)+) => { $(entry!($field, 4, run, [a = x.clone()], run(&a));)+ };
    }
    reduce!(sum sum_squares largest);
    entry!(dot, 8, run, [a = x.clone(), b = x.clone()], run(&a, &b));
    entry!(scale, 8, run, [a = x.clone()], run(&mut a, 1.0));
    entry!(axpy, 12, run, [y = vec![0f32; ROW], a = x.clone()], run(&mut y, 0.0, &a));
    entry!(
        rope_interleaved,
        8,
        run,
        [a = x.clone(), c = vec![1f32; ROW / 2], s = vec![0f32; ROW / 2]],
        run(&mut a, &c, &s, ROW)
    );
    entry!(quantize_row_i8, 5, run, [y = vec![0i8; ROW], a = x.clone()], run(&mut y, &a));
    typed(k, x, &mut all);
    typed(k, x16, &mut all);
    typed(k, xb, &mut all);
    all
}

/// Kernels that read and write rows of a dtype as they lie.
fn typed<T: Element>(k: &Kernels, x: Vec<T>, all: &mut Vec<Timed>) {
    let rows = *T::rows(k);
    let size = size_of::<T>();
    let w = row();
    macro_rules! entry {
        ($field:ident, $bytes:expr, |$run:ident, $of:ident| $call:expr) => {{
            let $run = rows.$field.run;
            #[allow(unused_mut, reason = "some kernels write what others read")]
            let mut $of = Typed { x: x.clone(), w: w.clone(), to: x.clone(), wide: w.clone() };
            let run = Box::new(move || {
                std::hint::black_box($call);
            });
            all.push(Timed { name: rows.$field.name.into(), bytes: ($bytes * ROW) as u64, ops: 0, run });
        }};
    }
    entry!(rms_norm, 2 * size + 4, |run, of| run(RowMut::kept(&mut of.to), &of.x, &of.w, 1e-6, 0.0));
    entry!(rms_norm_of_f32, size + 8, |run, of| run(RowMut::kept(&mut of.to), &of.wide, &of.w, 1e-6, 0.0));
    entry!(layer_norm, 2 * size + 8, |run, of| run(RowMut::kept(&mut of.to), &of.x, &of.w, &of.w, 1e-6));
    entry!(sum_of, 2 * size + 4, |run, of| run(&mut of.wide, &of.x, &of.x));
    entry!(scaled, size + 4, |run, of| run(RowMut::kept(&mut of.to), &of.wide, 1.0));
    entry!(max, size, |run, of| run(&of.x));
    entry!(exp_sub_sum, size + 4, |run, of| run(&mut of.wide, &of.x, 1.0));
    entry!(softmax, 2 * size + 8, |run, of| run(RowMut::kept(&mut of.to), (&of.w, 1.0), &mut of.wide, &of.x));
    entry!(rope_half_split, 2 * size + 4, |run, of| {
        let (cos, sin) = of.w.split_at(ROW / 2);
        run(RowMut::kept(&mut of.to), &of.x, cos, sin, (0, ROW))
    });
    entry!(rope_neighbours, 2 * size + 4, |run, of| {
        let (cos, sin) = of.w.split_at(ROW / 2);
        run(RowMut::kept(&mut of.to), &of.x, cos, sin, (0, ROW))
    });
}

/// What kernels on rows of a dtype read and write.
struct Typed<T> {
    x: Vec<T>,
    w: Vec<f32>,
    to: Vec<T>,
    wide: Vec<f32>,
}

/// Kernels that [`rows`] does not call, and the words that their names begin with: [`nodes`] run them.
pub const INSIDE_OPERATORS: &[&str] = &[
    "pack_",
    "gemm_",
    "gemv_",
    "qk_",
    "pv_",
    "soften",
    "round_weights",
    "split_digits",
    "digits_",
    "quant_",
    "decode_",
];

/// How large the operators of [`nodes`] are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Outputs of a product.
    pub n: usize,
    /// Inputs of a product; whole blocks of 256.
    pub k: usize,
    /// Rows of activations.
    pub heights: [usize; 3],
    /// Keys that are attended; whole pages of 16.
    pub context: usize,
    /// Queries of a prompt.
    pub queries: usize,
}

impl Sizes {
    /// To be timed: weights that are within the second-level cache at 4 bits and beyond it at 32; rows of a decode step, of a
    /// few sequences and of a prompt.
    pub const TIMED: Sizes = Sizes { n: 512, k: 1024, heights: [1, 4, 64], context: 1024, queries: 64 };
    /// To be counted, instruction by instruction.
    pub const COUNTED: Sizes = Sizes { n: 64, k: 512, heights: [1, 4, 16], context: 256, queries: 16 };
}

fn product(op: Op, a: DType, [m, k]: [usize; 2], weights: Vec<Option<Data>>, out: DType) -> Work {
    let operands = std::iter::once(Some(numbers(a, &[m, k]))).chain(weights).collect();
    Work { op, operands, out: Some(out), output: None, product: true }
}

impl Sizes {
    fn matmul(self, dtype: DType, m: usize) -> Work {
        let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        product(op, dtype, [m, self.k], vec![Some(constant(numbers(dtype, &[self.n, self.k])))], dtype)
    }

    fn blocks(self, format: DType, m: usize) -> Work {
        let count = self.n * self.k / format.block_elems();
        let bytes = block_bytes(&mut Rng::new(1), format, count);
        let w = constant((desc(format, &[self.n, self.k]), bytes));
        let op = Op::MatmulQuant(MatmulQuantAttrs::default());
        product(op, DType::BF16, [m, self.k], vec![Some(w)], DType::BF16)
    }

    /// Codes in groups of 128, with zeros where they are unsigned.
    fn groups(self, codes: DType, m: usize) -> Work {
        let of = [self.n, self.k / 128];
        let scales = (desc(DType::F16, &of), 0x2c00u16.to_le_bytes().repeat(of[0] * of[1]));
        let zeros = (codes == DType::U4).then(|| constant(numbers(codes, &of)));
        let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: 128, ..Default::default() });
        let weights = vec![Some(constant(numbers(codes, &[self.n, self.k]))), Some(constant(scales)), zeros];
        product(op, DType::BF16, [m, self.k], weights, DType::BF16)
    }

    fn int8(self, m: usize) -> Work {
        let ones = |count: usize| Some((desc(DType::F32, &[count]), 1f32.to_le_bytes().repeat(count)));
        let weights = vec![Some(constant(numbers(DType::I8, &[self.n, self.k]))), ones(m), ones(self.n)];
        product(Op::ScaledMatmul(NoAttrs {}), DType::I8, [m, self.k], weights, DType::BF16)
    }

    /// Queries of two groups of four heads against a cache: one token, or a prompt's.
    fn attention(self, dtype: DType, queries: usize) -> Work {
        const PAGE: usize = 16;
        let (kv_heads, group, d) = (2, 4, 64);
        let attrs = AttentionAttrs { causal: true, kv_layout: KvLayout::BlockHeadToken, ..Default::default() };
        let pages = [self.context / PAGE, kv_heads, PAGE, d];
        let act = if dtype.is_activation() { dtype } else { DType::BF16 };
        let cache = || Some(numbers(dtype, &pages));
        let mut operands = vec![Some(numbers(act, &[queries, kv_heads * group, d])), cache(), cache()];
        if queries > 1 {
            operands.push(Some(ints(&[2], [0, queries].into_iter())));
        }
        operands.push(Some(ints(&[1], std::iter::once(self.context))));
        operands.push(Some(ints(&[1, pages[0]], (0..pages[0]).rev())));
        operands.push(None);
        for _ in 0..2 {
            operands.push((!dtype.is_activation()).then(|| numbers(DType::F32, &pages[..3])));
        }
        let op = if queries > 1 { Op::AttentionPrefill(attrs) } else { Op::AttentionDecode(attrs) };
        Work { op, operands, out: None, output: None, product: true }
    }

    fn rows(self) -> [(String, Work); 3] {
        let x = || numbers(DType::BF16, &[4, self.k]);
        let norm = NormAttrs { eps: 1e-6, ..Default::default() };
        let add_norm = vec![x(), x(), constant(numbers(DType::BF16, &[self.k]))];
        let softmax = SoftmaxAttrs { scale: 1.0, causal: false };
        let table = || constant(numbers(DType::F32, &[64, 32]));
        let heads = vec![numbers(DType::BF16, &[4, 16, 64]), ints(&[4], 0..4), table(), table()];
        [
            ("add_rms_norm bf16".into(), Work::new(Op::AddRmsNorm(norm), add_norm)),
            ("softmax bf16".into(), Work::new(Op::Softmax(softmax), vec![x()])),
            ("rope bf16".into(), Work::new(Op::Rope(RopeAttrs::default()), heads)),
        ]
    }

    /// A short name of what is run, and the work.
    fn works(self) -> Vec<(String, Work)> {
        let mut all = Vec::new();
        for m in self.heights {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                all.push((format!("matmul {dtype} m={m}"), self.matmul(dtype, m)));
            }
            all.extend(FORMATS.map(|format| (format!("matmul {format} m={m}"), self.blocks(format, m))));
            let codes = [DType::I4, DType::U4, DType::I8];
            all.extend(codes.map(|c| (format!("matmul {c}/128 m={m}"), self.groups(c, m))));
            all.push((format!("matmul i8 by i8 m={m}"), self.int8(m)));
        }
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8, DType::F8E4M3] {
            all.push((format!("attention decode {dtype}"), self.attention(dtype, 1)));
            all.push((format!("attention prefill {dtype}"), self.attention(dtype, self.queries)));
        }
        all.extend(self.rows());
        all
    }
}

/// Every block format that a file can have.
const FORMATS: [DType; 10] = [
    DType::Q8_0,
    DType::Q4_0,
    DType::Q5_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Xs,
    DType::Mxfp4,
];

/// Products, attention and rows as operators of a device; those that it does not run by itself are left out.
///
/// # Errors
/// The device's own.
pub fn nodes(device: &Arc<dyn Device>, sizes: Sizes) -> Result<Vec<Timed>> {
    let mut all = Vec::new();
    for (what, work) in sizes.works() {
        let mut node = work.on(device)?;
        let Some(kernel) = kernel(device, &work.graph()?)? else { continue };
        let cost = node.cost();
        let ops = if work.product { cost.flops } else { 0 };
        let run = Box::new(move || node.run());
        all.push(Timed { name: format!("{what}: {kernel}"), bytes: cost.read + cost.written, ops, run });
    }
    Ok(all)
}

/// The kernel that a device answers with, constants packed as it wants them.
fn kernel(device: &Arc<dyn Device>, graph: &Graph) -> Result<Option<String>> {
    let mut graph = graph.clone();
    loop {
        let answer = device.support(&graph).swap_remove(0);
        match answer.answer {
            Support::Relayout { operand, layout } => {
                let id = graph.nodes()[0].inputs[operand].expect("a device asks for operands that are given");
                graph.set_layout(id, layout)?;
            }
            Support::Native => return Ok(Some(answer.kernel)),
            Support::No(_) => return Ok(None),
        }
    }
}

/// A plan of so many tiny operators, one after the other: what an operator costs besides its arithmetic.
///
/// # Errors
/// The device's own.
pub fn tiny_plan(device: &Arc<dyn Device>, operators: usize) -> Result<Node> {
    let mut graph = Graph::new();
    let mut at = graph.bind("x", desc(DType::F32, &[1, 8]));
    let other = graph.bind("w", desc(DType::F32, &[1, 8]));
    for _ in 0..operators {
        at = graph.op1(Op::Add(NoAttrs {}), &[at, other])?;
    }
    let y = graph.bind("y", desc(DType::F32, &[1, 8]));
    graph.add_into(Op::Copy(NoAttrs {}), &[Some(at)], &[y])?;
    Node::new(device, graph, std::iter::empty())
}
