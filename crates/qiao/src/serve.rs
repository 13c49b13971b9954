//! Many requests on one model at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use qiao_engine::serve::{
    self, CacheOptions, DraftModel, PagedExecutor, Policy, Preempt, PromptLookup, Scheduler, ServerOptions, Speech,
};
use qiao_engine::text::TextModel;

use crate::{Balance, Chunk, Error, Load, Model, Params, Prompt, Replica, Result};

/// Who guesses tokens ahead.
#[derive(Clone)]
enum Guesses {
    Nobody,
    Lookup,
    Draft(Model),
}

/// How a model is served: its cache, its batches, its queue. None of it changes a text on a batch-invariant device.
#[derive(Clone)]
pub struct ServeOptions {
    cache_bytes: Option<u64>,
    block_size: Option<usize>,
    batch_tokens: usize,
    sequences: Option<usize>,
    chunk: Option<usize>,
    queue: usize,
    replies: usize,
    swap_bytes: Option<u64>,
    sharing: bool,
    guesses: Guesses,
    draft: usize,
    balance: Balance,
    affinity: bool,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions::new()
    }
}

impl ServeOptions {
    /// Sequences that run side by side unless something else is said.
    const SEQUENCES: usize = 64;

    /// A cache as large as the device's memory suggests, 512 tokens and 64 sequences in a batch, 256 requests in the queue.
    pub fn new() -> ServeOptions {
        ServeOptions {
            cache_bytes: None,
            block_size: None,
            batch_tokens: 512,
            sequences: None,
            chunk: None,
            queue: 256,
            replies: 64,
            swap_bytes: None,
            sharing: true,
            guesses: Guesses::Nobody,
            draft: 0,
            balance: Balance::default(),
            affinity: true,
        }
    }

    /// Memory for keys and values of all sequences together.
    pub fn cache_bytes(mut self, bytes: u64) -> ServeOptions {
        self.cache_bytes = Some(bytes);
        self
    }

    /// Tokens of a block of the cache: what is shared is whole blocks. Unless this is said it is what the device prefers.
    pub fn block_size(mut self, tokens: usize) -> ServeOptions {
        self.block_size = Some(tokens);
        self
    }

    /// Most tokens of a batch, over all its sequences: more make prompts faster and the gaps between tokens longer.
    pub fn batch_tokens(mut self, tokens: usize) -> ServeOptions {
        self.batch_tokens = tokens;
        self
    }

    /// Most sequences that run side by side.
    pub fn sequences(mut self, sequences: usize) -> ServeOptions {
        self.sequences = Some(sequences);
        self
    }

    /// As [`ServeOptions::sequences`], where that has not been called.
    pub(crate) fn or_sequences(mut self, sequences: usize) -> ServeOptions {
        self.sequences = self.sequences.or(Some(sequences.max(Self::SEQUENCES)));
        self
    }

    /// Most tokens of one prompt in a batch, so that others are not kept waiting; as many as the batch has unless this is said.
    pub fn chunk(mut self, tokens: usize) -> ServeOptions {
        self.chunk = Some(tokens);
        self
    }

    /// Most requests that wait; the next is refused with [`QueueFull`](crate::EngineError::QueueFull).
    pub fn queue(mut self, requests: usize) -> ServeOptions {
        self.queue = requests;
        self
    }

    /// Makes room for so many waiting requests at least.
    pub(crate) fn at_least_queue(mut self, requests: usize) -> ServeOptions {
        self.queue = self.queue.max(requests);
        self
    }

    /// Chunks that a reply buffers before its request waits for the reader.
    pub fn replies(mut self, chunks: usize) -> ServeOptions {
        self.replies = chunks;
        self
    }

    /// A sequence that loses its place keeps its blocks in so many bytes of the host's memory, as far as they last. Without this it is
    /// computed again.
    pub fn swap(mut self, host_bytes: u64) -> ServeOptions {
        self.swap_bytes = Some(host_bytes);
        self
    }

