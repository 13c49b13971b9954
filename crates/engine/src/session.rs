//! One sequence of a model: the steps that make it longer, on every device that has a part of the model.

use std::sync::Arc;

use crate::border::Crossing;
use crate::error::{EngineError, Result};
use crate::leg::{Given, Leg};
use crate::model::Step;
use crate::runner::LoadedModel;
use crate::sides::Deadline;

/// What a chunk of a prompt gave, for every one of its tokens.
pub struct ChunkOutput<'a> {
    /// Position of the first token.
    pub start: usize,
    /// Logits, row-major `[T, vocab]`.
    pub logits: &'a [f32],
    /// The residual stream after each layer, row-major `[T, hidden]`; empty unless asked for.
    pub hidden: &'a [Vec<f32>],
}

/// One sequence of a model. Sessions of one model run side by side; each has its own streams and caches.
///
/// No wait for the device lasts longer than [`LoadOptions::patience`](crate::runner::LoadOptions), nor beyond the deadline: a
/// device that hangs ends the call in [`qiao_core::Error::Timeout`].
pub struct Session {
    model: Arc<LoadedModel>,
    /// One for each stage of the model.
    legs: Vec<Leg>,
    /// The tokens that the caches hold.
    tokens: Vec<u32>,
    crossing: Crossing,
    logits: Vec<f32>,
}

impl Session {
    /// A sequence that can hold `tokens` tokens.
    ///
    /// # Errors
    /// More tokens than the model's context; the device has no room for the cache.
    pub fn new(model: Arc<LoadedModel>, tokens: usize) -> Result<Session> {
        Session::until(model, tokens, Deadline::default())
    }

    /// A sequence that can hold `tokens` tokens and whose steps end in an error when the deadline is over. One step at most may
    /// outlast it, where the device works all the time.
    ///
    /// # Errors
    /// As [`Session::new`]; the deadline is over.
    pub fn until(model: Arc<LoadedModel>, tokens: usize, deadline: Deadline) -> Result<Session> {
        if tokens > model.context() {
            return Err(EngineError::PromptTooLong { tokens, context: model.context() });
        }
        let legs = model.stages().into_iter().map(|stage| Leg::new(stage, tokens, deadline));
        let legs = legs.collect::<Result<Vec<_>>>()?;
        let (tokens, crossing, logits) = Default::default();
        Ok(Session { model, legs, tokens, crossing, logits })
    }

    /// The model.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    /// When its steps must be done.
    pub(crate) fn deadline(&self) -> Deadline {
        self.legs.first().map_or(Deadline::default(), Leg::deadline)
    }

    /// The tokens held.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens are held.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens that can be held.
    pub fn capacity(&self) -> usize {
        let room = self.legs.iter().map(|leg| leg.cache().shape().capacity()).min();
        room.unwrap_or(0).min(self.model.context())
    }

    /// Forgets the tokens from this length on.
    pub fn truncate(&mut self, len: usize) {
        self.legs.iter_mut().for_each(|leg| leg.cache_mut().truncate(len));
        self.tokens.truncate(len);
    }

