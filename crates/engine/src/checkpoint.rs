//! A checkpoint as it lies in a directory, or inside a program: everything that a model needs, read and checked, on no device yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chat::ChatTemplate;
use crate::config::{CONFIG_FILE, ModelConfig};
use crate::error::Result;
use crate::generation::{GENERATION_CONFIG_FILE, GenerationConfig};
use crate::gguf;
use crate::model::Family;
use crate::quantisation::Quantisation;
use crate::tokenizer::{TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer, TokenizerConfig};
use crate::weights::{GgufParts, SINGLE_FILE, Weights};

/// A checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it is, for error texts.
    pub path: PathBuf,
    /// `config.json`.
    pub config: ModelConfig,
    /// `generation_config.json`, empty where there is none.
    pub generation: GenerationConfig,
    /// `tokenizer.json`; without it a model takes and gives token ids only.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The chat template, where there is one.
    pub chat: Option<ChatTemplate>,
    /// The tensors.
    pub weights: Weights,
}

/// The files of a checkpoint that is part of a program.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedFiles {
    /// What to call it in error texts.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `generation_config.json`.
    pub generation_config: &'static [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'static [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: &'static [u8],
    /// `model.safetensors`. Aligned to 8 bytes it is used where it lies, otherwise copied.
    pub weights: &'static [u8],
}

impl Checkpoint {
    /// Opens a checkpoint: a directory in Hugging Face layout, a GGUF file (any part of a split one), or a directory that
    /// holds one GGUF file and no `config.json`. Weights are mapped, not read.
    ///
    /// # Errors
    /// An architecture that is not known, before anything else is opened; files that are missing or malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        if let Some(file) = GgufParts::find(path)? {
            return Checkpoint::open_gguf(&file);
        }
        let config = ModelConfig::from_dir(path)?;
        Family::of(&config, &path.join(CONFIG_FILE))?;
        let tokenizer = match path.join(TOKENIZER_FILE).is_file() {
            true => Some(Arc::new(Tokenizer::from_dir(path)?)),
            false => None,
        };
        let chat = match &tokenizer {
            Some(tokenizer) => ChatTemplate::from_dir(path, tokenizer.config())?,
            None => None,
        };
        let mut weights = Weights::open(path)?;
        if let Some(quantisation) = &config.quantisation {
            weights.unpack_with(quantisation)?;
        }
        Ok(Checkpoint {
            path: path.to_path_buf(),
            generation: GenerationConfig::from_dir(path)?,
            weights,
            config,
            tokenizer,
            chat,
        })
    }

    fn open_gguf(path: &Path) -> Result<Checkpoint> {
        let parts = GgufParts::open(path)?;
        let config = gguf::model_config(&parts)?;
        Family::of(&config, path)?;
        let gguf::Text { tokenizer, chat, generation } = gguf::read_text(&parts)?;
        let weights = Weights::open_gguf(parts)?;
        let config = ModelConfig { quantisation: Some(Quantisation::stated(path, weights.dtypes())), ..config };
        Ok(Checkpoint { path: path.to_path_buf(), config, generation, tokenizer, chat, weights })
    }

    /// What a checkpoint, or a `config.json` alone, says about its model. Of a checkpoint neither weights nor tokenizer are
    /// read.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn config_of(path: impl AsRef<Path>) -> Result<ModelConfig> {
        let path = path.as_ref();
        match GgufParts::find(path)? {
            Some(file) => {
                let parts = GgufParts::open(&file)?;
                let config = gguf::model_config(&parts)?;
                let weights = Weights::open_gguf(parts)?;
                Ok(ModelConfig { quantisation: Some(Quantisation::stated(&file, weights.dtypes())), ..config })
            }
            None => ModelConfig::from_path(path),
        }
    }

    /// Opens a checkpoint that is part of the program.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn embedded(files: &EmbeddedFiles) -> Result<Checkpoint> {
        let path = PathBuf::from(files.name);
        let tokenizer_config = TokenizerConfig::from_json(path.join(TOKENIZER_CONFIG_FILE), files.tokenizer_config)?;
        let chat = ChatTemplate::from_config(path.join(TOKENIZER_CONFIG_FILE), &tokenizer_config)?;
        let tokenizer = Tokenizer::from_json(path.join(TOKENIZER_FILE), files.tokenizer, tokenizer_config)?;
        Ok(Checkpoint {
            config: ModelConfig::from_json(path.join(CONFIG_FILE), files.config)?,
            generation: GenerationConfig::from_json(path.join(GENERATION_CONFIG_FILE), files.generation_config)?,
            tokenizer: Some(Arc::new(tokenizer)),
            chat,
            weights: Weights::embedded(path.join(SINGLE_FILE), files.weights)?,
            path,
        })
    }
}
