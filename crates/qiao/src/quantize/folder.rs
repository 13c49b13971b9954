//! A folder in Hugging Face layout, quantised as compressed-tensors has it: what vLLM and its kin read.

use qiao_core::DType;
use qiao_quant::error::Comparison;
use serde_json::{Map, Value, json};

use super::encode::{Encoded, Matrix};
use super::format::{Encoding, FP8_BLOCK};
use super::output::{Pending, refused};
use super::safetensors::{Part, SafetensorsWriter};
use super::work::{Job, Work};
use crate::Result;

const WEIGHTS: &str = "model.safetensors";

/// Files that stand beside the weights and are taken over as they are.
const COMPANIONS: [&str; 13] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "LICENSE",
    "LICENSE.txt",
];

/// The tensors that a job becomes: codes, scales, zero points, shape, as its encoding has them.
fn parts(job: &Job<'_>) -> Vec<Part> {
    let name = &job.target;
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let part = |name: String, dtype, shape: Vec<usize>| Part { name, dtype, shape };
    let scale = format!("{module}.weight_scale");
    let shape = &job.tensor.shape;
    let codes = |dtype| part(name.clone(), dtype, shape.clone());
    match job.choice.encoding {
        Encoding::Keep => vec![codes(job.tensor.dtype)],
        Encoding::Float(dtype) | Encoding::Block(dtype) => vec![codes(dtype)],
        Encoding::Int8 => vec![codes(DType::I8), part(scale, DType::F32, vec![shape[0], 1])],
        Encoding::Fp8 => vec![codes(DType::F8E4M3), part(scale, DType::F32, vec![shape[0], 1])],
        Encoding::Fp8Block => {
            let blocks = shape.iter().map(|dim| dim.div_ceil(FP8_BLOCK)).collect();
            vec![codes(DType::F8E4M3), part(scale, DType::F32, blocks)]
        }
        Encoding::Packed { bits, group_size, symmetric } => {
            let (n, k, bits) = (shape[0], shape[1], bits as usize);
            let groups = k.checked_div(group_size).unwrap_or(1);
            let mut all = vec![
                part(format!("{module}.weight_packed"), DType::I32, vec![n, k * bits / 32]),
                part(scale, job.scales(), vec![n, groups]),
            ];
            if !symmetric {
                let zeros = vec![(n * bits).div_ceil(32), groups];
                all.push(part(format!("{module}.weight_zero_point"), DType::I32, zeros));
            }
            all.push(part(format!("{module}.weight_shape"), DType::I64, vec![2]));
            all
        }
    }
}

/// The bytes of [`parts`], in their order.
fn contents(job: &Job<'_>, encoded: Encoded) -> Vec<Vec<u8>> {
    let Encoded { mut codes, scales, zeros, .. } = encoded;
    let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    match job.choice.encoding {
        Encoding::Keep | Encoding::Float(_) | Encoding::Block(_) => vec![codes],
        Encoding::Int8 | Encoding::Fp8 | Encoding::Fp8Block => vec![codes, f32s(&scales)],
        Encoding::Packed { bits, symmetric, .. } => {
            let mut narrow = Vec::new();
            qiao_engine::weights::convert::floats(DType::F32, &f32s(&scales), job.scales(), &mut narrow);
            let shape: Vec<u8> = job.tensor.shape.iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect();
            if !symmetric {
                return vec![codes, narrow, pack_down(&zeros, job.tensor.shape[0], bits), shape];
            }
            // Stored are codes plus half their range, in words along K whose lowest bits are the first.
            let flip = if bits == 4 { 0x88 } else { 0x80 };
            codes.iter_mut().for_each(|byte| *byte ^= flip);
            vec![codes, narrow, shape]
        }
    }
}

/// Zero points `[n, groups]`, packed along n: words `[⌈n·bits/32⌉, groups]`, the first in the lowest bits.
fn pack_down(zeros: &[u8], n: usize, bits: u32) -> Vec<u8> {
    let groups = zeros.len() / n.max(1);
    let each = 32 / bits as usize;
    let mut words = vec![0u32; n.div_ceil(each) * groups];
    for (i, &zero) in zeros.iter().enumerate() {
        let (row, group) = (i / groups, i % groups);
        words[row / each * groups + group] |= u32::from(zero) << (bits as usize * (row % each));
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Writes the folder; `None` when cancelled.
pub(super) fn write(work: &mut Work<'_>, pending: Pending) -> Result<Option<Pending>> {
    let source = work.source;
    let jobs = std::mem::take(&mut work.jobs);
    let all: Vec<Part> = jobs.iter().flat_map(parts).collect();
    let (file, path) = pending.create(WEIGHTS)?;
    let told = |e: std::io::Error| refused("write", &path, &e);
    let mut writer = SafetensorsWriter::begin(file, &all, &[("format", "pt".into())]).map_err(told)?;
    for (at, job) in jobs.iter().enumerate() {
        let Some(factor) = work.factor(&jobs, at)? else { return Ok(None) };
        let bytes = source.bytes(&job.tensor.name)?;
        let matrix = Matrix { factor: factor.as_deref(), ..job.matrix(&bytes, work.importance(&job.tensor.name)) };
        let Some(encoded) = work.encode(&matrix, job)? else { return Ok(None) };
        let error: Comparison = encoded.error;
        let mut written = 0;
        for (part, bytes) in parts(job).iter().zip(contents(job, encoded)) {
            writer.tensor(&part.name, &bytes).map_err(told)?;
            written += bytes.len() as u64;
        }
        work.done(job, written, &error);
    }
    writer.finish().map_err(told)?;
    let config = config(work, &jobs)?;
    pending.small("config.json", format!("{config:#}\n").as_bytes())?;
    for name in COMPANIONS {
        let path = source.path.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|e| refused("read", &path, &e))?;
            pending.small(name, &bytes)?;
        }
    }
    Ok(Some(pending))
}