    /// Where keys and values are, stage by stage.
    pub(crate) fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// Waits until everything that was asked of the devices is done.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.legs.iter_mut().try_for_each(Leg::settle)
    }

    /// Holds these tokens from now on, whose keys and values are in the first slots of the caches.
    ///
    /// # Errors
    /// More tokens than the caches can hold.
    pub(crate) fn adopt(&mut self, tokens: Vec<u32>) -> Result<()> {
        self.truncate(0);
        self.legs.iter_mut().try_for_each(|leg| leg.cache_mut().append(tokens.len()))?;
        self.tokens = tokens;
        Ok(())
    }

    /// Runs a prompt, in chunks of [`LoadedModel::prompt_chunk`] tokens; gives the logits of its last token, `[vocab]`. `None` when
    /// `cancelled` said so before a chunk; the chunks before it are held.
    ///
    /// # Errors
    /// No tokens, an id outside the vocabulary, more tokens than fit, all before anything runs; the device's own.
    pub fn prefill(&mut self, ids: &[u32], cancelled: &dyn Fn() -> bool) -> Result<Option<&[f32]>> {
        let total = self.check(ids)?;
        let most = self.model.prompt_chunk();
        let chunks = ids.len().div_ceil(most);
        for (i, chunk) in ids.chunks(most).enumerate() {
            if cancelled() {
                return Ok(None);
            }
            let rows = usize::from(i + 1 == chunks);
            self.run(chunk, Step::of_one(chunk.len(), rows), total)?;
        }
        Ok(Some(&self.logits))
    }

    /// Appends one token; gives its logits, `[vocab]`.
    ///
    /// # Errors
    /// An id outside the vocabulary; a full context; the device's own.
    pub fn step(&mut self, id: u32) -> Result<&[f32]> {
        let total = self.check(&[id])?;
        self.run(&[id], Step::of_one(1, 1), total)?;
        Ok(&self.logits)
    }

    /// Runs a prompt in chunks of at most `chunk` tokens and gives the logits of every token, chunk by chunk; with
    /// `keep_hidden` the residual stream after each layer as well.
    ///
    /// # Errors
    /// As [`Session::prefill`]; whatever `sink` answers.
    pub fn prefill_all(
        &mut self,
        ids: &[u32],
        chunk: usize,
        keep_hidden: bool,
        sink: &mut dyn FnMut(ChunkOutput<'_>) -> Result<()>,
    ) -> Result<()> {
        let total = self.check(ids)?;
        for ids in ids.chunks(chunk.max(1)) {
            let start = self.len();
            self.run(ids, Step { keep_hidden, ..Step::of_one(ids.len(), ids.len()) }, total)?;
            let hidden = match keep_hidden {
                true => {
                    let each = self.legs.iter_mut().map(|leg| leg.download_hidden(ids.len()));
                    each.collect::<Result<Vec<_>>>()?.concat()
                }
                false => Vec::new(),
            };
            sink(ChunkOutput { start, logits: &self.logits, hidden: &hidden })?;
        }
        Ok(())
    }

    /// The logits of the last step that wanted any, `[rows, vocab]`.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Appends a piece of a sequence that will have `total` tokens; gives the logits of its last `rows` tokens, row-major
    /// `[rows, vocab]`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub(crate) fn append(&mut self, ids: &[u32], rows: usize, total: usize) -> Result<&[f32]> {
        self.check(ids)?;
        self.run(ids, Step::of_one(ids.len(), rows), total)?;
        Ok(&self.logits)
    }

    /// Checks tokens that are to be appended; gives the length of the sequence with them.
    pub(crate) fn check(&self, ids: &[u32]) -> Result<usize> {
        let vocab_size = self.model.spec().vocab;
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { id, vocab_size });
        }
        let (tokens, context) = (self.len() + ids.len(), self.capacity());
        if tokens > context {
            return Err(EngineError::PromptTooLong { tokens, context });
        }
        Ok(tokens)
    }

    /// Appends tokens and leaves the logits that were wanted in `self.logits`. `total` is the length that the rotary
    /// frequencies are for: that of the sequence once the whole prompt is in.
    fn run(&mut self, ids: &[u32], step: Step, total: usize) -> Result<()> {
        let before = self.len();
        let result = self.run_appended(ids, step, total);
        match result {
            Ok(()) => self.tokens.extend_from_slice(ids),
            Err(_) => self.legs.iter_mut().for_each(|leg| leg.cache_mut().truncate(before)),
        }
        result
    }

    fn run_appended(&mut self, ids: &[u32], step: Step, total: usize) -> Result<()> {
        self.legs.iter_mut().try_for_each(|leg| leg.cache_mut().append(ids.len()))?;
        for leg in &mut self.legs {
            leg.run(ids, step, total, Given { crossing: &mut self.crossing, logits: &mut self.logits })?;
        }
        Ok(())
    }
}
