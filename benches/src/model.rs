//! A small model of Llama shape with random weights in one format, written to a folder that goes with it.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use qiao_core::{DType, Device};
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_gguf::GgufHeader;
use qiao_reference::data::{Rng, block_bytes};

use crate::node::numbers;

/// Ids of the vocabulary.
pub const VOCAB: usize = 8192;

const LAYERS: usize = 4;
const HIDDEN: usize = 512;
const INTER: usize = 1536;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD: usize = 64;

type Anything = Box<dyn std::error::Error>;

/// Name, shape and whether it is a matrix, of every tensor.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("token_embd.weight".into(), vec![VOCAB, HIDDEN]), ("output_norm.weight".into(), vec![HIDDEN])];
    for layer in 0..LAYERS {
        let parts: [(&str, &[usize]); 9] = [
            ("attn_norm", &[HIDDEN]),
            ("attn_q", &[HEADS * HEAD, HIDDEN]),
            ("attn_k", &[KV_HEADS * HEAD, HIDDEN]),
            ("attn_v", &[KV_HEADS * HEAD, HIDDEN]),
            ("attn_output", &[HIDDEN, HEADS * HEAD]),
            ("ffn_norm", &[HIDDEN]),
            ("ffn_gate", &[INTER, HIDDEN]),
            ("ffn_up", &[INTER, HIDDEN]),
            ("ffn_down", &[HIDDEN, INTER]),
        ];
        all.extend(parts.map(|(part, shape)| (format!("blk.{layer}.{part}.weight"), shape.to_vec())));
    }
    all
}

fn write(path: &Path, format: DType) -> Result<(), Anything> {
    let mut header = GgufHeader::new();
    header.set("general.architecture", "llama".to_string());
    for (key, value) in [
        ("context_length", 4096),
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", INTER),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", HEAD),
        ("vocab_size", VOCAB),
    ] {
        header.set(&format!("llama.{key}"), value as u32);
    }
    header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    header.set("llama.rope.freq_base", 10_000f32);
    let of = |shape: &[usize]| if shape.len() == 1 { DType::F32 } else { format };
    for (name, shape) in tensors() {
        header.tensor(&name, of(&shape), &shape)?;
    }
    let mut file = header.begin(BufWriter::new(File::create(path)?))?;
    let mut rng = Rng::new(1);
    for (name, shape) in tensors() {
        let dtype = of(&shape);
        let bytes = match dtype.is_block() {
            true => block_bytes(&mut rng, dtype, shape.iter().product::<usize>() / dtype.block_elems()),
            false => numbers(dtype, &shape).1,
        };
        file.tensor(&name, &bytes)?;
    }
    file.finish()?;
    Ok(())
}

/// The model with its matrices in this format, on a device.
///
/// # Errors
/// No room for its file; the device does not run it.
pub fn load(device: Arc<dyn Device>, format: DType) -> Result<Arc<LoadedModel>, Anything> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.gguf");
    write(&file, format)?;
    let Checkpoint { path, config, weights, .. } = Checkpoint::open(&file)?;
    Ok(Arc::new(LoadedModel::load(device, &weights, config, &path, LoadOptions::default(), &mut |_| {})?))
}
