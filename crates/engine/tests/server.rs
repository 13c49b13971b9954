//! A server keeps its word to every caller: whoever reads slowly, goes away or comes too late, and whatever becomes of the device.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_lite::{StreamExt, future};
use qiao_engine::EngineError;
use qiao_engine::error::Result;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{
    Entry, Executor, FinishReason, HostBlocks, Limits, Policy, Reply, Request, Scheduler, Server, ServerOptions, Speech,
};

const VOCAB: usize = 64;
const LONG: Duration = Duration::from_secs(60);

/// What a batch is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Run,
    Panic,
    /// The device is lost.
    Lose,
}

/// A device whose next token follows from the last token and its position. Where it has a gate, every batch waits for a word.
struct Toy {
    gate: Option<Mutex<Receiver<Fate>>>,
    batches: Arc<AtomicUsize>,
    logits: Vec<f32>,
    lost: bool,
}

fn following(last: u32, position: usize) -> u32 {
    (last * 7 + position as u32 * 3 + 1) % VOCAB as u32
}

impl Executor for Toy {
    fn limits(&self) -> Limits {
        Limits {
            vocab: VOCAB,
            block_size: 4,
            blocks: 4096,
            block_bytes: 4,
            context: 4096,
            window: None,
            batch_tokens: 256,
            batch_sequences: 64,
        }
    }

    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
        let fate = match &self.gate {
            // A gate that is gone stands open.
            Some(gate) => gate.lock().unwrap().recv().unwrap_or(Fate::Run),
            None => Fate::Run,
        };
        match fate {
            Fate::Run => {}
            Fate::Panic => panic!("the toy fell apart"),
            Fate::Lose => {
                self.lost = true;
                return Err(qiao_core::Error::invalid("toy", "no power", "plug it in").into());
            }
        }
        self.batches.fetch_add(1, Ordering::SeqCst);
        self.logits.clear();
        for entry in entries {
            for at in entry.ids.len() - entry.rows..entry.ids.len() {
                let next = following(entry.ids[at], entry.start + at) as usize;
                self.logits.extend((0..VOCAB).map(|id| if id == next { 1.0 } else { 0.0 }));
            }
        }
        Ok(&self.logits)
    }

    fn copy(&mut self, _: &[(u32, u32)]) -> Result<()> {
        Ok(())
    }

    fn save(&mut self, blocks: &[u32]) -> Result<HostBlocks> {
        Ok(HostBlocks { bytes: vec![0; 4 * blocks.len()] })
    }

    fn restore(&mut self, _: &HostBlocks, _: usize, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn recover(&mut self) -> Result<()> {
        match self.lost {
            true => Err(qiao_core::Error::invalid("toy", "it stays without power", "buy another").into()),
            false => Ok(()),
        }
    }
}

/// A server whose batches run freely.
fn free(policy: Policy, replies: usize) -> (Server, Arc<AtomicUsize>) {
    serve(None, policy, replies)
}

/// A server whose batches run one by one, as they are told.
fn gated(policy: Policy, replies: usize) -> (Server, Sender<Fate>, Arc<AtomicUsize>) {
    let (word, gate) = channel();
    let (server, batches) = serve(Some(Mutex::new(gate)), policy, replies);
    (server, word, batches)
}

fn serve(gate: Option<Mutex<Receiver<Fate>>>, policy: Policy, replies: usize) -> (Server, Arc<AtomicUsize>) {
    let batches = Arc::new(AtomicUsize::new(0));
    let toy = Toy { gate, batches: batches.clone(), logits: Vec::new(), lost: false };
    let scheduler = Scheduler::new(Box::new(toy), Speech::none(), policy).unwrap();
    (Server::start(scheduler, ServerOptions { replies, ..ServerOptions::default() }).unwrap(), batches)
}

fn request(prompt: &[u32], tokens: usize) -> Request {
    Request::new(prompt.to_vec(), SamplingParams { max_tokens: tokens, ..SamplingParams::default() })
}

/// What the toy says after a prompt.
fn expected(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..tokens {
        all.push(following(all[all.len() - 1], all.len() - 1));
    }
    all.split_off(prompt.len())
}

/// All tokens of a reply of one sample, and how it ended.
fn read(reply: &mut Reply) -> Result<(Vec<u32>, FinishReason)> {
    let (mut ids, mut end) = (Vec::new(), None);
    for chunk in reply.blocking() {
        let chunk = chunk?;
        ids.extend(chunk.piece.token_ids);
        end = chunk.end.map(|end| end.reason).or(end);
    }
    Ok((ids, end.expect("the last chunk has an end")))
}

