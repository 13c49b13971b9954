//! Ascend's msmodelslim. W8A8: `deq_scale` = input scale · weight scale, `quant_bias` holds the bias and the correction
//! for the input's offset. W8A8_DYNAMIC and W8A16: `weight_scale` and `weight_offset`, `(weight − offset)·scale`.

use qiao_core::{DType, Result};

use super::compressed::{single, whole_groups};
use super::recipe::{Codes, Input, Layout, Recipe, Scales, Zeros};
use super::tensors::{FLOATS, Module};
use super::{AscendKind, Form, Linear};

pub(super) fn linear(m: &Module<'_>, kind: AscendKind) -> Result<Linear> {
    let (_, [n, k]) = m.matrix("weight", &[DType::I8], "[N, K]")?;
    match kind {
        AscendKind::W8A8 => fixed(m, n, k),
        AscendKind::W8A8Dynamic => by_scale(m, n, k, true),
        AscendKind::W8A16 => by_scale(m, n, k, false),
    }
}

/// Static activations. The bias is inside `quant_bias`; a `bias` beside it is not read.
fn fixed(m: &Module<'_>, n: usize, k: usize) -> Result<Linear> {
    let (dtype, shape) = m.need("deq_scale", &[DType::F32, DType::I64], "[N]")?;
    if shape.iter().product::<usize>() != n {
        return Err(m.shape("deq_scale", &shape, format!("it should be [{n}]")));
    }
    if m.optional("quant_bias", &[DType::I32], &[n])?.is_none() {
        m.need("quant_bias", &[DType::I32], "[N]")?;
    }
    let scale = single(m, "input_scale", &FLOATS)?;
    let zero = single(m, "input_offset", &[DType::F32, DType::F16, DType::BF16, DType::I8])?;
    let zeros = if m.has("weight_offset") { Zeros::Absent("weight_offset") } else { Zeros::None };
    Ok(Linear {
        n,
        k,
        codes: DType::I8,
        form: Form::Int8 { is_static: true, bias_in_sum: true },
        bias: Some(DType::F32),
        recipe: Recipe {
            scheme: m.scheme,
            codes: Codes::Bytes("weight"),
            scales: Scales { suffix: "deq_scale", dtype, shape: [n, 1], layout: Layout::Dequantising },
            zeros,
            index: None,
            input: Input::Static { scale, zero: Some(("input_offset", zero)), sum_bias: Some("quant_bias") },
        },
    })
}

/// Scales per output channel or per group. Offsets that are seen to be 0 are dropped; others, and groups, make a layer of
/// float activations.
fn by_scale(m: &Module<'_>, n: usize, k: usize, dynamic: bool) -> Result<Linear> {
    let (dtype, shape) = m.need("weight_scale", &FLOATS, "[N, 1] or [N, groups]")?;
    let groups = match shape[..] {
        [rows] if rows == n => 1,
        [rows, groups] if rows == n => groups,
        _ => return Err(m.shape("weight_scale", &shape, format!("it should be [{n}, 1] or [{n}, groups]"))),
    };
    let group_size = if groups == 1 { 0 } else { whole_groups(m, k, groups, &shape)? };
    let offset = match m.has("weight_offset") {
        true => m.optional("weight_offset", &FLOATS, &shape)?,
        false => None,
    };
    // Unseen offsets are taken for 0 where int8 products depend on it, and checked when scales are unpacked.
    let in_use = m.peek("weight_offset").map_or(!dynamic, |v| v.iter().any(|o| *o != 0.0));
    let offset = offset.filter(|_| in_use);
    let zeros = match offset {
        Some(_) => Zeros::Bytes("weight_offset"),
        None if m.has("weight_offset") => Zeros::Absent("weight_offset"),
        None => Zeros::None,
    };
    let integer = dynamic && groups == 1 && offset.is_none();
    let layout = if integer { Layout::PerOutput } else { Layout::Straight };
    let form = match integer {
        true => Form::Int8 { is_static: false, bias_in_sum: false },
        false => Form::Grouped { group_size, group_rows: 1, scales: dtype, zeros: offset, g_idx: false },
    };
    Ok(Linear {
        n,
        k,
        codes: DType::I8,
        form,
        bias: m.bias(n)?,
        recipe: Recipe {
            scheme: m.scheme,
            codes: Codes::Bytes("weight"),
            scales: Scales { suffix: "weight_scale", dtype, shape: [n, groups], layout },
            zeros,
            index: None,
            input: Input::None,
        },
    })
}
