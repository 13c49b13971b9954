//! GGUF files: read where they are mapped, written as a stream. Versions 2 and 3, little-endian, after the GGUF
//! specification of ggml (docs/gguf.md); all offsets and lengths are in bytes.
//!
//! - [`Gguf::parse`] takes the bytes of a whole file (usually a mapping), checks everything that its header says and
//!   keeps metadata and tensor descriptions; tensor data is not touched. Every count is checked against the bytes that
//!   are left before room is made for it, so a header costs no more memory than a small multiple of its own size.
//! - [`Metadata`] has getters that forgive what real files do: any integer type where an integer is due, a scalar or an
//!   array where a value may differ from layer to layer.
//! - A tensor of a type that has no [`DType`](qiao_core::DType) here spoils nothing until its bytes are asked for.
//! - [`SplitName`] and [`check_parts`] know the convention of files split into parts.
//! - [`GgufHeader`] collects metadata and tensor descriptions, [`GgufWriter`] then takes the tensors' bytes in order, in
//!   pieces of any size.
//!
//! Modules, from ground to roof: `error`, `types`, `cursor`, `value`, `metadata`, `reader`, `split`, `writer`.
#![forbid(unsafe_code)]

mod error;

mod types;

mod cursor;

mod value;

mod metadata;

mod reader;

mod split;

mod writer;

pub use error::{GgufError, Result};
pub use metadata::Metadata;
pub use reader::{Gguf, TensorInfo};
pub use split::{Split, SplitName, check_parts};
pub use types::{GgmlType, dtype_of, ggml_type};
pub use value::{Array, Strings, Value, ValueType};
pub use writer::{GgufHeader, GgufWriter};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
pub const VERSION: u32 = 3;
/// Alignment of tensor data where the file does not say otherwise.
pub const DEFAULT_ALIGNMENT: usize = 32;
/// The key of a file's own alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// The key of the version of the block formats, due in every file with quantised tensors.
pub const QUANTIZATION_VERSION_KEY: &str = "general.quantization_version";
/// The version of the block formats that [`qiao_core::DType`] describes.
pub const QUANTIZATION_VERSION: u32 = 2;
/// Most dimensions that a tensor may have.
pub const MAX_DIMS: usize = 4;
/// A tensor's name is shorter than this, in bytes, in what is written: ggml reads no longer ones.
pub const NAME_LIMIT: usize = 64;
