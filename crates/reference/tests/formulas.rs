//! Every operator of the first tier against values worked out by hand, through the device.

use qiao_core::*;
use qiao_reference::{ReferenceDevice, Trial};

const F32: DType = DType::F32;
const I32: DType = DType::I32;
const PLAIN: NoAttrs = NoAttrs {};
const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

/// The outputs of a trial on the reference device.
fn run(trial: Trial) -> Vec<Vec<f64>> {
    trial.run(&ReferenceDevice::default()).unwrap().into_iter().map(|v| v.data).collect()
}

fn first(trial: Trial) -> Vec<f64> {
    run(trial).swap_remove(0)
}

#[track_caller]
fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        let same = g == w || g.is_nan() && w.is_nan() || (g - w).abs() <= 1e-6 * w.abs().max(1e-3);
        assert!(same, "{got:?} is not {want:?}");
    }
}

#[test]
fn copy_keeps_every_bit_and_reads_any_strides() {
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let desc = TensorDesc::strided(F32, &[3, 2], &[1, 3]).unwrap();
    assert_eq!(first(Trial::new(Op::Copy(PLAIN)).input(desc, bytes)), [1., 4., 2., 5., 3., 6.]);
    let wide: Vec<u8> = [i64::MAX, i64::MIN + 1].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut g = Graph::new();
    let x = g.bind("x", TensorDesc::new(DType::I64, &[2]).unwrap());
    g.op1(Op::Copy(PLAIN), &[x]).unwrap();
    let out = qiao_reference::truth::eval(g.node(0), &[Some(&wide)]).unwrap();
    assert_eq!(out, [qiao_reference::Output::Exact(wide)]);
}

#[test]
fn cast_rounds_half_to_even_and_saturates_where_it_should() {
    let cast = |data: &[f64], to| first(Trial::new(Op::Cast(PLAIN)).values(F32, &[data.len()], data).output_dtype(to));
    assert_eq!(cast(&[2.5, 3.5, -0.5, NAN, 1e9, -1e9], DType::I8), [2., 4., 0., 0., 127., -128.]);
    assert_eq!(cast(&[1e9, -1e9, 17.0, 19.0], DType::F8E4M3), [448., -448., 16., 20.]);
    assert_eq!(cast(&[1e9, 65519.0, 1.0], DType::F16), [INF, 65504., 1.]);
    // 1 + 2^-8 lies between the bf16 neighbours 1 and 1 + 2^-7.
    assert_eq!(cast(&[1.0 + 2f64.powi(-8), 1.0 + 3.0 * 2f64.powi(-8)], DType::BF16), [1., 1. + 2f64.powi(-6)]);
    assert!(cast(&[NAN], DType::F16)[0].is_nan());
    let ints = Trial::new(Op::Cast(PLAIN)).values(DType::I64, &[3], &[5e10, -5e10, 7.]).output_dtype(I32);
    assert_eq!(first(ints), [i32::MAX as f64, i32::MIN as f64, 7.]);
}

#[test]
fn cast_decodes_block_formats() {
    let mut block = vec![0x00, 0x38];
    block.extend((0..16).map(|i| (37 * i + 11) as u8));
    let x = first(Trial::new(Op::Cast(PLAIN)).input(TensorDesc::new(DType::Q4_0, &[1, 32]).unwrap(), block));
    assert_eq!(x[..4], [1.5, -4.0, -1.5, 1.0]);
    assert_eq!(x.iter().sum::<f64>(), -15.5);
}

#[test]
fn fill_rounds_its_value_to_the_output() {
    let fill = Trial::new(Op::Fill(FillAttrs { value: 2.5 }));
    assert_eq!(first(fill.clone().output_shape(&[2, 2])), [2.5; 4]);
    assert_eq!(first(fill.output_shape(&[3]).output_dtype(I32)), [2.; 3]);
}

