//! Norms, softmax, reductions, and what works element by element.

use qiao_conformance::Check::{Limit, Rebind, Special, Unwritten};
use qiao_core::{DType, GeluAttrs, GeluForm, Op, ReduceAttrs, ReduceKind, Result, SoftmaxAttrs};
use qiao_reference::round::round;
use qiao_reference::value::Output;

use crate::device::Mutant;
use crate::device::Sabotage::{Before, Kernel, Lost};
use crate::scene::{Scene, at, f16, indices, one, places};

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "rms_norm_adds_eps_outside_the_root",
        "op/rms_norm/*eps=1e-1*",
        &[Limit],
        Kernel(|s| rms(s, |row, eps| mean_square(row).sqrt() + eps)),
    ),
    Mutant::new(
        "rms_norm_ignores_eps",
        "op/rms_norm/f32/*",
        &[Limit, Special],
        Kernel(|s| rms(s, |row, _| mean_square(row).sqrt())),
    ),
    Mutant::new(
        "rms_norm_adds_squares_in_f16",
        "op/rms_norm/f16/*",
        &[Limit, Special],
        Kernel(|s| {
            rms(s, |row, eps| (row.iter().fold(0.0, |a, x| f16(a + f16(x * x))) / row.len() as f64 + eps).sqrt())
        }),
    ),
    Mutant::new(
        "rms_norm_divides_by_one_less",
        "op/rms_norm/*",
        &[Limit],
        Kernel(|s| {
            rms(s, |row, eps| {
                let sum = mean_square(row) * row.len() as f64;
                (sum / (row.len() as f64 - 1.0).max(1.0) + eps).sqrt()
            })
        }),
    ),
    Mutant::new(
        "rms_norm_skips_the_last_of_an_odd_row",
        "op/rms_norm/f32/*cols=97*",
        &[Limit],
        Kernel(|s| rms(s, |row, eps| (mean_square(&row[..row.len() / 2 * 2]) + eps).sqrt())),
    ),
    Mutant::new(
        "rms_norm_loses_the_tail_of_a_long_row",
        "op/rms_norm/*",
        &[Limit],
        Kernel(|s| {
            rms(s, |row, eps| {
                let kept = if row.len() > 600 { row.len() / 4 * 4 } else { row.len() };
                let sum: f64 = row[..kept].iter().map(|x| x * x).sum();
                (sum / row.len() as f64 + eps).sqrt()
            })
        }),
    ),
    Mutant::new(
        "reduce_loses_the_last_row_of_many",
        "op/reduce/f32/*axis=first*",
        &[Limit],
        Before(|s| {
            let [rows, cols] = s.shape(0)[..] else { return };
            s.map(0, move |i, x| if rows > 600 && rows % 4 > 0 && i / cols == rows - 1 { 0.0 } else { x });
        }),
    )
    .when(|s| matches!(s.op, Op::Reduce(ReduceAttrs { axis: 0, .. }))),
    Mutant::new(
        "rms_norm_ignores_weight_offset",
        "op/rms_norm/*offset=1*",
        &[Limit],
        Before(|s| {
            if let Op::RmsNorm(a) = &mut s.op {
                a.weight_offset = 0;
            }
        }),
    ),
    Mutant::new(
        "add_rms_norm_starts_from_the_rounded_sum",
        "op/add_rms_norm/f32/*out=*",
        &[Limit],
        Kernel(|s| {
            let sum: Vec<f64> = s.numbers(0)?.iter().map(|x| round(s.outs[0].dtype, *x)).collect();
            let zeros = vec![0.0; sum.len()];
            let kept = Output::Values(sum.clone());
            s.set_as(0, qiao_core::TensorDesc::new(DType::F32, &s.shape(0))?, &sum);
            s.set(1, &zeros);
            Ok(vec![kept, Output::Values(s.numbers(1)?)])
        }),
    ),
    Mutant::new(
        "rms_norm_never_rounds_before_its_weight",
        "op/rms_norm/bf16/*",
        &[Limit],
        Before(|s| {
            if let Op::RmsNorm(attrs) = &mut s.op {
                attrs.round_before_weight = false;
            }
        }),
    )
    .when(|s| matches!(s.op, Op::RmsNorm(attrs) if attrs.round_before_weight)),
    Mutant::new(
        "add_rms_norm_writes_y_as_if_its_rows_were_together",
        "op/add_rms_norm/f32/*out_layout=*",
        &[Unwritten],
        Lost(|s, output, i| output == 1 && places(&s.outs[1])[i] != i),
    ),
    Mutant::new(
        "add_rms_norm_drops_the_residual_from_y",
        "op/add_rms_norm/f32/*",
        &[Limit],
        Kernel(|s| {
            let kept = Output::Values(s.numbers(0)?);
            s.map(1, |_, _| 0.0);
            Ok(vec![kept, Output::Values(s.numbers(1)?)])
        }),
    ),
    Mutant::new(
        "layer_norm_takes_the_variance_of_a_sample",
        "op/layer_norm/*",
        &[Limit],
        Kernel(|s| {
            layer_norm(s, |row, mean| {
                row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (row.len() as f64 - 1.0).max(1.0)
            })
        }),
    ),
    Mutant::new(
        "layer_norm_takes_the_variance_in_one_pass",
        "op/layer_norm/f32/*fill=shifted*",
        &[Limit, Special],
        Kernel(|s| {
            layer_norm(s, |row, _| {
                let n = row.len() as f32;
                let (sum, squares) =
                    row.iter().fold((0f32, 0f32), |(a, b), &x| (a + x as f32, b + x as f32 * x as f32));
                (squares / n - (sum / n) * (sum / n)) as f64
            })
        }),
    ),
    Mutant::new(
        "softmax_mask_is_top_left",
        "op/softmax/*causal=yes*",
        &[Limit, Special],
        Kernel(|s| softmax(s, Soft { visible: |i, _, _| i + 1, ..HONEST })),
    ),
    Mutant::new(
        "softmax_sees_one_key_too_many",
        "op/softmax/*causal=yes*",
        &[Limit, Special],
        Kernel(|s| softmax(s, Soft { visible: |i, q, k| (k + i + 2).saturating_sub(q), ..HONEST })),
    ),
    Mutant::new(
        "softmax_sees_one_key_too_few",
        "op/softmax/*causal=yes*",
        &[Limit, Special],
        Kernel(|s| softmax(s, Soft { visible: |i, q, k| (k + i).saturating_sub(q), ..HONEST })),
    ),
    Mutant::new(
        "softmax_ignores_scale",
        "op/softmax/*scale=*",
        &[Limit],
        Before(|s| {
            if let Op::Softmax(a) = &mut s.op {
                a.scale = 0.0;
            }
        }),
    ),
    Mutant::new(
        "softmax_scales_the_mask_too",
        "op/softmax/*mask=*",
        &[Limit, Special],
        Kernel(|s| softmax(s, Soft { score: |x, m, scale| (x + m) * scale, ..HONEST })),
    )
    .when(|s| matches!(s.op, Op::Softmax(a) if a.scale != 0.0)),
    Mutant::new(
        "softmax_of_a_masked_row_is_nan",
        "op/softmax/*mask*",
        &[Special],
        Kernel(|s| softmax(s, Soft { nothing: f64::NAN, ..HONEST })),
    ),
    Mutant::new(
        "softmax_of_a_masked_row_is_uniform",
        "op/softmax/*mask*",
        &[Limit],
        Kernel(|s| softmax(s, Soft { nothing: 1.0 / 16.0, ..HONEST })),
    ),
    Mutant::new(
        "softmax_does_not_subtract_the_largest",
        "op/softmax/f32/*",
        &[Special, Limit],
        Kernel(|s| softmax(s, Soft { shift: false, ..HONEST })),
    ),
    Mutant::new(
        "softmax_mask_of_keys_is_one_of_queries",
        "op/softmax/*mask=keys*",
        &[Limit, Special],
        Before(|s| {
            let (n, mask) = (s.shape(0), s.value(1).data);
            let rows = n[n.len() - 2];
            let wrong: Vec<f64> = (0..mask.len()).map(|i| mask[i * 7 % mask.len() % rows.max(1)]).collect();
            s.set(1, &wrong);
        }),
    )
    .when(|s| s.shape(0).len() >= 2 && s.has(1) && s.shape(1).len() == 1),
    Mutant::new(
        "mean_divides_by_the_last_axis",
        "op/reduce/*kind=mean*axis=*",
        &[Limit],
        Kernel(|s| {
            let Op::Reduce(a) = s.op else { return s.truth() };
            let shape = s.shape(0);
            let factor = shape[a.axis as usize] as f64 / shape[shape.len() - 1] as f64;
            one(s.numbers(0)?.iter().map(|x| x * factor).collect())
        }),
    )
    .when(|s| matches!(s.op, Op::Reduce(ReduceAttrs { kind: ReduceKind::Mean, .. }))),
    Mutant::new(
        "max_starts_from_zero",
        "op/reduce/*kind=max*fill=negative*",
        &[Limit],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| if *x < 0.0 { 0.0 } else { *x }).collect())),
    )
    .when(|s| matches!(s.op, Op::Reduce(ReduceAttrs { kind: ReduceKind::Max, .. }))),
    Mutant::new(
        "max_does_not_see_nan",
        "op/reduce/*kind=max*fill=special*",
        &[Special],
        Before(|s| s.map(0, |_, x| if x.is_nan() { f64::NEG_INFINITY } else { x })),
    )
    .when(|s| matches!(s.op, Op::Reduce(ReduceAttrs { kind: ReduceKind::Max, .. }))),
    Mutant::new(
        "sum_adds_in_f16",
        "op/reduce/f16/*",
        &[Limit, Rebind],
        Kernel(|s| {
            let rows = s.value(0);
            one(rows.rows().map(|row| row.iter().fold(0.0, |a, x| f16(a + x))).collect())
        }),
    )
    .when(|s| matches!(s.op, Op::Reduce(a) if a.kind == ReduceKind::Sum && a.axis as usize + 1 == s.shape(0).len())),
    Mutant::new("relu_turns_nan_into_zero", "op/relu/*", &[Special], Before(|s| s.map(0, |_, x| x.max(0.0)))),
    Mutant::new(
        "sigmoid_overflows_below_minus_88",
        "op/sigmoid/f32/*",
        &[Special],
        Kernel(|s| {
            one(s
                .value(0)
                .data
                .iter()
                .map(|&x| {
                    let e = (x as f32).exp();
                    (e / (1.0 + e)) as f64
                })
                .collect())
        }),
    ),
    Mutant::new(
        "tanh_by_exponentials_overflows",
        "op/tanh/f32/*",
        &[Special, Limit],
        Kernel(|s| {
            one(s
                .value(0)
                .data
                .iter()
                .map(|&x| {
                    let e = (2.0 * x as f32).exp();
                    ((e - 1.0) / (e + 1.0)) as f64
                })
                .collect())
        }),
    ),
    Mutant::new(
        "exp_stops_at_the_largest_number",
        "op/exp/f32/*",
        &[Special],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| x.min(f32::MAX as f64)).collect())),
    ),
    Mutant::new(
        "gelu_is_of_the_other_form",
        "op/gelu/f32/*",
        &[Limit],
        Before(|s| {
            if let Op::Gelu(GeluAttrs { form }) = &mut s.op {
                *form = if *form == GeluForm::Erf { GeluForm::Tanh } else { GeluForm::Erf };
            }
        }),
    ),
    Mutant::new(
        "div_multiplies_by_a_reciprocal_of_11_bits",
        "op/div/f32/*",
        &[Limit, Special],
        Kernel(|s| {
            let shape = s.outs[0].shape.to_vec();
            let (a, b) = (s.value(0).broadcast(&shape), s.value(1).broadcast(&shape));
            one(a
                .iter()
                .zip(&b)
                .map(|(a, b)| {
                    let r = 1.0 / b;
                    let mantissa = f64::from_bits(r.to_bits() & !((1u64 << 41) - 1));
                    a * if r.is_finite() { mantissa } else { r }
                })
                .collect())
        }),
    ),
    Mutant::new(
        "sub_is_turned_round_for_scalars",
        "op/sub/*b=scalar*",
        &[Limit, Special],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| -x).collect())),
    )
    .when(|s| s.shape(1).is_empty()),
    Mutant::new(
        "add_stops_at_the_largest_number",
        "op/add/*",
        &[Special],
        Kernel(|s| {
            let most = round(s.outs[0].dtype, if s.outs[0].dtype == DType::F16 { 65504.0 } else { f32::MAX as f64 });
            one(s.numbers(0)?.iter().map(|x| x.clamp(-most, most)).collect())
        }),
    ),
    Mutant::new(
        "add_broadcasts_along_the_wrong_axis",
        "op/add/*b=row*",
        &[Limit, Special],
        Before(|s| {
            let n = s.shape(1)[0];
            let desc = qiao_core::TensorDesc::new(s.desc(1).dtype, &[n, 1]).expect("a column is a shape");
            let data = s.value(1).data;
            s.set_as(1, desc, &data);
        }),
    )
    .when(|s| s.shape(1).len() == 1 && s.shape(0).len() == 2 && s.shape(0)[0] == s.shape(1)[0]),
    Mutant::new(
        "mul_reads_strided_operands_as_contiguous",
        "op/mul/*layout=*",
        &[Limit, Special],
        Before(|s| {
            for i in 0..2 {
                let (desc, bytes) = s.operands[i].take().expect("both are given");
                let plain = qiao_core::TensorDesc::new(desc.dtype, &desc.shape).expect("it was a shape before");
                let enough = plain.bytes().is_ok_and(|b| b <= bytes.len());
                s.operands[i] = Some((if enough { plain } else { desc }, bytes));
            }
        }),
    ),
    Mutant::new(
        "mul_loses_the_last_of_odd_rows",
        "op/mul/f16/*cols=97*",
        &[Unwritten],
        Lost(|s, _, i| {
            let n = s.outs[0].shape.last_dim();
            n % 2 == 1 && i % n == n - 1
        }),
    ),
    Mutant::new(
        "silu_loses_the_tail_of_the_last_tile",
        "op/silu/*",
        &[Unwritten],
        Lost(|s, _, i| i >= s.outs[0].elements() / 16 * 16),
    ),
    Mutant::new(
        "silu_is_wrong_only_in_bf16",
        "op/silu/bf16/*",
        &[Limit],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| x * 1.02).collect())),
    )
    .when(|s| s.outs[0].dtype == DType::BF16),
    Mutant::new(
        "add_counts_rows_in_16_bits",
        "op/add/*rows=65537*",
        &[Unwritten],
        Lost(|s, _, i| i / s.outs[0].shape.last_dim().max(1) >= 65536),
    ),
    Mutant::new(
        "silu_mul_ignores_clamp",
        "op/silu_mul/*clamp=*",
        &[Limit],
        Before(|s| {
            if let Op::SiluMul(a) = &mut s.op {
                a.clamp = 0.0;
            }
        }),
    ),
    Mutant::new(
        "silu_mul_swaps_its_halves",
        "op/silu_mul/f32/*gate=second*",
        &[Limit],
        Before(|s| {
            if let Op::SiluMul(a) = &mut s.op {
                a.gate_second = false;
            }
        }),
    ),
    Mutant::new(
        "silu_mul_has_bf16_in_between",
        "op/silu_mul/f16/*",
        &[Limit],
        Kernel(|s| {
            let (gate, up) = (s.value(0), s.value(1));
            let silu = |g: f64| round(DType::BF16, g / (1.0 + (-g).exp()));
            one(gate.data.iter().zip(&up.data).map(|(g, u)| silu(*g) * u).collect())
        }),
    )
    .when(|s| s.has(1) && matches!(s.op, Op::SiluMul(a) if a.clamp == 0.0)),
];

