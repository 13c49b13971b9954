//! Shapes, strides, dtypes and data at the edge of what an operator means, on every ISA tier, beside the truth in f64.

mod trials;

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;
use trials::{Maker, check_all, devices, with};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const INDICES: [DType; 2] = [DType::I32, DType::I64];
const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

fn matmul(trans_b: bool, epilogue: Epilogue) -> Op {
    Op::Matmul(MatmulAttrs { trans_b, epilogue, ..Default::default() })
}

#[test]
fn products_of_mixed_dtypes_and_any_strides() {
    let mut m = Maker::new(1);
    let mut trials = Vec::new();
    for (a, b) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))) {
        for (rows, n, k) in [(1, 33, 19), (7, 17, 40), (30, 5, 1), (13, 48, 0), (2, 1, 390)] {
            for constant in [false, true] {
                for trans in [false, true] {
                    let x = m.of(a, &[rows, k]);
                    let shape = if trans { [n, k] } else { [k, n] };
                    let mut w = m.gapped(b, &shape);
                    w.0.constant = constant;
                    let other = FLOATS[(rows + n) % 3];
                    let trial = with(with(Trial::new(matmul(trans, Epilogue::BiasResidual)), x), w);
                    let trial = with(with(trial, m.repeated(other, &[n])), m.gapped(b, &[rows, n]));
                    trials.push(trial.output_dtype(other));
                }
            }
        }
        // Rows of the first operand that are not evenly spaced, all the same, or not contiguous.
        for x in [m.uneven(a, 3, 5, 24), m.repeated(a, &[3, 5, 24]), m.gapped(a, &[3, 5, 24])] {
            for constant in [false, true] {
                let mut w = m.of(b, &[40, 24]);
                w.0.constant = constant;
                trials.push(with(with(Trial::new(matmul(true, Epilogue::None)), x.clone()), w));
            }
        }
        let (x, w) = (m.uneven(a, 2, 9, 8), m.gapped(b, &[2, 8, 20]));
        trials.push(with(with(Trial::new(matmul(false, Epilogue::None)), x), w));
    }
    check_all(&trials);
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_rows_and_columns() {
    let mut m = Maker::new(7);
    let mut trials = Vec::new();
    for (a, b) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))) {
        for (rows, n, k) in [(1, 19, 33), (14, 35, 71)] {
            for constant in [false, true] {
                let (x, mut w) = (m.special(a, &[rows, k]), m.special(b, &[n, k]));
                w.0.constant = constant;
                trials.push(with(with(Trial::new(matmul(true, Epilogue::None)), x), w));
            }
        }
        for op in [Op::Add(NoAttrs {}), Op::Mul(NoAttrs {}), Op::Div(NoAttrs {}), Op::SiluMul(SiluMulAttrs::default())]
        {
            trials.push(with(with(Trial::new(op), m.special(a, &[3, 21])), m.special(b, &[3, 21])));
        }
        let eps = NormAttrs { eps: 1e-5, ..Default::default() };
        trials.push(with(with(Trial::new(Op::RmsNorm(eps)), m.special(a, &[5, 21])), m.special(b, &[21])));
        trials.push(with(with(Trial::new(Op::AddRmsNorm(eps)), m.special(a, &[5, 21])), m.special(b, &[5, 21])));
        let layer = Op::LayerNorm(LayerNormAttrs { eps: 1e-5 });
        trials.push(with(with(Trial::new(layer), m.special(a, &[5, 21])), m.special(b, &[21])));
    }
    check_all(&trials);
}

