//! Products: plain, quantised, int8.

use qiao_conformance::Check::{Limit, Special, Unwritten};
use qiao_core::{Epilogue, MatmulAttrs, Op, OpKind, Result};
use qiao_reference::round::round;
use qiao_reference::value::Output;

use crate::device::Mutant;
use crate::device::Sabotage::{Before, Kernel, Lost};
use crate::rows::permuted;
use crate::scene::{Scene, f16, one};

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "matmul_adds_its_bias_twice",
        "op/matmul/*epilogue=bias*",
        &[Limit],
        Before(|s| s.map(2, |_, b| 2.0 * b)),
    ),
    Mutant::new(
        "matmul_loses_the_last_of_eight_rows",
        "op/matmul/*m=*",
        &[Unwritten],
        Lost(|s, _, i| i / s.outs[0].shape.last_dim().max(1) == 7),
    )
    .when(|s| s.shape(0)[..] == [8, s.shape(0).last().copied().unwrap_or(0)]),
    Mutant::new("matmul_drops_its_bias", "op/matmul/*epilogue=*", &[Limit], Before(|s| s.map(2, |_, _| 0.0))),
    Mutant::new(
        "matmul_drops_its_residual",
        "op/matmul/*epilogue=bias_residual*",
        &[Limit, Special],
        Before(|s| s.map(3, |_, _| 0.0)),
    ),
    Mutant::new(
        "matmul_adds_in_f16",
        "op/matmul/f16/*",
        &[Limit, Special],
        Kernel(|s| product(s, |a, b| a.iter().zip(b).fold(0.0, |sum, (a, b)| f16(sum + f16(a * b))))),
    ),
    Mutant::new(
        "matmul_rounds_products_to_bf16",
        "op/matmul/f32/*",
        &[Limit],
        Kernel(|s| product(s, |a, b| a.iter().zip(b).map(|(a, b)| round(qiao_core::DType::BF16, a * b)).sum())),
    ),
    Mutant::new(
        "matmul_takes_tf32_unasked",
        "op/matmul/f32/*",
        &[Limit],
        Before(|s| {
            for i in 0..2 {
                s.map(i, |_, x| if x.is_finite() { ((x as f32).to_bits() & !0x1fff).to_f32() } else { x });
            }
        }),
    )
    .when(|s| {
        s.desc(0).dtype == qiao_core::DType::F32
            && s.desc(1).dtype == qiao_core::DType::F32
            && matches!(s.op, Op::Matmul(a) if a.precision == qiao_core::Precision::Ieee)
    }),
    Mutant::new(
        "matmul_repeats_its_first_rows_from_row_256_on",
        "op/matmul/*",
        &[Limit, Special],
        Before(|s| {
            let (a, k) = (s.value(0).data, s.desc(0).shape.last_dim().max(1));
            s.map(0, move |i, x| if i / k >= 256 { a[i - 256 * k] } else { x });
        }),
    )
    .when(|s| s.desc(0).shape.len() == 2),
    Mutant::new(
        "matmul_quant_reads_large_fp8_as_infinite",
        "op/matmul_quant.grouped/*codes=f8_e4m3*",
        &[Limit, Special],
        Before(|s| s.map(1, |_, w| if w.abs() >= 256.0 { f64::NAN } else { w })),
    ),
    Mutant::new(
        "matmul_quant_reads_scales_of_nine_bits",
        "op/matmul_quant/*format=q8_0*",
        &[Limit],
        Before(|s| {
            let Some((desc, bytes)) = &mut s.operands[1] else { return };
            bytes.chunks_exact_mut(desc.dtype.block_bytes()).for_each(|block| block[1] &= !2);
        }),
    ),
    Mutant::new(
        "matmul_loses_the_tail_of_k",
        "op/matmul/f32/*",
        &[Limit, Special],
        Before(|s| {
            let k = s.desc(0).shape.last_dim();
            s.map(0, move |i, x| if i % k >= k / 16 * 16 { 0.0 } else { x });
        }),
    )
    .when(|s| s.desc(0).shape.last_dim() > 16),
    Mutant::new(
        "matmul_loses_the_last_of_many_k",
        "op/matmul/f32/*k=8192*",
        &[Limit, Special],
        Before(|s| {
            let k = s.desc(0).shape.last_dim();
            s.map(0, move |i, x| if i % k >= 4096 { 0.0 } else { x });
        }),
    )
    .when(|s| s.desc(0).shape.last_dim() > 4096),
    Mutant::new(
        "matmul_loses_the_tail_of_the_last_tile",
        "op/matmul/f32/*n=97*",
        &[Unwritten],
        Lost(|s, _, i| {
            let n = s.outs[0].shape.last_dim();
            i % n >= n / 16 * 16
        }),
    ),
    Mutant::new(
        "matmul_loses_the_last_odd_row",
        "op/matmul/*m=33*",
        &[Unwritten],
        Lost(|s, _, i| {
            let n = s.outs[0].shape.last_dim();
            let m = s.outs[0].elements() / n;
            m % 2 == 1 && m > 1 && i / n == m - 1
        }),
    ),
    Mutant::new(
        "matmul_is_wrong_only_at_m_1_with_a_huge_n",
        "op/matmul/*n=128256*",
        &[Limit],
        Kernel(|s| {
            let n = s.outs[0].shape.last_dim();
            one(s.numbers(0)?.iter().enumerate().map(|(i, x)| if i % n == 65536 { x + 1.0 } else { *x }).collect())
        }),
    )
    .when(|s| s.outs[0].shape.last_dim() > 65536 && s.outs[0].elements() == s.outs[0].shape.last_dim()),
    Mutant::new(
        "matmul_counts_columns_in_16_bits",
        "op/matmul/*n=128256*",
        &[Unwritten],
        Lost(|s, _, i| i % s.outs[0].shape.last_dim() >= 65536),
    ),
    Mutant::new(
        "matmul_is_wrong_only_past_128_rows",
        "op/matmul/f32/*m=129*",
        &[Limit],
        Kernel(|s| {
            let n = s.outs[0].shape.last_dim();
            one(s.numbers(0)?.iter().enumerate().map(|(i, x)| if i / n >= 128 { -x } else { *x }).collect())
        }),
    ),
    Mutant::new(
        "matmul_of_a_square_b_forgets_that_it_lies_transposed",
        "op/matmul/*n=31,k=31*",
        &[Limit, Special],
        Before(|s| {
            if let Op::Matmul(a) = &mut s.op {
                a.trans_b = !a.trans_b;
            }
        }),
    )
    .when(|s| {
        let b = s.shape(1);
        b[b.len() - 1] == b[b.len() - 2] && b[b.len() - 1] > 1
    }),
    Mutant::new(
        "matmul_gives_every_batch_the_first_b",
        "op/matmul/*each=yes*",
        &[Limit, Special],
        Before(|s| {
            let b = s.shape(1);
            let one = b[b.len() - 1] * b[b.len() - 2];
            let data = s.value(1).data;
            s.map(1, |i, _| data[i % one]);
        }),
    )
    .when(|s| s.shape(1).len() > 2 && s.desc(1).elements() > 0),
    Mutant::new(
        "matmul_of_no_terms_writes_nothing",
        "op/matmul/*k=0*",
        &[Unwritten],
        Lost(|s, _, _| s.desc(0).shape.last_dim() == 0),
    ),
    Mutant::new(
        "matmul_skips_zeros_and_with_them_nan",
        "op/matmul/*fill=special*",
        &[Special],
        Kernel(|s| {
            product(s, |a, b| a.iter().zip(b).filter(|(a, b)| !a.is_nan() && !b.is_nan()).map(|(a, b)| a * b).sum())
        }),
    ),
    Mutant::new(
        "matmul_gates_with_the_wrong_half",
        "op/matmul/*epilogue=silu_mul*",
        &[Limit],
        Before(|s| {
            let Op::Matmul(a) = s.op else { return };
            let b = s.shape(1);
            let (n, k) = if a.trans_b { (b[b.len() - 2], b[b.len() - 1]) } else { (b[b.len() - 1], b[b.len() - 2]) };
            let (value, bias) = (s.value(1).data, s.has(2).then(|| s.value(2).data));
            let turned = |j: usize| (j + n / 2) % n;
            s.map(1, |i, _| {
                let (batch, at) = (i / (n * k) * n * k, i % (n * k));
                value[batch + if a.trans_b { turned(at / k) * k + at % k } else { at / n * n + turned(at % n) }]
            });
            if let Some(bias) = bias {
                s.map(2, |i, _| bias[turned(i)]);
            }
        }),
    )
    .when(|s| matches!(s.op, Op::Matmul(MatmulAttrs { epilogue: Epilogue::SiluMul, .. }))),
    Mutant::new(
        "matmul_has_the_gelu_of_tanh",
        "op/matmul/f32/*epilogue=gelu*",
        &[Limit],
        Kernel(|s| {
            let Op::Matmul(a) = &mut s.op else { return s.truth() };
            a.epilogue = if s.operands.get(2).is_some_and(Option::is_some) { Epilogue::Bias } else { Epilogue::None };
            let gelu =
                |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
            one(s.numbers(0)?.into_iter().map(gelu).collect())
        }),
    )
    .when(|s| matches!(s.op, Op::Matmul(MatmulAttrs { epilogue: Epilogue::Gelu, .. }))),
    Mutant::new(
        "matmul_rounds_before_its_bias",
        "op/matmul/bf16/*epilogue=bias*",
        &[Limit],
        Kernel(|s| {
            let bias = s.value(2).data;
            let Op::Matmul(a) = &mut s.op else { return s.truth() };
            a.epilogue = Epilogue::None;
            s.operands.truncate(2);
            let (n, dtype) = (bias.len(), s.outs[0].dtype);
            one(s.numbers(0)?.iter().enumerate().map(|(i, x)| round(dtype, *x) + bias[i % n]).collect())
        }),
    )
    .when(|s| matches!(s.op, Op::Matmul(MatmulAttrs { epilogue: Epilogue::Bias, .. }))),
    Mutant::new(
        "matmul_quant_ignores_zero_points",
        "op/matmul_quant*/*zero*",
        &[Limit],
        Before(|s| s.map(3, |_, _| 0.0)),
    )
    .when(|s| s.has(3)),
    Mutant::new(
        "matmul_quant_takes_zero_points_as_one_more",
        "op/matmul_quant*/*zero*",
        &[Limit],
        Before(|s| {
            let most = if s.desc(3).dtype == qiao_core::DType::U4 { 15.0 } else { 127.0 };
            s.map(3, move |_, z| (z + 1.0).min(most));
        }),
    )
    .when(|s| s.has(3)),
    Mutant::new("matmul_quant_ignores_g_idx", "op/matmul_quant*g_idx=*", &[Limit], Before(|s| s.operands[4] = None))
        .when(|s| s.has(4)),
    Mutant::new(
        "matmul_quant_has_groups_of_the_first_scale",
        "op/matmul_quant*",
        &[Limit],
        Before(|s| {
            let groups = s.desc(2).shape.last_dim().max(1);
            let data = s.value(2).data;
            s.map(2, |i, _| data[i / groups * groups]);
        }),
    )
    .when(|s| s.has(2) && s.desc(2).elements() > 0),
    Mutant::new(
        "matmul_quant_has_one_row_of_scales",
        "op/matmul_quant*",
        &[Limit],
        Before(|s| {
            let groups = s.desc(2).shape.last_dim().max(1);
            let data = s.value(2).data;
            s.map(2, |i, _| data[i % groups]);
        }),
    )
    .when(|s| s.has(2) && s.desc(2).elements() > 0),
    Mutant::new("matmul_quant_adds_its_bias_twice", "op/matmul_quant*", &[Limit], Before(|s| s.map(5, |_, b| 2.0 * b))),
    Mutant::new(
        "matmul_quant_rounds_activations_to_int8_in_silence",
        "op/matmul_quant*",
        &[Limit],
        Before(|s| {
            let k = s.desc(0).shape.last_dim().max(1);
            let data = s.value(0).data;
            let scale: Vec<f64> =
                data.chunks(k).map(|r| r.iter().fold(0.0, |m: f64, x| m.max(x.abs())) / 127.0).collect();
            s.map(0, |i, x| {
                if scale[i / k] > 0.0 && x.is_finite() {
                    (x / scale[i / k]).round_ties_even() * scale[i / k]
                } else {
                    x
                }
            });
        }),
    ),
    Mutant::new(
        "matmul_quant_loses_the_last_block_of_k",
        "op/matmul_quant*",
        &[Limit, Special],
        Before(|s| {
            let k = s.desc(0).shape.last_dim();
            s.map(0, move |i, x| if i % k >= k - 32 { 0.0 } else { x });
        }),
    )
    .when(|s| s.desc(0).shape.last_dim() > 32),
    Mutant::new(
        "quantize_dynamic_rounds_half_away",
        "op/quantize_dynamic/*",
        &[Limit],
        Kernel(|s| quantized(s, |x| x.round().clamp(-128.0, 127.0), 127.0)),
    ),
    Mutant::new(
        "quantize_dynamic_truncates",
        "op/quantize_dynamic/*",
        &[Limit],
        Kernel(|s| quantized(s, |x| x.trunc(), 127.0)),
    ),
    Mutant::new(
        "quantize_dynamic_divides_by_128",
        "op/quantize_dynamic/*",
        &[Limit],
        Kernel(|s| quantized(s, |x| x.round_ties_even().min(127.0), 128.0)),
    ),
    Mutant::new(
        "quantize_dynamic_of_zeros_has_scale_1",
        "op/quantize_dynamic/*fill=zero*",
        &[Limit],
        Kernel(|s| {
            let scales = s.numbers(1)?.iter().map(|x| if *x == 0.0 { 1.0 } else { *x }).collect();
            Ok(vec![Output::Values(s.numbers(0)?), Output::Values(scales)])
        }),
    ),
    Mutant::new(
        "quantize_dynamic_has_one_scale_for_all_rows",
        "op/quantize_dynamic/*",
        &[Limit],
        Kernel(|s| {
            let x = s.value(0);
            let scale = round(qiao_core::DType::F32, x.data.iter().fold(0.0, |m: f64, x| m.max(x.abs())) / 127.0);
            let codes = x.data.iter().map(|x| if scale > 0.0 { (x / scale).round_ties_even() } else { 0.0 }).collect();
            Ok(vec![Output::Values(codes), Output::Values(vec![scale; s.outs[1].elements()])])
        }),
    ),
    Mutant::new(
        "quantize_static_rounds_half_away",
        "op/quantize_static/*",
        &[Limit],
        Kernel(|s| on_grid(s, |x| x.round().clamp(-128.0, 127.0))),
    ),
    Mutant::new(
        "quantize_static_wraps",
        "op/quantize_static/*",
        &[Limit],
        Kernel(|s| on_grid(s, |x| (x.round_ties_even() as i64 as i8) as f64)),
    ),
    Mutant::new(
        "quantize_static_is_symmetric",
        "op/quantize_static/*",
        &[Limit],
        Kernel(|s| on_grid(s, |x| x.round_ties_even().clamp(-127.0, 127.0))),
    ),
    Mutant::new("quantize_static_forgets_its_zero", "op/quantize_static/*", &[Limit], Before(|s| s.map(2, |_, _| 0.0)))
        .when(|s| s.has(2)),
    Mutant::new(
        "scaled_matmul_forgets_what_joins_the_sum",
        "op/scaled_matmul/*joins*",
        &[Limit],
        Before(|s| s.map(5, |_, _| 0.0)),
    )
    .when(|s| s.has(5)),
    Mutant::new(
        "scaled_matmul_joins_behind_the_scales",
        "op/scaled_matmul/*joins*",
        &[Limit],
        Before(|s| {
            let (sa, sb) = (s.value(2).data, s.value(3).data);
            s.map(5, |j, b| (b / (sa[0] * sb[j % sb.len()])).clamp(-1e9, 1e9).round());
        }),
    )
    .when(|s| s.has(5) && s.desc(2).elements() > 0 && s.desc(3).elements() > 0),
    Mutant::new(
        "scaled_matmul_swaps_its_scales",
        "op/scaled_matmul/*",
        &[Limit],
        Before(|s| {
            let (sa, sb) = (s.value(2).data, s.value(3).data);
            if !sa.is_empty() && !sb.is_empty() {
                s.map(2, |i, _| sb[i % sb.len()]);
                s.map(3, |i, _| sa[i % sa.len()]);
            }
        }),
    )
    .when(|s| s.desc(2).elements() > 1 || s.desc(3).elements() > 1),
    Mutant::new(
        "scaled_matmul_adds_in_f32",
        "op/scaled_matmul/*codes=highest*",
        &[Limit],
        Kernel(|s| {
            let (a, b) = (s.value(0), s.value(1));
            let (sa, sb) = (s.value(2).data, s.value(3).data);
            let bias = s.has(4).then(|| s.value(4).data);
            let mut out = Vec::new();
            for (i, a) in a.rows().enumerate() {
                for (j, b) in b.rows().enumerate() {
                    let sum = a.iter().zip(b).fold(0f32, |sum, (a, b)| sum + (*a as f32) * (*b as f32));
                    out.push(sum as f64 * sa[i % sa.len()] * sb[j % sb.len()] + bias.as_ref().map_or(0.0, |b| b[j]));
                }
            }
            one(out)
        }),
    )
    .when(|s| s.desc(0).shape.last_dim() > 0),
    Mutant::new(
        "scaled_matmul_adds_in_16_bits",
        "op/scaled_matmul/*",
        &[Limit],
        Kernel(|s| {
            let (a, b) = (s.value(0), s.value(1));
            let (sa, sb) = (s.value(2).data, s.value(3).data);
            let bias = s.has(4).then(|| s.value(4).data);
            let mut out = Vec::new();
            for (i, a) in a.rows().enumerate() {
                for (j, b) in b.rows().enumerate() {
                    // Pairs are added with saturation, as old vector units do.
                    let pair = |p: (&[f64], &[f64])| {
                        p.0.iter().zip(p.1).map(|(a, b)| a * b).sum::<f64>().clamp(-32768.0, 32767.0)
                    };
                    let sum: f64 = a.chunks(2).zip(b.chunks(2)).map(pair).sum();
                    out.push(sum * sa[i % sa.len()] * sb[j % sb.len()] + bias.as_ref().map_or(0.0, |b| b[j]));
                }
            }
            one(out)
        }),
    )
    .when(|s| s.desc(0).shape.last_dim() > 0),
    Mutant::new(
        "scaled_matmul_scales_its_bias",
        "op/scaled_matmul/*",
        &[Limit],
        Before(|s| {
            let (sa, sb) = (s.value(2).data, s.value(3).data);
            s.map(4, |j, b| b * sa[0] * sb[j % sb.len()]);
        }),
    )
    .when(|s| s.has(4) && s.desc(2).elements() > 0 && s.desc(3).elements() > 0),
];