fn mean_square(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64
}

/// An rms_norm whose root is this, of a row and eps.
fn rms(s: &mut Scene<'_>, root: fn(&[f64], f64) -> f64) -> Result<Vec<Output>> {
    let Op::RmsNorm(a) = s.op else { return s.truth() };
    let x = s.value(0);
    let w = s.has(1).then(|| s.value(1).data);
    let mut y = Vec::with_capacity(x.data.len());
    for row in x.rows() {
        let root = root(row, a.eps as f64);
        for (i, x) in row.iter().enumerate() {
            let n = if a.round_before_weight { round(s.outs[0].dtype, x / root) } else { x / root };
            y.push(w.as_ref().map_or(n, |w| n * (w[i] + a.weight_offset as f64)));
        }
    }
    one(y)
}

/// A layer_norm whose variance is this, of a row and its mean.
fn layer_norm(s: &mut Scene<'_>, variance: fn(&[f64], f64) -> f64) -> Result<Vec<Output>> {
    let Op::LayerNorm(a) = s.op else { return s.truth() };
    let x = s.value(0);
    let w = s.has(1).then(|| s.value(1).data);
    let b = s.has(2).then(|| s.value(2).data);
    let mut y = Vec::with_capacity(x.data.len());
    for row in x.rows() {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let root = (variance(row, mean) + a.eps as f64).sqrt();
        y.extend(
            row.iter()
                .enumerate()
                .map(|(i, x)| (x - mean) / root * w.as_ref().map_or(1.0, |w| w[i]) + b.as_ref().map_or(0.0, |b| b[i])),
        );
    }
    one(y)
}

