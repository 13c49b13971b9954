//! What tensors are called in GGUF files.

use super::source::layer_of;

/// Modules of the whole model: the checkpoint's name, GGUF's.
const GLOBAL: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Modules of a layer: the checkpoint's name, GGUF's.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// GGUF's name of a tensor; `None` for one that it has no name for.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    let (module, end) = name.rsplit_once('.')?;
    if let Some((_, theirs)) = GLOBAL.iter().find(|(ours, _)| *ours == module) {
        return Some(format!("{theirs}.{end}"));
    }
    let layer = layer_of(name)?;
    let module = module.strip_prefix(&format!("model.layers.{layer}."))?;
    let (_, theirs) = LAYER.iter().find(|(ours, _)| *ours == module)?;
    Some(format!("blk.{layer}.{theirs}.{end}"))
}

/// The checkpoint's name of what GGUF calls so; `None` for a name that it does not have.
pub(super) fn own_name(name: &str) -> Option<String> {
    let (module, end) = name.rsplit_once('.')?;
    if let Some((ours, _)) = GLOBAL.iter().find(|(_, theirs)| *theirs == module) {
        return Some(format!("{ours}.{end}"));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (ours, _) = LAYER.iter().find(|(_, theirs)| *theirs == module)?;
    Some(format!("model.layers.{layer}.{ours}.{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_called_as_llama_cpp_calls_them() {
        for (ours, theirs) in [
            ("model.embed_tokens.weight", Some("token_embd.weight")),
            ("lm_head.weight", Some("output.weight")),
            ("model.norm.weight", Some("output_norm.weight")),
            ("model.layers.12.self_attn.k_proj.bias", Some("blk.12.attn_k.bias")),
            ("model.layers.0.mlp.down_proj.weight", Some("blk.0.ffn_down.weight")),
            ("model.layers.0.self_attn.q_norm.weight", Some("blk.0.attn_q_norm.weight")),
            ("model.layers.0.mlp.experts.0.weight", None),
            ("other", None),
        ] {
            assert_eq!(gguf_name(ours).as_deref(), theirs, "{ours}");
            assert_eq!(theirs.and_then(own_name).as_deref(), theirs.map(|_| ours));
        }
        for name in ["blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight", "blk.1", "weight", ""] {
            assert_eq!(own_name(name), None, "{name}");
        }
    }
}
