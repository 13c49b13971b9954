//! The KV cache: writing rows into pages.

use std::collections::HashSet;

use qiao_core::{DType, KvLayout, KvWriteAttrs, Pages, Result, TensorDesc};

use super::quantised::{code_limits, quantised_row};
use super::{Outputs, bad_data};
use crate::args::{Args, offset};
use crate::round::ulp;
use crate::value::{Output, Patch, Value};

/// The first three indices of a cache at this block, token of the block and head.
pub(crate) fn page_index(layout: KvLayout, block: usize, token: usize, head: usize) -> [usize; 3] {
    match layout {
        KvLayout::BlockTokenHead => [block, token, head],
        KvLayout::BlockHeadToken => [block, head, token],
    }
}

/// The slot of each token; `None` where it is −1.
fn slots(x: &Args<'_>, pages: &Pages) -> Result<Vec<Option<usize>>> {
    let capacity = pages.blocks * pages.block_size;
    let mut taken = HashSet::new();
    let mut slots = Vec::new();
    for &slot in &x.value(2)?.data {
        if slot == -1.0 {
            slots.push(None);
            continue;
        }
        if !(0.0..capacity as f64).contains(&slot) {
            let mend = format!("use −1 to skip a token, else 0 to {}", capacity.saturating_sub(1));
            return Err(bad_data("kv_write slots", format!("slot {slot} of {capacity}"), &mend));
        }
        if !taken.insert(slot as usize) {
            return Err(bad_data("kv_write slots", format!("slot {slot} twice"), "write each slot once in a call"));
        }
        slots.push(Some(slot as usize));
    }
    Ok(slots)
}

/// Where rows of k or v go, and with which scale.
struct Target<'a> {
    cache: &'a TensorDesc,
    scale: Option<&'a TensorDesc>,
    layout: KvLayout,
    pages: Pages,
}

/// What is asked of each row that is written.
#[derive(Clone, Copy)]
struct Of {
    /// Its elements, where there is no scale.
    plain: fn(&[f64]) -> Vec<f64>,
    /// Its scale and its elements.
    scaled: fn(&[f64], DType) -> (f64, Vec<f64>),
}

impl Target<'_> {
    /// What `of` makes of each row: for elements of the cache, and for its scales where it has any.
    fn patches(&self, rows: &Value, slots: &[Option<usize>], of: Of) -> (Patch, Patch) {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for (row, head_of_token) in rows.rows().zip(0..) {
            let (token, head) = (head_of_token / self.pages.heads, head_of_token % self.pages.heads);
            let Some(slot) = slots[token] else { continue };
            let (block, at) = (slot / self.pages.block_size, slot % self.pages.block_size);
            let index = page_index(self.layout, block, at, head);
            let step = self.cache.strides[3];
            let start = offset(self.cache, &index);
            let mut put = |data: &[f64]| codes.extend(data.iter().enumerate().map(|(i, &x)| (start + i * step, x)));
            match self.scale {
                None => put(&(of.plain)(row)),
                Some(scale) => {
                    let (factor, quantised) = (of.scaled)(row, self.cache.dtype);
                    put(&quantised);
                    scales.push((offset(scale, &index), factor));
                }
            }
        }
        (codes, scales)
    }
}

/// Both caches, then both scales where there are any.
fn patches(attrs: &KvWriteAttrs, x: &Args<'_>, of: Of) -> Result<Vec<Patch>> {
    let mut out = Vec::new();
    let mut scales = Vec::new();
    for (rows, cache, scale) in [(0, 3, 5), (1, 4, 6)] {
        let cache = x.desc(cache);
        let pages = Pages::of(cache, attrs.kv_layout).expect("the rule asks for a cache of rank 4");
        let scale = x.has(scale).then(|| x.desc(scale));
        let target = Target { cache, scale, layout: attrs.kv_layout, pages };
        let (codes, factors) = target.patches(&x.value(rows)?, &slots(x, &pages)?, of);
        out.push(codes);
        if scale.is_some() {
            scales.push(factors);
        }
    }
    out.extend(scales);
    Ok(out)
}

/// Row t of k and v goes to slot `slots[t]`: token `slot % block_size` of block `slot / block_size`. With scales, each
/// token and head is quantised on its own.
pub(crate) fn kv_write(attrs: &KvWriteAttrs, x: &Args<'_>) -> Outputs {
    let of = Of { plain: <[f64]>::to_vec, scaled: quantised_row };
    Ok(patches(attrs, x, of)?.into_iter().map(Output::Patch).collect())
}

/// How far each element that is written may be from the truth.
pub(crate) fn kv_limits(attrs: &KvWriteAttrs, x: &Args<'_>) -> Result<Vec<Patch>> {
    let scaled = |row: &[f64], dtype| (ulp(DType::F32, quantised_row(row, dtype).0), code_limits(row, dtype));
    patches(attrs, x, Of { plain: |row| vec![0.0; row.len()], scaled })
}
