//! GGUF files as a checkpoint's tensors: mapped, and called by the names that models ask for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qiao_core::DType;
use qiao_gguf::{Gguf, Metadata, SplitName, check_parts, ggml_type};

use super::{MappedFile, StoredDType, TensorInfo, Weights, convert};
use crate::error::{EngineError, Result, excerpt};

const EXTENSION: &str = "gguf";
/// What makes a directory a checkpoint in Hugging Face layout.
const MODEL_CONFIG: &str = "config.json";

/// A GGUF file, or all parts of a split one: mapped, headers checked.
#[derive(Debug)]
pub struct GgufParts {
    path: PathBuf,
    parts: Vec<(MappedFile, Gguf)>,
}

impl GgufParts {
    /// The GGUF file that a path stands for: the path itself, or the only such file (or the first part of the only split
    /// one) of a directory without a `config.json`. `None` where it stands for something else.
    ///
    /// # Errors
    /// A directory that can not be read, or with several files to choose from.
    pub fn find(path: &Path) -> Result<Option<PathBuf>> {
        if path.is_file() {
            return Ok(is_gguf(path).then(|| path.to_path_buf()));
        }
        if !path.is_dir() || path.join(MODEL_CONFIG).exists() {
            return Ok(None);
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|e| EngineError::io("list", path, e))? {
            let file = entry.map_err(|e| EngineError::io("list", path, e))?.path();
            if file.is_file() && has_extension(&file) {
                found.push(file);
            }
        }
        found.sort();
        let prefix = |file: &PathBuf| SplitName::parse(&file_name(file)).map(|name| (name.prefix, name.count));
        let one_split = || prefix(&found[0]).is_some() && found.iter().all(|file| prefix(file) == prefix(&found[0]));
        match found.len() {
            0 => Ok(None),
            1 => Ok(found.pop()),
            _ if one_split() => Ok(found.into_iter().next()),
            _ => Err(EngineError::malformed(
                path,
                "checkpoint",
                format!("several GGUF files: {}", found.iter().map(|f| file_name(f)).collect::<Vec<_>>().join(", ")),
                "name the one that is meant",
            )),
        }
    }

    /// Maps a file, with its siblings where it is part of a split one, and checks the headers.
    ///
    /// # Errors
    /// Files that are missing or can not be mapped; headers that are damaged; parts that do not belong together.
    pub fn open(path: &Path) -> Result<GgufParts> {
        let bad = |path: &Path, source| EngineError::Gguf { path: path.to_path_buf(), source };
        let read = |path: &Path| {
            let file = MappedFile::open(path)?;
            let header = Gguf::parse(file.bytes()).map_err(|e| bad(path, e))?;
            Ok::<_, EngineError>((file, header))
        };
        let given = read(path)?;
        let split = given.1.split().map_err(|e| bad(path, e))?;
        if split.is_none_or(|split| split.count <= 1) {
            return Ok(GgufParts { path: path.to_path_buf(), parts: vec![given] });
        }
        let Some(name) = SplitName::parse(&file_name(path)) else {
            let found = "one part of a split file, under a name that does not say which";
            let mend = "give the parts their names again: NAME-00001-of-00002.gguf and so on";
            return Err(EngineError::malformed(path, "GGUF", found, mend));
        };
        let mut parts = Vec::new();
        for sibling in name.siblings() {
            let sibling = path.with_file_name(sibling);
            if !sibling.is_file() {
                return Err(EngineError::MissingFile {
                    dir: path.parent().unwrap_or(Path::new("")).to_path_buf(),
                    expected: vec![file_name(&sibling)],
                    mend: "put all parts of the split file into one folder",
                });
            }
            parts.push(read(&sibling)?);
        }
        let names: Vec<String> = parts.iter().map(|(file, _)| file_name(file.path())).collect();
        let headers = names.iter().map(String::as_str).zip(parts.iter().map(|(_, header)| header));
        check_parts(headers).map_err(|e| bad(path, e))?;
        Ok(GgufParts { path: parts[0].0.path().to_path_buf(), parts })
    }