/// The parts of a softmax that may be wrong.
struct Soft {
    /// Of a query, all queries and all keys: how many keys it sees.
    visible: fn(usize, usize, usize) -> usize,
    /// Of x, the mask and the scale.
    score: fn(f64, f64, f64) -> f64,
    /// What a row without a key holds.
    nothing: f64,
    /// Whether the largest score is subtracted; if not, the exponential is that of f32.
    shift: bool,
}

const HONEST: Soft = Soft {
    visible: |i, q, k| (k + i + 1).saturating_sub(q),
    score: |x, m, scale| x * scale + m,
    nothing: 0.0,
    shift: true,
};

fn softmax(s: &mut Scene<'_>, soft: Soft) -> Result<Vec<Output>> {
    let Op::Softmax(SoftmaxAttrs { scale, causal }) = s.op else { return s.truth() };
    let x = s.value(0);
    let scale = if scale == 0.0 { 1.0 } else { scale as f64 };
    let mask = if s.has(1) { s.value(1).broadcast(&x.shape) } else { vec![0.0; x.data.len()] };
    let (n, queries) = (x.row_len(), x.shape.iter().rev().nth(1).copied().unwrap_or(1));
    let mut y = vec![0.0; x.data.len()];
    for r in 0..x.data.len().checked_div(n).unwrap_or(0) {
        let seen = if causal { (soft.visible)(r % queries, queries, n).min(n) } else { n };
        let scores: Vec<f64> = (r * n..r * n + seen).map(|i| (soft.score)(x.data[i], mask[i], scale)).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || a > b { a } else { b });
        if most == f64::NEG_INFINITY {
            y[r * n..r * n + seen].fill(soft.nothing);
            continue;
        }
        let e: Vec<f64> = match soft.shift {
            true => scores.iter().map(|s| (s - most).exp()).collect(),
            false => scores.iter().map(|s| (*s as f32).exp() as f64).collect(),
        };
        let sum: f64 = match soft.shift {
            true => e.iter().sum(),
            false => e.iter().fold(0f32, |a, e| a + *e as f32) as f64,
        };
        y[r * n..][..seen].iter_mut().zip(e).for_each(|(y, e)| *y = e / sum);
    }
    one(y)
}

/// Elements of an operand that has its axes in another order, as many as before.
pub(crate) fn permuted(s: &Scene<'_>, index: usize, axes: &[usize]) -> Vec<f64> {
    let value = s.value(index);
    let shape: Vec<usize> = axes.iter().map(|&a| value.shape[a]).collect();
    indices(&shape)
        .map(|i| {
            let mut from = vec![0; i.len()];
            axes.iter().zip(&i).for_each(|(&axis, &i)| from[axis] = i);
            at(&value, &from)
        })
        .collect()
}
