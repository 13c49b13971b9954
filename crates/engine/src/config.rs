//! `config.json`: what a checkpoint says about its model, in the older key style (`rope_theta`, `rope_scaling`, `torch_dtype`) and the
//! newer one (`rope_parameters`, `dtype`). Defaults are those of the transformers configuration classes.

use std::path::Path;

use qiao_core::{DType, RopeStyle};

use crate::error::{EngineError, Result};
use crate::json::{self, Object};
use crate::quantisation::Quantisation;
use crate::rope::{MAX_POSITIONS, RopeConfig};

/// The file name in a checkpoint directory.
pub const CONFIG_FILE: &str = "config.json";

const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 14;
const MAX_HEADS: usize = 1 << 16;
const MAX_VOCAB: usize = 1 << 28;

/// What one layer's attention sees of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Every earlier position.
    Full,
    /// The last positions only, the current one counted.
    Sliding,
}

/// A decoder-only model as its `config.json` describes it. Everything is checked: sizes are positive and bounded, heads divide.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Entries of `architectures`, e.g. `LlamaForCausalLM`.
    pub architectures: Vec<String>,
    /// `model_type`, e.g. `llama`; taken from the first architecture's name when the key is absent.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// How the rotated elements of a head pair: in halves, or neighbours where `rope_interleave` says so.
    pub rope_style: RopeStyle,
    /// Longest sequence the model promises, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the attention projections carry biases. Families with a fixed choice (Qwen2) do not ask.
    pub attention_bias: bool,
    /// Whether the MLP projections carry biases.
    pub mlp_bias: bool,
    /// Whether the output head shares the embedding. The loader also ties when `lm_head.weight` is missing.
    pub tie_word_embeddings: bool,
    /// The sliding window in tokens, the current one counted; `None` when the family or its flags switch it off.
    pub sliding_window: Option<usize>,
    /// One entry per layer.
    pub layer_kinds: Vec<LayerKind>,
    /// Activation of the MLP, e.g. `silu`.
    pub hidden_act: String,
    /// Beginning-of-sequence ids; usually one.
    pub bos_token_ids: Vec<u32>,
    /// End-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
    /// The dtype the weights are said to be stored in.
    pub dtype: Option<DType>,
    /// The dtype of activations where nothing else is asked for; `None` = that of the weights.
    pub activations: Option<DType>,
    /// How weights are quantised, where the checkpoint says so.
    pub quantisation: Option<Quantisation>,
}

impl ModelConfig {
    /// Reads `config.json` in a checkpoint directory.
    ///
    /// # Errors
    /// A missing or malformed file; [`EngineError::Config`] naming the first key that cannot be used.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<ModelConfig> {
        let dir = dir.as_ref();
        let path = dir.join(CONFIG_FILE);
        let missing =
            |mend| EngineError::MissingFile { dir: dir.to_path_buf(), expected: vec![CONFIG_FILE.to_string()], mend };
        if !std::fs::metadata(dir).map_err(|e| EngineError::io("open", dir, e))?.is_dir() {
            return Err(missing(
                "it is a file; give the directory of a checkpoint in Hugging Face layout, or a .gguf file",
            ));
        }
        // A path that can not be looked at, for rights or a link in a circle, is not a missing one.
        let found = match std::fs::metadata(&path) {
            Ok(meta) => meta.is_file(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(EngineError::io("open", &path, e)),
        };
        if !found {
            return Err(missing("give the directory of a checkpoint in Hugging Face layout"));
        }
        let mut config = ModelConfig::from_object(&json::read_object(&path)?)?;
        if config.quantisation.is_none() {
            config.quantisation = Quantisation::beside_config(dir)?;
        }
        Ok(config)
    }

