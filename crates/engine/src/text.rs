//! A model that speaks: its tokenizer, chat template and end-of-text ids beside the model on its device.

use std::path::PathBuf;
use std::sync::Arc;

use crate::chat::{ChatRequest, ChatTemplate, Message};
use crate::checkpoint::Checkpoint;
use crate::config::CONFIG_FILE;
use crate::error::{EngineError, Result};
use crate::generation::{SamplingParams, eos_token_ids};
use crate::placing::Progress;
use crate::runner::{LoadOptions, LoadedModel};
use crate::stages::Placement;
use crate::tokenizer::{TOKENIZER_FILE, Tokenizer};

/// What a generation continues.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, encoded with the special tokens that the tokenizer puts around a text.
    Text(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
    /// A conversation, through the checkpoint's chat template.
    Chat(Vec<Message>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt::Text(text.to_string())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Prompt {
        Prompt::Text(text)
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Prompt {
        Prompt::Text(text.clone())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Prompt {
        Prompt::Tokens(ids)
    }
}

impl From<&[u32]> for Prompt {
    fn from(ids: &[u32]) -> Prompt {
        Prompt::Tokens(ids.to_vec())
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Prompt {
        Prompt::Chat(messages)
    }
}

/// A checkpoint on a device, ready to generate. Shared by any number of generations.
pub struct TextModel {
    path: PathBuf,
    model: Arc<LoadedModel>,
    tokenizer: Option<Arc<Tokenizer>>,
    chat: Option<ChatTemplate>,
    defaults: SamplingParams,
    eos_ids: Vec<u32>,
    /// Ids of the model's vocabulary that stand for no text.
    undecodable: Vec<u32>,
}

impl TextModel {
    /// Puts a checkpoint onto a device, or onto several.
    ///
    /// # Errors
    /// As [`LoadedModel::load`].
    pub fn load(
        placement: impl Into<Placement>,
        checkpoint: Checkpoint,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<TextModel> {
        let Checkpoint { path, config, generation, tokenizer, chat, weights } = checkpoint;
        let eos = tokenizer.as_ref().and_then(|t| t.eos_token_id());
        let eos_ids = eos_token_ids(&generation, &config.eos_token_ids, eos);
        let vocab = config.vocab_size;
        let model = LoadedModel::load(placement, &weights, config, &path.join(CONFIG_FILE), options, progress)?;
        Ok(TextModel {
            path,
            model: Arc::new(model),
            undecodable: tokenizer.as_ref().map_or(Vec::new(), |t| t.undecodable(vocab)),
            tokenizer,
            chat,
            defaults: generation.defaults(),
            eos_ids,
        })
    }

    /// The model on its device.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// The checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer.as_ref().ok_or_else(|| EngineError::MissingFile {
            dir: self.path.clone(),
            expected: vec![TOKENIZER_FILE.to_string()],
            mend: "download the tokenizer, or give token ids instead of text",
        })
    }

    /// Whether there is a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// Whether there is a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    /// The parameters of a request that says nothing: those of `generation_config.json`.
    pub fn defaults(&self) -> &SamplingParams {
        &self.defaults
    }

    /// The ids that end a text.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    pub(crate) fn undecodable(&self) -> &[u32] {
        &self.undecodable
    }

    /// The ids of a prompt.
    ///
    /// # Errors
    /// Text without a tokenizer, a conversation without a chat template; what either refuses.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids.clone()),
            Prompt::Text(text) => self.tokenizer()?.encode(text, true),
            Prompt::Chat(messages) => {
                let tokenizer = self.tokenizer()?;
                let template = self.chat.as_ref().ok_or_else(|| EngineError::ChatTemplate {
                    origin: self.path.display().to_string(),
                    found: "the checkpoint has none".to_string(),
                    mend: "give the prompt as text, or add chat_template.jinja to the checkpoint",
                })?;
                let request = ChatRequest { messages, add_generation_prompt: true, ..Default::default() };
                tokenizer.encode(&template.render(&request)?, false)
            }
        }
    }
}
