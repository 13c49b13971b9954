//! A model on a device, and what it generates.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qiao_core::{DType, Device, Graph};
use qiao_engine::EngineError;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::compare::{self, Comparison, Golden, Limits};
use qiao_engine::config::ModelConfig;
use qiao_engine::detokenize::decode;
use qiao_engine::generate;
use qiao_engine::model::{CacheShape, Step};
use qiao_engine::prepacked::{PackedWeights, PrepackedFile};
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::serve::{CacheOptions, DraftModel, PagedExecutor, PromptLookup};
use qiao_engine::stages::Placement;
use qiao_engine::text::TextModel;
use qiao_layers::Account;

use crate::devices::{host_fallback, open_all};
use crate::{Canceller, FinishReason, HostWork, Params, Piece, Progress, Prompt, Result, Stats, demo};

/// How a model is loaded: onto which device or devices, in which dtype, for how long a context.
#[derive(Default)]
pub struct ModelOptions {
    device: Option<String>,
    opened: Vec<Arc<dyn Device>>,
    split: Option<Vec<usize>>,
    load: LoadOptions,
    /// A folder, none, or the user's.
    prepacked: Option<Option<PathBuf>>,
    fallback: bool,
    progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

impl ModelOptions {
    /// The CPU, the dtype of the weights, 4096 tokens or what the model allows.
    pub fn new() -> ModelOptions {
        ModelOptions::default()
    }

    /// A device of [`registry`](crate::registry) by name, such as `cpu` or `cpu:0`; or several with commas between, such as
    /// `cuda:0,cpu`, which share the layers as those of [`ModelOptions::on_devices`] do.
    pub fn device(mut self, name: impl Into<String>) -> ModelOptions {
        self.device = Some(name.into());
        self
    }

    /// A device that was opened elsewhere. It wins over a name.
    pub fn on(self, device: Arc<dyn Device>) -> ModelOptions {
        self.on_devices([device])
    }

    /// Devices that were opened elsewhere, of any backends: the first has the model's first layers and the embedding, the last its last
    /// layers and the head. They win over names. One device may stand there twice.
    ///
    /// What a model says is what it says on one device, where all are of a kind that says the same.
    pub fn on_devices(mut self, devices: impl IntoIterator<Item = Arc<dyn Device>>) -> ModelOptions {
        self.opened = devices.into_iter().collect();
        self
    }

    /// How many layers each device has, at least one; without this as many as each has memory free for.
    pub fn split(mut self, layers: impl IntoIterator<Item = usize>) -> ModelOptions {
        self.split = Some(layers.into_iter().collect());
        self
    }

    /// The dtype of activations: f32, bf16 or f16; `None` = that of the weights, or f32 or f16 where the device does not
    /// compute in that. Weights stay as they are stored, unless the device does not store their dtype: then they are converted
    /// while they are loaded, to f32 where it computes in that, else to f16 (see [`placed_dtype`](crate::placed_dtype)).
    pub fn dtype(mut self, dtype: impl Into<Option<DType>>) -> ModelOptions {
        self.load.dtype = dtype.into();
        self
    }

    /// Where operators run that the device refuses: nowhere, unless this is said. Then they run on the CPU, and
    /// [`Model::account`] says which, why, how many bytes they moved and how long they took.
    pub fn host_fallback(mut self) -> ModelOptions {
        self.fallback = true;
        self
    }

    /// The dtype of keys and values: `None` = that of activations. In i8, f8e4m3 and f8e5m2 each token and head has a scale.
    pub fn kv_dtype(mut self, dtype: impl Into<Option<DType>>) -> ModelOptions {
        self.load.kv_dtype = dtype.into();
        self
    }

    /// The longest wait for any command of the device, after which it ends in [`qiao_core::Error::Timeout`];
    /// [`PATIENCE`](crate::PATIENCE) unless this is said.
    pub fn patience(mut self, patience: Duration) -> ModelOptions {
        self.load.patience = Some(patience);
        self
    }

    /// The longest sequence in tokens, prompt and answer together.
    pub fn context(mut self, tokens: usize) -> ModelOptions {
        self.load.context = Some(tokens);
        self
    }

    /// The folder in which files of [`Model::prepack`] are looked for: a model whose weights are there as its device wants them is
    /// mapped, and nothing is packed. `None` = nowhere; without this in [`prepacked_folder`].
    pub fn prepacked(mut self, folder: impl Into<Option<PathBuf>>) -> ModelOptions {
        self.prepacked = Some(folder.into());
        self
    }

