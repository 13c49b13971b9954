//! One sequence on a device: its cache, its inputs, and the steps that make it longer.

use std::sync::Arc;

use qiao_core::{Binding, Device, Plan, Stream};
use qiao_layers::Home;

use crate::cache::{ContiguousCache, KvCache};
use crate::entry::Entry;
use crate::error::{EngineError, Result};
use crate::model::Step;
use crate::prepared::{Prepared, SessionBuffers};
use crate::rotary::Rotary;
use crate::runner::{LoadedModel, PREFILL_CHUNK};
use crate::sides::{Deadline, alloc_padded};

/// What a chunk of a prompt gave, for every one of its tokens.
pub struct ChunkOutput<'a> {
    /// Position of the first token.
    pub start: usize,
    /// Logits, row-major `[T, vocab]`.
    pub logits: &'a [f32],
    /// The residual stream after each layer, row-major `[T, hidden]`; empty unless asked for.
    pub hidden: &'a [Vec<f32>],
}

/// A plan with everything bound.
struct Bound {
    plan: Arc<Prepared>,
    bindings: Vec<Binding>,
    workspace: Binding,
}

enum RotaryOf {
    Model(Arc<Rotary>),
    /// With a stream of the host where they live there.
    Session(Rotary, Option<Box<dyn Stream>>),
}

impl RotaryOf {
    fn get(&self) -> &Rotary {
        match self {
            RotaryOf::Model(shared) => shared,
            RotaryOf::Session(own, _) => own,
        }
    }
}

/// Buffers that steps of any size share; each grows when a step needs more.
struct Scratch {
    input: Binding,
    logits: Binding,
    workspace: Binding,
    hidden: Vec<Binding>,
}

