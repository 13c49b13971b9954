//! The KV cache: writing rows into pages.

use std::collections::HashSet;

use qiao_core::{KvLayout, KvWriteAttrs, Pages, TensorDesc};

use super::quantised::quantised_row;
use super::{Outputs, bad_data};
use crate::args::{Args, offset};
use crate::value::{Output, Patch, Value};

/// The first three indices of a cache at this block, token of the block and head.
pub(crate) fn page_index(layout: KvLayout, block: usize, token: usize, head: usize) -> [usize; 3] {
    match layout {
        KvLayout::BlockTokenHead => [block, token, head],
        KvLayout::BlockHeadToken => [block, head, token],
    }
}

/// The slot of each token; `None` where it is −1.
fn slots(x: &Args<'_>, pages: &Pages) -> qiao_core::Result<Vec<Option<usize>>> {
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

impl Target<'_> {
    /// The elements to write into the cache and into its scales.
    fn patches(&self, rows: &Value, slots: &[Option<usize>]) -> (Patch, Patch) {
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
                None => put(row),
                Some(scale) => {
                    let (factor, quantised) = quantised_row(row, self.cache.dtype);
                    put(&quantised);
                    scales.push((offset(scale, &index), factor));
                }
            }
        }
        (codes, scales)
    }
}

/// Row t of k and v goes to slot `slots[t]`: token `slot % block_size` of block `slot / block_size`. With scales, each
/// token and head is quantised on its own.
pub(crate) fn kv_write(attrs: &KvWriteAttrs, x: &Args<'_>) -> Outputs {
    let mut out = Vec::new();
    let mut scales = Vec::new();
    for (rows, cache, scale) in [(0, 3, 5), (1, 4, 6)] {
        let cache = x.desc(cache);
        let pages = Pages::of(cache, attrs.kv_layout).expect("the rule asks for a cache of rank 4");
        let scale = x.has(scale).then(|| x.desc(scale));
        let target = Target { cache, scale, layout: attrs.kv_layout, pages };
        let (codes, factors) = target.patches(&x.value(rows)?, &slots(x, &pages)?);
        out.push(Output::Patch(codes));
        if scale.is_some() {
            scales.push(Output::Patch(factors));
        }
    }
    out.extend(scales);
    Ok(out)
}