    /// Is told how far loading has come, once at the start and after every tensor.
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + Send + 'static) -> ModelOptions {
        self.progress = Some(Box::new(tell));
        self
    }

    /// Loads a checkpoint directory.
    ///
    /// # Errors
    /// A device that is not there; a split that fits neither devices nor layers; files that are missing, malformed or do not belong together; an unknown architecture; a
    /// context beyond the model's; operators that the device does not run.
    pub fn load(self, path: impl AsRef<Path>) -> Result<Model> {
        let checkpoint = Checkpoint::open(path)?;
        self.place(checkpoint)
    }

    /// Loads the embedded demo model.
    ///
    /// # Errors
    /// As [`ModelOptions::load`].
    pub fn demo(self) -> Result<Model> {
        let checkpoint = Checkpoint::embedded(&demo::files())?;
        self.place(checkpoint)
    }

    fn place(mut self, checkpoint: Checkpoint) -> Result<Model> {
        if self.fallback {
            self.load.policy = host_fallback()?;
        }
        self.load.prepacked = self.prepacked.unwrap_or_else(prepacked_folder);
        let devices = match self.opened.is_empty() {
            true => open_all(self.device.as_deref().unwrap_or("cpu"))?,
            false => self.opened,
        };
        let placement = Placement { devices, split: self.split };
        let mut tell = self.progress.unwrap_or_else(|| Box::new(|_| {}));
        let text = TextModel::load(placement, checkpoint, self.load, &mut *tell)?;
        Ok(Model { text: Arc::new(text) })
    }
}

/// Where prepacked weights are kept unless another folder is named: `prepacked` under `$QIAO_CACHE_DIR`, or under this user's folder
/// for what can be made again; nothing where there is neither.
pub fn prepacked_folder() -> Option<PathBuf> {
    qiao_images::folder("prepacked")
}

/// A model on a device. Cheap to clone; every clone is the same model, and any number of generations run from it at once, from
/// any threads.
#[derive(Clone)]
pub struct Model {
    text: Arc<TextModel>,
}

