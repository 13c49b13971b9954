//! GPTQ: `qweight` packed along K, `qzeros` along N, `scales` `[G, N]`, `g_idx` `[K]`.

use qiao_core::{DType, Result};

use super::fields::{Fields, Order, words};
use super::recipe::{Codes, Input, Layout, Recipe, Scales, Zeros};
use super::tensors::{FLOATS, Module, WORDS};
use super::{Form, GptqZeros, Linear};

pub(super) fn linear(
    m: &Module<'_>,
    bits: u32,
    group_size: Option<usize>,
    symmetric: bool,
    version: GptqZeros,
) -> Result<Linear> {
    if ![2, 3, 4, 8].contains(&bits) {
        return Err(m.refuse("bits", format!("{bits}"), "2, 3, 4 and 8 are read"));
    }
    if !m.has("qweight") && m.has("B") {
        let mend = "export the model again in the layout of GPTQ itself";
        return Err(m.refuse("tensor 'qweight'", "it is missing, and there is 'B' of the marlin layout", mend));
    }
    let (_, [rows, n]) = m.matrix("qweight", &WORDS, "[K·bits/32, N], packed along K")?;
    let k = input_channels(m, rows, bits)?;
    let (scale_dtype, scales) = m.matrix("scales", &FLOATS, "[groups, N]")?;
    let groups = check_groups(m, "scales", scales, k, n, group_size)?;
    let zeros = zero_points(m, bits, [groups, n], symmetric, version)?;
    let codes = codes(bits, k, symmetric);
    let fields = Fields {
        suffix: "qweight",
        bits,
        order: Order::Dense,
        streams: n,
        width: rows,
        across: true,
        by_column: false,
    };
    let index = group_index(m, "g_idx", k, group_size, never_filled)?;
    Ok(Linear {
        n,
        k,
        codes,
        form: Form::Grouped {
            group_size: group_size.unwrap_or(0),
            group_rows: 1,
            scales: scale_dtype,
            zeros: (!symmetric).then_some(DType::U8),
            g_idx: index.is_some(),
        },
        bias: m.bias(n)?,
        recipe: Recipe {
            scheme: m.scheme,
            codes: Codes::Fields(fields),
            scales: Scales { suffix: "scales", dtype: scale_dtype, shape: scales, layout: Layout::Transposed },
            zeros,
            index,
            input: Input::None,
        },
    })
}

/// `qzeros`, which a symmetric layer need not have and which then is only checked.
fn zero_points(
    m: &Module<'_>,
    bits: u32,
    [groups, n]: [usize; 2],
    symmetric: bool,
    version: GptqZeros,
) -> Result<Zeros> {
    if symmetric && !m.has("qzeros") {
        return Ok(Zeros::Half(None));
    }
    let width = words(Order::Dense, n, bits).unwrap_or(usize::MAX);
    let (_, zeros) = m.matrix("qzeros", &WORDS, "[groups, N·bits/32], packed along N")?;
    if zeros != [groups, width] {
        return Err(m.shape("qzeros", &zeros, format!("it should be {:?}", [groups, width])));
    }
    let (suffix, order) = ("qzeros", Order::Dense);
    let fields = Fields { suffix, bits, order, streams: groups, width, across: false, by_column: true };
    Ok(match symmetric {
        true => Zeros::Half(Some(fields)),
        false => Zeros::Fields { fields, plus: (version == GptqZeros::OneLess) as u8 },
    })
}

/// K by the rows of `qweight`, or by `g_idx`, which knows it where rows hold more than K codes.
fn input_channels(m: &Module<'_>, rows: usize, bits: u32) -> Result<usize> {
    let Some(whole) = rows.checked_mul(32).map(|b| b / bits as usize) else {
        return Err(m.refuse("tensor 'qweight'", format!("it has {rows} rows"), "so many can not be"));
    };
    if !m.has("g_idx") {
        return Ok(whole);
    }
    let (_, shape) = m.need("g_idx", &[DType::I32], "[K]")?;
    match shape[..] {
        [k] if k > 0 && words(Order::Dense, k, bits) == Some(rows) => Ok(k),
        _ => {
            Err(m.shape("g_idx", &shape, format!("{rows} rows of qweight hold {whole} input channels of {bits} bits")))
        }
    }
}

/// The dtype of codes of so many bits: two to a byte where that holds rows of whole bytes.
pub(super) fn codes(bits: u32, k: usize, signed: bool) -> DType {
    match (bits <= 4 && k.is_multiple_of(2), signed) {
        (true, true) => DType::I4,
        (true, false) => DType::U4,
        (false, true) => DType::I8,
        (false, false) => DType::U8,
    }
}

/// Checks a table `[groups, N]` and gives its groups.
pub(super) fn check_groups(
    m: &Module<'_>,
    suffix: &str,
    shape: [usize; 2],
    k: usize,
    n: usize,
    group_size: Option<usize>,
) -> Result<usize> {
    if group_size == Some(0) {
        return Err(m.refuse("group size", "0", "give one above 0, or none for all of K"));
    }
    let groups = group_size.map_or(1, |size| k.div_ceil(size));
    if shape != [groups, n] {
        let size = group_size.map_or("all input channels".to_string(), |s| format!("{s}"));
        let mend = format!(
            "with K = {k}, N = {n} and groups of {size} it should be {:?}; marlin and other kernels' layouts are not read",
            [groups, n]
        );
        return Err(m.shape(suffix, &shape, mend));
    }
    Ok(groups)
}

/// Whether a table of more than one group is one that its tool made and never filled: with all channels in group 0 the others
/// would have none, and −1 is no group.
fn never_filled(table: &[f64]) -> bool {
    [0.0, -1.0].iter().any(|blank| table.iter().all(|group| group == blank))
}

/// The table that names each channel's group, unless it is seen to say just what the order of channels says, or never to have
/// been filled, which means the same.
pub(super) fn group_index(
    m: &Module<'_>,
    suffix: &'static str,
    k: usize,
    group_size: Option<usize>,
    never_filled: fn(&[f64]) -> bool,
) -> Result<Option<&'static str>> {
    if m.optional(suffix, &[DType::I32], &[k])?.is_none() || group_size.is_none_or(|size| size >= k) {
        return Ok(None);
    }
    let size = group_size.unwrap_or(k);
    let idle =
        m.peek(suffix).is_some_and(|v| never_filled(&v) || v.iter().enumerate().all(|(i, g)| *g == (i / size) as f64));
    Ok((!idle).then_some(suffix))
}
