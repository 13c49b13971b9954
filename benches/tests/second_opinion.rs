//! A second opinion on the truth: for every operator that candle's CPU has too, `reference` agrees with it within the
//! tolerance of the operator, on the same bytes. In f64, where candle has it, the agreement is held to f64.
//!
//! Composed here from candle's parts: softmax with a mask or causal (`broadcast_add`, `softmax_last_dim`), mean
//! (`sum / n`), top_k (`arg_sort_last_dim`), attention over pages (`index_select` of the pages, then packed attention).
//!
//! candle has no counterpart of: `add_rms_norm` with the norm from the unrounded sum, `sample` with a given uniform,
//! `kv_write` into pages or quantised caches, `quantize_dynamic`, `scaled_matmul`, grouped codes in `matmul_quant`,
//! attention sinks and softcap in f64, matmul epilogues, the formats IQ4_NL, IQ4_XS and MXFP4, and ids out of range.
//! Where candle rounds more often than the operator allows, the comparison says so: 16-bit activations are left to f32
//! and f64, 16-bit norms get twice the limit, f16 products are compared as a whole, casts to integers (which truncate)
//! on whole numbers.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, DType as CDType, Device, Module, Tensor};
use qiao_core::*;
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};
use qiao_reference::{Trial, Value, compare};

const PLAIN: NoAttrs = NoAttrs {};
const F32: DType = DType::F32;
const F64: DType = DType::F64;
const BF16: DType = DType::BF16;
const F16: DType = DType::F16;

/// The same dtype in candle's words.
fn cdtype(dtype: DType) -> CDType {
    match dtype {
        DType::F64 => CDType::F64,
        DType::F32 => CDType::F32,
        DType::F16 => CDType::F16,
        DType::BF16 => CDType::BF16,
        DType::I32 => CDType::I32,
        DType::I64 => CDType::I64,
        DType::U8 => CDType::U8,
        DType::F8E4M3 => CDType::F8E4M3,
        other => panic!("candle has no {other}"),
    }
}