    /// Whether requests of one tenant find each other's prompts in the cache, as they do unless this is said.
    pub fn sharing(mut self, sharing: bool) -> ServeOptions {
        self.sharing = sharing;
        self
    }

    /// Guesses at most so many tokens ahead wherever a text repeats itself, and runs them in one batch.
    pub fn prompt_lookup(mut self, most: usize) -> ServeOptions {
        (self.guesses, self.draft) = (Guesses::Lookup, most);
        self
    }

    /// Guesses at most so many tokens ahead with a smaller model of the same vocabulary, and runs them in one batch. Both models share
    /// the numbers by which tokens are chosen, so that the text is what it is without.
    pub fn draft_model(mut self, model: &Model, most: usize) -> ServeOptions {
        (self.guesses, self.draft) = (Guesses::Draft(model.clone()), most);
        self
    }

    /// How requests are given to several devices; to the least loaded unless this is said.
    pub fn balance(mut self, balance: Balance) -> ServeOptions {
        self.balance = balance;
        self
    }

    /// Whether a request goes to the device that had the beginning of its prompt before, unless that has much more to do, as it does unless
    /// this is said.
    pub fn affinity(mut self, affinity: bool) -> ServeOptions {
        self.affinity = affinity;
        self
    }

    /// Tokens and sequences of a batch, and whether prompts are shared.
    pub(crate) fn facts(&self) -> (usize, usize, bool) {
        (self.batch_tokens, self.sequences.unwrap_or(Self::SEQUENCES), self.sharing)
    }

    /// Starts the server over models, each with its speed, with this voice.
    ///
    /// # Errors
    /// No model; models of different checkpoints or dtypes; what the engine refuses.
    pub(crate) fn start(&self, models: &[(Model, f64)], speech: Speech) -> Result<serve::Server> {
        check_same(models)?;
        let scheduler = |(model, speed): &(Model, f64)| Ok((self.scheduler(model, speech.clone())?, *speed));
        let schedulers = models.iter().map(scheduler).collect::<Result<Vec<_>>>()?;
        // Where prompts are not shared it does not matter where they were.
        let affinity = self.affinity && self.sharing;
        let options = ServerOptions { replies: self.replies, balance: self.balance, affinity };
        Ok(serve::Server::over(schedulers, options)?)
    }

    /// A scheduler over a cache for a model.
    fn scheduler(&self, model: &Model, speech: Speech) -> Result<Scheduler> {
        let sequences = self.sequences.unwrap_or(Self::SEQUENCES);
        let cache = CacheOptions {
            bytes: self.cache_bytes,
            block_size: self.block_size,
            batch_tokens: self.batch_tokens,
            batch_sequences: sequences,
        };
        let executor = PagedExecutor::new(model.loaded().clone(), cache)?;
        let policy = Policy {
            preempt: self.swap_bytes.map_or(Preempt::Recompute, |host_bytes| Preempt::Swap { host_bytes }),
            chunk: self.chunk.unwrap_or(self.batch_tokens),
            queue: self.queue,
            running: sequences,
            sharing: self.sharing,
            draft: self.draft,
            ..Policy::default()
        };
        let scheduler = Scheduler::new(Box::new(executor), speech, policy)?;
        Ok(match &self.guesses {
            Guesses::Nobody => scheduler,
            Guesses::Lookup => scheduler.with_proposer(Box::new(PromptLookup::default())),
            Guesses::Draft(draft) => {
                // A size that was said is that of the large model's cache.
                let pages = PagedExecutor::new(draft.loaded().clone(), CacheOptions { bytes: None, ..cache })?;
                let vocab = scheduler.limits().vocab;
                scheduler.with_proposer(Box::new(DraftModel::new(Box::new(pages), vocab)?))
            }
        })
    }
}

