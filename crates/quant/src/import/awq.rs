//! AWQ, 4 bits. GEMM: `qweight` `[K, N/8]` and `qzeros` `[G, N/8]` packed along N in AWQ's order, `scales` `[G, N]`.
//! GEMV: `qweight` `[N, K/8]`, `qzeros` `[N, W]`, `scales` `[N, 8·W]`, W padded to what the kernel reads.

use qiao_core::{DType, Result};

use super::fields::{Fields, Order};
use super::gptq::check_groups;
use super::recipe::{Codes, Input, Layout, Recipe, Scales, Zeros};
use super::tensors::{FLOATS, Module, WORDS};
use super::{AwqVersion, Form, Linear};

pub(super) fn linear(m: &Module<'_>, version: AwqVersion, group_size: Option<usize>) -> Result<Linear> {
    match version {
        AwqVersion::Gemm => gemm(m, group_size),
        AwqVersion::Gemv => gemv(m, group_size),
    }
}

fn gemm(m: &Module<'_>, group_size: Option<usize>) -> Result<Linear> {
    let (_, [k, columns]) = m.matrix("qweight", &WORDS, "[K, N/8], packed along N")?;
    let n = outputs(m, columns)?;
    check_whole(m, k, group_size)?;
    let (dtype, scales) = m.matrix("scales", &FLOATS, "[groups, N]")?;
    let groups = check_groups(m, "scales", scales, k, n, group_size)?;
    let (_, zeros) = m.matrix("qzeros", &WORDS, "[groups, N/8], packed along N")?;
    if zeros != [groups, columns] {
        return Err(m.shape("qzeros", &zeros, format!("it should be {:?}", [groups, columns])));
    }
    let fields = |suffix, streams| Fields {
        suffix,
        bits: 4,
        order: Order::Awq,
        streams,
        width: columns,
        across: false,
        by_column: true,
    };
    let scales = Scales { suffix: "scales", dtype, shape: scales, layout: Layout::Transposed };
    layer(m, [n, k], group_size, scales, fields("qweight", k), fields("qzeros", groups))
}

fn gemv(m: &Module<'_>, group_size: Option<usize>) -> Result<Linear> {
    let (_, [n, columns]) = m.matrix("qweight", &WORDS, "[N, K/8], packed along K")?;
    let k = outputs(m, columns)?;
    check_whole(m, k, group_size)?;
    let (dtype, scales) = m.matrix("scales", &FLOATS, "[N, groups, padded]")?;
    let (_, zeros) = m.matrix("qzeros", &WORDS, "[N, groups/8, padded]")?;
    let groups = group_size.map_or(1, |size| k / size);
    if scales[0] != n || scales[1] < groups {
        return Err(m.shape("scales", &scales, format!("it should have {n} rows of at least {groups} groups")));
    }
    if zeros[0] != n || zeros[1] < groups.div_ceil(8) {
        return Err(m.shape(
            "qzeros",
            &zeros,
            format!("it should have {n} rows of at least {} words", groups.div_ceil(8)),
        ));
    }
    let fields = |suffix, width| Fields {
        suffix,
        bits: 4,
        order: Order::Dense,
        streams: n,
        width,
        across: false,
        by_column: false,
    };
    let table = Scales { suffix: "scales", dtype, shape: scales, layout: Layout::Straight };
    layer(m, [n, k], group_size, table, fields("qweight", columns), fields("qzeros", zeros[1]))
}

fn layer(
    m: &Module<'_>,
    [n, k]: [usize; 2],
    group_size: Option<usize>,
    scales: Scales,
    codes: Fields,
    zeros: Fields,
) -> Result<Linear> {
    Ok(Linear {
        n,
        k,
        codes: if k.is_multiple_of(2) { DType::U4 } else { DType::U8 },
        form: Form::Grouped {
            group_size: group_size.unwrap_or(0),
            group_rows: 1,
            scales: scales.dtype,
            zeros: Some(DType::U8),
            g_idx: false,
        },
        bias: m.bias(n)?,
        recipe: Recipe {
            scheme: m.scheme,
            codes: Codes::Fields(codes),
            scales,
            zeros: Zeros::Fields { fields: zeros, plus: 0 },
            index: None,
            input: Input::None,
        },
    })
}

/// Eight codes to a word.
fn outputs(m: &Module<'_>, columns: usize) -> Result<usize> {
    let many = || m.refuse("tensor 'qweight'", format!("it has {columns} columns"), "so many can not be");
    columns.checked_mul(8).ok_or_else(many)
}

fn check_whole(m: &Module<'_>, k: usize, group_size: Option<usize>) -> Result<()> {
    match group_size {
        Some(size) if size == 0 || !k.is_multiple_of(size) => {
            let found = format!("groups of {size} for {k} input channels");
            Err(m.refuse("group size", found, "AWQ has whole groups: give a divisor of K"))
        }
        _ => Ok(()),
    }
}