    /// Reads a `config.json`, or the one in a checkpoint directory.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<ModelConfig> {
        let path = path.as_ref();
        match path.is_file() {
            true => ModelConfig::from_object(&json::read_object(path)?),
            false => ModelConfig::from_dir(path),
        }
    }

    /// Parses the text of a `config.json`; `path` is for error texts only.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn from_json(path: impl AsRef<Path>, text: &[u8]) -> Result<ModelConfig> {
        ModelConfig::from_object(&Object::parse(path.as_ref(), text)?)
    }

    fn from_object(object: &Object) -> Result<ModelConfig> {
        let architectures = object.texts("architectures")?.unwrap_or_default();
        let model_type = model_type(object, &architectures)?;
        let hidden_size = object.required_size("hidden_size", 1, MAX_WIDTH)?;
        let num_layers = object.required_size("num_hidden_layers", 1, MAX_LAYERS)?;
        let num_heads = object.required_size("num_attention_heads", 1, MAX_HEADS)?;
        let num_kv_heads = kv_heads(object, num_heads)?;
        let head_dim = head_dim(object, &model_type, hidden_size, num_heads)?;
        let max_position_embeddings = max_positions(object, &model_type)?;
        let rope = RopeConfig::from_config(object, head_dim, max_position_embeddings)?;
        let sliding_window = sliding_window(object, &model_type)?;
        let layer_kinds = layer_kinds(object, &model_type, num_layers, sliding_window)?;
        Ok(ModelConfig {
            architectures,
            model_type,
            hidden_size,
            intermediate_size: object.required_size("intermediate_size", 1, MAX_WIDTH)?,
            num_layers,
            activations: None,
            quantisation: Quantisation::from_config(object)?,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size: object.required_size("vocab_size", 1, MAX_VOCAB)?,
            rms_norm_eps: object
                .number("rms_norm_eps", "a number from 0 to 1", |eps| (0.0..=1.0).contains(&eps))?
                .unwrap_or(1e-6),
            rope,
            rope_style: match object.boolean("rope_interleave")? {
                Some(true) => RopeStyle::Interleaved,
                _ => RopeStyle::HalfSplit,
            },
            max_position_embeddings,
            attention_bias: object.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: object.boolean("mlp_bias")?.unwrap_or(false),
            tie_word_embeddings: object.boolean("tie_word_embeddings")?.unwrap_or(false),
            sliding_window,
            layer_kinds,
            hidden_act: object.text("hidden_act")?.unwrap_or("silu").to_string(),
            bos_token_ids: object.token_ids("bos_token_id")?,
            eos_token_ids: object.token_ids("eos_token_id")?,
            dtype: dtype(object)?,
        })
    }

    /// Refuses a model whose `model_type` is not among the known families.
    ///
    /// # Errors
    /// [`EngineError::UnknownArchitecture`] listing the families.
    pub fn require_family<'a>(&self, path: impl AsRef<Path>, known: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let known: Vec<String> = known.into_iter().map(str::to_string).collect();
        if known.contains(&self.model_type) {
            return Ok(());
        }
        let found = match self.architectures.first() {
            Some(architecture) => format!("{} ({architecture})", self.model_type),
            None => self.model_type.clone(),
        };
        Err(EngineError::UnknownArchitecture { path: path.as_ref().to_path_buf(), found, known })
    }

    /// The sliding window of a layer, `None` where it sees everything. Layers past the last are as the last.
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.layer_kinds.get(layer).or(self.layer_kinds.last()) {
            Some(LayerKind::Sliding) => self.sliding_window,
            _ => None,
        }
    }

    /// Query heads that share one key/value head.
    pub fn group_size(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

fn model_type(object: &Object, architectures: &[String]) -> Result<String> {
    if let Some(text) = object.text("model_type")? {
        return Ok(text.to_string());
    }
    match architectures.first() {
        Some(name) => Ok(name.trim_end_matches("ForCausalLM").to_lowercase()),
        None => Err(object.refuse("model_type", "the name of an architecture")),
    }
}

fn kv_heads(object: &Object, num_heads: usize) -> Result<usize> {
    let kv_heads = object.size("num_key_value_heads", 1, MAX_HEADS)?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({num_heads})");
        return Err(object.refuse("num_key_value_heads", expected));
    }
    Ok(kv_heads)
}

