//! Importances of input channels: the mean square of what comes in over each, on a text.
//!
//! llama.cpp's importance matrices are read too, where they are GGUF files: for each weight `<name>.in_sum2` holds the sums of squares and
//! `<name>.counts` the number of tokens.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use qiao_core::DType;
use qiao_engine::calibrate::channel_squares;
use qiao_engine::weights::{MappedFile, Weights};
use qiao_gguf::Gguf;

use super::fault;
use super::names::own_name;
use super::output::{Pending, refused};
use super::safetensors::{Part, SafetensorsWriter};
use crate::{Canceller, Model, Result};

/// The mark of a file's kind, among its metadata.
const KIND: &str = "qiao importance";

/// What llama.cpp calls the sums and the counts of a weight, behind its name.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

const MEND: &str = "give a file that 'qiao quantize --imatrix-out' or llama-imatrix wrote";

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

    /// Reads a file that [`Importance::save`] wrote, or an importance matrix of llama.cpp that is a GGUF file.
    ///
    /// # Errors
    /// A file that can't be read or is of another kind.
    pub fn open(path: impl AsRef<Path>) -> Result<Importance> {
        let path = path.as_ref();
        let mapped = MappedFile::open(path)?;
        if mapped.bytes().starts_with(b"GGUF") {
            return Importance::from_gguf(path, mapped.bytes());
        }
        if is_legacy(mapped.bytes()) {
            let found = format!("{} is an importance matrix of llama.cpp in its old form", path.display());
            return Err(fault(found, "make it a GGUF file: llama-imatrix --in-file OLD -o NEW.gguf"));
        }
        let file = Weights::open(path)?;
        let kind = file.metadata().get("kind").map(String::as_str);
        if kind != Some(KIND) {
            let found = format!("{} is of the kind {:?}", path.display(), kind.unwrap_or("without one"));
            return Err(fault(found, MEND));
        }
        let tokens = file.metadata().get("tokens").and_then(|tokens| tokens.parse().ok()).unwrap_or(0);
        let mut channels = BTreeMap::new();
        for name in file.names() {
            channels.insert(name.to_string(), checked(path, name, file.tensor(name)?.to_f32()?)?);
        }
        Ok(Importance { channels, tokens })
    }

    /// Reads an importance matrix of llama.cpp. Weights that no token reached, and those of modules that are not known here, are left
    /// out.
    fn from_gguf(path: &Path, bytes: &[u8]) -> Result<Importance> {
        let told = |e: qiao_gguf::GgufError| fault(format!("{}: {e}", path.display()), "check the file");
        let file = Gguf::parse(bytes).map_err(told)?;
        let numbers = |name: &str| -> Result<Vec<f32>> {
            match file.data(bytes, name).map_err(told)? {
                (DType::F32, data) => Ok(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
                (dtype, _) => {
                    let found = format!("{}: {name:?} holds {dtype}", path.display());
                    Err(fault(found, "sums and counts are f32: gather them again"))
                }
            }
        };
        let mut channels = BTreeMap::new();
        for tensor in file.tensors() {
            let Some(weight) = tensor.name.strip_suffix(SUMS) else { continue };
            let Some(name) = own_name(weight) else { continue };
            let (sums, counts) = (numbers(&tensor.name)?, numbers(&format!("{weight}{COUNTS}"))?);
            let &[count] = &counts[..] else {
                let found = format!("{}: {} counts for {weight:?}, which is one matrix", path.display(), counts.len());
                return Err(fault(found, "gather them again"));
            };
            if count != 0.0 {
                let means = sums.into_iter().map(|sum| sum / count).collect();
                channels.insert(name, checked(path, weight, means)?);
            }
        }
        if channels.is_empty() {
            let found = format!("{} holds no sums ({SUMS}) of weights that are known here", path.display());
            return Err(fault(found, MEND));
        }
        let key = |name: &str| file.metadata().uint(name).ok().flatten().and_then(|n| usize::try_from(n).ok());
        let [chunks, size] = ["imatrix.chunk_count", "imatrix.chunk_size"].map(|name| key(name).unwrap_or(0));
        Ok(Importance { channels, tokens: chunks.saturating_mul(size) })
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

/// Importances that are numbers of at least 0.
fn checked(path: &Path, name: &str, values: Vec<f32>) -> Result<Vec<f32>> {
    if values.iter().any(|x| !x.is_finite() || *x < 0.0) {
        let found = format!("{}: {name:?} has an importance that is no number of at least 0", path.display());
        return Err(fault(found, "gather them again"));
    }
    Ok(values)
}

/// Whether a file is llama.cpp's importance matrix from before it was GGUF: the number of weights, then for each the length of its
/// name and the name. A safetensors file has zeros there, the upper half of its header's length.
fn is_legacy(bytes: &[u8]) -> bool {
    let Some((&head, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    rest.get(..len).is_some_and(|name| len > 0 && name.ends_with(b".weight"))
}

#[cfg(test)]
mod tests {
    use qiao_gguf::GgufHeader;

    use super::*;

    /// Tensors in f32 as a GGUF file.
    fn gguf(path: &Path, tensors: &[(&str, &[f32])]) {
        let mut header = GgufHeader::new();
        header.set("general.type", "imatrix");
        header.set("imatrix.chunk_count", 3u32);
        header.set("imatrix.chunk_size", 512u32);
        for (name, values) in tensors {
            header.tensor(name, DType::F32, &[1, values.len()]).unwrap();
        }
        let mut writer = header.begin(File::create(path).unwrap()).unwrap();
        for (name, values) in tensors {
            writer.tensor(name, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn the_matrices_of_llama_cpp_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix.gguf");
        gguf(
            &path,
            &[
                ("blk.3.attn_q.weight.counts", &[4.0]),
                ("blk.3.attn_q.weight.in_sum2", &[2.0, 8.0]),
                ("output.weight.in_sum2", &[5.0; 3]),
                ("output.weight.counts", &[1.0]),
                ("blk.0.ffn_up.weight.in_sum2", &[0.0; 2]),
                ("blk.0.ffn_up.weight.counts", &[0.0]),
                ("blk.0.ffn_up_exps.weight.in_sum2", &[1.0; 4]),
                ("blk.0.ffn_up_exps.weight.counts", &[1.0, 1.0]),
            ],
        );
        let found = Importance::open(&path).unwrap();
        assert_eq!(found.of("model.layers.3.self_attn.q_proj.weight"), Some(&[0.5, 2.0][..]));
        assert_eq!(found.of("lm_head.weight"), Some(&[5.0; 3][..]));
        assert_eq!((found.channels.len(), found.tokens()), (2, 3 * 512));
    }

    #[test]
    fn what_is_no_matrix_of_llama_cpp_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix.gguf");
        let (sums, counts) = ("blk.3.attn_q.weight.in_sum2", "blk.3.attn_q.weight.counts");
        for (tensors, word) in [
            (vec![("output_norm.weight", &[1.0][..])], "in_sum2"),
            (vec![(sums, &[1.0])], counts),
            (vec![(sums, &[1.0]), (counts, &[1.0, 2.0])], "2 counts"),
            (vec![(sums, &[-1.0]), (counts, &[1.0])], "at least 0"),
            (vec![(sums, &[f32::NAN]), (counts, &[1.0])], "at least 0"),
        ] {
            gguf(&path, &tensors);
            let error = Importance::open(&path).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("imatrix.gguf"), "{error}");
        }
        let name = b"blk.0.attn_k.weight";
        let old = [&1u32.to_le_bytes()[..], &(name.len() as u32).to_le_bytes(), name, &[0; 16]].concat();
        std::fs::write(&path, old).unwrap();
        let error = Importance::open(&path).unwrap_err().to_string();
        assert!(error.contains("old form") && error.contains("llama-imatrix --in-file"), "{error}");
    }

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
