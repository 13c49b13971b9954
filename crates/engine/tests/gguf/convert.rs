//! The tiny checkpoints of the fixtures as GGUF files, the way converters write them: names, keys, permuted rows.

use std::path::Path;

use half::f16;
use qiao_core::DType;
use qiao_engine::config::ModelConfig;
use qiao_engine::rope::{RopeConfig, RopeRegime, RopeTables};
use qiao_engine::weights::Weights;
use qiao_gguf::GgufHeader;
use serde_json::Value;

/// A tensor to write.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// A fixture in f32, ready to be written.
pub(crate) struct Source {
    pub(crate) architecture: &'static str,
    json: Value,
    config: ModelConfig,
    tensors: Vec<Tensor>,
}

/// GGUF's name of a module, as the tables of the format have it.
fn gguf_name(name: &str) -> String {
    let (module, kind) = name.rsplit_once('.').unwrap();
    let module = match module {
        "model.embed_tokens" => "token_embd".to_string(),
        "model.norm" => "output_norm".to_string(),
        "lm_head" => "output".to_string(),
        _ => {
            let (layer, module) = module.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
            let module = match module {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                other => panic!("{other}"),
            };
            format!("blk.{layer}.{module}")
        }
    };
    format!("{module}.{kind}")
}

/// Row `h·D/2 + i` of a head goes to row `2i + h`.
fn permute(values: &[f32], heads: usize, row: usize) -> Vec<f32> {
    let rows = values.len() / row;
    let d = rows / heads;
    let mut out = vec![0.0; values.len()];
    for r in 0..rows {
        let (head, within) = (r / d, r % d);
        let to = head * d + 2 * (within % (d / 2)) + within / (d / 2);
        out[to * row..(to + 1) * row].copy_from_slice(&values[r * row..(r + 1) * row]);
    }
    out
}

impl Source {
    /// Reads a fixture.
    pub(crate) fn read(folder: &Path) -> Source {
        Source::read_as(folder, None)
    }

    /// Reads a fixture as a file of this architecture, or of its own.
    pub(crate) fn read_as(folder: &Path, architecture: Option<&'static str>) -> Source {
        let json: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let config = ModelConfig::from_dir(folder).unwrap();
        let architecture = architecture.unwrap_or(match config.model_type.as_str() {
            "llama" | "mistral" => "llama",
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            other => panic!("{other}"),
        });
        let weights = Weights::open(folder).unwrap();
        let tensor = |name: &str| {
            let tensor = weights.tensor(name).unwrap();
            let heads = match name {
                _ if architecture != "llama" => 0,
                _ if name.contains("q_proj") => config.num_heads,
                _ if name.contains("k_proj") => config.num_kv_heads,
                _ => 0,
            };
            let mut values = tensor.to_f32().unwrap();
            if heads > 0 {
                let row = if tensor.shape.len() == 2 { tensor.shape[1] } else { 1 };
                values = permute(&values, heads, row);
            }
            Tensor { name: gguf_name(name), shape: tensor.shape.to_vec(), values }
        };
        let tied = config.tie_word_embeddings;
        let mut tensors: Vec<_> =
            weights.names().filter(|name| !(tied && *name == "lm_head.weight")).map(tensor).collect();
        if json["rope_parameters"]["rope_type"] == "llama3" {
            let frequencies = |rope: &RopeConfig| {
                RopeTables::new(rope, config.head_dim, config.max_position_embeddings)
                    .inverse_frequencies(RopeRegime::Base)
            };
            let plain = frequencies(&RopeConfig::plain(config.rope.theta));
            let values: Vec<f32> =
                plain.iter().zip(frequencies(&config.rope)).map(|(plain, scaled)| plain / scaled).collect();
            tensors.push(Tensor { name: "rope_freqs.weight".into(), shape: vec![values.len()], values });
        }
        Source { architecture, json, config, tensors }
    }