/// Waits until something holds, and fails when it does not within a minute.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_reply_is_a_stream_and_an_iterator_of_the_same_tokens() {
    let (server, _) = free(Policy::default(), 4);
    let prompt = [3, 1, 4, 1, 5];
    let (ids, end) = read(&mut server.submit(request(&prompt, 50)).unwrap()).unwrap();
    assert_eq!((ids, end), (expected(&prompt, 50), FinishReason::Length));
    future::block_on(async {
        let mut reply = server.submit_async(request(&prompt, 50)).await.unwrap();
        let (mut ids, mut usage) = (Vec::new(), None);
        while let Some(chunk) = reply.next().await {
            let chunk = chunk.unwrap();
            ids.extend(chunk.piece.token_ids);
            usage = chunk.end.map(|end| end.usage);
        }
        let usage = usage.unwrap();
        assert_eq!(ids, expected(&prompt, 50));
        assert_eq!((usage.prompt_tokens, usage.generated_tokens, usage.cached_tokens), (5, 50, 4));
        assert!(reply.next().await.is_none(), "a stream that has ended stays so");
    });
}

#[test]
fn parallel_samples_come_in_one_reply() {
    let (server, _) = free(Policy::default(), 4);
    let mut reply = server.submit(Request { samples: 3, ..request(&[7, 8], 20) }).unwrap();
    let mut samples = vec![Vec::new(); 3];
    let mut ends = 0;
    for chunk in reply.blocking() {
        let chunk = chunk.unwrap();
        samples[chunk.sample].extend(chunk.piece.token_ids);
        ends += usize::from(chunk.end.is_some());
    }
    assert_eq!((samples, ends), (vec![expected(&[7, 8], 20); 3], 3));
}

#[test]
fn thousands_of_short_requests_from_many_threads_are_all_answered() {
    let (server, _) = free(Policy { queue: 16, ..Policy::default() }, 2);
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..500u32 {
                    let prompt = [thread, n % VOCAB as u32, n / VOCAB as u32];
                    let tokens = 1 + (n % 5) as usize;
                    let mut reply = match thread % 2 {
                        0 => server.submit_waiting(request(&prompt, tokens)).unwrap(),
                        _ => future::block_on(server.submit_async(request(&prompt, tokens))).unwrap(),
                    };
                    assert_eq!(read(&mut reply).unwrap().0, expected(&prompt, tokens));
                }
            });
        }
    });
    assert!(server.drain(LONG));
    let load = server.load();
    assert_eq!((load.queued, load.running, load.cache.used), (0, 0, 0));
}

#[test]
fn dropping_a_reply_cancels_its_request_and_no_other() {
    let (server, word, _) = gated(Policy::default(), 64);
    let gone = server.submit(request(&[1, 2], 1000)).unwrap();
    let mut kept = server.submit(request(&[3, 4], 5)).unwrap();
    word.send(Fate::Run).unwrap();
    drop(gone);
    drop(word);
    assert_eq!(read(&mut kept).unwrap().0, expected(&[3, 4], 5));
    until("the end of the cancelled request", || server.load().running == 0 && server.load().cache.used == 0);
    assert!(server.load().batches < 100);
}

#[test]
fn a_cancelled_reply_ends_with_what_came_before() {
    let (server, word, batches) = gated(Policy::default(), 64);
    let mut reply = server.submit(request(&[9], 1000)).unwrap();
    (0..3).for_each(|_| word.send(Fate::Run).unwrap());
    until("three batches", || batches.load(Ordering::SeqCst) == 3);
    reply.cancel();
    word.send(Fate::Run).unwrap();
    let (ids, end) = read(&mut reply).unwrap();
    assert_eq!(end, FinishReason::Cancelled);
    assert!((3..=4).contains(&ids.len()) && expected(&[9], 4).starts_with(&ids), "{ids:?}");
}

#[test]
fn a_slow_reader_pauses_its_own_request_and_goes_on_when_it_reads() {
    let (server, batches) = free(Policy::default(), 4);
    let mut slow = server.submit(request(&[5, 6], 300)).unwrap();
    let first = slow.blocking().next().unwrap().unwrap();
    // Four are in its buffer, and one found no room.
    until("the pause", || batches.load(Ordering::SeqCst) >= 5);
    std::thread::sleep(Duration::from_millis(50));
    assert!(batches.load(Ordering::SeqCst) <= 6, "{}", batches.load(Ordering::SeqCst));
    for n in 0..20 {
        assert_eq!(read(&mut server.submit(request(&[n], 10)).unwrap()).unwrap().0, expected(&[n], 10));
    }
    let (rest, end) = read(&mut slow).unwrap();
    assert_eq!(([first.piece.token_ids, rest].concat(), end), (expected(&[5, 6], 300), FinishReason::Length));
}

