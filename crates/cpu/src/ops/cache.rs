//! Pages of keys or values: which the CPU reads and writes, and where each token of them lies.

use qiao_core::{DType, Dims, KvLayout, NodeView, Pages, Property, Reason, Rule, TensorDesc};

use super::access::FP8;

/// Accepts caches in f32, f16, bf16, i8 or fp8 whose heads are contiguous.
pub(super) fn accepts(node: &NodeView<'_>, caches: [usize; 2]) -> Result<(), Reason> {
    for i in caches {
        let cache = node.required(i);
        let known = cache.dtype.is_activation() || cache.dtype == DType::I8 || FP8.contains(&cache.dtype);
        if !known {
            return Err(Reason::operand(i, Property::Dtype, Rule::None, cache.dtype, ""));
        }
        if !cache.rows_are_contiguous() {
            return Err(Reason::strides(i, "contiguous within a head"));
        }
    }
    Ok(())
}

/// Keys or values: where each (block, head, token) lies.
pub(super) struct Cache {
    pub(super) tensor: usize,
    pub(super) dtype: DType,
    /// Strides of block, head and token, in elements.
    pub(super) strides: [usize; 3],
    /// The scales' tensor and strides, where the cache is quantised.
    pub(super) scale: Option<(usize, [usize; 3])>,
    pub(super) pages: Pages,
}

impl Cache {
    /// The cache at this position of the operands, with the position of its scales; without pages it is packed,
    /// `[tokens, heads, D]`.
    pub(super) fn new(node: &NodeView<'_>, index: usize, scale: usize, layout: KvLayout, paged: bool) -> Self {
        let desc = node.required(index);
        let empty = desc.elements() == 0;
        let order = |s: &Dims| match (paged, layout) {
            // The strides of an empty tensor promise no memory.
            _ if empty => [0; 3],
            (false, _) => [0, s[1], s[0]],
            (true, KvLayout::BlockHeadToken) => [s[0], s[1], s[2]],
            (true, KvLayout::BlockTokenHead) => [s[0], s[2], s[1]],
        };
        let tensor = |i: usize| node.node.inputs[i].expect("the operand is given").index();
        let packed =
            |d: &TensorDesc| Pages { blocks: 1, block_size: d.shape[0], heads: d.shape[1], head_dim: d.shape[2] };
        Cache {
            tensor: tensor(index),
            dtype: desc.dtype,
            strides: order(&desc.strides),
            scale: node.input(scale).map(|d| (tensor(scale), order(&d.strides))),
            pages: if paged { Pages::of(desc, layout).expect("the graph checked the cache") } else { packed(desc) },
        }
    }

    /// Elements from the start of the cache to a token.
    pub(super) fn at(&self, block: usize, head: usize, token: usize) -> usize {
        block * self.strides[0] + head * self.strides[1] + token * self.strides[2]
    }

    /// Where the scale of a token lies: its tensor, and elements from its start.
    pub(super) fn scale_at(&self, block: usize, head: usize, token: usize) -> Option<(usize, usize)> {
        self.scale.map(|(tensor, s)| (tensor, block * s[0] + head * s[1] + token * s[2]))
    }
}
