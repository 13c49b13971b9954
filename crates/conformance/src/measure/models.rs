//! Sizes of real models, from their `config.json`.

/// The sizes of a model that decide its operators' shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Its name.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub inter: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rows of the embedding table, and columns of the LM head.
    pub vocab: usize,
    /// Whether the projections of queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether queries and keys are normed head by head.
    pub qk_norm: bool,
}

const fn model(name: &'static str, [hidden, inter, heads, kv_heads, head_dim, vocab]: [usize; 6]) -> ModelShape {
    ModelShape { name, hidden, inter, heads, kv_heads, head_dim, vocab, qkv_bias: false, qk_norm: false }
}

/// The models whose shapes are measured, the smallest first.
pub const MODELS: &[ModelShape] = &[
    ModelShape { qkv_bias: true, ..model("Qwen2.5-0.5B", [896, 4864, 14, 2, 64, 151_936]) },
    model("Llama-3.2-1B", [2048, 8192, 32, 8, 64, 128_256]),
    ModelShape { qkv_bias: true, ..model("Qwen2.5-1.5B", [1536, 8960, 12, 2, 128, 151_936]) },
    ModelShape { qk_norm: true, ..model("Qwen3-4B", [2560, 9728, 32, 8, 128, 151_936]) },
    ModelShape { qkv_bias: true, ..model("Qwen2.5-7B", [3584, 18944, 28, 4, 128, 152_064]) },
    model("Llama-3-8B", [4096, 14336, 32, 8, 128, 128_256]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_fall_into_groups() {
        for m in MODELS {
            assert_eq!(m.heads % m.kv_heads, 0, "{}", m.name);
            assert_eq!((m.hidden % 64, m.inter % 64, m.head_dim % 2), (0, 0, 0), "{}", m.name);
        }
    }
}
