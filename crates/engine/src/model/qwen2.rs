//! Qwen2 and Qwen2.5: Llama with biases on q, k and v, whatever the configuration says.

use super::{DecoderSpec, Family};

/// Biases on q, k, v and nowhere else.
pub(super) const FAMILY: Family = Family {
    name: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
    spec: |config| Ok(DecoderSpec { qkv_bias: true, ..DecoderSpec::plain(config)? }),
};