/// One sequence of a model. Sessions of one model run side by side; each has its own stream and cache.
///
/// No wait for the device lasts longer than [`LoadOptions::patience`](crate::runner::LoadOptions), nor beyond the deadline: a
/// device that hangs ends the call in [`qiao_core::Error::Timeout`].
pub struct Session {
    model: Arc<LoadedModel>,
    deadline: Deadline,
    stream: Box<dyn Stream>,
    cache: Box<dyn KvCache>,
    /// The tokens that the cache holds.
    tokens: Vec<u32>,
    rotary: RotaryOf,
    scratch: Scratch,
    /// The decode step, bound when first taken.
    decode: Option<Bound>,
    staging: Vec<u8>,
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
        let (spec, sides) = (model.spec(), model.sides());
        let shape = model.cache_shape(tokens);
        let homes = model.homes().caches.iter().map(|pair| pair.map(|home| &**sides.of(home) as &dyn Device));
        let cache = Box::new(ContiguousCache::spread(shape, homes, spec.kv_heads, spec.head_dim)?);
        let mut stream = sides.stream(Home::Device)?;
        let patience = deadline.left(sides.patience())?;
        stream.set_patience(patience);
        let rotary = match model.rope().depends_on_length() {
            true => {
                let home = model.homes().rotary;
                let mut own = if home == Home::Host { Some(sides.stream(home)?) } else { None };
                let with = own.as_mut().unwrap_or(&mut stream);
                let rotary = Rotary::new(&**sides.of(home), &mut **with, model.rope(), shape.capacity())?;
                RotaryOf::Session(rotary, own)
            }
            false => RotaryOf::Model(model.shared_rotary(shape.capacity(), patience)?),
        };
        let empty = alloc_padded(&**sides.device(), 0)?;
        let scratch = Scratch { input: empty.clone(), logits: empty.clone(), workspace: empty, hidden: Vec::new() };
        let (tokens, staging, logits) = Default::default();
        Ok(Session { model, deadline, stream, cache, tokens, rotary, scratch, decode: None, staging, logits })
    }

    /// The model.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    /// The tokens held.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens are held.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Tokens that can be held.
    pub fn capacity(&self) -> usize {
        self.cache.shape().capacity().min(self.model.context())
    }

    /// Forgets the tokens from this length on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.tokens.truncate(len);
    }

    /// Where keys and values are.
    pub(crate) fn cache(&self) -> &dyn KvCache {
        &*self.cache
    }

    /// Waits until everything that was asked of the device is done.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let patience = self.deadline.left(self.model.sides().patience())?;
        Ok(self.stream.sync(patience)?)
    }

    /// Holds these tokens from now on, whose keys and values are in the first slots of the cache.
    ///
    /// # Errors
    /// More tokens than the cache can hold.
    pub(crate) fn adopt(&mut self, tokens: Vec<u32>) -> Result<()> {
        self.truncate(0);
        self.cache.append(tokens.len())?;
        self.tokens = tokens;
        Ok(())
    }

    /// Runs a prompt, in chunks of [`PREFILL_CHUNK`] tokens; gives the logits of its last token, `[vocab]`. `None` when
    /// `cancelled` said so before a chunk; the chunks before it are held.
    ///
    /// # Errors
    /// No tokens, an id outside the vocabulary, more tokens than fit, all before anything runs; the device's own.
    pub fn prefill(&mut self, ids: &[u32], cancelled: &dyn Fn() -> bool) -> Result<Option<&[f32]>> {
        let total = self.check(ids)?;
        let chunks = ids.len().div_ceil(PREFILL_CHUNK);
        for (i, chunk) in ids.chunks(PREFILL_CHUNK).enumerate() {
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
                true => self.download_hidden(ids.len())?,
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
        let before = self.cache.len();
        self.cache.append(ids.len())?;
        let result = self.run_appended(ids, step, total);
        match result {
            Ok(()) => self.tokens.extend_from_slice(ids),
            Err(_) => self.cache.truncate(before),
        }
        result
    }

    /// Bounds the next waits for the device by what is left.
    fn hurry(&mut self) -> Result<()> {
        self.stream.set_patience(self.deadline.left(self.model.sides().patience())?);
        Ok(())
    }

    fn run_appended(&mut self, ids: &[u32], step: Step, total: usize) -> Result<()> {
        let len = self.cache.len();
        self.hurry()?;
        if let RotaryOf::Session(rotary, own) = &mut self.rotary {
            let positions = len - ids.len()..len;
            rotary.prepare(&mut **own.as_mut().unwrap_or(&mut self.stream), self.model.rope(), total, positions)?;
            if let Some(own) = own {
                // Plans read it by way of another stream of the host.
                own.sync(self.model.sides().patience())?;
            }
        }
        let decode = step == Step::of_one(1, 1);
        let bound = match self.decode.take().filter(|_| decode) {
            Some(bound) => bound,
            None => self.bind(step)?,
        };
        let entry = Entry { ids, start: len - ids.len(), table: self.cache.block_table(), rows: step.rows };
        bound.plan.write_inputs(&[entry], &mut self.staging);
        self.hurry()?;
        self.stream.upload(&self.scratch.input, &self.staging)?;
        bound.plan.plan().execute(&mut *self.stream, &bound.bindings, &bound.workspace)?;
        self.hurry()?;
        self.logits.resize(step.rows * self.model.spec().vocab, 0.0);
        if step.rows > 0 {
            self.stream.download(bytemuck::cast_slice_mut(&mut self.logits), &self.scratch.logits)?;
        }
        if decode {
            self.decode = Some(bound);
        }
        Ok(())
    }

    /// Finds the plan of a step and binds it. Buffers that grow here leave no older binding behind: the one that is kept, for
    /// decode steps, is taken out before.
    fn bind(&mut self, step: Step) -> Result<Bound> {
        let plan = self.model.prepared((step, self.cache.shape()))?;
        self.reserve(&plan, step.rows * self.model.spec().vocab * size_of::<f32>())?;
        let spec = self.model.spec();
        if step.keep_hidden {
            let bytes = step.tokens * spec.hidden * size_of::<f32>();
            let device = self.model.device();
            self.scratch.hidden = (0..spec.layers).map(|_| alloc_padded(&**device, bytes)).collect::<Result<_>>()?;
        }
        let rotary = self.rotary.get();
        let own = SessionBuffers {
            input: &self.scratch.input,
            layers: self.cache.layers(),
            cos: &rotary.cos,
            sin: &rotary.sin,
            logits: &self.scratch.logits,
            hidden: &self.scratch.hidden,
        };
        let bindings = self.model.bindings(&plan, &own)?;
        Ok(Bound { plan, bindings, workspace: self.scratch.workspace.clone() })
    }

    fn reserve(&mut self, plan: &Prepared, logits: usize) -> Result<()> {
        let device = self.model.device();
        let needs = [
            (&mut self.scratch.input, plan.input_bytes()),
            (&mut self.scratch.logits, logits),
            (&mut self.scratch.workspace, plan.workspace_bytes()),
        ];
        for (binding, bytes) in needs {
            if binding.bytes < bytes {
                *binding = alloc_padded(&**device, bytes)?;
            }
        }
        Ok(())
    }

    fn download_hidden(&mut self, tokens: usize) -> Result<Vec<Vec<f32>>> {
        let width = self.model.spec().hidden;
        let mut all = Vec::with_capacity(self.scratch.hidden.len());
        self.hurry()?;
        for binding in &self.scratch.hidden {
            let mut values = vec![0f32; tokens * width];
            self.stream.download(bytemuck::cast_slice_mut(&mut values), binding)?;
            all.push(values);
        }
        Ok(all)
    }
}
