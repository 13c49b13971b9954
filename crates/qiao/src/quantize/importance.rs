//! Importances of input channels: the mean square of what comes in over each, on a text.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use qiao_core::DType;
use qiao_engine::calibrate::channel_squares;
use qiao_engine::weights::Weights;

use super::fault;
use super::output::{Pending, refused};
use super::safetensors::{Part, SafetensorsWriter};
use crate::{Canceller, Model, Result};

/// The mark of a file's kind, among its metadata.
const KIND: &str = "qiao importance";

/// How much each input channel of each weight matrix counts: the mean of `x²` over the tokens of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    channels: BTreeMap<String, Vec<f32>>,
    tokens: usize,
}

impl Importance {
    /// Runs a model over token ids, in chunks of `context` tokens that start anew, and gathers; `None` when it was ended.
    ///
    /// # Errors
    /// No tokens, ids outside the vocabulary, a chunk beyond the model's context; what the device says.
    pub fn gather(
        model: &Model,
        ids: &[u32],
        context: usize,
        canceller: &Canceller,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Importance>> {
        let cancelled = || canceller.is_cancelled();
        let Some(found) = channel_squares(model.loaded(), ids, context, &cancelled, progress)? else { return Ok(None) };
        let channels = found.into_iter().map(|(name, squares)| (name, squares.into_iter().map(|x| x as f32).collect()));
        Ok(Some(Importance { channels: channels.collect(), tokens: ids.len() }))
    }

    /// The importances of a weight's input channels.
    pub fn of(&self, weight: &str) -> Option<&[f32]> {
        self.channels.get(weight).map(Vec::as_slice)
    }

    /// Tokens that they were gathered from.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Reads a file that [`Importance::save`] wrote.
    ///
    /// # Errors
    /// A file that can't be read or is of another kind.
    pub fn open(path: impl AsRef<Path>) -> Result<Importance> {
        let path = path.as_ref();
        let file = Weights::open(path)?;
        let kind = file.metadata().get("kind").map(String::as_str);
        if kind != Some(KIND) {
            let found = format!("{} is of the kind {:?}", path.display(), kind.unwrap_or("without one"));
            return Err(fault(found, "give a file that 'qiao quantize --imatrix-out' wrote"));
        }
        let tokens = file.metadata().get("tokens").and_then(|tokens| tokens.parse().ok()).unwrap_or(0);
        let mut channels = BTreeMap::new();
        for name in file.names() {
            let values = file.tensor(name)?.to_f32()?;
            if values.iter().any(|x| !x.is_finite() || *x < 0.0) {
                let found = format!("{}: {name:?} has an importance that is no number of at least 0", path.display());
                return Err(fault(found, "gather them again"));
            }
            channels.insert(name.to_string(), values);
        }
        Ok(Importance { channels, tokens })
    }

    /// Writes a safetensors file with one f32 vector for each weight matrix, by its name.
    ///
    /// # Errors
    /// A place that is taken, unless forced, or can't be written.
    pub fn save(&self, path: impl AsRef<Path>, force: bool) -> Result<()> {
        let path = path.as_ref();
        let pending = Pending::new(path, false, force)?;
        let part = |(name, values): (&String, &Vec<f32>)| Part {
            name: name.clone(),
            dtype: DType::F32,
            shape: vec![values.len()],
        };
        let parts: Vec<Part> = self.channels.iter().map(part).collect();
        let (file, _) = pending.create("")?;
        self.write(file, &parts).map_err(|e| refused("write", path, &e))?;
        pending.finish()
    }

    fn write(&self, file: File, parts: &[Part]) -> std::io::Result<()> {
        let metadata = [("kind", KIND.to_string()), ("tokens", self.tokens.to_string())];
        let mut writer = SafetensorsWriter::begin(file, parts, &metadata)?;
        for (name, values) in &self.channels {
            writer.tensor(name, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importances_read_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.safetensors");
        let channels = BTreeMap::from([("a.weight".to_string(), vec![0.5, 2.0]), ("b.weight".into(), vec![1.0; 3])]);
        let importance = Importance { channels, tokens: 77 };
        importance.save(&path, false).unwrap();
        assert_eq!(Importance::open(&path).unwrap(), importance);
        assert!(importance.save(&path, false).unwrap_err().to_string().contains("already"));
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model.safetensors");
        assert!(Importance::open(demo).unwrap_err().to_string().contains("of the kind"));
    }
}
