//! Pages of keys or values: which the kernels read and write, and where each token of them lies.

use qiao_core::{DType, Dims, KvLayout, NodeView, Pages, Property, Reason, Rule, TensorDesc};

/// The number by which kernels know a dtype of activations or of a cache.
pub(crate) fn kind(dtype: DType) -> Option<usize> {
    const KINDS: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::I8, DType::F8E4M3, DType::F8E5M2];
    KINDS.iter().position(|&d| d == dtype)
}

/// Accepts f32, f16 and bf16 in the operands that `floats` names, and no private layout in any.
pub(crate) fn accepts_floats(node: &NodeView<'_>, floats: &[usize]) -> Result<(), Reason> {
    for (i, desc) in node.operands() {
        if floats.contains(&i) && !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &[DType::F32, DType::F16, DType::BF16]));
        }
        if desc.layout != 0 {
            let found = format!("{:#x}", desc.layout);
            return Err(Reason::operand(i, Property::Layout, Rule::Equal, found.as_str(), "strided"));
        }
    }
    Ok(())
}

/// Accepts keys and values in f32, f16, bf16, i8 or fp8 whose heads are contiguous.
pub(crate) fn accepts(node: &NodeView<'_>, caches: [usize; 2]) -> Result<(), Reason> {
    for i in caches {
        let cache = node.required(i);
        if kind(cache.dtype).is_none() {
            return Err(Reason::operand(i, Property::Dtype, Rule::None, cache.dtype, ""));
        }
        if !cache.rows_are_contiguous() {
            return Err(Reason::strides(i, "contiguous within a head"));
        }
    }
    Ok(())
}

/// Whether a tensor's first byte, and every step between its rows, is a multiple of `bytes`, given that storage is.
pub(crate) fn aligned(node: &NodeView<'_>, input: usize, bytes: usize) -> bool {
    let id = node.node.inputs[input].expect("the operand is given");
    steps_are(node.graph.desc(id), bytes) && node.graph.root(id).1.is_multiple_of(bytes)
}

/// Whether rows are contiguous and every step between them is a multiple of `bytes`.
pub(crate) fn steps_are(desc: &TensorDesc, bytes: usize) -> bool {
    let outer = &desc.strides[..desc.rank().saturating_sub(1)];
    desc.rows_are_contiguous() && outer.iter().all(|s| (s * desc.dtype.block_bytes()).is_multiple_of(bytes))
}

/// Keys or values: their dims, and the elements between blocks, heads and tokens.
pub(crate) struct Cache {
    pub(crate) dtype: DType,
    pub(crate) pages: Pages,
    pub(crate) strides: [usize; 3],
    /// The strides of the scales, where there are any.
    pub(crate) scale: [usize; 3],
}

impl Cache {
    /// The cache at this position of the operands, with the position of its scales; without pages it is packed,
    /// `[tokens, heads, D]`.
    pub(crate) fn new(node: &NodeView<'_>, index: usize, scale: usize, layout: KvLayout, paged: bool) -> Self {
        let desc = node.required(index);
        let order = |s: &Dims| match (paged, layout) {
            (false, _) => [0, s[1], s[0]],
            (true, KvLayout::BlockHeadToken) => [s[0], s[1], s[2]],
            (true, KvLayout::BlockTokenHead) => [s[0], s[2], s[1]],
        };
        let packed =
            |d: &TensorDesc| Pages { blocks: 1, block_size: d.shape[0], heads: d.shape[1], head_dim: d.shape[2] };
        Cache {
            dtype: desc.dtype,
            pages: if paged { Pages::of(desc, layout).expect("the graph checked the cache") } else { packed(desc) },
            strides: order(&desc.strides),
            scale: node.input(scale).map_or([0; 3], |d| order(&d.strides)),
        }
    }
}