    /// Metadata as converters write them.
    pub(crate) fn header(&self) -> GgufHeader {
        let config = &self.config;
        let mut header = GgufHeader::new();
        header.set("general.architecture", self.architecture);
        let mut set = |key: &str, value: qiao_gguf::Value| header.set(&format!("{}.{key}", self.architecture), value);
        set("context_length", (config.max_position_embeddings as u32).into());
        set("embedding_length", (config.hidden_size as u32).into());
        set("block_count", (config.num_layers as u32).into());
        set("feed_forward_length", (config.intermediate_size as u32).into());
        set("attention.head_count", (config.num_heads as u32).into());
        set("attention.head_count_kv", (config.num_kv_heads as u32).into());
        set("attention.layer_norm_rms_epsilon", (config.rms_norm_eps as f32).into());
        set("rope.freq_base", (config.rope.theta as f32).into());
        if self.architecture == "qwen3" {
            set("attention.key_length", (config.head_dim as u32).into());
            set("attention.value_length", (config.head_dim as u32).into());
        }
        if let Some(window) = config.sliding_window {
            set("attention.sliding_window", (window as u32).into());
        }
        let rope = &self.json["rope_parameters"];
        if let Some(kind @ ("linear" | "yarn")) = rope["rope_type"].as_str() {
            set("rope.scaling.type", kind.into());
            set("rope.scaling.factor", (rope["factor"].as_f64().unwrap() as f32).into());
            if let Some(original) = rope["original_max_position_embeddings"].as_u64() {
                set("rope.scaling.original_context_length", (original as u32).into());
            }
        }
        header
    }

    /// Writes a file; `dtype` chooses by name and shape, and vectors stay f32.
    pub(crate) fn write(&self, header: GgufHeader, path: &Path, dtype: impl Fn(&str, &[usize]) -> DType) {
        self.write_part(header, path, dtype, |_| true);
    }

    /// Writes the tensors for whose number `take` holds.
    pub(crate) fn write_part(
        &self,
        mut header: GgufHeader,
        path: &Path,
        dtype: impl Fn(&str, &[usize]) -> DType,
        take: impl Fn(usize) -> bool,
    ) {
        let chosen = |t: &Tensor| if t.shape.len() < 2 { DType::F32 } else { dtype(&t.name, &t.shape) };
        let tensors: Vec<&Tensor> = self.tensors.iter().enumerate().filter(|(i, _)| take(*i)).map(|(_, t)| t).collect();
        tensors.iter().for_each(|t| header.tensor(&t.name, chosen(t), &t.shape).unwrap());
        let mut file = header.begin(std::fs::File::create(path).unwrap()).unwrap();
        tensors.iter().for_each(|t| file.tensor(&t.name, &encode(&t.values, chosen(t))).unwrap());
        file.finish().unwrap();
    }

    /// Leaves out a tensor.
    pub(crate) fn without(mut self, name: &str) -> Source {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// Number of tensors.
    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// The values as a block format holds them, so that a file of floats can be held against one of blocks.
    pub(crate) fn rounded_to(mut self, dtype: impl Fn(&str, &[usize]) -> DType) -> Source {
        for tensor in self.tensors.iter_mut().filter(|t| t.shape.len() == 2) {
            let dtype = dtype(&tensor.name, &tensor.shape);
            if dtype.is_block() {
                let bytes = encode(&tensor.values, dtype);
                qiao_quant::decode_row(dtype, &bytes, &mut tensor.values).unwrap();
            }
        }
        self
    }
}

fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::Q8_0 => values.chunks_exact(32).flat_map(q8_0).collect(),
        DType::Q4_0 => values.chunks_exact(32).flat_map(q4_0).collect(),
        other => panic!("{other}"),
    }
}

/// A scale of max / 127, and codes to the nearest.
fn q8_0(block: &[f32]) -> Vec<u8> {
    let scale = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let codes = block.iter().map(|v| (v * inverse).round() as i8 as u8);
    f16::from_f32(scale).to_le_bytes().into_iter().chain(codes).collect()
}

/// A scale that puts the largest value at code 0, and codes to the nearest; the first half in the low nibbles.
fn q4_0(block: &[f32]) -> Vec<u8> {
    let largest = block.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let scale = largest / -8.0;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    let code = |v: f32| (v * inverse + 8.5).clamp(0.0, 15.0) as u8;
    let codes = (0..16).map(|i| code(block[i]) | code(block[i + 16]) << 4);
    f16::from_f32(scale).to_le_bytes().into_iter().chain(codes).collect()
}