/// Refuses models that do not say the same: a request may begin with one and end with another.
fn check_same(models: &[(Model, f64)]) -> Result<()> {
    let Some(((first, _), others)) = models.split_first() else { return Ok(()) };
    let facts = |model: &Model| (model.loaded().fingerprint(), model.kv_dtype());
    let Some((other, _)) = others.iter().find(|(other, _)| facts(other) != facts(first)) else { return Ok(()) };
    let dtypes = |model: &Model| format!("{} with keys and values in {}", model.compute_dtype(), model.kv_dtype());
    let (a, b) = (dtypes(first), dtypes(other));
    let found = match a == b {
        true => "another checkpoint or configuration".to_string(),
        false => format!("{a} on {}, {b} on {}", first.device().info().name, other.device().info().name),
    };
    let mend = "load the same checkpoint in the same dtypes onto every device";
    Err(qiao_core::Error::invalid("models of one server", found, mend).into())
}

/// What a server is asked: a prompt, and how to continue it.
///
/// ```
/// use qiao::{Params, Request};
///
/// let request = Request::new("床前明月光").params(Params::new().max_tokens(16)).samples(2).priority(1).tenant("a");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    prompt: Prompt,
    params: Params,
    samples: usize,
    priority: i32,
    tenant: String,
    speculate: bool,
}

impl Request {
    /// One continuation with the checkpoint's own parameters.
    pub fn new(prompt: impl Into<Prompt>) -> Request {
        Request {
            prompt: prompt.into(),
            params: Params::new(),
            samples: 1,
            priority: 0,
            tenant: String::new(),
            speculate: true,
        }
    }

    /// How to choose tokens, and when to end. A [`timeout`](Params::timeout) runs from the submission on.
    pub fn params(mut self, params: Params) -> Request {
        self.params = params;
        self
    }

    /// Parallel continuations. The prompt runs once for all; sample i has the seed of the first plus i.
    pub fn samples(mut self, samples: usize) -> Request {
        self.samples = samples;
        self
    }

    /// Higher runs first.
    pub fn priority(mut self, priority: i32) -> Request {
        self.priority = priority;
        self
    }

    /// Whose request it is. Tenants of one priority take turns, and none finds another's prompts in the cache.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Request {
        self.tenant = tenant.into();
        self
    }

    /// Whether tokens may be guessed ahead, where the server guesses; they may unless this is said. The text is the same.
    pub fn speculate(mut self, speculate: bool) -> Request {
        self.speculate = speculate;
        self
    }

    fn resolve(self, text: &TextModel) -> Result<serve::Request> {
        Ok(serve::Request {
            prompt: text.encode(&self.prompt)?,
            params: self.params.resolve(text.defaults()),
            samples: self.samples,
            priority: self.priority,
            tenant: self.tenant,
            speculate: self.speculate,
        })
    }
}

impl<P: Into<Prompt>> From<P> for Request {
    fn from(prompt: P) -> Request {
        Request::new(prompt)
    }
}

/// A model that answers many requests at once, on a thread of its own. What comes of a request does not depend on the others where the
/// device is [batch-invariant](qiao_core::Caps::batch_invariant), as the CPU is; elsewhere it may where two tokens are nearly as likely.
///
/// ```
/// use std::time::Duration;
/// use qiao::{Model, Params, Request, ServeOptions};
///
/// let server = Model::demo()?.serve(ServeOptions::new())?;
/// let params = Params::new().temperature(0.0).max_tokens(12);
/// let mut replies = Vec::new();
/// for prompt in ["床前明月光", "春眠不觉晓", "白日依山尽"] {
///     replies.push(server.submit(Request::new(prompt).params(params.clone()))?);
/// }
/// for reply in &mut replies {
///     for chunk in reply.blocking() {
///         let chunk = chunk?;
///         print!("{}", chunk.piece.text);
///         if let Some(end) = chunk.end {
///             println!("  ({} tokens)", end.usage.generated_tokens);
///         }
///     }
/// }
/// assert!(server.drain(Duration::from_secs(10)));
/// # Ok::<(), qiao::Error>(())
/// ```
///
/// Shared by reference or in an `Arc`. No call but those that say so waits; no async runtime is needed, and any will do.
pub struct Server {
    inner: serve::Server,
    text: Arc<TextModel>,
}

