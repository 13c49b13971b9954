//! Metadata of an architecture → `config.json`.

use qiao_core::DType;
use qiao_gguf::TensorInfo;
use serde_json::{Map, Value, json};

use super::Keys;
use super::tokenizer::end_ids;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result, excerpt};
use crate::weights::GgufParts;

const ARCHITECTURE: &str = "general.architecture";
const EMBEDDING: &str = "token_embd.weight";

/// An architecture of GGUF: which family reads it, and how its files pair the elements of q and k that rotate.
struct Architecture {
    name: &'static str,
    /// The entry of `architectures`.
    class: &'static str,
    /// Whether the converter has permuted q and k so that neighbours rotate together.
    interleaved: bool,
}

/// Those that are known, one line each.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", class: "LlamaForCausalLM", interleaved: true },
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", interleaved: false },
    Architecture { name: "qwen3", class: "Qwen3ForCausalLM", interleaved: false },
];

/// Keys of `config.json`, and where their values stand in the metadata: what an error about one is about.
const SOURCES: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("sliding_window", "attention.sliding_window"),
    ("layer_types", "attention.sliding_window_pattern"),
    ("rope_parameters.rope_theta", "rope.freq_base"),
    ("rope_parameters.factor", "rope.scaling.factor"),
    ("rope_parameters.original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("partial_rotary_factor", "rope.dimension_count"),
];

/// The configuration of the model in a file.
///
/// # Errors
/// An architecture that is not known; keys that are missing or can not be used, by their names in the file.
pub(crate) fn model_config(parts: &GgufParts) -> Result<ModelConfig> {
    let keys = Keys { path: parts.path(), metadata: parts.metadata() };
    let found = keys.of(keys.metadata.str(ARCHITECTURE))?.ok_or_else(|| keys.refuse(ARCHITECTURE, "a name"))?;
    let architecture =
        ARCHITECTURES.iter().find(|a| a.name == found).ok_or_else(|| EngineError::UnknownArchitecture {
            path: parts.path().to_path_buf(),
            found: excerpt(found),
            known: ARCHITECTURES.iter().map(|a| a.name.to_string()).collect(),
        })?;
    let object = Reader { keys, parts, architecture }.object()?;
    let parsed = ModelConfig::from_json(parts.path(), Value::Object(object).to_string().as_bytes());
    // Activations of a GGUF file are in f32, whatever its weights are in; those of bf16 weights are in bf16 as elsewhere.
    let meant = |config: ModelConfig| match config.dtype {
        Some(DType::BF16) => config,
        _ => ModelConfig { activations: Some(DType::F32), ..config },
    };
    parsed.map(meant).map_err(|error| match error {
        EngineError::Config { path, key, expected, found } => {
            let source = SOURCES.iter().find(|(ours, _)| *ours == key);
            let key = source.map_or(key, |(_, theirs)| format!("{}.{theirs}", architecture.name));
            EngineError::Config { path, key, expected, found }
        }
        other => other,
    })
}

struct Reader<'a> {
    keys: Keys<'a>,
    parts: &'a GgufParts,
    architecture: &'static Architecture,
}

