//! Several schedulers behind one server: each has its share, and what one loses the others take over without a word lost or said twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use qiao_core::Error;
use qiao_engine::EngineError;
use qiao_engine::error::Result;
use qiao_engine::generation::SamplingParams;
use qiao_engine::serve::{
    Balance, Entry, Executor, FinishReason, HostBlocks, Limits, Policy, Reply, Request, Scheduler, Server,
    ServerOptions, Speech,
};

const VOCAB: usize = 64;
const LONG: Duration = Duration::from_secs(60);

/// How a device ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Device,
    Panic,
}

/// A door that a device waits at before each batch.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let _open = self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap();
    }
}

/// A device whose next token follows from the last token and its position, and which ends before a batch of its own number.
struct Toy {
    door: Door,
    blocks: usize,
    batches: usize,
    ends: Option<(usize, Loss)>,
    logits: Vec<f32>,
}

fn following(last: u32, position: usize) -> u32 {
    (last * 7 + position as u32 * 3 + 1) % VOCAB as u32
}

fn expected(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    while all.len() < prompt.len() + tokens {
        all.push(following(all[all.len() - 1], all.len() - 1));
    }
    all.split_off(prompt.len())
}

impl Executor for Toy {
    fn limits(&self) -> Limits {
        Limits {
            vocab: VOCAB,
            block_size: 4,
            blocks: self.blocks,
            block_bytes: 4,
            context: 512,
            window: None,
            batch_tokens: 64,
            batch_sequences: 16,
        }
    }

    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
        self.door.pass();
        match self.ends {
            Some((at, Loss::Panic)) if at == self.batches => panic!("the toy fell apart"),
            Some((at, Loss::Device)) if at <= self.batches => {
                return Err(Error::DeviceLost { device: "toy".into(), why: "no power".into() }.into());
            }
            _ => self.batches += 1,
        }
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
        Ok(())
    }
}

fn toy(ends: Option<(usize, Loss)>) -> Toy {
    let door = Door::default();
    door.open();
    Toy { door, blocks: 512, batches: 0, ends, logits: Vec::new() }
}

fn policy() -> Policy {
    Policy { running: 4, queue: 64, retries: 0, ..Policy::default() }
}

fn scheduler(toy: Toy, policy: Policy) -> Scheduler {
    Scheduler::new(Box::new(toy), Speech::none(), policy).unwrap()
}

fn server(toys: impl IntoIterator<Item = Toy>) -> Server {
    let schedulers = toys.into_iter().map(|toy| (scheduler(toy, policy()), 1.0)).collect();
    Server::over(schedulers, ServerOptions::default()).unwrap()
}

fn request(number: u32, tokens: usize) -> Request {
    let prompt = (0..3 + number % 5).map(|i| (number * 11 + i * 5) % VOCAB as u32).collect();
    Request::new(prompt, SamplingParams { max_tokens: tokens, temperature: 0.0, ..Default::default() })
}

/// All tokens of each sample, and why the last one ended.
fn read(reply: &mut Reply, samples: usize) -> Result<(Vec<Vec<u32>>, Option<FinishReason>)> {
    let (mut all, mut reason) = (vec![Vec::new(); samples], None);
    for chunk in reply.blocking() {
        let chunk = chunk?;
        all[chunk.sample].extend(chunk.piece.token_ids);
        reason = chunk.end.map(|end| end.reason).or(reason);
    }
    Ok((all, reason))
}

