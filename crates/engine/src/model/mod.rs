//! Models are data: a family reads `config.json` into a [`DecoderSpec`], and the spec becomes a graph. Nothing here needs weights or
//! a device, so what a chip would have to run can be asked before anyone has either.
//!
//! To add a family, write one file with a [`Family`] and add its line to [`FAMILIES`].

use std::path::Path;

use qiao_core::{DType, Graph, KvInfo, KvLayout, TensorDesc};

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::form::WeightForm;

mod decoder;
mod llama;
mod mistral;
mod places;
mod qwen2;
mod qwen3;
mod spec;

pub use places::Place;
pub use spec::{DecoderSpec, Names};

/// The families that exist, one line each.
pub const FAMILIES: &[Family] = &[llama::FAMILY, mistral::FAMILY, qwen2::FAMILY, qwen3::FAMILY];

/// A model family: which configurations it claims, and how it reads them.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, which is also its `model_type`.
    pub name: &'static str,
    /// The entries of `architectures` that it claims.
    pub architectures: &'static [&'static str],
    /// Reads a configuration.
    pub spec: fn(&ModelConfig) -> Result<DecoderSpec>,
}

impl Family {
    /// The family of a configuration: by its first known `architectures` entry, else by `model_type`.
    ///
    /// # Errors
    /// [`EngineError::UnknownArchitecture`] with the names that are known; `path` stands in its text only.
    pub fn of(config: &ModelConfig, path: &Path) -> Result<&'static Family> {
        let by_architecture =
            FAMILIES.iter().find(|f| config.architectures.iter().any(|a| f.architectures.contains(&a.as_str())));
        let claims_none = config.architectures.is_empty();
        let by_type = FAMILIES.iter().find(|f| claims_none && f.name == config.model_type);
        by_architecture.or(by_type).ok_or_else(|| EngineError::UnknownArchitecture {
            path: path.to_path_buf(),
            found: config.architectures.first().unwrap_or(&config.model_type).clone(),
            known: FAMILIES.iter().flat_map(|f| f.architectures).map(|a| a.to_string()).collect(),
        })
    }
}

/// What one execution of a graph does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Sequences that have new tokens, over one pool of pages.
    pub sequences: usize,
    /// New tokens, of all sequences together. One per sequence is a decode step.
    pub tokens: usize,
    /// How many of them want logits: none, all in their order, or as many as `select` names.
    pub rows: usize,
    /// Whether the residual stream after each layer is written out; only where every token wants logits.
    pub keep_hidden: bool,
}

impl Step {
    /// New tokens of one sequence, of which the last `rows` want logits.
    pub const fn of_one(tokens: usize, rows: usize) -> Step {
        Step { sequences: 1, tokens, rows, keep_hidden: false }
    }
}

/// The pages that a graph reads and writes: what attention must know about the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheShape {
    /// How a page is laid out.
    pub layout: KvLayout,
    /// What keys and values are stored as.
    pub dtype: DType,
    /// Pages in the pool.
    pub blocks: usize,
    /// Tokens a page.
    pub block_size: usize,
    /// Pages that one sequence may have: columns of the block table.
    pub table: usize,
}

impl CacheShape {
    /// One page that holds a whole sequence of `capacity` tokens, in the layout that a device prefers, which is the first that it
    /// declares.
    ///
    /// Where that has a block size of its own, as many pages of it, in order, as the capacity needs.
    pub fn contiguous(declared: &[KvInfo], dtype: DType, capacity: usize) -> CacheShape {
        let any = KvInfo { layout: KvLayout::BlockHeadToken, block_size: 0 };
        let info = declared.first().unwrap_or(&any);
        let block_size = if info.block_size == 0 { capacity.max(1) } else { info.block_size };
        let table = capacity.max(1).div_ceil(block_size);
        CacheShape { layout: info.layout, dtype, blocks: table, block_size, table }
    }

    /// Whether keys and values are codes with a scale for each token and head.
    pub fn has_scales(&self) -> bool {
        !self.dtype.is_activation()
    }

