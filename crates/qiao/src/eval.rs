//! How good a model is on a text, alone and beside a base model.

use qiao_engine::EngineError;
use qiao_engine::eval::{DEFAULT_CONTEXT, Evaluation, Plan, evaluate};

use crate::{Canceller, Model, Result};

/// What is read.
enum Source {
    Text(String),
    Ids(Vec<u32>),
}

/// A text that models are evaluated on: perplexity, and with [`Eval::against`] the divergence from a base model.
///
/// ```
/// let model = qiao::ModelOptions::new().context(16).demo()?;
/// let poems = "床前明月光，疑是地上霜。举头望明月，低头思故乡。".repeat(2);
/// let found = qiao::Eval::text(poems).context(16).run(&model)?.expect("nobody ended it");
/// assert!(found.model.perplexity.value > 1.0);
/// # Ok::<(), qiao::Error>(())
/// ```
pub struct Eval {
    source: Source,
    context: usize,
    chunks: Option<usize>,
    canceller: Canceller,
    progress: Box<dyn FnMut(usize, usize)>,
}

impl Eval {
    /// A text, in chunks of 512 tokens, all of them.
    pub fn text(text: impl Into<String>) -> Eval {
        Eval::of(Source::Text(text.into()))
    }

    /// Token ids, for models without a tokenizer.
    pub fn ids(ids: impl Into<Vec<u32>>) -> Eval {
        Eval::of(Source::Ids(ids.into()))
    }

    fn of(source: Source) -> Eval {
        let (context, chunks) = (DEFAULT_CONTEXT, None);
        Eval { source, context, chunks, canceller: Canceller::default(), progress: Box::new(|_, _| {}) }
    }

    /// Tokens of a chunk. The models need a context of as many.
    pub fn context(mut self, tokens: usize) -> Eval {
        self.context = tokens;
        self
    }

    /// The most chunks, from the start of the text; `None` = all.
    pub fn chunks(mut self, chunks: impl Into<Option<usize>>) -> Eval {
        self.chunks = chunks.into();
        self
    }

    /// What ends the evaluation from another thread; its figures are then those of the chunks done.
    pub fn canceller(mut self, canceller: &Canceller) -> Eval {
        self.canceller = canceller.clone();
        self
    }

    /// Is told how many of how many tokens have run.
    pub fn on_progress(mut self, tell: impl FnMut(usize, usize) + 'static) -> Eval {
        self.progress = Box::new(tell);
        self
    }

    /// Evaluates a model; `None` when it was ended before the first chunk was done.
    ///
    /// # Errors
    /// A text without a tokenizer, or shorter than a chunk; ids outside the vocabulary; a chunk beyond the model's context; logits
    /// that are not numbers; the device's own.
    pub fn run(self, model: &Model) -> Result<Option<Evaluation>> {
        self.evaluate(model, None)
    }

    /// Evaluates a model beside the base that it was made from.
    ///
    /// # Errors
    /// As [`Eval::run`], of either model; tokenizers that give other ids for the text; vocabularies of different sizes.
    pub fn against(self, model: &Model, base: &Model) -> Result<Option<Evaluation>> {
        self.evaluate(model, Some(base))
    }

    fn evaluate(mut self, model: &Model, base: Option<&Model>) -> Result<Option<Evaluation>> {
        let (ids, bos) = self.tokens(model, base)?;
        let plan = Plan { ids: &ids, bos, context: self.context, chunks: self.chunks };
        let cancelled = || self.canceller.is_cancelled();
        let base = base.map(Model::loaded);
        Ok(evaluate(model.loaded(), base, &plan, &cancelled, &mut *self.progress)?)
    }

    /// The ids of the text and the token that stands before every text, on which both models must agree where both have a
    /// tokenizer.
    fn tokens(&self, model: &Model, base: Option<&Model>) -> Result<(Vec<u32>, Option<u32>)> {
        let with_tokenizer = [Some(model), base].into_iter().flatten().filter(|model| model.has_tokenizer());
        let read = |by: &Model| -> Result<(Vec<u32>, Option<u32>)> {
            let bos = if by.has_tokenizer() { by.leading_token()? } else { None };
            match &self.source {
                Source::Text(text) => Ok((by.encode(text)?, bos)),
                Source::Ids(ids) => Ok((ids.clone(), bos)),
            }
        };
        let mut all = with_tokenizer.map(read);
        // Without any, the model's own error says what is missing.
        let first = all.next().unwrap_or_else(|| read(model))?;
        let Some(second) = all.next().transpose()? else { return Ok(first) };
        if first == second {
            return Ok(first);
        }
        let at = first.0.iter().zip(&second.0).position(|(a, b)| a != b).unwrap_or(first.0.len().min(second.0.len()));
        let found = match first.1 == second.1 {
            true => format!("the tokenizers of the two models part at token {at} of the text"),
            false => format!("before a text one model puts token {:?}, the other {:?}", first.1, second.1),
        };
        let mend = "give models with one tokenizer, or the text as token ids";
        Err(EngineError::Evaluation { found, mend }.into())
    }
}