/// A float of these bits, as f64.
trait Bits {
    fn to_f32(self) -> f64;
}

impl Bits for u32 {
    fn to_f32(self) -> f64 {
        f32::from_bits(self) as f64
    }
}

/// A plain product of `[M, K]` whose sums are this, of two rows; with an epilogue or a batch it is the right one.
fn product(s: &mut Scene<'_>, dot: fn(&[f64], &[f64]) -> f64) -> Result<Vec<Output>> {
    let Op::Matmul(a) = s.op else { return s.truth() };
    if a.epilogue != Epilogue::None || s.shape(0).len() != 2 || s.shape(1).len() != 2 || s.kind() != OpKind::Matmul {
        return s.truth();
    }
    let x = s.value(0);
    let b = if a.trans_b { s.value(1).data } else { permuted(s, 1, &[1, 0]) };
    let k = x.row_len();
    if k == 0 {
        return s.truth();
    }
    one(x.rows().flat_map(|row| b.chunks_exact(k).map(|col| dot(row, col)).collect::<Vec<_>>()).collect())
}

/// A quantize_static with this rounding.
fn on_grid(s: &mut Scene<'_>, rounded: fn(f64) -> f64) -> Result<Vec<Output>> {
    let (x, scale) = (s.value(0), s.value(1).data[0]);
    let zero = if s.has(2) { s.value(2).data[0] } else { 0.0 };
    if x.data.iter().any(|x| !x.is_finite()) {
        return s.truth();
    }
    one(x.data.iter().map(|x| rounded(x / scale + zero)).collect())
}

/// A quantize_dynamic with this rounding and this largest code.
fn quantized(s: &mut Scene<'_>, rounded: fn(f64) -> f64, most: f64) -> Result<Vec<Output>> {
    let x = s.value(0);
    if x.data.iter().any(|x| !x.is_finite()) || x.row_len() == 0 {
        return s.truth();
    }
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in x.rows() {
        let scale = round(qiao_core::DType::F32, row.iter().fold(0.0, |m: f64, x| m.max(x.abs())) / most);
        scales.push(scale);
        codes.extend(row.iter().map(|x| if scale > 0.0 { rounded(x / scale) } else { 0.0 }));
    }
    Ok(vec![Output::Values(codes), Output::Values(scales)])
}
