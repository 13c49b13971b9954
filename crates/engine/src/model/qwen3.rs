//! Qwen3: Llama with a norm over each head of q and k before the rotation.

use super::{DecoderSpec, Family};

/// Head norms; biases on all attention projections where the configuration asks for them.
pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    architectures: &["Qwen3ForCausalLM"],
    spec: |config| {
        Ok(DecoderSpec {
            qk_norm: true,
            qkv_bias: config.attention_bias,
            o_bias: config.attention_bias,
            ..DecoderSpec::plain(config)?
        })
    },
};
