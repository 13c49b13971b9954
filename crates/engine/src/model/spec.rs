//! A decoder-only model as data: its sizes, what it has of what is optional, and where its weights are.

use qiao_core::RopeStyle;

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};

/// Names of a checkpoint's tensors. Those of a layer follow `layers`, the layer's number and a dot; a projection's stands
/// without its `.weight` or `.bias`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The embedding.
    pub embed: &'static str,
    /// What stands before a layer's number.
    pub layers: &'static str,
    /// The norm before attention.
    pub input_norm: &'static str,
    /// The query, key, value and output projections.
    pub qkvo: [&'static str; 4],
    /// The norms over each head of q and k.
    pub qk_norms: [&'static str; 2],
    /// The norm before the MLP.
    pub post_norm: &'static str,
    /// The gate, up and down projections.
    pub gate_up_down: [&'static str; 3],
    /// The norm after the last layer.
    pub final_norm: &'static str,
    /// The output head.
    pub lm_head: &'static str,
}

impl Names {
    /// The names that Llama checkpoints in Hugging Face layout use, and most others with them.
    pub const LLAMA: Names = Names {
        embed: "model.embed_tokens",
        layers: "model.layers.",
        input_norm: "input_layernorm",
        qkvo: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
        qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
        post_norm: "post_attention_layernorm",
        gate_up_down: ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
        final_norm: "model.norm",
        lm_head: "lm_head",
    };
}

/// A decoder-only model as data: all that its graph depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub inter: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding and of the logits.
    pub vocab: usize,
    /// Epsilon of every norm.
    pub eps: f32,
    /// Whether the q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether q and k are normed head by head before the rotation.
    pub qk_norm: bool,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// How many elements of a head are rotated.
    pub rotary_dim: usize,
    /// How rotated elements pair.
    pub rope_style: RopeStyle,
    /// Each layer's sliding window in tokens, the current one counted; 0 = none.
    pub windows: Vec<u32>,
    /// Where the weights are.
    pub names: Names,
}

impl DecoderSpec {
    /// What the families have in common, with nothing optional switched on.
    ///
    /// # Errors
    /// An activation other than silu.
    pub fn plain(config: &ModelConfig) -> Result<DecoderSpec> {
        if !matches!(config.hidden_act.as_str(), "silu" | "swish") {
            return Err(EngineError::Parameter {
                name: "hidden_act of config.json",
                expected: "silu",
                found: format!("{:?}", crate::error::excerpt(&config.hidden_act)),
            });
        }
        let window = |layer| config.window(layer).map_or(0, |w| u32::try_from(w).unwrap_or(u32::MAX));
        Ok(DecoderSpec {
            hidden: config.hidden_size,
            inter: config.intermediate_size,
            layers: config.num_layers,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            eps: config.rms_norm_eps as f32,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            tied: config.tie_word_embeddings,
            rotary_dim: config.rope.rotary_dim(config.head_dim),
            rope_style: config.rope_style,
            windows: (0..config.num_layers).map(window).collect(),
            names: Names::LLAMA,
        })
    }

    /// The weight of the output head, tied or not.
    pub fn head_weight(&self) -> String {
        format!("{}.weight", if self.tied { self.names.embed } else { self.names.lm_head })
    }

    /// Whether a module of this name is one of the layers' projections.
    pub fn is_projection(&self, module: &str) -> bool {
        let rest = module.strip_prefix(self.names.layers).and_then(|rest| rest.split_once('.'));
        let projections = self.names.qkvo.iter().chain(&self.names.gate_up_down);
        rest.is_some_and(|(layer, part)| layer.parse::<usize>().is_ok() && projections.into_iter().any(|p| *p == part))
    }
}