#[test]
fn gather_takes_rows_and_gives_nan_for_ids_out_of_range() {
    let gather = |dtype| {
        let t = Trial::new(Op::GatherRows(PLAIN)).values(dtype, &[3, 2], &[0., 1., 2., 3., 4., 5.]);
        t.values(I32, &[2, 2], &[2., -1., 0., 3.])
    };
    near(&first(gather(F32)), &[4., 5., NAN, NAN, 0., 1., NAN, NAN]);
    near(&first(gather(DType::BF16).output_dtype(F32)), &[4., 5., NAN, NAN, 0., 1., NAN, NAN]);
    assert_eq!(first(gather(I32)), [4., 5., 0., 0., 0., 1., 0., 0.]);
}

#[test]
fn arithmetic_broadcasts() {
    let op = |op| first(Trial::new(op).values(F32, &[2, 1], &[6., -8.]).values(F32, &[3], &[1., 2., 4.]));
    assert_eq!(op(Op::Add(PLAIN)), [7., 8., 10., -7., -6., -4.]);
    assert_eq!(op(Op::Sub(PLAIN)), [5., 4., 2., -9., -10., -12.]);
    assert_eq!(op(Op::Mul(PLAIN)), [6., 12., 24., -8., -16., -32.]);
    assert_eq!(op(Op::Div(PLAIN)), [6., 3., 1.5, -8., -4., -2.]);
}

#[test]
fn activations_have_their_known_values() {
    let x = [-1.0, 0.0, 1.0, NAN];
    let of = |op| first(Trial::new(op).values(F32, &[4], &x));
    near(&of(Op::Silu(PLAIN)), &[-0.2689414213699951, 0., 0.7310585786300049, NAN]);
    near(&of(Op::Gelu(GeluAttrs { form: GeluForm::Erf })), &[-0.15865525393145707, 0., 0.8413447460685429, NAN]);
    near(&of(Op::Gelu(GeluAttrs { form: GeluForm::Tanh })), &[-0.15880800939172324, 0., 0.8411919906082768, NAN]);
    near(&of(Op::Relu(PLAIN)), &[0., 0., 1., NAN]);
    near(&of(Op::Sigmoid(PLAIN)), &[0.2689414213699951, 0.5, 0.7310585786300049, NAN]);
    near(&of(Op::Tanh(PLAIN)), &[-0.7615941559557649, 0., 0.7615941559557649, NAN]);
    near(&of(Op::Exp(PLAIN)), &[0.36787944117144233, 1., std::f64::consts::E, NAN]);
    near(&first(Trial::new(Op::Exp(PLAIN)).values(F32, &[2], &[-INF, 1000.])), &[0., INF]);
}

#[test]
fn silu_mul_takes_its_halves_in_either_order_or_two_operands() {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let attrs = |gate_second, clamp| Op::SiluMul(SiluMulAttrs { gate_second, clamp });
    let one = |op| first(Trial::new(op).values(F32, &[1, 4], &[1., 2., 3., -9.]));
    near(&one(attrs(false, 0.)), &[silu(1.) * 3., silu(2.) * -9.]);
    near(&one(attrs(true, 0.)), &[silu(3.), silu(-9.) * 2.]);
    // With a clamp of 1.5: gates at most 1.5, ups within ± 1.5.
    near(&one(attrs(false, 1.5)), &[silu(1.) * 1.5, silu(1.5) * -1.5]);
    let two = Trial::new(attrs(false, 0.)).values(F32, &[2], &[1., -2.]).values(F32, &[2], &[5., 7.]);
    near(&first(two), &[silu(1.) * 5., silu(-2.) * 7.]);
    let nan = Trial::new(attrs(false, 1.)).values(F32, &[1], &[NAN]).values(F32, &[1], &[1.]);
    near(&first(nan), &[NAN]);
}

#[test]
fn matmul_multiplies_either_way_and_in_batches() {
    let a = [1., 2., 3., 4., 5., 6.];
    let plain = |trans_b| Op::Matmul(MatmulAttrs { trans_b, ..Default::default() });
    // [2, 3] · [3, 2]
    let t = Trial::new(plain(false)).values(F32, &[2, 3], &a).values(F32, &[3, 2], &[1., 0., 0., 1., 1., 1.]);
    assert_eq!(first(t), [4., 5., 10., 11.]);
    let t = Trial::new(plain(true)).values(F32, &[2, 3], &a).values(F32, &[2, 3], &[1., 0., 1., 0., 1., 1.]);
    assert_eq!(first(t), [4., 5., 10., 11.]);
    // Two batches of [1, 2] · [2, 1].
    let t =
        Trial::new(plain(false)).values(F32, &[2, 1, 2], &[1., 2., 3., 4.]).values(F32, &[2, 2, 1], &[1., 1., 2., 3.]);
    assert_eq!(first(t), [3., 18.]);
    let t = Trial::new(plain(true)).values(F32, &[2, 0], &[]).values(F32, &[3, 0], &[]);
    assert_eq!(first(t), [0.; 6]);
}