/// Nothing is held by anybody, sooner or later.
fn settled(server: &Server) {
    let start = Instant::now();
    loop {
        let load = server.load();
        if (load.cache.used, load.cache.sequences, load.queued, load.running, load.preempted) == (0, 0, 0, 0, 0) {
            return;
        }
        assert!(start.elapsed() < LONG, "{load:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn whatever_moment_a_device_is_lost_at_every_text_is_whole_and_said_once() {
    for loss in [Loss::Device, Loss::Panic] {
        for at in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
            let server = server([toy(Some((at, loss))), toy(None)]);
            let mut replies: Vec<_> = (0..24)
                .map(|number| {
                    let samples = 1 + number as usize % 3 / 2;
                    let request = Request { samples, ..request(number, 2 + number as usize % 13) };
                    (request.clone(), server.submit(request).unwrap())
                })
                .collect();
            for (request, reply) in &mut replies {
                let want = expected(&request.prompt, request.params.max_tokens);
                let (said, reason) = read(reply, request.samples).unwrap();
                assert_eq!(said, vec![want; request.samples], "{loss:?} at {at}");
                assert_eq!(reason, Some(FinishReason::Length));
            }
            settled(&server);
            let replicas = server.replicas();
            assert_eq!(replicas.iter().map(|r| r.requests).sum::<u64>(), 24, "each is given out once");
            if replicas[0].ended.is_some() {
                let why = replicas[0].ended.as_ref().unwrap();
                assert!(why.contains("no power") || why.contains("fell apart"), "{why}");
            }
            assert!(at > 3 || replicas[1].taken_over > 0, "{loss:?} at {at}: {replicas:?}");
            assert!(server.drain(LONG));
        }
    }
}

#[test]
fn what_a_lost_device_had_not_begun_with_is_taken_over_and_not_given_out_again() {
    for loss in [Loss::Device, Loss::Panic] {
        let door = Door::default();
        let server = server([toy(Some((0, loss))), toy(None)].map(|toy| Toy { door: door.clone(), ..toy }));
        let mut replies: Vec<_> = (0..24).map(|n| server.submit(request(n, 5)).unwrap()).collect();
        door.open();
        for (n, reply) in replies.iter_mut().enumerate() {
            assert_eq!(read(reply, 1).unwrap().0[0], expected(&request(n as u32, 5).prompt, 5));
        }
        let counts: Vec<_> = server.replicas().iter().map(|r| (r.requests, r.taken_over)).collect();
        assert_eq!(counts, [(12, 0), (12, 12)]);
        settled(&server);
    }
}

#[test]
fn devices_may_go_one_after_the_other_until_one_is_left() {
    let server =
        server([toy(Some((2, Loss::Device))), toy(Some((9, Loss::Device))), toy(None), toy(Some((4, Loss::Panic)))]);
    let mut replies: Vec<_> = (0..40).map(|n| (request(n, 20), server.submit(request(n, 20)).unwrap())).collect();
    for (request, reply) in &mut replies {
        assert_eq!(read(reply, 1).unwrap().0[0], expected(&request.prompt, 20));
    }
    settled(&server);
    assert!(server.drain(LONG));
    let error = server.submit(request(1, 2)).err().unwrap();
    assert!(matches!(error, EngineError::ServerEnded { .. }), "{error}");
}

#[test]
fn where_none_is_left_every_reply_ends_with_the_error_of_the_device() {
    let door = Door::default();
    let server = server([3, 3].map(|at| Toy { door: door.clone(), ..toy(Some((at, Loss::Device))) }));
    let mut replies: Vec<_> = (0..12).map(|n| server.submit(request(n, 50)).unwrap()).collect();
    door.open();
    for reply in &mut replies {
        let error = read(reply, 1).err().unwrap();
        assert!(matches!(error, EngineError::Device(Error::DeviceLost { .. })), "{error}");
    }
    settled(&server);
    let error = server.submit(request(1, 2)).err().unwrap().to_string();
    assert!(error.contains("no power"), "{error}");
    assert!(!server.drain(LONG), "there was nobody to drain");
}

#[test]
fn a_request_that_two_threads_panicked_of_goes_no_further() {
    let door = Door::default();
    let toys = [(0, Loss::Panic), (0, Loss::Panic)].map(|ends| Toy { door: door.clone(), ..toy(Some(ends)) });
    let server = server(toys.into_iter().chain([toy(None)]));
    // The third has nothing to do with it before the others are gone.
    let mut replies: Vec<_> = (0..3).map(|n| server.submit(request(n, 6)).unwrap()).collect();
    door.open();
    let ends: Vec<_> = replies.iter_mut().map(|reply| read(reply, 1)).collect();
    let whole = ends.iter().filter(|end| end.is_ok()).count();
    assert!(whole >= 1, "{ends:?}");
    for end in ends.iter().filter_map(|end| end.as_ref().err()) {
        assert!(end.to_string().contains("fell apart"), "{end}");
    }
    settled(&server);
}

#[test]
fn what_a_reader_says_while_its_request_moves_is_heard() {
    for at in 0..6 {
        let server = server([toy(Some((at, Loss::Device))), toy(None)]);
        let mut replies: Vec<_> = (0..16).map(|n| server.submit(request(n, 400)).unwrap()).collect();
        for reply in &replies[..8] {
            reply.cancel();
        }
        replies.drain(8..12).for_each(drop);
        for (i, reply) in replies.iter_mut().enumerate() {
            let (said, reason) = read(reply, 1).unwrap();
            let number = if i < 8 { i as u32 } else { i as u32 + 4 };
            let whole = expected(&request(number, 400).prompt, 400);
            assert!(whole.starts_with(&said[0]));
            assert_eq!(reason == Some(FinishReason::Cancelled), i < 8 && said[0].len() < 400, "{i} of {at}");
            assert!(i < 8 || said[0] == whole);
        }
        settled(&server);
    }
}

#[test]
fn a_slow_reader_s_request_moves_too() {
    let schedulers =
        vec![(scheduler(toy(Some((12, Loss::Device))), policy()), 1.0), (scheduler(toy(None), policy()), 1.0)];
    let options = ServerOptions { replies: 2, ..ServerOptions::default() };
    let server = Server::over(schedulers, options).unwrap();
    let mut replies: Vec<_> = (0..6).map(|n| server.submit(request(n, 30)).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(30));
    for (n, reply) in replies.iter_mut().enumerate() {
        assert_eq!(read(reply, 1).unwrap().0[0], expected(&request(n as u32, 30).prompt, 30));
    }
    settled(&server);
}

#[test]
fn a_drain_finishes_what_moves_meanwhile() {
    for at in [1, 4, 9] {
        let server = server([toy(Some((at, Loss::Device))), toy(None)]);
        let mut replies: Vec<_> = (0..10).map(|n| server.submit(request(n, 25)).unwrap()).collect();
        assert!(server.drain(LONG));
        for (n, reply) in replies.iter_mut().enumerate() {
            assert_eq!(read(reply, 1).unwrap().0[0], expected(&request(n as u32, 25).prompt, 25), "{at}");
        }
        assert!(server.submit(request(1, 1)).err().unwrap().to_string().contains("ended"));
    }
}

/// Requests that each of some closed devices got of so many.
fn shares(speeds: &[f64], options: ServerOptions, requests: impl IntoIterator<Item = Request>) -> Vec<u64> {
    let door = Door::default();
    let closed = |&speed: &f64| (scheduler(Toy { door: door.clone(), ..toy(None) }, policy()), speed);
    let server = Server::over(speeds.iter().map(closed).collect(), options).unwrap();
    let mut replies: Vec<_> = requests.into_iter().map(|request| server.submit(request).unwrap()).collect();
    door.open();
    replies.iter_mut().for_each(|reply| drop(read(reply, 1).unwrap()));
    server.replicas().iter().map(|replica| replica.requests).collect()
}

#[test]
fn shares_follow_the_speeds_or_the_turns() {
    let requests = || (0..40).map(|n| request(n, 3));
    let least = ServerOptions::default();
    assert_eq!(shares(&[3.0, 1.0], least, requests()), [30, 10]);
    assert_eq!(shares(&[1.0, 1.0, 2.0], least, requests()), [10, 10, 20]);
    let turns = ServerOptions { balance: Balance::RoundRobin, ..least };
    assert_eq!(shares(&[3.0, 1.0], turns, requests()), [20, 20]);
}

#[test]
fn a_known_beginning_goes_where_it_was_unless_there_is_much_more_to_do() {
    let long = |n: u32| Request { prompt: (0..40).chain([n]).map(|i| i % VOCAB as u32).collect(), ..request(n, 3) };
    let with = ServerOptions::default();
    let without = ServerOptions { affinity: false, ..with };
    assert_eq!(shares(&[1.0, 1.0], with, (0..4).map(long)), [4, 0]);
    assert_eq!(shares(&[1.0, 1.0], without, (0..4).map(long)), [2, 2]);
    let many = shares(&[1.0, 1.0], with, (0..40).map(long));
    assert_eq!(many.iter().sum::<u64>(), 40);
    assert!(many.iter().all(|&share| share >= 15), "the other helps out: {many:?}");
    let tenants = (0..4).map(|n| Request { tenant: n.to_string(), ..long(n) });
    assert_eq!(shares(&[1.0, 1.0], with, tenants), [2, 2], "nobody finds another's beginning");
}

#[test]
fn a_request_goes_where_it_fits_and_a_full_queue_passes_it_on() {
    let door = Door::default();
    let small = Toy { blocks: 4, door: door.clone(), ..toy(None) };
    let large = Toy { door: door.clone(), ..toy(None) };
    let policy = Policy { queue: 2, ..policy() };
    let server =
        Server::over(vec![(scheduler(small, policy), 100.0), (scheduler(large, policy), 1.0)], Default::default());
    let server = server.unwrap();
    // 30 tokens are 8 blocks, and the small one has 3.
    let mut replies: Vec<_> = (0..2).map(|n| server.submit(request(n, 30)).unwrap()).collect();
    assert_eq!(server.replicas().iter().map(|r| r.requests).collect::<Vec<_>>(), [0, 2]);
    let mut short: Vec<Reply> = Vec::new();
    let full = std::iter::from_fn(|| match server.submit(request(short.len() as u32, 2)) {
        Ok(reply) => {
            short.push(reply);
            Some(None)
        }
        Err(error) => Some(Some(error)),
    });
    let error = full.flatten().next().unwrap();
    assert!(matches!(error, EngineError::QueueFull { most: 4 }), "{error}");
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| read(&mut server.submit_waiting(request(9, 5)).unwrap(), 1));
        std::thread::sleep(Duration::from_millis(10));
        door.open();
        waits.join().unwrap()
    });
    assert_eq!(waits.unwrap().0[0], expected(&request(9, 5).prompt, 5));
    for reply in replies.iter_mut().chain(&mut short) {
        read(reply, 1).unwrap();
    }
    settled(&server);
}