#[test]
fn gathers_copy_every_bit_whatever_the_ids() {
    let mut m = Maker::new(2);
    let mut trials = Vec::new();
    let plain = |d: &&DType| !d.is_packed();
    for &dtype in DType::ALL.iter().filter(plain) {
        let desc = TensorDesc::new(dtype, &[5, 6]).unwrap();
        let mut bytes: Vec<u8> = (0..desc.bytes().unwrap()).map(|_| m.rng.bits() as u8).collect();
        if dtype == DType::Bool {
            bytes.iter_mut().for_each(|b| *b &= 1);
        }
        for index in INDICES {
            let far = if index == DType::I64 { 5e15 } else { 2e9 };
            let ids = [0.0, 4.0, 5.0, -1.0, 2.0, -far, far, 1.0];
            let ids = (TensorDesc::strided(index, &[2, 2], &[4, 2]).unwrap(), to_bytes(index, &ids));
            trials.push(with(with(Trial::new(Op::GatherRows(NoAttrs {})), (desc.clone(), bytes.clone())), ids));
        }
        let scalar = with(Trial::new(Op::GatherRows(NoAttrs {})), (desc, bytes)).values(DType::I64, &[], &[3.0]);
        trials.push(scalar);
    }
    for table in [[0, 4], [3, 0]] {
        let trial = with(Trial::new(Op::GatherRows(NoAttrs {})), m.of(DType::F16, &table));
        trials.push(trial.values(DType::I32, &[3], &[0.0, 1.0, -1.0]));
    }
    check_all(&trials);
}

#[test]
fn gathers_of_codes_and_of_floats_in_another_dtype() {
    let mut m = Maker::new(8);
    let mut trials = Vec::new();
    let gather = || Trial::new(Op::GatherRows(NoAttrs {}));
    for dtype in [DType::I4, DType::U4, DType::F4E2M1] {
        for layout in [TensorDesc::new(dtype, &[5, 6]), TensorDesc::strided(dtype, &[5, 6], &[10, 1])] {
            let desc = layout.unwrap();
            let bytes = (0..desc.bytes().unwrap()).map(|_| m.rng.bits() as u8).collect();
            let trial = gather().input(desc, bytes).values(DType::I32, &[2, 2], &[4.0, 0.0, 5.0, -1.0]);
            trials.push(if dtype == DType::F4E2M1 { trial.output_dtype(DType::BF16) } else { trial });
        }
    }
    let floats = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2];
    for (from, to) in floats.iter().flat_map(|&from| floats.map(|to| (from, to))) {
        let trial = with(gather(), m.gapped(from, &[4, 9])).values(DType::I64, &[3], &[2.0, 7.0, 1.0]);
        trials.push(trial.output_dtype(to));
    }
    check_all(&trials);
}

#[test]
fn gathered_wide_integers_and_nan_keep_their_bits() {
    for device in devices() {
        for (dtype, bits) in
            [(DType::I64, (1u64 << 60) + 1), (DType::F64, 0x7ff0_0000_dead_beef), (DType::U64, u64::MAX - 2)]
        {
            let mut g = Graph::new();
            let table = g.bind("table", TensorDesc::new(dtype, &[1, 1]).unwrap());
            let ids = g.bind("ids", TensorDesc::new(DType::I32, &[1]).unwrap());
            let y = g.bind("y", TensorDesc::new(dtype, &[1, 1]).unwrap());
            g.add_into(Op::GatherRows(NoAttrs {}), &[Some(table), Some(ids)], &[y]).unwrap();
            let out = trials::run(&device, &g, &[bits.to_le_bytes().to_vec(), vec![0; 4], vec![1; 8]]).unwrap();
            assert_eq!(out[2], bits.to_le_bytes(), "{dtype}");
        }
    }
}

