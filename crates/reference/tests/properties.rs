//! What holds for every input, and decompositions beside their composites.

use qiao_core::*;
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};
use qiao_reference::{ReferenceDevice, Trial, compare, truth};

const F32: DType = DType::F32;

fn run(trial: &Trial) -> Vec<Vec<f64>> {
    trial.run(&ReferenceDevice::default()).unwrap().into_iter().map(|v| v.data).collect()
}

#[test]
fn every_operator_has_a_truth_and_a_class() {
    for &kind in OpKind::ALL {
        assert!(format!("{:?}", truth::class(kind)).len() > 3);
    }
}

#[test]
fn rows_of_a_softmax_sum_to_one() {
    let mut rng = Rng::new(1);
    for fill in [Fill::Normal, Fill::WideRange, Fill::Cancelling, Fill::Subnormal, Fill::Zero] {
        let x = values(&mut rng, fill, F32, 7 * 65);
        let t = Trial::new(Op::Softmax(SoftmaxAttrs::default())).values(F32, &[7, 65], &x).output_dtype(DType::F64);
        for row in run(&t)[0].chunks(65) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn rope_preserves_the_length_of_every_head() {
    let mut rng = Rng::new(2);
    let x = values(&mut rng, Fill::Normal, F32, 5 * 3 * 8);
    let angles: Vec<f64> = (0..6 * 4).map(|_| 7.0 * rng.uniform()).collect();
    let table = |f: fn(f64) -> f64| angles.iter().map(|&a| f(a)).collect::<Vec<_>>();
    for style in RopeStyle::ALL {
        let op = Op::Rope(RopeAttrs { style: *style, rotary_dim: 0, offset: 0 });
        let t = Trial::new(op).values(F32, &[5, 3, 8], &x).values(DType::I64, &[5], &[5., 0., 2., 2., 1.]);
        let t = t.values(F32, &[6, 4], &table(f64::cos)).values(F32, &[6, 4], &table(f64::sin));
        for (y, x) in run(&t.output_dtype(DType::F64))[0].chunks(8).zip(x.chunks(8)) {
            let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((length(y) / length(x) - 1.0).abs() < 1e-6);
            assert_ne!(y, x);
        }
    }
}

#[test]
fn transposing_back_is_the_identity() {
    let mut rng = Rng::new(3);
    let shape = [2, 3, 4, 5];
    let x = values(&mut rng, Fill::Normal, DType::F16, 120);
    for _ in 0..10 {
        let axes = rng.permutation(4);
        let mut inverse = [0; 4];
        axes.iter().enumerate().for_each(|(i, &a)| inverse[a] = i);
        let op = |axes: &[usize]| Op::Transpose(TransposeAttrs { perm: Perm::new(axes).unwrap() });
        let turned: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
        let y = run(&Trial::new(op(&axes)).values(DType::F16, &shape, &x)).swap_remove(0);
        assert_eq!(run(&Trial::new(op(&inverse)).values(DType::F16, &turned, &y))[0], x);
    }
}

#[test]
fn concat_undoes_split() {
    let x = values(&mut Rng::new(4), Fill::WideRange, DType::BF16, 2 * 6 * 3);
    for (axis, parts, piece) in [(0, 2, [1, 6, 3]), (1, 3, [2, 2, 3]), (2, 3, [2, 6, 1])] {
        let cut = run(&Trial::new(Op::Split(SplitAttrs { axis, parts })).values(DType::BF16, &[2, 6, 3], &x));
        let whole = cut
            .iter()
            .fold(Trial::new(Op::Concat(ConcatAttrs { axis })), |t, part| t.values(DType::BF16, &piece, part));
        assert_eq!(run(&whole)[0], x);
    }
}

#[test]
fn sampling_follows_the_distribution() {
    let mut rng = Rng::new(5);
    let p = [0.1f64, 0.4, 0.2, 0.3];
    let n = 4000;
    let logits: Vec<f64> = p.iter().map(|p| p.ln()).collect::<Vec<_>>().repeat(n);
    let u: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
    let t = Trial::new(Op::Sample(NoAttrs {})).values(F32, &[n, 4], &logits).values(F32, &[n], &u);
    let t = t.values(F32, &[n], &vec![1.; n]).values(DType::I32, &[n], &vec![0.; n]);
    let picks = run(&t.values(F32, &[n], &vec![1.; n]).values(F32, &[n], &vec![0.; n])).swap_remove(0);
    for (token, p) in p.iter().enumerate() {
        let share = picks.iter().filter(|&&x| x == token as f64).count() as f64 / n as f64;
        assert!((share - p).abs() < 0.04, "token {token}: {share}");
    }
}

#[test]
fn the_reference_passes_its_own_tolerances_with_no_error() {
    let mut rng = Rng::new(6);
    let x = values(&mut rng, Fill::Special, DType::BF16, 4 * 64);
    for op in [Op::Silu(NoAttrs {}), Op::Gelu(GeluAttrs::default()), Op::RmsNorm(NormAttrs::default())] {
        let t = Trial::new(op).values(DType::BF16, &[4, 64], &x);
        for c in t.check(&ReferenceDevice::default()).unwrap() {
            assert!(c.passes() && c.max_abs == 0.0);
        }
    }
}

#[test]
fn a_result_beyond_its_limit_fails_and_one_within_passes() {
    let mut rng = Rng::new(7);
    let (a, b) = (values(&mut rng, Fill::Normal, F32, 64), values(&mut rng, Fill::Normal, F32, 64 * 3));
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    let golden = Trial::new(op).values(F32, &[1, 64], &a).values(F32, &[3, 64], &b).golden(None).unwrap();
    let off = |share: f64| {
        let y = golden.outputs[0].data.iter().zip(&golden.limits[0]).map(|(y, l)| y + share * l).collect::<Vec<_>>();
        compare(F32, &y, &golden.outputs[0].data, &golden.limits[0]).passes()
    };
    assert!(off(0.9) && !off(1.1));
    // 64 products around 1: the limit is a few units of f32, far from any wrong term.
    assert!(golden.limits[0].iter().all(|&l| l > 1e-6 && l < 1e-3));
}

/// A plain f32 evaluation of a dot product stays within the limits of the f64 truth.
#[test]
fn a_correct_f32_loop_is_within_the_limit_of_a_matmul() {
    let mut rng = Rng::new(8);
    for (fill, k) in [(Fill::Normal, 1), (Fill::Normal, 4096), (Fill::WideRange, 511), (Fill::Cancelling, 1024)] {
        let (m, n) = (4, 5);
        let (a, b) = (values(&mut rng, fill, F32, m * k), values(&mut rng, fill, F32, n * k));
        let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        let golden = Trial::new(op).values(F32, &[m, k], &a).values(F32, &[n, k], &b).golden(None).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0f32, |s, (&a, &b)| s + a as f32 * b as f32) as f64;
        let got: Vec<f64> = a.chunks(k).flat_map(|a| b.chunks(k).map(move |b| dot(a, b))).collect();
        let c = compare(F32, &got, &golden.outputs[0].data, &golden.limits[0]);
        assert!(c.passes(), "{fill:?} {k}: {c:?}");
    }
}

/// Runs a composite and its decomposition on the reference device; gives both, output by output.
fn both_ways(op: Op, inputs: &[Option<(TensorDesc, Vec<u8>)>], dtype: Option<DType>) {
    let device = ReferenceDevice::default();
    let mut trial = Trial::new(op);
    for input in inputs {
        trial = match input {
            Some((desc, bytes)) => trial.input(desc.clone(), bytes.clone()),
            None => trial.without(),
        };
    }
    if let Some(dtype) = dtype {
        trial = trial.output_dtype(dtype);
    }
    let golden = trial.golden(None).unwrap();
    let whole = trial.graph().unwrap();
    let node = &whole.nodes()[0];
    let mut g = whole.without_nodes();
    assert!(decompose::decompose(&op, &mut g, &node.inputs, &node.outputs).unwrap(), "{op} is composite");
    assert!(!g.nodes().is_empty());
    let mut stream = device.stream().unwrap();
    let bind = |bytes: usize| Binding::whole(device.alloc(0, bytes).unwrap());
    let bindings: Vec<Binding> = g.bound().iter().map(|&t| bind(g.desc(t).bytes().unwrap())).collect();
    for (binding, input) in bindings.iter().zip(inputs.iter().flatten()) {
        stream.upload(binding, &input.1).unwrap();
    }
    let plan = device.plan(&g).unwrap();
    plan.execute(&mut *stream, &bindings, &bind(plan.info().workspace_bytes)).unwrap();
    for (i, &out) in node.outputs.iter().enumerate() {
        let at = g.bound().iter().position(|&t| t == out).unwrap();
        let mut bytes = vec![0; bindings[at].bytes];
        stream.download(&mut bytes, &bindings[at]).unwrap();
        let got = qiao_reference::Value::load(g.desc(out), &bytes).unwrap();
        let c = compare(golden.dtypes[i], &got.data, &golden.outputs[i].data, &golden.limits[i]);
        assert!(c.passes(), "{op} output {i}: {c:?}");
    }
}

fn tensor(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Option<(TensorDesc, Vec<u8>)> {
    let desc = TensorDesc::new(dtype, shape).unwrap();
    let data = values(rng, Fill::Normal, dtype, desc.elements());
    Some((desc, to_bytes(dtype, &data)))
}

#[test]
fn silu_mul_decomposes_within_its_tolerance() {
    let mut rng = Rng::new(9);
    for dtype in [F32, DType::BF16, DType::F16] {
        for gate_second in [false, true] {
            let op = Op::SiluMul(SiluMulAttrs { gate_second, clamp: 0.0 });
            both_ways(op, &[tensor(&mut rng, dtype, &[3, 64])], None);
        }
        let two = [tensor(&mut rng, dtype, &[3, 64]), tensor(&mut rng, dtype, &[3, 64])];
        both_ways(Op::SiluMul(SiluMulAttrs::default()), &two, None);
    }
}

#[test]
fn matmul_epilogues_decompose_within_their_tolerance() {
    let mut rng = Rng::new(10);
    for dtype in [F32, DType::BF16] {
        let (a, b) = (tensor(&mut rng, dtype, &[5, 96]), tensor(&mut rng, dtype, &[8, 96]));
        let (bias, residual) = (tensor(&mut rng, dtype, &[8]), tensor(&mut rng, dtype, &[5, 8]));
        let op = |epilogue| Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
        both_ways(op(Epilogue::Bias), &[a.clone(), b.clone(), bias.clone()], None);
        both_ways(op(Epilogue::BiasResidual), &[a.clone(), b.clone(), bias.clone(), residual.clone()], None);
        both_ways(op(Epilogue::BiasResidual), &[a.clone(), b.clone(), None, residual], Some(F32));
        both_ways(op(Epilogue::Gelu), &[a.clone(), b.clone(), bias], None);
        both_ways(op(Epilogue::SiluMul), &[a, b], None);
    }
}

#[test]
fn add_rms_norm_decomposes_within_its_tolerance() {
    let mut rng = Rng::new(11);
    for dtype in [F32, DType::F16] {
        for round_before_weight in [false, true] {
            let op = Op::AddRmsNorm(NormAttrs { eps: 1e-5, weight_offset: 1, round_before_weight });
            let [a, b] = [0, 1].map(|_| tensor(&mut rng, dtype, &[4, 128]));
            both_ways(op, &[a, b, tensor(&mut rng, F32, &[128])], None);
        }
    }
}

#[test]
fn matmul_quant_decomposes_within_its_tolerance() {
    let mut rng = Rng::new(12);
    let a = tensor(&mut rng, DType::BF16, &[3, 256]);
    let bias = tensor(&mut rng, F32, &[8]);
    for &dtype in DType::ALL.iter().filter(|d| d.is_block()) {
        let w =
            (TensorDesc::new(dtype, &[8, 256]).unwrap(), block_bytes(&mut rng, dtype, 8 * 256 / dtype.block_elems()));
        let op = Op::MatmulQuant(MatmulQuantAttrs { epilogue: Epilogue::Bias, ..Default::default() });
        both_ways(op, &[a.clone(), Some(w), None, None, None, bias.clone()], None);
    }
    for dtype in [DType::I4, DType::U4, DType::I8, DType::F4E2M1] {
        let desc = TensorDesc::new(dtype, &[8, 256]).unwrap();
        let codes = (0..desc.bytes().unwrap()).map(|_| rng.bits() as u8).collect();
        let scales = tensor(&mut rng, F32, &[8, 4]);
        let zeros = tensor(&mut rng, DType::I8, &[8, 4]);
        let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: 64, ..Default::default() });
        both_ways(op, &[a.clone(), Some((desc, codes)), scales, zeros], Some(F32));
    }
}