/// Values that both sides hold exactly.
#[derive(Clone)]
struct Data {
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Data {
    fn random(rng: &mut Rng, fill: Fill, dtype: DType, shape: &[usize]) -> Data {
        let data = values(rng, fill, dtype, shape.iter().product());
        Data { dtype, shape: shape.to_vec(), data }
    }

    fn of(dtype: DType, shape: &[usize], data: Vec<f64>) -> Data {
        Data { dtype, shape: shape.to_vec(), data }
    }

    fn tensor(&self) -> Tensor {
        Tensor::from_raw_buffer(&to_bytes(self.dtype, &self.data), cdtype(self.dtype), &self.shape, &Device::Cpu)
            .unwrap()
    }
}

fn trial(op: Op, inputs: &[&Data]) -> Trial {
    inputs.iter().fold(Trial::new(op), |t, d| t.values(d.dtype, &d.shape, &d.data))
}

fn read(tensor: &Tensor) -> Value {
    // candle's conversion of fp8 to f64 does not return; that to f32 does.
    let wide = if tensor.dtype() == CDType::F8E4M3 { tensor.to_dtype(CDType::F32).unwrap() } else { tensor.clone() };
    let data = wide.to_dtype(CDType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    Value { shape: tensor.dims().to_vec(), data }
}

/// candle's results lie within the truth's limits; `act` as for a kernel that rounds activations first.
#[track_caller]
fn agree_as(trial: Trial, act: Option<DType>, theirs: &[Tensor]) {
    agree_within(1.0, trial, act, theirs);
}

/// The same within `factor` limits.
#[track_caller]
fn agree_within(factor: f64, trial: Trial, act: Option<DType>, theirs: &[Tensor]) {
    let golden = trial.golden(act).unwrap();
    assert_eq!(golden.outputs.len(), theirs.len());
    for (i, tensor) in theirs.iter().enumerate() {
        let (want, got, dtype) = (&golden.outputs[i], read(tensor), golden.dtypes[i]);
        assert_eq!(want.shape, got.shape);
        let limits: Vec<f64> = if dtype == F64 {
            // The limits are those of f32 arithmetic; f64 has 29 bits more.
            golden.limits[i].iter().zip(&want.data).map(|(l, y)| l * 2f64.powi(-28) + 1e-15 * y.abs()).collect()
        } else {
            golden.limits[i].iter().map(|l| l * factor).collect()
        };
        let c = compare(dtype, &got.data, &want.data, &limits);
        assert!(c.elements > 0 && c.passes(), "output {i} in {dtype}: {c:?}");
    }
}

#[track_caller]
fn agree(trial: Trial, theirs: candle_core::Result<Tensor>) {
    agree_as(trial, None, &[theirs.unwrap()]);
}

const FILLS: [Fill; 3] = [Fill::Normal, Fill::WideRange, Fill::Cancelling];

#[test]
fn arithmetic_agrees_with_broadcasting() {
    let mut rng = Rng::new(1);
    for dtype in [F64, F32, BF16, F16] {
        for fill in FILLS {
            for (a, b) in [([3, 5], vec![3, 5]), ([3, 5], vec![5]), ([3, 5], vec![3, 1]), ([1, 5], vec![2, 4, 1])] {
                let a = Data::random(&mut rng, fill, dtype, &a);
                let b = Data::random(&mut rng, fill, dtype, &b);
                let (x, y) = (a.tensor(), b.tensor());
                agree(trial(Op::Add(PLAIN), &[&a, &b]), x.broadcast_add(&y));
                agree(trial(Op::Sub(PLAIN), &[&a, &b]), x.broadcast_sub(&y));
                agree(trial(Op::Mul(PLAIN), &[&a, &b]), x.broadcast_mul(&y));
                agree(trial(Op::Div(PLAIN), &[&a, &b]), x.broadcast_div(&y));
            }
        }
    }
}

#[test]
fn activations_agree() {
    let mut rng = Rng::new(2);
    for dtype in [F64, F32] {
        for scale in [1.0, 6.0] {
            let mut x = Data::random(&mut rng, Fill::Normal, dtype, &[7, 33]);
            x.data.iter_mut().for_each(|x| *x *= scale);
            x.data.iter_mut().for_each(|x| *x = qiao_reference::round::round(dtype, *x));
            let t = x.tensor();
            let gelu = |form| Op::Gelu(GeluAttrs { form });
            agree(trial(Op::Silu(PLAIN), &[&x]), t.silu());
            agree(trial(gelu(GeluForm::Tanh), &[&x]), t.gelu());
            agree(trial(gelu(GeluForm::Erf), &[&x]), t.gelu_erf());
            agree(trial(Op::Relu(PLAIN), &[&x]), t.relu());
            agree(trial(Op::Sigmoid(PLAIN), &[&x]), candle_nn::ops::sigmoid(&t));
            agree(trial(Op::Tanh(PLAIN), &[&x]), t.tanh());
            agree(trial(Op::Exp(PLAIN), &[&x]), t.exp());
            let halves = Data { shape: vec![33, 1, 7], ..x.clone() };
            let up = Data::random(&mut rng, Fill::Normal, dtype, &[33, 1, 7]);
            let theirs = halves.tensor().silu().unwrap() * up.tensor();
            agree(trial(Op::SiluMul(SiluMulAttrs::default()), &[&halves, &up]), theirs);
            let pair = Data::random(&mut rng, Fill::Normal, dtype, &[5, 24]);
            let theirs = candle_nn::ops::swiglu(&pair.tensor());
            agree(trial(Op::SiluMul(SiluMulAttrs::default()), &[&pair]), theirs);
        }
    }
    for dtype in [BF16, F16] {
        let x = Data::random(&mut rng, Fill::Normal, dtype, &[7, 33]);
        agree(trial(Op::Relu(PLAIN), &[&x]), x.tensor().relu());
        agree(trial(Op::Exp(PLAIN), &[&x]), x.tensor().exp());
        agree(trial(Op::Tanh(PLAIN), &[&x]), x.tensor().tanh());
    }
}

#[test]
fn products_agree() {
    let mut rng = Rng::new(3);
    let op = |trans_b| Op::Matmul(MatmulAttrs { trans_b, ..Default::default() });
    for dtype in [F64, F32, BF16] {
        for (m, k, n) in [(1, 1, 1), (1, 257, 31), (17, 64, 33), (5, 1024, 8)] {
            for fill in FILLS {
                let a = Data::random(&mut rng, fill, dtype, &[m, k]);
                let b = Data::random(&mut rng, fill, dtype, &[n, k]);
                agree(trial(op(true), &[&a, &b]), a.tensor().matmul(&b.tensor().t().unwrap()));
                let b = Data::random(&mut rng, fill, dtype, &[k, n]);
                agree(trial(op(false), &[&a, &b]), a.tensor().matmul(&b.tensor()));
            }
        }
        let a = Data::random(&mut rng, Fill::Normal, dtype, &[3, 4, 16]);
        let b = Data::random(&mut rng, Fill::Normal, dtype, &[3, 16, 5]);
        agree(trial(op(false), &[&a, &b]), a.tensor().matmul(&b.tensor()));
    }
}

/// candle sums f16 products in f16, so these are compared as a whole.
#[test]
fn products_in_f16_agree_in_direction_and_length() {
    let mut rng = Rng::new(14);
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    for (m, k, n) in [(1, 257, 31), (17, 64, 33)] {
        let a = Data::random(&mut rng, Fill::Normal, F16, &[m, k]);
        let b = Data::random(&mut rng, Fill::Normal, F16, &[n, k]);
        let theirs = read(&a.tensor().matmul(&b.tensor().t().unwrap()).unwrap());
        let golden = &trial(op, &[&a, &b]).golden(None).unwrap().outputs[0];
        let c = compare(F16, &theirs.data, &golden.data, &[f64::INFINITY]);
        assert!(c.special_mismatches == 0 && c.nmse < 1e-4 && c.cosine > 0.9999, "{c:?}");
    }
}

#[test]
fn norms_agree() {
    let mut rng = Rng::new(4);
    let eps = 1e-5;
    for dtype in [F32, BF16, F16] {
        for n in [1, 64, 896] {
            for fill in [Fill::Normal, Fill::WideRange] {
                let x = Data::random(&mut rng, fill, dtype, &[3, n]);
                let [w, b] = [0, 1].map(|_| Data::random(&mut rng, Fill::Normal, dtype, &[n]));
                // In 16 bits candle rounds the root and the normalised value before the weight.
                let round_before_weight = dtype != F32;
                let factor = if round_before_weight { 2.0 } else { 1.0 };
                let rms = Op::RmsNorm(NormAttrs { eps, round_before_weight, ..Default::default() });
                let theirs = candle_nn::ops::rms_norm(&x.tensor(), &w.tensor(), eps).unwrap();
                agree_within(factor, trial(rms, &[&x, &w]), None, &[theirs]);
                if dtype == F32 {
                    let layer = Op::LayerNorm(LayerNormAttrs { eps });
                    let theirs = candle_nn::ops::layer_norm_slow(&x.tensor(), &w.tensor(), &b.tensor(), eps);
                    agree(trial(layer, &[&x, &w, &b]), theirs);
                }
            }
        }
    }
}

#[test]
fn rope_agrees_in_both_styles() {
    let mut rng = Rng::new(5);
    let (tokens, heads, d) = (9, 3, 16);
    let x = Data::random(&mut rng, Fill::Normal, F32, &[tokens, heads, d]);
    let angles: Vec<f64> =
        (0..tokens * d / 2).map(|i| (i / (d / 2)) as f64 / 10f64.powi((i % (d / 2)) as i32)).collect();
    let table = |f: fn(f64) -> f64| {
        let data = angles.iter().map(|&a| qiao_reference::round::round(F32, f(a))).collect();
        Data::of(F32, &[tokens, d / 2], data)
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    let positions = Data::of(DType::I32, &[tokens], (0..tokens).map(|t| t as f64).collect());
    let heads_first = x.tensor().unsqueeze(0).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
    let back = |t: Tensor| t.transpose(1, 2).unwrap().squeeze(0);
    for style in RopeStyle::ALL {
        let rope = match style {
            RopeStyle::HalfSplit => candle_nn::rotary_emb::rope,
            RopeStyle::Interleaved => candle_nn::rotary_emb::rope_i,
        };
        let op = Op::Rope(RopeAttrs { style: *style, ..Default::default() });
        let theirs = back(rope(&heads_first, &cos.tensor(), &sin.tensor()).unwrap());
        agree(trial(op, &[&x, &positions, &cos, &sin]), theirs);
    }
}

#[test]
fn softmax_agrees_with_scale_and_masks() {
    let mut rng = Rng::new(6);
    let softmax = |t: Tensor| candle_nn::ops::softmax_last_dim(&t);
    for dtype in [F64, F32] {
        let x = Data::random(&mut rng, Fill::Normal, dtype, &[2, 5, 40]);
        let op = |scale, causal| Op::Softmax(SoftmaxAttrs { scale, causal });
        agree(trial(op(0.0, false), &[&x]), softmax(x.tensor()));
        agree(trial(op(0.25, false), &[&x]), softmax((x.tensor() * 0.25).unwrap()));
        let mut mask = Data::random(&mut rng, Fill::Normal, dtype, &[5, 40]);
        (0..40).step_by(3).for_each(|i| mask.data[i] = f64::NEG_INFINITY);
        agree(trial(op(0.0, false), &[&x, &mask]), softmax(x.tensor().broadcast_add(&mask.tensor()).unwrap()));
        let below = |i: usize| if i % 40 <= 35 + i / 40 { 0.0 } else { f64::NEG_INFINITY };
        let causal = Data::of(dtype, &[5, 40], (0..200).map(below).collect());
        agree(trial(op(0.0, true), &[&x]), softmax(x.tensor().broadcast_add(&causal.tensor()).unwrap()));
    }
}

#[test]
fn reductions_and_choices_agree() {
    let mut rng = Rng::new(7);
    for dtype in [F64, F32] {
        for fill in FILLS {
            let x = Data::random(&mut rng, fill, dtype, &[4, 33, 6]);
            for axis in 0..3usize {
                let op = |kind| Op::Reduce(ReduceAttrs { kind, axis: axis as u32, keep_dim: false });
                agree(trial(op(ReduceKind::Sum), &[&x]), x.tensor().sum(axis));
                agree(trial(op(ReduceKind::Mean), &[&x]), x.tensor().mean(axis));
                agree(trial(op(ReduceKind::Max), &[&x]), x.tensor().max(axis));
            }
        }
    }
    for dtype in [F32, BF16] {
        let x = Data::random(&mut rng, Fill::Normal, dtype, &[16, 301]);
        agree(trial(Op::Argmax(PLAIN), &[&x]), x.tensor().argmax(D::Minus1));
    }
    // No two values alike: candle's sort is unstable.
    let distinct = rng.permutation(300).into_iter().map(|i| i as f64).collect();
    let x = Data::of(F32, &[3, 100], distinct);
    let (values, order) = x.tensor().sort_last_dim(false).unwrap();
    let first = |t: &Tensor| t.narrow(1, 0, 9).unwrap();
    agree_as(trial(Op::TopK(TopKAttrs { k: 9 }), &[&x]), None, &[first(&values), first(&order)]);
}

#[test]
fn casts_agree() {
    let mut rng = Rng::new(8);
    for from in [F64, F32, BF16, F16] {
        for to in [F64, F32, BF16, F16] {
            // From f64 candle's half rounds twice on some machines, so it casts by way of f32 and so do we.
            let data = Data::random(&mut rng, Fill::WideRange, if from == F64 { F32 } else { from }, &[500]);
            let x = Data { dtype: from, ..data };
            agree(trial(Op::Cast(PLAIN), &[&x]).output_dtype(to), x.tensor().to_dtype(cdtype(to)));
        }
    }
    let x = Data::random(&mut rng, Fill::WideRange, F32, &[2000]);
    agree(trial(Op::Cast(PLAIN), &[&x]).output_dtype(DType::F8E4M3), x.tensor().to_dtype(CDType::F8E4M3));
    let whole = Data::of(F32, &[6], vec![0., -3., 127., 255., 70000., -70000.]);
    for to in [DType::I32, DType::I64] {
        agree(trial(Op::Cast(PLAIN), &[&whole]).output_dtype(to), whole.tensor().to_dtype(cdtype(to)));
    }
    let ints = Data::of(DType::I64, &[4], vec![0., -7., 16_777_217., 9e15]);
    agree(trial(Op::Cast(PLAIN), &[&ints]).output_dtype(F32), ints.tensor().to_dtype(CDType::F32));
}

#[test]
fn movements_agree() {
    let mut rng = Rng::new(9);
    for dtype in [F32, BF16, DType::I64] {
        let source = if dtype == DType::I64 { F16 } else { dtype };
        let mut x = Data::random(&mut rng, Fill::Normal, source, &[4, 6, 10]);
        x.dtype = dtype;
        x.data.iter_mut().for_each(|v| *v = if dtype == DType::I64 { (*v * 100.0).round() } else { *v });
        let t = x.tensor();
        agree(trial(Op::Copy(PLAIN), &[&x]), t.copy());
        let slice = |axis, start, len| Op::Slice(SliceAttrs { axis, start, len });
        agree(trial(slice(1, 2, 3), &[&x]), t.narrow(1, 2, 3));
        agree(trial(slice(2, 9, 1), &[&x]), t.narrow(2, 9, 1));
        let perm = Perm::new(&[2, 0, 1]).unwrap();
        agree(trial(Op::Transpose(TransposeAttrs { perm }), &[&x]), t.permute((2, 0, 1)));
        agree_as(trial(Op::Split(SplitAttrs { axis: 1, parts: 3 }), &[&x]), None, &t.chunk(3, 1).unwrap());
        let y = Data { shape: vec![4, 15, 4], ..x.clone() };
        let z = Data { shape: vec![4, 12, 5], ..x.clone() };
        agree(trial(Op::Concat(ConcatAttrs { axis: 0 }), &[&x, &x]), Tensor::cat(&[&t, &t], 0));
        let (y, z) = (Data { shape: vec![15, 16], ..y }, Data { shape: vec![15, 16], ..z });
        agree(trial(Op::Concat(ConcatAttrs { axis: 1 }), &[&y, &z]), Tensor::cat(&[&y.tensor(), &z.tensor()], 1));
        let table = Data { shape: vec![24, 10], ..x };
        let ids = Data::of(DType::I64, &[5], vec![3., 0., 23., 3., 11.]);
        let theirs = table.tensor().index_select(&ids.tensor(), 0);
        agree(trial(Op::GatherRows(PLAIN), &[&table, &ids]), theirs);
    }
    let fill = Trial::new(Op::Fill(FillAttrs { value: 0.3 })).output_shape(&[3, 4]).output_dtype(BF16);
    agree(fill, Tensor::full(0.3f32, (3, 4), &Device::Cpu).unwrap().to_dtype(CDType::BF16));
}

/// Packed sequences: how many queries and keys each has.
const QUERIES: [usize; 3] = [1, 7, 4];
const KEYS: [usize; 3] = [5, 7, 19];

fn lengths(x: &[usize]) -> Tensor {
    Tensor::new(x.iter().map(|&n| n as u32).collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

#[test]
fn attention_agrees_with_groups_causality_and_windows() {
    let mut rng = Rng::new(10);
    let (heads, d) = (4, 16);
    let scale = 1.0 / (d as f32).sqrt();
    for kv_heads in [4, 2, 1] {
        for (causal, window) in [(false, None), (true, None), (true, Some(3))] {
            let q = Data::random(&mut rng, Fill::Normal, F32, &[12, heads, d]);
            let [k, v] = [0, 1].map(|_| Data::random(&mut rng, Fill::Normal, F32, &[31, kv_heads, d]));
            let cu = Data::of(DType::I32, &[4], vec![0., 1., 8., 12.]);
            let lens = Data::of(DType::I32, &[3], KEYS.map(|n| n as f64).to_vec());
            let attrs = AttentionAttrs { causal, window: window.unwrap_or(0), ..Default::default() };
            let theirs = candle_nn::attention::flash_attn_varlen_unfused(
                &q.tensor(),
                &k.tensor(),
                &v.tensor(),
                None,
                &lengths(&QUERIES),
                &lengths(&KEYS),
                7,
                19,
                scale,
                causal,
                window.map(|w| w as usize - 1),
                window.map(|_| 0),
            );
            agree(trial(Op::AttentionPrefill(attrs), &[&q, &k, &v, &cu, &lens]), theirs);
        }
    }
}

#[test]
fn paged_decoding_agrees_with_attention_over_the_gathered_pages() {
    let mut rng = Rng::new(11);
    let (batch, heads, kv_heads, d, block) = (2, 6, 2, 8, 4);
    let q = Data::random(&mut rng, Fill::Normal, F32, &[batch, heads, d]);
    let [k, v] = [0, 1].map(|_| Data::random(&mut rng, Fill::Normal, F32, &[5, block, kv_heads, d]));
    let table = Data::of(DType::I32, &[batch, 2], vec![3., 1., 4., 0.]);
    let lens = Data::of(DType::I32, &[batch], vec![7., 4.]);
    let packed = |cache: &Data| {
        let rows = |blocks: [u32; 2], len: usize| {
            let ids = Tensor::new(&blocks, &Device::Cpu).unwrap();
            let pages = cache.tensor().index_select(&ids, 0).unwrap();
            pages.reshape((2 * block, kv_heads, d)).unwrap().narrow(0, 0, len).unwrap()
        };
        Tensor::cat(&[rows([3, 1], 7), rows([4, 0], 4)], 0).unwrap()
    };
    let theirs = candle_nn::attention::flash_attn_varlen_unfused(
        &q.tensor(),
        &packed(&k),
        &packed(&v),
        None,
        &lengths(&[1, 1]),
        &lengths(&[7, 4]),
        1,
        7,
        0.3,
        false,
        None,
        None,
    );
    let attrs = AttentionAttrs { scale: 0.3, ..Default::default() };
    agree(trial(Op::AttentionDecode(attrs), &[&q, &k, &v, &lens, &table]), theirs);
}

/// The block formats that candle has too.
const BLOCKS: [(DType, GgmlDType); 10] = [
    (DType::Q4_0, GgmlDType::Q4_0),
    (DType::Q4_1, GgmlDType::Q4_1),
    (DType::Q5_0, GgmlDType::Q5_0),
    (DType::Q5_1, GgmlDType::Q5_1),
    (DType::Q8_0, GgmlDType::Q8_0),
    (DType::Q2K, GgmlDType::Q2K),
    (DType::Q3K, GgmlDType::Q3K),
    (DType::Q4K, GgmlDType::Q4K),
    (DType::Q5K, GgmlDType::Q5K),
    (DType::Q6K, GgmlDType::Q6K),
];

fn qtensor(dtype: GgmlDType, bytes: &[u8], shape: (usize, usize)) -> QTensor {
    // candle reads blocks in place, so the bytes start where an f16 may.
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, dtype).unwrap();
    QTensor::new(storage, shape).unwrap()
}

#[test]
fn block_formats_decode_to_the_same_bits() {
    let mut rng = Rng::new(12);
    for (dtype, theirs) in BLOCKS {
        let (rows, columns) = (5, 1024);
        let bytes = block_bytes(&mut rng, dtype, rows * columns / dtype.block_elems());
        let mut ours = vec![0f32; rows * columns];
        qiao_quant::decode_row(dtype, &bytes, &mut ours).unwrap();
        let decoded = qtensor(theirs, &bytes, (rows, columns)).dequantize(&Device::Cpu).unwrap();
        let decoded = decoded.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(ours.iter().zip(&decoded).all(|(a, b)| a == b), "{dtype}");
        let x = Trial::new(Op::Cast(PLAIN)).input(TensorDesc::new(dtype, &[rows, columns]).unwrap(), bytes);
        let decoded = Tensor::from_vec(decoded, (rows, columns), &Device::Cpu);
        agree(x, decoded);
    }
}

/// candle quantises each activation row to 8 bits first, so it is granted that rounding.
#[test]
fn quantised_products_agree_up_to_the_rounding_of_activations() {
    let mut rng = Rng::new(13);
    for (dtype, theirs) in BLOCKS {
        let (m, n, k) = (3, 8, 512);
        let bytes = block_bytes(&mut rng, dtype, n * k / dtype.block_elems());
        let a = Data::random(&mut rng, Fill::Normal, F32, &[m, k]);
        let weights = QMatMul::from_qtensor(qtensor(theirs, &bytes, (n, k))).unwrap();
        let product = weights.forward(&a.tensor()).unwrap();
        let op = Op::MatmulQuant(MatmulQuantAttrs::default());
        let t = trial(op, &[&a]).input(TensorDesc::new(dtype, &[n, k]).unwrap(), bytes);
        agree_as(t, Some(DType::I8), &[product]);
    }
}
