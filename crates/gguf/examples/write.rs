//! Writes a small file: keys of several types, tensors in floats and in blocks.
//!
//! `cargo run -p qiao-gguf --example write -- FILE`; `tools/gguf_fixtures.py --check FILE` has gguf-py read it.

#![forbid(unsafe_code)]

use std::fs::File;

use qiao_core::DType;
use qiao_gguf::{GgufHeader, Strings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("give the path of the file to write")?;
    let mut header = GgufHeader::new();
    header.set("general.architecture", "llama");
    header.set("general.alignment", 64u32);
    header.set("llama.block_count", 1u32);
    header.set("llama.rope.freq_base", 1e6f32);
    header.set("tokenizer.ggml.tokens", Strings::from_iter(["<s>", "桥", ""]));
    header.set("tokenizer.ggml.scores", vec![0.0f32, -1.0, -2.5]);
    let tensors = [("norm", DType::F32, vec![3]), ("q", DType::Q4K, vec![2, 512]), ("h", DType::BF16, vec![2, 3, 5])];
    for (name, dtype, shape) in &tensors {
        header.tensor(name, *dtype, shape)?;
    }
    let mut file = header.begin(File::create(path)?)?;
    for (name, dtype, shape) in &tensors {
        let bytes = dtype.bytes_for(shape.iter().product()).ok_or("a shape of whole blocks")?;
        file.tensor(name, &vec![1; bytes])?;
    }
    file.finish()?;
    Ok(())
}