#[test]
fn casts_round_once_and_saturate() {
    let op = Op::Cast(NoAttrs {});
    let plain =
        |d: &DType| d.is_int() && !d.is_packed() || matches!(d, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
    let scalars: Vec<DType> = DType::ALL.iter().copied().filter(plain).collect();
    let data = [
        0.3,
        -0.3,
        0.5,
        1.5,
        -7.0,
        7.0,
        255.5,
        -129.0,
        1e20,
        -1e20,
        NAN,
        INF,
        -INF,
        65519.999,
        1.0 + 2f64.powi(-11) + 2f64.powi(-40),
    ];
    let wide: [i64; 6] =
        [i64::MIN, i64::MAX, (1 << 60) + (1 << 36) + 1, -(1 << 60) - (1 << 36) - 1, (1 << 53) + 1, 2049];
    let mut trials = Vec::new();
    for &to in scalars.iter().chain(&[DType::F8E4M3, DType::F8E5M2]) {
        for &from in &scalars {
            trials.push(Trial::new(op).values(from, &[3, 5], &data).output_dtype(to));
        }
        for from in [DType::I64, DType::U64] {
            let bytes = wide.iter().flat_map(|v| v.to_le_bytes()).collect();
            trials.push(Trial::new(op).input(TensorDesc::new(from, &[6]).unwrap(), bytes).output_dtype(to));
        }
        let bytes = vec![0, 1, 2, 255];
        trials.push(Trial::new(op).input(TensorDesc::new(DType::Bool, &[4]).unwrap(), bytes).output_dtype(to));
    }
    check_all(&trials);
}

#[test]
fn rows_of_strange_numbers() {
    let mut m = Maker::new(3);
    let rows = [1.0, NAN, 2.0, INF, -INF, 0.0, -INF, -INF, -INF, 3.0, INF, -2.0, 0.0, 0.0, 0.0];
    let mut trials = Vec::new();
    for dtype in FLOATS {
        let x = |op| Trial::new(op).values(dtype, &[5, 3], &rows);
        for causal in [false, true] {
            trials.push(x(Op::Softmax(SoftmaxAttrs { causal, scale: 0.5 })));
            let mask = Trial::new(Op::Softmax(SoftmaxAttrs { causal, scale: 0.0 })).values(dtype, &[5, 3], &[0.25; 15]);
            trials.push(mask.values(DType::F32, &[3], &[-INF; 3]));
        }
        trials.push(x(Op::QuantizeDynamic(NoAttrs {})));
        trials.push(x(Op::Argmax(NoAttrs {})));
        trials.push(x(Op::TopK(TopKAttrs { k: 2 })));
        for axis in [0, 1] {
            trials.push(x(Op::Reduce(ReduceAttrs { kind: ReduceKind::Max, axis, keep_dim: axis == 0 })));
        }
        for temperature in [0.0, 0.7] {
            let five = |v: f64| [v; 5];
            let sample = x(Op::Sample(NoAttrs {})).values(DType::F32, &[5], &five(0.9));
            let sample = sample.values(DType::F32, &[5], &five(temperature)).values(
                DType::I64,
                &[5],
                &[0.0, -1.0, 2.0, 9e15, 1.0],
            );
            trials.push(sample.values(DType::F32, &[5], &[1.0, 0.0, 0.5, 2.0, NAN]).values(
                DType::F32,
                &[5],
                &[0.0, 1.0, 0.9, -1.0, NAN],
            ));
        }
        for shape in [&[3, 0][..], &[0, 3], &[0]] {
            trials.push(with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), m.of(dtype, shape)));
            trials.push(with(Trial::new(Op::Softmax(SoftmaxAttrs::default())), m.of(dtype, shape)));
            trials
                .push(with(Trial::new(Op::RmsNorm(NormAttrs { eps: 1e-6, ..Default::default() })), m.of(dtype, shape)));
        }
        trials.push(with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), m.gapped(dtype, &[2, 3, 17])));
    }
    check_all(&trials);
}

#[test]
fn rope_takes_any_positions_and_strides() {
    let mut m = Maker::new(4);
    let mut trials = Vec::new();
    for (dtype, index) in FLOATS.iter().flat_map(|&d| INDICES.map(|i| (d, i))) {
        for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
            let op = Op::Rope(RopeAttrs { style, rotary_dim: 10, offset: 2 });
            let positions = [0.0, 9.0, 6.0, 9.0, 7.0, 9.0, -1.0];
            let positions = (TensorDesc::strided(index, &[4], &[2]).unwrap(), to_bytes(index, &positions));
            let x = m.gapped(dtype, &[4, 3, 14]);
            let trial = with(with(Trial::new(op), x), positions);
            trials.push(with(with(trial, m.of(DType::F32, &[7, 5])), m.of(DType::F32, &[7, 5])));
        }
        let empty =
            with(Trial::new(Op::Rope(RopeAttrs::default())), m.of(dtype, &[2, 0, 8])).values(index, &[2], &[0.0; 2]);
        trials.push(with(with(empty, m.of(DType::F32, &[0, 4])), m.of(DType::F32, &[0, 4])));
    }
    check_all(&trials);
}