/// `config.json` with what it must say about the weights.
fn config(work: &Work<'_>, jobs: &[Job<'_>]) -> Result<Value> {
    let mut config = work.source.config_json()?.unwrap_or_default();
    if let super::Format::One(Encoding::Float(dtype)) = work.format {
        let name = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), name.into());
    }
    if let Some(quantisation) = quantisation(jobs) {
        config.insert("quantization_config".into(), quantisation);
    }
    Ok(Value::Object(config))
}

/// `quantization_config`; `None` where nothing is quantised.
fn quantisation(jobs: &[Job<'_>]) -> Option<Value> {
    let module = |job: &Job<'_>| job.target.strip_suffix(".weight").unwrap_or(&job.target).to_string();
    let (mut encodings, mut ignore) = (Vec::<Encoding>::new(), vec!["lm_head".to_string()]);
    for job in jobs.iter().filter(|job| matches!(job.tensor.role, super::source::Role::Projection { .. })) {
        match job.choice.encoding {
            Encoding::Keep | Encoding::Float(_) | Encoding::Block(_) => ignore.push(module(job)),
            encoding if !encodings.contains(&encoding) => encodings.push(encoding),
            _ => {}
        }
    }
    let mut groups = Map::new();
    for (i, &encoding) in encodings.iter().enumerate() {
        let mut group = scheme(encoding);
        let of_group = jobs.iter().filter(|job| job.choice.encoding == encoding).map(module);
        group["targets"] = if encodings.len() == 1 { json!(["Linear"]) } else { of_group.collect() };
        groups.insert(format!("group_{i}"), group);
    }
    let format = match encodings[..] {
        [] => return None,
        [one] => storage(one),
        _ => "mixed-precision",
    };
    Some(json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    }))
}

/// How compressed-tensors calls the way in which an encoding is stored.
fn storage(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Packed { .. } => "pack-quantized",
        Encoding::Int8 => "int-quantized",
        Encoding::Fp8 | Encoding::Fp8Block => "float-quantized",
        _ => "dense",
    }
}

/// A config group without its targets.
fn scheme(encoding: Encoding) -> Value {
    let args = |bits: u32, kind: &str, strategy: &str, dynamic: bool| {
        json!({ "num_bits": bits, "type": kind, "symmetric": true, "strategy": strategy, "dynamic": dynamic,
            "group_size": null, "block_structure": null, "actorder": null })
    };
    let (mut weights, input) = match encoding {
        Encoding::Packed { bits, group_size, symmetric } => {
            let mut weights = args(bits, "int", if group_size == 0 { "channel" } else { "group" }, false);
            weights["symmetric"] = symmetric.into();
            if group_size > 0 {
                weights["group_size"] = group_size.into();
            }
            (weights, Value::Null)
        }
        Encoding::Int8 => (args(8, "int", "channel", false), args(8, "int", "token", true)),
        Encoding::Fp8Block => {
            let mut input = args(8, "float", "group", true);
            input["group_size"] = FP8_BLOCK.into();
            (args(8, "float", "block", false), input)
        }
        _ => (args(8, "float", "channel", false), args(8, "float", "token", true)),
    };
    if encoding == Encoding::Fp8Block {
        weights["block_structure"] = json!([FP8_BLOCK, FP8_BLOCK]);
    }
    json!({ "targets": [], "weights": weights, "input_activations": input, "output_activations": null,
        "format": storage(encoding) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_are_packed_along_the_outputs() {
        // Ten outputs of two groups: two words a group.
        let zeros: Vec<u8> = (0..20).map(|i| if i % 2 == 0 { (i / 2) as u8 } else { 15 }).collect();
        let words = pack_down(&zeros, 10, 4);
        let expected = [0x7654_3210u32, 0xffff_ffff, 0x98, 0xff];
        assert_eq!(words, expected.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>());
        assert_eq!(pack_down(&[1, 2, 3, 4, 5], 5, 8), [1, 2, 3, 4, 5, 0, 0, 0]);
    }
}
