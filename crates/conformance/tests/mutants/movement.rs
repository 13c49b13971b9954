//! Casts, copies, gathers, and what else moves elements.

use qiao_conformance::Check::{Guards, Limit, Rebind, Special, Unwritten};
use qiao_core::{DType, Op, Perm, TensorDesc};
use qiao_reference::round::{decode, encode, ulp};
use qiao_reference::value::Output;

use crate::device::Mutant;
use crate::device::Sabotage::{After, Before, Kernel, Lost, Rounding};
use crate::scene::{cut_off, one, places, poke};

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant::new("cast_truncates", "op/cast/f32/*to=bf16*", &[Limit, Special], Rounding(cut_off)),
    Mutant::new(
        "cast_rounds_half_away",
        "op/cast/f32/*",
        &[Limit],
        Rounding(|dtype, x, out| {
            encode(dtype, x, out);
            let got = decode(dtype, out);
            let step = ulp(dtype, x);
            if x.is_finite() && got.is_finite() && (x - got).abs() == step / 2.0 && got.abs() < x.abs() {
                encode(dtype, got + x.signum() * step, out);
            }
        }),
    ),
    Mutant::new(
        "cast_to_integers_rounds_half_away",
        "op/cast/f32/*to=i8*",
        &[Limit, Rebind],
        Rounding(|dtype, x, out| encode(dtype, if dtype.is_float() { x } else { x.round() }, out)),
    ),
    Mutant::new(
        "cast_to_integers_truncates",
        "op/cast/f32/*to=i32*",
        &[Limit],
        Rounding(|dtype, x, out| encode(dtype, if dtype.is_float() { x } else { x.trunc() }, out)),
    ),
    Mutant::new(
        "cast_to_f16_saturates",
        "op/cast/f32/*to=f16*",
        &[Special],
        Rounding(|dtype, x, out| encode(dtype, if dtype == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }, out)),
    ),
    Mutant::new(
        "cast_to_fp8_overflows_to_nan",
        "op/cast/f32/*to=f8_e4m3*",
        &[Special, Rebind],
        Rounding(|dtype, x, out| {
            encode(dtype, if dtype == DType::F8E4M3 && x.abs() > 464.0 { f64::NAN } else { x }, out)
        }),
    ),
    Mutant::new(
        "cast_to_i8_wraps",
        "op/cast/f32/*to=i8*",
        &[Limit],
        Rounding(|dtype, x, out| match dtype {
            DType::I8 => out[0] = x.round_ties_even() as i64 as u8,
            _ => encode(dtype, x, out),
        }),
    ),
    Mutant::new(
        "cast_of_nan_to_integers_is_the_least",
        "op/cast/*to=i32*",
        &[Limit],
        Rounding(|dtype, x, out| encode(dtype, if x.is_nan() { -1e30 } else { x }, out)),
    ),
    Mutant::new(
        "cast_to_bf16_carries_nan_into_the_sign",
        "op/cast/f32/*to=bf16*data=codes*",
        &[Special],
        Kernel(|s| {
            let (_, bytes) = s.operands[0].clone().expect("a cast has an operand");
            let rounded = |b: &[u8]| {
                let bits = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                let bias = 0x7fff + (bits >> 16 & 1);
                (bits.wrapping_add(bias) >> 16) as u16
            };
            let data = bytes.chunks_exact(4).flat_map(|b| rounded(b).to_le_bytes()).collect();
            Ok(vec![Output::Exact(data)])
        }),
    )
    .when(|s| s.desc(0).dtype == DType::F32 && s.outs[0].dtype == DType::BF16 && s.desc(0).is_contiguous()),
    Mutant::new(
        "cast_flushes_subnormals_to_the_smallest_normal",
        "op/cast/*to=f16*",
        &[Limit, Rebind],
        Rounding(|dtype, x, out| {
            let least = qiao_reference::round::min_normal(dtype);
            encode(dtype, if x != 0.0 && x.abs() < least { least.copysign(x) } else { x }, out)
        }),
    ),
    Mutant::new("copy_loses_the_sign_of_zero", "op/copy/*", &[Limit, Special], Before(|s| s.map(0, |_, x| x + 0.0)))
        .when(|s| s.desc(0).dtype.is_activation()),
    Mutant::new("copy_makes_every_nan_the_same", "op/copy/*", &[Limit, Special], Before(|s| s.map(0, |_, x| x)))
        .when(|s| s.desc(0).dtype.is_activation()),
    Mutant::new(
        "copy_writes_the_gaps_of_its_output",
        "op/copy/*out_layout=*",
        &[Guards],
        After(|s| {
            let desc = &s.outs[0];
            let size = desc.dtype.block_bytes();
            if let [first, second, ..] = places(desc)[..]
                && second > first + 1
            {
                poke(&s.targets[0], ((first + 1) * size) as isize, 1, |b| !b);
            }
        }),
    ),
    Mutant::new(
        "copy_of_transposed_squares_is_plain",
        "op/copy/*layout=transposed*",
        &[Limit, Special],
        Before(|s| {
            let (desc, bytes) = s.operands[0].take().expect("a copy has an operand");
            let mut strides = desc.strides.to_vec();
            strides.reverse();
            let other = TensorDesc::strided(desc.dtype, &desc.shape, &strides)
                .ok()
                .filter(|d| d.bytes().is_ok_and(|b| b <= bytes.len()));
            s.operands[0] = Some((other.unwrap_or(desc), bytes));
        }),
    )
    .when(|s| !s.desc(0).is_contiguous() && !s.desc(0).dtype.is_packed()),
    Mutant::new(
        "copy_of_packed_rows_is_a_block_short",
        "op/copy.packed/*",
        &[Limit, Special, Unwritten],
        Kernel(|s| {
            let mut out = s.truth()?;
            if let Output::Exact(data) = &mut out[0] {
                let n = s.outs[0].dtype.block_bytes();
                let end = data.len();
                data[end.saturating_sub(n)..].fill(0x5a);
            }
            Ok(out)
        }),
    ),
    Mutant::new(
        "gather_clamps_ids",
        "op/gather_rows/*range=outside*",
        &[Special],
        Before(|s| {
            let rows = s.shape(0)[0] as f64;
            s.map(1, move |_, id| id.clamp(0.0, (rows - 1.0).max(0.0)));
        }),
    )
    .when(|s| s.shape(0)[0] > 0),
    Mutant::new(
        "gather_reads_the_low_half_of_i64",
        "op/gather_rows/*index=i64*",
        &[Special],
        Before(|s| {
            s.map(1, |_, id| id as i64 as i32 as f64);
        }),
    ),
    Mutant::new(
        "gather_counts_negative_ids_from_the_end",
        "op/gather_rows/*range=outside*",
        &[Special],
        Before(|s| {
            let rows = s.shape(0)[0] as f64;
            s.map(1, move |_, id| if id < 0.0 && id >= -rows { id + rows } else { id });
        }),
    ),
    Mutant::new(
        "gather_of_missing_rows_is_zero",
        "op/gather_rows/*range=outside*",
        &[Special],
        Kernel(|s| {
            let rows = s.shape(0)[0] as f64;
            let (ids, n) = (s.value(1).data, s.outs[0].shape.last_dim());
            let zero = |id: f64| !(0.0..rows).contains(&id);
            one(s.numbers(0)?.iter().enumerate().map(|(i, x)| if zero(ids[i / n]) { 0.0 } else { *x }).collect())
        }),
    ),
    Mutant::new(
        "gather_wraps_ids_to_16_bits",
        "op/gather_rows/f32/*rows=70001*",
        &[Limit],
        Before(|s| {
            s.map(1, |_, id| if id >= 0.0 { id % 65536.0 } else { id });
        }),
    ),
    Mutant::new(
        "fill_stops_at_the_largest_f16",
        "op/fill/f16/*value=*",
        &[Special],
        Rounding(|dtype, x, out| {
            encode(dtype, if x.is_finite() && dtype == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }, out)
        }),
    ),
    Mutant::new(
        "fill_does_not_write_the_last_bytes",
        "op/fill/*",
        &[Unwritten],
        Lost(|s, _, i| {
            i * s.outs[0].dtype.block_bytes() >= s.outs[0].elements() * s.outs[0].dtype.block_bytes() / 16 * 16
        }),
    ),
    Mutant::new(
        "concat_along_the_first_axis_turns_its_operands_round",
        "op/concat/*axis=first*",
        &[Limit, Special],
        Before(|s| {
            if let Some(last) = s.operands.len().checked_sub(1)
                && s.desc(0) == s.desc(last)
            {
                s.operands.reverse();
            }
        }),
    ),
    Mutant::new(
        "split_writes_one_part_twice",
        "op/split/f32/*",
        &[Limit, Special],
        Kernel(|s| {
            let mut out = s.truth()?;
            if out.len() > 1 {
                out[1] = out[0].clone();
            }
            Ok(out)
        }),
    ),
    Mutant::new(
        "slice_ignores_its_start",
        "op/slice/f32/*",
        &[Limit, Special],
        Before(|s| {
            if let Op::Slice(a) = &mut s.op {
                a.start = 0;
            }
        }),
    ),
    Mutant::new(
        "transpose_permutes_the_other_way",
        "op/transpose/f32/*depth=5*",
        &[Limit, Special],
        Before(|s| {
            let rank = s.shape(0).len();
            if let Op::Transpose(a) = &mut s.op
                && let Some(axes) = a.perm.axes(rank)
            {
                let mut inverse = vec![0; rank];
                axes.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
                a.perm = Perm::new(&inverse).expect("the inverse of a permutation is one");
            }
        }),
    )
    .when(|s| {
        let shape = s.shape(0);
        shape.iter().all(|d| *d == shape[0])
            || matches!(s.op, Op::Transpose(a) if {
                // Where the inverse has the same output shape, nothing but the data tells.
                let axes = a.perm.axes(shape.len()).unwrap_or_default();
                let out: Vec<usize> = axes.iter().map(|&i| shape[i]).collect();
                let mut back = vec![0; shape.len()];
                axes.iter().enumerate().for_each(|(i, &axis)| back[axis] = shape[i]);
                out == back
            })
    }),
];