#[test]
fn matmul_epilogues_come_before_the_one_rounding() {
    let with = |epilogue| {
        let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
        Trial::new(op).values(F32, &[1, 2], &[1., 2.]).values(F32, &[2, 2], &[1., 0., 0., 1.])
    };
    let silu = |x: f64| x / (1.0 + (-x).exp());
    assert_eq!(first(with(Epilogue::Bias).values(F32, &[2], &[10., 20.])), [11., 22.]);
    let r = [0.5, -0.5];
    assert_eq!(first(with(Epilogue::BiasResidual).without().values(F32, &[1, 2], &r)), [1.5, 1.5]);
    let both = with(Epilogue::BiasResidual).values(F32, &[2], &[10., 20.]).values(F32, &[1, 2], &r);
    assert_eq!(first(both), [11.5, 21.5]);
    near(&first(with(Epilogue::Gelu)), &[0.8413447460685429, 1.9544997361036416]);
    near(&first(with(Epilogue::SiluMul)), &[silu(1.) * 2.]);
    near(&first(with(Epilogue::SiluMul).values(F32, &[2], &[1., 1.])), &[silu(2.) * 3.]);
    // 1 + 2^-9 + 2^-9 in bf16 is 1 + 2^-8 rounded once, to even: 1; a rounding in between would lose both halves too,
    // so three of them tell the difference: 1 + 3·2^-9 rounds up to 1 + 2^-7.
    let h = 2f64.powi(-9);
    let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue: Epilogue::Bias, ..Default::default() });
    let t = Trial::new(op).values(DType::BF16, &[1, 2], &[1., h]).values(DType::BF16, &[1, 2], &[1., 1.]);
    assert_eq!(first(t.values(F32, &[1], &[2.0 * h])), [1. + 2f64.powi(-7)]);
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let attrs = NormAttrs { eps: 1.0, ..Default::default() };
    let x = |attrs| Trial::new(Op::RmsNorm(attrs)).values(F32, &[2, 2], &[1., 3., 4., 4.]);
    // √(5 + 1) and √(16 + 1).
    let (a, b) = (6f64.sqrt(), 17f64.sqrt());
    near(&first(x(attrs)), &[1. / a, 3. / a, 4. / b, 4. / b]);
    let gemma = NormAttrs { weight_offset: 1, ..attrs };
    near(&first(x(gemma).values(F32, &[2], &[0., 1.])), &[1. / a, 6. / a, 4. / b, 8. / b]);
}

#[test]
fn rms_norm_rounds_before_the_weight_where_asked() {
    let attrs = |round_before_weight| NormAttrs { round_before_weight, ..Default::default() };
    let of = |before| {
        let t = Trial::new(Op::RmsNorm(attrs(before))).values(DType::BF16, &[1, 2], &[1., 2.]);
        first(t.values(F32, &[2], &[1.015625, 1.015625]))
    };
    let root = 2.5f64.sqrt();
    let bf16 = |x: f64| qiao_reference::round::round(DType::BF16, x);
    assert_eq!(of(false), [1., 2.].map(|x: f64| bf16(x / root * 1.015625)));
    assert_eq!(of(true), [1., 2.].map(|x: f64| bf16(bf16(x / root) * 1.015625)));
    assert_ne!(of(false), of(true));
}