impl Model {
    /// Loads a checkpoint directory onto the CPU.
    ///
    /// # Errors
    /// As [`ModelOptions::load`].
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        ModelOptions::new().load(path)
    }

    /// Loads the embedded demo model onto the CPU: a small model of classical Chinese poetry.
    ///
    /// # Errors
    /// As [`ModelOptions::load`].
    pub fn demo() -> Result<Model> {
        ModelOptions::new().demo()
    }

    /// Starts a generation. Nothing runs before its first piece is asked for.
    ///
    /// # Errors
    /// A prompt that is empty, has ids outside the vocabulary or does not fit into the context; text without a tokenizer, a
    /// conversation without a chat template; parameters outside their range.
    pub fn generate(&self, prompt: impl Into<Prompt>, params: &Params) -> Result<Generation> {
        let params = params.resolve(self.text.defaults());
        let seed = params.seed;
        Ok(Generation { inner: generate::Generation::new(self.text.clone(), &prompt.into(), params)?, seed })
    }

    /// Starts a generation that goes on from a file of [`Generation::save`], whose tokens need not run again. Text and token ids
    /// come after those of the file, an empty text goes on where it ends; a conversation is given whole, and what the file begins
    /// with does not run. The model, its compute dtype and its cache's must be those that the file was written with; the device may
    /// be another.
    ///
    /// # Errors
    /// As [`Model::generate`]; a file that is no session's, was changed, or is of another model.
    pub fn resume(&self, session: impl AsRef<Path>, prompt: impl Into<Prompt>, params: &Params) -> Result<Generation> {
        let params = params.resolve(self.text.defaults());
        let seed = params.seed;
        let inner = generate::Generation::resume(self.text.clone(), session.as_ref(), &prompt.into(), params)?;
        Ok(Generation { inner, seed })
    }

    /// Writes the weights as the devices have them to files in a folder, [`prepacked_folder`] unless another is given: whoever loads
    /// this model onto such a device from then on maps them, and its first token comes sooner. They take about as much room as the
    /// model does, and are used for as long as its files stay as they are. Each file is there whole, or what was there before is there
    /// still. `None` where it was cancelled.
    ///
    /// # Errors
    /// The demo model; devices that pack nothing, or do not read files where they are mapped, as `cpu` does; no folder; a file that
    /// can't be written, as on a full disk.
    pub fn prepack(&self, folder: Option<&Path>, canceller: &Canceller) -> Result<Option<Vec<PrepackedFile>>> {
        let users = || {
            let mend = "name a folder, or set QIAO_CACHE_DIR";
            prepacked_folder().ok_or_else(|| qiao_core::Error::invalid("prepacked weights", "no folder for them", mend))
        };
        let folder = folder.map_or_else(users, |folder| Ok(folder.to_path_buf()))?;
        Ok(self.text.model().prepack(&folder, &|| canceller.is_cancelled())?)
    }

    /// Where the weights came from that the devices have in layouts of their own, and why a file of [`Model::prepack`] was not used.
    pub fn packed_weights(&self) -> PackedWeights {
        self.text.model().packed_weights()
    }

    /// The token ids of a prompt.
    ///
    /// # Errors
    /// As [`Model::generate`], except that any number of tokens is given.
    pub fn encode(&self, prompt: impl Into<Prompt>) -> Result<Vec<u32>> {
        Ok(self.text.encode(&prompt.into())?)
    }

    /// The text of token ids, without control tokens.
    ///
    /// # Errors
    /// The checkpoint has no tokenizer, or one that cannot be streamed.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(decode(&self.text.tokenizer()?.vocabulary()?, ids, true))
    }

    /// The token that the tokenizer puts before every text, where it puts one.
    pub(crate) fn leading_token(&self) -> Result<Option<u32>> {
        Ok(self.text.tokenizer()?.leading_token()?)
    }

    /// The device; the first, where the model is on several.
    pub fn device(&self) -> &Arc<dyn Device> {
        self.text.model().device()
    }

    /// The devices that have a part of the model, and how many layers each has.
    pub fn devices(&self) -> impl Iterator<Item = (&Arc<dyn Device>, usize)> {
        self.text.model().placed()
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        self.text.model().config()
    }

    /// The longest sequence in tokens.
    pub fn context(&self) -> usize {
        self.text.model().context()
    }

    /// The dtype of activations.
    pub fn compute_dtype(&self) -> DType {
        self.text.model().compute_dtype()
    }

    /// The dtype of keys and values.
    pub fn kv_dtype(&self) -> DType {
        self.text.model().kv_dtype()
    }

    /// Bytes of the weights on the devices, those that stay in their mapped file included.
    pub fn weight_bytes(&self) -> u64 {
        self.text.model().weight_bytes()
    }

    /// Bits that a weight of a projection takes where it lives, in the layout that the device prefers, with its share of scales
    /// and padding.
    pub fn bits_per_weight(&self) -> f64 {
        self.text.model().bits_per_weight()
    }

    /// How many weights are stored in which dtype, the most first; scales of others are not counted.
    pub fn stored_weights(&self) -> Vec<(DType, u64)> {
        self.text.model().stored_weights()
    }

    /// Whether text can be given and is given out; without a tokenizer a model takes and gives token ids.
    pub fn has_tokenizer(&self) -> bool {
        self.text.has_tokenizer()
    }

    /// Whether conversations can be given.
    pub fn has_chat_template(&self) -> bool {
        self.text.has_chat_template()
    }

    /// The model with its tokenizer.
    pub(crate) fn text(&self) -> &Arc<TextModel> {
        &self.text
    }

    /// The model on its device, without tokenizer.
    pub(crate) fn loaded(&self) -> &Arc<LoadedModel> {
        self.text.model()
    }

    /// The graph of a step, as it was before it was lowered onto the device.
    ///
    /// # Errors
    /// Sizes that no tensor can have.
    pub(crate) fn graph(&self, step: Step, cache: CacheShape) -> Result<Graph> {
        Ok(self.loaded().step_graph(step, cache)?.graph)
    }

    /// Bytes of the weights that live on the CPU, where operators fall back to it.
    pub fn host_weight_bytes(&self) -> u64 {
        self.text.model().host_weight_bytes()
    }

    /// What ran on the CPU because the device refuses it, so far and in all generations of this model.
    pub fn host_work(&self) -> HostWork {
        self.text.model().host_work()
    }

    /// What became of every operator of a decode step on the device; with how often those that fell back to the CPU ran so far,
    /// and for how long.
    ///
    /// # Errors
    /// The device's own.
    pub fn account(&self) -> Result<Account> {
        Ok(self.text.model().account()?)
    }
}

