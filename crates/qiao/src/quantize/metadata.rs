//! `config.json` as metadata of a GGUF file.

use qiao_core::DType;
use qiao_engine::config::{LayerKind, ModelConfig};
use qiao_engine::model::Family;
use qiao_engine::rope::RopeScaling;
use qiao_gguf::{Array, GgufHeader, QUANTIZATION_VERSION, Value};

use super::format::{Encoding, Format};
use super::source::Source;
use super::{fault, vocabulary};
use crate::Result;

/// An architecture of GGUF: the family that it is, and whether its files hold q and k permuted.
struct Architecture {
    family: &'static str,
    name: &'static str,
    permutes: bool,
}

/// Those that are written, one line each.
const ARCHITECTURES: [Architecture; 4] = [
    Architecture { family: "llama", name: "llama", permutes: true },
    Architecture { family: "mistral", name: "llama", permutes: true },
    Architecture { family: "qwen2", name: "qwen2", permutes: false },
    Architecture { family: "qwen3", name: "qwen3", permutes: false },
];

/// The number by which llama.cpp knows what most of a file is; that of the smallest mixture, where it has several of a format.
pub(super) fn file_type(format: Format) -> u32 {
    let dtype = match format {
        Format::Q4KM => return 15,
        Format::One(Encoding::Float(dtype) | Encoding::Block(dtype)) => dtype,
        Format::One(_) => return 0,
    };
    match dtype {
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q8_0 => 7,
        DType::Q5_0 => 8,
        DType::Q5_1 => 9,
        DType::Q2K => 21,
        DType::Q3K => 11,
        DType::Q4K => 14,
        DType::Q5K => 16,
        DType::Q6K => 18,
        DType::Iq4Nl => 25,
        DType::Iq4Xs => 30,
        DType::BF16 => 32,
        DType::Mxfp4 => 38,
        _ => 0,
    }
}

/// The metadata of a checkpoint, and whether its q and k are permuted.
pub(super) fn header(source: &Source, format: Format, notes: &mut Vec<String>) -> Result<(GgufHeader, bool)> {
    let config = &source.checkpoint.config;
    let family = Family::of(config, &source.path)?.name;
    let architecture = ARCHITECTURES.iter().find(|a| a.family == family);
    let architecture = architecture.ok_or_else(|| {
        fault(format!("models of the family {family} have no architecture in GGUF here"), "write safetensors")
    })?;
    let rotary = config.rope.rotary_dim(config.head_dim);
    if architecture.permutes && rotary != config.head_dim {
        let found = format!("heads of {} of which {rotary} rotate, in a llama architecture", config.head_dim);
        return Err(fault(found, "write safetensors: GGUF knows whole heads there"));
    }
    let mut header = GgufHeader::new();
    header.set("general.architecture", architecture.name);
    let name = source.path.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    header.set("general.name", name.unwrap_or_else(|| "model".into()));
    header.set("general.type", "model");
    header.set("general.file_type", file_type(format));
    header.set("general.quantization_version", QUANTIZATION_VERSION);
    let mut set = |rest: &str, value: Value| header.set(&format!("{}.{rest}", architecture.name), value);
    let sizes = [
        ("block_count", config.num_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", rotary),
        ("vocab_size", config.vocab_size),
    ];
    for (rest, size) in sizes {
        set(rest, (size as u32).into());
    }
    set("attention.layer_norm_rms_epsilon", (config.rms_norm_eps as f32).into());
    set("rope.freq_base", (config.rope.theta as f32).into());
    window(config, &mut set, notes);
    scaling(config, &mut set)?;
    vocabulary::set(source, &mut header, notes)?;
    Ok((header, architecture.permutes))
}

/// The sliding window: of all layers, or of those that a pattern names.
fn window(config: &ModelConfig, set: &mut dyn FnMut(&str, Value), notes: &mut Vec<String>) {
    let slides: Vec<bool> = config.layer_kinds.iter().map(|kind| *kind == LayerKind::Sliding).collect();
    let Some(window) = config.sliding_window.filter(|_| slides.contains(&true)) else { return };
    set("attention.sliding_window", (window as u32).into());
    if slides.contains(&false) {
        set("attention.sliding_window_pattern", Array::Bool(slides).into());
    }
    notes.push(format!("llama.cpp reads this architecture without its sliding window of {window} tokens"));
}

/// How frequencies are stretched, as far as keys say it.
fn scaling(config: &ModelConfig, set: &mut dyn FnMut(&str, Value)) -> Result<()> {
    let original = "rope.scaling.original_context_length";
    match &config.rope.scaling {
        // Llama 3's are tensors: see `rope_factors`.
        RopeScaling::None | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", (*factor as f32).into());
        }
        RopeScaling::Yarn { factor, original: tokens, beta_fast, beta_slow, truncate, attention_factor } => {
            if !truncate {
                return Err(fault("yarn without truncation has no keys in GGUF", "write safetensors"));
            }
            set("rope.scaling.type", "yarn".into());
            set("rope.scaling.factor", (*factor as f32).into());
            set(original, (*tokens as u32).into());
            // Readers multiply this by yarn's own factor.
            let own = if *factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            if (attention_factor / own - 1.0).abs() > 1e-6 {
                set("rope.scaling.attn_factor", ((attention_factor / own) as f32).into());
            }
            for (key, beta, usual) in [("yarn_beta_fast", beta_fast, 32.0), ("yarn_beta_slow", beta_slow, 1.0)] {
                if *beta != usual {
                    set(&format!("rope.scaling.{key}"), (*beta as f32).into());
                }
            }
        }
        RopeScaling::LongRope { original: tokens, attention_factor, .. } => {
            set("rope.scaling.type", "longrope".into());
            set(original, (*tokens as u32).into());
            set("rope.scaling.attn_factor", (*attention_factor as f32).into());
        }
        RopeScaling::Dynamic { .. } => {
            return Err(fault("dynamic rope scaling has no keys in GGUF", "write safetensors"));
        }
    }
    Ok(())
}

/// Divisors of the rotary frequencies that stand in tensors.
pub(super) fn rope_factors(source: &Source) -> Result<Vec<(String, Vec<f32>)>> {
    if source.config_json()?.is_none() {
        // The tensors of a GGUF file are among its own.
        return Ok(Vec::new());
    }
    let config = &source.checkpoint.config;
    let wide = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    Ok(match &config.rope.scaling {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let d = config.rope.rotary_dim(config.head_dim);
            let divisor = |i: usize| {
                let wavelength = std::f64::consts::TAU * config.rope.theta.powf(2.0 * i as f64 / d as f64);
                let turns = *original as f64 / wavelength;
                let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            vec![("rope_freqs.weight".into(), wide(&(0..d / 2).map(divisor).collect::<Vec<_>>()))]
        }
        RopeScaling::LongRope { short, long, .. } => {
            vec![("rope_factors_long.weight".into(), wide(long)), ("rope_factors_short.weight".into(), wide(short))]
        }
        _ => Vec::new(),
    })
}