#[test]
fn add_rms_norm_norms_the_sum_before_its_rounding() {
    let op = Op::AddRmsNorm(NormAttrs::default());
    // 256 + 1 is no bf16: the sum is written as 256, and the norm sees 257.
    let t = Trial::new(op).values(DType::BF16, &[1, 2], &[256., 0.]).values(DType::BF16, &[1, 2], &[1., 64.]);
    let got = run(t.output_dtype(DType::BF16));
    assert_eq!(got[0], [256., 64.]);
    let root = ((257f64 * 257. + 64. * 64.) / 2.).sqrt();
    assert_eq!(got[1], [257. / root, 64. / root].map(|x| qiao_reference::round::round(DType::BF16, x)));
}

#[test]
fn layer_norm_uses_the_population_variance() {
    let t = Trial::new(Op::LayerNorm(LayerNormAttrs { eps: 1.0 })).values(F32, &[1, 3], &[1., 2., 6.]);
    // Mean 3, variance (4 + 1 + 9) / 3.
    let root = (14f64 / 3. + 1.).sqrt();
    near(&first(t.clone()), &[-2. / root, -1. / root, 3. / root]);
    let t = t.values(F32, &[3], &[2., 1., 1.]).values(F32, &[3], &[10., 0., -1.]);
    near(&first(t), &[10. - 4. / root, -1. / root, 3. / root - 1.]);
}

#[test]
fn rope_turns_pairs_in_both_styles_and_passes_the_rest() {
    let rope = |style, rotary_dim, offset, x: &[f64], position: f64| {
        let op = Op::Rope(RopeAttrs { style, rotary_dim, offset });
        let t = Trial::new(op).values(F32, &[1, 1, x.len()], x).values(I32, &[1], &[position]);
        let half = if rotary_dim == 0 { x.len() } else { rotary_dim as usize } / 2;
        // Row 0 turns by nothing, row 1 by a quarter in the first pair and by a half in the others.
        let mut cos = vec![1.; 2 * half];
        let mut sin = vec![0.; 2 * half];
        cos[half..].fill(-1.);
        (cos[half], sin[half]) = (0., 1.);
        first(t.values(F32, &[2, half], &cos).values(F32, &[2, half], &sin))
    };
    let x = [1., 2., 3., 4.];
    assert_eq!(rope(RopeStyle::HalfSplit, 0, 0, &x, 0.), x);
    assert_eq!(rope(RopeStyle::HalfSplit, 0, 0, &x, 1.), [-3., -2., 1., -4.]);
    assert_eq!(rope(RopeStyle::Interleaved, 0, 0, &x, 1.), [-2., 1., -3., -4.]);
    assert_eq!(rope(RopeStyle::HalfSplit, 2, 0, &x, 1.), [-2., 1., 3., 4.]);
    assert_eq!(rope(RopeStyle::HalfSplit, 2, 2, &x, 1.), [1., 2., -4., 3.]);
    near(&rope(RopeStyle::Interleaved, 2, 0, &x, 2.), &[NAN, NAN, 3., 4.]);
    near(&rope(RopeStyle::Interleaved, 2, 0, &x, -1.), &[NAN, NAN, 3., 4.]);
}

#[test]
fn softmax_scales_masks_and_zeroes_rows_that_see_nothing() {
    let op = |scale, causal| Op::Softmax(SoftmaxAttrs { scale, causal });
    let ln = f64::ln;
    let t = Trial::new(op(0., false)).values(F32, &[1, 3], &[ln(1.), ln(2.), ln(5.)]);
    near(&first(t), &[0.125, 0.25, 0.625]);
    let t = Trial::new(op(2., false)).values(F32, &[1, 2], &[ln(1.), ln(3.)]);
    near(&first(t.clone()), &[0.1, 0.9]);
    near(&first(t.values(F32, &[2], &[ln(9.), 0.])), &[0.5, 0.5]);
    let t = Trial::new(op(0., false)).values(F32, &[2, 2], &[1., 2., 3., 4.]).values(F32, &[2, 1], &[-INF, 0.]);
    near(&first(t), &[0., 0., 0.2689414213699951, 0.7310585786300049]);
}

#[test]
fn a_causal_softmax_is_aligned_bottom_right() {
    let causal = |rows, columns| {
        let op = Op::Softmax(SoftmaxAttrs { scale: 0., causal: true });
        first(Trial::new(op).values(F32, &[rows, columns], &vec![0.; rows * columns]))
    };
    let third = 1. / 3.;
    near(&causal(2, 3), &[0.5, 0.5, 0., third, third, third]);
    near(&causal(3, 2), &[0., 0., 1., 0., 0.5, 0.5]);
}