#[test]
fn split_decomposes_into_slices() {
    let x = tensor(&mut Rng::new(13), DType::F16, &[4, 6]);
    for axis in [0, 1] {
        both_ways(Op::Split(SplitAttrs { axis, parts: 2 }), std::slice::from_ref(&x), None);
    }
}

/// Whether f32 results are within the limits of a trial.
fn passes(trial: &Trial, y: &[f32]) -> bool {
    let golden = trial.golden(None).unwrap();
    let y: Vec<f64> = y.iter().map(|&y| f64::from(y)).collect();
    compare(F32, &y, &golden.outputs[0].data, &golden.limits[0]).passes()
}

fn reduction(kind: ReduceKind, x: &[f64]) -> Trial {
    Trial::new(Op::Reduce(ReduceAttrs { kind, axis: 0, keep_dim: false })).values(F32, &[x.len()], x)
}

#[test]
fn a_plain_loop_over_numbers_of_one_sign_passes() {
    for n in [1024, 4096, 16384, 65536] {
        let x = vec![f64::from(0.1f32); n];
        let sum = x.iter().fold(0f32, |sum, &x| sum + x as f32);
        assert!(passes(&reduction(ReduceKind::Sum, &x), &[sum]), "a sum of {n}");
        assert!(passes(&reduction(ReduceKind::Mean, &x), &[sum / n as f32]), "a mean of {n}");
        // Every second one is a little larger, so that the row has a deviation.
        let x: Vec<f32> = (0..n).map(|i| if i % 2 == 0 { 0.1 } else { 0.1 + 1e-6 }).collect();
        let mean = x.iter().sum::<f32>() / n as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n as f32;
        let root = (variance + 1e-5).sqrt();
        let y: Vec<f32> = x.iter().map(|x| (x - mean) / root).collect();
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let norm = Trial::new(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 })).values(F32, &[1, n], &wide);
        assert!(passes(&norm, &y), "a layer norm of {n}");
    }
}