#[test]
fn int8_products_of_any_strides_and_sizes() {
    let mut m = Maker::new(5);
    let mut trials = Vec::new();
    for (rows, n, k) in [(1, 1, 0), (5, 20, 0), (0, 3, 4), (3, 0, 4), (4, 17, 3), (13, 40, 65)] {
        for constant in [false, true] {
            for bias in FLOATS {
                let (a, mut b) = (m.codes(&[rows, k]), m.codes(&[n, k]));
                if rows % 2 == 1 {
                    b = m.strided_codes(n, k);
                }
                b.0.constant = constant;
                let trial = with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), a), b);
                let trial = with(with(trial, m.repeated(DType::F32, &[rows])), m.gapped(DType::F32, &[n]));
                trials.push(with(trial, m.of(bias, &[n])).output_dtype(FLOATS[rows % 3]));
            }
        }
    }
    check_all(&trials);
}

#[test]
fn elementwise_over_broadcasts_and_empty_shapes() {
    let mut m = Maker::new(6);
    let mut trials = Vec::new();
    for (a, b) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))) {
        let pairs: [(&[usize], &[usize]); 6] = [
            (&[], &[]),
            (&[3, 1, 5], &[4, 1]),
            (&[1], &[0, 2, 1]),
            (&[7], &[2, 1, 7]),
            (&[4, 0], &[1]),
            (&[2, 2, 2, 2, 2, 2, 2, 2], &[2, 1]),
        ];
        for (x, y) in pairs {
            let trial = with(with(Trial::new(Op::Sub(NoAttrs {})), m.gapped(a, x)), m.repeated(b, y));
            trials.push(trial.output_dtype(b));
        }
        trials.push(
            with(Trial::new(Op::SiluMul(SiluMulAttrs { gate_second: true, clamp: 0.3 })), m.gapped(a, &[3, 4, 10]))
                .output_dtype(b),
        );
        let (x, r, w) = (m.gapped(a, &[2, 3, 9]), m.repeated(b, &[2, 3, 9]), m.gapped(b, &[9]));
        trials
            .push(with(with(with(Trial::new(Op::AddRmsNorm(NormAttrs { eps: 1e-5, ..Default::default() })), x), r), w));
        let moved = |op| Trial::new(op);
        trials.push(with(
            with(moved(Op::Concat(ConcatAttrs { axis: 1 })), m.gapped(a, &[3, 0, 2])),
            m.gapped(a, &[3, 4, 2]),
        ));
        trials.push(with(moved(Op::Split(SplitAttrs { axis: 2, parts: 2 })), m.repeated(b, &[3, 1, 6])));
        trials.push(with(moved(Op::Slice(SliceAttrs { axis: 0, start: 2, len: 0 })), m.gapped(b, &[3, 6])));
    }
    check_all(&trials);
}