#[test]
fn reductions_run_along_any_axis() {
    let of = |kind, axis| {
        let op = Op::Reduce(ReduceAttrs { kind, axis, keep_dim: false });
        first(Trial::new(op).values(F32, &[2, 3], &[1., 2., 6., -1., NAN, 4.]))
    };
    near(&of(ReduceKind::Sum, 1), &[9., NAN]);
    near(&of(ReduceKind::Mean, 0), &[0., NAN, 5.]);
    near(&of(ReduceKind::Max, 0), &[1., NAN, 6.]);
    near(&of(ReduceKind::Max, 1), &[6., NAN]);
}

#[test]
fn argmax_and_top_k_break_ties_to_the_lower_index() {
    let x = [3., 7., 7., NAN, 1., 1., -INF, 1.];
    assert_eq!(first(Trial::new(Op::Argmax(PLAIN)).values(F32, &[2, 4], &x)), [3., 0.]);
    let t = Trial::new(Op::TopK(TopKAttrs { k: 2 })).values(F32, &[2, 4], &x);
    let got = run(t);
    near(&got[0], &[NAN, 7., 1., 1.]);
    assert_eq!(got[1], [3., 1., 0., 1.]);
}

#[test]
fn sample_reads_its_steering_row_by_row() {
    let logits: Vec<f64> = [0.1f64, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
    let t = Trial::new(Op::Sample(PLAIN)).values(F32, &[3, 4], &logits.repeat(3));
    let t = t.values(F32, &[3], &[0.95, 0.95, 0.95]).values(F32, &[3], &[1., 0., 1.]).values(I32, &[3], &[0., 0., 2.]);
    assert_eq!(first(t.values(F32, &[3], &[1.; 3]).values(F32, &[3], &[0.; 3])), [0., 1., 3.]);
}

#[test]
fn movements_put_every_element_in_its_place() {
    let x: Vec<f64> = (0..6).map(f64::from).collect();
    let at = |op| run(Trial::new(op).values(DType::F16, &[2, 3], &x));
    assert_eq!(at(Op::Slice(SliceAttrs { axis: 1, start: 1, len: 2 })), [[1., 2., 4., 5.]]);
    assert_eq!(at(Op::Slice(SliceAttrs { axis: 0, start: 1, len: 1 })), [[3., 4., 5.]]);
    assert_eq!(at(Op::Split(SplitAttrs { axis: 1, parts: 3 })), [[0., 3.], [1., 4.], [2., 5.]]);
    let perm = Perm::new(&[1, 0]).unwrap();
    assert_eq!(at(Op::Transpose(TransposeAttrs { perm })), [[0., 3., 1., 4., 2., 5.]]);
    let concat = |axis, shape: &[usize]| {
        let op = Op::Concat(ConcatAttrs { axis });
        first(Trial::new(op).values(DType::F16, &[2, 3], &x).values(DType::F16, shape, &[9., 8.]))
    };
    assert_eq!(concat(1, &[2, 1]), [0., 1., 2., 9., 3., 4., 5., 8.]);
    let t = Trial::new(Op::Concat(ConcatAttrs { axis: 0 })).values(F32, &[1, 2], &[1., 2.]);
    assert_eq!(first(t.values(F32, &[0, 2], &[]).values(F32, &[1, 2], &[3., 4.])), [1., 2., 3., 4.]);
}

#[test]
fn quantised_rows_are_sliced_by_blocks() {
    let block = |code: u8| [&[0x00, 0x3c][..], &[code; 32]].concat();
    let desc = TensorDesc::new(DType::Q8_0, &[1, 96]).unwrap();
    let op = Op::Slice(SliceAttrs { axis: 1, start: 32, len: 64 });
    let got = first(Trial::new(op).input(desc, [block(1), block(2), block(3)].concat()));
    assert_eq!((got[0], got[31], got[32], got[63]), (2., 2., 3., 3.));
}
