//! compressed-tensors: `pack-quantized` (2 to 8 bits in words along K, offset binary) and `int-quantized` (int8).

use qiao_core::{DType, Result};

use super::fields::{Fields, Order, words};
use super::gptq::{codes, group_index};
use super::recipe::{Codes, Input, Layout, Recipe, Scales, Zeros};
use super::tensors::{FLOATS, Module, WORDS};
use super::{Activations, Form, Linear};

pub(super) fn packed(m: &Module<'_>, bits: u32, group_size: Option<usize>, symmetric: bool) -> Result<Linear> {
    if !(2..=8).contains(&bits) {
        return Err(m.refuse("bits", format!("{bits}"), "2 to 8 are read"));
    }
    let (_, [n, width]) = m.matrix("weight_packed", &WORDS, "[N, K·bits/32], packed along K")?;
    let (k, order) = input_channels(m, n, width, bits)?;
    let (scales, form) = table(m, [n, k], group_size)?;
    let Form::Grouped { group_size: size, group_rows, scales: scale_dtype, .. } = form else {
        return Err(m.refuse("form", "none", "a table of scales is needed"));
    };
    let groups = if size == 0 { 1 } else { k.div_ceil(size) };
    let zeros = if symmetric { Zeros::None } else { zero_points(m, [n, groups], group_rows, bits, order)? };
    // A single −1 says that the table was never filled.
    let index = group_index(m, "weight_g_idx", k, group_size, |table| table.contains(&-1.0))?;
    let fields = Fields { suffix: "weight_packed", bits, order, streams: n, width, across: false, by_column: false };
    Ok(Linear {
        n,
        k,
        codes: codes(bits, k, symmetric),
        form: Form::Grouped {
            group_size: size,
            group_rows,
            scales: scale_dtype,
            zeros: (!symmetric).then_some(DType::U8),
            g_idx: index.is_some(),
        },
        bias: m.bias(n)?,
        recipe: Recipe { scheme: m.scheme, codes: Codes::Fields(fields), scales, zeros, index, input: Input::None },
    })
}

/// K and the order of codes in words. `weight_shape` tells K; without its bytes words are taken as full. Where bits do
/// not divide 32 the words' number tells a dense stream from ⌊32/bits⌋ codes to a word.
fn input_channels(m: &Module<'_>, n: usize, width: usize, bits: u32) -> Result<(usize, Order)> {
    let (_, shape) = m.need("weight_shape", &[DType::I64, DType::I32], "[2], N and K")?;
    if shape != [2] {
        return Err(m.shape("weight_shape", &shape, "it should be [2]: N and K"));
    }
    let Some(whole) = width.checked_mul(32).map(|b| b / bits as usize) else {
        return Err(m.refuse("tensor 'weight_packed'", format!("it has {width} columns"), "so many can not be"));
    };
    let Some(stored) = m.peek("weight_shape") else { return Ok((whole, Order::Dense)) };
    let k = stored[1] as usize;
    let fits = |order| words(order, k, bits) == Some(width);
    if stored[0] != n as f64 || k == 0 || stored[1] != k as f64 || !(fits(Order::Dense) || fits(Order::PerWord)) {
        let found = format!("it says {stored:?}, and weight_packed is {:?}", [n, width]);
        let mend = format!("packed codes of {bits} bits should be [N, K·{bits}/32]");
        return Err(m.refuse("tensor 'weight_shape'", found, mend));
    }
    match (fits(Order::Dense), fits(Order::PerWord)) {
        (true, true) if !32u32.is_multiple_of(bits) && k > 32 / bits as usize => {
            let found = format!("{width} words hold {k} codes of {bits} bits densely and word by word alike");
            Err(m.refuse("tensor 'weight_packed'", found, "use 2, 4 or 8 bits, or more input channels"))
        }
        (true, _) => Ok((k, Order::Dense)),
        _ => Ok((k, Order::PerWord)),
    }
}

/// The table of `weight_scale`: by group, or by its shape one per output channel or one for all.
fn table(m: &Module<'_>, [n, k]: [usize; 2], group_size: Option<usize>) -> Result<(Scales, Form)> {
    let (dtype, shape) = m.need("weight_scale", &FLOATS, "[N, groups], [N, 1] or [1]")?;
    if group_size == Some(0) {
        return Err(m.refuse("group size", "0", "give one above 0, or none for all of K"));
    }
    let groups = group_size.map_or(1, |size| k.div_ceil(size));
    let (rows, group_rows) = match shape[..] {
        [rows, columns] if [rows, columns] == [n, groups] => (n, 1),
        [rows] if rows == n && groups == 1 => (n, 1),
        [] | [1] | [1, 1] if group_size.is_none() => (1, n),
        _ => {
            let size = group_size.map_or("no groups".to_string(), |s| format!("groups of {s}"));
            let mend = format!("with N = {n}, K = {k} and {size} it should be {:?}", [n, groups]);
            return Err(m.shape("weight_scale", &shape, mend));
        }
    };
    let scales = Scales { suffix: "weight_scale", dtype, shape: [rows, groups], layout: Layout::Straight };
    let form =
        Form::Grouped { group_size: group_size.unwrap_or(0), group_rows, scales: dtype, zeros: None, g_idx: false };
    Ok((scales, form))
}

