//! Mistral: Llama without biases, with a sliding window where the configuration has one.

use super::{DecoderSpec, Family};

/// The window stands in the configuration, so the plain decoder has it already.
pub(super) const FAMILY: Family =
    Family { name: "mistral", architectures: &["MistralForCausalLM"], spec: DecoderSpec::plain };