#[test]
fn devices_that_can_not_share_requests_are_refused() {
    struct Other(Toy);
    impl Executor for Other {
        fn limits(&self) -> Limits {
            Limits { context: 256, ..self.0.limits() }
        }
        fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]> {
            self.0.run(entries)
        }
        fn copy(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
            self.0.copy(pairs)
        }
        fn save(&mut self, blocks: &[u32]) -> Result<HostBlocks> {
            self.0.save(blocks)
        }
        fn restore(&mut self, saved: &HostBlocks, first: usize, blocks: &[u32]) -> Result<()> {
            self.0.restore(saved, first, blocks)
        }
        fn recover(&mut self) -> Result<()> {
            self.0.recover()
        }
    }
    let refused = |schedulers| Server::over(schedulers, ServerOptions::default()).err().unwrap().to_string();
    let one = || scheduler(toy(None), policy());
    assert!(refused(vec![]).contains("at least one"));
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(refused(vec![(one(), 1.0), (one(), speed)]).contains("speed of a device"));
    }
    let other = Scheduler::new(Box::new(Other(toy(None))), Speech::none(), policy()).unwrap();
    assert!(refused(vec![(one(), 1.0), (other, 1.0)]).contains("contexts of 512 and 256"));
}

#[test]
fn dropping_a_server_of_several_ends_them_all() {
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    let server = server([toy(None), toy(None)]);
    let mut replies: Vec<_> = (0..8).map(|n| server.submit(request(n, 500)).unwrap()).collect();
    let dropped = std::thread::spawn(move || {
        drop(server);
        told.store(true, Ordering::SeqCst);
    });
    for reply in &mut replies {
        // Whole, cancelled, or cut off by the end of the server: but over.
        drop(read(reply, 1));
    }
    dropped.join().unwrap();
    assert!(ended.load(Ordering::SeqCst));
}