    /// The file, or its first part.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys and values: those of the first part, where all of them stand.
    pub fn metadata(&self) -> &Metadata {
        self.parts[0].1.metadata()
    }

    /// What the files say about a tensor, by its GGUF name.
    pub fn tensor(&self, name: &str) -> Option<&qiao_gguf::TensorInfo> {
        self.parts.iter().find_map(|(_, header)| header.tensor(name))
    }

    /// A tensor of floats, by its GGUF name, as f32; `None` where the files have no such tensor.
    ///
    /// # Errors
    /// A tensor that holds something else.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some((file, header)) = self.parts.iter().find(|(_, header)| header.tensor(name).is_some()) else {
            return Ok(None);
        };
        let bad = |source| EngineError::Gguf { path: file.path().to_path_buf(), source };
        let (dtype, bytes) = header.data(file.bytes(), name).map_err(bad)?;
        let mut out = Vec::new();
        if !convert::floats(dtype, bytes, DType::F32, &mut out) {
            return Err(EngineError::BadTensor {
                path: file.path().to_path_buf(),
                tensor: excerpt(name),
                found: format!("{dtype}, where floats are due"),
                mend: "make the file again with a present converter",
            });
        }
        Ok(Some(out.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()))
    }
}

impl Weights {
    /// The tensors of GGUF files, under the names that checkpoints in Hugging Face layout give them; a tensor that has no
    /// such name keeps its own. Dtypes are as stored, block formats included.
    ///
    /// # Errors
    /// Two tensors that go by one name here.
    pub fn open_gguf(parts: GgufParts) -> Result<Weights> {
        let mut weights = Weights::empty(&parts.path);
        for (index, (file, header)) in parts.parts.into_iter().enumerate() {
            for tensor in header.tensors() {
                let (dtype, range) = match tensor.readable() {
                    Ok((dtype, range)) => (StoredDType::Native(dtype), range),
                    Err(_) => (foreign(tensor.type_id), tensor.range.clone().unwrap_or(0..0)),
                };
                let info = TensorInfo { dtype, shape: tensor.shape.clone(), file: index, range };
                if weights.tensors.insert(model_name(&tensor.name), info).is_some() {
                    return Err(EngineError::BadTensor {
                        path: file.path().to_path_buf(),
                        tensor: excerpt(&tensor.name),
                        found: format!("a second tensor that models call {}", model_name(&tensor.name)),
                        mend: "make the file again with a present converter",
                    });
                }
            }
            weights.files.push(Arc::new(file));
        }
        Ok(weights)
    }
}

fn foreign(type_id: u32) -> StoredDType {
    StoredDType::Foreign(match ggml_type(type_id) {
        Some(known) => format!("{} (ggml type {type_id})", known.name),
        None => format!("ggml type {type_id}"),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case(EXTENSION))
}

/// By the extension, else by the first bytes.
fn is_gguf(path: &Path) -> bool {
    let begins_so = || {
        let mut head = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
        read.is_ok() && head == qiao_gguf::MAGIC
    };
    has_extension(path) || begins_so()
}

/// Modules of the whole model: GGUF's name, the model's.
const GLOBAL: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of a layer: GGUF's name, the model's.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The name that a model asks for; a name that no table has stays as it is.
fn model_name(name: &str) -> String {
    let known = || {
        let (module, kind) = name.rsplit_once('.')?;
        let of = |table: &[(&str, &'static str)], module: &str| Some(table.iter().find(|(from, _)| *from == module)?.1);
        match module.strip_prefix("blk.") {
            None => Some(format!("{}.{kind}", of(&GLOBAL, module)?)),
            Some(rest) => {
                let (layer, module) = rest.split_once('.')?;
                Some(format!("model.layers.{layer}.{}.{kind}", of(&LAYER, module)?))
            }
        }
    };
    known().unwrap_or_else(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_model() {
        for (gguf, model) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight"),
            ("blk.12.attn_k.bias", "model.layers.12.self_attn.k_proj.bias"),
            ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.0.ssm_a", "blk.0.ssm_a"),
            ("blk.weight", "blk.weight"),
        ] {
            assert_eq!(model_name(gguf), model);
        }
    }
}