#[test]
fn a_full_queue_refuses_and_lets_others_wait() {
    let (server, word, _) = gated(Policy { queue: 2, running: 1, ..Policy::default() }, 64);
    let mut first = server.submit(request(&[1], 3)).unwrap();
    word.send(Fate::Run).unwrap();
    // The first has left the queue when its token is there.
    assert_eq!(first.blocking().next().unwrap().unwrap().piece.token_ids, expected(&[1], 1));
    let mut second = server.submit(request(&[2], 3)).unwrap();
    let mut third = server.submit(request(&[3], 3)).unwrap();
    assert!(matches!(server.submit(request(&[4], 3)), Err(EngineError::QueueFull { most: 2 })));
    let given_up =
        future::block_on(future::or(async { Some(server.submit_async(request(&[4], 3)).await) }, async { None }));
    assert!(given_up.is_none(), "there is no room for it yet");
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| read(&mut future::block_on(server.submit_async(request(&[4], 3))).unwrap()).unwrap().0);
        let blocked = scope.spawn(|| read(&mut server.submit_waiting(request(&[5], 3)).unwrap()).unwrap().0);
        drop(word);
        assert_eq!(waiting.join().unwrap(), expected(&[4], 3));
        assert_eq!(blocked.join().unwrap(), expected(&[5], 3));
    });
    assert_eq!(read(&mut second).unwrap().0, expected(&[2], 3));
    assert_eq!(read(&mut third).unwrap().0, expected(&[3], 3));
}

#[test]
fn a_drain_finishes_what_was_accepted_and_refuses_what_comes() {
    let (server, word, _) = gated(Policy { running: 1, ..Policy::default() }, 64);
    let mut replies: Vec<Reply> = (0..5).map(|n| server.submit(request(&[n], 4)).unwrap()).collect();
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| server.drain(LONG));
        until("the closed door", || matches!(server.submit(request(&[9], 1)), Err(EngineError::ServerEnded { .. })));
        drop(word);
        assert!(drained.join().unwrap());
    });
    for (n, reply) in replies.iter_mut().enumerate() {
        assert_eq!(read(reply).unwrap().0, expected(&[n as u32], 4));
    }
    let refused = server.submit(request(&[9], 1)).err().unwrap().to_string();
    assert!(refused.contains("it was drained"), "{refused}");
    assert!(!server.drain(LONG), "there is nothing left to drain");
}

#[test]
fn a_drain_that_is_late_cancels_the_rest() {
    let (server, _) = free(Policy::default(), 4);
    // Nobody reads it, so it never ends by itself.
    let mut stuck = server.submit(request(&[1], 1000)).unwrap();
    let start = Instant::now();
    assert!(!future::block_on(server.drain_async(Duration::from_millis(50))));
    assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < LONG);
    let items: Vec<_> = stuck.blocking().collect();
    let (last, before) = items.split_last().unwrap();
    assert_eq!(before.len(), 4);
    assert!(matches!(last, Err(EngineError::ServerEnded { why }) if why.contains("drained")), "{last:?}");
}

#[test]
fn dropping_the_server_ends_every_reply() {
    let (server, word, batches) = gated(Policy::default(), 4000);
    let mut reply = server.submit(request(&[1], 4000)).unwrap();
    (0..2).for_each(|_| word.send(Fate::Run).unwrap());
    until("two batches", || batches.load(Ordering::SeqCst) == 2);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(server));
        // The batch that waits for a word runs to its end, and then there is nobody who listens.
        while word.send(Fate::Run).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let (ids, end) = read(&mut reply).unwrap();
    assert_eq!((&ids[..2], end), (&expected(&[1], 2)[..], FinishReason::Cancelled));
}

#[test]
fn a_panic_of_the_thread_reaches_every_reply_and_every_caller() {
    let (server, word, _) = gated(Policy { queue: 4, running: 1, ..Policy::default() }, 64);
    let mut replies: Vec<Reply> = (0..4).map(|n| server.submit(request(&[n], 4)).unwrap()).collect();
    std::thread::scope(|scope| {
        // Some of them may find room when the first request begins to run; none of them may hang.
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| server.submit_waiting(request(&[7], 1)).and_then(|mut reply| read(&mut reply))))
            .collect();
        word.send(Fate::Panic).unwrap();
        for caller in waiting {
            let error = caller.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("the toy fell apart"), "{error}");
        }
    });
    for reply in &mut replies {
        let error = read(reply).unwrap_err().to_string();
        assert!(error.contains("panicked") && error.contains("the toy fell apart"), "{error}");
        assert!(reply.blocking().next().is_none(), "an error is the last item");
    }
    assert!(server.submit(request(&[1], 1)).err().unwrap().to_string().contains("the toy fell apart"));
    assert!(!server.drain(LONG));
}

