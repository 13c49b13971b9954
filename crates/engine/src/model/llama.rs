//! Llama 2, 3, 3.1, 3.2 and what shares their layout.

use super::{DecoderSpec, Family};

/// Grouped-query attention, SwiGLU, pre-norm; biases where the configuration asks for them.
pub(super) const FAMILY: Family = Family {
    name: "llama",
    architectures: &["LlamaForCausalLM"],
    spec: |config| {
        Ok(DecoderSpec {
            qkv_bias: config.attention_bias,
            o_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            ..DecoderSpec::plain(config)?
        })
    },
};