impl Model {
    /// Serves many requests at once.
    ///
    /// # Errors
    /// Options of 0; a cache that the device can't hold; a device that can't run batches over pages; a draft model of another vocabulary.
    pub fn serve(&self, options: ServeOptions) -> Result<Server> {
        Server::over([(self.clone(), 1.0)], options)
    }
}

impl Server {
    /// Serves one model that is on several devices, whole on each (or across some of them): every device has a share of the requests, by
    /// how fast it is said to be, in any unit. Where one is lost the others take over what it had; a reader sees nothing of it, and the
    /// text is what it would have been, where devices say the same.
    ///
    /// ```
    /// use qiao::{Model, ModelOptions, Request, ServeOptions, Server};
    ///
    /// let (first, second) = (Model::demo()?, ModelOptions::new().device("cpu").demo()?);
    /// let server = Server::over([(first, 2.0), (second, 1.0)], ServeOptions::new())?;
    /// let mut reply = server.submit(Request::new("床前明月光"))?;
    /// assert!(reply.blocking().all(|chunk| chunk.is_ok()));
    /// assert_eq!(server.replicas().len(), 2);
    /// # Ok::<(), qiao::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::serve`]; no model, a speed that is not above 0, or models that are not the same checkpoint in the same dtypes and
    /// contexts.
    pub fn over(models: impl IntoIterator<Item = (Model, f64)>, options: ServeOptions) -> Result<Server> {
        let models: Vec<(Model, f64)> = models.into_iter().collect();
        let Some((first, _)) = models.first() else {
            return Err(qiao_core::Error::invalid("models of one server", "none", "give at least one").into());
        };
        let text = first.text().clone();
        let inner = options.start(&models, Speech::try_from(&*text)?)?;
        Ok(Server { inner, text })
    }

    /// Each device's share so far, in the order in which the models were given.
    pub fn replicas(&self) -> Vec<Replica> {
        self.inner.replicas()
    }

    /// Submits a request. What only the running server can find wrong with it, such as a prompt longer than the cache, is the first
    /// item of the reply.
    ///
    /// # Errors
    /// A full queue; a server that was drained; a prompt that can't be encoded, parameters outside their range.
    pub fn submit(&self, request: impl Into<Request>) -> Result<Reply> {
        Ok(Reply { inner: self.inner.submit(request.into().resolve(&self.text)?)? })
    }

    /// Submits a request as soon as there is room in the queue. Dropping the future before submits nothing.
    ///
    /// # Errors
    /// As [`Server::submit`], except for a full queue.
    pub async fn submit_async(&self, request: impl Into<Request>) -> Result<Reply> {
        let request = request.into().resolve(&self.text)?;
        Ok(Reply { inner: self.inner.submit_async(request).await? })
    }

    /// Submits a request; waits on this thread until there is room in the queue.
    ///
    /// # Errors
    /// As [`Server::submit`], except for a full queue.
    pub fn submit_waiting(&self, request: impl Into<Request>) -> Result<Reply> {
        let request = request.into().resolve(&self.text)?;
        Ok(Reply { inner: self.inner.submit_waiting(request)? })
    }

    /// What waits, runs and fills the caches, as it was after the last batches.
    pub fn load(&self) -> Load {
        self.inner.load()
    }

    /// The most blocks of the caches that were used at once, each by itself, since this was asked last.
    pub fn take_peak_blocks(&self) -> usize {
        self.inner.take_peak_blocks()
    }

    /// Takes no more requests and finishes those that were accepted; after the time-out the rest is cancelled. Says whether all could be
    /// finished. Waits on this thread.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.inner.drain(timeout)
    }

    /// As [`Server::drain`], for a task.
    pub async fn drain_async(&self, timeout: Duration) -> bool {
        self.inner.drain_async(timeout).await
    }
}

