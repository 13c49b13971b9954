//! What a kernel's row says.

/// A text that is compiled as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Its file's name without the ending.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Every symbol of it.
    pub kernels: &'static [Kernel],
}

/// A symbol: a kernel as the driver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its name.
    pub symbol: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Its parameters, one letter each: `p` an address, `u` u32, `i` i32, `l` u64, `f` f32, `s` a struct by value.
    pub params: &'static str,
}

impl Kernel {
    /// A row.
    pub(crate) const fn new(symbol: &'static str, threads: u32, params: &'static str) -> Self {
        Kernel { symbol, threads, params }
    }
}

/// Headers that units include, by name.
pub const HEADERS: &[(&str, &str)] = &[
    ("vendor.cuh", include_str!("../text/vendor.cuh")),
    ("walk.cuh", include_str!("../text/walk.cuh")),
    ("blocks.cuh", include_str!("../text/blocks.cuh")),
    ("convert.cuh", include_str!("../text/convert.cuh")),
    ("product.cuh", include_str!("../text/product.cuh")),
    ("several.cuh", include_str!("../text/several.cuh")),
    ("rowwise.cuh", include_str!("../text/rowwise.cuh")),
    ("norms.cuh", include_str!("../text/norms.cuh")),
    ("codes.cuh", include_str!("../text/codes.cuh")),
    ("rope.cuh", include_str!("../text/rope.cuh")),
    ("select.cuh", include_str!("../text/select.cuh")),
    ("attention.cuh", include_str!("../text/attention.cuh")),
    ("attention_tiles.cuh", include_str!("../text/attention_tiles.cuh")),
    ("attention_decode.cuh", include_str!("../text/attention_decode.cuh")),
    ("attention_prefill.cuh", include_str!("../text/attention_prefill.cuh")),
    ("quant.cuh", include_str!("../text/quant.cuh")),
    ("quant_product.cuh", include_str!("../text/quant_product.cuh")),
];