/// One generation: an iterator over pieces of text, with a cache of its own. Dropping it ends it.
pub struct Generation {
    inner: generate::Generation,
    seed: u64,
}

impl Generation {
    /// What ends this generation from another thread, at its next step.
    pub fn canceller(&self) -> Canceller {
        self.inner.canceller()
    }

    /// Token counts and times so far.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Why it ended; `None` while it goes on, or when it failed.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.inner.finish_reason()
    }

    /// The seed in force, which gives the same text again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Guesses at most so many tokens ahead wherever the text repeats itself, and runs them together with the one before. The text is
    /// that without guesses on a device that is batch-invariant, as the CPU is.
    ///
    /// # Errors
    /// A model whose rotary frequencies depend on the length of a sequence.
    pub fn prompt_lookup(self, most: usize) -> Result<Generation> {
        Ok(Generation { inner: self.inner.guess(Box::new(PromptLookup::default()), most)?, ..self })
    }

    /// As [`Generation::prompt_lookup`], with the guesses of a smaller model of the same vocabulary.
    ///
    /// # Errors
    /// As [`Generation::prompt_lookup`], of either model; another vocabulary; no room for the cache of the smaller model.
    pub fn draft_model(self, draft: &Model, most: usize) -> Result<Generation> {
        let options = CacheOptions { batch_sequences: 1, ..CacheOptions::default() };
        let pages = PagedExecutor::new(draft.loaded().clone(), options)?;
        let vocab = self.inner.text_model().model().spec().vocab;
        let draft = DraftModel::new(Box::new(pages), vocab)?;
        Ok(Generation { inner: self.inner.guess(Box::new(draft), most)?, ..self })
    }

    /// Writes what ran of the prompt and the text so far to a file, with keys and values, for [`Model::resume`]. The file is there
    /// whole, or what was there before.
    ///
    /// # Errors
    /// The file can't be written; the device's own.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        Ok(self.inner.save(path.as_ref())?)
    }

    /// Runs to the end and gives all text and tokens as one piece.
    ///
    /// # Errors
    /// The first that a step meets.
    pub fn collect_all(&mut self) -> Result<Piece> {
        let mut all = Piece::default();
        for piece in self {
            let piece = piece?;
            all.text.push_str(&piece.text);
            all.token_ids.extend(piece.token_ids);
        }
        Ok(all)
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        Some(self.inner.next()?.map_err(Into::into))
    }
}

/// Compares a model on its device with a golden file; within the limits of its compute dtype unless others are given.
///
/// # Errors
/// A golden file that is malformed or was not made for this model; a prompt beyond the context.
pub fn compare(model: &Model, golden: impl AsRef<Path>, limits: Option<Limits>) -> Result<Comparison> {
    Ok(compare::compare(model.text.model(), &Golden::open(golden)?, limits)?)
}

/// As [`compare()`], and writes the logits of every position of the prompt to a file: f32, little-endian, `[T, vocab]`. The file
/// is there whole, or not at all.
///
/// # Errors
/// As [`compare()`]; the file can't be written.
pub fn compare_writing(
    model: &Model,
    golden: impl AsRef<Path>,
    limits: Option<Limits>,
    logits: impl AsRef<Path>,
) -> Result<Comparison> {
    let (golden, path) = (Golden::open(golden)?, logits.as_ref());
    let partial = path.with_added_extension("part");
    let refuse = |e| EngineError::io("write", &partial, e);
    let written = || {
        let mut out = BufWriter::new(File::create(&partial).map_err(refuse)?);
        let mut write = |row: &[f32]| row.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())).map_err(refuse);
        let found = compare::compare_seeing(model.text.model(), &golden, limits, &mut write)?;
        out.into_inner().map_err(|e| refuse(e.into_error()))?.sync_all().map_err(refuse)?;
        std::fs::rename(&partial, path).map_err(|e| EngineError::io("write", path, e))?;
        Ok(found)
    };
    let found = written();
    if found.is_err() {
        // What is half there is of no use to anybody; that it can't be removed is no news beside the error.
        let _ = std::fs::remove_file(&partial);
    }
    found
}