/// Zero points: words packed along N in offset binary, or, one for all, plain int8.
fn zero_points(m: &Module<'_>, [n, groups]: [usize; 2], group_rows: usize, bits: u32, order: Order) -> Result<Zeros> {
    let suffix = "weight_zero_point";
    let (dtype, shape) = m.need(suffix, &[DType::I32, DType::U32, DType::I8], "[N·bits/32, groups], packed along N")?;
    let rows = n.div_ceil(group_rows);
    if dtype == DType::I8 {
        if shape.iter().product::<usize>() != rows * groups {
            return Err(m.shape(suffix, &shape, format!("it should be {:?}", [rows, groups])));
        }
        return Ok(Zeros::Centred { suffix, bits });
    }
    let width = words(order, n, bits).unwrap_or(usize::MAX);
    if group_rows != 1 || shape != [width, groups] {
        return Err(m.shape(suffix, &shape, format!("packed along N it should be {:?}", [width, groups])));
    }
    let fields = Fields { suffix, bits, order, streams: groups, width, across: true, by_column: true };
    Ok(Zeros::Fields { fields, plus: 0 })
}

pub(super) fn int8(m: &Module<'_>, activations: Activations, symmetric: bool) -> Result<Linear> {
    let (_, [n, k]) = m.matrix("weight", &[DType::I8], "[N, K]")?;
    let (_, shape) = m.need("weight_scale", &FLOATS, "[N, groups], [N, 1] or [1]")?;
    let group_size = match shape[..] {
        [rows, groups] if rows == n && groups > 1 => Some(whole_groups(m, k, groups, &shape)?),
        _ => None,
    };
    let (mut scales, form) = table(m, [n, k], group_size)?;
    let Form::Grouped { group_size: size, group_rows, scales: dtype, .. } = form else {
        return Err(m.refuse("form", "none", "a table of scales is needed"));
    };
    let groups = if size == 0 { 1 } else { k.div_ceil(size) };
    let mut zeros = Zeros::None;
    let mut zero_dtype = None;
    if m.has("weight_zero_point") {
        let (dtype, shape) = m.need("weight_zero_point", &[DType::I8], "of the shape of weight_scale")?;
        let table = [n.div_ceil(group_rows), groups];
        if shape.iter().product::<usize>() != table[0] * table[1] {
            return Err(m.shape("weight_zero_point", &shape, format!("it should be {table:?}")));
        }
        if symmetric {
            zeros = Zeros::Absent("weight_zero_point");
        } else {
            (zeros, zero_dtype) = (Zeros::Bytes("weight_zero_point"), Some(dtype));
        }
    } else if !symmetric {
        m.need("weight_zero_point", &[DType::I8], "of the shape of weight_scale")?;
    }
    // An int8 product knows one scale per output and no zero points of weights; what has them is multiplied as floats.
    let integer = activations != Activations::Float && zero_dtype.is_none() && groups == 1;
    let mut input = Input::None;
    let form = if integer {
        scales.layout = Layout::PerOutput;
        let is_static = activations == Activations::Int8Static;
        if is_static {
            input = static_input(m)?;
        }
        Form::Int8 { is_static, bias_in_sum: false }
    } else {
        Form::Grouped { group_size: size, group_rows, scales: dtype, zeros: zero_dtype, g_idx: false }
    };
    let recipe = Recipe { scheme: m.scheme, codes: Codes::Bytes("weight"), scales, zeros, index: None, input };
    Ok(Linear { n, k, codes: DType::I8, form, bias: m.bias(n)?, recipe })
}

/// The group size of so many groups, which must be whole.
pub(super) fn whole_groups(m: &Module<'_>, k: usize, groups: usize, shape: &[usize]) -> Result<usize> {
    if groups == 0 || !k.is_multiple_of(groups) {
        return Err(m.shape("weight_scale", shape, format!("{k} input channels have no {groups} groups of one size")));
    }
    Ok(k / groups)
}

/// One number: `[]` or `[1]`, or the same with more sizes of 1.
pub(super) fn single(m: &Module<'_>, suffix: &str, dtypes: &[DType]) -> Result<DType> {
    let (dtype, shape) = m.need(suffix, dtypes, "[1]")?;
    if shape.iter().any(|d| *d != 1) {
        return Err(m.shape(suffix, &shape, "it should be [1]: one for all activations"));
    }
    Ok(dtype)
}

fn static_input(m: &Module<'_>) -> Result<Input> {
    let scale = single(m, "input_scale", &FLOATS)?;
    let zero = match m.has("input_zero_point") {
        true => {
            let dtypes = [DType::I8, DType::I32, DType::F16, DType::BF16, DType::F32];
            Some(("input_zero_point", single(m, "input_zero_point", &dtypes)?))
        }
        false => None,
    };
    Ok(Input::Static { scale, zero, sum_bias: None })
}
