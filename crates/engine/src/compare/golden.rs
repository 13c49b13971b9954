//! A golden file, checked before anything runs.

use std::path::{Path, PathBuf};

use qiao_core::DType;

use crate::error::{EngineError, Result};
use crate::model::DecoderSpec;
use crate::weights::{TensorRef, Weights};

/// A golden file, open. Logits and layers stay in the mapped file and are read row by row.
#[derive(Debug)]
pub struct Golden {
    path: PathBuf,
    file: Weights,
    input_ids: Vec<u32>,
    greedy_ids: Option<Vec<u32>>,
    layers: Vec<usize>,
}

impl Golden {
    /// Opens a file and reads its ids.
    ///
    /// # Errors
    /// A file that is no safetensors file; missing tensors; ids that are not i64 or not tokens; logits and layers of other
    /// shapes or dtypes.
    pub fn open(path: impl AsRef<Path>) -> Result<Golden> {
        let path = path.as_ref().to_path_buf();
        if path.is_dir() {
            let found = "a directory, not a golden file".to_string();
            return Err(EngineError::Golden { path, found });
        }
        let file = Weights::open(&path)?;
        if let Some(name) = ["input_ids", "logits"].into_iter().find(|n| !file.contains(n)) {
            let found = format!("no tensor {name:?} among its {}", file.names().count());
            return Err(EngineError::Golden { path, found });
        }
        let input_ids = ids(&file.tensor("input_ids")?, &path)?;
        let greedy_name = ["greedy_ids_cached", "greedy_ids"].into_iter().find(|n| file.contains(n));
        let greedy_ids = greedy_name.map(|n| ids(&file.tensor(n)?, &path)).transpose()?;
        let layer = |n: &str| n.strip_prefix("layers.")?.strip_suffix(".output")?.parse().ok();
        let mut layers: Vec<usize> = file.names().filter_map(layer).collect();
        layers.sort_unstable();
        let golden = Golden { input_ids, greedy_ids, layers, file, path };
        golden.check_rows("logits", None)?;
        for &layer in &golden.layers {
            golden.check_rows(&layer_name(layer), None)?;
        }
        Ok(golden)
    }

    /// The prompt.
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// The greedy continuation, where the file has one.
    pub fn greedy_ids(&self) -> Option<&[u32]> {
        self.greedy_ids.as_deref()
    }

    /// The layers whose outputs the file has, ascending.
    pub fn layers(&self) -> impl Iterator<Item = usize> {
        self.layers.iter().copied()
    }

    /// Tokens of prompt and continuation together.
    pub fn tokens(&self) -> usize {
        self.input_ids.len() + self.greedy_ids().map_or(0, <[u32]>::len)
    }

    /// Refuses a model that the file was not made for.
    ///
    /// # Errors
    /// [`EngineError::Golden`] with what differs.
    pub fn check(&self, spec: &DecoderSpec) -> Result<()> {
        self.check_rows("logits", Some(("vocabulary", spec.vocab)))?;
        for &layer in &self.layers {
            if layer >= spec.layers {
                return Err(self.refuse(format!("{}, but the model has {} layers", layer_name(layer), spec.layers)));
            }
            self.check_rows(&layer_name(layer), Some(("hidden size", spec.hidden)))?;
        }
        let all = self.input_ids.iter().chain(self.greedy_ids.iter().flatten());
        match all.copied().find(|&id| id as usize >= spec.vocab) {
            Some(id) => Err(self.refuse(format!("token id {id} is outside the model's vocabulary of {}", spec.vocab))),
            None => Ok(()),
        }
    }

    /// The golden logits of a position.
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn logits_row(&self, position: usize) -> Result<Vec<f32>> {
        self.row("logits", position)
    }

    /// A layer's golden output at a position.
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn layer_row(&self, layer: usize, position: usize) -> Result<Vec<f32>> {
        self.row(&layer_name(layer), position)
    }

    fn row(&self, name: &str, position: usize) -> Result<Vec<f32>> {
        let tensor = self.file.tensor(name)?;
        let width = tensor.shape[1];
        let bytes = &tensor.bytes[position * width * 4..][..width * 4];
        let row: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        match row.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(self.refuse(format!("{name} holds {x} at position {position}"))),
            None => Ok(row),
        }
    }

    /// Checks a tensor of one row per position, and its width where that is known.
    fn check_rows(&self, name: &str, width: Option<(&str, usize)>) -> Result<()> {
        let tensor = self.file.tensor(name)?;
        let rows = self.input_ids.len();
        let fits = tensor.dtype == DType::F32 && tensor.shape.len() == 2 && tensor.shape[0] == rows;
        if !fits {
            let found = format!("{name} is {} {:?}, wanted f32 [{rows}, ..]", tensor.dtype, tensor.shape);
            return Err(self.refuse(found));
        }
        match width {
            Some((what, want)) if tensor.shape[1] != want => {
                Err(self.refuse(format!("{name} has {} columns, the model's {what} is {want}", tensor.shape[1])))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, found: String) -> EngineError {
        EngineError::Golden { path: self.path.clone(), found }
    }
}

fn layer_name(layer: usize) -> String {
    format!("layers.{layer}.output")
}

fn ids(tensor: &TensorRef<'_>, path: &Path) -> Result<Vec<u32>> {
    let refuse = |found: String| EngineError::Golden { path: path.to_path_buf(), found };
    if tensor.dtype != DType::I64 || tensor.shape.len() != 1 || tensor.shape[0] == 0 {
        let found = format!("{} is {} {:?}, wanted i64 [T] with T from 1", tensor.name, tensor.dtype, tensor.shape);
        return Err(refuse(found));
    }
    let values = tensor.bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b));
    let id = |v: i64| u32::try_from(v).map_err(|_| refuse(format!("{} holds {v}, which is no token id", tensor.name)));
    values.map(id).collect()
}
