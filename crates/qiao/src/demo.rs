//! The demo model: part of the program, so that something can be told with nothing downloaded.

use qiao_engine::checkpoint::EmbeddedFiles;

/// Bytes that start on a cache line, so that weights are used where they lie.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../demo/model.safetensors"));

/// The files that `tools/train_demo.py` writes.
pub(crate) fn files() -> EmbeddedFiles {
    EmbeddedFiles {
        name: "demo",
        config: include_bytes!("../demo/config.json"),
        generation_config: include_bytes!("../demo/generation_config.json"),
        tokenizer: include_bytes!("../demo/tokenizer.json"),
        tokenizer_config: include_bytes!("../demo/tokenizer_config.json"),
        weights: &WEIGHTS.0,
    }
}