#[test]
fn sums_of_mixed_signs_are_granted_no_more_than_their_roundings() {
    let n = 16384;
    let x = values(&mut Rng::new(8), Fill::Normal, F32, n);
    let golden = reduction(ReduceKind::Sum, &x).golden(None).unwrap();
    let bound = 6.0 * (n as f64).sqrt() * 2f64.powi(-24) * x.iter().map(|x| x.abs()).sum::<f64>();
    assert!(golden.limits[0][0] < 1.001 * bound, "{} is beyond {bound}", golden.limits[0][0]);
}

#[test]
fn a_plain_softmax_passes_where_a_mask_cancels_its_scores() {
    let (x, scale, mask) = ([100.3f32, 100.1], 0.7f32, [-70.15f32, -70.0]);
    let s: Vec<f32> = x.iter().zip(mask).map(|(x, m)| x * scale + m).collect();
    let e: Vec<f32> = s.iter().map(|score| (score - s[0].max(s[1])).exp()).collect();
    let y: Vec<f32> = e.iter().map(|part| part / (e[0] + e[1])).collect();
    let wide = |v: [f32; 2]| v.map(f64::from);
    let t = Trial::new(Op::Softmax(SoftmaxAttrs { scale, causal: false }));
    assert!(passes(&t.values(F32, &[1, 2], &wide(x)).values(F32, &[1, 2], &wide(mask)), &y));
}