#[test]
fn a_lost_device_reaches_every_reply() {
    let (server, word, _) = gated(Policy { retries: 0, ..Policy::default() }, 64);
    let mut replies: Vec<Reply> = (0..3).map(|n| server.submit(request(&[n], 4)).unwrap()).collect();
    word.send(Fate::Lose).unwrap();
    for reply in &mut replies {
        let error = read(reply).unwrap_err().to_string();
        assert!(error.contains("power"), "{error}");
    }
    until(
        "the end of the thread",
        || matches!(server.submit(request(&[1], 1)), Err(EngineError::ServerEnded { why }) if why.contains("power")),
    );
}

#[test]
fn a_deadline_ends_a_request_that_runs_and_one_whose_reader_sleeps() {
    let (server, _) = free(Policy::default(), 4);
    let params =
        SamplingParams { max_tokens: 4000, timeout: Some(Duration::from_millis(30)), ..SamplingParams::default() };
    let mut reply = server.submit(Request::new(vec![1], params)).unwrap();
    // Its buffer is full long before; the server must wake up by itself.
    until("the end of the request", || server.load().cache.sequences == 0 && server.load().batches > 0);
    let items: Vec<_> = reply.blocking().collect();
    let (last, before) = items.split_last().unwrap();
    assert!(matches!(last, Err(EngineError::Device(qiao_core::Error::Timeout { .. }))), "{last:?}");
    assert!(before.iter().all(|chunk| chunk.is_ok()));
}

#[test]
fn a_late_request_is_told_the_time_that_it_was_given() {
    let (server, word, batches) = gated(Policy::default(), 64);
    let running = server.submit(request(&[1], 1000)).unwrap();
    word.send(Fate::Run).unwrap();
    until("the first batch", || batches.load(Ordering::SeqCst) == 1);
    let params = SamplingParams { timeout: Some(Duration::from_millis(50)), ..SamplingParams::default() };
    let mut late = server.submit(Request::new(vec![2], params)).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    // The thread sees it behind the batch that it is in.
    drop((word, running));
    let error = read(&mut late).unwrap_err().to_string();
    assert_eq!(error, "the request did not finish within 50 ms");
}

#[test]
fn what_is_wrong_with_a_request_is_said_at_once_or_in_its_reply() {
    let (server, _) = free(Policy::default(), 4);
    assert!(matches!(server.submit(request(&[], 1)), Err(EngineError::EmptyPrompt)));
    for (samples, found) in [(0, "found 0"), (65, "65, and 64 may run"), (usize::MAX, "and 64 may run side by side")] {
        let error = server.submit(Request { samples, ..request(&[1], 1) }).err().unwrap().to_string();
        assert!(error.contains("samples") && error.contains(found), "{error}");
    }
    let hot = SamplingParams { temperature: -1.0, ..SamplingParams::default() };
    assert!(server.submit(Request::new(vec![1], hot)).is_err());
    let refused = read(&mut server.submit(request(&[VOCAB as u32], 1)).unwrap()).unwrap_err();
    assert!(matches!(refused, EngineError::TokenOutOfRange { .. }), "{refused}");
    let long = read(&mut server.submit(request(&[1; 5000], 1)).unwrap()).unwrap_err();
    assert!(matches!(long, EngineError::PromptTooLong { .. }), "{long}");
    // Refused requests leave their places to others.
    for _ in 0..3 * Policy::default().queue {
        let mut reply = server.submit_waiting(request(&[VOCAB as u32], 1)).unwrap();
        assert!(read(&mut reply).is_err());
    }
}

#[test]
fn a_server_without_room_is_refused() {
    for (replies, queue, name) in [(0, 4, "replies"), (4, 0, "queue"), (4, usize::MAX, "queue")] {
        let toy = Toy { gate: None, batches: Arc::default(), logits: Vec::new(), lost: false };
        let policy = Policy { queue, ..Policy::default() };
        let scheduler = Scheduler::new(Box::new(toy), Speech::none(), policy).unwrap();
        let error =
            Server::start(scheduler, ServerOptions { replies, ..ServerOptions::default() }).err().unwrap().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

#[test]
fn a_reply_takes_no_memory_for_chunks_that_do_not_come() {
    let (server, _) = free(Policy::default(), usize::MAX);
    let mut replies: Vec<_> = (0..9).map(|n| server.submit(request(&[n], 40)).unwrap()).collect();
    for (n, reply) in replies.iter_mut().enumerate() {
        assert_eq!(read(reply).unwrap().0, expected(&[n as u32], 40));
    }
}