#[test]
fn norms_means_and_sums_take_rows_of_any_finite_size() {
    let mut trials = Vec::new();
    let norm = |round_before_weight| NormAttrs { eps: 1e-30, round_before_weight, ..Default::default() };
    for (dtype, size) in [DType::F32, DType::BF16].iter().flat_map(|&d| [3e19, 3e38, 1e-22, 1e-30].map(|s| (d, s))) {
        let row = |n: usize| (0..n).map(|i| size * [1.0, -0.5, 0.75, 1.0, 1.0][i % 5]).collect::<Vec<f64>>();
        let halves: Vec<f64> = row(192).iter().map(|x| x / 2.0).collect();
        let ones = [1.5; 64];
        for round in [false, true] {
            let trial = Trial::new(Op::RmsNorm(norm(round))).values(dtype, &[3, 64], &row(192));
            trials.push(trial.values(dtype, &[64], &ones));
            let trial = Trial::new(Op::AddRmsNorm(norm(round))).values(dtype, &[3, 64], &halves);
            trials.push(trial.values(dtype, &[3, 64], &halves).values(dtype, &[64], &ones));
        }
        let layer = Trial::new(Op::LayerNorm(LayerNormAttrs { eps: 1e-30 }));
        trials.push(layer.values(dtype, &[3, 64], &row(192)).values(dtype, &[64], &ones));
        for (kind, axis) in [(ReduceKind::Mean, 0), (ReduceKind::Mean, 1), (ReduceKind::Sum, 1)] {
            let n = if kind == ReduceKind::Sum { 2 } else { 64 };
            let reduce = Trial::new(Op::Reduce(ReduceAttrs { kind, axis, keep_dim: false }));
            trials.push(reduce.values(dtype, &[3, n], &row(3 * n)));
        }
        let cancels = [3e38, 3e38, -3e38, -2e38, 1e38];
        let reduce = Trial::new(Op::Reduce(ReduceAttrs { kind: ReduceKind::Sum, axis: 1, keep_dim: true }));
        trials.push(reduce.values(dtype, &[1, 5], &cancels));
    }
    check_all(&trials);
}

#[test]
fn a_row_of_one_large_number_has_it_for_a_mean() {
    for device in devices() {
        let mean = Op::Reduce(ReduceAttrs { kind: ReduceKind::Mean, axis: 1, keep_dim: false });
        let out = Trial::new(mean).values(DType::F32, &[1, 4], &[f64::from(3e38f32); 4]).run(&device).unwrap();
        assert_eq!(out[0].data, [f64::from(3e38f32)], "{}", device.info().arch);
        let norm = Op::RmsNorm(NormAttrs { eps: 1e-6, ..Default::default() });
        let out = Trial::new(norm).values(DType::BF16, &[1, 64], &[3e19; 64]).run(&device).unwrap();
        assert_eq!(out[0].data, [1.0; 64], "{}", device.info().arch);
    }
}

#[test]
fn long_rows_are_cut_wherever_operands_lie() {
    let mut m = Maker::new(9);
    let mut trials = Vec::new();
    let n = 20480;
    for (a, b) in [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::F32, DType::F16)] {
        for y in [&[1][..], &[n], &[2, 1], &[1, n], &[]] {
            let trial = with(with(Trial::new(Op::Sub(NoAttrs {})), m.of(a, &[2, n])), m.of(b, y));
            trials.push(trial.output_dtype(a));
        }
        let trial = with(with(Trial::new(Op::Mul(NoAttrs {})), m.gapped(a, &[2, n])), m.repeated(b, &[n]));
        trials.push(trial.output_dtype(b));
        trials.push(with(Trial::new(Op::Tanh(NoAttrs {})), m.gapped(a, &[2, n])).output_dtype(b));
        trials.push(with(with(Trial::new(Op::SiluMul(SiluMulAttrs::default())), m.of(a, &[n])), m.gapped(b, &[n])));
    }
    for (from, to) in [(DType::F32, DType::I32), (DType::I8, DType::F16), (DType::F16, DType::F64)] {
        trials.push(with(Trial::new(Op::Cast(NoAttrs {})), m.gapped(from, &[2, n])).output_dtype(to));
        trials.push(with(Trial::new(Op::Cast(NoAttrs {})), m.of(from, &[3, 7])).output_dtype(to));
    }
    check_all(&trials);
}

#[test]
fn neighbours_are_rotated_as_they_lie() {
    let mut m = Maker::new(10);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for (dim, rotary, offset) in [(128, 128, 0), (160, 134, 26), (64, 10, 2)] {
            let op = Op::Rope(RopeAttrs { style: RopeStyle::Interleaved, rotary_dim: rotary, offset });
            let (half, positions) = (rotary as usize / 2, [4.0, 0.0, 7.0, 6.0, -1.0]);
            let trial = with(Trial::new(op), m.of(dtype, &[5, 3, dim])).values(DType::I32, &[5], &positions);
            trials.push(with(with(trial, m.of(DType::F32, &[7, half])), m.of(DType::F32, &[7, half])));
        }
    }
    check_all(&trials);
}
