//! What can go wrong between a checkpoint directory and text: every error says what was asked, what was found, and how to mend it.

use std::path::{Path, PathBuf};

/// Result of every fallible call of this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An error of the engine. Each variant names the file, tensor, key or value that is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The operating system refused to open, read or map a file.
    #[error("cannot {action} {}: {source}: {}", path.display(), mend(source))]
    Io {
        /// What was attempted, e.g. `open`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A file that a checkpoint needs is not there.
    #[error("{} has none of {}: {mend}", dir.display(), expected.join(", "))]
    MissingFile {
        /// The directory that was searched.
        dir: PathBuf,
        /// The file names, any one of which would do.
        expected: Vec<String>,
        /// How to mend it.
        mend: &'static str,
    },

    /// A file is not the format that its name promises.
    #[error("{} is not a valid {format} file: {found}: {mend}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format that was expected, e.g. `safetensors`.
        format: &'static str,
        /// What was found instead.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// A GGUF file breaks its format, or lacks what is asked of it.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: qiao_gguf::GgufError,
    },

    /// One tensor's entry in a weights file is wrong.
    #[error("{}: tensor {tensor:?}: {found}: {mend}", path.display())]
    BadTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// A tensor was asked for that no file of the checkpoint holds.
    #[error("tensor {tensor:?} is not among the {count} tensors of {}{}: check that the checkpoint is complete and of the architecture its config.json names", path.display(), suggestion(nearest))]
    MissingTensor {
        /// The checkpoint directory or file.
        path: PathBuf,
        /// The name that was asked for.
        tensor: String,
        /// How many tensors the checkpoint has.
        count: usize,
        /// A name in the checkpoint that looks alike.
        nearest: Option<String>,
    },

    /// A shard that the index names is not there.
    #[error("{} assigns tensor {tensor:?} to {shard:?}, which is not in the directory: download the missing shard", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
        /// A tensor that the shard should hold.
        tensor: String,
    },

    /// A tensor has another shape than the model needs.
    #[error("{}: tensor {tensor:?} has shape {found:?}, the model needs {expected:?}: config.json and weights do not belong together", path.display())]
    WrongShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape the model needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },

    /// A key of a JSON configuration has a value that cannot be used.
    #[error("{}: key {key:?} must be {expected}, found {found}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key, dotted when nested, e.g. `rope_scaling.factor`.
        key: String,
        /// What would be accepted.
        expected: String,
        /// What was found, shortened.
        found: String,
    },

    /// The checkpoint's architecture has no family here.
    #[error("{}: architecture {found:?} is not known; known are {}: use a checkpoint of one of these, or add the family", path.display(), known.join(", "))]
    UnknownArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// What the file names.
        found: String,
        /// The families that exist.
        known: Vec<String>,
    },

    /// The tokenizer library refused the file or the text.
    #[error("tokenizer {}: {found}: {mend}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// A token id lies outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens (ids 0 to {}): check the ids, or the tokenizer they came from", vocab_size.saturating_sub(1))]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },

    /// A chat template is missing, does not compile, or failed while rendering.
    #[error("chat template {origin}: {found}: {mend}")]
    ChatTemplate {
        /// The file (and entry) the template comes from.
        origin: String,
        /// What was found.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// A generation parameter is outside its range.
    #[error("{name} must be {expected}, found {found}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// What would be accepted.
        expected: &'static str,
        /// What was given.
        found: String,
    },

    /// A row of logits leaves no token to choose.
    #[error("no token can be chosen: {found}: check the weights and the compute dtype for overflow")]
    Logits {
        /// What the row looks like.
        found: String,
    },

    /// A prompt without tokens.
    #[error("the prompt has no tokens: give it at least one (some tokenizers add none to an empty text)")]
    EmptyPrompt,

    /// More tokens than the context holds.
    #[error(
        "{tokens} tokens do not fit into a context of {context}: shorten the prompt, or load the model with a larger context"
    )]
    PromptTooLong {
        /// Tokens of the prompt, with those already in the context and room for an answer.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
    },

    /// A context beyond what the model was made for.
    #[error(
        "a context of {asked} tokens was asked for, the model's config.json allows 1 to {limit}: ask for at most {limit}"
    )]
    ContextTooLong {
        /// What was asked for.
        asked: usize,
        /// The longest sequence the model promises.
        limit: usize,
    },

    /// The server's thread has ended, or takes no more requests.
    #[error("the server has ended: {why}: start another one")]
    ServerEnded {
        /// What ended it.
        why: String,
    },

    /// A session's file and a model that do not belong together.
    #[error(
        "{} was saved by a model with {saved} {what}, this one has {here}: restore it with the checkpoint and the dtypes that it was saved with", path.display()
    )]
    OtherSession {
        /// The session's file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the file has.
        saved: String,
        /// What the model has.
        here: String,
    },

    /// A golden file and a model that do not belong together.
    #[error("{}: {found}: make the golden file for this checkpoint, see tools/golden.py", path.display())]
    Golden {
        /// The golden file.
        path: PathBuf,
        /// What does not fit.
        found: String,
    },

    /// A text, or a pair of models, that can't be evaluated.
    #[error("cannot evaluate: {found}: {mend}")]
    Evaluation {
        /// What stands in the way.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// No more requests may wait.
    #[error("{most} requests wait already, the most that may: try again when some are done")]
    QueueFull {
        /// Most requests that wait.
        most: usize,
    },

    /// A request that the cache could not hold if it were alone.
    #[error(
        "prompt and answer may take {tokens} tokens, which is {needed} blocks of the cache, and it has {blocks}: lower max_tokens, shorten the prompt, or give the cache more memory"
    )]
    CacheTooSmall {
        /// Tokens that one sequence of it may have in the cache.
        tokens: usize,
        /// Blocks for them.
        needed: usize,
        /// Blocks that there are.
        blocks: usize,
    },

    /// A model on several devices where only one will do.
    #[error("{who} works with one device, found {devices}: name one with --device")]
    SeveralDevices {
        /// What takes one device alone.
        who: &'static str,
        /// How many there are.
        devices: usize,
    },

    /// The device, or the contract with it.
    #[error(transparent)]
    Device(#[from] qiao_core::Error),
}

impl EngineError {
    /// An operating system error, with what was attempted on which path.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        EngineError::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// A file that breaks its format.
    pub(crate) fn malformed(path: &Path, format: &'static str, found: impl Into<String>, mend: &'static str) -> Self {
        EngineError::Malformed { path: path.to_path_buf(), format, found: found.into(), mend }
    }
}

/// What to do about an answer of the operating system.
fn mend(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => "free some space, or write to another disk",
        ReadOnlyFilesystem => "choose a place that can be written",
        _ => "check that the path exists and that you have the right to it",
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(" (nearest name: {name:?})"),
        None => String::new(),
    }
}

/// A value of unknown size shortened for an error text.
pub(crate) fn excerpt(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_string();
    }
    let head: String = text.chars().take(LIMIT).collect();
    format!("{head}…")
}