    /// Tokens that one sequence can hold.
    pub fn capacity(&self) -> usize {
        self.table * self.block_size
    }

    /// Bytes of one layer: keys, values and scales.
    ///
    /// # Errors
    /// A shape that no tensor can have.
    pub fn layer_bytes(&self, kv_heads: usize, head_dim: usize) -> Result<u64> {
        let dims = self.dims(kv_heads, head_dim);
        let codes = TensorDesc::new(self.dtype, &dims)?.bytes()? as u64;
        let scales = TensorDesc::new(DType::F32, &dims[..3])?.bytes()? as u64;
        Ok(2 * (codes + if self.has_scales() { scales } else { 0 }))
    }

    /// The dims of one layer's keys or values.
    pub fn dims(&self, kv_heads: usize, head_dim: usize) -> [usize; 4] {
        match self.layout {
            KvLayout::BlockTokenHead => [self.blocks, self.block_size, kv_heads, head_dim],
            KvLayout::BlockHeadToken => [self.blocks, kv_heads, self.block_size, head_dim],
        }
    }
}

/// What a graph computes in, apart from what the spec says.
#[derive(Clone, Copy)]
pub struct Precision<'a> {
    /// The dtype of activations and of the residual stream: f32, bf16 or f16.
    pub compute: DType,
    /// The form of a weight, by name; weights are used as they are placed.
    pub weight: &'a dyn Fn(&str) -> WeightForm,
}

/// What a constant is used for. One stored tensor may be used in two ways, as a tied output head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Rows are looked up by id.
    Table,
    /// The right side of a matmul.
    Projection,
    /// A vector: a norm's weight or a bias.
    Vector,
}

/// A weight that a graph wants bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Its position among the graph's bound tensors.
    pub bound: usize,
    /// Its name in the checkpoint.
    pub name: String,
    /// What it is used for.
    pub usage: Use,
}

/// Positions, among the graph's bound tensors, of what changes from step to step: T tokens of S sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Token ids, i32 `[T]`. Only where the graph begins with the embedding.
    pub ids: Option<usize>,
    /// Positions in the sequence, i32 `[T]`.
    pub positions: usize,
    /// Cache slots that the tokens go to, i32 `[T]`.
    pub slots: usize,
    /// Where each sequence's queries begin, and T at the end, i32 `[S + 1]`. Only where T > S.
    pub cu_q: Option<usize>,
    /// Tokens of each sequence in the cache after this step, i32 `[S]`.
    pub kv_len: usize,
    /// Each sequence's pages, i32 `[S, table]`.
    pub block_table: usize,
    /// Tokens that want logits, i32 `[R]`. Only where 0 < R < T.
    pub select: Option<usize>,
    /// Rotary tables, f32 `[capacity, rotary_dim / 2]` each.
    pub cos: usize,
    /// See `cos`.
    pub sin: usize,
}

/// A model's graph for one kind of step, and where its bound tensors are.
#[derive(Clone, Debug)]
pub struct ModelGraph {
    /// The graph.
    pub graph: Graph,
    /// What changes from step to step.
    pub inputs: Inputs,
    /// Positions of the keys and values of each layer.
    pub caches: Vec<(usize, usize)>,
    /// Positions of the scales of each layer's keys and values, where they are quantised; else empty.
    pub scales: Vec<(usize, usize)>,
    /// The weights.
    pub constants: Vec<Constant>,
    /// Position of the logits, f32 `[R, vocab]`; `None` where no token wants them.
    pub logits: Option<usize>,
    /// Positions of the residual stream after each layer, f32 `[T, hidden]`, where it is kept.
    pub hidden: Vec<usize>,
    /// What comes from the layers before, where they are in another graph.
    pub enters: Option<Border>,
    /// What goes to the layers behind, where they are in another graph.
    pub leaves: Option<Border>,
}

/// Where a model is cut between two layers: positions of the residual stream and of its norm for the layer behind, `[T, hidden]` each in
/// the compute dtype. Both cross, so that the two graphs compute what one would, to the bit.
pub type Border = [usize; 2];

#[cfg(test)]
mod tests;
