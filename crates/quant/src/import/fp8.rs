//! fp8 e4m3 weights: one scale in all, one per output channel, or one per block. Scales multiply, whatever their name.

use qiao_core::{DType, Result};

use super::recipe::{Codes, Input, Layout, Recipe, Scales, Zeros};
use super::tensors::{FLOATS, Module};
use super::{Form, Linear};

pub(super) fn linear(m: &Module<'_>, block: Option<[usize; 2]>) -> Result<Linear> {
    let (_, [n, k]) = m.matrix("weight", &[DType::F8E4M3], "[N, K]")?;
    let suffix = if m.has("weight_scale_inv") { "weight_scale_inv" } else { "weight_scale" };
    let (dtype, shape) = m.need(suffix, &FLOATS, "[1], [N, 1] or one per block")?;
    if block.is_some_and(|b| b.contains(&0)) {
        return Err(m.refuse("block size", format!("{block:?}"), "give sizes above 0"));
    }
    let blocks = block.map(|[rows, columns]| [n.div_ceil(rows), k.div_ceil(columns)]);
    let (table, group_rows, group_size) = match (&shape[..], block) {
        (&[a, b], Some([rows, columns])) if Some([a, b]) == blocks => ([a, b], rows, columns),
        ([] | [1] | [1, 1], _) => ([1, 1], n, 0),
        (&[a] | &[a, 1], _) if a == n => ([n, 1], 1, 0),
        _ => {
            let mend = match blocks {
                Some(blocks) => format!("with N = {n}, K = {k} and blocks of {block:?} it should be {blocks:?}"),
                None => format!("without blocks it should be [1] or [{n}, 1]; blocks need `weight_block_size`"),
            };
            return Err(m.shape(suffix, &shape, mend));
        }
    };
    Ok(Linear {
        n,
        k,
        codes: DType::F8E4M3,
        form: Form::Grouped { group_size, group_rows, scales: dtype, zeros: None, g_idx: false },
        bias: m.bias(n)?,
        recipe: Recipe {
            scheme: m.scheme,
            codes: Codes::Bytes("weight"),
            scales: Scales { suffix, dtype, shape: table, layout: Layout::Straight },
            zeros: Zeros::None,
            index: None,
            input: Input::None,
        },
    })
}