impl Reader<'_> {
    fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.architecture.name)
    }

    /// A whole number, the same for every layer where there is one for each.
    fn size(&self, rest: &str) -> Result<Option<u64>> {
        let key = self.key(rest);
        let Some(values) = self.keys.of(self.keys.metadata.uints(&key))? else { return Ok(None) };
        match values.split_first() {
            Some((first, others)) if others.iter().all(|value| value == first) => Ok(Some(*first)),
            _ => Err(self.keys.refuse(&key, "the same for every layer: models whose layers differ are not known")),
        }
    }

    fn required(&self, rest: &str) -> Result<u64> {
        self.size(rest)?.ok_or_else(|| self.keys.refuse(&self.key(rest), "a whole number above 0"))
    }

    fn number(&self, rest: &str) -> Result<Option<f64>> {
        self.keys.number(&self.key(rest))
    }

    fn embedding(&self) -> Result<&TensorInfo> {
        let tensor = self.parts.tensor(EMBEDDING).filter(|tensor| tensor.shape.len() == 2);
        tensor.ok_or_else(|| EngineError::BadTensor {
            path: self.parts.path().to_path_buf(),
            tensor: EMBEDDING.to_string(),
            found: "not among the file's tensors with two dimensions".to_string(),
            mend: "give the file of a whole model, not of an adapter or a vocabulary",
        })
    }

    fn object(&self) -> Result<Map<String, Value>> {
        let has = |name: &str| self.parts.tensor(name).is_some();
        if self.size("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(self.keys.refuse(&self.key("expert_count"), "0: mixtures of experts are not known"));
        }
        let embedding = self.embedding()?;
        let heads = self.required("attention.head_count")?;
        let width = self.required("embedding_length")?;
        let head_dim = self.head_dim(width, heads)?;
        let context = self.required("context_length")?;
        let eps = "attention.layer_norm_rms_epsilon";
        let eps = self.number(eps)?.ok_or_else(|| self.keys.refuse(&self.key(eps), "a number from 0 to 1"))?;
        let mut out = object(json!({
            "hidden_size": width,
            "intermediate_size": self.required("feed_forward_length")?,
            "num_hidden_layers": self.required("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.size("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head_dim,
            "vocab_size": embedding.shape[0],
            "rms_norm_eps": eps,
            "max_position_embeddings": context,
            "attention_bias": self.attention_biases().contains(&true),
            "mlp_bias": has("blk.0.ffn_gate.bias"),
            "tie_word_embeddings": !has("output.weight"),
            "rope_interleave": self.architecture.interleaved,
            "rope_parameters": self.rope(head_dim, context)?,
            "partial_rotary_factor": self.rotated_share(head_dim)?,
            "bos_token_id": self.keys.token_id("bos")?,
            "eos_token_id": end_ids(self.keys)?,
            "torch_dtype": embedding.dtype.and_then(|dtype| match dtype.name() {
                "f32" => Some("float32"),
                "f16" => Some("float16"),
                "bf16" => Some("bfloat16"),
                _ => None,
            }),
        }));
        self.window(&mut out)?;
        Ok(out)
    }

    /// Whether the projections to q, k and v and that of the output have biases.
    fn attention_biases(&self) -> [bool; 4] {
        ["q", "k", "v", "output"].map(|part| self.parts.tensor(&format!("blk.0.attn_{part}.bias")).is_some())
    }

    /// The width of a head: of keys, which must be that of values.
    fn head_dim(&self, width: u64, heads: u64) -> Result<u64> {
        let even = || (heads > 0 && width.is_multiple_of(heads)).then(|| width / heads);
        let (key, value) = ("attention.key_length", "attention.value_length");
        let found = self.size(key)?.or_else(even);
        let found = found.ok_or_else(|| self.keys.refuse(&self.key(key), "the width of a head"))?;
        if self.size(value)?.is_some_and(|values| values != found) {
            let expected = format!("{found}, the width of the keys: other values are not known for this architecture");
            return Err(self.keys.refuse(&self.key(value), expected));
        }
        Ok(found)
    }

    /// The share of a head that is rotated; null for all of it.
    fn rotated_share(&self, head_dim: u64) -> Result<Value> {
        Ok(match self.size("rope.dimension_count")? {
            Some(rotated) if rotated != head_dim && head_dim > 0 => json!(rotated as f64 / head_dim as f64),
            _ => Value::Null,
        })
    }

    /// `rope_parameters`. Explicit factors per frequency win over a named scaling: they have it in them.
    fn rope(&self, head_dim: u64, context: u64) -> Result<Value> {
        let mut rope = object(json!({ "rope_theta": self.number("rope.freq_base")?, "rope_type": "default" }));
        let original = self.size("rope.scaling.original_context_length")?;
        let mut set = |entries: Value| rope.extend(object(entries));
        let (short, long) = ("rope_factors_short.weight", "rope_factors_long.weight");
        let attention = self.number("rope.scaling.attn_factor")?;
        if let Some(factors) = self.parts.floats("rope_freqs.weight")? {
            let factors = self.factors(factors, head_dim);
            set(json!({ "rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                "attention_factor": 1.0, "original_max_position_embeddings": context }));
            return Ok(Value::Object(rope));
        }
        if let (Some(short), Some(long)) = (self.parts.floats(short)?, self.parts.floats(long)?) {
            let (short, long) = (self.factors(short, head_dim), self.factors(long, head_dim));
            set(json!({ "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "attention_factor": attention.unwrap_or(1.0), "original_max_position_embeddings": original }));
            return Ok(Value::Object(rope));
        }
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let key = self.key("rope.scaling.type");
        match self.keys.of(self.keys.metadata.str(&key))? {
            Some("none") => {}
            None | Some("linear") => {
                if let Some(factor) = factor.filter(|&factor| factor != 0.0 && factor != 1.0) {
                    set(json!({ "rope_type": "linear", "factor": factor }));
                }
            }
            Some("yarn") => {
                // Readers of GGUF multiply yarn's own factor of attention by this one.
                let own = |factor: f64| if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
                let attention = attention.map(|given| given * own(factor.unwrap_or(1.0)));
                set(json!({ "rope_type": "yarn", "factor": factor, "attention_factor": attention,
                    "original_max_position_embeddings": original,
                    "beta_fast": self.number("rope.scaling.yarn_beta_fast")?,
                    "beta_slow": self.number("rope.scaling.yarn_beta_slow")? }));
            }
            Some(_) => return Err(self.keys.refuse(&key, "none, linear or yarn, or factors in tensors of their own")),
        }
        Ok(Value::Object(rope))
    }

    /// Divisors of the frequencies; those of a head that is rotated in part may be padded.
    fn factors(&self, mut factors: Vec<f32>, head_dim: u64) -> Vec<f32> {
        let rotated = self.size("rope.dimension_count").ok().flatten().unwrap_or(head_dim);
        factors.truncate((rotated / 2) as usize);
        factors
    }

    /// The sliding window, where the file has one: of all layers, or of those that the pattern names.
    fn window(&self, out: &mut Map<String, Value>) -> Result<()> {
        let window = self.size("attention.sliding_window")?.filter(|&window| window > 0);
        let (class, model_type) = match (self.architecture.name, window, self.attention_biases()) {
            // A Llama with biases on q, k and v alone is what Qwen2 is, apart from which elements rotate together.
            ("llama", _, [true, true, true, false]) => ("Qwen2ForCausalLM", "qwen2"),
            // Mistral's files are written as Llama's; the window is all that tells them apart.
            ("llama", Some(_), _) => ("MistralForCausalLM", "mistral"),
            (name, ..) => (self.architecture.class, name),
        };
        out.extend(object(json!({ "architectures": [class], "model_type": model_type })));
        let Some(window) = window else { return Ok(()) };
        out.extend(object(json!({ "sliding_window": window, "use_sliding_window": true, "max_window_layers": 0 })));
        let key = self.key("attention.sliding_window_pattern");
        if let Some(pattern) = self.keys.of(self.keys.metadata.bools(&key))?.filter(|pattern| pattern.len() > 1) {
            if model_type == "mistral" && pattern.contains(&false) {
                return Err(self.keys.refuse(&key, "true for every layer: this family slides in all of them"));
            }
            let name = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
            out.insert("layer_types".to_string(), pattern.iter().map(name).collect());
        }
        Ok(())
    }
}

/// The entries of an object that is written out.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