fn head_dim(object: &Object, model_type: &str, hidden: usize, heads: usize) -> Result<usize> {
    let given = object.size("head_dim", 1, MAX_WIDTH)?;
    let default = || match model_type {
        "qwen3" => Some(128),
        _ => hidden.is_multiple_of(heads).then_some(hidden / heads),
    };
    let Some(head_dim) = given.or_else(default) else {
        let expected = format!("a divisor of hidden_size ({hidden}), or head_dim be given");
        return Err(object.refuse("num_attention_heads", expected));
    };
    if !head_dim.is_multiple_of(2) {
        let key = if given.is_some() { "head_dim" } else { "num_attention_heads" };
        let expected = format!("such that a head's width is even (it is {head_dim})");
        return Err(object.refuse(key, expected));
    }
    Ok(head_dim)
}

fn max_positions(object: &Object, model_type: &str) -> Result<usize> {
    let given = object.size("max_position_embeddings", 1, MAX_POSITIONS)?;
    let default = match model_type {
        "llama" => Some(2048),
        "mistral" => Some(131_072),
        "qwen2" | "qwen3" => Some(32_768),
        _ => None,
    };
    given.or(default).ok_or_else(|| object.refuse("max_position_embeddings", "the longest sequence in tokens"))
}

/// The window in force, by the rule of each family: Llama has none, Mistral's is on unless null, Qwen's waits for its flag.
fn sliding_window(object: &Object, model_type: &str) -> Result<Option<usize>> {
    let window = object.size("sliding_window", 1, MAX_POSITIONS)?;
    let flag = object.boolean("use_sliding_window")?;
    let named = object.keys().any(|key| key == "sliding_window");
    Ok(match model_type {
        "llama" => None,
        "mistral" if !named => Some(4096),
        "mistral" => window,
        "qwen2" | "qwen3" if flag != Some(true) => None,
        "qwen2" | "qwen3" if !named => Some(4096),
        _ if flag == Some(false) => None,
        _ => window,
    })
}

fn layer_kinds(object: &Object, model_type: &str, layers: usize, window: Option<usize>) -> Result<Vec<LayerKind>> {
    let Some(_) = window else {
        return Ok(vec![LayerKind::Full; layers]);
    };
    let qwen = matches!(model_type, "qwen2" | "qwen3");
    if model_type == "mistral" {
        return Ok(vec![LayerKind::Sliding; layers]);
    }
    if let Some(names) = object.texts("layer_types")? {
        if names.len() != layers {
            let expected = format!("a list of num_hidden_layers ({layers}) entries");
            return Err(object.refuse("layer_types", expected));
        }
        return names
            .iter()
            .map(|name| match name.as_str() {
                "full_attention" => Ok(LayerKind::Full),
                "sliding_attention" => Ok(LayerKind::Sliding),
                _ => Err(object.refuse("layer_types", "a list of full_attention and sliding_attention")),
            })
            .collect();
    }
    let first_sliding = match object.size("max_window_layers", 0, MAX_LAYERS)? {
        Some(first) => first,
        None if qwen => 28,
        None => 0,
    };
    let kind = |layer| match layer >= first_sliding {
        true => LayerKind::Sliding,
        false => LayerKind::Full,
    };
    Ok((0..layers).map(kind).collect())
}

fn dtype(object: &Object) -> Result<Option<DType>> {
    let key = if object.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(text) = object.text(key)? else {
        return Ok(None);
    };
    match text.trim_start_matches("torch.") {
        "float64" => Ok(Some(DType::F64)),
        "float32" => Ok(Some(DType::F32)),
        "float16" => Ok(Some(DType::F16)),
        "bfloat16" => Ok(Some(DType::BF16)),
        "auto" => Ok(None),
        _ => Err(object.refuse(key, "float32, float16, bfloat16 or float64")),
    }
}

#[cfg(test)]
mod tests;