/// The answer to one request, as it comes: a [`Stream`] for any executor, or an iterator for a thread of its own. Dropping it cancels
/// the request.
pub struct Reply {
    inner: serve::Reply,
}

impl Reply {
    /// Ends the request; what came before can still be read.
    pub fn cancel(&self) {
        self.inner.cancel();
    }

    /// The same chunks for a thread that waits for them.
    pub fn blocking(&mut self) -> impl Iterator<Item = Result<Chunk>> + '_ {
        self.inner.blocking().map(|chunk| chunk.map_err(Error::from))
    }
}

impl Stream for Reply {
    type Item = Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Chunk>>> {
        Pin::new(&mut self.inner).poll_next(context).map_err(Error::from)
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::{StreamExt, future};

    use super::*;
    use crate::FinishReason;

    const PROMPTS: [&str; 4] = ["床前明月光", "春眠不觉晓", "白日依山尽", "床前"];

    fn alone(model: &Model, prompt: &str, params: &Params) -> String {
        model.generate(prompt, params).unwrap().collect_all().unwrap().text
    }

    /// The texts of all prompts, submitted together.
    fn served(server: &Server, params: &Params) -> Vec<String> {
        let submit = |prompt: &&str| server.submit(Request::new(*prompt).params(params.clone())).unwrap();
        let mut replies: Vec<Reply> = PROMPTS.iter().map(submit).collect();
        let text = |reply: &mut Reply| reply.blocking().map(|chunk| chunk.unwrap().piece.text).collect();
        replies.iter_mut().map(text).collect()
    }

    #[test]
    fn a_crowd_says_what_each_says_alone_guesses_or_not() {
        let model = Model::demo().unwrap();
        let options = ServeOptions::new;
        for options in [
            options(),
            options().block_size(16).batch_tokens(8).sequences(3).sharing(false),
            options().prompt_lookup(4),
            options().draft_model(&model, 3).swap(1 << 20),
        ] {
            let server = model.serve(options).unwrap();
            for params in [Params::new().temperature(0.0), Params::new().temperature(0.9).seed(5)] {
                let params = params.max_tokens(12);
                let expected: Vec<_> = PROMPTS.iter().map(|prompt| alone(&model, prompt, &params)).collect();
                assert_eq!(served(&server, &params), expected);
            }
            assert!(server.drain(Duration::from_secs(60)));
        }
    }

    #[test]
    fn a_reply_is_a_stream_for_any_executor() {
        let model = Model::demo().unwrap();
        let server = model.serve(ServeOptions::new()).unwrap();
        let params = Params::new().temperature(0.0).max_tokens(8).ignore_eos(true);
        future::block_on(async {
            let request = Request::new(PROMPTS[0]).params(params.clone()).samples(2).tenant("a").priority(3);
            let mut reply = server.submit_async(request).await.unwrap();
            let mut texts = [String::new(), String::new()];
            let mut ends = Vec::new();
            while let Some(chunk) = reply.next().await {
                let chunk = chunk.unwrap();
                texts[chunk.sample].push_str(&chunk.piece.text);
                ends.extend(chunk.end.map(|end| (end.reason, end.usage.generated_tokens)));
            }
            assert_eq!(texts[0], alone(&model, PROMPTS[0], &params));
            assert_eq!((texts[0] == texts[1], ends), (true, vec![(FinishReason::Length, 8); 2]));
            assert!(server.drain_async(Duration::from_secs(60)).await);
        });
        let error = server.submit(PROMPTS[0]).err().unwrap().to_string();
        assert!(error.contains("drained"), "{error}");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let model = Model::demo().unwrap();
        let options = ServeOptions::new;
        for options in [options().queue(0), options().replies(0), options().batch_tokens(0), options().cache_bytes(1)] {
            assert!(model.serve(options).is_err());
        }
        let server = model.serve(options()).unwrap();
        assert!(server.submit(Request::new("").params(Params::new().temperature(-1.0))).is_err());
    }
}
